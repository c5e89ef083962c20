"""Where a run's volumes and regions come from: config.data -> volumes + regions.

Three sources give the same thing, named raw volumes on disk and one table of annotated
regions with splits: volumes the user imported ('volumes'), films made by the simulator
('simulate'), and the public FlyEM volume ('flyem'). The last two are made under
workdir/data and have the truth of every voxel beside them, data/<name>/truth.ome.zarr.
"""
import shutil
from pathlib import Path

import numpy as np

from fibjax import progress
from fibjax.checks import InputError
from fibjax.config import SPLITS
from fibjax.data import flyem
from fibjax.data import regions as region_tables
from fibjax.data import volume as volumes
from fibjax.data.regions import Regions
from fibjax.data.volume import Volume
from fibjax.simulate import films


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
  elif config.data.source == 'flyem':
    parts = flyem.load_flyem(config.data.root, folder / 'data' / flyem.NAME)
    found = {flyem.NAME: volumes.open_volume(
        folder / 'data' / flyem.NAME / 'raw.ome.zarr')}
  else:
    found = open_named(config.data.volumes)
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
        regions, seed=config.seed, fractions=config.split.fractions,
        mode=config.split.mode, context_zyx=context)
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


def simulate(preset: str, shape_zyx, seed: int, artefacts: str, folder) -> None:
  """Writes a simulated film: folder/raw.ome.zarr and folder/truth.ome.zarr."""
  folder = Path(folder)
  film = films.simulate_film(preset, tuple(shape_zyx), seed, artefacts=artefacts)
  for kind, array_zyx in (('truth', film.truth_zyx), ('raw', film.image_zyx)):
    with volumes.new_volume(folder / f'{kind}.ome.zarr', array_zyx.shape,
                            array_zyx.dtype, film.voxel_size_zyx_nm, fill_value=None,
                            attributes={'simulation': film.meta}) as volume:
      volumes.write_box(volume, (0, 0, 0), array_zyx)


def _simulated(config, name: str, index: int, folder: Path) -> Volume:
  data = config.data
  if not (folder / 'raw.ome.zarr').exists():
    truth = folder / 'truth.ome.zarr'
    if truth.exists():  # left by a killed run; the same film is made again
      shutil.rmtree(truth)
    simulate(name, data.shape_zyx, config.seed + index, data.artefacts, folder)
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
  random = np.random.default_rng((config.seed, index))
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
      mask = volumes.read_box(truth, (z, y, x),
                              (z + 1, y + data.region_px, x + data.region_px))[0]
      positions.append((z, y, x))
      masks.append(mask)
      splits.append(split)
  return region_tables.make_regions((name,) * len(masks), positions, masks, splits)
