"""Raw binary: plain numbers with a JSON sidecar that describes them.

The sidecar of `film.raw` is `film.raw.json`:

  {"shape": [40, 200, 300], "axes": "zyx", "dtype": "uint16", "byte_order": "little",
   "offset": 0, "voxel_size_zyx_nm": [50.0, 10.0, 10.0]}

`shape` is in the order of `axes`, slowest first. Optional are `offset` (bytes before
the first voxel, default 0), `voxel_size_zyx_nm` (always z, y, x; null: unknown) and,
for numbers of one byte, `byte_order`. The file must end with the last voxel.
"""
import contextlib
import math
from pathlib import Path

import numpy as np

from fibjax.errors import InputError
from fibjax.formats.stack_reader import (
  AXES,
  UNKNOWN,
  array_reader,
  check_no_dataset,
  check_numbers,
  check_size,
  choose_axes,
  new_file,
)
from fibjax.system import files
from fibjax.volumes.voxel_size import check_voxel_size

_DTYPES = ('bool', 'int8', 'uint8', 'int16', 'uint16', 'int32', 'uint32', 'int64',
           'uint64', 'float16', 'float32', 'float64')
_ORDERS = {'little': '<', 'big': '>'}
_KEYS = ('shape', 'axes', 'dtype', 'byte_order', 'offset', 'voxel_size_zyx_nm')


@contextlib.contextmanager
def open_raw(path: Path, *, dataset=None, axes=None):
  """Yields the StackReader of a raw file with a sidecar.

  Args:
    path: the raw file.
    dataset: None; the file is a single array.
    axes: None, or the same as in the sidecar.

  Raises:
    InputError: when the sidecar is missing, incomplete, or does not fit the file.
  """
  check_no_dataset(str(path), dataset)
  notes = read_sidecar(path, _KEYS)
  if notes is None:
    raise InputError(str(path), got=f'no {sidecar_of(path).name} beside it',
                     expected='a JSON file with shape, axes, dtype and byte order',
                     remedy='write one with the keys ' + ', '.join(_KEYS))
  shape, dtype, offset = _layout(str(sidecar_of(path)), notes)
  check_numbers(str(path), shape, dtype)
  check_size(str(path), offset + math.prod(shape) * dtype.itemsize,
             sidecar_of(path).name)
  chosen = choose_axes(str(path), axes, notes.get('axes'), default=None)
  size = notes['voxel_size_zyx_nm']
  yield array_reader(str(path), np.memmap(path, dtype, 'r', offset, shape), chosen,
                     voxel_size_zyx_nm=size or UNKNOWN,
                     origin='JSON sidecar' if size else None)


def write_raw(path, slabs_zyx, shape, dtype, voxel_size_zyx_nm) -> None:
  """Writes little-endian numbers, z, y, x, and the sidecar.

  Args:
    path: file to make; the sidecar is path + '.json'.
    slabs_zyx: [z, y, x] arrays, z ascending.
    shape: z, y, x of all of them.
    dtype: of all of them.
    voxel_size_zyx_nm: nm per voxel; None: unknown.

  Raises:
    InputError: when one of the two exists or cannot be written.
  """
  dtype = np.dtype(dtype)
  notes = {'shape': list(shape), 'axes': AXES, 'dtype': dtype.name,
           'byte_order': 'little', 'offset': 0}
  with new_with_sidecar(path, voxel_size_zyx_nm, **notes) as file:
    for slab in slabs_zyx:
      file.write(slab.astype(dtype.newbyteorder('<')).tobytes())


def sidecar_of(path) -> Path:
  """Path of the JSON sidecar of a data file: its name + '.json'."""
  return Path(path).with_name(Path(path).name + '.json')


def read_sidecar(path, keys) -> dict | None:
  """Reads the sidecar of a data file; None where there is none.

  Args:
    path: of the data file.
    keys: that the sidecar may have.

  Returns:
    Content of the sidecar, with voxel_size_zyx_nm checked; None when unknown.

  Raises:
    InputError: when it is damaged or has other keys.
  """
  sidecar = sidecar_of(path)
  if not sidecar.exists():
    return None
  notes = files.read_json(sidecar)
  others = sorted(set(notes) - set(keys)) if isinstance(notes, dict) else ['no object']
  if others:
    raise InputError(str(sidecar), got=', '.join(others),
                     expected=f'an object with {", ".join(keys)}',
                     remedy='correct the file')
  size = check_voxel_size(str(sidecar), notes.get('voxel_size_zyx_nm'))
  return notes | {'voxel_size_zyx_nm': size}


@contextlib.contextmanager
def new_with_sidecar(path, voxel_size_zyx_nm, **notes):
  """Yields a binary file to write; file and sidecar appear when the block succeeds.

  Raises:
    InputError: when one of the two exists or cannot be written.
  """
  size = None if voxel_size_zyx_nm is None else list(voxel_size_zyx_nm)
  sidecar = sidecar_of(path)
  files.check_absent(sidecar)
  try:
    with new_file(path) as partial:
      with open(partial, 'wb') as file:
        yield file
      # First, since a reader takes a data file without it for one of unknown size.
      with new_file(sidecar) as partial_sidecar:
        files.write_json(partial_sidecar, notes | {'voxel_size_zyx_nm': size},
                         checked=False)
  except BaseException:
    if sidecar.exists() and not Path(path).exists():
      sidecar.unlink()
    raise


def _layout(name: str, notes: dict):
  """(shape, dtype, offset) of a sidecar."""
  shape, offset = notes.get('shape'), notes.get('offset', 0)
  is_shape = isinstance(shape, list) and len(shape) == 3 and all(map(_is_count, shape))
  if not is_shape or not _is_count(offset):
    raise InputError(name, got=f'shape {shape}, offset {offset}',
                     expected='three whole numbers, and an offset of at least 0',
                     remedy='correct the file')
  dtype, order = notes.get('dtype'), notes.get('byte_order')
  if dtype not in _DTYPES:
    raise InputError(f'{name}: dtype', got=repr(dtype),
                     expected=f'one of {", ".join(_DTYPES)}', remedy='correct the file')
  if order not in _ORDERS and not (order is None and np.dtype(dtype).itemsize == 1):
    raise InputError(f'{name}: byte_order', got=repr(order),
                     expected="'little' or 'big'", remedy='correct the file')
  return tuple(shape), np.dtype(dtype).newbyteorder(_ORDERS.get(order, '=')), offset


def _is_count(value) -> bool:
  return isinstance(value, int) and not isinstance(value, bool) and value >= 0
