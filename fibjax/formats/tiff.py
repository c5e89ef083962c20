"""TIFF and BigTIFF: one page per slice, z ascending.

Voxel sizes come from ImageJ or OME-XML tags; a plain TIFF resolution (mostly the dots
per inch of a screen) is never used as one. 1-bit images become 0/1 uint8.

This is the only module that knows tifffile, which decodes compressed pages by
imagecodecs.
"""
import contextlib
import logging
import math
import operator
import struct
from pathlib import Path

import numpy as np
import tifffile

from fibjax.errors import InputError
from fibjax.formats.stack_reader import (
  AXES,
  UNKNOWN,
  StackReader,
  block_bytes,
  check_claim,
  check_no_dataset,
  check_same_image,
  choose_axes,
  decoding,
  native,
  new_file,
  read_slices,
)
from fibjax.volumes import voxel_size

# tifffile only logs a broken chain of pages; `_is_cut` raises an error instead.
logging.getLogger('tifffile').setLevel(logging.CRITICAL)

_DESCRIPTION = 270  # code of the TIFF tag with ImageJ's or OME's text
_CLASSIC_TIFF_BYTES = 2**32 - 2**25
# Decoded to no more than a tile or strip: tifffile passes the size. Decoders of images
# allocate what the image states; of these JPEG alone is in use, see `_check_jpeg`.
_BOUNDED_CODECS = (1, 2, 3, 4, 5, 8, 32773, 32946, 34925, 34926, 50000)
_JPEG, _JPEG_FRAMES = 7, {*range(0xc0, 0xd0)} - {0xc4, 0xc8, 0xcc}


@contextlib.contextmanager
def open_tiff(path: Path, *, dataset=None, axes=None):
  """Yields the StackReader of a TIFF or BigTIFF.

  Args:
    path: TIFF file.
    dataset: None; the file is a single array.
    axes: None or 'zyx'.

  Raises:
    InputError: when it is damaged, not grey, holds several channels or frames, or for
      axes other than z, y, x.
  """
  check_no_dataset(str(path), dataset)
  choose_axes(str(path), axes, AXES)
  with decoding(path):
    tif = tifffile.TiffFile(path)
  with tif:
    yield _open_tiff(path, tif)


def read_masks(path: Path) -> np.ndarray:
  """Reads label images: [y, x] of a single page, [r, y, x] of several.

  Raises:
    InputError: as `open_tiff`.
  """
  with open_tiff(path) as stack:
    masks_ryx = read_slices(stack)
  return masks_ryx[0] if len(masks_ryx) == 1 else masks_ryx


def write_tiff(path, slabs_zyx, shape, dtype, voxel_size_zyx_nm, *, compression=None,
               bigtiff: bool | None = None) -> None:
  """Writes a multi-page TIFF with its voxel size.

  Up to 4 GB, the limit of ImageJ's format, it is an ImageJ hyperstack; above, a BigTIFF
  with OME-XML (Fiji opens it through Bio-Formats).

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


def _open_tiff(path: Path, tif) -> StackReader:
  with decoding(path):
    pages = list(tif.pages)
    is_cut = _is_cut(tif)
    # A damaged tag may be bytes or a tuple, which a product would repeat; `index`
    # accepts integers alone.
    headers = [(tuple(map(operator.index, p.shape)), p.dtype, p.dataoffsets,
                p.databytecounts,
                operator.index(p.bitspersample) if p.compression == 1 else 0)
               for p in pages]
    segment_voxels = max(
        math.prod(map(operator.index, p.chunks))
        * min(len(p.dataoffsets), tifffile.TIFF.MAXWORKERS) for p in pages)
    codecs = {p.compression for p in pages}
    expected, size, origin = _describe(path, tif)
  names = [str(path)] if len(pages) == 1 else [
      f'{path} page {z + 1}' for z in range(len(pages))]
  for name, (shape, dtype, offsets, counts, bits) in zip(names, headers, strict=True):
    if len(shape) != 2 or dtype is None:
      raise InputError(name, got=f'an image of shape {shape}, dtype {dtype}',
                       expected='one grey channel',
                       remedy='convert it to grey (Fiji: Image > Type)')
    check_same_image(name, (shape, dtype), headers[0][:2], 'page 1')
    end = max((o + c for o, c in zip(offsets, counts, strict=False)), default=0)
    is_short = 8 * sum(counts) < math.prod(shape) * bits
    if end > tif.filehandle.size or 0 in counts or not counts or is_short:
      raise _truncated(name, 'image data that are missing')
  shape_yx, dtype = headers[0][0], native(headers[0][1])
  check_claim(str(path), (len(pages), *shape_yx), dtype.itemsize, tif.filehandle.size)
  if len(pages) == 1 and expected > 1 and tif.is_imagej:
    # ImageJ above 4 GB writes one page, then the pixels of all slices without pages.
    shape = (expected, *shape_yx)
    start, raw = headers[0][2][0], np.dtype(tif.byteorder + dtype.char)
    if start + math.prod(shape) * dtype.itemsize > tif.filehandle.size:
      raise _truncated(str(path), f'less than {expected} slices')
    memory = np.memmap(path, raw, 'r', start, shape)
    names = [f'{path} slice {z + 1}' for z in range(expected)]
    return StackReader(names, shape, dtype, size, origin,
                       block_bytes(shape, dtype, 1),
                       lambda z: memory[z].astype(dtype))
  # OME-XML may count the slices of a set of files; ImageJ's tags describe this file.
  if is_cut or (tif.is_imagej and expected > len(pages)):
    raise _truncated(str(path), f'{len(pages)} whole pages, then nothing')

  def read(z):
    with decoding(names[z]):
      if pages[z].compression == _JPEG:
        _check_jpeg(tif.filehandle, pages[z])
      return np.ascontiguousarray(pages[z].asarray(), dtype)
  if not codecs <= {*_BOUNDED_CODECS, _JPEG}:
    raise InputError(str(path), got=f'compression {max(codecs)}',
                     expected='none, LZW, deflate, PackBits, LZMA, Zstandard or JPEG',
                     remedy='save it uncompressed or with deflate')
  # A tile or strip is decoded whole; several threads of tifffile work on one page.
  needed = block_bytes((1, *shape_yx), dtype, 1) + segment_voxels * dtype.itemsize
  return StackReader(names, (len(pages), *shape_yx), dtype, size, origin, needed, read)


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
                     remedy='save the wanted channel and frame as a file')
  # Slices are often stored as frames or channels, the default of Fiji and tifffile.
  return max(counts), size, origin if any(size) else None


def _check_jpeg(file, page) -> None:
  """Raises ValueError unless every JPEG of a page fits into its tile or strip.

  The decoder allocates what the JPEG itself states.
  """
  for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
    file.seek(offset)
    data, at = file.read(count), 2
    while data[at] == 0xff and data[at + 1] not in _JPEG_FRAMES:
      at += 2 + int.from_bytes(data[at + 2:at + 4], 'big')
    height, width = struct.unpack_from('>HH', data, at + 5)
    if data[at] != 0xff or height * width > math.prod(page.chunks):
      raise ValueError(f'a JPEG of {width} x {height} in a tile of {page.chunks}')


def _is_cut(tif) -> bool:
  """Whether a page or the description lies beyond the end of the file.

  tifffile logs such offsets and silently leaves out what they point to.
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


def _truncated(name, got) -> InputError:
  return InputError(name, got=got, expected='a whole TIFF',
                    remedy='the file was cut short: copy or export it again')
