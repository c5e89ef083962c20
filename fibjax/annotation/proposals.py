"""Proposals of places to annotate in a volume.

A place is the name of the volume and z, y, x of the top-left voxel of a region; a list
of places is a table, with the first columns of regions.csv and the sizes it was made
for. The whole context of a region, the box around it that an annotator sees, lies in
the volume (§1.3). The same arguments give the same places.

* 'random': independent and uniform, as published; an unbiased sample of the volume.
* 'stratified': the same number at all depths, and at each depth in dark and in bright
  places, so that fewer regions cover the variety of the volume. Shuffled, so that an
  annotator who stops early has not left out one end.
* 'uncertain': where a trained ensemble is least certain, the worst first; regions do
  not overlap. A biased sample: for training, not for testing.
"""
import math

import numpy as np

from fibjax.annotation.regions import context_offset
from fibjax.annotation.sizes import PAPER_SIZES, Sizes
from fibjax.errors import InputError, unknown
from fibjax.metrics.calibration import binary_entropy
from fibjax.system import csv_files, files
from fibjax.system.run_folder import volume_name
from fibjax.volumes.volume import Volume, read_box

HOW = ('random', 'stratified', 'uncertain')
COLUMNS = ('volume', 'z', 'y', 'x')
_CANDIDATES = 8  # places drawn for each one that is chosen
_REMEDY = 'make it with fibjax regions propose'


def propose(volume: Volume, count: int, how: str, *, seed: int = 0,
            sizes: Sizes | None = None, scores: Volume | None = None
            ) -> list[dict]:
  """Proposes places to annotate.

  Args:
    volume: volume to annotate.
    count: number of regions.
    how: 'random', 'stratified' or 'uncertain'.
    seed: seed of 'random' and 'stratified'.
    sizes: sizes of a region and its context; None takes those of the paper.
    scores: scores of the volume, for 'uncertain': their channel `entropy` is used, or
      the entropy of P(solid) of a single network.

  Returns:
    Rows {volume, z, y, x}.

  Raises:
    InputError: for a bad count, seed or name, a volume smaller than a context, missing
      scores or ones of another shape or range, or no room for count regions.
  """
  sizes = sizes or PAPER_SIZES
  if count < 1:
    raise InputError('count', got=count, expected='at least 1', remedy='correct it')
  if seed < 0:
    raise InputError('seed', got=seed, expected='at least 0', remedy='correct it')
  if how not in HOW:
    raise unknown('how', how, HOW)
  _check_room(volume.shape, sizes)
  if how == 'random':
    places = _draw(volume.shape, count, sizes, seed)
  elif how == 'stratified':
    places = _stratify(volume, count, sizes, seed)
  else:
    places = _most_uncertain(volume, scores, count, sizes)
  name = volume_name(volume.path)
  return [{'volume': name, 'z': int(z), 'y': int(y), 'x': int(x)} for z, y, x in places]


def propose_positions(shape, n: int, size_yx, context_yx, context_z: int,
                      seed: int) -> np.ndarray:
  """Draws independent positions whose whole context lies inside the volume (§1.3).

  Args:
    shape: voxels of the volume, z, y, x.
    n: number of regions; they may overlap, as in the paper.
    size_yx: height and width of a region.
    context_yx, context_z: box around it to keep inside, e.g. (384, 384) and 7.
    seed: seed of the draw.

  Returns:
    [n, 3] int, z, y, x of the top-left voxels.

  Raises:
    InputError: when the context is smaller than the region or does not fit.
  """
  size, context = np.array([1, *size_yx]), np.array([context_z, *context_yx])
  shape = np.asarray(shape)
  if (context < size).any() or (context > shape).any():
    raise InputError('context', got=f'{context.tolist()} voxels z, y, x',
                     expected=f'between the region {size.tolist()} and the volume '
                              f'{shape.tolist()}',
                     remedy='choose smaller regions or a smaller context')
  first = -context_offset(size, context)
  return np.random.default_rng(seed).integers(
      first, first + shape - context, size=(n, 3), endpoint=True)


def save_places(path, places: list[dict], sizes: Sizes) -> None:
  """Writes places as a CSV table, with the sizes of regions and contexts.

  Raises:
    InputError: when path exists.
  """
  files.check_absent(path)
  rows = [{**place, **sizes._asdict()} for place in places]
  csv_files.write_csv(path, rows, COLUMNS + Sizes._fields, checked=False)


def load_places(path) -> tuple[list[dict], Sizes]:
  """Reads a CSV table with columns volume, z, y, x, and the sizes if it has them.

  Returns:
    Rows {volume, z, y, x}, and their sizes, by default those of the paper.

  Raises:
    InputError: for a missing file, another table, or several sizes.
  """
  name = str(path)
  rows = csv_files.read_rows(path, _REMEDY)
  if not rows:
    raise InputError(name, got='no row', expected='at least one place', remedy=_REMEDY)
  missing = [column for column in COLUMNS if column not in rows[0]]
  if missing:
    raise InputError(name, got=f'no column {", ".join(missing)}',
                     expected='a CSV table with columns volume, z, y, x',
                     remedy=_REMEDY)
  positions = csv_files.whole_numbers(rows, 'zyx', name).tolist()
  places = [{'volume': row['volume'].strip(), **dict(zip('zyx', at, strict=True))}
            for row, at in zip(rows, positions, strict=True)]
  given = [key for key in Sizes._fields if key in rows[0]]
  sizes = {Sizes(**dict(zip(given, numbers, strict=True)))
           for numbers in csv_files.whole_numbers(rows, given, name).tolist()}
  if len(sizes) > 1:
    raise InputError(name, got=f'{len(sizes)} different sizes',
                     expected='one size of regions and contexts in a table',
                     remedy='split the table')
  return places, *sizes


def _check_room(shape, sizes: Sizes) -> None:
  context = sizes.context_zyx
  if (sizes.region_px < 1 or sizes.context_px < sizes.region_px
      or any(c < 1 or c > n for c, n in zip(context, shape, strict=True))):
    raise InputError('context', got=f'{context} voxels around {sizes.region_px} px',
                     expected=f'a context that holds the region and fits into {shape}',
                     remedy='give smaller region_px, context_px, context_slices')


def _draw(shape, count: int, sizes: Sizes, seed):
  """Uniform places, [n, 3]."""
  return propose_positions(shape, count, (sizes.region_px,) * 2,
                           (sizes.context_px,) * 2, sizes.context_slices, seed)


def _limits(shape, sizes: Sizes):
  """First and last place in z, y, x."""
  first = np.array(sizes.core_zyx)
  return first, first + np.array(shape) - sizes.context_zyx


def _stratify(volume, count: int, sizes: Sizes, seed: int):
  """Places in bands of depth times levels of brightness, one in each."""
  rng = np.random.default_rng(seed)
  first, last = _limits(volume.shape, sizes)
  bands = min(round(math.sqrt(count)), int(last[0] - first[0]) + 1)
  levels = math.ceil(count / bands)
  edges = np.rint(np.linspace(first[0], last[0] + 1, bands + 1)).astype(int)
  # Bands have one place too many in total unless count is a product: these lose one.
  short = set(rng.choice(bands, bands * levels - count, replace=False).tolist())
  places = []
  for b in range(bands):
    drawn = rng.integers((edges[b], *first[1:]), (edges[b + 1], *(last[1:] + 1)),
                         (_CANDIDATES * levels, 3))
    brightness = [_mean_grey(volume, place, sizes.region_px) for place in drawn]
    order = np.argsort(brightness, kind='stable')
    taken = [drawn[rng.choice(level)] for level in np.array_split(order, levels)]
    if b in short:
      taken.pop(rng.integers(levels))
    places += taken
  return rng.permutation(places)


def _mean_grey(volume, place, region_px: int) -> float:
  z, y, x = map(int, place)
  box = read_box(volume, (z, y, x), (z + 1, y + region_px, x + region_px))
  return float(box.mean(dtype=np.float64))


def _most_uncertain(volume, scores, count: int, sizes: Sizes):
  """Places of largest mean entropy, none in the context slices of another.

  Greedy, on a grid of a quarter of a region: the best place is taken, then all that
  would overlap it are ruled out.
  """
  if scores is None:
    raise InputError('scores', got='none', expected='a score volume for "uncertain"',
                     remedy='give the scores.ome.zarr of a run or ensemble')
  if scores.shape != volume.shape:
    raise InputError(str(scores.path), got=f'shape {scores.shape}',
                     expected=f'{volume.shape} of the volume', remedy='check the path')
  first, last = _limits(volume.shape, sizes)
  step = max(1, sizes.region_px // 4)
  grid = [np.arange(a, b + 1, s)
          for a, b, s in zip(first, last, (1, step, step), strict=True)]
  uncertainty_zyx = np.stack([
      _box_means(_entropy(scores, int(z)), grid[1], grid[2], sizes.region_px)
      for z in grid[0]])
  apart = (sizes.context_slices, sizes.region_px, sizes.region_px)
  places = []
  for _ in range(count):
    best = np.unravel_index(np.argmax(uncertainty_zyx), uncertainty_zyx.shape)
    if uncertainty_zyx[best] == -np.inf:
      raise InputError('count', got=count, expected=f'at most {len(places)}, which is '
                       'what fits', remedy='lower it, or give smaller regions')
    place = [axis[k] for axis, k in zip(grid, best, strict=True)]
    places.append(place)
    near = np.ix_(*(np.abs(axis - at) < d
                    for axis, at, d in zip(grid, place, apart, strict=True)))
    uncertainty_zyx[near] = -np.inf
  return places


def _entropy(scores, z: int):
  """Entropy of one slice, [y, x]."""
  start, stop = (z, 0, 0), (z + 1, *scores.shape[1:])
  if 'entropy' in scores.channels:
    return read_box(scores, start, stop, scores.channels.index('entropy'))[0]
  score_yx = read_box(scores, start, stop)[0]
  if score_yx.dtype.kind != 'f' or not ((score_yx >= 0) & (score_yx <= 1)).all():
    raise InputError(str(scores.path), got=f'{score_yx.dtype} values from '
                     f'{score_yx.min()} to {score_yx.max()} in slice z={z}',
                     expected='scores from 0 to 1, float32',
                     remedy='give scores.ome.zarr/NAME of a run or ensemble')
  return binary_entropy(score_yx)


def _box_means(values_yx, rows, columns, side: int):
  """Means of the squares that start at each of the rows and columns.

  From cumulative sums: the sum over a square is a difference of four of them.
  """
  sums_yx = np.zeros([n + 1 for n in values_yx.shape])
  np.cumsum(np.cumsum(values_yx, 0, dtype=np.float64), 1, out=sums_yx[1:, 1:])
  low, high = np.ix_(rows, columns), np.ix_(rows + side, columns + side)
  mixed = sums_yx[np.ix_(rows, columns + side)] + sums_yx[np.ix_(rows + side, columns)]
  return (sums_yx[low] + sums_yx[high] - mixed) / side ** 2
