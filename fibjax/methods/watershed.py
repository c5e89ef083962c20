"""Marker watershed (§5.6): flooding from conservative thresholds, the usual workflow.

The steps are those of Taillon et al. 2018 (Ultramicroscopy 184:24): denoise, correct
shading, mark voxels that are surely solid or surely pore, flood the gradient magnitude
from the markers, filter, remove small objects. Their parameters were not available:
every default is fibjax's choice. Slices are flooded one by one, which keeps memory low;
only the removal of small objects is three-dimensional. Bright pore-backs become solid.
"""
import numpy as np
from scipy import ndimage
from skimage import filters, restoration, segmentation

from fibjax.errors import InputError
from fibjax.inference.small_objects import remove_small
from fibjax.methods.classical_common import (
  check_not_negative,
  check_range,
  check_volume,
  check_window,
)
from fibjax.system.progress import say

_SQUARE = np.ones((3, 3), np.uint8)
_SOLID, _PORE = 2, 1
# Second difference along both axes: no response to constants, slopes, or curvature
# along one axis, so mainly to noise.
_NOISE_MASK = np.outer([1, -2, 1], [1, -2, 1])


def marker_watershed(volume_zyx: np.ndarray, *, denoise: float = 0.8,
                     patch_px: int = 5, search_px: int = 11,
                     shading_px: float = 0.0, pore_percentile: float = 20.0,
                     solid_percentile: float = 80.0, erosions: int = 1,
                     min_size_vox: int = 100) -> np.ndarray:
  """Segments by a watershed of the gradient from very dark and very bright markers.

  Workflow of Taillon et al. 2018 with fibjax's parameters. Percentiles refer to the
  whole denoised volume: with a porosity below pore_percentile, some solid is marked as
  pore.

  Args:
    volume_zyx: [z, y, x] grey values, solid brighter than pore.
    denoise: cut-off of the non-local means, in standard deviations of the noise; 0
      turns denoising off.
    patch_px: width of the patches compared, pixels.
    search_px: odd width of the square searched, pixels.
    shading_px: Gaussian of the slow brightness subtracted from each slice, pixels; 0
      for a volume whose gradients were removed already.
    pore_percentile: percentile up to which grey values are surely pore.
    solid_percentile: percentile from which grey values are surely solid.
    erosions: number of erosions of the markers by 3 x 3 pixels.
    min_size_vox: smallest object kept, voxels.

  Returns:
    [z, y, x] uint8, 1 solid and 0 pore.

  Raises:
    InputError: for a bad volume or parameter.
  """
  volume_zyx = check_volume(volume_zyx)
  _check_settings(denoise, patch_px, search_px, shading_px, erosions, min_size_vox)
  if not 0 <= pore_percentile < solid_percentile <= 100:
    raise InputError('pore_percentile, solid_percentile',
                     got=(pore_percentile, solid_percentile),
                     expected='0 <= pore < solid <= 100',
                     remedy='choose, for example, 20 and 80')
  clean_zyx = _denoised(volume_zyx, denoise, patch_px, search_px)
  if shading_px:
    clean_zyx -= ndimage.gaussian_filter(clean_zyx, (0, shading_px, shading_px),
                                         mode='nearest')
  low, high = np.percentile(clean_zyx, (pore_percentile, solid_percentile))
  labels_zyx = np.empty(volume_zyx.shape, np.uint8)
  unmarked = []
  for z, image_yx in enumerate(clean_zyx):
    markers_yx = (_SOLID * _eroded(image_yx >= high, erosions)
                  + _PORE * _eroded(image_yx <= low, erosions))
    if markers_yx.any():
      flooded_yx = segmentation.watershed(filters.sobel(image_yx), markers_yx)
      solid_yx = flooded_yx == _SOLID
    else:
      solid_yx = image_yx > (low + high) / 2
      unmarked.append(z)
    labels_zyx[z] = filters.rank.majority(solid_yx.astype(np.uint8), _SQUARE)
  if unmarked:
    say(f'marker watershed: no markers in slices {unmarked}; the midpoint of both '
        'thresholds is used there')
  return remove_small(labels_zyx, min_size_vox)


def _check_settings(denoise, patch_px, search_px, shading_px, erosions, min_size_vox):
  check_range('patch_px', patch_px, 1)
  check_window('search_px', search_px)
  check_not_negative(denoise=denoise, shading_px=shading_px, erosions=erosions,
                     min_size_vox=min_size_vox)


def _eroded(mask_yx, erosions):
  if not erosions:
    return mask_yx
  # border_value=1: markers are not eroded from the faces of the image.
  return ndimage.binary_erosion(mask_yx, _SQUARE, iterations=int(erosions),
                                border_value=1)


def _denoised(volume_zyx, denoise, patch_px, search_px):
  """Non-local means of each slice with a common noise level; always a new array."""
  noise = noise_sd(volume_zyx) if denoise else 0
  if not noise:
    return volume_zyx.copy()
  return np.stack([
      restoration.denoise_nl_means(
          image_yx, patch_size=patch_px, patch_distance=search_px // 2,
          h=denoise * noise, sigma=noise, fast_mode=True)
      for image_yx in volume_zyx])


def noise_sd(volume_zyx: np.ndarray) -> float:
  """Estimates the standard deviation of white noise.

  From second differences along y and x with the mask of Immerkaer 1996 (Comput. Vis.
  Image Underst. 64:300); the median replaces the mean of the paper, so that edges
  hardly count. Texture of one or two pixels counts as noise.

  Args:
    volume_zyx: [z, y, x] float.

  Returns:
    Mean over the slices, in grey values.
  """
  median_z = [np.median(np.abs(ndimage.convolve(image_yx, _NOISE_MASK, mode='reflect')))
              for image_yx in volume_zyx]
  # The mask multiplies the variance by 36, the sum of its squares; the median of
  # |N(0, 1)| is 0.6745.
  return float(np.mean(median_z)) / (0.6745 * 36 ** 0.5)
