"""npy: NumPy's file format, memory-mapped, never unpickled.

The format stores neither the order of the axes (z, y, x unless given) nor a voxel size.
An optional sidecar may: `film.npy.json` with `axes` and `voxel_size_zyx_nm`, as in
raw.py.
"""
import contextlib
from pathlib import Path

import numpy as np

from fibjax.errors import InputError
from fibjax.formats.raw import new_with_sidecar, read_sidecar
from fibjax.formats.stack_reader import (
  AXES,
  UNKNOWN,
  array_reader,
  check_no_dataset,
  check_numbers,
  choose_axes,
  decoding,
)


@contextlib.contextmanager
def open_npy(path: Path, *, dataset=None, axes=None):
  """Yields the StackReader of a 3-D array.

  Args:
    path: npy file.
    dataset: None; the file is a single array.
    axes: their order in the file, first index first; None takes the sidecar's, else
      'zyx'.

  Raises:
    InputError: when the file is damaged, pickled, or not of three axes.
  """
  check_no_dataset(str(path), dataset)
  array = map_npy(path)
  if array.ndim != 3:
    raise InputError(str(path), got=f'{array.ndim}-D array of {array.dtype}',
                     expected='an array of three axes',
                     remedy='save the stack as z, y, x')
  notes = read_sidecar(path, ('axes', 'voxel_size_zyx_nm')) or {}
  chosen = choose_axes(str(path), axes, notes.get('axes'))
  size = notes.get('voxel_size_zyx_nm')
  chunks = None if array.flags.c_contiguous else array.shape
  yield array_reader(str(path), array, chosen, voxel_size_zyx_nm=size or UNKNOWN,
                     origin='JSON sidecar' if size else None, chunks=chunks)


def map_npy(path: Path) -> np.ndarray:
  """Maps the numbers of an npy file of any rank into memory, read-only.

  Raises:
    InputError: when it is damaged, pickled, empty, of other values than real numbers,
      or shorter than its header says.
  """
  with decoding(path, 'a readable array'):
    array = np.load(path, mmap_mode='r', allow_pickle=False)
  check_numbers(str(path), array.shape, array.dtype)
  return array


def read_masks(path: Path) -> np.ndarray:
  """Reads label images: [y, x] or [r, y, x], booleans as 0/1 uint8.

  Raises:
    InputError: as `map_npy`; for other ranks.
  """
  masks = map_npy(path)
  if masks.ndim not in (2, 3):
    raise InputError(str(path), got=f'{masks.ndim}-D array of {masks.dtype}',
                     expected='a 2-D or 3-D array of numbers',
                     remedy='save the masks as region, row, column')
  return np.array(masks, np.uint8 if masks.dtype == bool else masks.dtype)


def write_npy(path, slabs_zyx, shape, dtype, voxel_size_zyx_nm) -> None:
  """Writes an array z, y, x and the sidecar.

  Args:
    path: file to make; the sidecar is path + '.json'.
    slabs_zyx: [z, y, x] arrays, z ascending.
    shape: z, y, x of all of them.
    dtype: of all of them.
    voxel_size_zyx_nm: nm per voxel; None: unknown.

  Raises:
    InputError: when one of the two exists or cannot be written.
  """
  dtype = np.dtype(dtype).newbyteorder('<')
  with new_with_sidecar(path, voxel_size_zyx_nm, axes=AXES) as file:
    np.lib.format.write_array_header_1_0(file, {
        'descr': np.lib.format.dtype_to_descr(dtype), 'fortran_order': False,
        'shape': tuple(shape)})
    for slab in slabs_zyx:
      file.write(slab.astype(dtype).tobytes())
