"""MATLAB 5 files from the inside: where the arrays of numbers and text stand.

A file is a header of 128 bytes and one element per variable: a tag (type, bytes) and
its content, which may be packed with deflate. A variable's content is itself a list of
elements: flags with the class, lengths of the axes, name, values column by column. The
values may be stored in a smaller type than their class. Cells, structures, sparse and
complex arrays are left out.

Written here because scipy.io.loadmat ends the process on some damaged files, and reads
a variable whole where it could be mapped.

Source: MathWorks, MAT-File Format (level 5).
"""
import math
import struct
import zlib
from typing import NamedTuple

import numpy as np

_HEADER_BYTES, _ORDER_AT = 128, 126
_HEAD_BYTES = 2**16  # more than flags, lengths and name take
_UINT32, _INT32, _MATRIX, _PACKED = 6, 5, 14, 15
_STORED = {1: 'i1', 2: 'u1', 3: 'i2', 4: 'u2', 5: 'i4', 6: 'u4', 7: 'f4', 9: 'f8',
           12: 'i8', 13: 'u8', 16: 'u1', 17: 'u2', 18: 'u4'}
_CHAR = 4
_CLASSES = {_CHAR: 'U1', 6: 'f8', 7: 'f4', 8: 'i1', 9: 'u1', 10: 'i2', 11: 'u2',
            12: 'i4', 13: 'u4', 14: 'i8', 15: 'u8'}
_COMPLEX = 0x800


class Variable(NamedTuple):
  """An array in a file.

  dtype: of its class, 'U1' for text; shape: in MATLAB's order; stored: dtype of the
  values in the file; offset: of the first value, in the file or the unpacked element;
  packed: (first byte, bytes) of the packed element, None where it is not packed.
  """
  dtype: np.dtype
  shape: tuple[int, ...]
  stored: np.dtype
  offset: int
  packed: tuple[int, int] | None


def list_variables(path) -> dict[str, Variable]:
  """Finds the arrays of numbers and text of a MATLAB 5 file by name.

  Raises:
    ValueError, struct.error, zlib.error: when the file is damaged.
  """
  found = {}
  with open(path, 'rb') as file:
    mark = file.read(_HEADER_BYTES)[_ORDER_AT:]
    if mark not in (b'IM', b'MI'):
      raise ValueError('no mark of the byte order')
    order = '<' if mark == b'IM' else '>'
    end, at = file.seek(0, 2), _HEADER_BYTES
    while at < end:
      file.seek(at)
      kind, n_bytes = struct.unpack(f'{order}2I', file.read(8))
      at += 8
      if at + n_bytes > end:
        raise ValueError('a variable that ends behind the file')
      head, packed = file.read(min(n_bytes, _HEAD_BYTES)), None
      if kind == _PACKED:
        packed = at, n_bytes
        head = zlib.decompressobj().decompress(head, _HEAD_BYTES)
        kind, size = struct.unpack_from(f'{order}2I', head)
        start, stop, head = 8, 8 + size, head[8:]
      else:
        start, stop = at, at + n_bytes
      if kind == _MATRIX:
        found |= _read_head(head, order, start, stop, packed)
      at += n_bytes
  return found


def read_variable(path, variable: Variable) -> np.ndarray:
  """The values of a variable as stored, axes in MATLAB's order; mapped if not packed.

  Raises:
    ValueError, zlib.error: when the file is damaged.
  """
  if variable.packed is None:
    return np.memmap(path, variable.stored, 'r', variable.offset, variable.shape, 'F')
  start, n_bytes = variable.packed
  count = math.prod(variable.shape)
  with open(path, 'rb') as file:
    file.seek(start)
    data = zlib.decompressobj().decompress(
        file.read(n_bytes), variable.offset + count * variable.stored.itemsize)
  return np.frombuffer(data, variable.stored, count, variable.offset).reshape(
      variable.shape, order='F')


def _read_head(head, order, start, stop, packed) -> dict[str, Variable]:
  """The variable of an element by its head: {name: variable}, {} for another kind."""
  kind, at, n_bytes, after = _tag(head, order, 0)
  if kind != _UINT32 or n_bytes != 8:
    raise ValueError('a variable without flags')
  flags = struct.unpack_from(f'{order}I', head, at)[0]
  if flags & 0xff not in _CLASSES or flags & _COMPLEX:
    return {}
  kind, at, n_bytes, after = _tag(head, order, after)
  if kind != _INT32:
    raise ValueError('a variable without lengths of its axes')
  shape = struct.unpack_from(f'{order}{n_bytes // 4}i', head, at)
  _, at, n_bytes, after = _tag(head, order, after)
  name = head[at:at + n_bytes].decode('ascii')
  kind, at, n_bytes, _ = _tag(head, order, after)
  if kind not in _STORED:
    raise ValueError(f'values of unknown type {kind} in {name!r}')
  stored = np.dtype(_STORED[kind]).newbyteorder(order)
  needed = math.prod(shape) * stored.itemsize
  if flags & 0xff == _CHAR and n_bytes != needed:
    return {}  # text of more than a byte a letter
  if min(shape, default=-1) < 0 or n_bytes != needed or start + at + needed > stop:
    raise ValueError(f'{n_bytes} bytes for shape {shape} of {name!r}')
  dtype = np.dtype(_CLASSES[flags & 0xff])
  return {name: Variable(dtype, shape, stored, start + at, packed)}


def _tag(head, order, at):
  """(type, first byte, bytes, next tag) of the element at a position."""
  kind, n_bytes = struct.unpack_from(f'{order}2I', head, at)
  if kind >> 16:  # at most four bytes, which stand in the tag itself
    return kind & 0xffff, at + 4, kind >> 16, at + 8
  return kind, at + 8, n_bytes, at + 8 + -(-n_bytes // 8) * 8
