"""Split of regions into train, val and test: as published, or by separate contexts."""
import dataclasses
import itertools
import zlib

import numpy as np
from scipy.sparse.csgraph import connected_components

from fibjax.annotation.regions import (
  SPLITS,
  Regions,
  context_offset,
  region_mask,
  region_positions,
  region_sizes,
)
from fibjax.annotation.sizes import PAPER_SIZES
from fibjax.errors import InputError, unknown
from fibjax.metrics.labels import UNLABELLED

_MODES = ('paper', 'blocked')


def context_boxes(regions: Regions, context_zyx) -> tuple[np.ndarray, np.ndarray]:
  """First and past-the-end voxels of the regions' contexts, int [r, 3] z, y, x each.

  A context is never smaller than its region.
  """
  sizes = region_sizes(regions)
  context = np.maximum(sizes, np.asarray(context_zyx))
  starts = region_positions(regions) + context_offset(sizes, context)
  return starts, starts + context


def assign_splits(regions: Regions, *, seed: int, fractions=(.6, .2, .2),
                  mode: str = 'paper', context_zyx=PAPER_SIZES.context_zyx
                  ) -> Regions:
  """Assigns the regions of each volume to train, val and test.

  `paper` shuffles the regions and cuts (§1.3): regions a few slices apart may land in
  different splits. `blocked` keeps them apart: regions whose contexts intersect,
  directly or through others between them, form a group, and a group goes whole to one
  split; the largest groups first, each to the split that lacks most. No region is lost,
  but the fractions are met only as well as the groups allow.

  The split of a volume depends on the seed, its name and its own regions only.

  Args:
    regions: the table; existing splits are replaced.
    seed: seed of the shuffle, at least 0.
    fractions: shares of train, val and test; they sum to 1.
    mode: 'paper' or 'blocked'.
    context_zyx: context of a region for `blocked`, voxels.

  Returns:
    The same table with its splits.

  Raises:
    InputError: for a negative seed, bad fractions or mode, or when `blocked` has too
      few groups.

  Example:
    >>> import fibjax, numpy
    >>> places = [(0, 0, 40 * k) for k in range(5)]
    >>> masks = [numpy.zeros((32, 32), 'uint8')] * 5
    >>> regions = fibjax.make_regions('film', places, masks)
    >>> sorted(fibjax.assign_splits(regions, seed=0).split)
    ['test', 'train', 'train', 'train', 'val']
  """
  if len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
    raise InputError('split fractions', got=fractions,
                     expected='three numbers that sum to 1',
                     remedy='for example 0.6, 0.2, 0.2')
  if mode not in _MODES:
    raise unknown('split mode', mode, _MODES)
  if seed < 0:
    raise InputError('seed', got=seed, expected='at least 0', remedy='correct it')
  starts, stops = context_boxes(regions, context_zyx)
  split = np.full(len(regions.volume), '', object)
  for name in sorted(set(regions.volume)):
    rows = np.flatnonzero(np.array(regions.volume) == name)
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    if mode == 'paper':
      edges = np.cumsum(_counts(len(rows), fractions))[:-1]
      rows_of_splits = np.split(rng.permutation(rows), edges)
    else:
      group = _groups(starts[rows], stops[rows])
      rows_of_splits = _deal_groups(name, rows, group, fractions, rng)
    for label, chosen in zip(SPLITS, rows_of_splits, strict=True):
      split[chosen] = label
  return dataclasses.replace(regions, split=tuple(split))


def overlapping_rows(regions: Regions) -> list[int]:
  """Rows that share labelled voxels with a region of another split, ascending.

  Their labels are trained on and scored on, so that scores are worth nothing. Voxels
  that one of two regions leaves unlabelled are not shared.
  """
  starts_r2 = region_positions(regions)[:, 1:]
  stops_r2 = starts_r2 + region_sizes(regions)[:, 1:]
  rows_of_slices: dict[tuple, list[int]] = {}
  for r, (name, z) in enumerate(zip(regions.volume, regions.z.tolist(), strict=True)):
    rows_of_slices.setdefault((name, z), []).append(r)
  return sorted({r for rows in rows_of_slices.values()
                 for pair in itertools.combinations(rows, 2)
                 if len({regions.split[r] for r in pair}) > 1
                 and _share_labels(regions, starts_r2, stops_r2, pair)
                 for r in pair})


def _share_labels(regions: Regions, starts_r2, stops_r2, pair: tuple[int, int]) -> bool:
  rows = list(pair)
  start, stop = starts_r2[rows].max(0), stops_r2[rows].min(0)
  if (start >= stop).any():
    return False
  first, second = (
      region_mask(regions, r)[tuple(map(slice, start - starts_r2[r],
                                        stop - starts_r2[r]))] != UNLABELLED
      for r in rows)
  return bool((first & second).any())


def check_apart(regions: Regions) -> None:
  """Checks that no voxel is labelled in regions of different splits.

  Raises:
    InputError: naming the rows (from 0), and the setting that allows it.
  """
  rows = overlapping_rows(regions)
  if rows:
    raise InputError(
        'regions', got=f'{len(rows)} of {len(regions.split)} that share labelled '
        f'voxels with one of another split, rows {", ".join(map(str, rows[:8]))}'
        + (', ...' if len(rows) > 8 else ''),
        expected='splits without a common voxel',
        remedy='correct the split column, let --config.split.mode=blocked deal them '
        'out, or accept scores that are too good by --config.split.allow_overlap=True')


def _counts(n: int, fractions) -> np.ndarray:
  """Integers near n * fractions that sum to n; none is 0 if n allows it."""
  exact = n * np.asarray(fractions, float)
  counts = np.floor(exact + 1e-9).astype(int)
  order = np.argsort(-(exact - counts), kind='stable')
  counts[order[:n - counts.sum()]] += 1
  wanted = exact > 0
  while n >= wanted.sum() and (counts[wanted] == 0).any():
    counts[np.argmax(counts)] -= 1
    counts[np.argmax(wanted & (counts == 0))] += 1
  return counts


def _groups(starts, stops) -> np.ndarray:
  """Group of each box; boxes that intersect, also through others, share a group."""
  touching = ((starts[:, None] < stops[None]) & (starts[None] < stops[:, None])).all(-1)
  return connected_components(touching, directed=False)[1]


def _deal_groups(name, rows, group, fractions, rng) -> list[np.ndarray]:
  """Rows of each split: whole groups, largest first, to the split that lacks most."""
  groups = [rows[group == g] for g in rng.permutation(group.max(initial=-1) + 1)]
  lacking = len(rows) * np.asarray(fractions, float)
  rows_of_splits = [[] for _ in fractions]
  for members in sorted(groups, key=len, reverse=True):
    k = int(np.argmax(lacking))
    lacking[k] -= len(members)
    rows_of_splits[k].extend(members)
  if any(f > 0 and not chosen
         for f, chosen in zip(fractions, rows_of_splits, strict=True)):
    raise InputError(f'blocked split of volume {name}',
                     got=f'{len(groups)} groups of regions with separate contexts',
                     expected='at least one group per split',
                     remedy="annotate further apart, shrink the context or use 'paper'")
  return [np.array(chosen, int) for chosen in rows_of_splits]
