"""MATLAB files: version 5 (up to 2 GB a variable) by mat5.py, version 7.3 by hdf5.py.

The only variable of three axes is taken; of several, one must be named. Its axes are
mostly rows, columns, slices ('yxz'), but MATLAB does not record that: the order of the
indices has to be given, or stated in the file as text in a variable `axes`. A variable
`voxel_size_zyx_nm` of three numbers is the voxel size. Files written here have both. A
compressed version 5 variable is read whole, others slice by slice.
"""
import contextlib
import math
from pathlib import Path

import numpy as np
import scipy.io

from fibjax.errors import InputError
from fibjax.formats import hdf5, mat5
from fibjax.formats.stack_reader import (
  UNKNOWN,
  array_reader,
  check_numbers,
  choose_axes,
  choose_dataset,
  decoding,
  new_file,
  place_slabs,
)
from fibjax.volumes.voxel_size import check_voxel_size

_DEFAULT_NAME = 'volume'  # of the variable to write
_AXES, _SIZE = 'axes', 'voxel_size_zyx_nm'
_WRITTEN_AXES = 'yxz'
LIMIT_BYTES = 2**31 - 2**16
_MAX_NOTE_VALUES = 64


@contextlib.contextmanager
def open_mat(path: Path, *, dataset=None, axes=None):
  """Yields the StackReader of a variable.

  Args:
    path: MAT file of version 5 or 7.3.
    dataset: name of the variable; None takes the only one of three axes.
    axes: their order in MATLAB, first index first; optional where the file states it.

  Raises:
    InputError: when the file is damaged, the variable is missing or ambiguous, or the
      order of the axes is unknown.
  """
  with open(path, 'rb') as file:
    is_v5 = file.read(10) == b'MATLAB 5.0'
  if not is_v5:
    with hdf5.open_matlab73(
        path, dataset=dataset, axes=axes,
        read_notes=lambda variable: _read_notes(path, variable)) as stack:
      yield stack
    return
  with decoding(path, 'a readable MAT file'):
    variables = mat5.list_variables(path)
    in_file, size = _read_notes(
        path, lambda name: _small_variable(path, variables, name))
  candidates = {name: f'{v.shape} {v.dtype}' for name, v in variables.items()
                if len(v.shape) == 3 and v.dtype.kind != 'U'}
  key = choose_dataset(str(path), candidates, dataset)
  variable, name = variables[key], f'{path}: {key}'
  check_numbers(name, variable.shape, variable.dtype)
  chosen = choose_axes(name, axes, in_file, default=None)
  # A bytearray that grows has an eighth to spare.
  whole_bytes = math.prod(variable.shape) * variable.stored.itemsize * 9 // 8 + 2**21
  yield array_reader(name, variable, chosen, voxel_size_zyx_nm=size,
                     origin='MATLAB variable' if any(size) else None,
                     chunks=(*variable.shape[:2], 1), dataset=key,
                     load=lambda: mat5.read_variable(path, variable),
                     decoded_bytes=whole_bytes if variable.packed else 0)


def write_mat(path, slabs_zyx, shape, dtype, voxel_size_zyx_nm, *, dataset=None):
  """Writes a version 5 file: the variable (axes y, x, z), its axes and voxel size.

  Args:
    path: file to make.
    slabs_zyx: [z, y, x] arrays, z ascending.
    shape: z, y, x of all of them.
    dtype: of all of them.
    voxel_size_zyx_nm: nm per voxel; None leaves the variable out.
    dataset: name of the variable; None: 'volume'.

  Raises:
    InputError: when path exists or cannot be written, for a name that is not allowed in
      MATLAB, or above 2 GB.
  """
  name = dataset or _DEFAULT_NAME
  if not (name.isascii() and name.isidentifier() and name[0] != '_') or name in (
      _AXES, _SIZE):
    raise InputError(f'{path}: dataset', got=repr(name),
                     expected='a name allowed for a MATLAB variable',
                     remedy='use letters, digits and underscores')
  n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
  if n_bytes > LIMIT_BYTES:
    raise InputError(str(path), got=f'{n_bytes} bytes to write',
                     expected='at most 2 GB in a MAT file of version 5',
                     remedy='export to .h5, which MATLAB reads with h5read')
  with new_file(path) as partial:
    volume_zyx = np.empty(shape, dtype)
    for z, slab in place_slabs(slabs_zyx):
      volume_zyx[z:z + len(slab)] = slab
    variables = {name: volume_zyx.transpose(1, 2, 0), _AXES: _WRITTEN_AXES}
    if voxel_size_zyx_nm is not None:
      variables[_SIZE] = np.asarray(voxel_size_zyx_nm, float)
    with open(partial, 'wb') as file:
      scipy.io.savemat(file, variables, oned_as='row')


def _read_notes(path, variable):
  """(axes, voxel size) by the variables of those names; (None, UNKNOWN) if absent."""
  axes, size = variable(_AXES), variable(_SIZE)
  if size is not None:
    size = check_voxel_size(str(path), np.ravel(size))
  return axes if isinstance(axes, str) else None, size or UNKNOWN


def _small_variable(path, variables, name):
  """A small variable, array or str; None if it is absent."""
  variable = variables.get(name)
  if variable is None or not 0 < math.prod(variable.shape) <= _MAX_NOTE_VALUES:
    return None
  values = mat5.read_variable(path, variable)
  return ''.join(map(chr, values.ravel())) if variable.dtype.kind == 'U' else values
