"""Image files: stacks of slices in and out, masks in.

A stack is a folder with one file per slice (TIFF or PNG, one number per name that
counts without a gap) or one multi-page TIFF/BigTIFF; z is the slice, ascending. It
becomes a volume slab by slab, one shard deep, so memory does not grow with the stack.

Voxel sizes are in nm, z, y, x. They come from the argument, else from ImageJ or
OME-XML tags, else they are unknown (None): a plain TIFF resolution (dots per inch of a
screen, mostly) is never taken for one. Grey values are kept as stored; 1-bit images
become 0/1 uint8.

This is the only module that knows tifffile and imagecodecs.
"""
import contextlib
import logging
import math
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import imagecodecs
import numpy as np
import tifffile

from fibjax.checks import InputError
from fibjax.data import volume as volumes
from fibjax.data import voxel_size
from fibjax.data.slice_names import natural_key, order_slices

# What tifffile only logs (a broken chain of pages) is checked below and raised.
logging.getLogger('tifffile').setLevel(logging.CRITICAL)

_TIFF = ('.tif', '.tiff')
_GREY_DTYPES = ('uint8', 'uint16', 'float32')
_DESCRIPTION = 270  # code of the TIFF tag with ImageJ's or OME's text
_CLASSIC_TIFF_BYTES = 2**32 - 2**25


class Stack(NamedTuple):
  """An open stack: what it holds and how to read one slice.

  names: of the slices, for messages; shape: z, y, x; dtype: of the values read;
  voxel_size_zyx_nm: from the file's tags, None per axis where unknown; origin: the
  tags it came from; read: z -> [y, x] array.
  """
  names: list[str]
  shape: tuple[int, int, int]
  dtype: np.dtype
  voxel_size_zyx_nm: tuple[float | None, ...]
  origin: str | None
  read: Callable[[int], np.ndarray]


def import_stack(source, out, *, voxel_size_zyx_nm=None) -> volumes.Volume:
  """Copies a stack into a new volume, slab by slab; a failure leaves nothing.

  Args:
    source: folder of slices, or a multi-page TIFF or BigTIFF; uint8, uint16, float32
      or 1 bit.
    out: path of the volume; must not exist.
    voxel_size_zyx_nm: nm per voxel; wins over the file's tags (both are recorded in
      the volume's attributes). Without it and without tags the size is unknown.

  Raises:
    InputError: for a source that is missing, empty, incomplete, damaged, of mixed
      size or type, not grey, or not finite; names the file.
  """
  given = voxel_size.check_voxel_size(str(source), voxel_size_zyx_nm)
  with open_stack(source) as stack:
    if stack.dtype.name not in _GREY_DTYPES:
      raise InputError(stack.names[0], got=f'dtype {stack.dtype}',
                       expected='8 or 16 bits unsigned, 32-bit float, or 1 bit',
                       remedy='convert the stack (Fiji: Image > Type)')
    in_file = stack.voxel_size_zyx_nm
    size = given or (None if None in in_file else in_file)
    origin = 'argument' if given else stack.origin if size else None
    attributes = {'source': str(source), 'voxel_size_from': origin,
                  'voxel_size_in_file_zyx_nm': list(in_file)}
    with volumes.new_volume(out, stack.shape, stack.dtype, size, fill_value=None,
                            attributes=attributes) as new:
      for (z, *_), (stop, *_) in volumes.slab_boxes(new):
        volumes.write_box(new, (z, 0, 0), _read_slab(stack, z, stop))
  return volumes.open_volume(out)


def export_stack(volume: volumes.Volume, out, *, compression=None,
                 bigtiff: bool | None = None) -> Path:
  """Writes a volume as one multi-page TIFF that keeps its voxel size.

  Up to 4 GB it is an ImageJ hyperstack; above, where ImageJ's own format ends, a
  BigTIFF with OME-XML (Fiji opens it through Bio-Formats). Written slab by slab.

  Args:
    volume: uint8, uint16 or float32.
    out: file to make; must not exist.
    compression: None, or a lossless tifffile codec such as 'zlib' or 'lzw'.
    bigtiff: None decides by size.

  Returns:
    Path of the file.

  Raises:
    InputError: when out exists or cannot be written, or for another dtype.
  """
  out = Path(out)
  if out.exists():
    raise InputError(str(out), got='something there already',
                     expected='a path that does not exist',
                     remedy='delete it or choose another path')
  if volume.dtype.name not in _GREY_DTYPES:
    raise InputError(str(volume.path), got=f'dtype {volume.dtype}',
                     expected=f'one of {", ".join(_GREY_DTYPES)}',
                     remedy='convert it first')
  if bigtiff is None:
    n_bytes = math.prod(volume.shape) * volume.dtype.itemsize
    bigtiff = n_bytes > _CLASSIC_TIFF_BYTES
  partial = out.with_name(out.name + '.partial')
  try:
    out.parent.mkdir(parents=True, exist_ok=True)
    with tifffile.TiffWriter(partial, bigtiff=bigtiff, ome=bigtiff,
                             imagej=not bigtiff) as writer:
      writer.write(_slices_of(volume), shape=volume.shape, dtype=volume.dtype,
                   photometric='minisblack', compression=compression,
                   **voxel_size.tiff_tags(volume.voxel_size_zyx_nm, ome=bigtiff))
    os.replace(partial, out)
  except OSError as error:
    raise InputError(str(out), got=str(error), expected='a file that can be written',
                     remedy='check free space and permissions') from None
  finally:
    if partial.exists():
      partial.unlink()
  return out


def read_masks(path) -> np.ndarray:
  """Reads label images from one TIFF, PNG or npy file; codes as stored.

  Returns:
    [y, x] or, for a multi-page TIFF or a 3-D npy, [r, y, x]; 1 bit as 0/1 uint8.

  Raises:
    InputError: when the file is missing, damaged, pickled, or not grey.
  """
  path = Path(path)
  suffix = path.suffix.lower()
  if not path.is_file():
    raise InputError(str(path), got='no such file', expected='a mask file',
                     remedy='check the path')
  if suffix in _TIFF:
    with open_stack(path) as stack:
      masks = np.stack([stack.read(z) for z in range(stack.shape[0])])
    return masks[0] if len(masks) == 1 else masks
  if suffix == '.png':
    return _read_png(path)
  if suffix != '.npy':
    raise InputError(str(path), got=f'a {suffix or "nameless"} file',
                     expected='a .tif, .tiff, .png or .npy file',
                     remedy='export the masks in one of these formats')
  with _decoding(path):
    masks = np.load(path, allow_pickle=False)
  if masks.dtype.kind not in 'buif' or masks.ndim not in (2, 3):
    raise InputError(str(path), got=f'{masks.ndim}-D array of {masks.dtype}',
                     expected='a 2-D or 3-D array of numbers',
                     remedy='save the masks as region, row, column')
  return masks.astype(np.uint8) if masks.dtype == bool else masks


def read_mask_list(path) -> list[np.ndarray]:
  """Reads one [y, x] mask per region from a file, or a folder in natural order.

  Raises:
    InputError: as `read_masks`; also for a folder without masks.
  """
  path = Path(path)
  files = [path]
  if path.is_dir():
    files = sorted((f for f in path.iterdir() if not f.name.startswith('.')
                    and f.suffix.lower() in (*_TIFF, '.png', '.npy')),
                   key=lambda f: (natural_key(f.name), f.name))
  if not files:
    raise _no_images(path)
  masks = [read_masks(f) for f in files]
  return [mask for m in masks for mask in (m if m.ndim == 3 else m[None])]


@contextlib.contextmanager
def open_stack(source):
  """Yields the Stack of a folder of slices or of a TIFF file; reads headers only.

  Raises:
    InputError: when there is none, or its slices do not fit together.
  """
  source = Path(source)
  if source.is_dir():
    yield _open_folder(source)
  elif source.is_file():
    with _decoding(source):
      tif = tifffile.TiffFile(source)
    with tif:
      yield _open_tiff(source, tif)
  else:
    raise InputError(str(source), got='no such file or folder',
                     expected='a folder of slices or a TIFF file',
                     remedy='check the path')


def _open_folder(folder: Path) -> Stack:
  found = [f.name for f in folder.iterdir() if f.is_file() and f.name[0] != '.']
  kinds = [sorted(n for n in found if Path(n).suffix.lower() in suffixes)
           for suffixes in (_TIFF, ('.png',))]
  if all(kinds):
    raise InputError(str(folder), got=f'both {kinds[0][0]} and {kinds[1][0]}',
                     expected='slices of one file type', remedy='move the others out')
  if not any(kinds):
    raise _no_images(folder)
  files = [folder / n for n in order_slices(kinds[0] or kinds[1], folder)]
  headers = [_slice_header(f) for f in files]
  shape_yx, dtype, size, origin = headers[0]
  for file, header in zip(files, headers, strict=True):
    _check_same(str(file), header[:2], headers[0][:2], files[0].name)
  if any(header[2:] != (size, origin) for header in headers):
    size, origin = (None, None, None), None  # tags that contradict each other
  return Stack([str(f) for f in files], (len(files), *shape_yx), dtype, size, origin,
               lambda z: _read_slice(files[z]))


def _slice_header(file: Path):
  """(shape_yx, dtype, voxel size, origin) of a slice, without its pixels."""
  if file.suffix.lower() == '.png':
    shape, dtype, _ = _png_header(file)
    return shape, dtype, (None, None, None), None
  with open_stack(file) as stack:
    if stack.shape[0] != 1:
      raise InputError(str(file), got=f'{stack.shape[0]} pages',
                       expected='one slice per file in a folder',
                       remedy='give the file itself, or split it')
    return stack.shape[1:], stack.dtype, stack.voxel_size_zyx_nm, stack.origin


def _read_slice(file: Path) -> np.ndarray:
  if file.suffix.lower() == '.png':
    return _read_png(file)
  with open_stack(file) as stack:
    return stack.read(0)


def _open_tiff(path: Path, tif) -> Stack:
  with _decoding(path):
    pages = list(tif.pages)
    is_cut = _is_cut(tif)
    headers = [(tuple(p.shape), p.dtype, p.dataoffsets, p.databytecounts)
               for p in pages]
    expected, size, origin = _describe(path, tif)
  names = [str(path)] if len(pages) == 1 else [
      f'{path} page {z + 1}' for z in range(len(pages))]
  for name, (shape, dtype, offsets, counts) in zip(names, headers, strict=True):
    if len(shape) != 2 or dtype is None:
      raise InputError(name, got=f'an image of shape {shape}, dtype {dtype}',
                       expected='one grey channel',
                       remedy='convert it to grey (Fiji: Image > Type)')
    _check_same(name, (shape, dtype), headers[0][:2], 'page 1')
    end = max((o + c for o, c in zip(offsets, counts, strict=False)), default=0)
    if end > tif.filehandle.size or 0 in counts or not counts:
      raise _truncated(name, 'image data that are missing')
  shape_yx, dtype = headers[0][:2]
  dtype = np.dtype(np.uint8 if dtype.kind == 'b' else dtype).newbyteorder('=')
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
    with _decoding(names[z]):
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
    return 1, (None, None, None), None
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


def _slices_of(volume):
  for start, stop in volumes.slab_boxes(volume):
    yield from volumes.read_box(volume, start, stop)


def _read_slab(stack: Stack, start: int, stop: int) -> np.ndarray:
  slab_zyx = np.empty((stop - start, *stack.shape[1:]), stack.dtype)
  for z in range(start, stop):
    slab_zyx[z - start] = slice_yx = stack.read(z)
    if slice_yx.dtype.kind == 'f' and not np.isfinite(slice_yx).all():
      raise InputError(stack.names[z], got='NaN or infinite values',
                       expected='finite grey values',
                       remedy='repair or leave out the slice')
  return slab_zyx


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


def _read_png(file: Path) -> np.ndarray:
  _, dtype, bits = _png_header(file)
  with _decoding(file):
    image_yx = imagecodecs.png_decode(file.read_bytes())
  # The decoder stretches 1, 2 and 4 bits to 0..255; undo it, codes are kept as stored.
  return image_yx // (255 // (2**bits - 1)) if bits < 8 else image_yx.astype(dtype)


def _check_same(name, got, first, first_name) -> None:
  if got != first:
    raise InputError(name, got=f'{got[0]} pixels of {got[1]}',
                     expected=f'{first[0]} of {first[1]} as {first_name}',
                     remedy='crop or convert all slices alike')


def _truncated(name, got) -> InputError:
  return InputError(name, got=got, expected='a whole TIFF',
                    remedy='the file was cut short: copy or export it again')


def _no_images(folder) -> InputError:
  return InputError(str(folder), got='a folder without images',
                    expected='TIFF or PNG files', remedy='check the path')


@contextlib.contextmanager
def _decoding(name):
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
                     expected='a readable image',
                     remedy='the file is damaged: copy or export it again') from error
