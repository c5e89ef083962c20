"""Where a run's volumes and regions come from: config.data -> volumes + regions.

Three sources give the same thing, named raw volumes on disk and one table of annotated
regions with splits: volumes the user imported ('volumes'), films made by the simulator
('simulate'), and the public FlyEM volume ('flyem'). The last two are made under
workdir/data and have the truth of every voxel beside them, data/<name>/truth.ome.zarr.
"""
import hashlib
from pathlib import Path

import numpy as np

from fibjax.annotation.regions import (
  Regions,
  assign_splits,
  check_regions,
  concatenate_regions,
  load_regions,
  save_regions,
  select_regions,
)
from fibjax.config import SPLITS
from fibjax.datasets import flyem, skarberg2021
from fibjax.datasets.simulated import _simulated, _simulated_regions
from fibjax.errors import InputError
from fibjax.volumes.volume import Volume, open_volume


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
      parts = skarberg2021.import_archive(config.data.root, folder / 'data')
    found = skarberg2021.open_imported(folder / 'data')
  elif config.data.source == 'flyem':
    parts = flyem.load_flyem(config.data.root, folder / 'data' / flyem.NAME)
    found = {flyem.NAME: open_volume(
        folder / 'data' / flyem.NAME / 'raw.ome.zarr')}
  else:
    found = open_named(config.data.volumes)
  for name, volume in found.items():
    check_window(name, volume.shape, window_zyx)
  if (table / 'regions.csv').exists():
    return found, load_regions(table)
  if config.data.source == 'simulate':
    parts = concatenate_regions(
        [_simulated_regions(config, window_zyx, name, i, folder / 'data' / name)
         for i, name in enumerate(found)])
  elif config.data.source == 'volumes':
    parts = _loaded_regions(config.data.regions)
  regions = _split(config, window_zyx, parts)
  check_regions(regions, {n: v.shape for n, v in found.items()},
                              window_zyx)
  save_regions(table, regions)
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
    found[name] = open_volume(path)
  if not found:
    raise InputError('config.data.volumes', got='no volume',
                     expected='volumes made by `fibjax import`',
                     remedy='give --config.data.volumes=A.ome.zarr,B.ome.zarr')
  return found


def open_truth(name: str, folder) -> Volume | None:
  """The truth of every voxel of a made volume, or None where only regions are known."""
  path = Path(folder) / 'data' / name / 'truth.ome.zarr'
  return open_volume(path) if path.exists() else None


def _loaded_regions(folders) -> Regions:
  if not folders:
    raise InputError('config.data.regions', got='no regions',
                     expected='folders made by `fibjax regions`',
                     remedy='give --config.data.regions=DIR')
  return concatenate_regions([load_regions(f) for f in folders])


def _split(config, window_zyx, regions: Regions) -> Regions:
  """Applies config.split; each split must have a region."""
  if config.split.mode != 'table':
    context = np.array((0, *regions.masks_ryx.shape[1:])) + window_zyx
    regions = assign_splits(
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
    masks_ryx = select_regions(regions, split=split).masks_ryx
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


