"""Annotated regions: in-plane rectangles with a mask each, and their split.

One row = one rectangle in one slice of one volume: name of the volume, z, y, x of its
top-left voxel, height and width, split ('train', 'val', 'test' or '' = none yet). The
masks are one array [r, y, x] uint8, 0 pore, 1 solid, 255 unlabelled; a smaller region
fills the top-left corner and is padded with 255. On disk: regions.csv + masks.npy.

The context of a region is the box around it that an annotator or a network sees; it is
centred on the region. Contexts are half-open boxes in voxels, z, y, x.
"""
import csv
import dataclasses
import io
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from scipy.sparse.csgraph import connected_components

from fibjax.errors import InputError, unknown
from fibjax.formats import label_images
from fibjax.formats.label_codes import decode_labels
from fibjax.metrics.labels import PORE, SOLID, UNLABELLED
from fibjax.system import csv_files, files

SPLITS = ('train', 'val', 'test')
_COLUMNS = ('volume', 'z', 'y', 'x', 'height', 'width', 'split')


@dataclasses.dataclass(frozen=True, eq=False)
class Regions:
  """The table; row r of every field is region r.

  Attributes:
    volume: names of the volumes.
    z, y, x: [r] int top-left voxels.
    split: 'train', 'val', 'test' or ''.
    masks_ryx: [r, y, x] uint8 labels, 255 outside a smaller region.
    heights, widths: [r] int voxels in y and x.
  """
  volume: tuple[str, ...]
  z: np.ndarray
  y: np.ndarray
  x: np.ndarray
  split: tuple[str, ...]
  masks_ryx: np.ndarray
  heights: np.ndarray
  widths: np.ndarray


def make_regions(volume, positions_r3, masks, split=None) -> Regions:
  """Builds Regions from masks that may differ in size.

  Args:
    volume: names of the volumes, one per region.
    positions_r3: [r, 3] z, y, x of the top-left voxels.
    masks: list of [y, x] labels 0, 1, 255.
    split: one per region; None leaves all without.

  Raises:
    InputError: when the lengths differ or a split is unknown.
  """
  n = len(masks)
  split = tuple(split) if split is not None else ('',) * n
  positions = np.asarray(positions_r3, int).reshape(-1, 3)
  if not len(volume) == len(positions) == len(split) == n:
    raise InputError('regions', got=f'{len(positions)} rows and {n} masks',
                     expected='one mask per row',
                     remedy='correct the table or the masks')
  others = sorted(set(split) - {*SPLITS, ''})
  if others:
    raise InputError('regions: split', got=others,
                     expected='train, val, test or empty', remedy='correct the column')
  heights = np.array([m.shape[0] for m in masks], int)
  widths = np.array([m.shape[1] for m in masks], int)
  masks_ryx = np.full((n, heights.max(initial=0), widths.max(initial=0)), UNLABELLED,
                      np.uint8)
  for padded_yx, mask_yx in zip(masks_ryx, masks, strict=True):
    padded_yx[:mask_yx.shape[0], :mask_yx.shape[1]] = mask_yx
  return Regions(tuple(volume), *positions.T, split, masks_ryx, heights, widths)


def region_mask(regions: Regions, r: int) -> np.ndarray:
  """The [y, x] labels of region r without padding."""
  return regions.masks_ryx[r, :regions.heights[r], :regions.widths[r]]


def save_regions(folder, regions: Regions) -> None:
  """Writes regions.csv and masks.npy; the table comes last, so it vouches for both."""
  folder = Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  with files.whole_file(folder / 'masks.npy') as partial:
    np.save(partial, regions.masks_ryx)
  rows = zip(regions.volume, regions.z, regions.y, regions.x, regions.heights,
             regions.widths, regions.split, strict=True)
  csv_files.write_csv(folder / 'regions.csv', [
      dict(zip(_COLUMNS, row, strict=True)) for row in rows], _COLUMNS)


def load_regions(folder) -> Regions:
  """Reads what `save_regions` wrote.

  Raises:
    InputError: when a file is missing, damaged, or the two disagree.
  """
  folder = Path(folder)
  name = str(folder / 'regions.csv')
  rows = _read_csv(name)
  volume, positions, split = _parse(rows, name)
  sizes = _integers(rows, ('height', 'width'), name)
  masks_ryx = label_images.read_masks(folder / 'masks.npy')
  if (masks_ryx.ndim != 3 or masks_ryx.dtype != np.uint8 or len(masks_ryx) != len(rows)
      or (sizes < 1).any() or (sizes > masks_ryx.shape[1:]).any()):
    raise InputError(str(folder / 'masks.npy'),
                     got=f'{masks_ryx.dtype} masks of shape {masks_ryx.shape}',
                     expected=f'uint8, one for each of {len(rows)} rows of regions.csv',
                     remedy='import the regions again')
  masks = [m[:h, :w] for m, (h, w) in zip(masks_ryx, sizes, strict=True)]
  return make_regions(volume, positions, masks, split)


def select_regions(regions: Regions, *, split=None, volume=None) -> Regions:
  """Regions of one split and/or one volume, in order."""
  return _take(regions, [
      r for r in range(len(regions.volume))
      if split in (None, regions.split[r]) and volume in (None, regions.volume[r])])


def concatenate_regions(parts: list[Regions]) -> Regions:
  """Joins several Regions; masks are padded with 255 to the largest."""
  return make_regions(
      [v for p in parts for v in p.volume],
      np.concatenate([_positions(p) for p in parts] or [np.empty((0, 3), int)]),
      [region_mask(p, r) for p in parts for r in range(len(p.volume))],
      [s for p in parts for s in p.split])


def check_regions(regions: Regions, shapes: Mapping, window_zyx=None) -> None:
  """Checks that every region lies in its volume and holds labels only.

  Args:
    regions: the table.
    shapes: name of a volume -> its shape, z, y, x.
    window_zyx: a network's neighbourhood, which must fit into each volume in use.

  Raises:
    InputError: naming the region (its row, from 0) and the volume.
  """
  for name in sorted(set(regions.volume)):
    if name not in shapes:
      raise unknown(f'region {regions.volume.index(name)}: volume', name,
                    sorted(shapes), 'correct the name or add the volume')
    if window_zyx and any(w > n for w, n in zip(window_zyx, shapes[name], strict=True)):
      raise InputError(f'volume {name}',
                       got=f'shape {tuple(shapes[name])}, window {tuple(window_zyx)}',
                       expected='a window no larger than the volume',
                       remedy='choose a smaller n_xy or n_z, or a larger volume')
  starts = _positions(regions)
  stops = starts + _sizes(regions)
  for r, (start, stop) in enumerate(zip(starts, stops, strict=True)):
    shape = shapes[regions.volume[r]]
    if (start < 0).any() or (stop > shape).any() or (stop <= start).any():
      raise InputError(f'region {r} of volume {regions.volume[r]}',
                       got=f'box {start.tolist()} to {stop.tolist()}',
                       expected=f'a box inside the volume of shape {tuple(shape)}',
                       remedy='correct z, y, x (voxels, from 0) or leave it out')
    bad = np.setdiff1d(region_mask(regions, r), (PORE, SOLID, UNLABELLED))
    if bad.size:
      raise InputError(f'region {r} of volume {regions.volume[r]}',
                       got=f'codes {bad.tolist()} in its mask',
                       expected='0 pore, 1 solid, 255 unlabelled',
                       remedy='import the masks with a label profile')


def propose_positions(shape, n: int, size_yx, context_yx, context_z: int,
                      seed: int) -> np.ndarray:
  """Draws n independent positions whose whole context lies inside the volume (§1.3).

  Args:
    shape: voxels of the volume, z, y, x.
    n: number of regions; they may overlap, as in the paper.
    size_yx: height and width of a region.
    context_yx, context_z: box around it to keep inside, e.g. (384, 384) and 7.
    seed: seed of the draw.

  Returns:
    [n, 3] int z, y, x of the top-left voxels.

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
  first = -_context_offset(size, context)
  return np.random.default_rng(seed).integers(
      first, first + shape - context, size=(n, 3), endpoint=True)


def context_boxes(regions: Regions, context_zyx) -> tuple[np.ndarray, np.ndarray]:
  """First and past-the-end voxels [r, 3] of the regions' contexts, region included."""
  sizes = _sizes(regions)
  context = np.maximum(sizes, np.asarray(context_zyx))
  starts = _positions(regions) + _context_offset(sizes, context)
  return starts, starts + context


def assign_splits(regions: Regions, *, seed: int, fractions=(.6, .2, .2), mode='paper',
                  context_zyx=(7, 384, 384)) -> Regions:
  """Splits the regions of each volume into train, val and test.

  `paper` shuffles regions and cuts (§1.3): regions a few slices apart may land in
  different splits. `blocked` keeps them apart: regions whose contexts intersect, also
  through others between them, form a group, and a group goes whole to one split;
  the largest groups first, each to the split that lacks most. No region is lost, but
  the fractions hold only as well as the groups allow.

  A volume's split depends on the seed, its name and its own regions only.

  Args:
    regions: the table; existing splits are replaced.
    seed: seed of the shuffle.
    fractions: of train, val, test; they sum to 1.
    mode: 'paper' or 'blocked'.
    context_zyx: context of a region for `blocked`.

  Raises:
    InputError: for bad fractions or mode, or when `blocked` has too few groups.
  """
  if len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
    raise InputError('split fractions', got=fractions,
                     expected='three numbers that sum to 1',
                     remedy='for example 0.6, 0.2, 0.2')
  if mode not in ('paper', 'blocked'):
    raise InputError('split mode', got=repr(mode), expected="'paper' or 'blocked'",
                     remedy='correct it')
  starts, stops = context_boxes(regions, context_zyx)
  split = np.full(len(regions.volume), '', object)
  for name in sorted(set(regions.volume)):
    rows = np.flatnonzero(np.array(regions.volume) == name)
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    if mode == 'paper':
      edges = np.cumsum(_counts(len(rows), fractions))[:-1]
      parts = np.split(rng.permutation(rows), edges)
    else:
      group = _groups(starts[rows], stops[rows])
      parts = _deal_groups(name, rows, group, fractions, rng)
    for part, label in zip(parts, SPLITS, strict=True):
      split[part] = label
  return dataclasses.replace(regions, split=tuple(split))


def import_masks(table, masks, profile: str) -> Regions:
  """Builds Regions from a table and label images in the table's order.

  Args:
    table: CSV file, or rows as mappings, with columns volume, z, y, x (top-left voxel,
      from 0) and optionally split and mask (file name inside the folder `masks`).
    masks: file (2-D/3-D TIFF, PNG, npy) or folder with one file per region, taken in
      natural order unless the table names them.
    profile: key of label_codes.LABEL_CODES.

  Raises:
    InputError: for a bad table, a mask too many or too few, or unknown codes.
  """
  rows, name = (table, 'regions') if not isinstance(table, (str, Path)) else (
      _read_csv(table), str(table))
  rows = list(rows)
  volume, positions, split = _parse(rows, name)
  if rows and all(row.get('mask') for row in rows):
    images = [image for row in rows
              for image in label_images.read_mask_list(Path(masks) / row['mask'])]
  else:
    images = label_images.read_mask_list(masks)
  if len(images) != len(rows):
    raise InputError(str(masks), got=f'{len(images)} masks',
                     expected=f'{len(rows)}, one per row of {name}',
                     remedy='correct the table or the masks')
  labels = [decode_labels(image, profile, f'{masks}: mask {r} of volume {volume[r]}')
            for r, image in enumerate(images)]
  return make_regions(volume, positions, labels, split)


def import_regions(table, masks, profile: str, out) -> Regions:
  """`import_masks` into a folder that does not exist yet; it appears whole or not.

  Raises:
    InputError: as `import_masks`; when out exists.
  """
  files.check_absent(out)
  regions = import_masks(table, masks, profile)
  with files.new_folder(out) as partial:
    save_regions(partial, regions)
  return regions


def _take(regions, rows) -> Regions:
  rows = np.asarray(rows, int)
  return Regions(
      tuple(regions.volume[r] for r in rows), regions.z[rows], regions.y[rows],
      regions.x[rows], tuple(regions.split[r] for r in rows), regions.masks_ryx[rows],
      regions.heights[rows], regions.widths[rows])


def _positions(regions) -> np.ndarray:
  return np.stack([regions.z, regions.y, regions.x], 1)


def _sizes(regions) -> np.ndarray:
  return np.stack([np.ones_like(regions.z), regions.heights, regions.widths], 1)


def _context_offset(size, context):
  """Start of a centred context relative to the region's first voxel."""
  return (size - context) // 2


def _counts(n: int, fractions) -> np.ndarray:
  """Whole numbers near n * fractions that sum to n; none empty if n allows it."""
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
  """Group number of each box; boxes that intersect, also through others, share one."""
  touching = ((starts[:, None] < stops[None]) & (starts[None] < stops[:, None])).all(-1)
  return connected_components(touching, directed=False)[1]


def _deal_groups(name, rows, group, fractions, rng) -> list[np.ndarray]:
  """Rows of each split: whole groups, largest first, to the split that lacks most."""
  groups = [rows[group == g] for g in rng.permutation(group.max(initial=-1) + 1)]
  lacking = len(rows) * np.asarray(fractions, float)
  parts = [[] for _ in fractions]
  for members in sorted(groups, key=len, reverse=True):
    k = int(np.argmax(lacking))
    lacking[k] -= len(members)
    parts[k].extend(members)
  if any(f > 0 and not part for f, part in zip(fractions, parts, strict=True)):
    raise InputError(f'blocked split of volume {name}',
                     got=f'{len(groups)} groups of regions with separate contexts',
                     expected='at least one group per split',
                     remedy="annotate further apart, shrink the context or use 'paper'")
  return [np.array(part, int) for part in parts]


def _read_csv(path) -> list[dict]:
  try:
    text = Path(path).read_text(encoding='utf-8-sig')
  except (OSError, UnicodeDecodeError) as error:
    raise InputError(str(path), got=str(error), expected='a CSV table of regions',
                     remedy='check the path') from None
  return list(csv.DictReader(io.StringIO(text), skipinitialspace=True))


def _parse(rows: Iterable[Mapping], name: str):
  """(volume, positions_r3, split) of table rows."""
  missing = [c for c in ('volume', 'z', 'y', 'x') if any(c not in r for r in rows)]
  if missing or not rows:
    got = f'no column {", ".join(missing)}' if missing else 'no row'
    raise InputError(name, got=got,
                     expected='a table with columns volume, z, y, x',
                     remedy='the first line must hold the column names')
  split = [(r.get('split') or '').strip() for r in rows]
  for r, part in enumerate(split):
    if part not in {*SPLITS, ''}:
      raise InputError(f'{name} row {r}', got=f'split {part!r}',
                       expected='train, val, test or empty', remedy='correct it')
  return ([str(r['volume']).strip() for r in rows],
          _integers(rows, ('z', 'y', 'x'), name), split)


def _integers(rows, columns, name) -> np.ndarray:
  values = np.zeros((len(rows), len(columns)), int)
  for r, row in enumerate(rows):
    for k, column in enumerate(columns):
      try:
        values[r, k] = int(str(row.get(column)).strip())
      except ValueError:
        values[r, k] = -1
      if values[r, k] < 0:
        raise InputError(f'{name} row {r}', got=f'{column} = {row.get(column)!r}',
                         expected='a whole number of voxels, from 0',
                         remedy='correct the table')
  return values
