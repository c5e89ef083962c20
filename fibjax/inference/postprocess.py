"""Double Gaussian threshold of scores, and its tuning (§1.10).

Scores are P(solid), float32 in [0, 1], [y, x] or [z, y, x]; a segmentation is uint8,
0 pore and 1 solid. Smoothing is in the plane only. Pure functions on arrays; a tile
with `margin_px` voxels of context on each side (fewer where the volume ends) has
exactly the same result as the whole slice.
Source: Skarberg et al. 2021, post-processing: smooth, score > T, smooth, > T with the
same sigma and T. Small objects are removed after that (small_objects.py).
"""
import math
import os
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from fibjax.errors import InputError, unknown
from fibjax.metrics import confusion
from fibjax.metrics.labels import UNLABELLED

KERNELS = ('matlab', 'scipy4sigma')
SIGMA_MAX_PX = 6.0             # largest sigma that is tried
THRESHOLD_RANGE = (0.2, 0.6)   # thresholds that are tried for mIoU
_SIGMA_STEP_PX = 0.5
_THRESHOLD_STEP = 0.01
_REFINEMENTS = 3  # rounds after the coarse grid ...
_FACTOR = 4       # ... each this many times finer


class RegionScore(NamedTuple):
  """A labelled region and the scores in and around it.

  Attributes:
    score_yx: [y, x] float32 P(solid) of the region with a margin of
      `margin_px(sigma_max_px)` on each side, less where the volume ends.
    mask_yx: [y, x] uint8 labels of the region, 0 pore, 1 solid, 255 unlabelled.
    start_yx: where mask_yx starts in score_yx.
  """
  score_yx: np.ndarray
  mask_yx: np.ndarray
  start_yx: tuple[int, int] = (0, 0)


class Tuning(NamedTuple):
  """Best sigma and threshold, and every pair tried.

  Attributes:
    sigma_px: standard deviation of the Gaussian, in-plane voxels.
    threshold: solid where the smoothed score is greater.
    miou: pooled mIoU at the optimum.
    table: [tried, 3] float64 rows (sigma_px, threshold, miou), sorted.
  """
  sigma_px: float
  threshold: float
  miou: float
  table: np.ndarray


def _radius_px(sigma_px, kernel):
  if kernel not in KERNELS:
    raise unknown('kernel', kernel, KERNELS, 'use matlab, the published one')
  if not (math.isfinite(sigma_px) and sigma_px >= 0):
    raise InputError('sigma_px', got=sigma_px, expected='a number of at least 0',
                     remedy='0 switches the smoothing off')
  if kernel == 'matlab':  # MATLAB imgaussfilt: 2 ceil(2 sigma) + 1 taps
    return math.ceil(2 * sigma_px)
  return int(4 * sigma_px + 0.5)  # scipy.ndimage.gaussian_filter's default


def margin_px(sigma_px: float, kernel: str = 'matlab') -> int:
  """In-plane context that `double_threshold` needs on each side, voxels."""
  return 2 * _radius_px(sigma_px, kernel)


def smooth(score, sigma_px: float, kernel: str = 'matlab') -> np.ndarray:
  """Smooths in the plane with a truncated, renormalised Gaussian.

  Outside the array the outermost value is repeated (MATLAB 'replicate', scipy
  'nearest'). The two kernels differ in where the Gaussian is truncated.

  Args:
    score: [..., y, x] scores or 0/1.
    sigma_px: standard deviation in in-plane voxels; 0 returns a float32 copy.
    kernel: 'matlab' truncates at ceil(2 sigma), 'scipy4sigma' at round(4 sigma).

  Returns:
    float32, shape of score.

  Raises:
    InputError: for another kernel, a negative sigma, fewer than two axes, or a dtype
      other than bool and real numbers.
  """
  radius = _radius_px(sigma_px, kernel)
  score = np.asarray(score)
  if score.ndim < 2:
    raise InputError('score', got=f'{score.ndim} axes', expected='at least y and x',
                     remedy='pass a slice or a volume')
  if score.dtype.kind not in 'buif':
    raise InputError('score', got=f'dtype {score.dtype}', expected='real numbers',
                     remedy='pass scores P(solid)')
  score = score.astype(np.float32)
  if radius == 0:
    return score
  weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma_px) ** 2)
  weights /= weights.sum()
  for axis in (-2, -1):
    score = ndimage.correlate1d(score, weights, axis=axis, mode='nearest')
  return score


def double_threshold(score, sigma_px: float, threshold: float,
                     kernel: str = 'matlab') -> np.ndarray:
  """Segments scores: smooth, threshold, smooth, threshold (§1.10).

  Args:
    score: [..., y, x] P(solid), in [0, 1].
    sigma_px: standard deviation in in-plane voxels; 0 is a plain threshold.
    threshold: solid where the smoothed value is greater, in [0, 1).
    kernel: see `smooth`.

  Returns:
    uint8, shape of score, 0 pore and 1 solid.

  Raises:
    InputError: as `smooth`, for a threshold outside [0, 1), or a score of NaN or
      infinity.

  Example:
    >>> import fibjax, numpy
    >>> scores = numpy.full((3, 16, 16), 0.2, 'float32')
    >>> scores[:, :, 8:], scores[1, 4, 4] = 0.9, 1.0  # a single voxel of noise
    >>> labels = fibjax.double_threshold(scores, sigma_px=1.0, threshold=0.5)
    >>> labels[1, 4].tolist()
    [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1]
  """
  check_threshold(sigma_px, threshold, kernel)
  score = np.asarray(score)
  if score.dtype.kind == 'f' and not np.isfinite(score).all():
    raise InputError('score', got='NaN or infinity', expected='scores in [0, 1]',
                     remedy='check the input of the scores')
  first = smooth(score, sigma_px, kernel) > np.float32(threshold)
  return _second_pass(first, sigma_px, threshold, kernel)


def check_threshold(sigma_px: float, threshold: float, kernel: str) -> None:
  """Raises InputError unless `double_threshold` takes these parameters."""
  _radius_px(sigma_px, kernel)
  if not 0 <= threshold < 1:
    raise InputError('threshold', got=threshold, expected='a number in [0, 1)',
                     remedy='0.5 is the unbiased choice')


def _second_pass(first, sigma_px, threshold, kernel):
  if sigma_px == 0:
    return first.astype(np.uint8)
  return (smooth(first, sigma_px, kernel) > np.float32(threshold)).astype(np.uint8)


def tune(regions, *, kernel: str = 'matlab', sigma_max_px: float = SIGMA_MAX_PX,
         threshold_range: tuple[float, float] = THRESHOLD_RANGE,
         n_threads: int | None = None) -> Tuning:
  """Finds the sigma and threshold of highest mIoU, pooled over complete regions.

  A grid (sigma 0, 0.5 ... sigma_max, threshold in steps of 0.01) and three rounds
  around the best pair, each four times finer and within the same ranges. Ties go to the
  smallest sigma, then to the threshold nearest to 0.5. Removal of small objects is not
  part of the objective.

  Args:
    regions: RegionScore, one per labelled region.
    kernel: see `smooth`.
    sigma_max_px: largest sigma tried, in-plane voxels.
    threshold_range: lowest and highest threshold tried.
    n_threads: threads over regions; the result does not depend on it.

  Returns:
    Tuning.

  Raises:
    InputError: for no regions, no labelled voxel, or a mask outside its score.
  """
  regions = check_regions(regions)
  low, high = threshold_range
  sigmas = _grid(0, sigma_max_px, _SIGMA_STEP_PX)
  thresholds = _grid(low, high, _THRESHOLD_STEP)
  tried = {}
  sigma_step, threshold_step = _SIGMA_STEP_PX, _THRESHOLD_STEP
  with ThreadPoolExecutor(n_threads or os.cpu_count()) as pool:
    for _ in range(1 + _REFINEMENTS):
      for sigma in sigmas:
        fresh = [t for t in thresholds if (sigma, t) not in tried]
        if not fresh:
          continue
        counts = sum(pool.map(
            lambda r, s=sigma, f=fresh: threshold_counts(r, s, f, kernel), regions))
        tried.update({(sigma, t): confusion.summarise(c)['miou']
                      for t, c in zip(fresh, counts, strict=True)})
      if None in tried.values():
        raise InputError('regions', got='no labelled voxel', expected='labels 0 and 1',
                         remedy='check the masks and their label profile')
      best = max(tried, key=lambda p: (tried[p], -p[0], -abs(p[1] - 0.5), -p[1]))
      sigma_step, threshold_step = sigma_step / _FACTOR, threshold_step / _FACTOR
      sigmas = _around(best[0], sigma_step, 0, sigma_max_px)
      thresholds = _around(best[1], threshold_step, low, high)
  table = np.array([(*pair, miou) for pair, miou in sorted(tried.items())])
  return Tuning(best[0], best[1], tried[best], table)


def check_regions(regions) -> list[RegionScore]:
  """Raises InputError for no region, or a mask outside its score."""
  regions = [_check_region(i, r) for i, r in enumerate(regions)]
  if not regions:
    raise InputError('regions', got='none', expected='at least one validation region',
                     remedy='assign a region to the split that post-processing uses')
  return regions


def _check_region(index, region):
  region = RegionScore(*region)
  end = np.add(region.start_yx, region.mask_yx.shape)
  if min(region.start_yx) < 0 or (end > region.score_yx.shape).any():
    raise InputError(f'region {index}',
                     got=f'a mask at {region.start_yx} of shape '
                         f'{region.mask_yx.shape} in a score {region.score_yx.shape}',
                     expected='a mask inside its score',
                     remedy='cut the score with the margin of postprocess.margin_px')
  confusion.confusion(region.mask_yx, np.zeros_like(region.mask_yx))  # codes
  return region


def _grid(low, high, step):
  # Rounded so that a pair that recurs in a finer grid is the same key.
  n = int(math.floor((high - low) / step + 1e-9))
  return [round(low + i * step, 9) for i in range(n + 1)]


def _around(centre, step, low, high):
  values = {round(centre + i * step, 9) for i in range(-_FACTOR, _FACTOR + 1)}
  return sorted(v for v in values if low <= v <= high)


def threshold_counts(region: RegionScore, sigma_px: float, thresholds,
                     kernel: str) -> np.ndarray:
  """Counts one region at one sigma: int64 [threshold, label, prediction]."""
  (y, x), (h, w) = region.start_yx, region.mask_yx.shape
  pad = margin_px(sigma_px, kernel)
  top, left = max(y - pad, 0), max(x - pad, 0)
  tile = region.score_yx[top:y + h + pad, left:x + w + pad]
  inside = np.s_[y - top:y - top + h, x - left:x - left + w]
  valid, solid = region.mask_yx != UNLABELLED, region.mask_yx == 1
  n, n_solid = np.count_nonzero(valid), np.count_nonzero(solid)
  smoothed = smooth(tile, sigma_px, kernel)
  counts = np.empty((len(thresholds), 2, 2), np.int64)
  for i, threshold in enumerate(thresholds):
    first = smoothed > np.float32(threshold)
    final = _second_pass(first, sigma_px, threshold, kernel)[inside].view(bool)
    predicted = np.count_nonzero(final & valid)
    both = np.count_nonzero(final & solid)
    counts[i] = ((n - n_solid - predicted + both, predicted - both),
                 (n_solid - both, both))
  return counts
