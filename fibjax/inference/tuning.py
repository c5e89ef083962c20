"""Choice of the post-processing on annotated regions, so that it does no harm.

Two objectives: 'miou', the published one, takes the smoothing and threshold of highest
mIoU on the validation regions. 'porosity' takes, for each smoothing, the threshold at
which the regions have the porosity of their labels, and of these settings the one of
highest mIoU; training and validation regions both count, since two numbers cannot
overfit them and few regions must suffice.

Its threshold differs between volumes as far as the data show that it must. With b_v the
porosity error of volume v at the threshold of all volumes together, s_v its standard
error (jackknife over blocks of slices) and tau the spread between volumes beyond these
errors, the threshold of v removes the share

  w_v = E[tau^2 / (tau^2 + s_v^2)]

of b_v: all of it where volumes differ clearly, little where the difference is noise.
The mean is over the posterior of tau, uniform before the data (Gelman 2006, Bayesian
Anal. 1, 515), since a few volumes tell little about it.

What was gained is estimated on held-out blocks of slices: the setting is chosen on the
other blocks and compared with plain score > 0.5. A setting that is not better by more
than the standard error of its gain is not taken.
"""
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from fibjax.errors import InputError, unknown
from fibjax.inference import postprocess
from fibjax.inference.postprocess import RegionScore

_GAIN_OF = {'miou': 'mIoU', 'porosity': 'squared porosity error'}
OBJECTIVES = tuple(_GAIN_OF)
SIGMAS_PX = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_THRESHOLDS = np.round(np.arange(0.1, 0.901, 0.02), 9)
_PLAIN = 0.5
_FOLDS = 4
_BLOCKS = 8      # of slices in a volume, at most
_SAMPLES = 1000  # of the bootstrap over blocks
_SPREADS = np.linspace(0.0005, 0.1, 200)  # tau tried, porosity
_TINY = 1e-10    # least variance of a bias


class Choice(NamedTuple):
  """Post-processing, and why it was chosen.

  Attributes:
    sigma_px: standard deviation of the Gaussian, in-plane voxels.
    threshold: solid where the smoothed score is greater, for volumes without regions.
    per_volume: threshold of each volume that has regions.
    shrinkage: w_v of each volume, 0 to 1; empty for 'miou'.
    objective: 'miou' or 'porosity'.
    taken: whether the tuned setting is used; if not, score > 0.5.
    gain: how much better the tuned setting is on held-out regions: of mIoU for 'miou',
      of the squared porosity error of a block for 'porosity'; None where the regions
      lie in one block of slices.
    gain_error: its standard error.
    at_edge: names of the tuned parameters that ended at the edge of their range.
  """
  sigma_px: float
  threshold: float
  per_volume: dict[str, float]
  shrinkage: dict[str, float]
  objective: str
  taken: bool
  gain: float | None
  gain_error: float | None
  at_edge: tuple[str, ...]


class _Setting(NamedTuple):
  """Index of sigma, threshold of all volumes and of each, and the shares removed."""
  s: int
  threshold: float
  per_volume: dict[str, float]
  shrinkage: dict[str, float]


def choose(objective: str, regions: Sequence[RegionScore], volume_r: Sequence[str],
           z_r: Sequence[int], *, kernel: str = 'matlab',
           n_threads: int | None = None) -> Choice:
  """Chooses smoothing and threshold on annotated regions.

  Args:
    objective: 'miou' or 'porosity'.
    regions: one per labelled region: validation regions for 'miou'.
    volume_r: [r] volume of each region.
    z_r: [r] slice of each region.
    kernel: see `postprocess.smooth`.
    n_threads: threads over regions; the result does not depend on it.

  Returns:
    Choice.

  Raises:
    InputError: for another objective, or as `postprocess.tune`.
  """
  if objective not in OBJECTIVES:
    raise unknown('objective', objective, OBJECTIVES, 'porosity avoids bias')
  regions = postprocess.check_regions(regions)
  volumes = np.asarray(volume_r, dtype=object)
  blocks = slice_blocks(volume_r, z_r)
  with ThreadPoolExecutor(n_threads or os.cpu_count()) as pool:
    counts_rstij = np.array(list(pool.map(lambda r: _count(r, kernel), regions)))
  if not counts_rstij[:, 0, 0].sum():
    raise InputError('regions', got='no labelled voxel', expected='labels 0 and 1',
                     remedy='check the masks and their label profile')
  setting = _fit(objective, counts_rstij, volumes, blocks)
  gain, error = _held_out_gain(objective, counts_rstij, volumes, blocks)
  if objective == 'miou':
    best = postprocess.tune(regions, kernel=kernel, n_threads=n_threads)
    sigma, threshold, per_volume = best.sigma_px, best.threshold, {}
    edges = postprocess.THRESHOLD_RANGE
  else:
    sigma, threshold, per_volume = (SIGMAS_PX[setting.s], setting.threshold,
                                    setting.per_volume)
    edges = _THRESHOLDS[0], _THRESHOLDS[-1]
  taken = gain is not None and gain > error
  at_edge = [name for name, at in (
      ('sigma_px', sigma >= postprocess.SIGMA_MAX_PX),
      ('threshold', any(t in edges for t in (threshold, *per_volume.values())))) if at]
  if not taken:
    sigma, threshold, per_volume = 0.0, _PLAIN, dict.fromkeys(per_volume, _PLAIN)
  return Choice(sigma, threshold, per_volume, setting.shrinkage, objective, taken, gain,
                error, tuple(at_edge))


def sentence(chosen: dict) -> str:
  """Says in one line what was chosen and why.

  Args:
    chosen: content of postprocess.json, i.e. the fields of `Choice` where tuned.
  """
  if not chosen['tuned']:
    return (f'post-processing: sigma {chosen["sigma_px"]:g} px, threshold '
            f'{chosen["threshold"]:g}, as set')
  gain = chosen['gain']
  if not chosen['taken']:
    reason = ('the regions lie in one block of slices, so its gain is unknown'
              if gain is None else
              f'its gain on held-out regions, {gain:.2g} of the '
              f'{_GAIN_OF[chosen["objective"]]}, is within its error '
              f'{chosen["gain_error"]:.2g}')
    return f'post-processing: score > 0.5; the tuned setting is not taken: {reason}'
  thresholds = ', '.join(f'{value:.3f} ({name})'
                         for name, value in chosen['per_volume'].items())
  text = (f'post-processing: sigma {chosen["sigma_px"]:.2f} px, threshold '
          f'{thresholds or format(chosen["threshold"], ".3f")}, chosen for '
          f'{chosen["objective"]}')
  if chosen['at_edge']:
    text += f'; at the edge of what was tried: {", ".join(chosen["at_edge"])}'
  return text


def slice_blocks(volume_r: Sequence[str], z_r: Sequence[int]) -> np.ndarray:
  """Groups regions into blocks of neighbouring slices, at most 8 per volume.

  Regions of near slices show the same structures and share their errors, so a block
  rather than a region is taken as independent.

  Returns:
    [r] int block of each region; blocks of different volumes differ.
  """
  volume_r, z_r = np.asarray(volume_r, dtype=object), np.asarray(z_r)
  block_r = np.zeros(z_r.size, int)
  first = 0
  for name in dict.fromkeys(volume_r.tolist()):
    here = volume_r == name
    slices, rank = np.unique(z_r[here], return_inverse=True)
    count = min(len(slices), _BLOCKS)
    block_r[here] = first + rank * count // len(slices)
    first += count
  return block_r


def _count(region: RegionScore, kernel: str) -> np.ndarray:
  """Counts of one region at every setting, [sigma, threshold, label, prediction]."""
  return np.array([postprocess.threshold_counts(region, sigma, _THRESHOLDS, kernel)
                   for sigma in SIGMAS_PX], np.float64)


def _at(counts_tij: np.ndarray, threshold: float) -> np.ndarray:
  """Counts at a threshold, linear between those of the grid."""
  k = int(np.clip(np.searchsorted(_THRESHOLDS, threshold) - 1, 0, _THRESHOLDS.size - 2))
  share = (threshold - _THRESHOLDS[k]) / (_THRESHOLDS[k + 1] - _THRESHOLDS[k])
  return (1 - share) * counts_tij[k] + share * counts_tij[k + 1]


def _miou(counts_ij: np.ndarray) -> np.ndarray:
  """mIoU of counts [..., label, prediction]; a phase that is absent counts as 1."""
  both = np.stack([counts_ij[..., k, k] for k in (0, 1)])
  union = both + counts_ij[..., 0, 1] + counts_ij[..., 1, 0]
  return np.where(union > 0, both / np.maximum(union, 1), 1).mean(0)


def _excess(counts_ij: np.ndarray) -> np.ndarray:
  """Pore voxels too many, of counts [..., label, prediction]."""
  return counts_ij[..., 1, 0] - counts_ij[..., 0, 1]


def _fit(objective: str, counts_rstij, volume_r, block_r) -> _Setting:
  if objective == 'miou':
    miou_st = _miou(counts_rstij.sum(0))
    s, t = np.unravel_index(int(miou_st.argmax()), miou_st.shape)
    return _Setting(int(s), float(_THRESHOLDS[t]), {}, {})
  settings = [_balance(counts_rstij[:, s], volume_r, block_r, s)
              for s in range(len(SIGMAS_PX))]
  # argmax takes the first of equals, hence the smallest sigma.
  return settings[int(np.argmax([_miou(_counts_of(setting, counts_rstij, volume_r)
                                       .sum(0)) for setting in settings]))]


def _counts_of(setting: _Setting, counts_rstij, volume_r) -> np.ndarray:
  """Counts of every region with a setting, [r, label, prediction]."""
  return np.stack([_at(counts_stij[setting.s],
                       setting.per_volume.get(name, setting.threshold))
                   for counts_stij, name in zip(counts_rstij, volume_r, strict=True)])


def _balance(counts_rtij, volume_r, block_r, s: int) -> _Setting:
  """Thresholds at which the porosity of the regions has no bias, at one sigma."""
  def root(counts_tij, excess):
    curve_t = np.maximum.accumulate(_excess(counts_tij))
    # The smallest slope makes the curve invertible where it is flat.
    return float(np.interp(excess, curve_t + 1e-6 * np.arange(curve_t.size),
                           _THRESHOLDS))

  pooled = root(counts_rtij.sum(0), 0)
  names = list(dict.fromkeys(volume_r.tolist()))
  bias, variance = np.zeros(len(names)), np.zeros(len(names))
  for v, name in enumerate(names):
    here = volume_r == name
    bias[v], variance[v] = _bias(np.stack([_at(c, pooled) for c in counts_rtij[here]]),
                                 block_r[here])
  share = _shrinkage(bias, variance)
  per_volume = {}
  for v, name in enumerate(names):
    counts_tij = counts_rtij[volume_r == name].sum(0)
    per_volume[name] = root(counts_tij, (1 - share[v]) * bias[v] * counts_tij[0].sum())
  return _Setting(s, pooled, per_volume, dict(zip(names, share.tolist(), strict=True)))


def _bias(counts_rij, block_r) -> tuple[float, float]:
  """Porosity error of regions, and its variance by the jackknife over blocks."""
  excess_r, n_r = _excess(counts_rij), counts_rij.sum((1, 2))
  bias = excess_r.sum() / max(n_r.sum(), 1)
  _, block_r = np.unique(block_r, return_inverse=True)
  g = block_r.max() + 1
  if g < 2:
    return bias, np.inf
  rest_g = np.bincount(block_r, weights=excess_r - bias * n_r)
  return bias, g / (g - 1) * (rest_g ** 2).sum() / max(n_r.sum(), 1) ** 2


def _shrinkage(bias, variance) -> np.ndarray:
  """w_v: see the module docstring; 1 for a single volume, which is all there is."""
  if bias.size == 1:
    return np.ones(1)
  known = np.isfinite(variance)
  if known.sum() < 2:
    return np.zeros(bias.size)
  # log p(tau | b) up to a constant, the common mean integrated out.
  total_tv = _SPREADS[:, None] ** 2 + np.maximum(variance[known], _TINY)
  weight_t = (1 / total_tv).sum(1)
  mean_t = (bias[known] / total_tv).sum(1) / weight_t
  log_t = -0.5 * (np.log(total_tv).sum(1) + np.log(weight_t)
                  + ((bias[known] - mean_t[:, None]) ** 2 / total_tv).sum(1))
  posterior_t = np.exp(log_t - log_t.max())
  share_tv = _SPREADS[:, None] ** 2 / (_SPREADS[:, None] ** 2
                                       + np.where(known, variance, np.inf))
  return posterior_t @ share_tv / posterior_t.sum()


def _held_out_gain(objective: str, counts_rstij, volume_r, block_r):
  """Gain over score > 0.5 on held-out blocks, and its standard error."""
  n_folds = min(_FOLDS, int(block_r.max()) + 1)
  if n_folds < 2:
    return None, None
  fold_r = block_r % n_folds
  tuned_rij = np.empty((len(fold_r), 2, 2))
  for fold in range(n_folds):
    out = fold_r == fold
    setting = _fit(objective, counts_rstij[~out], volume_r[~out], block_r[~out])
    tuned_rij[out] = _counts_of(setting, counts_rstij[out], volume_r[out])
  plain_rij = np.stack([_at(counts_stij[0], _PLAIN) for counts_stij in counts_rstij])
  n_blocks = int(block_r.max()) + 1
  tuned_bij, plain_bij = (np.stack([counts_rij[block_r == b].sum(0)
                                    for b in range(n_blocks)])
                          for counts_rij in (tuned_rij, plain_rij))
  if objective == 'porosity':
    n_b = plain_bij.sum((1, 2))
    gain_b = (_excess(plain_bij) / n_b) ** 2 - (_excess(tuned_bij) / n_b) ** 2
    return float(gain_b.mean()), float(gain_b.std(ddof=1) / np.sqrt(n_blocks))
  draws_db = np.random.default_rng(0).integers(0, n_blocks, (_SAMPLES, n_blocks))
  gain_d = _miou(tuned_bij[draws_db].sum(1)) - _miou(plain_bij[draws_db].sum(1))
  gain = _miou(tuned_bij.sum(0)) - _miou(plain_bij.sum(0))
  return float(gain), float(gain_d.std(ddof=1))
