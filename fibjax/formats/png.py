"""PNG: grey images, 1 to 16 bits, one slice or mask per file.

This is the only module that knows imagecodecs.
"""
import contextlib
import math
import struct
from pathlib import Path

import imagecodecs
import numpy as np

from fibjax.errors import InputError
from fibjax.formats.stack_reader import (
  AXES,
  UNKNOWN,
  StackReader,
  block_bytes,
  check_budget,
  check_claim,
  check_no_dataset,
  check_numbers,
  choose_axes,
  decoding,
)


@contextlib.contextmanager
def open_png(file: Path, *, dataset=None, axes=None):
  """Yields the StackReader of a grey PNG of 1, 2, 4, 8 or 16 bits: one slice.

  Args:
    file: PNG file.
    dataset: None; the file is a single array.
    axes: None or 'zyx'.

  Raises:
    InputError: when it is no PNG or not grey.
  """
  check_no_dataset(str(file), dataset)
  choose_axes(str(file), axes, AXES)
  shape, dtype, bits = _read_header(file)
  check_numbers(str(file), shape, dtype)
  check_claim(str(file), shape, dtype.itemsize, file.stat().st_size)

  def read(z):
    del z
    with decoding(file):
      image_yx = imagecodecs.png_decode(file.read_bytes())
      if image_yx.shape != shape:
        raise ValueError(f'an image of shape {image_yx.shape}')
    # The decoder stretches 1, 2 and 4 bits to 0..255; undo it to keep codes as stored.
    return image_yx // (255 // (2**bits - 1)) if bits < 8 else image_yx.astype(dtype)
  decoded_bytes = math.prod(shape) * dtype.itemsize + file.stat().st_size
  yield StackReader([str(file)], (1, *shape), dtype, UNKNOWN, None,
                    decoded_bytes + block_bytes((1, *shape), dtype, 1), read)


def read_masks(file: Path) -> np.ndarray:
  """Reads a label image, [y, x] uint8 or uint16, codes of 1 to 4 bits as stored.

  Raises:
    InputError: when it is damaged, not grey, or takes too much memory.
  """
  with open_png(file) as stack:
    check_budget(stack)
    return stack.read(0)


def _read_header(file: Path) -> tuple[tuple[int, int], np.dtype, int]:
  """(shape_yx, dtype, bits) of a grey PNG from its first 26 bytes."""
  with open(file, 'rb') as handle:
    head = handle.read(26)
  if len(head) < 26 or head[:8] != b'\x89PNG\r\n\x1a\n':
    raise InputError(str(file), got='no PNG header', expected='a PNG image',
                     remedy='export the image again')
  width, height, bits, colour = struct.unpack('>IIBB', head[16:26])
  if colour != 0:
    raise InputError(str(file), got='a PNG with colours or transparency',
                     expected='one grey channel', remedy='save it as 8-bit grey')
  if bits not in (1, 2, 4, 8, 16):
    raise InputError(str(file), got=f'{bits} bits', expected='1, 2, 4, 8 or 16',
                     remedy='the file is damaged: export it again')
  return (height, width), np.dtype(np.uint16 if bits == 16 else np.uint8), bits
