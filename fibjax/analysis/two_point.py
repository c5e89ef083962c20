"""Sampling error of a porosity, from the two-point function of the volume.

A volume is a sample of a stationary medium, and its porosity scatters about that of
the medium with Var = 1 / N^2 sum over lags of (pairs of voxels) x covariance, which is
phi (1 - phi) A / N with the integral range A (Lantuejoul 1991; §8.8 for S2). All
lengths are in voxels of the volume, whatever their shape in nm.
"""
import math
from typing import NamedTuple

import numpy as np
import scipy.fft

from fibjax.errors import InputError, check_shape

MAX_BLOCKS = 2 ** 20    # the FFT takes about 8 x 24 bytes for each
# Width of the window over the integral range, per axis. For a Gaussian covariance
# exp(-r^2 / 2 l^2) the integral over an axis is 2.5 l, so the window reaches 3.1 l to
# either side, where the covariance is below 1 %.
_WINDOW = 2.5
_MAX_SHARE = 1 / 3      # of all pairs; a larger window leaves < 2 degrees of freedom
_SCALES = 0.5 * 1.12 ** np.arange(80)


class Sampling(NamedTuple):
  """Error of the porosity of a volume as an estimate of that of its material.

  Attributes:
    sd, df: standard deviation of the porosity, and its degrees of freedom.
    integral_range_vox: A with Var = phi (1 - phi) A / V in this volume, voxels.
    window_zyx: largest lags that were summed, voxels.
    resolved: False when the covariance had not decayed within a third of the volume:
      the sd is then too small, df about 2. True does not exclude variation over
      distances longer than the volume.
    The last three are None where the sd comes from several volumes.
  """
  sd: float
  df: float
  integral_range_vox: float | None
  window_zyx: tuple[int, int, int] | None
  resolved: bool | None


def two_point_covariance(phase_zyx) -> tuple[np.ndarray, np.ndarray]:
  """Computes S2(h) - phi^2 at all lags, by zero-padded FFT over overlap counts.

  phi is the mean of the volume itself. So covariances are too small by about the
  variance of that mean, and their sum over all lags, weighted by overlap, is 0.

  Args:
    phase_zyx: labels 0/1 or fractions of a phase; the result is the same for either.

  Returns:
    covariance_zyx: [2 Z - 1, 2 Y - 1, 2 X - 1] float64; lag 0 is in the middle.
    count_zyx: float64 number of pairs of voxels at each lag.
  """
  phase_zyx = np.asarray(phase_zyx, np.float64)
  shape = phase_zyx.shape
  # Padded to at least 2 n - 1: the FFT is periodic, and pairs must not wrap around.
  padded = [scipy.fft.next_fast_len(2 * n - 1, True) for n in shape]
  spectrum = scipy.fft.rfftn(phase_zyx - phase_zyx.mean(), padded)
  spectrum = spectrum.real ** 2 + spectrum.imag ** 2
  total_zyx = scipy.fft.irfftn(spectrum, padded)
  lags = [np.arange(1 - n, n) for n in shape]
  count_zyx = np.ones([2 * n - 1 for n in shape])
  for axis, (n, lag) in enumerate(zip(shape, lags, strict=True)):
    total_zyx = total_zyx.take(lag, axis, mode='wrap')
    count_zyx *= (n - np.abs(lag)).reshape([-1 if a == axis else 1 for a in range(3)])
  return total_zyx / count_zyx, count_zyx


def block_fractions(phase_zyx, block_zyx: tuple[int, int, int]) -> np.ndarray:
  """Averages a phase over blocks; incomplete blocks at the far faces are dropped."""
  shape = [n // b for n, b in zip(phase_zyx.shape, block_zyx, strict=True)]
  cut = tuple(slice(n * b) for n, b in zip(shape, block_zyx, strict=True))
  split = [size for pair in zip(shape, block_zyx, strict=True) for size in pair]
  return np.asarray(phase_zyx)[cut].reshape(split).mean((1, 3, 5), dtype=np.float64)


def sampling_sd(phase_zyx) -> Sampling:
  """Estimates the sampling error of the porosity of a single volume.

  Var = 1 / N^2 sum over lags of count x covariance = phi (1 - phi) A / N for a
  stationary medium. The sum runs over a box of lags with the proportions of the
  medium (where the covariance along each axis falls to 1/e), grown until it is 2.5
  times the integral range per axis (after Sokal): a smaller box truncates the
  covariance, a larger one adds noise. A box that holds a fraction f of all pairs of
  voxels misses f x Var, because the mean is that of the sample; Var is divided by
  1 - f, and has 1 / f - 1 degrees of freedom, like the variance of 1 / f blocks.

  If oscillating covariances make the sum negative, the largest sum of smaller boxes is
  taken. A volume of more than MAX_BLOCKS voxels is averaged over blocks first (the mean
  of the blocks has the same variance). Variation over distances that the volume hardly
  spans, such as the slow field of simulated films, cannot be seen in one volume: use
  `sampling_between` where there are several.

  Args:
    phase_zyx: labels 0/1, or fractions in [0, 1] of a phase per voxel.

  Raises:
    InputError: for another rank, values outside [0, 1] (255 unlabelled), one phase.
  """
  phase_zyx = np.asarray(phase_zyx)
  check_shape('labels', phase_zyx, (None,) * 3)
  if not (phase_zyx.size and phase_zyx.min() >= 0 and phase_zyx.max() <= 1):
    raise InputError('labels', got='no voxel, or values outside 0 to 1',
                     expected='0 and 1', remedy='cut out a box that is all labelled')
  block = [1, 1, 1]
  while math.prod(n // b for n, b in zip(phase_zyx.shape, block, strict=True)
                  ) > MAX_BLOCKS:
    axis = int(np.argmax([n // b for n, b in zip(phase_zyx.shape, block, strict=True)]))
    block[axis] *= 2
  fraction_zyx = block_fractions(phase_zyx, tuple(block))
  if np.ptp(fraction_zyx) == 0:
    raise InputError('labels', got='one phase only', expected='pore and solid',
                     remedy='a volume of one phase has no two-point function')
  variance, share, window, resolved = _windowed_variance(fraction_zyx)
  phi = float(phase_zyx.mean(dtype=np.float64))
  # phi (1 - phi) of the material exceeds that of the volume by the variance of phi.
  squares = sum(float(np.square(p_yx, dtype=np.float64).sum()) for p_yx in phase_zyx)
  one_voxel = squares / phase_zyx.size - phi ** 2 + variance
  return Sampling(math.sqrt(variance), max(1 / share - 1, 1.0),
                  variance * phase_zyx.size / one_voxel,
                  tuple(w * b for w, b in zip(window, block, strict=True)), resolved)


def sampling_between(porosities_v) -> Sampling:
  """Estimates the sampling error from several volumes of the material.

  Valid over whatever distances the material varies. Measured in segmentations it
  includes the differences of their bias between volumes, which must not be added again
  (`uncertainty.porosity_interval` with new_volume=False and one member).

  Args:
    porosities_v: [v] porosities of volumes of equal size.

  Raises:
    InputError: for fewer than two volumes, or values that are not finite.
  """
  porosities_v = np.asarray(porosities_v, np.float64)
  check_shape('porosities', porosities_v, (None,))
  if porosities_v.size < 2 or not np.isfinite(porosities_v).all():
    raise InputError('porosities', got=porosities_v.tolist(),
                     expected='finite porosities of at least two volumes',
                     remedy='use sampling_sd for a single volume')
  return Sampling(float(porosities_v.std(ddof=1)), porosities_v.size - 1.0, None, None,
                  None)


def _windowed_variance(phase_zyx):
  """Variance of the mean, fraction of pairs in the window, its lags, resolved.

  The window grows in small steps (_SCALES) along all axes at once, in proportion to the
  decay lengths; its first size that is wide enough for its own estimate of the
  integral range is taken.
  """
  shape, n = phase_zyx.shape, phase_zyx.size
  covariance_zyx, count_zyx = two_point_covariance(phase_zyx)
  weighted_zyx = covariance_zyx * count_zyx / n ** 2
  one_voxel = float(covariance_zyx[tuple(s - 1 for s in shape)])
  length_zyx = [_decay_length(covariance_zyx, axis) for axis in range(3)]
  best, largest = None, 0.0
  for scale in _SCALES:
    window = tuple(min(int(scale * length), s - 1)
                   for length, s in zip(length_zyx, shape, strict=True))
    box = tuple(slice(s - 1 - w, s + w) for w, s in zip(window, shape, strict=True))
    share = float(count_zyx[box].sum() / n ** 2)
    if share > _MAX_SHARE and best is not None:
      break
    variance = float(weighted_zyx[box].sum()) / max(1 - share, 1e-9)
    largest = max(largest, variance)
    best = (variance if variance > 0 else largest, share, window)
    # Axes that the window spans whole cannot be too narrow; share x n is its volume in
    # voxels, weighted by overlap.
    needed = math.prod(_WINDOW for w, s in zip(window, shape, strict=True) if w < s - 1)
    range_vox = best[0] * n / (one_voxel + best[0])
    if scale >= 1 and share <= _MAX_SHARE and share * n >= needed * range_vox:
      return (*best, True)
  return (*best, False)


def _decay_length(covariance_zyx, axis: int) -> float:
  """Lag where the covariance along an axis falls to 1/e, by interpolation; >= 1."""
  centre = [s // 2 for s in covariance_zyx.shape]
  line = np.moveaxis(covariance_zyx, axis, 0)
  line = line[(slice(centre.pop(axis), None), *centre)]
  line = line / line[0] - math.exp(-1)
  below = np.flatnonzero(line <= 0)
  if not below.size:
    return float(line.size)
  k = below[0]
  return max(1.0, float(k - line[k] / (line[k] - line[k - 1])))


def z_anisotropy(phase_zyx, voxel_size_zyx_nm, lags: int = 4) -> float:
  """Relative elongation of structures along z over those in the plane, from S2.

  (sum of C_z - sum of C_xy) / sum of C_xy over the first lags in slices, with C the
  covariance of the phase and C_xy its mean along y and x at the same distances in nm,
  linear between pixels. 0 for an isotropic medium; pore-backs taken for solid lengthen
  structures along z and make it positive.

  Args:
    phase_zyx: labels 0/1 of either phase.
    voxel_size_zyx_nm: voxel size along z, y, x, nm.
    lags: number of slices.

  Raises:
    InputError: when the volume is too small for these lags, or has one phase only.
  """
  phase_zyx = np.asarray(phase_zyx, np.float32)
  steps = [[min(k * voxel_size_zyx_nm[0] / size, 1e9) for k in range(1, lags + 1)]
           for size in voxel_size_zyx_nm]
  if any(math.ceil(axis[-1]) >= n for axis, n in zip(steps, phase_zyx.shape,
                                                     strict=True)):
    raise InputError('volume', got=f'shape {phase_zyx.shape}',
                     expected=f'more than {lags} slices, and as many nm in the plane',
                     remedy='give a larger volume, or fewer lags')
  mean = float(phase_zyx.mean(dtype=np.float64))
  if not 0 < mean < 1:
    raise InputError('volume', got='one phase', expected='pore and solid',
                     remedy='check the segmentation')
  along = [sum(_covariance_at(phase_zyx, axis, lag, mean) for lag in steps[axis])
           for axis in range(3)]
  in_plane = (along[1] + along[2]) / 2
  return float((along[0] - in_plane) / in_plane)


def _covariance_at(phase_zyx, axis: int, lag: float, mean: float) -> float:
  """Covariance at a lag in voxels along an axis, linear between whole lags."""
  low = math.floor(lag)

  def whole(step):
    n = phase_zyx.shape[axis]
    near, far = (np.take(phase_zyx, range(a, b), axis) for a, b in
                 ((0, n - step), (step, n)))
    return float((near * far).mean(dtype=np.float64)) - mean ** 2

  share = lag - low
  return (1 - share) * whole(low) + (share * whole(low + 1) if share else 0.)
