"""Data sources of a run: config.data -> named raw volumes and annotated regions.

A source is a record of two functions; `SOURCES` is the registry that
config.data.source chooses from. Volumes that a source makes stand under workdir/data;
where the ground truth of every voxel is known, it stands beside them.
"""
import numpy as np

from fibjax.annotation.regions import (
  SPLITS,
  Regions,
  check_regions,
  concatenate_regions,
  load_regions,
  save_regions,
  select_regions,
)
from fibjax.annotation.splits import assign_splits, check_apart
from fibjax.datasets import flyem, random_films, simulated, skarberg2021
from fibjax.datasets.source import Request, Source
from fibjax.errors import InputError, unknown
from fibjax.inference.score import check_window
from fibjax.system import checksums, files
from fibjax.system.run_folder import RunFolder, volume_name
from fibjax.volumes.volume import Volume, open_volume


def _open_user_volumes(request: Request) -> dict[str, Volume]:
  return open_named(request.data.volumes)


def _load_user_regions(request: Request, volumes: dict[str, Volume]) -> Regions:
  del volumes
  folders = request.data.regions
  if not folders:
    raise InputError('config.data.regions', got='no regions',
                     expected='folders made by `fibjax regions`',
                     remedy='give --config.data.regions=DIR')
  return concatenate_regions([load_regions(folder) for folder in folders])


SOURCES: dict[str, Source] = {
    'volumes': Source(_open_user_volumes, _load_user_regions, is_users=True),
    'simulate': simulated.SOURCE,
    'random': random_films.SOURCE,
    'flyem': flyem.SOURCE,
    'zenodo': skarberg2021.SOURCE,
}


def find_source(data) -> Source:
  """The source of config.data.

  Raises:
    InputError: for an unknown source, or volumes given to a source that makes its own.
  """
  if data.source not in SOURCES:
    raise unknown('config.data.source', data.source, SOURCES)
  source = SOURCES[data.source]
  if data.volumes and not source.is_users:
    users = ' or '.join(name for name, other in SOURCES.items() if other.is_users)
    raise InputError('config.data.volumes', got=data.volumes,
                     expected=f'() for data.source={data.source}',
                     remedy=f'leave it out, or give --config.data.source={users}')
  return source


def collect(data, split, window_zyx, run: RunFolder
            ) -> tuple[dict[str, Volume], Regions]:
  """Opens or makes the raw volumes and the annotated regions of a run.

  Args:
    data: config.data.
    split: config.split.
    window_zyx: voxels that the method sees around a voxel. It must fit the volumes,
      and 'blocked' keeps the windows of different splits apart.
    run: workdir; gets the table of regions and the volumes that are made.

  Returns:
    Volumes by name, and regions with their splits.

  Raises:
    InputError: when files are missing or damaged, or regions do not fit the volumes.
  """
  source = find_source(data)
  has_regions = (run.regions / 'regions.csv').exists()
  request = Request(data, split.fractions, tuple(window_zyx), run, has_regions)
  volumes = source.open_volumes(request)
  for name, volume in volumes.items():
    check_window(f'volume {name}', volume.shape, window_zyx)
  if has_regions:
    return volumes, load_regions(run.regions)
  regions = _assign_splits(data, split, window_zyx, source,
                           source.load_regions(request, volumes))
  check_regions(regions, {name: volume.shape for name, volume in volumes.items()},
                window_zyx)
  save_regions(run.regions, regions)
  checksums.seal(run.regions)
  return volumes, regions


def fingerprint(data) -> dict:
  """Hashes of the content of the user's volumes, regions and geometries, by path.

  Args:
    data: config.data.
  """
  return {path: files.hash_files(path)
          for path in (*data.volumes, *data.regions, *data.geometries)}


def open_named(paths) -> dict[str, Volume]:
  """Opens volumes; a volume's name is its file name without '.ome.zarr'.

  Raises:
    InputError: for no volume, or two of one name.
  """
  volumes = {}
  for path in paths:
    name = volume_name(path)
    if name in volumes:
      raise InputError('config.data.volumes', got=f'two volumes named {name}',
                       expected='different names', remedy='rename one of them')
    volumes[name] = open_volume(path)
  if not volumes:
    raise InputError('config.data.volumes', got='no volume',
                     expected='volumes made by `fibjax import`',
                     remedy='give --config.data.volumes=A.ome.zarr,B.ome.zarr')
  return volumes


def open_truth(name: str, run: RunFolder) -> Volume | None:
  """Opens the ground truth of a volume, or None where only regions are known."""
  path = run.truth(name)
  return open_volume(path) if path.exists() else None


def _assign_splits(data, split, window_zyx, source: Source,
                   regions: Regions) -> Regions:
  """Applies config.split and checks that each split has regions of both phases."""
  if split.mode != 'table':
    context = np.array((0, *regions.masks_ryx.shape[1:])) + window_zyx
    regions = assign_splits(regions, seed=data.seed, fractions=split.fractions,
                            mode=split.mode, context_zyx=context)
  unsplit = [r for r, split in enumerate(regions.split) if not split]
  if unsplit and len(unsplit) < len(regions.split):
    raise InputError('regions', got=f'no split in rows {unsplit[:8]}',
                     expected='a split in every row, or in none',
                     remedy="fill the table's column, or let "
                     "--config.split.mode=paper or blocked deal the regions out")
  if split.mode == 'table' and not split.allow_overlap:
    check_apart(regions)
  if source.is_users or data.experts:
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


