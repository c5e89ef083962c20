"""Comparison of networks on the same regions: scores and paired intervals (§8.7).

The results of a network in a region are counted once. Counts of regions add up, so that
the scores of a bootstrap sample are those of a weighted sum. Networks are compared in
the same samples, and in pairs of the same seed. r regions, d samples, s seeds, b bins.
"""
import math
from typing import NamedTuple

import numpy as np
from scipy import stats

from fibjax.errors import InputError
from fibjax.metrics import calibration, confusion
from fibjax.metrics.labels import PORE, SOLID, UNLABELLED

SCORES = ('miou', 'worst_miou', 'accuracy', 'porosity_error', 'porosity_bias',
          'boundary_f1', 'ece', 'ece_calibrated')
WORST_SHARE = 0.05  # of the windows, whose mean mIoU is worst_miou


class Counts(NamedTuple):
  """Results of a network in each region, as counts.

  Attributes:
    volume_r: name of the volume of each region.
    confusion_rij: [r, label, prediction], after post-processing.
    boundary_rk: [r, 4] of `confusion.boundary_counts`, after post-processing.
    bins_rbk: [r, b, 3] voxels, sum of scores and solid voxels by bin of the score.
    calibrated_rbk: the same for calibrated scores.
    windows_rwij: [r, w, label, prediction] of windows of each region, as for
      `confusion_rij`; of 0 voxels where a region has fewer windows.
  """
  volume_r: tuple[str, ...]
  confusion_rij: np.ndarray
  boundary_rk: np.ndarray
  bins_rbk: np.ndarray
  calibrated_rbk: np.ndarray
  windows_rwij: np.ndarray


class Interval(NamedTuple):
  """A difference of means over seeds, and its interval."""
  difference: float
  low: float
  high: float


def count_bins(scores, masks, bins: int = 15) -> np.ndarray:
  """Counts for `Counts.bins_rbk`, [r, b, 3], in bins of equal mass over all regions.

  Args:
    scores: P(solid) of each region, [y, x].
    masks: labels 0, 1 or 255, of the same shapes.
    bins: number of bins.
  """
  kept = [mask != UNLABELLED for mask in masks]
  values = [score[keep].astype(float) for score, keep in zip(scores, kept, strict=True)]
  bin_n = calibration.equal_mass_bins(np.concatenate(values), bins)
  bins_of_regions = np.split(bin_n, np.cumsum([value.size for value in values])[:-1])
  return np.stack([
      np.stack([np.bincount(region_bins, weights=weight, minlength=bins)
                for weight in (None, value, mask[keep] == SOLID)], -1)
      for region_bins, value, mask, keep in
      zip(bins_of_regions, values, masks, kept, strict=True)])


def scores_of(counts: Counts, weights_dr=None) -> dict[str, np.ndarray]:
  """Scores of sums of regions.

  Args:
    counts: of a network.
    weights_dr: how often each region counts in each sample; None: each once.

  Returns:
    name in SCORES -> [d] float64. porosity_bias is the mean over volumes of automatic
    - manual porosity, porosity_error that of its absolute value; worst_miou as
    `worst_miou`; ece as `calibration.ece`, in the bins of `counts`.
  """
  if weights_dr is None:
    weights_dr = np.ones((1, len(counts.volume_r)))
  overlap = overlap_scores(np.tensordot(weights_dr, counts.confusion_rij, 1))
  biases_vd = []
  volume_r = np.asarray(counts.volume_r)
  for name in sorted(set(counts.volume_r)):
    of_volume = volume_r == name
    confusion_dij = np.tensordot(weights_dr[:, of_volume],
                                 counts.confusion_rij[of_volume], 1)
    biases_vd.append((confusion_dij[:, :, PORE].sum(1) - confusion_dij[:, PORE].sum(1))
                     / confusion_dij.sum((1, 2)))
  return {**overlap,
          'worst_miou': worst_miou(counts.windows_rwij, weights_dr),
          'porosity_error': np.mean(np.abs(biases_vd), 0),
          'porosity_bias': np.mean(biases_vd, 0),
          'boundary_f1': confusion.boundary_f1(
              np.tensordot(weights_dr, counts.boundary_rk, 1)),
          'ece': _ece(weights_dr, counts.bins_rbk),
          'ece_calibrated': _ece(weights_dr, counts.calibrated_rbk)}


def overlap_scores(confusion_dij: np.ndarray) -> dict[str, np.ndarray]:
  """mIoU and accuracy, each [d], of [d, label, prediction] counts; NaN if undefined."""
  right_dk = np.diagonal(confusion_dij, axis1=1, axis2=2)
  total_d = confusion_dij.sum((1, 2))
  wrong_d = total_d - right_dk.sum(1)
  union_dk = right_dk + wrong_d[:, None]
  return {'miou': np.where(union_dk > 0, right_dk / np.maximum(union_dk, 1), np.nan
                           ).mean(1),
          'accuracy': 1 - wrong_d / total_d}


def worst_miou(windows_rwij: np.ndarray, weights_dr: np.ndarray) -> np.ndarray:
  """Mean mIoU of the WORST_SHARE of all windows with the lowest, [d].

  A phase that a window has neither in labels nor in predictions is left out of its
  mIoU. Where the share is no whole number of windows, the last one counts in part.

  Args:
    windows_rwij: [r, w, label, prediction] counts; windows of 0 voxels do not count.
    weights_dr: how often each region counts in each sample.
  """
  regions, windows = windows_rwij.shape[:2]
  counts_nij = windows_rwij.reshape(-1, 2, 2)
  right_nk = np.diagonal(counts_nij, axis1=1, axis2=2)
  union_nk = right_nk + (counts_nij[:, 0, 1] + counts_nij[:, 1, 0])[:, None]
  iou_nk = right_nk / np.maximum(union_nk, 1)
  present_n = np.flatnonzero(union_nk.any(1))
  miou_n = iou_nk[present_n].sum(1) / (union_nk[present_n] > 0).sum(1)
  order = np.argsort(miou_n, kind='stable')
  of_region_n = np.repeat(np.arange(regions), windows)[present_n][order]
  weights_dn = weights_dr[:, of_region_n]
  budget_d = WORST_SHARE * weights_dn.sum(1, keepdims=True)
  before_dn = np.cumsum(weights_dn, 1) - weights_dn
  taken_dn = np.clip(budget_d - before_dn, 0, weights_dn)
  return taken_dn @ miou_n[order] / budget_d[:, 0]


def paired_interval(ours_s, theirs_s, level: float = 0.95) -> Interval:
  """Mean difference ours - theirs over pairs of seeds, with its t interval.

  For scores of whole volumes, whose choice the interval does not cover.

  Args:
    ours_s, theirs_s: [s] scores, pairwise of the same seed.
    level: of the interval; NaN for fewer than two pairs.
  """
  difference_s = np.asarray(ours_s, float) - np.asarray(theirs_s, float)
  mean, count = float(difference_s.mean()), difference_s.size
  if count < 2:
    return Interval(mean, math.nan, math.nan)
  half = float(stats.t.ppf((1 + level) / 2, count - 1)
               * difference_s.std(ddof=1) / math.sqrt(count))
  return Interval(mean, mean - half, mean + half)


def _ece(weights_dr, bins_rbk):
  n, score, solid = np.moveaxis(np.tensordot(weights_dr, bins_rbk, 1), -1, 0)
  return abs(score - solid).sum(-1) / n.sum(-1)


def resample(volume_r, seed: int, samples: int = 10_000) -> np.ndarray:
  """Bootstrap of regions within each volume: how often each is drawn, [d, r]."""
  random, volume_r = np.random.default_rng(seed), np.asarray(volume_r)
  weights_dr = np.zeros((samples, len(volume_r)))
  for name in sorted(set(volume_r.tolist())):
    at = np.flatnonzero(volume_r == name)
    weights_dr[:, at] = random.multinomial(len(at), np.full(len(at), 1 / len(at)),
                                           samples)
  return weights_dr


def compare(ours: list[Counts], theirs: list[Counts], seed: int, samples: int = 10_000,
            level: float = 0.95) -> dict[str, Interval]:
  """Differences of mean scores, ours - theirs, with paired bootstrap intervals.

  Every sample draws regions, the same for all networks, and seeds, the same on both
  sides. The interval covers the choice of regions and of seeds.

  Args:
    ours, theirs: networks with the same seeds, pairwise, on the same regions.
    seed: of the bootstrap.
    samples: number of bootstrap samples.
    level: of the intervals (percentiles).

  Returns:
    name in SCORES -> Interval.

  Raises:
    InputError: for no pair, or other regions.
  """
  if not ours or len(ours) != len(theirs):
    raise InputError('networks to compare', got=f'{len(ours)} and {len(theirs)}',
                     expected='pairs of the same seed', remedy='train both')
  if len({counts.volume_r for counts in (*ours, *theirs)}) > 1:
    raise InputError('networks to compare', got='different regions',
                     expected='the same', remedy='score them on the same regions')
  volume_r = ours[0].volume_r
  weights_dr = np.concatenate([np.ones((1, len(volume_r))),
                               resample(volume_r, seed, samples)])
  pairs_sd = {}
  for mine, other in zip(ours, theirs, strict=True):
    mine, other = scores_of(mine, weights_dr), scores_of(other, weights_dr)
    for name in SCORES:
      pairs_sd.setdefault(name, []).append(mine[name] - other[name])
  random = np.random.default_rng((seed, 1))
  seeds_ds = random.integers(len(ours), size=(samples, len(ours)))
  edges = (1 - level) / 2, (1 + level) / 2
  intervals = {}
  for name, pairs in pairs_sd.items():
    pairs_ds = np.stack(pairs, 1)
    drawn_d = np.take_along_axis(pairs_ds[1:], seeds_ds, 1).mean(1)
    intervals[name] = Interval(float(pairs_ds[0].mean()),
                               *map(float, np.nanquantile(drawn_d, edges)))
  return intervals
