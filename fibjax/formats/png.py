"""PNG: grey images, 1 to 16 bits, one slice or mask per file.

This is the only module that knows imagecodecs.
"""
import struct
from pathlib import Path

import imagecodecs
import numpy as np

from fibjax.errors import InputError
from fibjax.formats.stack_reader import check_claim, decoding


def read_png(file: Path) -> np.ndarray:
  """Reads a grey PNG.

  Args:
    file: PNG of 1, 2, 4, 8 or 16 bits.

  Returns:
    [y, x] uint8 or uint16, codes of 1, 2 and 4 bits as stored.

  Raises:
    InputError: when it is damaged or not grey.
  """
  shape, dtype, bits = read_header(file)
  check_claim(str(file), shape, dtype.itemsize, file.stat().st_size)
  with decoding(file):
    image_yx = imagecodecs.png_decode(file.read_bytes())
  # The decoder stretches 1, 2 and 4 bits to 0..255; undo it to keep codes as stored.
  return image_yx // (255 // (2**bits - 1)) if bits < 8 else image_yx.astype(dtype)


def read_header(file: Path) -> tuple[tuple[int, int], np.dtype, int]:
  """Reads (shape_yx, dtype, bits) of a grey PNG from its first 26 bytes.

  Raises:
    InputError: when it is no PNG or not grey.
  """
  with open(file, 'rb') as handle:
    head = handle.read(26)
  if len(head) < 26 or head[:8] != b'\x89PNG\r\n\x1a\n':
    raise InputError(str(file), got='no PNG header', expected='a PNG image',
                     remedy='export the image again')
  width, height, bits, colour = struct.unpack('>IIBB', head[16:26])
  if colour != 0:
    raise InputError(str(file), got='a PNG with colours or transparency',
                     expected='one grey channel', remedy='save it as 8-bit grey')
  return (height, width), np.dtype(np.uint16 if bits == 16 else np.uint8), bits
