"""The data source 'simulate': a film per preset, with regions annotated on it (§7)."""
import shutil
from pathlib import Path

import numpy as np

from fibjax.annotation.regions import SPLITS, Regions, concatenate_regions, make_regions
from fibjax.datasets.source import Request, Source
from fibjax.errors import InputError
from fibjax.formats import label_images
from fibjax.simulation import films
from fibjax.simulation.annotator import annotate, annotate_stack
from fibjax.system import files, progress
from fibjax.volumes.volume import Volume, new_volume, open_volume, read_box, write_box

_AROUND_PX = 30  # what an expert sees around a region (annotator.py)


def read_geometry(path, solid_code: int | None = None) -> np.ndarray | None:
  """Reads a real volume to simulate a film of.

  Args:
    path: file of codes, 0 pore and 1 solid; None gives None.
    solid_code: the code of the solid among any others.

  Returns:
    uint8 [z, y, x], 1 = solid.

  Raises:
    InputError: as `label_images.read_masks`; for other codes, or no voxel of
      solid_code.
  """
  if path is None:
    if solid_code is not None:
      raise InputError('--solid_code', got=solid_code, expected='--geometry with it',
                       remedy='give --geometry=FILE, or leave it out')
    return None
  codes_zyx = label_images.read_masks(path)
  found = np.unique(codes_zyx).tolist()
  known = solid_code in found if solid_code is not None else set(found) <= {0, 1}
  if not known:
    shown = ', '.join(map(str, found[:8])) + (', ...' if len(found) > 8 else '')
    raise InputError(str(path), got=f'codes {shown}',
                     expected='0 (pore) and 1 (solid)' if solid_code is None
                     else f'{solid_code}, the solid, among them',
                     remedy='name the code of the solid with --solid_code')
  return (codes_zyx == (1 if solid_code is None else solid_code)).astype(np.uint8)


def simulate(preset: str, shape_zyx, seed: int, artefacts: str, folder, *,
             geometry: np.ndarray | None = None, geometry_scale: int = 4,
             shine_through: float = 1., annotator: bool = False) -> None:
  """Writes a simulated film: folder/truth.ome.zarr and folder/raw.ome.zarr.

  raw comes last and vouches for the rest: what a killed call left is made again.

  Args:
    preset, shape_zyx, seed, artefacts, geometry, geometry_scale, shine_through: as for
      `films.simulate_film`.
    folder: folder to write to; made if need be.
    annotator: also write folder/annotated.ome.zarr, one expert's labels (uint8).

  Raises:
    InputError: as `films.simulate_film`; when folder holds a film already.
  """
  folder = Path(folder)
  files.check_absent(folder / 'raw.ome.zarr')
  film = films.simulate_film(preset, tuple(shape_zyx), seed, artefacts=artefacts,
                             geometry=geometry, geometry_scale=geometry_scale,
                             shine_through=shine_through)
  arrays = {'truth': film.truth_zyx, 'raw': film.image_zyx}
  if annotator:
    arrays = {'annotated': annotate_stack(film.truth_zyx, seed), **arrays}
  for kind in ('truth.ome.zarr', 'annotated.ome.zarr', 'annotated.ome.zarr.partial'):
    shutil.rmtree(folder / kind, ignore_errors=True)
  for kind, array_zyx in arrays.items():
    with new_volume(folder / f'{kind}.ome.zarr', array_zyx.shape,
                            array_zyx.dtype, film.voxel_size_zyx_nm, fill_value=None,
                            attributes={'simulation': film.meta}) as volume:
      write_box(volume, (0, 0, 0), array_zyx)


def _open_films(request: Request) -> dict[str, Volume]:
  data, films = request.data, {}
  for index, name in enumerate(data.presets):
    raw = request.run.raw(name)
    if not raw.exists():
      simulate(name, data.shape_zyx, data.seed + index, data.artefacts, raw.parent,
               shine_through=data.shine_through)
      progress.say(f'simulated {name}')
    films[name] = open_volume(raw)
  return films


def _annotate_films(request: Request, volumes: dict[str, Volume]) -> Regions:
  return concatenate_regions([_annotate_film(request, name, index)
                              for index, name in enumerate(volumes)])


def _describe(data) -> list[tuple[str, str]]:
  return [('simulated films', f'presets {", ".join(data["presets"])}, seed '
           f'{data["seed"]}, artefacts {data["artefacts"]}')]


SOURCE = Source(_open_films, _annotate_films, _describe, is_simulated=True)


def _annotate_film(request: Request, name: str, index: int) -> Regions:
  """Regions at random places of a film, each split in its own range of depth.

  The splits get shares of the slices from the top down, so that no neighbourhood
  reaches into the slices of another split (the aim of 'blocked', §1.3).
  """
  data, window_zyx = request.data, request.window_zyx
  half = window_zyx[0] // 2
  truth = open_volume(request.run.truth(name))
  depth, height, width = truth.shape
  random = np.random.default_rng((data.seed, index))
  edges = np.rint(np.cumsum((0, *request.fractions)) * depth).astype(int)
  margins = [min(window // 2, (extent - data.region_px) // 2)
             for window, extent in zip(window_zyx[1:], (height, width), strict=True)]
  if min(margins) < 0 or min(np.diff(edges)) < window_zyx[0]:
    raise InputError('config.data.shape_zyx', got=tuple(data.shape_zyx),
                     expected=f'room for regions of {data.region_px} px and '
                     f'{window_zyx[0]} slices per split',
                     remedy='enlarge it or lower config.data.region_px')
  positions, masks, splits = [], [], []
  for split, low, high, share in zip(SPLITS, edges[:-1], edges[1:],
                                     request.fractions, strict=True):
    for _ in range(max(1, round(share * data.regions_per_volume))):
      z = int(random.integers(low + half, high - half))
      y, x = (int(random.integers(m, extent - data.region_px - m + 1))
              for m, extent in zip(margins, (height, width), strict=True))
      votes = _votes(truth, (z, y, x), data.region_px,
                     0 if split == 'test' else data.experts,
                     (data.seed, index, len(masks)))
      positions += [(z, y, x)] * len(votes)
      masks += votes
      splits += [split] * len(votes)
  return make_regions((name,) * len(masks), positions, masks, splits)


def _votes(truth: Volume, start, side_px: int, experts: int, seed) -> list[np.ndarray]:
  """[y, x] masks of a region by each expert; the truth where there is none."""
  z, y, x = start
  top, left = min(y, _AROUND_PX), min(x, _AROUND_PX)
  stop = [min(a + side_px + _AROUND_PX, n)
          for a, n in zip((y, x), truth.shape[1:], strict=True)]
  around_yx = read_box(truth, (z, y - top, x - left), (z + 1, *stop))[0]
  drawn = [annotate(around_yx, (*seed, j + 1)) for j in range(experts)]
  return [mask_yx[top:top + side_px, left:left + side_px]
          for mask_yx in drawn or [around_yx]]
