"""Common ground of the format modules: StackReader, checks, and atomic writing.

A format module has two functions: `open_*` yields the StackReader of a file after
reading its headers only, `write_*` writes slabs [z, y, x] in ascending z. registry.py
lists them; stacks.py is what the rest of fibjax calls.

Invariants:
* Slices are read as z, y, x whatever the order of the axes in the file. The order comes
  from the file or from the caller; two that differ are an error.
* The size that a header claims is compared with the file's size before memory is
  allocated.
* A reader states how much memory its largest slice takes to decode, `slice_bytes`, and
  allocates none of it before a slice is read; `check_budget` refuses too much.
* Values are as stored; bits and booleans become 0/1 uint8, in native byte order.
"""
import contextlib
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fibjax.errors import InputError
from fibjax.system import files, refusals
from fibjax.volumes.metadata import check_room

AXES = 'zyx'
UNKNOWN = (None, None, None)  # a voxel size no axis of which is known
BLOCK_BYTES = 2**26  # largest block of slices that is read at once
# Deflate compresses at most 1032:1, LZW about 2700:1; a header that claims more is
# wrong. Small claims are harmless, and a blank mask may be compressed better.
_MAX_COMPRESSION, HARMLESS_BYTES = 4096, 2**28
_MAX_LISTED, _MAX_SLICES = 8, 10**6
MAX_SLICE_GB = 1.0  # memory that decoding a slice may take


class StackReader(NamedTuple):
  """An open stack that is read slice by slice.

  Attributes:
    names: of the slices, for messages.
    shape: z, y, x.
    dtype: of the values read.
    voxel_size_zyx_nm: as stated in the file, None per axis where unknown.
    origin: the part of the file that states it; None where nothing does.
    slice_bytes: memory that reading a slice takes, with what is decoded besides it
      (a tile, a chunk, the whole of a compressed variable).
    read: z -> [y, x] array.
    axes: their order in the file, slowest first (MATLAB: first index first).
    dataset: name of the array inside the file; None where the file is one array.
  """
  names: list[str]
  shape: tuple[int, int, int]
  dtype: np.dtype
  voxel_size_zyx_nm: tuple[float | None, ...]
  origin: str | None
  slice_bytes: int
  read: Callable[[int], np.ndarray]
  axes: str = AXES
  dataset: str | None = None


def check_budget(stack: StackReader, max_slice_gb: float = MAX_SLICE_GB) -> None:
  """Raises InputError when a slice takes more memory to decode than the budget, GB.

  A few megabytes of deflate can hold gigabytes of zeros: the size of a file says
  nothing.
  """
  if not stack.slice_bytes <= max_slice_gb * 2**30:
    needed = stack.slice_bytes / 2**30
    raise InputError(
        stack.names[0], got=f'{needed:.3g} GB of memory to decode a slice',
        expected=f'at most {max_slice_gb:g} GB', remedy='if the file is sound, give '
        f'--max_slice_gb={1.01 * needed:.2g}, or store it in smaller slices or chunks')


def read_slices(stack: StackReader) -> np.ndarray:
  """Reads all slices of an open stack, [z, y, x], values as stored.

  Raises:
    InputError: as `check_budget`, or when there is no memory for all slices.
  """
  check_budget(stack)
  check_room(stack.names[0], stack.shape, stack.dtype.itemsize)
  array_zyx = np.empty(stack.shape, stack.dtype)
  for z in range(stack.shape[0]):
    array_zyx[z] = stack.read(z)
  return array_zyx


def array_reader(name: str, array, axes: str, *, dtype=None, voxel_size_zyx_nm=UNKNOWN,
                 origin=None, chunks=None, dataset=None, load=None, decoded_bytes=0
                 ) -> StackReader:
  """Makes the StackReader of an array with numpy indexing: memmap, HDF5, tensorstore.

  Slices are read in blocks of at most 64 MiB (or one slice) that are no deeper than a
  chunk; the latest block stays in memory. An array whose z varies fastest is therefore
  read n_z / depth times.

  Args:
    name: of the file, for messages.
    array: with shape and indexing; axes other than z, y and x have length one. With
      `load`, its shape alone is used.
    axes: a letter per axis of the array, slowest first.
    dtype: of the values; None: array.dtype.
    voxel_size_zyx_nm: None per axis where unknown.
    origin: the part of the file that states it.
    chunks: shape of a stored chunk; None for an array in C order.
    dataset: name of the array inside the file.
    load: () -> the array, decoded whole when the first slice is read; None where
      `array` can be indexed as it is.
    decoded_bytes: memory for what is decoded whole, such as a chunk.

  Raises:
    InputError: for an empty array, or values that are not real numbers.
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
  loaded = functools.cache(load or (lambda: array))

  def read_block(first, stop):
    index = whole.copy()
    index[at_z] = slice(first, stop)
    with decoding(name):
      return np.asarray(loaded()[tuple(index)]).transpose(order)
  read = read_by_blocks(read_block, shape, dtype, deepest)
  return StackReader(slice_names(name, shape[0]), shape, dtype,
                     tuple(voxel_size_zyx_nm), origin,
                     decoded_bytes + block_bytes(shape, dtype, deepest), read,
                     ''.join(kept), dataset)


def block_bytes(shape, dtype, depth: int) -> int:
  """Memory of `read_by_blocks`: a slice and the block that it is cut from."""
  slice_bytes = shape[1] * shape[2] * np.dtype(dtype).itemsize
  return slice_bytes + max(slice_bytes, min(BLOCK_BYTES, depth * slice_bytes))


def read_by_blocks(read_block, shape, dtype, depth: int):
  """Turns a reader of several slices into a reader of single slices.

  Args:
    read_block: (first, stop) -> [z, y, x] array of those slices.
    shape: of the stack, z, y, x.
    dtype: to return; booleans and foreign byte orders are converted.
    depth: slices that are stored together; cut to 64 MiB, and at least one.

  Returns:
    z -> [y, x], a copy that the caller may change; the latest block stays in memory.
  """
  slice_bytes = shape[1] * shape[2] * np.dtype(dtype).itemsize
  depth = max(1, min(depth, BLOCK_BYTES // slice_bytes))
  latest_block = {}

  def read(z):
    first = z - z % depth
    if first not in latest_block:
      latest_block.clear()
      latest_block[first] = read_block(first, min(first + depth, shape[0]))
    return np.array(latest_block[first][z - first], dtype, order='C')
  return read


def slice_names(name: str, n_z: int) -> list[str]:
  """Names of the slices of a file, for messages; counted from 1.

  Raises:
    InputError: for more slices than any microscope makes.
  """
  if n_z > _MAX_SLICES:
    raise InputError(name, got=f'{n_z} slices', expected=f'at most {_MAX_SLICES}',
                     remedy='check the order of the axes (--axes), and the header')
  return [f'{name} slice {z + 1}' for z in range(n_z)]


def native(dtype) -> np.dtype:
  """The dtype that slices are read as: native byte order, uint8 for booleans."""
  dtype = np.dtype(dtype)
  return np.dtype(np.uint8) if dtype.kind == 'b' else dtype.newbyteorder('=')


def place_slabs(slabs_zyx):
  """Yields (z, slab) for slabs in ascending z; z is the first slice of the slab."""
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
  """Decides the order of the axes in a file, slowest first (MATLAB: first index first).

  Args:
    name: of the file, for messages.
    given: order given by the caller, or None.
    in_file: order stated in the file, or None.
    default: used when both are None; None makes that an error.

  Raises:
    InputError: for no order, a text that is no order of z, y and x, or two orders that
      differ.
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


def choose_dataset(name: str, arrays: dict[str, str], dataset: str | None) -> str:
  """Chooses the array to read among those of a file.

  Args:
    name: of the file, for messages.
    arrays: readable arrays: name -> shape and dtype as text.
    dataset: name of the array to read; None takes the only one.

  Raises:
    InputError: for no array, for several without a choice (they are listed), or for a
      name that is not there.
  """
  lines = [f'{key} {text}' for key, text in arrays.items()]
  listed = ', '.join(lines[:_MAX_LISTED])
  if len(lines) > _MAX_LISTED:
    listed += f' and {len(lines) - _MAX_LISTED} more'
  if dataset is None:
    if len(arrays) == 1:
      return next(iter(arrays))
    got = f'{len(arrays)} datasets: {listed}' if arrays else 'no dataset of three axes'
    raise InputError(name, got=got, expected='one dataset of three axes',
                     remedy='choose one of them by its name' if arrays
                     else 'save the stack as one array of z, y, x')
  key = next((key for key in arrays if key.strip('/') == dataset.strip('/')), None)
  if key is None:
    raise InputError(f'{name}: dataset', got=repr(dataset),
                     expected=f'one of: {listed}' if arrays else 'a file with datasets',
                     remedy='choose one of them' if arrays else 'choose another file')
  return key


def check_no_dataset(name: str, dataset) -> None:
  """Raises InputError when a dataset is named for a file that is a single array."""
  if dataset is not None:
    raise InputError(f'{name}: dataset', got=repr(dataset),
                     expected='none, the file is a single array',
                     remedy='leave it out')


def check_claim(name: str, shape, itemsize: int, stored_bytes: int) -> None:
  """Raises InputError when compressed data cannot hold what their header claims."""
  claimed = math.prod(int(n) for n in shape) * itemsize
  if claimed > max(HARMLESS_BYTES, _MAX_COMPRESSION * stored_bytes):
    raise InputError(name, got=f'{claimed} bytes claimed for shape {tuple(shape)}, '
                     f'{stored_bytes} stored', expected='a file that holds its data',
                     remedy='the header is wrong or data are missing: export it again')


def check_size(name: str, expected_bytes: int, source: str = 'its header') -> None:
  """Raises InputError unless a file of uncompressed numbers has the expected size."""
  n_bytes = Path(name).stat().st_size
  if n_bytes != expected_bytes:
    raise InputError(name, got=f'{n_bytes} bytes',
                     expected=f'{expected_bytes} bytes by {source}',
                     remedy='copy or export it again, or correct the shape and dtype')


def check_same_image(name: str, image, first, first_name: str) -> None:
  """Raises InputError unless (shape_yx, dtype) of a slice equal those of the first."""
  if image != first:
    raise InputError(name, got=f'{image[0]} pixels of {image[1]}',
                     expected=f'{first[0]} of {first[1]} as {first_name}',
                     remedy='crop or convert all slices alike')


@contextlib.contextmanager
def decoding(name, expected='a readable image'):
  """Turns any error of a decoder into an InputError that names the file.

  All exceptions are caught, because damaged input makes decoders raise nearly anything
  (struct.error, IndexError, errors of each codec). What the system refuses, such as
  permission, names its file already and stays as it is.
  """
  try:
    yield
  except (InputError, MemoryError):
    raise
  except Exception as error:
    if isinstance(error, OSError) and error.filename is not None:
      raise
    raise (refusals.refused(error, str(name))
           or _damaged(name, error, expected)) from error


def _damaged(name, error: Exception, expected: str) -> InputError:
  return InputError(str(name), got=f'{type(error).__name__}: {error}',
                    expected=expected,
                    remedy='the file is damaged: copy or export it again')


@contextlib.contextmanager
def new_file(path):
  """Yields a path to write to; the file appears at `path` when the block succeeds.

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
