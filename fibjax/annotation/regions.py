"""Annotated regions: a table of in-plane rectangles, with the labels of each.

A row is one rectangle in one slice of one volume: name of the volume, z, y, x of its
top-left voxel, height and width, split ('train', 'val', 'test', or '' without one). The
masks are one array [r, y, x] uint8, 0 pore, 1 solid, 255 unlabelled; a smaller region
fills the top-left corner and is padded with 255. On disk: regions.csv and masks.npy.

The context of a region is the box around it that an annotator or a network sees,
centred on the region. Contexts are half-open boxes in voxels, z, y, x.
"""
import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from fibjax.errors import InputError, unknown
from fibjax.formats import label_images
from fibjax.formats.label_codes import decode_labels
from fibjax.metrics.labels import PORE, SOLID, UNLABELLED
from fibjax.system import checksums, csv_files, files

SPLITS = ('train', 'val', 'test')
_COLUMNS = ('volume', 'z', 'y', 'x', 'height', 'width', 'split')


@dataclasses.dataclass(frozen=True, eq=False)
class Regions:
  """Table of regions; row r of every field is region r.

  Attributes:
    volume: [r] names of the volumes.
    z, y, x: [r] int top-left voxels.
    split: [r] 'train', 'val', 'test' or ''.
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
  """Builds Regions from arrays; their sizes may differ.

  Args:
    volume: names of the volumes, one per region, or one name for all.
    positions_r3: [r, 3] integers, z, y, x of the top-left voxels, from 0.
    masks: r arrays [y, x], bool or integers: 0 pore, 1 solid, 255 unlabelled.
    split: 'train', 'val', 'test' or '' for each region; None leaves all without.
      `assign_splits` draws them.

  Raises:
    InputError: for different numbers of names, positions, masks and splits, positions
      that are not integers, a mask of another rank, dtype or code, an empty mask, or
      an unknown split. Whether regions lie inside their volumes is the matter of
      `check_regions`.

  Example:
    >>> import fibjax
    >>> film = fibjax.simulate_film('HPC30', (9, 64, 64), seed=0)
    >>> places = [(2, 0, 0), (4, 16, 32), (6, 32, 16)]
    >>> masks = [film.truth_zyx[z, y:y + 32, x:x + 32] for z, y, x in places]
    >>> regions = fibjax.make_regions('film', places, masks, ['train', 'val', 'test'])
    >>> regions.masks_ryx.shape
    (3, 32, 32)
  """
  n = len(masks)
  volume = (volume,) * n if isinstance(volume, str) else tuple(volume)
  split = tuple(split) if split is not None else ('',) * n
  positions_r3 = _check_positions(positions_r3)
  if not len(volume) == len(positions_r3) == len(split) == n:
    raise InputError('regions', got=f'{len(volume)} names, {len(positions_r3)} '
                     f'positions, {n} masks and {len(split)} splits',
                     expected='one of each per region',
                     remedy='correct the table or the masks')
  others = sorted(set(split) - {*SPLITS, ''})
  if others:
    raise InputError('regions: split', got=others,
                     expected='train, val, test or empty', remedy='correct the column')
  masks = [_check_mask(f'region {r} of volume {name}', mask)
           for r, (name, mask) in enumerate(zip(volume, masks, strict=True))]
  heights = np.array([m.shape[0] for m in masks], int)
  widths = np.array([m.shape[1] for m in masks], int)
  masks_ryx = np.full((n, heights.max(initial=0), widths.max(initial=0)), UNLABELLED,
                      np.uint8)
  for padded_yx, mask_yx in zip(masks_ryx, masks, strict=True):
    padded_yx[:mask_yx.shape[0], :mask_yx.shape[1]] = mask_yx
  return Regions(volume, *positions_r3.T, split, masks_ryx, heights, widths)


def _check_positions(positions_r3) -> np.ndarray:
  positions_r3 = np.asarray(positions_r3)
  if not positions_r3.size:
    return np.empty((0, 3), int)
  if (positions_r3.dtype.kind not in 'iu' or positions_r3.ndim != 2
      or positions_r3.shape[1] != 3):
    raise InputError('regions: positions',
                     got=f'{positions_r3.dtype} of shape {positions_r3.shape}',
                     expected='integers [r, 3], z, y, x of each top-left voxel',
                     remedy='give whole voxels, from 0')
  return positions_r3.astype(int)


def _check_mask(name: str, mask_yx) -> np.ndarray:
  mask_yx = np.asarray(mask_yx)
  if mask_yx.ndim != 2 or not mask_yx.size or mask_yx.dtype.kind not in 'biu':
    raise InputError(name, got=f'a mask of {mask_yx.dtype} and shape {mask_yx.shape}',
                     expected='[y, x] integers or bool',
                     remedy='give the labels of one slice')
  _check_codes(name, mask_yx)
  return mask_yx


def _check_codes(name: str, mask_yx: np.ndarray) -> None:
  wrong = np.setdiff1d(mask_yx, (PORE, SOLID, UNLABELLED))
  if wrong.size:
    raise InputError(name, got=f'codes {wrong.tolist()} in its mask',
                     expected='0 pore, 1 solid, 255 unlabelled',
                     remedy='import the masks with a label profile')


def region_mask(regions: Regions, r: int) -> np.ndarray:
  """Labels of region r without padding, uint8 [y, x]."""
  return regions.masks_ryx[r, :regions.heights[r], :regions.widths[r]]


def save_regions(folder, regions: Regions) -> None:
  """Writes regions into a folder: masks.npy, then regions.csv.

  Args:
    folder: folder to write into, made if need be. Runs read it as config.data.regions.
    regions: the table.

  Example:
    >>> import fibjax, numpy
    >>> mask = numpy.zeros((32, 32), 'uint8')
    >>> regions = fibjax.make_regions('film', [(4, 10, 20)], [mask], ['train'])
    >>> fibjax.save_regions('my_regions', regions)
    >>> fibjax.load_regions('my_regions').split
    ('train',)
  """
  folder = Path(folder)
  with files.whole_file(folder / 'masks.npy') as partial:
    np.save(partial, regions.masks_ryx)
  rows = zip(regions.volume, regions.z, regions.y, regions.x, regions.heights,
             regions.widths, regions.split, strict=True)
  csv_files.write_csv(folder / 'regions.csv', [
      dict(zip(_COLUMNS, row, strict=True)) for row in rows], _COLUMNS, checked=False)


def load_regions(folder) -> Regions:
  """Reads a folder of regions, as of `save_regions` or `fibjax regions import`.

  Args:
    folder: folder with regions.csv and masks.npy.

  Returns:
    The table with its masks.

  Raises:
    InputError: for a missing or damaged file, files that disagree, or a table of a
      workdir that has changed since the run began.

  Example:
    >>> import fibjax
    >>> regions = fibjax.load_regions('film_regions')
    >>> set(regions.split) <= {'train', 'val', 'test', ''}
    True
  """
  folder = Path(folder)
  name = str(folder / 'regions.csv')
  checksums.check(folder / 'masks.npy')
  rows = csv_files.read_rows(name)
  volume, positions, split = _parse(rows, name)
  sizes = csv_files.whole_numbers(rows, ('height', 'width'), name)
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
  return take_regions(regions, [
      r for r in range(len(regions.volume))
      if split in (None, regions.split[r]) and volume in (None, regions.volume[r])])


def concatenate_regions(tables: list[Regions]) -> Regions:
  """Joins several tables; masks are padded with 255 to the largest."""
  return make_regions(
      [name for table in tables for name in table.volume],
      np.concatenate([region_positions(table) for table in tables]
                     or [np.empty((0, 3), int)]),
      [region_mask(table, r) for table in tables for r in range(len(table.volume))],
      [split for table in tables for split in table.split])


def check_regions(regions: Regions, shapes: Mapping, window_zyx=None) -> None:
  """Checks that every region lies inside its volume and holds labels only.

  Args:
    regions: the table.
    shapes: name of each volume -> its shape, z, y, x.
    window_zyx: neighbourhood of the method, which must fit into each volume in use.

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
  starts = region_positions(regions)
  stops = starts + region_sizes(regions)
  for r, (start, stop) in enumerate(zip(starts, stops, strict=True)):
    shape = shapes[regions.volume[r]]
    if (start < 0).any() or (stop > shape).any() or (stop <= start).any():
      raise InputError(f'region {r} of volume {regions.volume[r]}',
                       got=f'box {start.tolist()} to {stop.tolist()}',
                       expected=f'a box inside the volume of shape {tuple(shape)}',
                       remedy='correct z, y, x (voxels, from 0) or leave it out')
    _check_codes(f'region {r} of volume {regions.volume[r]}', region_mask(regions, r))


def import_masks(table, masks, profile: str) -> Regions:
  """Builds Regions from a table and label images in the table's order.

  Args:
    table: CSV file, or rows as mappings, with columns volume, z, y, x (top-left voxel,
      from 0) and optionally split and mask (file name inside the folder `masks`).
    masks: file (2-D/3-D TIFF, PNG, npy) or folder with one file per region, taken in
      natural order unless the table names them.
    profile: key of labels.LABEL_CODES.

  Raises:
    InputError: for a bad table, too many or too few masks, a mask outside the folder,
      or unknown codes.
  """
  rows, name = (table, 'regions') if not isinstance(table, (str, Path)) else (
      csv_files.read_rows(table), str(table))
  rows = list(rows)
  volume, positions, split = _parse(rows, name)
  if any(row.get('mask') for row in rows):
    images = [image for r, row in enumerate(rows)
              for image in label_images.read_mask_list(
                  _mask_file(f'{name} row {r}', Path(masks), row.get('mask')))]
  else:
    images = label_images.read_mask_list(masks)
  if len(images) != len(rows):
    raise InputError(str(masks), got=f'{len(images)} masks',
                     expected=f'{len(rows)}, one per row of {name}',
                     remedy='correct the table or the masks')
  labels = [decode_labels(image, profile, f'{masks}: mask {r} of volume {volume[r]}')
            for r, image in enumerate(images)]
  return make_regions(volume, positions, labels, split)


def _mask_file(name: str, folder: Path, mask) -> Path:
  """Path of the mask that a table names; it must be a file of the folder."""
  if not mask or mask in ('.', '..') or Path(mask).name != mask:
    raise InputError(name, got=f'mask {mask!r}', expected='the name of a file in '
                     f'{folder}, in every row or in none', remedy='correct the table')
  return folder / mask


def import_regions(table, masks, profile: str, out) -> Regions:
  """Imports masks into a new folder, which appears whole or not at all.

  Args:
    table, masks, profile: as for `import_masks`.
    out: folder to make.

  Raises:
    InputError: as `import_masks`, or when out exists.
  """
  files.check_absent(out)
  regions = import_masks(table, masks, profile)
  with files.new_folder(out) as partial:
    save_regions(partial, regions)
  return regions


def take_regions(regions: Regions, rows) -> Regions:
  """The regions of some rows, in their order."""
  rows = np.asarray(rows, int)
  return Regions(
      tuple(regions.volume[r] for r in rows), regions.z[rows], regions.y[rows],
      regions.x[rows], tuple(regions.split[r] for r in rows), regions.masks_ryx[rows],
      regions.heights[rows], regions.widths[rows])


def region_positions(regions: Regions) -> np.ndarray:
  """First voxels of the regions, int [r, 3] z, y, x."""
  return np.stack([regions.z, regions.y, regions.x], 1)


def region_sizes(regions: Regions) -> np.ndarray:
  """Sizes of the regions in voxels, int [r, 3] z, y, x; z is 1."""
  return np.stack([np.ones_like(regions.z), regions.heights, regions.widths], 1)


def context_offset(size, context):
  """Start of a centred context relative to the first voxel of its region."""
  return (size - context) // 2


def _parse(rows: Iterable[Mapping], name: str):
  """Volume names, positions [r, 3] and splits of table rows."""
  missing = [c for c in ('volume', 'z', 'y', 'x') if any(c not in r for r in rows)]
  if missing or not rows:
    got = f'no column {", ".join(missing)}' if missing else 'no row'
    raise InputError(name, got=got,
                     expected='a table with columns volume, z, y, x',
                     remedy='the first line must hold the column names')
  split = [(r.get('split') or '').strip() for r in rows]
  for r, value in enumerate(split):
    if value not in {*SPLITS, ''}:
      raise InputError(f'{name} row {r}', got=f'split {value!r}',
                       expected='train, val, test or empty', remedy='correct it')
  return ([str(r['volume']).strip() for r in rows],
          csv_files.whole_numbers(rows, ('z', 'y', 'x'), name), split)
