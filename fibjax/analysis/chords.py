"""Chord lengths: how far a line along an axis runs in one phase.

A chord is a run of voxels of a phase on a line along an axis, and its length their
number times the spacing. Chords that touch the border have an unknown length: to drop
them favours short ones, to keep them as they are too. The product-limit estimator
(Kaplan and Meier 1958, J. Am. Stat. Assoc. 53, 457) takes them for what they are, at
least that long. A fair sample are the chords that begin in the volume, as seen along
the axis and against it: a chord with both ends inside counts twice, one with one end
once, and one with none is no part of either.

In an isotropic medium of porosity phi and specific surface s the mean is 4 phi / s.
Voxels do not see chords, nor gaps, shorter than the spacing, so lengths are rather too
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
    spacing_nm: of the voxels along the axis.
    inside_l: [l] chords with both ends in the volume; index 0 is length 0.
    cut_l: [l] chords with one end at the border, by what is seen of them.
    through: lines that are of the phase from border to border.
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
    voxel_size_zyx_nm: z, y, x.
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
  """Counts runs along the last axis, plane by plane."""
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


def mean_inside(chords: Chords) -> float | None:
  """Mean length of the chords with both ends inside, nm; None without any."""
  total = chords.inside_l.sum()
  if not total:
    return None
  return float(chords.inside_l @ np.arange(len(chords.inside_l)) / total
               * chords.spacing_nm)


def mean_corrected(chords: Chords) -> tuple[float | None, float]:
  """Mean length with the chords at the border taken into account.

  Returns:
    mean_nm: up to the longest chord seen; None where no chord ends in the volume.
    share_beyond: part of the chords that is longer still. Where it is not near 0 the
      volume is too short, and the mean too small.
  """
  end_l = 2 * chords.inside_l
  if not end_l.any():
    return None, 1.0
  # The end of a chord of l voxels is only seen with another voxel behind it, so the
  # chords that could have been seen to end there are those cut after more than l.
  at_risk_l = _at_least(end_l) + _at_least(chords.cut_l) - chords.cut_l
  longer_l = np.cumprod(1 - end_l / np.maximum(at_risk_l, 1))
  longest = int(np.flatnonzero(end_l + chords.cut_l)[-1])
  return float(longer_l[:longest].sum() * chords.spacing_nm), float(longer_l[longest])


def _at_least(count_l: np.ndarray) -> np.ndarray:
  """Sums of the counts from each length on."""
  return np.cumsum(count_l[::-1])[::-1]
