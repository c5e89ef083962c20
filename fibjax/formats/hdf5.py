"""HDF5: a named dataset of three axes; MATLAB 7.3 files, which are HDF5 inside.

The only dataset of three axes is taken; of several, one must be named. Axes of length
one other than z, y and x (time, channel) are dropped where the file names its axes, or
where exactly three longer ones remain. The order of the axes comes from ilastik's
`axistags`, else from the caller, else it is z, y, x. The voxel size comes from
`element_size_um` (Fiji's HDF5 plugin, ilastik): one length per axis of the dataset.

HDF5 lists the axes of a MATLAB array in reverse. Here, as in mat.py, the order is that
of MATLAB's indices, and it has to be given.

A dataset must be stored completely in the file itself: chunks that were never written
would read as zeros, and virtual or external data may be missing.

Besides keras_weights.py this is the only module that knows h5py.
"""
import contextlib
import math
import zlib
from pathlib import Path

import h5py
import numpy as np

from fibjax.errors import InputError
from fibjax.formats.stack_reader import (
  AXES,
  HARMLESS_BYTES,
  UNKNOWN,
  array_reader,
  check_claim,
  choose_axes,
  choose_dataset,
  decoding,
  new_file,
  place_slabs,
)
from fibjax.system import json_files
from fibjax.volumes.voxel_size import to_nm

_DEFAULT_NAME = 'volume'  # of the dataset to write
_SIZE, _TAGS = 'element_size_um', 'axistags'
_DROPPED = '1'  # letter of an axis of length one without a name
_LZF, _MAX_DEFLATE, _CHECKSUM_BYTES = 32000, 1032, 4
_COMPRESSIONS = (h5py.h5z.FILTER_DEFLATE, _LZF)


@contextlib.contextmanager
def open_hdf5(path: Path, *, dataset=None, axes=None):
  """Yields the StackReader of a dataset.

  Args:
    path: HDF5 file.
    dataset: name inside the file; None takes the only one of three axes.
    axes: their order in the dataset, slowest first; None takes the file's own, else
      'zyx'.

  Raises:
    InputError: when the file is damaged, the dataset is missing, ambiguous or not
      stored completely.
  """
  with _open(path) as file:
    data = file[choose_dataset(str(path), _candidates(path, file), dataset)]
    name = f'{path}: {data.name.strip("/")}'
    with decoding(name, 'a readable dataset'):
      _check_stored(name, path, data)
      letters = _axes_in_file(data)
      in_file = None if letters is None else ''.join(a for a in letters if a in AXES)
      size = _size_in_file(data)
    chosen = choose_axes(name, axes, in_file)
    letters = letters or _with_dropped(data.shape, chosen)
    size = tuple(size[letters.index(axis)] for axis in AXES) if size else UNKNOWN
    yield array_reader(name, data, letters, voxel_size_zyx_nm=size,
                       origin=f'HDF5 {_SIZE}' if any(size) else None,
                       chunks=data.chunks, dataset=data.name.strip('/'),
                       decoded_bytes=_chunk_bytes(data))


@contextlib.contextmanager
def open_matlab73(path: Path, *, dataset=None, axes=None, read_notes):
  """Yields the StackReader of a variable of a MATLAB 7.3 file.

  Args:
    path: MAT file.
    dataset: name of the variable; None takes the only one of three axes.
    axes: their order in MATLAB, first index first.
    read_notes: (variable name -> array or None) -> (axes, voxel size) stated in the
      file, see mat.py.

  Raises:
    InputError: as `open_hdf5`; when neither the caller nor the file gives the axes.
  """
  with _open(path) as file:
    key = choose_dataset(str(path), _candidates(path, file, reverse=True), dataset)
    name = f'{path}: {key}'
    with decoding(name, 'a readable variable'):
      _check_stored(name, path, file[key])
      in_file, size = read_notes(lambda variable: _matlab_variable(file, variable))
    chosen = choose_axes(name, axes, in_file, default=None)
    # HDF5's order is the reverse of MATLAB's.
    stack = array_reader(name, file[key], chosen[::-1], voxel_size_zyx_nm=size,
                         origin='MATLAB variable' if any(size) else None,
                         chunks=file[key].chunks, dataset=key,
                         decoded_bytes=_chunk_bytes(file[key]))
    yield stack._replace(axes=chosen)


def write_hdf5(path, slabs_zyx, shape, dtype, voxel_size_zyx_nm, *, dataset=None):
  """Writes one dataset with axes z, y, x and `element_size_um`.

  Args:
    path: file to make.
    slabs_zyx: [z, y, x] arrays, z ascending.
    shape: z, y, x of all of them.
    dtype: of all of them.
    voxel_size_zyx_nm: nm per voxel; None leaves the attribute out.
    dataset: name of the dataset; None: 'volume'.

  Raises:
    InputError: when path exists or cannot be written.
  """
  with new_file(path) as partial, h5py.File(partial, 'w') as file:
    data = file.create_dataset(dataset or _DEFAULT_NAME, shape, dtype)
    if voxel_size_zyx_nm is not None:
      data.attrs[_SIZE] = np.asarray(voxel_size_zyx_nm) / 1e3
    for z, slab in place_slabs(slabs_zyx):
      data[z:z + len(slab)] = slab


@contextlib.contextmanager
def _open(path):
  with decoding(path, 'a readable HDF5 file'):
    file = h5py.File(path, 'r')
  with file:
    yield file


def _candidates(path, file, reverse=False) -> dict[str, str]:
  """Datasets of three axes: name -> shape and dtype; reverse gives MATLAB's shape."""
  candidates = {}

  def visit(name, item):
    is_internal = name.startswith('#')  # MATLAB's cells
    if not isinstance(item, h5py.Dataset) or is_internal or item.shape is None:
      return
    if item.dtype.kind in 'buif' and _is_3d(item):
      candidates[name] = f'{item.shape[::-1] if reverse else item.shape} {item.dtype}'
  with decoding(path, 'a readable HDF5 file'):
    file.visititems(visit)
  return candidates


def _is_3d(data) -> bool:
  letters = _axes_in_file(data)
  if letters is None:
    return len(data.shape) == 3 or (
        len(data.shape) > 3 and sum(n > 1 for n in data.shape) == 3)
  return sorted(a for a in letters if a in AXES) == sorted(AXES) and all(
      n == 1 for a, n in zip(letters, data.shape, strict=True) if a not in AXES)


def _axes_in_file(data) -> str | None:
  """A letter per axis by ilastik's axistags (JSON); None without them."""
  if _TAGS not in data.attrs:
    return None
  tags = json_files.parse_json(f'{data.name}: {_TAGS}', data.attrs[_TAGS])
  letters = ''.join(axis['key'] for axis in tags['axes'])
  if len(letters) != len(data.shape):
    raise ValueError(f'{_TAGS} name {letters!r} for shape {data.shape}')
  return letters


def _with_dropped(shape, axes: str) -> str:
  """The axes with `_DROPPED` in the places of axes of length one."""
  if len(shape) == 3:
    return axes
  kept = iter(axes)
  return ''.join(_DROPPED if n == 1 else next(kept) for n in shape)


def _size_in_file(data) -> list[float | None] | None:
  """Voxel size per axis of the dataset by element_size_um; None without it."""
  sizes = np.ravel(data.attrs[_SIZE]) if _SIZE in data.attrs else ()
  if len(sizes) == 3 < len(data.shape) and _axes_in_file(data) is None:
    kept = iter(sizes)  # one for each of the three axes longer than one
    sizes = [None if n == 1 else next(kept) for n in data.shape]
  if len(sizes) != len(data.shape):
    return None
  return [to_nm(s, 'micrometer') for s in sizes]


def _chunk_bytes(data) -> int:
  """Memory to decode a chunk, which is decoded whole, from one buffer to another."""
  return 2 * math.prod(data.chunks) * data.dtype.itemsize if data.chunks else 0


def _check_stored(name, path, data) -> None:
  """Raises InputError unless every voxel is stored in the file itself."""
  if data.is_virtual or data.external:
    raise InputError(name, got='a dataset whose data are in other files',
                     expected='a dataset stored in the file itself',
                     remedy='copy it into one file, e.g. with h5py')
  needed = math.prod(data.shape) * data.dtype.itemsize
  if data.chunks is None:
    complete = data.id.get_storage_size() >= needed
  else:
    n_chunks = math.prod(-(-n // c) for n, c in zip(data.shape, data.chunks,
                                                   strict=True))
    complete = data.id.get_num_chunks() == n_chunks
  if not complete:
    raise InputError(name, got='data that were never written',
                     expected=f'all of shape {data.shape} stored',
                     remedy='writing was interrupted: write the dataset again')
  check_claim(name, data.shape, data.dtype.itemsize, Path(path).stat().st_size)
  if data.chunks is not None:
    _check_deflated(name, data)


def _check_deflated(name, data) -> None:
  """Raises InputError for a chunk of gzip that holds more than a chunk.

  HDF5 decompresses all of it: 3 MB can take 3 GB. A chunk that cannot is not looked at.
  """
  plist = data.id.get_create_plist()
  filters = [plist.get_filter(k)[0] for k in range(plist.get_nfilters())]
  if sum(code in _COMPRESSIONS for code in filters) > 1:
    raise InputError(name, got='chunks compressed several times',
                     expected='one compression', remedy='write the dataset again')
  chunk_bytes, large = math.prod(data.chunks) * data.dtype.itemsize, []

  def visit(chunk):
    if chunk.size * _MAX_DEFLATE > HARMLESS_BYTES:
      large.append(chunk.chunk_offset)
  if h5py.h5z.FILTER_DEFLATE in filters:
    data.id.chunk_iter(visit)
  for offset in large:
    decompressor, total = zlib.decompressobj(), 0
    compressed = data.id.read_direct_chunk(offset)[1]
    while compressed and total <= chunk_bytes + _CHECKSUM_BYTES:
      total += len(decompressor.decompress(compressed, 2**20))
      compressed = decompressor.unconsumed_tail
    if total > chunk_bytes + _CHECKSUM_BYTES:
      raise InputError(name, got=f'more data than the chunk at {offset} holds',
                       expected=f'{chunk_bytes} bytes', remedy='the file is damaged: '
                       'copy or export it again')


def _matlab_variable(file, name):
  """A small MATLAB variable, array in MATLAB's order or str; None if it is absent."""
  data = file.get(name)
  if not isinstance(data, h5py.Dataset) or data.size > 64:
    return None
  values = data[...].T
  is_text = data.attrs.get('MATLAB_class') in (b'char', 'char')
  return ''.join(map(chr, values.ravel())) if is_text else values
