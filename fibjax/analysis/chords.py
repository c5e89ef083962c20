"""Chord lengths of a phase along the axes.

A chord is a run of voxels of a phase on a line along an axis; its length is their
number times the spacing. The length of chords that touch the border is unknown:
dropping them favours short chords, and so does counting them at their visible length.
The product-limit estimator (Kaplan and Meier 1958, J. Am. Stat. Assoc. 53, 457) treats
them as censored, at least that long. The sample is made of the chords that begin in the
volume, seen along the axis and against it: a chord with both ends inside counts twice,
one with one end inside once, and one without an end inside not at all.

In an isotropic medium of porosity phi and specific surface s the mean is 4 phi / s.
Chords and gaps shorter than the spacing are missed, so that lengths tend to be too
large along a coarse axis.
"""
from typing import NamedTuple

import numpy as np

from fibjax.analysis.phases import AXES, find_pore
from fibjax.errors import InputError

PHASES = ('pore', 'solid')


class Chords(NamedTuple):
  """Chords of a phase along one axis, counted by their length in voxels.

  Attributes:
    spacing_nm: voxel size along the axis.
    inside_l: [l] number of chords of length l with both ends in the volume.
    cut_l: [l] number of chords with one end at the border, by their visible length.
    through: number of lines in the phase from border to border.
  """
  spacing_nm: float
  inside_l: np.ndarray
  cut_l: np.ndarray
  through: int


def find_chords(labels_zyx, voxel_size_zyx_nm, phase: str = 'pore'
                ) -> dict[str, Chords]:
  """Counts the chords of a phase along each axis.

  Args:
    labels_zyx: [z, y, x] 0 pore, 1 solid.
    voxel_size_zyx_nm: voxel size along z, y, x, nm.
    phase: 'pore' or 'solid'.

  Returns:
    axis name -> Chords.

  Raises:
    InputError: as `phases.find_pore`, or for another phase.
  """
  pore_zyx, size = find_pore(labels_zyx, voxel_size_zyx_nm)
  if phase not in PHASES:
    raise InputError('phase', got=repr(phase), expected='pore or solid',
                     remedy='name one of them')
  phase_zyx = pore_zyx if phase == 'pore' else ~pore_zyx
  return {axis: _count(np.moveaxis(phase_zyx, k, -1), size[k])
          for k, axis in enumerate(AXES)}


def _count(phase_pln: np.ndarray, spacing_nm: float) -> Chords:
  """Counts runs along the last axis, plane by plane to save memory."""
  n = phase_pln.shape[-1]
  inside_l, cut_l, through = np.zeros(n + 1, int), np.zeros(n + 1, int), 0
  for phase_ln in phase_pln:
    edges_ln = np.diff(np.pad(phase_ln, ((0, 0), (1, 1))).view(np.int8), axis=1)
    start = np.nonzero(edges_ln == 1)[1]
    stop = np.nonzero(edges_ln == -1)[1]
    ends = (start > 0).astype(int) + (stop < n)
    inside_l += np.bincount((stop - start)[ends == 2], minlength=n + 1)
    cut_l += np.bincount((stop - start)[ends == 1], minlength=n + 1)
    through += int((ends == 0).sum())
  return Chords(spacing_nm, inside_l, cut_l, through)


def pooled(counts: list[Chords]) -> Chords:
  """Counts of several images of the same spacing together."""
  longest = max(len(c.inside_l) for c in counts)
  inside_l, cut_l = (sum(np.pad(getattr(c, name), (0, longest - len(c.inside_l)))
                         for c in counts) for name in ('inside_l', 'cut_l'))
  return Chords(counts[0].spacing_nm, inside_l, cut_l, sum(c.through for c in counts))


def mean_inside(chords: Chords) -> float | None:
  """Mean length of the chords with both ends inside, nm; None without any."""
  total = chords.inside_l.sum()
  if not total:
    return None
  return float(chords.inside_l @ np.arange(len(chords.inside_l)) / total
               * chords.spacing_nm)


def mean_corrected(chords: Chords) -> tuple[float | None, float]:
  """Mean length, corrected for the chords cut by the border.

  Returns:
    mean_nm: mean up to the longest visible chord; None where no chord ends in the
      volume.
    share_beyond: fraction of chords that are longer. Unless it is near 0 the volume is
      too short, and the mean too small.
  """
  end_l = 2 * chords.inside_l
  if not end_l.any():
    return None, 1.0
  # The end of a chord of l voxels is visible only with another voxel behind it. So at
  # length l, chords cut after exactly l are no longer at risk of being seen to end.
  at_risk_l = _at_least(end_l) + _at_least(chords.cut_l) - chords.cut_l
  longer_l = np.cumprod(1 - end_l / np.maximum(at_risk_l, 1))
  longest = int(np.flatnonzero(end_l + chords.cut_l)[-1])
  return float(longer_l[:longest].sum() * chords.spacing_nm), float(longer_l[longest])


def _at_least(count_l: np.ndarray) -> np.ndarray:
  """Number of chords of at least each length."""
  return np.cumsum(count_l[::-1])[::-1]
