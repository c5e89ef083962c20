"""Plausible segmentations: what the truth may look like, given scores and regions.

A score says how likely a voxel is solid, not which voxels err together. Here a Gaussian
field decides over neighbouring voxels alike: with q = Phi^-1(score) a draw is solid
where

  slope q + offset > g,      g of mean 0 and variance 1 with correlation rho(h).

Each voxel is then solid with probability Phi(slope q + offset), a calibrated score, and
errors are as long as rho says. All of it comes from annotated regions:

* slope and offset by probit regression on their labels, the slope on regions that did
  not train the network, since it is too sure of those that did;
* rho from the residuals, label - calibrated score: at each lag the correlation of g at
  which pairs of voxels have the mean product of residuals that was observed
  (tetrachoric correlation, Pearson 1900), then a mixture of two Gaussians in the lag;
* its length along z from regions of near slices that overlap in the plane; where there
  are too few, the same length in nm as in the plane;
* the error of slope and offset by the jackknife over blocks of neighbouring slices. It
  is the error of the bias: the draws carry it to quantities that no region shows, such
  as the diffusivity.

Arrays [z, y, x]; scores are P(solid), labels 0 pore, 1 solid, 255 unlabelled.
"""
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage, optimize, special

from fibjax.analysis.error_sums import jackknife_covariance
from fibjax.analysis.phases import Size
from fibjax.errors import InputError
from fibjax.metrics.labels import UNLABELLED

_EDGE = 1e-6                     # scores are clipped to [_EDGE, 1 - _EDGE]
_LAGS_PX = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
_PAIRS = 60_000                  # of voxels per lag
_MIN_PAIRS_Z = 2000
_LAGS_Z = (1, 2, 3)
_NODES = np.polynomial.legendre.leggauss(8)
_RHO_MAX = 0.9999
_TRUNCATE = 3                    # standard deviations, of the filter


class ScoredRegion(NamedTuple):
  """An annotated region and its scores.

  Attributes:
    score_yx: [y, x] P(solid).
    mask_yx: [y, x] labels 0, 1 or 255.
    start_zyx: slice, and first row and column in the volume.
    block: number of the block of neighbouring slices that it lies in.
    trained: whether it was among the regions that the network was trained on.
  """
  score_yx: np.ndarray
  mask_yx: np.ndarray
  start_zyx: tuple[int, int, int]
  block: int
  trained: bool = False


class ErrorModel(NamedTuple):
  """How segmentations may err: see the module docstring.

  Attributes:
    slope, offset: of the calibration, in probits.
    covariance: [2, 2] of their errors.
    df: degrees of freedom of the covariance, blocks - 1; 0 for a single block, whose
      errors are unknown.
    weight_k, length_nm_k: mixture of Gaussians exp(-h^2 / 2 length^2) that is rho.
    stretch_z: length along z over that in the plane, in nm.
    z_measured: whether that is from the regions.
    n_regions, n_blocks: how many regions and blocks there were.
  """
  slope: float
  offset: float
  covariance: np.ndarray
  df: int
  weight_k: np.ndarray
  length_nm_k: np.ndarray
  stretch_z: float
  z_measured: bool
  n_regions: int
  n_blocks: int


def fit_error_model(regions: Sequence[ScoredRegion], voxel_size_zyx_nm: Size,
                    seed: int = 0) -> ErrorModel:
  """Learns from annotated regions how the scores err.

  Args:
    regions: of one volume, or of several alike.
    voxel_size_zyx_nm: voxel size along z, y, x, nm.
    seed: of the pairs of voxels drawn.

  Raises:
    InputError: without a labelled voxel of each phase.
  """
  probits = [special.ndtri(np.clip(r.score_yx, _EDGE, 1 - _EDGE).astype(np.float64))
             for r in regions]
  labelled = [np.asarray(r.mask_yx) != UNLABELLED for r in regions]
  if not have_both_phases(regions):
    raise InputError('regions', got='labels of one phase, or none',
                     expected='pore and solid', remedy='annotate a region with both')
  # Every second row and column: neighbours err alike, so little is lost.
  thin = np.s_[::2, ::2]
  sample = [(q[thin][use[thin]], r.mask_yx[thin][use[thin]] == 1, r.block, r.trained)
            for q, r, use in zip(probits, regions, labelled, strict=True)]
  slope, offset = _calibrate(sample)
  blocks = sorted({block for *_, block, _ in sample})
  left_out = [_calibrate(rest) for block in blocks if _both(
      rest := [s for s in sample if s[2] != block])]
  covariance = (jackknife_covariance(left_out) if len(left_out) > 1
                else np.zeros((2, 2)))
  calibrated = [slope * q + offset for q in probits]
  residuals = [np.where(use, (r.mask_yx == 1) - special.ndtr(z), np.nan)
               for z, r, use in zip(calibrated, regions, labelled, strict=True)]
  rng = np.random.default_rng(seed)
  spacing_nm = math.sqrt(voxel_size_zyx_nm[1] * voxel_size_zyx_nm[2])
  weight_k, length_k = _fit_plane(calibrated, residuals, rng)
  stretch, measured = _fit_z(regions, calibrated, residuals, weight_k, length_k, rng,
                             voxel_size_zyx_nm[0] / spacing_nm)
  return ErrorModel(slope, offset, covariance, max(len(left_out) - 1, 0), weight_k,
                    length_k * spacing_nm, stretch, measured, len(regions), len(blocks))


def have_both_phases(regions: Sequence[ScoredRegion]) -> bool:
  """Whether the regions together have pore and solid, which an error model needs."""
  return all(any((r.mask_yx == code).any() for r in regions) for code in (0, 1))


def _both(sample) -> bool:
  return any(solid.any() for _, solid, *_ in sample) and any(
      not solid.all() for _, solid, *_ in sample)


def _calibrate(sample) -> tuple[float, float]:
  """Slope on the regions not trained on where there are any, then offset on all."""
  unseen = [s for s in sample if not s[3]]
  slope, offset = _probit(unseen if unseen and _both(unseen) else sample, None)
  if len(unseen) < len(sample):
    slope, offset = _probit(sample, slope)
  return slope, offset


def _probit(sample, slope: float | None) -> tuple[float, float]:
  """Probit regression; the slope fixed or fitted."""
  q_n = np.concatenate([q for q, *_ in sample])
  sign_n = np.where(np.concatenate([solid for _, solid, *_ in sample]), 1.0, -1.0)
  free = slope is None
  theta = np.array([1.0, 0.0]) if free else np.array([slope, 0.0])

  def loss(values):
    a, c = values if free else (theta[0], values[0])
    margin_n = sign_n * (a * q_n + c)
    log_n = special.log_ndtr(margin_n)
    # phi / Phi, in logarithms so that it holds far in the tail
    ratio_n = sign_n * np.exp(-0.5 * margin_n ** 2 - log_n) / math.sqrt(2 * math.pi)
    gradient = [-(ratio_n * q_n).mean(), -ratio_n.mean()]
    return -log_n.mean(), np.array(gradient if free else gradient[1:])

  best = optimize.minimize(loss, theta if free else theta[1:], jac=True,
                           method='L-BFGS-B',
                           bounds=[(0.05, 20), (-6, 6)] if free else [(-6, 6)]).x
  return (float(best[0]), float(best[1])) if free else (float(theta[0]), float(best[0]))


def _rho(distance, weight_k, length_k):
  """Correlation of g: a mixture of Gaussians in the distance, in units of length."""
  distance_1 = np.asarray(distance, np.float64)[..., None]
  return (weight_k * np.exp(-0.5 * (distance_1 / length_k) ** 2)).sum(-1)


def _fit_plane(calibrated, residuals, rng) -> tuple[np.ndarray, np.ndarray]:
  """Weights and lengths (px) of rho in the plane."""
  rho, lags = [], []
  for lag in _LAGS_PX:
    pairs = [_pairs(z, r, axis, lag) for z, r in zip(calibrated, residuals, strict=True)
             for axis in (0, 1) if z.shape[axis] > lag]
    if pairs and (value := _tetrachoric(*_joined(pairs), rng)) is not None:
      rho.append(value)
      lags.append(lag)
  if len(rho) < 3:
    raise InputError('regions', got=f'{len(rho)} lags with labelled pairs',
                     expected='regions of at least 4 × 4 labelled voxels',
                     remedy='annotate larger regions')
  rho, lags = np.array(rho), np.array(lags, float)

  def mixture(theta):
    weight, first, more = special.expit(theta[0]), *np.exp(theta[1:])
    return np.array([weight, 1 - weight]), np.array([first, first + more])

  def gap(theta):
    return _rho(lags, *mixture(theta)) - rho

  best = min((optimize.least_squares(gap, start, max_nfev=500) for start in (
      (0, 1, 2), (1, 1, 1.5), (-1, 0.5, 2))), key=lambda result: result.cost).x
  weight_k, length_k = mixture(best)
  # Longer than the lags that were seen is a constant, which is the offset's part.
  return weight_k, np.clip(length_k, 0.3, 2 * lags[-1])


def _fit_z(regions, calibrated, residuals, weight_k, length_k, rng, step: float
           ) -> tuple[float, bool]:
  """Length along z over that in the plane, and whether it was measured.

  Args:
    regions, calibrated, residuals: one per region.
    weight_k, length_k: of the plane, px.
    rng: of the pairs drawn.
    step: distance of slices, px.
  """
  by_lag = {lag: [] for lag in _LAGS_Z}
  for i, first in enumerate(regions):
    for j, second in enumerate(regions):
      lag = second.start_zyx[0] - first.start_zyx[0]
      if lag in by_lag and (overlap := _overlap(first, second)):
        by_lag[lag].append([np.stack([maps[i][overlap[0]].ravel(),
                                      maps[j][overlap[1]].ravel()])
                            for maps in (calibrated, residuals)])
  ratios = []
  for lag, pairs in by_lag.items():
    if sum(np.isfinite(r[0] * r[1]).sum() for _, r in pairs) < _MIN_PAIRS_Z:
      continue
    rho = _tetrachoric(*_joined(pairs), rng)
    if rho is None or not 0.02 < rho < 0.98:
      continue

    def gap(stretch, lag=lag, rho=rho):
      return _rho(lag * step / stretch, weight_k, length_k) - rho

    if gap(0.1) < 0 < gap(5):
      ratios.append(optimize.brentq(gap, 0.1, 5))
  return (float(np.median(ratios)), True) if ratios else (1.0, False)


def _overlap(first: ScoredRegion, second: ScoredRegion):
  """Index of the shared rectangle in each of two regions, None without one."""
  start = np.maximum(first.start_zyx[1:], second.start_zyx[1:])
  stop = np.minimum(*(np.add(r.start_zyx[1:], r.mask_yx.shape)
                      for r in (first, second)))
  if (stop <= start).any():
    return None
  return [tuple(slice(a - o, b - o) for a, b, o in zip(start, stop, r.start_zyx[1:],
                                                       strict=True))
          for r in (first, second)]


def _pairs(probit_yx, residual_yx, axis: int, lag: int):
  """Probits and residuals [2, n] of all pairs at a lag along an axis."""
  n = probit_yx.shape[axis]
  return [np.stack([np.take(values, range(a, b), axis).ravel()
                    for a, b in ((0, n - lag), (lag, n))])
          for values in (probit_yx, residual_yx)]


def _joined(pairs):
  """Pairs of several regions, the unlabelled ones left out."""
  probit_2n, residual_2n = (np.concatenate(part, 1)
                            for part in zip(*pairs, strict=True))
  use = np.isfinite(residual_2n).all(0)
  return probit_2n[:, use], residual_2n[:, use]


def _tetrachoric(probit_2n, residual_2n, rng) -> float | None:
  """Correlation of g at which residuals have the product that was observed."""
  if not probit_2n.shape[1]:
    return None
  observed = float((residual_2n[0] * residual_2n[1]).mean())
  drawn = rng.integers(0, probit_2n.shape[1], min(_PAIRS, probit_2n.shape[1]))
  first, second = probit_2n[:, drawn]

  def gap(rho):
    return _covariance(first, second, rho) - observed

  if gap(0.0) >= 0:
    return 0.0
  return _RHO_MAX if gap(_RHO_MAX) <= 0 else float(optimize.brentq(gap, 0, _RHO_MAX,
                                                                   xtol=1e-4))


def _covariance(first, second, rho: float) -> float:
  """Mean of P(both solid) - P(first) P(second): the density integrated over rho."""
  total = np.zeros_like(first)
  for node, weight in zip(*_NODES, strict=True):
    r = rho * (node + 1) / 2
    total += weight * rho / 2 * np.exp(
        -(first ** 2 - 2 * r * first * second + second ** 2) / (2 * (1 - r ** 2))
    ) / (2 * math.pi * math.sqrt(1 - r ** 2))
  return float(total.mean())


def draw_calibration(model: ErrorModel, rng: np.random.Generator
                     ) -> tuple[float, float]:
  """Draws slope and offset with their errors, a t of the model's df."""
  if not model.df:
    return model.slope, model.offset
  normal = rng.multivariate_normal(np.zeros(2), model.covariance, method='eigh')
  scale = math.sqrt(model.df / rng.chisquare(model.df))
  # Beyond three errors a t of few degrees of freedom is far from what errors can be.
  slope, offset = (model.slope, model.offset) + normal * min(scale, 3.0)
  return max(slope, 0.2 * model.slope), offset


def draw_labels(score_zyx: np.ndarray, model: ErrorModel, voxel_size_zyx_nm: Size,
                rng: np.random.Generator, calibration: tuple[float, float] | None = None
                ) -> np.ndarray:
  """Draws a plausible segmentation.

  Args:
    score_zyx: [z, y, x] P(solid).
    model: how the scores err.
    voxel_size_zyx_nm: voxel size along z, y, x, nm.
    rng: random numbers.
    calibration: slope and offset; None takes the model's.

  Returns:
    [z, y, x] uint8, 0 pore and 1 solid.
  """
  slope, offset = calibration or (model.slope, model.offset)
  field_zyx = draw_field(score_zyx.shape, model, voxel_size_zyx_nm, rng)
  # score > Phi((g - offset) / slope), which is slope q + offset > g
  limit_zyx = special.ndtr((field_zyx - np.float32(offset)) / np.float32(slope))
  return (np.clip(score_zyx, _EDGE, 1 - _EDGE) > limit_zyx).astype(np.uint8)


def draw_field(shape: tuple[int, int, int], model: ErrorModel, voxel_size_zyx_nm: Size,
               rng: np.random.Generator) -> np.ndarray:
  """Draws g: float32 [z, y, x] of mean 0, variance 1 and the model's correlation."""
  field_zyx = np.zeros(shape, np.float32)
  stretch_zyx = np.array([model.stretch_z, 1, 1])
  for weight, length in zip(model.weight_k, model.length_nm_k, strict=True):
    # A Gaussian filter of width s makes white noise correlated as exp(-h^2 / 4 s^2).
    width_zyx = length * stretch_zyx / np.asarray(voxel_size_zyx_nm) / math.sqrt(2)
    noise_zyx = ndimage.gaussian_filter(
        rng.standard_normal(shape, dtype=np.float32), width_zyx, mode='wrap',
        truncate=_TRUNCATE)
    field_zyx += np.float32(math.sqrt(weight) / _filtered_sd(width_zyx, shape)
                            ) * noise_zyx
  return field_zyx


def _filtered_sd(width_zyx, shape) -> float:
  """Standard deviation of filtered white noise."""
  sd = 1.0
  for width, n in zip(width_zyx, shape, strict=True):
    impulse = np.zeros(n)
    impulse[n // 2] = 1
    sd *= math.sqrt((ndimage.gaussian_filter1d(impulse, width, mode='wrap',
                                               truncate=_TRUNCATE) ** 2).sum())
  return sd
