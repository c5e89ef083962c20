"""TIFF and PNG: folders of slices, multi-page files, single images.

A folder holds one file per slice (TIFF or PNG, one number per name that counts without
a gap); a multi-page TIFF or BigTIFF holds all of them; z is the slice, ascending. Voxel
sizes come from ImageJ or OME-XML tags: a plain TIFF resolution (dots per inch of a
screen, mostly) is never taken for one. 1-bit images become 0/1 uint8.

This is the only module that knows tifffile and imagecodecs.
"""
import contextlib
import logging
import math
import struct
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile

from fibjax.errors import InputError
from fibjax.formats.slice_names import order_slices
from fibjax.formats.stack import (
  AXES,
  UNKNOWN,
  Stack,
  check_claim,
  check_no_dataset,
  choose_axes,
  decoding,
  native,
  new_file,
)
from fibjax.volumes import voxel_size

# What tifffile only logs (a broken chain of pages) is checked below and raised.
logging.getLogger('tifffile').setLevel(logging.CRITICAL)

SUFFIXES, PNG_SUFFIXES = ('.tif', '.tiff'), ('.png',)
_DESCRIPTION = 270  # code of the TIFF tag with ImageJ's or OME's text
_CLASSIC_TIFF_BYTES = 2**32 - 2**25


@contextlib.contextmanager
def open_tiff(path: Path, *, dataset=None, axes=None):
  """Yields the Stack of a TIFF or BigTIFF: one page per slice.

  Raises:
    InputError: when it is damaged, not grey, holds several channels or frames, or the
      axes are given as others than z, y, x.
  """
  check_no_dataset(str(path), dataset)
  choose_axes(str(path), axes, AXES)
  with decoding(path):
    tif = tifffile.TiffFile(path)
  with tif:
    yield _open_tiff(path, tif)


@contextlib.contextmanager
def open_folder(folder: Path, *, dataset=None, axes=None):
  """Yields the Stack of a folder with one TIFF or PNG file per slice.

  Raises:
    InputError: for no slices, a gap in their numbers, slices that do not fit together,
      or axes given as others than z, y, x.
  """
  check_no_dataset(str(folder), dataset)
  choose_axes(str(folder), axes, AXES)
  yield _open_folder(folder)


def write_tiff(path, slabs_zyx, shape, dtype, voxel_size_zyx_nm, *, compression=None,
               bigtiff: bool | None = None) -> None:
  """Writes a multi-page TIFF that keeps its voxel size.

  Up to 4 GB it is an ImageJ hyperstack; above, where ImageJ's own format ends, a
  BigTIFF with OME-XML (Fiji opens it through Bio-Formats).

  Args:
    path: file to make.
    slabs_zyx: [z, y, x] arrays of uint8, uint16 or float32, z ascending.
    shape: z, y, x of all of them.
    dtype: of all of them.
    voxel_size_zyx_nm: nm per voxel; None: unknown.
    compression: None, or a lossless tifffile codec such as 'zlib' or 'lzw'.
    bigtiff: None decides by size.

  Raises:
    InputError: when path exists or cannot be written.
  """
  if bigtiff is None:
    bigtiff = math.prod(shape) * np.dtype(dtype).itemsize > _CLASSIC_TIFF_BYTES
  with new_file(path) as partial, tifffile.TiffWriter(
      partial, bigtiff=bigtiff, ome=bigtiff, imagej=not bigtiff) as writer:
    writer.write((slice_yx for slab in slabs_zyx for slice_yx in slab), shape=shape,
                 dtype=dtype, photometric='minisblack', compression=compression,
                 **voxel_size.tiff_tags(voxel_size_zyx_nm, ome=bigtiff))


def read_png(file: Path) -> np.ndarray:
  """Reads a grey PNG, [y, x]; codes of 1, 2 and 4 bits as stored.

  Raises:
    InputError: when it is damaged or not grey.
  """
  shape, dtype, bits = _png_header(file)
  check_claim(str(file), shape, dtype.itemsize, file.stat().st_size)
  with decoding(file):
    image_yx = imagecodecs.png_decode(file.read_bytes())
  # The decoder stretches 1, 2 and 4 bits to 0..255; undo it, codes are kept as stored.
  return image_yx // (255 // (2**bits - 1)) if bits < 8 else image_yx.astype(dtype)


def no_images(folder: Path) -> InputError:
  """The error for a folder without a TIFF or PNG file."""
  return InputError(str(folder), got='a folder without images',
                    expected='TIFF or PNG files', remedy='check the path')


def _open_folder(folder: Path) -> Stack:
  found = [f.name for f in folder.iterdir() if f.is_file() and f.name[0] != '.']
  kinds = [sorted(n for n in found if Path(n).suffix.lower() in suffixes)
           for suffixes in (SUFFIXES, PNG_SUFFIXES)]
  if all(kinds):
    raise InputError(str(folder), got=f'both {kinds[0][0]} and {kinds[1][0]}',
                     expected='slices of one file type', remedy='move the others out')
  if not any(kinds):
    raise no_images(folder)
  files = [folder / n for n in order_slices(kinds[0] or kinds[1], folder)]
  headers = [_slice_header(f) for f in files]
  shape_yx, dtype, size, origin = headers[0]
  for file, header in zip(files, headers, strict=True):
    _check_same(str(file), header[:2], headers[0][:2], files[0].name)
  if any(header[2:] != (size, origin) for header in headers):
    size, origin = UNKNOWN, None  # tags that contradict each other
  return Stack([str(f) for f in files], (len(files), *shape_yx), dtype, size, origin,
               lambda z: _read_slice(files[z]))


def _slice_header(file: Path):
  """(shape_yx, dtype, voxel size, origin) of a slice, without its pixels."""
  if file.suffix.lower() in PNG_SUFFIXES:
    shape, dtype, _ = _png_header(file)
    return shape, dtype, UNKNOWN, None
  with open_tiff(file) as stack:
    if stack.shape[0] != 1:
      raise InputError(str(file), got=f'{stack.shape[0]} pages',
                       expected='one slice per file in a folder',
                       remedy='give the file itself, or split it')
    return stack.shape[1:], stack.dtype, stack.voxel_size_zyx_nm, stack.origin


def _read_slice(file: Path) -> np.ndarray:
  if file.suffix.lower() in PNG_SUFFIXES:
    return read_png(file)
  with open_tiff(file) as stack:
    return stack.read(0)


def _open_tiff(path: Path, tif) -> Stack:
  with decoding(path):
    pages = list(tif.pages)
    is_cut = _is_cut(tif)
    headers = [(tuple(p.shape), p.dtype, p.dataoffsets, p.databytecounts,
                p.bitspersample if p.compression == 1 else 0) for p in pages]
    expected, size, origin = _describe(path, tif)
  names = [str(path)] if len(pages) == 1 else [
      f'{path} page {z + 1}' for z in range(len(pages))]
  for name, (shape, dtype, offsets, counts, bits) in zip(names, headers, strict=True):
    if len(shape) != 2 or dtype is None:
      raise InputError(name, got=f'an image of shape {shape}, dtype {dtype}',
                       expected='one grey channel',
                       remedy='convert it to grey (Fiji: Image > Type)')
    _check_same(name, (shape, dtype), headers[0][:2], 'page 1')
    end = max((o + c for o, c in zip(offsets, counts, strict=False)), default=0)
    is_short = 8 * sum(counts) < math.prod(shape) * bits
    if end > tif.filehandle.size or 0 in counts or not counts or is_short:
      raise _truncated(name, 'image data that are missing')
  shape_yx, dtype = headers[0][0], native(headers[0][1])
  check_claim(str(path), (len(pages), *shape_yx), dtype.itemsize, tif.filehandle.size)
  if len(pages) == 1 and expected > 1 and tif.is_imagej:
    # ImageJ above 4 GB: one page, then all slices without pages of their own.
    shape = (expected, *shape_yx)
    start, raw = headers[0][2][0], np.dtype(tif.byteorder + dtype.char)
    if start + math.prod(shape) * dtype.itemsize > tif.filehandle.size:
      raise _truncated(str(path), f'less than {expected} slices')
    memory = np.memmap(path, raw, 'r', start, shape)
    names = [f'{path} slice {z + 1}' for z in range(expected)]
    return Stack(names, shape, dtype, size, origin, lambda z: memory[z].astype(dtype))
  # OME-XML may count the slices of a set of files; ImageJ's tags are of this file.
  if is_cut or (tif.is_imagej and expected > len(pages)):
    raise _truncated(str(path), f'{len(pages)} whole pages, then nothing')

  def read(z):
    with decoding(names[z]):
      return np.ascontiguousarray(pages[z].asarray(), dtype)
  return Stack(names, (len(pages), *shape_yx), dtype, size, origin, read)


def _describe(path, tif):
  """Number of slices, voxel size and its origin by ImageJ or OME-XML tags."""
  if tif.is_imagej:
    counts, size = voxel_size.from_imagej(
        tif.imagej_metadata or {}, {t.name: t.value for t in tif.pages[0].tags})
    origin = 'ImageJ tags'
  elif tif.is_ome:
    counts, size = voxel_size.from_ome_xml(tif.ome_metadata)
    origin = 'OME-XML'
  else:
    return 1, UNKNOWN, None
  if sum(n > 1 for n in counts) > 1:
    raise InputError(str(path),
                     got='{} channels, {} frames, {} slices'.format(*counts),
                     expected='slices alone',
                     remedy='save the channel and frame you want by itself')
  # Slices often pass for frames or channels: Fiji's and tifffile's default for 3-D.
  return max(counts), size, origin if any(size) else None


def _is_cut(tif) -> bool:
  """Whether a page or the description lies behind the end of the file.

  tifffile logs such offsets and goes on without what they point to.
  """
  layout, file = tif.tiff, tif.filehandle

  def unpack(form, offset):
    file.seek(offset)
    return struct.unpack(form, file.read(struct.calcsize(form)))[0]
  last, first = tif.pages[-1], tif.pages[0]
  end = last.offset + layout.tagnosize + layout.tagsize * unpack(
      layout.tagnoformat, last.offset)
  entries = first.offset + layout.tagnosize
  codes = [unpack(tif.byteorder + 'H', entries + k * layout.tagsize)
           for k in range(unpack(layout.tagnoformat, first.offset))]
  lost_text = _DESCRIPTION in codes and _DESCRIPTION not in first.tags
  return lost_text or unpack(layout.offsetformat, end) != 0


def _png_header(file: Path):
  """(shape_yx, dtype, bits) of a grey PNG, from its first 26 bytes."""
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


def _check_same(name, got, first, first_name) -> None:
  if got != first:
    raise InputError(name, got=f'{got[0]} pixels of {got[1]}',
                     expected=f'{first[0]} of {first[1]} as {first_name}',
                     remedy='crop or convert all slices alike')


def _truncated(name, got) -> InputError:
  return InputError(name, got=got, expected='a whole TIFF',
                    remedy='the file was cut short: copy or export it again')
