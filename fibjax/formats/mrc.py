"""MRC (MRC2014): the header's shape, axes, mode and voxel size, in angstrom.

Values are as stored: mode 0 is int8, or uint8 where IMOD's stamp in the header says so;
1 is int16, 2 float32, 6 uint16, 12 float16. MRC has no mode for unsigned bytes that all
programs read alike, so uint8 is written as uint16 with the same values. Programs that
do not know the voxel size write a cell of 0 or 1 angstrom per voxel: unknown.

Sources: Cheng et al. 2015, J. Struct. Biol. 192:146 (MRC2014); IMOD's mrc_format.txt.

This is the only module that knows mrcfile.
"""
import contextlib
import math
import warnings
from pathlib import Path

import mrcfile
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
  decoding,
  new_file,
)
from fibjax.volumes.voxel_size import to_nm

_MODES = {'uint8': 6, 'uint16': 6, 'float32': 2}
_LETTERS = {1: 'x', 2: 'y', 3: 'z'}
_HEADER_BYTES, _MAP_AT = 1024, 208
_IMOD_STAMP, _IMOD_AT, _IMOD_SIGNED = 1146047817, 152, 1


@contextlib.contextmanager
def open_mrc(path: Path, *, dataset=None, axes=None):
  """Yields the StackReader of a volume or an image stack.

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
  order = tuple(int(header[key]) for key in ('maps', 'mapr', 'mapc'))
  in_header = AXES if order == (0, 0, 0) else ''.join(
      _LETTERS.get(number, '?') for number in order)
  # Nearly every file states 3, 2, 1, whatever its axes.
  chosen = choose_axes(str(path), axes, None if in_header == AXES else in_header)
  sizes = _sizes(header, in_header)
  size = tuple(sizes[chosen.index(axis)] for axis in AXES)
  data = np.memmap(path, dtype, 'r', _HEADER_BYTES + int(header['nsymbt']),
                   _shape(header))
  yield array_reader(str(path), data, chosen, voxel_size_zyx_nm=size,
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
  with new_file(path) as partial:
    stored = mrcfile.utils.dtype_from_mode(_MODES[np.dtype(dtype).name])
    header = _new_header(partial, shape, stored)
    if voxel_size_zyx_nm is not None:
      lengths = [10 * s * n for s, n in zip(voxel_size_zyx_nm, shape, strict=True)]
      header.cella.z, header.cella.y, header.cella.x = lengths
    sums, lows, highs = np.zeros(2), [], []
    # Not a memory map: where the disk is full, writing to one kills the process.
    with open(partial, 'wb') as file:
      file.write(header.tobytes())
      for slab in slabs_zyx:
        file.write(slab.astype(stored).tobytes())
        sums += slab.sum(dtype=float), np.square(slab, dtype=float).sum()
        lows.append(slab.min())
        highs.append(slab.max())
      mean, square = sums / math.prod(shape)
      header.dmin, header.dmax, header.dmean = min(lows), max(highs), mean
      header.rms = math.sqrt(max(0., square - mean**2))
      file.seek(0)
      file.write(header.tobytes())


def _new_header(path, shape, dtype):
  """The header of a volume, as mrcfile writes it; makes a file of one voxel."""
  with warnings.catch_warnings():
    # mrcfile 1.5.4 sets the dtype of its header in place, deprecated in NumPy 2.5.
    warnings.filterwarnings('ignore', 'Setting the dtype', DeprecationWarning)
    with mrcfile.new(path, np.zeros((1, 1, 1), dtype), overwrite=True) as mrc:
      mrc.set_volume()
      header = mrc.header.copy()
  header.nz, header.ny, header.nx = header.mz, header.my, header.mx = shape
  return header


def _read_header(path):
  """The header and the dtype of the values, checked against the size of the file."""
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
  if head[_MAP_AT:_MAP_AT + 3] != b'MAP':
    raise InputError(str(path), got='no map string in the header',
                     expected='a readable MRC file',
                     remedy='the file is damaged: copy or export it again')
  shape = _shape(header)
  if min(shape) < 0:
    raise InputError(str(path), got=f'shape {shape}', expected='positive numbers',
                     remedy='the header is damaged: copy or export it again')
  check_numbers(str(path), shape, dtype)
  check_size(str(path), _HEADER_BYTES + int(header['nsymbt'])
             + math.prod(shape) * dtype.itemsize)
  if mrcfile.utils.spacegroup_is_volume_stack(int(header['ispg'])):
    n_volumes = shape[0] // max(1, int(header['mz']))
    raise InputError(str(path), got=f'{n_volumes} volumes',
                     expected='a single volume', remedy='save one volume as a file')
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
