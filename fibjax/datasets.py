"""Where a run's volumes and regions come from: config.data -> volumes + regions.

Three sources give the same thing, named raw volumes on disk and one table of annotated
regions with splits: volumes the user imported ('volumes'), films made by the simulator
('simulate'), and the public FlyEM volume ('flyem'). The last two are made under
workdir/data and have the truth of every voxel beside them, data/<name>/truth.ome.zarr.
"""
import hashlib
import shutil
from pathlib import Path

import numpy as np

from fibjax import progress, workdir
from fibjax.checks import InputError
from fibjax.config import SPLITS
from fibjax.data import flyem, stacks, zenodo
from fibjax.data import regions as region_tables
from fibjax.data import volume as volumes
from fibjax.data.regions import Regions
from fibjax.data.volume import Volume
from fibjax.simulate import annotator as annotators
from fibjax.simulate import films

_AROUND_PX = 30  # what an expert sees around a region (annotator.py)


def collect(config, window_zyx, folder) -> tuple[dict[str, Volume], Regions]:
  """Opens or makes the raw volumes and the table of regions of a run.

  Args:
    config: the experiment; data, split and seed are read.
    window_zyx: voxels the network sees around one voxel; it has to fit the volumes,
      and 'blocked' keeps the windows of different splits apart.
    folder: workdir; the table goes to regions/, made volumes to data/<name>/.

  Returns:
    Volumes by name and regions with their splits.

  Raises:
    InputError: when files are missing or damaged, or regions do not fit the volumes.
  """
  folder = Path(folder)
  table = folder / 'regions'
  if config.data.source == 'simulate':
    found = {name: _simulated(config, name, i, folder / 'data' / name)
             for i, name in enumerate(config.data.presets)}
  elif config.data.source == 'zenodo':
    if not (table / 'regions.csv').exists():
      parts = zenodo.import_archive(config.data.root, folder / 'data')
    found = zenodo.open_imported(folder / 'data')
  elif config.data.source == 'flyem':
    parts = flyem.load_flyem(config.data.root, folder / 'data' / flyem.NAME)
    found = {flyem.NAME: volumes.open_volume(
        folder / 'data' / flyem.NAME / 'raw.ome.zarr')}
  else:
    found = open_named(config.data.volumes)
  for name, volume in found.items():
    check_window(name, volume.shape, window_zyx)
  if (table / 'regions.csv').exists():
    return found, region_tables.load_regions(table)
  if config.data.source == 'simulate':
    parts = region_tables.concatenate(
        [_simulated_regions(config, window_zyx, name, i, folder / 'data' / name)
         for i, name in enumerate(found)])
  elif config.data.source == 'volumes':
    parts = _loaded_regions(config.data.regions)
  regions = _split(config, window_zyx, parts)
  region_tables.check_regions(regions, {n: v.shape for n, v in found.items()},
                              window_zyx)
  region_tables.save_regions(table, regions)
  return found, regions


def check_window(name: str, shape, window_zyx) -> None:
  """Raises InputError when a volume is smaller than what the network sees."""
  if any(size < window for size, window in zip(shape, window_zyx, strict=True)):
    raise InputError(f'volume {name}', got=f'shape {tuple(shape)}',
                     expected=f'at least the window {tuple(window_zyx)} of the network',
                     remedy='use a larger volume, or train with a smaller n_xy or n_z')


def fingerprint(config) -> dict:
  """Hashes of the user's volumes and regions, to notice when they change.

  A volume is told by the names and sizes of its (compressed) files, regions by content.
  """
  if config.data.source != 'volumes':
    return {}
  hashes = {}
  for path in (*config.data.volumes, *config.data.regions):
    digest = hashlib.sha256()
    for file in sorted(Path(path).rglob('*')):
      if file.is_file():
        digest.update(f'{file.relative_to(path)} {file.stat().st_size}'.encode())
        if path in config.data.regions:
          digest.update(file.read_bytes())
    hashes[path] = digest.hexdigest()[:16]
  return hashes


def open_named(paths) -> dict[str, Volume]:
  """Opens volumes; a volume's name is its file name without '.ome.zarr'.

  Raises:
    InputError: for no volume, or two of one name.
  """
  found = {}
  for path in paths:
    name = Path(path).name.removesuffix('.ome.zarr')
    if name in found:
      raise InputError('config.data.volumes', got=f'two volumes named {name}',
                       expected='different names', remedy='rename one of them')
    found[name] = volumes.open_volume(path)
  if not found:
    raise InputError('config.data.volumes', got='no volume',
                     expected='volumes made by `fibjax import`',
                     remedy='give --config.data.volumes=A.ome.zarr,B.ome.zarr')
  return found


def open_truth(name: str, folder) -> Volume | None:
  """The truth of every voxel of a made volume, or None where only regions are known."""
  path = Path(folder) / 'data' / name / 'truth.ome.zarr'
  return volumes.open_volume(path) if path.exists() else None


def _loaded_regions(folders) -> Regions:
  if not folders:
    raise InputError('config.data.regions', got='no regions',
                     expected='folders made by `fibjax regions`',
                     remedy='give --config.data.regions=DIR')
  return region_tables.concatenate([region_tables.load_regions(f) for f in folders])


def _split(config, window_zyx, regions: Regions) -> Regions:
  """Applies config.split; each split must have a region."""
  if config.split.mode != 'table':
    context = np.array((0, *regions.masks_ryx.shape[1:])) + window_zyx
    regions = region_tables.assign_splits(
        regions, seed=config.data.seed, fractions=config.split.fractions,
        mode=config.split.mode, context_zyx=context)
  unsplit = [r for r, split in enumerate(regions.split) if not split]
  if unsplit and len(unsplit) < len(regions.split):
    raise InputError('regions', got=f'no split in rows {unsplit[:8]}',
                     expected='a split in every row, or in none',
                     remedy="fill the table's column, or let "
                     "--config.split.mode=paper or blocked deal the regions out")
  if config.data.source == 'volumes' or config.data.experts:
    _check_experts(regions)
  missing = [split for split in SPLITS if split not in regions.split]
  if missing:
    raise InputError('regions', got=f'none in split {", ".join(missing)}',
                     expected='regions to train, validate and test',
                     remedy="annotate more, name splits in the table's column, or let "
                     "--config.split.mode=paper or blocked deal them out")
  for split in ('train', 'val'):
    masks_ryx = region_tables.select(regions, split=split).masks_ryx
    for code, phase in ((0, 'pore'), (1, 'solid')):
      if not (masks_ryx == code).any():
        raise InputError(f'regions of split {split}', got=f'no voxel of class {phase}',
                         expected='both classes', remedy='annotate a region with both '
                         'phases or split the regions otherwise')
  return regions


def _check_experts(regions: Regions) -> None:
  """Raises InputError when labels of one place stand in different splits."""
  splits = {}
  for name, z, y, x, split in zip(regions.volume, regions.z, regions.y, regions.x,
                                  regions.split, strict=True):
    if splits.setdefault((name, z, y, x), split) != split:
      raise InputError(f'regions of volume {name} at {int(z)}, {int(y)}, {int(x)}',
                       got='several splits', expected='all experts of a place in one',
                       remedy="name splits in the table's column")


def read_geometry(path, solid_code: int | None = None) -> np.ndarray | None:
  """Reads a real volume to simulate a film of.

  Args:
    path: file of codes, 0 pore and 1 solid; None gives None.
    solid_code: the code of the solid among any others.

  Returns:
    uint8 [z, y, x], 1 = solid.

  Raises:
    InputError: as `stacks.read_masks`; for other codes, or no voxel of solid_code.
  """
  if path is None:
    if solid_code is not None:
      raise InputError('--solid_code', got=solid_code, expected='--geometry with it',
                       remedy='give --geometry=FILE, or leave it out')
    return None
  codes_zyx = stacks.read_masks(path)
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
  workdir.check_absent(folder / 'raw.ome.zarr')
  film = films.simulate_film(preset, tuple(shape_zyx), seed, artefacts=artefacts,
                             geometry=geometry, geometry_scale=geometry_scale,
                             shine_through=shine_through)
  arrays = {'truth': film.truth_zyx, 'raw': film.image_zyx}
  if annotator:
    arrays = {'annotated': annotators.annotate_stack(film.truth_zyx, seed), **arrays}
  for kind in ('truth.ome.zarr', 'annotated.ome.zarr', 'annotated.ome.zarr.partial'):
    shutil.rmtree(folder / kind, ignore_errors=True)
  for kind, array_zyx in arrays.items():
    with volumes.new_volume(folder / f'{kind}.ome.zarr', array_zyx.shape,
                            array_zyx.dtype, film.voxel_size_zyx_nm, fill_value=None,
                            attributes={'simulation': film.meta}) as volume:
      volumes.write_box(volume, (0, 0, 0), array_zyx)


def _simulated(config, name: str, index: int, folder: Path) -> Volume:
  data = config.data
  if not (folder / 'raw.ome.zarr').exists():
    simulate(name, data.shape_zyx, data.seed + index, data.artefacts, folder,
             shine_through=data.shine_through)
    progress.say(f'simulated {name}')
  return volumes.open_volume(folder / 'raw.ome.zarr')


def _simulated_regions(config, window_zyx, name: str, index: int,
                       folder: Path) -> Regions:
  """Regions at random places, each split in its own range of depth.

  The splits get shares of the slices from the top down, so that no neighbourhood
  reaches into the slices of another split (the aim of 'blocked', §1.3).
  """
  data, half = config.data, window_zyx[0] // 2
  truth = volumes.open_volume(folder / 'truth.ome.zarr')
  depth, height, width = truth.shape
  random = np.random.default_rng((data.seed, index))
  edges = np.rint(np.cumsum((0, *config.split.fractions)) * depth).astype(int)
  margins = [min(window // 2, (extent - data.region_px) // 2)
             for window, extent in zip(window_zyx[1:], (height, width), strict=True)]
  if min(margins) < 0 or min(np.diff(edges)) < window_zyx[0]:
    raise InputError('config.data.shape_zyx', got=tuple(data.shape_zyx),
                     expected=f'room for regions of {data.region_px} px and '
                     f'{window_zyx[0]} slices per split',
                     remedy='enlarge it or lower config.data.region_px')
  positions, masks, splits = [], [], []
  for split, low, high, share in zip(SPLITS, edges[:-1], edges[1:],
                                     config.split.fractions, strict=True):
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
  return region_tables.make_regions((name,) * len(masks), positions, masks, splits)


def _votes(truth: Volume, start, side_px: int, experts: int, seed) -> list[np.ndarray]:
  """[y, x] masks of a region by each expert; the truth where there is none."""
  z, y, x = start
  top, left = min(y, _AROUND_PX), min(x, _AROUND_PX)
  stop = [min(a + side_px + _AROUND_PX, n)
          for a, n in zip((y, x), truth.shape[1:], strict=True)]
  around_yx = volumes.read_box(truth, (z, y - top, x - left), (z + 1, *stop))[0]
  drawn = [annotators.annotate(around_yx, (*seed, j + 1)) for j in range(experts)]
  return [mask_yx[top:top + side_px, left:left + side_px]
          for mask_yx in drawn or [around_yx]]
