"""The data source 'simulate' (§7): a film per preset, with annotated regions."""
import shutil
from pathlib import Path

import numpy as np

from fibjax.annotation.regions import SPLITS, Regions, concatenate_regions, make_regions
from fibjax.datasets.source import Request, Source
from fibjax.errors import InputError
from fibjax.formats import label_images
from fibjax.simulation import films
from fibjax.simulation.annotator import Annotator, annotate, annotate_stack
from fibjax.system import files, progress
from fibjax.volumes.volume import Volume, new_volume, open_volume, read_box, write_box

_AROUND_PX = 30  # surroundings of a region that an expert sees (annotator.py)


def read_geometry(path, solid_code: int | None = None) -> np.ndarray | None:
  """Reads the geometry of a real volume for a simulated film.

  Args:
    path: file of codes, 0 pore and 1 solid; None for a random geometry.
    solid_code: code of the solid in a file with other codes; all others are pore.

  Returns:
    uint8 [z, y, x], 1 = solid; None without a path.

  Raises:
    InputError: as `label_images.read_masks`, for codes other than 0 and 1, without a
      voxel of solid_code, or for a solid_code without a path.
  """
  if path is None:
    if solid_code is not None:
      raise InputError('--solid_code', got=solid_code, expected='--geometry as well',
                       remedy='add --geometry=FILE, or omit --solid_code')
    return None
  codes_zyx = label_images.read_masks(path)
  codes = np.unique(codes_zyx).tolist()
  if not (set(codes) <= {0, 1} if solid_code is None else solid_code in codes):
    listed = ', '.join(map(str, codes[:8])) + (', ...' if len(codes) > 8 else '')
    raise InputError(str(path), got=f'codes {listed}',
                     expected='0 (pore) and 1 (solid)' if solid_code is None
                     else f'{solid_code} (solid) among them',
                     remedy='give the code of the solid with --solid_code')
  return (codes_zyx == (1 if solid_code is None else solid_code)).astype(np.uint8)


def simulate(preset: str, shape_zyx, seed: int, artefacts: str, folder, *,
             geometry: np.ndarray | None = None, geometry_scale: int = 4,
             shine_through: float = 1., annotator: bool = False) -> None:
  """Writes a simulated film: folder/truth.ome.zarr and folder/raw.ome.zarr.

  Args:
    preset, shape_zyx, seed, artefacts, geometry, geometry_scale, shine_through: as in
      `films.simulate_film`.
    folder: folder to write to, created if necessary.
    annotator: whether to write the labels of an imperfect expert as well
      (folder/annotated.ome.zarr, uint8).

  Raises:
    InputError: as `films.simulate_film`, or when folder has a film already.
  """
  folder = Path(folder)
  files.check_absent(folder / 'raw.ome.zarr')
  film = films.simulate_film(preset, tuple(shape_zyx), seed, artefacts=artefacts,
                             geometry=geometry, geometry_scale=geometry_scale,
                             shine_through=shine_through)
  write_film(film, folder,
             annotate_stack(film.truth_zyx, seed) if annotator else None)


def write_film(film: films.Film, folder: Path,
               annotated_zyx: np.ndarray | None = None) -> None:
  """Writes a film, and labels of an expert where they are given, into a folder.

  raw.ome.zarr is written last, so that its presence marks the film as complete.
  Incomplete volumes of an interrupted call are replaced.
  """
  arrays = {'truth': film.truth_zyx, 'raw': film.image_zyx}
  if annotated_zyx is not None:
    arrays = {'annotated': annotated_zyx, **arrays}
  for leftover in ('truth.ome.zarr', 'annotated.ome.zarr',
                   'annotated.ome.zarr.partial'):
    shutil.rmtree(folder / leftover, ignore_errors=True)
  for name, array_zyx in arrays.items():
    with new_volume(folder / f'{name}.ome.zarr', array_zyx.shape, array_zyx.dtype,
                    film.voxel_size_zyx_nm, fill_value=None,
                    attributes={'simulation': film.meta}) as volume:
      write_box(volume, (0, 0, 0), array_zyx)


def _open_films(request: Request) -> dict[str, Volume]:
  """Opens the films of a run, simulated first where they are missing."""
  data, volumes = request.data, {}
  for index, name in enumerate(data.presets):
    raw = request.run.raw(name)
    if not raw.exists():
      geometry = read_geometry(data.geometries[index], 1) if data.geometries else None
      simulate(name, data.shape_zyx, data.seed + index, data.artefacts, raw.parent,
               shine_through=data.shine_through, geometry=geometry,
               geometry_scale=data.geometry_scale)
      progress.say(f'simulated {name}')
    volumes[name] = open_volume(raw)
  return volumes


def annotate_films(request: Request, volumes: dict[str, Volume]) -> Regions:
  """Annotates random places of films whose truth stands in the workdir."""
  return concatenate_regions([_annotate_film(request, name, index)
                              for index, name in enumerate(volumes)])


def _describe(data) -> list[tuple[str, str]]:
  return [('simulated films', f'presets {", ".join(data["presets"])}, seed '
           f'{data["seed"]}, artefacts {data["artefacts"]}'),
          *(('real geometry', path) for path in data.get('geometries', ()))]


SOURCE = Source(_open_films, annotate_films, _describe, is_simulated=True)


def _annotate_film(request: Request, name: str, index: int) -> Regions:
  """Annotates regions at random places of a film, each split in a range of depth.

  The splits get fractions of the slices from the top down, so that no neighbourhood
  reaches into the slices of another split (as intended by 'blocked', §1.3).
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
                     expected=f'space for regions of {data.region_px} px and '
                     f'{window_zyx[0]} slices per split',
                     remedy='enlarge it or lower config.data.region_px')
  annotator = Annotator(data.expert_sd_px, omission=data.expert_omission)
  positions, masks, splits = [], [], []
  for split, low, high, share in zip(SPLITS, edges[:-1], edges[1:],
                                     request.fractions, strict=True):
    for _ in range(max(1, round(share * data.regions_per_volume))):
      z = int(random.integers(low + half, high - half))
      y, x = (int(random.integers(m, extent - data.region_px - m + 1))
              for m, extent in zip(margins, (height, width), strict=True))
      votes = _votes(truth, (z, y, x), data.region_px,
                     0 if split == 'test' else data.experts, annotator,
                     (data.seed, index, len(masks)))
      positions += [(z, y, x)] * len(votes)
      masks += votes
      splits += [split] * len(votes)
  return make_regions((name,) * len(masks), positions, masks, splits)


def _votes(truth: Volume, start, side_px: int, experts: int, annotator: Annotator,
           seed) -> list[np.ndarray]:
  """Masks [y, x] of a region, one per expert; without experts, the truth.

  Experts draw a region together with its surroundings, since outlines near the border
  depend on what lies beyond it.
  """
  z, y, x = start
  top, left = min(y, _AROUND_PX), min(x, _AROUND_PX)
  stop = [min(a + side_px + _AROUND_PX, n)
          for a, n in zip((y, x), truth.shape[1:], strict=True)]
  around_yx = read_box(truth, (z, y - top, x - left), (z + 1, *stop))[0]
  drawn = [annotate(around_yx, (*seed, j + 1), annotator) for j in range(experts)]
  return [mask_yx[top:top + side_px, left:left + side_px]
          for mask_yx in drawn or [around_yx]]
