"""Labels of several experts: soft targets, estimated truth, agreement (§8.1).

Votes are uint8 [j, ...] of j experts: 0 pore, 1 solid, 255 where that expert did not
label, whatever the reason. Pure numpy on the host.
"""
import itertools
from typing import NamedTuple

import numpy as np
from scipy import ndimage, special

from fibjax.annotation.regions import (
  Regions,
  make_regions,
  region_mask,
  region_positions,
)
from fibjax.errors import InputError
from fibjax.metrics import confusion
from fibjax.metrics.labels import UNLABELLED

_START = 0.99  # sensitivity and specificity before the first iteration (§8.1)
_CLIP = 1e-6


class Staple(NamedTuple):
  """Truth and quality of experts estimated from votes.

  Attributes:
    truth: [...] float64 P(solid); 0 where nobody labelled.
    sensitivity_j: [j] P(expert says solid | solid), NaN without votes.
    specificity_j: [j] P(expert says pore | pore), NaN without votes.
    iterations: number of EM iterations; 0 if none was needed.
  """
  truth: np.ndarray
  sensitivity_j: np.ndarray
  specificity_j: np.ndarray
  iterations: int


def mean_vote(votes_jyx: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Averages the votes of the experts who labelled a voxel.

  Args:
    votes_jyx: [j, y, x], or any [j, ...], votes 0, 1, 255.

  Returns:
    [y, x] float32 P(solid), 0 where nobody labelled, and [y, x] bool, labelled.

  Raises:
    InputError: for another code or no expert.
  """
  _check_votes(votes_jyx)
  count_yx = np.count_nonzero(votes_jyx != UNLABELLED, axis=0)
  solid_yx = np.count_nonzero(votes_jyx == 1, axis=0)
  return (solid_yx / np.maximum(count_yx, 1)).astype(np.float32), count_yx > 0


def staple(votes: np.ndarray, *, band_px: float | None = None, tolerance: float = 1e-6,
           max_iterations: int = 100) -> Staple:
  """Estimates the truth and the quality of each expert by EM (Warfield 2004; §8.1).

  The model: experts err independently of each other, and with the same probability in
  all voxels; the fraction of solid is estimated as well. Two experts leave it
  undetermined (three numbers in the data for five unknowns): give at least three. Truth
  and its opposite explain the votes equally well; the solution in which experts are
  right more often than wrong is returned.

  Args:
    votes: [j, ...] votes 0, 1, 255.
    band_px: None for all voxels; otherwise only those within this distance of a
      disagreement, e.g. 10, so that easy voxels do not hide differences between
      experts. Elsewhere the truth is the unanimous vote. Needs [j, y, x].
    tolerance: EM stops when no sensitivity, specificity or share changes by more.
    max_iterations: EM stops then in any case.

  Returns:
    Truth, and qualities over the voxels used; when the experts never disagree, their
    votes, qualities 1 and no iteration.

  Raises:
    InputError: for another code, no expert, or a band for another rank.
  """
  _check_votes(votes)
  if band_px is not None and votes.ndim != 3:
    raise InputError('votes', got=f'{votes.ndim} axes', expected='[j, y, x] for a band',
                     remedy='leave band_px out')
  solid, pore = (votes == 1).any(0), (votes == 0).any(0)
  truth = solid.astype(float)  # right wherever all agree
  disagreed = solid & pore
  if not disagreed.any():
    quality_j = np.where(_flat(votes != UNLABELLED).any(1), 1., np.nan)
    return Staple(truth, quality_j, quality_j.copy(), 0)
  used = solid | pore
  if band_px is not None:
    used &= ndimage.distance_transform_edt(~disagreed) <= band_px
  # Voxels with the same votes have the same truth, so EM runs over the distinct
  # patterns of votes: at most 3 ** j of them, whatever the number of voxels.
  patterns_jn, pattern, counts_n = np.unique(
      votes[:, used], axis=1, return_inverse=True, return_counts=True)
  truth_n, *qualities = _expect_and_maximise(patterns_jn, counts_n, tolerance,
                                             max_iterations)
  truth[used] = truth_n[pattern.reshape(-1)]
  return Staple(truth, *qualities)


def _expect_and_maximise(votes_jn, counts_n, tolerance, max_iterations):
  """EM over patterns of votes that occur counts_n times."""
  said_solid, said_pore = votes_jn == 1, votes_jn == 0
  solid_jn, pore_jn = said_solid * counts_n, said_pore * counts_n
  share = solid_jn.sum() / (solid_jn.sum() + pore_jn.sum())
  p_j = q_j = np.full(len(votes_jn), _START)
  silent_j = ~(said_solid | said_pore).any(1)
  iterations, change = 0, np.inf
  while iterations < max_iterations and change > tolerance:
    truth_n = _expect(said_solid, said_pore, p_j, q_j, share)
    old = np.concatenate([p_j, q_j, [share]])
    p_j = _quality(solid_jn @ truth_n, pore_jn @ truth_n, p_j)
    q_j = _quality(pore_jn @ (1 - truth_n), solid_jn @ (1 - truth_n), q_j)
    share = _clip(counts_n @ truth_n / counts_n.sum())
    change = np.abs(np.concatenate([p_j, q_j, [share]]) - old).max()
    iterations += 1
  truth_n = _expect(said_solid, said_pore, p_j, q_j, share)
  if (p_j + q_j)[~silent_j].mean() < 1:  # worse than chance: take the opposite truth
    truth_n, p_j, q_j = 1 - truth_n, 1 - q_j, 1 - p_j
  return (truth_n, np.where(silent_j, np.nan, p_j), np.where(silent_j, np.nan, q_j),
          iterations)


def _expect(said_solid, said_pore, p_j, q_j, share):
  """P(solid | votes), [n], from sums of log odds: products could underflow."""
  p_j, q_j, share = _clip(p_j), _clip(q_j), _clip(share)
  return special.expit(
      special.logit(share) + (np.log(p_j) - np.log1p(-q_j)) @ said_solid
      + (np.log1p(-p_j) - np.log(q_j)) @ said_pore)


def _quality(right_j, wrong_j, old_j):
  """Fraction of right votes, [j]; unchanged for an expert without any."""
  total_j = right_j + wrong_j
  return np.where(total_j > 0, _clip(right_j / np.where(total_j > 0, total_j, 1)),
                  old_j)


def _clip(share):
  return np.clip(share, _CLIP, 1 - _CLIP)


def _flat(votes):
  return votes.reshape(len(votes), -1)


def inter_expert_miou(votes_jyx: np.ndarray) -> float | None:
  """Mean mIoU over pairs of experts, a ceiling for any model.

  The mIoU of a pair is pooled over the voxels that both labelled.

  Args:
    votes_jyx: [j, y, x], or any [j, ...], votes 0, 1, 255.

  Returns:
    mIoU; pairs without a common voxel are left out; None without any pair.

  Raises:
    InputError: for another code or fewer than two experts.
  """
  _check_votes(votes_jyx)
  if len(votes_jyx) < 2:
    raise InputError('votes', got='one expert', expected='at least two',
                     remedy='add the labels of another expert')
  scores = []
  for first, second in itertools.combinations(votes_jyx, 2):
    common = np.where(second == UNLABELLED, UNLABELLED, first)
    scores.append(confusion.summarise(confusion.confusion(common, second))['miou'])
  scores = [score for score in scores if score is not None]
  return sum(scores) / len(scores) if scores else None


def _check_votes(votes) -> None:
  if votes.ndim < 2 or not len(votes):
    raise InputError('votes', got=f'shape {votes.shape}',
                     expected='[j, ...] with at least one expert',
                     remedy="stack the experts' masks along a first axis")
  if not np.isin(votes, (0, 1, UNLABELLED)).all():
    raise InputError('votes', got=f'codes {np.unique(votes)[:5].tolist()}',
                     expected='0 pore, 1 solid or 255 unlabelled',
                     remedy='convert the labels with a label profile first')


def merge_regions(regions: Regions, consensus: str) -> tuple[Regions, np.ndarray]:
  """Merges the labels of several experts into one region per place.

  Args:
    regions: rows of the same volume, place and size are votes on one region.
    consensus: 'mean' (share of votes) or 'staple' (weighted by quality; the mean of
      two experts, who do not determine it).

  Returns:
    Regions with the labels of the majority, and [r, y, x] float32 targets P(solid),
    0 where nobody labelled.
  """
  places: dict[tuple, list[int]] = {}
  for r, name in enumerate(regions.volume):
    place = (name, *(int(axis[r]) for axis in (regions.z, regions.y, regions.x,
                                               regions.heights, regions.widths)))
    places.setdefault(place, []).append(r)
  first_rows = [rows[0] for rows in places.values()]
  targets_ryx = np.zeros((len(places), *regions.masks_ryx.shape[1:]), np.float32)
  masks = []
  for k, rows in enumerate(places.values()):
    votes_jyx = np.stack([region_mask(regions, r) for r in rows])
    soft_yx, labelled_yx = mean_vote(votes_jyx)
    if consensus == 'staple' and len(rows) > 2:
      soft_yx = np.where(labelled_yx, staple(votes_jyx, band_px=10.).truth, 0)
    targets_ryx[k, :soft_yx.shape[0], :soft_yx.shape[1]] = soft_yx
    masks.append(np.where(labelled_yx, soft_yx > 0.5, UNLABELLED).astype(np.uint8))
  merged = make_regions([regions.volume[r] for r in first_rows],
                        region_positions(regions)[first_rows], masks,
                        [regions.split[r] for r in first_rows])
  return merged, targets_ryx[:, :merged.masks_ryx.shape[1], :merged.masks_ryx.shape[2]]
