"""Published archive of Skarberg et al. 2021: volumes, regions, official split.

Zenodo record 10.5281/zenodo.4317170 (CC BY 4.0) is one file, fib_sem_cnn.zip. For each
sample, HPC22, HPC30 and HPC45, these files of the unzipped folder are read:

  data/raw/HPC22/HPC22_0001.tif ...  aligned and cropped 16-bit slices, numbered from 1:
    slice file = z + 1; 200 of 2247 x 3372 pixels
  data/manual_segmentation/segmentation_regions_HPC22.npy  [3, r] top-left corners of
    r = 100 squares, rows x, y, z, counted from 0
  data/manual_segmentation/manual_segmentation_HPC22.npy  [r, 256, 256], 1 = solid
  data/regions/ind_squares_{train,val,test}_HPC22.npy  the squares of each split

The paper's x is the image row, our y; its y is the column, our x. Squares are counted
from 0 in the lists of the splits as well: the official test squares then have the
published porosities (§1.3), and a list counted from 1 would name a square that does not
exist, which is an error here. The position of a square is the same in all samples, its
split is not.

Sizes are taken from the files, so a reduced archive of the same layout works as well.
"""
import itertools
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fibjax.annotation.regions import (
  SPLITS,
  Regions,
  concatenate_regions,
  make_regions,
)
from fibjax.datasets import unzip
from fibjax.datasets.source import Request, Source
from fibjax.errors import InputError
from fibjax.formats import label_codes, npy, stacks
from fibjax.system import progress
from fibjax.system.run_folder import film_path
from fibjax.volumes.volume import Volume, open_volume

SAMPLES = ('HPC22', 'HPC30', 'HPC45')
VOXEL_SIZE_ZYX_NM = (50.0, 10.0, 10.0)
_FOLDER = 'fib_sem_cnn'
_ZIP_BYTES, _ZIP_MD5 = 9_216_974_498, 'a2884d289ed08f450692bd4fe8aa80b0'
_AGAIN = 'unzip fib_sem_cnn.zip again'
_MAX_WHOLE = 2 ** 31


class Sample(NamedTuple):
  """One sample of an archive, checked except for the pixels of its slices.

  Attributes:
    name: one of SAMPLES.
    slices: folder of its slices.
    shape: voxels, z, y, x.
    regions: its squares in the order of the archive, with the official split.
  """
  name: str
  slices: Path
  shape: tuple[int, int, int]
  regions: Regions


def open_archive(root) -> list[Sample]:
  """Finds and checks the samples of an unzipped archive.

  Args:
    root: folder that holds data/ or fib_sem_cnn/data/.

  Returns:
    Samples whose folder of slices exists, in the order of SAMPLES.

  Raises:
    InputError: naming the missing or damaged file, and its expected content.
  """
  base = _find_base(root)
  samples = [_open_sample(base, name) for name in SAMPLES
             if (base / 'data' / 'raw' / name).exists()]
  if not samples:
    raise InputError(str(base / 'data' / 'raw'), got='no sample',
                     expected=f'folders {", ".join(SAMPLES)}', remedy=_AGAIN)
  for sample in samples[1:]:
    if sample.shape != samples[0].shape:
      raise InputError(str(sample.slices), got=f'{sample.shape} voxels z, y, x',
                       expected=f'{samples[0].shape} as {samples[0].name}',
                       remedy=_AGAIN)
  return samples


def import_archive(root, out) -> Regions:
  """Copies the slices of every sample into a volume in out/<name>.

  Existing volumes are kept, since they appear only when complete; `open_imported` opens
  them.

  Args:
    root: as for `open_archive`.
    out: folder for the volumes.

  Returns:
    Squares of all samples, named by sample, with the official split.

  Raises:
    InputError: as `open_archive`, or for a damaged slice.
  """
  samples = open_archive(root)
  for sample in samples:
    path = film_path(Path(out) / sample.name, 'raw')
    if not path.exists():
      stacks.import_stack(sample.slices, path, voxel_size_zyx_nm=VOXEL_SIZE_ZYX_NM)
      progress.say(f'imported {sample.name}')
    elif open_volume(path).shape != sample.shape:
      raise InputError(str(path), got='a volume of another shape',
                       expected=f'{sample.shape} as {sample.slices}',
                       remedy='choose another --workdir')
  return concatenate_regions([sample.regions for sample in samples])


def open_imported(out) -> dict[str, Volume]:
  """Volumes that `import_archive` made in out, by name, without the archive."""
  paths = {name: film_path(Path(out) / name, 'raw') for name in SAMPLES}
  return {name: open_volume(path) for name, path in paths.items() if path.exists()}


def _open_samples(request: Request) -> dict[str, Volume]:
  if not request.has_regions:
    import_archive(request.data.root, request.run.data)
  return open_imported(request.run.data)


def _official_regions(request: Request, volumes: dict[str, Volume]) -> Regions:
  del volumes
  return import_archive(request.data.root, request.run.data)


SOURCE = Source(_open_samples, _official_regions, is_published=True)


def check_download(path) -> None:
  """Checks a downloaded fib_sem_cnn.zip by its size and published MD5.

  Raises:
    InputError: when it is missing or differs.
  """
  unzip.check_md5(path, _ZIP_BYTES, _ZIP_MD5)


def unpack_download(path, out) -> Path:
  """Checks the downloaded zip file and unpacks it into a new folder.

  Raises:
    InputError: as `check_download` and `unzip.unpack`.
  """
  check_download(path)
  return unzip.unpack(path, out)


def find_weights(root, n_xy: int, n_z: int) -> Path:
  """Path of the authors' trained weights for a size, in model/model_<xy>_<z>/.

  The name of the file is not documented (a training run of the authors writes
  model.h5), so the only HDF5 file in the folder is taken.

  Raises:
    InputError: unless there is exactly one .h5 or .hdf5 file.
  """
  folder = _find_base(root) / 'model' / f'model_{n_xy}_{n_z}'
  paths = sorted([*folder.glob('*.h5'), *folder.glob('*.hdf5')])
  if len(paths) != 1:
    raise InputError(str(folder), got=f'{len(paths)} HDF5 files',
                     expected='one .h5 or .hdf5 file with trained weights',
                     remedy=f'{_AGAIN}, or name the file itself')
  return paths[0]


def _find_base(root) -> Path:
  """Folder that holds data/raw."""
  root = Path(root)
  if root.is_file():
    raise InputError(str(root), got='a file',
                     expected='the folder of the unzipped archive',
                     remedy=f'unzip it (unzip {root.name} -d {_FOLDER}) and give the '
                     'folder')
  for base in (root, root / _FOLDER):
    if (base / 'data' / 'raw').is_dir():
      return base
  raise InputError(str(root), got='no folder data/raw or fib_sem_cnn/data/raw in it',
                   expected='the unzipped archive, doi 10.5281/zenodo.4317170',
                   remedy='unzip fib_sem_cnn.zip and give its folder by '
                   '--config.data.root=DIR')


def _open_sample(base: Path, name: str) -> Sample:
  slices = base / 'data' / 'raw' / name
  _check_numbers(slices, name)
  with stacks.open_stack(slices) as stack:
    shape, dtype = stack.shape, stack.dtype
  if dtype != np.uint16:
    raise InputError(str(slices), got=f'slices of {dtype}', expected='uint16 (16 bits)',
                     remedy=_AGAIN)
  manual = base / 'data' / 'manual_segmentation'
  positions, masks = _read_squares(
      manual / f'segmentation_regions_{name}.npy',
      manual / f'manual_segmentation_{name}.npy', shape)
  split = _read_split(base / 'data' / 'regions', name, len(masks))
  return Sample(name, slices, shape, make_regions(
      (name,) * len(masks), positions, list(masks), split))


def _check_numbers(slices: Path, name: str) -> None:
  """Raises InputError unless the slices are numbered from 1 without a gap."""
  if not slices.is_dir():
    raise InputError(str(slices), got='a file', expected='a folder of slices',
                     remedy=_AGAIN)
  pattern = re.compile(rf'{name}_(\d{{4}})\.tif')
  numbers = {int(match[1]) for file in slices.iterdir()
             if (match := pattern.fullmatch(file.name))}
  missing = next(k for k in itertools.count(1) if k not in numbers)
  if missing <= max(numbers, default=1):
    raise InputError(str(slices / f'{name}_{missing:04d}.tif'), got='no such file',
                     expected=f'slices {name}_0001.tif, {name}_0002.tif, ... without '
                     'a gap', remedy=_AGAIN)


def _read_squares(corners_path: Path, masks_path: Path, shape):
  """Positions [r, 3] (z, y, x) and labels [r, y, x] of the squares, in the volume."""
  corners_xyz_r = _whole_numbers(corners_path, 'corners of squares, [3, r]')
  if corners_xyz_r.ndim != 2 or len(corners_xyz_r) != 3:
    raise InputError(str(corners_path), got=f'shape {corners_xyz_r.shape}',
                     expected='[3, r], rows x, y, z of r squares', remedy=_AGAIN)
  row, column, z = corners_xyz_r
  codes_ryx = _read_npy(masks_path, 'masks of squares, [r, rows, columns]')
  if codes_ryx.ndim != 3 or len(codes_ryx) != len(z):
    raise InputError(str(masks_path), got=f'shape {codes_ryx.shape}',
                     expected=f'[{len(z)}, rows, columns], a mask for each square of '
                     f'{corners_path.name}', remedy=_AGAIN)
  masks_ryx = label_codes.decode_labels(codes_ryx, 'paper', str(masks_path))
  positions_r3 = np.stack([z, row, column], 1)
  stops_r3 = positions_r3 + (1, *masks_ryx.shape[1:])
  outside = np.flatnonzero(((positions_r3 < 0) | (stops_r3 > shape)).any(1))
  if outside.size:
    k = int(outside[0])
    raise InputError(str(corners_path),
                     got=f'square {k} at z, y, x = {positions_r3[k].tolist()} to '
                     f'{stops_r3[k].tolist()}',
                     expected=f'squares inside the volume of shape {shape}',
                     remedy=_AGAIN)
  return positions_r3, masks_ryx


def _read_split(folder: Path, name: str, n: int) -> list[str]:
  """Split of each of n squares, from three lists that are disjoint and complete."""
  splits = [''] * n
  for split in SPLITS:
    path = folder / f'ind_squares_{split}_{name}.npy'
    for k in _whole_numbers(path, 'numbers of squares, from 0').ravel().tolist():
      if not 0 <= k < n:
        raise InputError(str(path), got=f'square {k}',
                         expected=f'squares 0 to {n - 1}, counted from 0',
                         remedy=_AGAIN)
      if splits[k]:
        raise InputError(str(path), got=f'square {k}, which is in {splits[k]} already',
                         expected='each square once in train, val or test',
                         remedy=_AGAIN)
      splits[k] = split
  missing = [k for k, split in enumerate(splits) if not split]
  if missing:
    raise InputError(str(folder / f'ind_squares_*_{name}.npy'),
                     got=f'no split for square {missing[0]} (of {len(missing)})',
                     expected=f'all of squares 0 to {n - 1}', remedy=_AGAIN)
  return splits


def _whole_numbers(path: Path, expected: str) -> np.ndarray:
  """Content of an npy file of whole numbers, of any number type, as int64."""
  values = _read_npy(path, expected)
  whole = values.dtype.kind != 'b' and np.isfinite(values).all()
  if not whole or (abs(values) > _MAX_WHOLE).any() or (values != np.rint(values)).any():
    raise InputError(str(path), got=f'other values, of {values.dtype}',
                     expected=f'{expected}, whole numbers', remedy=_AGAIN)
  return values.astype(np.int64)


def _read_npy(path: Path, expected: str) -> np.ndarray:
  """Numbers in an npy file, never unpickled.

  Mapped first, so that a header which promises more than the file holds takes no
  memory.
  """
  if not path.is_file():
    raise InputError(str(path), got='no such file', expected=expected, remedy=_AGAIN)
  return np.array(npy.map_npy(path))

