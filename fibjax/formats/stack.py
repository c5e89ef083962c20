"""What the image formats share: an open Stack, its checks, and files written whole.

Each format has a module of its own with two functions: `open_*` yields the Stack of a
file and reads no more than headers for it, `write_*` writes slabs [z, y, x] in
ascending z. The front door, which chooses among them, is stacks.py.

Invariants:
* A Stack is read in z, y, x whatever the order of the axes in the file. The order is
  what the file says or the caller gives; two that differ are an error.
* What a file claims to hold is compared with its size before memory is asked for.
* Values are as stored; bits and booleans become 0/1 uint8, bytes those of this machine.
"""
import contextlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fibjax.errors import InputError
from fibjax.system import files

AXES = 'zyx'
UNKNOWN = (None, None, None)  # a voxel size no axis of which is known
_BLOCK_BYTES = 2**26
# Deflate packs at most 1032:1, LZW some 2700:1; a file that claims more lies. Small
# claims are harmless, and a blank mask may be packed better.
_MOST_PACKED, _HARMLESS_BYTES = 4096, 2**28
_SHOWN = 8


class Stack(NamedTuple):
  """An open stack: what it holds and how to read one slice.

  names: of the slices, for messages; shape: z, y, x; dtype: of the values read;
  voxel_size_zyx_nm: as the file says, None per axis where unknown; origin: what in the
  file says so; read: z -> [y, x] array; axes: their order in the file, slowest first;
  dataset: name of the array inside the file, None where the file is one array.
  """
  names: list[str]
  shape: tuple[int, int, int]
  dtype: np.dtype
  voxel_size_zyx_nm: tuple[float | None, ...]
  origin: str | None
  read: Callable[[int], np.ndarray]
  axes: str = AXES
  dataset: str | None = None


def array_stack(name: str, array, axes: str, *, dtype=None, voxel_size_zyx_nm=UNKNOWN,
                origin=None, chunks=None, dataset=None) -> Stack:
  """The Stack of an array that is sliced like numpy's: memmap, HDF5, tensorstore.

  Slices are read in blocks of at most 64 MiB (or one slice), no deeper than a chunk,
  of which one is held. So an array whose z varies fastest is read n_z / depth times.

  Args:
    name: of the file, for messages.
    array: with shape and slicing; any axes beside z, y and x have length one.
    axes: a letter per axis of the array, slowest first.
    dtype: of the values; None: array.dtype.
    voxel_size_zyx_nm: None per axis where unknown.
    origin: what in the file says so.
    chunks: stored chunk per axis; None for an array in C order.
    dataset: name of the array inside the file.

  Raises:
    InputError: for an empty array, or one not of numbers.
  """
  dtype = np.dtype(dtype or array.dtype)
  check_numbers(name, array.shape, dtype)
  kept = [axis for axis in axes if axis in AXES]
  order = [kept.index(axis) for axis in AXES]
  shape = tuple(int(array.shape[axes.index(axis)]) for axis in AXES)
  dtype = native(dtype)
  at_z = axes.index('z')
  deepest = chunks[at_z] if chunks else 1 if kept[0] == 'z' else shape[0]
  whole = [slice(None) if axis in AXES else 0 for axis in axes]

  def read_block(first, stop):
    index = whole.copy()
    index[at_z] = slice(first, stop)
    with decoding(name):
      return np.asarray(array[tuple(index)]).transpose(order)
  return Stack(slice_names(name, shape[0]), shape, dtype, tuple(voxel_size_zyx_nm),
               origin, read_by_blocks(read_block, shape, dtype, deepest),
               ''.join(kept), dataset)


def read_by_blocks(read_block, shape, dtype, depth: int):
  """Turns a reader of several slices into one of single slices, as a Stack has it.

  Args:
    read_block: (first, stop) -> [z, y, x] array of those slices.
    shape: of the stack, z, y, x.
    dtype: to return; a booleans' 0/1 or another byte order is converted.
    depth: slices that are stored together; cut to 64 MiB, and at least one.

  Returns:
    z -> [y, x] array of its own; the last block read is held.
  """
  slice_bytes = shape[1] * shape[2] * np.dtype(dtype).itemsize
  depth = max(1, min(depth, _BLOCK_BYTES // slice_bytes))
  held = {}

  def read(z):
    first = z - z % depth
    if first not in held:
      held.clear()
      held[first] = read_block(first, min(first + depth, shape[0]))
    return np.array(held[first][z - first], dtype, order='C')
  return read


def slice_names(name: str, n_z: int) -> list[str]:
  """Names of the slices of a file, for messages; counted from 1."""
  return [f'{name} slice {z + 1}' for z in range(n_z)]


def native(dtype) -> np.dtype:
  """The dtype a Stack reads as: of this machine's byte order, booleans as uint8."""
  dtype = np.dtype(dtype)
  return np.dtype(np.uint8) if dtype.kind == 'b' else dtype.newbyteorder('=')


def place_slabs(slabs_zyx):
  """Yields (z, slab) of slabs in ascending z: where each one starts."""
  z = 0
  for slab in slabs_zyx:
    yield z, slab
    z += len(slab)


def check_numbers(name: str, shape, dtype) -> None:
  """Raises InputError unless an array holds at least one real number."""
  if np.dtype(dtype).kind not in 'buif':
    raise InputError(name, got=f'values of dtype {dtype}', expected='real numbers',
                     remedy='save one grey channel')
  if 0 in shape:
    raise InputError(name, got=f'shape {tuple(shape)}', expected='at least one voxel',
                     remedy='the stack is empty: export it again')


def choose_axes(name: str, given: str | None, in_file: str | None = None, *,
                default: str | None = AXES) -> str:
  """The order of the axes in a file, slowest first (MATLAB: first index first).

  Args:
    name: of the file, for messages.
    given: by the caller; None leaves it to the file.
    in_file: what the file itself says, if it does.
    default: for neither; None makes that an error.

  Raises:
    InputError: for no order, one that is none, or two that differ.
  """
  for axes in (given, in_file):
    if axes is not None and (not isinstance(axes, str) or sorted(axes) != sorted(AXES)):
      raise InputError(f'{name}: axes', got=repr(axes),
                       expected="an order of z, y and x, such as 'zyx' or 'yxz'",
                       remedy='name the axes of the array from the first to the last')
  if given and in_file and given != in_file:
    raise InputError(f'{name}: axes', got=given,
                     expected=f'{in_file}, the order in this format or file',
                     remedy='leave the axes out, or correct the file')
  axes = given or in_file or default
  if axes is None:
    raise InputError(name, got='no order of axes',
                     expected="one, such as 'yxz' for rows, columns, slices",
                     remedy='give the axes of the array from the first to the last')
  return axes


def choose_dataset(name: str, found: dict[str, str], dataset: str | None) -> str:
  """The array to read among those of a file.

  Args:
    name: of the file, for messages.
    found: what could be read: name of the array -> its shape and dtype in words.
    dataset: the one to read; None takes the only one.

  Raises:
    InputError: for none, for several without a choice (all are listed), or for another.
  """
  listed = ', '.join(f'{key} {text}' for key, text in list(found.items())[:_SHOWN])
  listed += f' and {len(found) - _SHOWN} more' if len(found) > _SHOWN else ''
  if dataset is None:
    if len(found) == 1:
      return next(iter(found))
    got = f'{len(found)} datasets: {listed}' if found else 'no dataset of three axes'
    raise InputError(name, got=got, expected='one dataset of three axes',
                     remedy='choose one of them by its name' if found
                     else 'save the stack as one array of z, y, x')
  key = next((key for key in found if key.strip('/') == dataset.strip('/')), None)
  if key is None:
    raise InputError(f'{name}: dataset', got=repr(dataset),
                     expected=f'one of: {listed}' if found else 'a file with datasets',
                     remedy='choose one of them' if found else 'choose another file')
  return key


def check_no_dataset(name: str, dataset) -> None:
  """Raises InputError when an array is named in a file that is one array."""
  if dataset is not None:
    raise InputError(f'{name}: dataset', got=repr(dataset),
                     expected='none, the file is a single array',
                     remedy='leave it out')


def check_claim(name: str, shape, itemsize: int, stored_bytes: int) -> None:
  """Raises InputError when packed data cannot hold what their header claims."""
  claimed = math.prod(int(n) for n in shape) * itemsize
  if claimed > max(_HARMLESS_BYTES, _MOST_PACKED * stored_bytes):
    raise InputError(name, got=f'{claimed} bytes claimed for shape {tuple(shape)}, '
                     f'{stored_bytes} stored', expected='a file that holds its data',
                     remedy='the header is wrong or data are missing: export it again')


def check_size(name: str, expected_bytes: int, source: str = 'its header') -> None:
  """Raises InputError unless a file of plain numbers has the size it should have."""
  found = Path(name).stat().st_size
  if found != expected_bytes:
    raise InputError(name, got=f'{found} bytes',
                     expected=f'{expected_bytes} bytes by {source}',
                     remedy='copy or export it again, or correct the shape and dtype')


@contextlib.contextmanager
def decoding(name, expected='a readable image'):
  """Names the file when a decoder fails.

  Damaged input makes the decoders raise nearly anything (struct.error, IndexError,
  errors of each codec), hence the wide net.
  """
  try:
    yield
  except (InputError, MemoryError):
    raise
  except Exception as error:
    raise InputError(str(name), got=f'{type(error).__name__}: {error}',
                     expected=expected,
                     remedy='the file is damaged: copy or export it again') from error


@contextlib.contextmanager
def new_file(path):
  """Yields a file to write that appears at path only when the block succeeds.

  Raises:
    InputError: when path exists or cannot be written.
  """
  path = Path(path)
  files.check_absent(path)
  try:
    with files.whole_file(path) as partial:
      yield partial
  except OSError as error:
    raise InputError(str(path), got=str(error), expected='a file that can be written',
                     remedy='check free space and permissions') from None
