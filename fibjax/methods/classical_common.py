"""Common parts of the classical methods: input checks and slice-wise operators.

Grey values are [z, y, x] float32 on any scale, solid brighter than pore, aligned and
without brightness gradients; labels are uint8, 1 solid and 0 pore. Brightness steps are
fractions of the contrast, P95 - P5 of the smoothed volume, so that no parameter depends
on the grey scale.
"""
import math

import numpy as np
from scipy import ndimage
from skimage import filters

from fibjax.errors import InputError, check_shape

VoxelSize = tuple[float, float, float]
BINS = 256


def check_volume(volume_zyx: np.ndarray, min_slices: int = 1) -> np.ndarray:
  """Checks a volume of grey values and converts it to float32.

  Args:
    volume_zyx: [z, y, x] grey values of any real dtype.
    min_slices: number of slices that the method needs.

  Returns:
    [z, y, x] float32; no copy of a float32 volume.

  Raises:
    InputError: for a wrong rank or dtype, too few slices, an empty volume, NaN or
      infinite values, or the same grey value in every voxel.
  """
  volume_zyx = np.asarray(volume_zyx)
  check_shape('volume_zyx', volume_zyx, (None, None, None))
  if volume_zyx.size == 0:
    raise InputError('volume_zyx', got=f'shape {volume_zyx.shape}',
                     expected='at least one voxel', remedy='check the region')
  if volume_zyx.dtype.kind not in 'uif':
    raise InputError('volume_zyx', got=f'dtype {volume_zyx.dtype}',
                     expected='grey values', remedy='convert them to float32')
  if len(volume_zyx) < min_slices:
    raise InputError('volume_zyx', got=f'{len(volume_zyx)} slices',
                     expected=f'at least {min_slices}',
                     remedy='this method compares neighbouring slices; give more')
  # A NaN anywhere makes min and max NaN: finite extremes mean finite values.
  low, high = float(volume_zyx.min()), float(volume_zyx.max())
  if not math.isfinite(low) or not math.isfinite(high):
    raise InputError('volume_zyx', got='NaN or infinite values',
                     expected='finite grey values', remedy='repair the stack')
  if low == high:
    raise InputError('volume_zyx', got=f'{low:g} in every voxel',
                     expected='an image with contrast', remedy='check the stack')
  return volume_zyx.astype(np.float32, copy=False)


def check_range(name: str, value: float, low: float, high: float = math.inf) -> None:
  """Raises InputError unless low <= value <= high and value is finite."""
  if not (low <= value <= high and math.isfinite(value)):
    limits = (f'from {low:g} to {high:g}' if math.isfinite(high)
              else f'at least {low:g}')
    raise InputError(name, got=value, expected=f'a number {limits}',
                     remedy='correct the parameter')


def check_not_negative(**values: float) -> None:
  """Raises InputError unless every value is finite and >= 0."""
  for name, value in values.items():
    check_range(name, value, 0)


def check_window(name: str, size_px: int) -> None:
  """Raises InputError unless size_px is a positive odd integer."""
  if size_px != int(size_px) or size_px < 1 or size_px % 2 == 0:
    raise InputError(name, got=size_px, expected='a positive odd number of pixels',
                     remedy='choose an odd width: a window is centred on its pixel')


def check_voxel_size(voxel_size_zyx_nm: VoxelSize) -> None:
  """Raises InputError unless there are three positive finite lengths."""
  sizes = tuple(voxel_size_zyx_nm)
  if len(sizes) != 3 or not all(s > 0 and math.isfinite(s) for s in sizes):
    raise InputError('voxel_size_zyx_nm', got=sizes, expected='three positive lengths',
                     remedy='give nm along z, y and x')


def smooth_slices(volume_zyx: np.ndarray, sigma_px: float) -> np.ndarray:
  """Smooths every slice with a Gaussian, repeating the edge pixels.

  Args:
    volume_zyx: [z, y, x] float32.
    sigma_px: standard deviation in pixels; 0 copies the volume.

  Returns:
    [z, y, x] float32, a new array.

  Raises:
    InputError: for a negative sigma_px.
  """
  check_range('sigma_px', sigma_px, 0)
  return ndimage.gaussian_filter(volume_zyx, (0, sigma_px, sigma_px), mode='nearest')


def otsu_threshold(values: np.ndarray, bins: int = BINS) -> float:
  """Otsu's threshold of a histogram over the full range; solid lies above it.

  Args:
    values: grey values of any shape.
    bins: bins of the histogram.
  """
  return float(filters.threshold_otsu(values, nbins=bins))


def contrast(smooth_zyx: np.ndarray) -> float:
  """Contrast P95 - P5 of the grey values, the unit of all brightness steps.

  Percentiles rather than the range, so that single bright or dark voxels do not count.

  Raises:
    InputError: when it is 0.
  """
  low, high = np.percentile(smooth_zyx, (5, 95))
  if high <= low:
    raise InputError('volume_zyx', got='the same 5th and 95th percentile',
                     expected='an image with contrast',
                     remedy='choose a region with both phases')
  return float(high - low)


def slice_noise(smooth_zyx: np.ndarray) -> float:
  """Robust standard deviation of the differences between neighbouring slices.

  From the median absolute deviation (MAD), so that real changes do not count as long as
  they affect a minority of the voxels. Where most of the volume changes from slice to
  slice, the changes are taken for noise.

  Args:
    smooth_zyx: [z, y, x] float, at least two slices.
  """
  change_zyx = np.diff(smooth_zyx, axis=0)
  # 1.4826 is the standard deviation of a normal distribution in units of its MAD.
  return 1.4826 * float(np.median(np.abs(change_zyx - np.median(change_zyx))))
