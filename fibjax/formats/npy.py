"""npy: numpy's own file, memory-mapped, never unpickled.

A file says neither the order of its axes (z, y, x unless given) nor a voxel size. A
JSON file beside it may: `film.npy.json` with `axes` and `voxel_size_zyx_nm`, as in
raw.py.
"""
import contextlib
from pathlib import Path

import numpy as np

from fibjax.errors import InputError
from fibjax.formats.raw import new_with_sidecar, read_sidecar
from fibjax.formats.stack import (
  AXES,
  UNKNOWN,
  array_stack,
  check_no_dataset,
  check_numbers,
  choose_axes,
  decoding,
)

SUFFIXES = ('.npy',)


@contextlib.contextmanager
def open_npy(path: Path, *, dataset=None, axes=None):
  """Yields the Stack of a 3-D array.

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
  yield array_stack(str(path), array, chosen, voxel_size_zyx_nm=size or UNKNOWN,
                    origin='JSON sidecar' if size else None, chunks=chunks)


def map_npy(path: Path) -> np.ndarray:
  """Maps the numbers of an npy file of any rank into memory, read-only.

  Raises:
    InputError: when it is damaged, pickled, empty, not of numbers, or shorter than its
      header says.
  """
  with decoding(path, 'a readable array'):
    array = np.load(path, mmap_mode='r', allow_pickle=False)
  check_numbers(str(path), array.shape, array.dtype)
  return array


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
