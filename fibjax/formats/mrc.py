"""MRC (MRC2014): the header's shape, axes, mode and voxel size, in angstrom.

Values are as stored: mode 0 is int8, or uint8 where IMOD's stamp in the header says so;
1 is int16, 2 float32, 6 uint16, 12 float16. MRC has no mode for unsigned bytes that
every program reads alike, so uint8 is written as uint16, value for value. A cell of
1 angstrom a voxel, or of none, is what programs write that know no size: unknown.

Sources: Cheng et al. 2015, J. Struct. Biol. 192:146 (MRC2014); IMOD's mrc_format.txt.

This is the only module that knows mrcfile.
"""
import contextlib
import math
from pathlib import Path

import mrcfile
import numpy as np

from fibjax.errors import InputError
from fibjax.formats.stack import (
  AXES,
  UNKNOWN,
  array_stack,
  check_no_dataset,
  check_numbers,
  check_size,
  choose_axes,
  decoding,
  new_file,
  place_slabs,
)
from fibjax.volumes.voxel_size import to_nm

SUFFIXES = ('.mrc', '.rec', '.map')
_MODES = {'uint8': 6, 'uint16': 6, 'float32': 2}
_LETTERS = {1: 'x', 2: 'y', 3: 'z'}
_HEADER_BYTES = 1024
_IMOD_STAMP, _IMOD_AT, _IMOD_SIGNED = 1146047817, 152, 1


@contextlib.contextmanager
def open_mrc(path: Path, *, dataset=None, axes=None):
  """Yields the Stack of a volume or an image stack.

  Args:
    path: MRC file, not packed.
    dataset: None; the file is a single array.
    axes: their order in the file, slowest first; None takes the header's.

  Raises:
    InputError: when the header is damaged or does not fit the size of the file, or for
      a stack of volumes.
  """
  check_no_dataset(str(path), dataset)
  header, dtype = _read_header(path)
  with decoding(path, 'a readable MRC file'):
    mrc = mrcfile.mmap(path, mode='r', permissive=False)
  with mrc:
    if mrc.data.ndim > 3:
      raise InputError(str(path), got=f'{len(mrc.data)} volumes',
                       expected='a single volume', remedy='save one by itself')
    data = mrc.data.view(dtype).reshape(_shape(header))
    order = tuple(int(header[key]) for key in ('maps', 'mapr', 'mapc'))
    in_header = AXES if order == (0, 0, 0) else ''.join(
        _LETTERS.get(number, '?') for number in order)
    # 3, 2, 1 stands in nearly every file, whatever its axes.
    chosen = choose_axes(str(path), axes, None if in_header == AXES else in_header)
    sizes = _sizes(header, in_header)
    size = tuple(sizes[chosen.index(axis)] for axis in AXES)
    yield array_stack(str(path), data, chosen, voxel_size_zyx_nm=size,
                      origin='MRC header' if any(size) else None)


def write_mrc(path, slabs_zyx, shape, dtype, voxel_size_zyx_nm) -> None:
  """Writes a volume with its voxel size and statistics in the header.

  Args:
    path: file to make.
    slabs_zyx: [z, y, x] arrays of uint8 (stored as uint16), uint16 or float32, z
      ascending.
    shape: z, y, x of all of them.
    dtype: of all of them.
    voxel_size_zyx_nm: nm per voxel; None leaves the cell empty.

  Raises:
    InputError: when path exists or cannot be written.
  """
  with new_file(path) as partial, mrcfile.new_mmap(
      partial, tuple(shape), _MODES[np.dtype(dtype).name], overwrite=True) as mrc:
    mrc.set_volume()
    if voxel_size_zyx_nm is not None:
      mrc.voxel_size = tuple(10 * s for s in reversed(voxel_size_zyx_nm))
    sums, lows, highs = np.zeros(2), [], []
    for z, slab in place_slabs(slabs_zyx):
      mrc.data[z:z + len(slab)] = slab
      sums += slab.sum(dtype=float), np.square(slab, dtype=float).sum()
      lows.append(slab.min())
      highs.append(slab.max())
    mean, square = sums / math.prod(shape)
    mrc.header.dmin, mrc.header.dmax, mrc.header.dmean = min(lows), max(highs), mean
    mrc.header.rms = math.sqrt(max(0., square - mean**2))


def _read_header(path):
  """The header, and the dtype of the values; checked against the size of the file."""
  with open(path, 'rb') as file:
    head = file.read(_HEADER_BYTES)
  with decoding(path, 'an MRC header'):
    header = np.frombuffer(head, mrcfile.dtypes.HEADER_DTYPE)[0]
    order = mrcfile.utils.byte_order_from_machine_stamp(header['machst'])
    header = np.frombuffer(head, mrcfile.dtypes.HEADER_DTYPE.newbyteorder(order))[0]
    dtype = mrcfile.utils.dtype_from_mode(int(header['mode'])).newbyteorder(order)
  stamp, flags = np.frombuffer(head, np.dtype('i4').newbyteorder(order), 2, _IMOD_AT)
  if dtype == np.int8 and stamp == _IMOD_STAMP and not flags & _IMOD_SIGNED:
    dtype = np.dtype(np.uint8)
  shape = _shape(header)
  if min(shape) < 0:
    raise InputError(str(path), got=f'shape {shape}', expected='positive numbers',
                     remedy='the header is damaged: copy or export it again')
  check_numbers(str(path), shape, dtype)
  check_size(str(path), _HEADER_BYTES + int(header['nsymbt'])
             + math.prod(shape) * dtype.itemsize)
  return header, dtype


def _shape(header) -> tuple[int, int, int]:
  return tuple(int(header[key]) for key in ('nz', 'ny', 'nx'))


def _sizes(header, in_header: str):
  """Voxel size in nm per axis of the array, by the cell of the header."""
  lengths = [float(header['cella'][axis]) for axis in in_header if axis != '?']
  counts = [int(header[f'm{axis}']) for axis in in_header if axis != '?']
  sizes = [length / count if count > 0 else 0
           for length, count in zip(lengths, counts, strict=True)]
  if all(size == 1 for size in sizes):
    return UNKNOWN
  return [to_nm(size, 'angstrom') for size in sizes]
