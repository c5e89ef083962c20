"""Reading of what the report shows from a workdir; missing files become notes.

Volumes are read in boxes: one region or one slice at a time. Notes are plain sentences
for the reader of the page. A damaged file raises InputError.
"""
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fibjax.annotation import splits
from fibjax.annotation.regions import SPLITS, Regions, load_regions, region_mask
from fibjax.metrics import confusion
from fibjax.report.figures import RegionPanel
from fibjax.report.published import SIZES_XY
from fibjax.system import files
from fibjax.system.run_folder import RunFolder
from fibjax.volumes.volume import Volume, open_volume, read_box

_SPLIT_NAMES = {'test': 'test', 'val': 'validation', 'train': 'training'}
_SPLIT_ORDER = (*_SPLIT_NAMES, '')  # which split to show a region of
_SURROUND = 1.35  # side of the drawn image, relative to the largest neighbourhood


class Film(NamedTuple):
  """Volumes of one film, each None until the run has written it.

  Attributes:
    name: name of the film.
    image: prepared volume, or the raw one before preparation.
    score: P(solid).
    segmentation: 0 pore, 1 solid.
  """
  name: str
  image: Volume | None
  score: Volume | None
  segmentation: Volume | None


class Neighbourhood(NamedTuple):
  """Arguments of figures.neighbourhood_figure."""
  stack_zyx: np.ndarray
  sizes_px: tuple[int, ...]
  chosen_px: int | None
  voxel_size_yx_nm: tuple[float, float] | None


def read_json_if_any(path, notes: list[str]) -> dict:
  """Reads a JSON file; a missing one gives {} and a note."""
  path = Path(path)
  if not path.is_file():
    notes.append(f'{path.name} is missing: the run has not written it yet.')
    return {}
  return files.read_json_object(path)


def open_films(run: RunFolder) -> list[Film]:
  """Opens the volumes that a run has, films in the order of their names."""
  names = {path.name for group in (run.data, run.prepared, run.segmentation)
           for path in group.glob('*') if path.is_dir()}

  def open_if_any(path):
    return open_volume(path) if path.is_dir() else None

  return [Film(name, open_if_any(run.prepared / name) or open_if_any(run.raw(name)),
               open_if_any(run.scores / name), open_if_any(run.segmentation / name))
          for name in sorted(names)]


def load_regions_if_any(run: RunFolder, notes: list[str]) -> Regions | None:
  """Loads the run's regions; None and a note when there are none."""
  if not (run.regions / 'regions.csv').is_file():  # written last
    notes.append('There are no annotated regions, so nothing was compared with labels.')
    return None
  return load_regions(run.regions)


def overlap_warnings(run: RunFolder) -> list[str]:
  """A sentence for each split whose regions overlap those of another one."""
  regions = load_regions_if_any(run, [])
  rows = splits.overlapping_rows(regions) if regions else []
  counts = {name: [regions.split[r] for r in rows].count(name) for name in SPLITS}
  return [f'{count} of {regions.split.count(name)} {_SPLIT_NAMES[name]} regions share '
          f'labelled voxels with regions of another split: the scores of the '
          f'{_SPLIT_NAMES[name]} split are too good.'
          for name, count in counts.items() if count and name != 'train']


def voxel_size_yx_nm(volume) -> tuple[float, float] | None:
  """Returns the in-plane voxel size of a volume, None when unknown."""
  size = volume.voxel_size_zyx_nm
  return None if size is None else tuple(size[1:])


def _read_region(volume, regions, r):
  start = int(regions.z[r]), int(regions.y[r]), int(regions.x[r])
  size = 1, int(regions.heights[r]), int(regions.widths[r])
  return read_box(volume, start, tuple(np.add(start, size).tolist()))[0]


def region_panel(film: Film, regions,
                 notes: list[str]) -> tuple[RegionPanel, str] | None:
  """Reads the region of median accuracy, which is neither the best nor the worst.

  Test regions are preferred; without any, the next split is used, with a note.

  Returns:
    the panel and a phrase that identifies the region; None, with a note, when there is
    no region or a volume is missing.
  """
  missing = [field for field in ('image', 'score', 'segmentation')
             if getattr(film, field) is None]
  if missing:
    notes.append(f'{film.name}: no {" and no ".join(missing)} volume, so no region '
                 'is shown.')
    return None
  by_split = {}
  if regions is not None:
    for r, (name, split) in enumerate(zip(regions.volume, regions.split, strict=True)):
      if name == film.name:
        by_split.setdefault(split, []).append(r)
  split = next((split for split in _SPLIT_ORDER if split in by_split), None)
  if split is None:
    notes.append(f'{film.name}: no annotated regions, so no comparison is shown.')
    return None
  description = f'{_SPLIT_NAMES[split]} region' if split else 'region without a split'
  if split != 'test':
    notes.append(f'{film.name}: no test regions; a {description} is shown instead.')
  ranked = sorted(by_split[split], key=lambda r: (_accuracy(film, regions, r), r))
  r = ranked[(len(ranked) - 1) // 2]
  panel = RegionPanel(
      film.name, _read_region(film.image, regions, r),
      region_mask(regions, r), _read_region(film.score, regions, r),
      _read_region(film.segmentation, regions, r), voxel_size_yx_nm(film.image))
  position = f'z {regions.z[r]}, y {regions.y[r]}, x {regions.x[r]}'
  return panel, f'{film.name}: {description} at {position}'


def _accuracy(film, regions, r):
  counts = confusion.confusion(region_mask(regions, r),
                               _read_region(film.segmentation, regions, r))
  accuracy = confusion.summarise(counts)['accuracy']
  return -1.0 if accuracy is None else accuracy


def read_slice(film: Film) -> tuple[int, np.ndarray, np.ndarray] | None:
  """Reads the middle slice and its segmentation; None without both volumes."""
  if film.image is None or film.segmentation is None:
    return None
  z = film.image.shape[0] // 2
  box = (z, 0, 0), (z + 1, *film.image.shape[1:])
  return (z, read_box(film.image, *box)[0],
          read_box(film.segmentation, *box)[0])


def read_preparation(film: Film, record: dict | None):
  """Reads the middle slice as acquired and as prepared.

  Args:
    film: with its prepared volume.
    record: of preprocessing.json; None gives None.

  Returns:
    (z, raw_yx, prepared_yx); None when the raw volume no longer exists.
  """
  if not record or film.image is None or not Path(record['source']).is_dir():
    return None
  z = film.image.shape[0] // 2
  box = (z, 0, 0), (z + 1, *film.image.shape[1:])
  return (z, *(read_box(volume, *box)[0] for volume in (
      open_volume(record['source']), film.image)))


def read_neighbourhood(films: list[Film], model: dict) -> Neighbourhood | None:
  """Reads a neighbourhood of high contrast in the middle slice of the first film."""
  film = next((f for f in films if f.image is not None), None)
  if film is None:
    return None
  n_z, h, w = film.image.shape
  chosen = model.get('n_xy')
  fitting = [s for s in sorted({*SIZES_XY, chosen or SIZES_XY[0]}) if s <= min(h, w)]
  if not fitting:
    return None
  side = max(min(round(fitting[-1] * _SURROUND), min(h, w) - 1) | 1, fitting[-1])
  z = n_z // 2
  half_z = min((model.get('n_z') or 1) // 2, z, n_z - 1 - z)
  slice_yx = read_box(film.image, (z, 0, 0), (z + 1, h, w))[0]
  inner = chosen if chosen in fitting else fitting[0]
  y, x = _contrast_corner(slice_yx, side, inner)
  stack = read_box(film.image, (z - half_z, y, x),
                   (z + half_z + 1, y + side, x + side))
  return Neighbourhood(stack, tuple(fitting), inner if chosen == inner else None,
                       voxel_size_yx_nm(film.image))


def _contrast_corner(slice_yx, side, inner, n=7):
  """Finds, on an n × n grid, the square whose inner square has the highest contrast."""
  pad = (side - inner) // 2
  corners = [(int(y), int(x)) for y in np.linspace(0, slice_yx.shape[0] - side, n)
             for x in np.linspace(0, slice_yx.shape[1] - side, n)]
  return max(corners, key=lambda c: float(np.std(
      slice_yx[c[0] + pad:c[0] + pad + inner, c[1] + pad:c[1] + pad + inner])))
