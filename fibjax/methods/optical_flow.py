"""Shine-through as a signal: what moves from slice to slice lies below the surface.

After Moroni & Thiele 2020 (optical flow on FIB-SEM images of catalyst layers). Under
a view tilted by tilt_deg from the slice normal, towards larger rows, what is seen
through a pore moves by v = dz tan(tilt) / dy rows per slice, the exposed surface not
at all. The paper's details are not open to us; all of the following is our choice.

* Flow: TV-L1 of scikit-image between a slice and each of its two neighbours, on slices
  without their slow brightness, since pore-backs brighten as they come closer.
* Evidence of motion: the log-likelihood ratio of u = 0 against u = v, where u is the
  flow along rows, with a common spread, so that u = v / 2 decides. It counts as far as
  the flow is near one of the two, and the slices agree when displaced by v (squared
  local correlation); walls without texture say nothing. It counts for pores only: a
  pore's edge stands still as well, and a milled surface is a new one in each slice.
* Evidence of brightness: the log-likelihood ratio of two classes around Otsu's
  threshold, which is all that remains without motion. Dark is pore.
* The sum is smoothed by a Gaussian and cut at 0; small objects change phase.

It cannot work when viewed head-on, or when the slices were aligned on their pore-backs,
which takes the motion away.
"""
import math

import numpy as np
from scipy import ndimage
from skimage import registration, transform

from fibjax.errors import InputError
from fibjax.inference.small_objects import remove_small
from fibjax.methods.classical_common import (
  VoxelSize,
  check_range,
  check_volume,
  check_voxel_size,
  otsu_threshold,
  smooth_slices,
)

_SLOW_PX = 6.0     # brightness slower than this Gaussian is taken off before the flow
_FINE_PX = 1.0
_WINDOW_PX = 5.0   # Gaussian window of the local correlation
_SPREAD = 0.35     # standard deviation of u around 0 and v, as a share of v
_STRAY = 0.5       # distance from both at which a flow loses its say, share of v
_LIMIT = 4.0       # greatest log-likelihood ratio of brightness, and of one neighbour


def optical_flow(volume_zyx: np.ndarray, *,
                 voxel_size_zyx_nm: VoxelSize = (50.0, 10.0, 10.0),
                 tilt_deg: float = 35.0, shift_px: float | None = None,
                 attachment: float = 15.0, sigma_px: float = 2.0,
                 min_size_vox: int = 100, motion_weight: float = 1.0) -> np.ndarray:
  """Segments by motion between slices, and by brightness where nothing can move.

  Args:
    volume_zyx: [z, y, x] grey values, at least two slices, solid brighter than pore,
      aligned on the surface.
    voxel_size_zyx_nm: voxel size.
    tilt_deg: view from the slice normal, towards larger rows, 0 < tilt < 80.
    shift_px: rows per slice by which deep features move, e.g. from `estimate_shift`,
      negative for a view from the other side; None: from tilt and voxel size.
    attachment: of the flow to the data; smaller is smoother (skimage's TV-L1).
    sigma_px: Gaussian in each slice over the summed evidence, pixels.
    min_size_vox: smallest object kept, voxels.
    motion_weight: of the evidence from motion; 0 leaves brightness alone.

  Returns:
    [z, y, x] uint8, 1 solid and 0 pore.

  Raises:
    InputError: for a bad volume, voxel size or parameter, a single slice, or a view
      without motion.
  """
  volume_zyx = check_volume(volume_zyx, min_slices=2)
  check_range('attachment', attachment, 1e-6)
  check_range('min_size_vox', min_size_vox, 0)
  if shift_px is None:
    shift_px = expected_shift(voxel_size_zyx_nm, tilt_deg)
  if not abs(shift_px) >= 0.1 or not math.isfinite(shift_px):
    raise InputError('shift_px', got=shift_px, expected='at least 0.1 rows per slice',
                     remedy='nothing moves when viewed head-on; take another method')
  fine_zyx = smooth_slices(volume_zyx, _FINE_PX)
  bright = _brightness(fine_zyx)
  labels_zyx = np.empty(volume_zyx.shape, np.uint8)
  for z, image_yx in enumerate(fine_zyx):
    evidence_yx = bright(image_yx)
    for step in (-1, 1):
      if 0 <= z + step < len(volume_zyx):
        evidence_yx += motion_weight * _motion(
            volume_zyx[z], volume_zyx[z + step], step * shift_px, attachment)
    evidence_yx = ndimage.gaussian_filter(evidence_yx, sigma_px, mode='nearest')
    labels_zyx[z] = evidence_yx > 0
  return remove_small(labels_zyx, min_size_vox)


def expected_shift(voxel_size_zyx_nm: VoxelSize, tilt_deg: float) -> float:
  """Rows per slice by which subsurface features move: dz tan(tilt) / dy.

  Raises:
    InputError: for a bad voxel size or tilt.
  """
  check_voxel_size(voxel_size_zyx_nm)
  check_range('tilt_deg', tilt_deg, 0, 80)
  return (voxel_size_zyx_nm[0] * math.tan(math.radians(tilt_deg))
          / voxel_size_zyx_nm[1])


def estimate_shift(volume_zyx: np.ndarray, *, attachment: float = 15.0,
                   max_shift_px: float = 10.0) -> float:
  """Estimates how many rows deep features move per slice, from the data.

  The mode of the flow along rows over pixels darker than Otsu's threshold, weighted by
  how well the slices agree under the flow; it says nothing when pores are textureless.

  Args:
    volume_zyx: [z, y, x] grey values, at least two slices, aligned on the surface.
    attachment: of the flow to the data.
    max_shift_px: greatest shift considered, either sign, rows per slice.

  Returns:
    Rows per slice, positive towards larger rows.

  Raises:
    InputError: for a bad volume or parameter, or when no pore moves coherently.
  """
  volume_zyx = check_volume(volume_zyx, min_slices=2)
  check_range('max_shift_px', max_shift_px, 0.5)
  fine_zyx = smooth_slices(volume_zyx, _FINE_PX)
  threshold = otsu_threshold(fine_zyx)
  edges = np.linspace(-max_shift_px, max_shift_px, 20 * math.ceil(max_shift_px) + 1)
  weight = np.zeros(len(edges) - 1)
  for z in range(len(volume_zyx) - 1):
    pair = _detail(volume_zyx[z]), _detail(volume_zyx[z + 1])
    flow_2yx = slice_flow(*pair, attachment=attachment)
    agreement_yx = _agreement(*pair, flow_2yx)
    pore_yx = (fine_zyx[z] < threshold) & (fine_zyx[z + 1] < threshold)
    weight += np.histogram(flow_2yx[0][pore_yx], edges,
                           weights=agreement_yx[pore_yx])[0]
  if not weight.sum() > 0:
    raise InputError('volume_zyx', got='no coherent motion in dark pores',
                     expected='texture in pores', remedy='give tilt_deg instead')
  mode = int(np.argmax(ndimage.gaussian_filter1d(weight, 2.0)))
  return float((edges[mode] + edges[mode + 1]) / 2)


def _brightness(fine_zyx):
  """Log-likelihood ratio of solid: two classes, their means, a common variance."""
  threshold = otsu_threshold(fine_zyx)
  solid_zyx = fine_zyx > threshold
  groups = fine_zyx[solid_zyx], fine_zyx[~solid_zyx]
  high, low = (float(g.mean()) for g in groups)
  variance = sum(float(g.var()) * g.size for g in groups) / fine_zyx.size
  scale = (high - low) / max(variance, 1e-6 * (high - low) ** 2)

  def ratio(image_yx):
    return np.clip((image_yx - threshold) * scale, -_LIMIT, _LIMIT)

  return ratio


def slice_flow(reference_yx: np.ndarray, moving_yx: np.ndarray, *,
               attachment: float = 15.0) -> np.ndarray:
  """Dense TV-L1 flow between two slices (Zach et al. 2007, scikit-image's solver).

  Args:
    reference_yx: [y, x] grey values, in units of their own deviation or similar.
    moving_yx: [y, x] the other slice, on the same scale.
    attachment: to the data; smaller is smoother.

  Returns:
    [2, y, x] rows and columns: reference(x) looks like moving(x + flow).
  """
  return registration.optical_flow_tvl1(reference_yx, moving_yx, attachment=attachment)


def _motion(image_yx, other_yx, shift_px, attachment):
  """Log-likelihood ratio of standing still against moving, at most 0."""
  pair = _detail(image_yx), _detail(other_yx)
  rows_yx, columns_yx = slice_flow(*pair, attachment=attachment) / shift_px
  stray2_yx = (np.minimum(rows_yx, 0) ** 2 + np.maximum(rows_yx - 1, 0) ** 2
               + columns_yx ** 2)
  expected_2yx = np.zeros((2, *image_yx.shape), np.float32)
  expected_2yx[0] = shift_px
  weight_yx = np.exp(-stray2_yx / (2 * _STRAY ** 2)) * _agreement(*pair, expected_2yx)
  ratio_yx = (1 - 2 * rows_yx) / (2 * _SPREAD ** 2)
  return weight_yx * np.clip(ratio_yx, -_LIMIT, 0)


def _detail(image_yx):
  """A slice without noise of a pixel and without slow brightness, deviation 1."""
  detail_yx = (ndimage.gaussian_filter(image_yx, _FINE_PX, mode='nearest')
               - ndimage.gaussian_filter(image_yx, _SLOW_PX, mode='nearest'))
  return detail_yx / max(float(detail_yx.std()), np.finfo(np.float32).tiny)


def _agreement(reference_yx, moving_yx, flow_2yx):
  """Squared local correlation where it is positive, [y, x] in [0, 1]."""
  grid_2yx = np.indices(reference_yx.shape, np.float32)
  moved_yx = transform.warp(moving_yx, grid_2yx + flow_2yx, mode='edge')

  def window(values_yx):
    return ndimage.gaussian_filter(values_yx, _WINDOW_PX, mode='nearest')

  norm_yx = np.sqrt(window(reference_yx ** 2) * window(moved_yx ** 2))
  match_yx = window(reference_yx * moved_yx) / np.maximum(norm_yx, 1e-6)
  return np.clip(match_yx, 0, 1) ** 2
