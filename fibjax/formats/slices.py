"""Folders with one TIFF or PNG file per slice, z ascending.

The names hold one number that counts without a gap (slice_names.py); other files and
hidden files are ignored.
"""
import contextlib
from pathlib import Path

import numpy as np

from fibjax.errors import InputError
from fibjax.formats import png, tiff
from fibjax.formats.slice_names import order_slices
from fibjax.formats.stack_reader import (
  AXES,
  UNKNOWN,
  StackReader,
  check_no_dataset,
  check_same_image,
  choose_axes,
)

_TIFF_SUFFIXES, _PNG_SUFFIXES = ('.tif', '.tiff'), ('.png',)


@contextlib.contextmanager
def open_slices(folder: Path, *, dataset=None, axes=None):
  """Yields the StackReader of a folder of slices.

  Args:
    folder: with TIFF or PNG files.
    dataset: None; a slice is a single array.
    axes: None or 'zyx'.

  Raises:
    InputError: for no slices, a gap in their numbers, slices of both types or that do
      not fit together, or axes other than z, y, x.
  """
  check_no_dataset(str(folder), dataset)
  choose_axes(str(folder), axes, AXES)
  files = [folder / name for name in order_slices(_slice_names(folder), folder)]
  headers = [_read_header(file) for file in files]
  first = headers[0]
  for file, header in zip(files, headers, strict=True):
    check_same_image(str(file), (header.shape[1:], header.dtype),
                     (first.shape[1:], first.dtype), files[0].name)
  size, origin = first.voxel_size_zyx_nm, first.origin
  if any((header.voxel_size_zyx_nm, header.origin) != (size, origin)
         for header in headers):
    size, origin = UNKNOWN, None  # tags that contradict each other
  yield StackReader([str(file) for file in files], (len(files), *first.shape[1:]),
                    first.dtype, size, origin,
                    max(header.slice_bytes for header in headers),
                    lambda z: _read_slice(files[z]))


def no_images(folder: Path) -> InputError:
  """The error for a folder without images."""
  return InputError(str(folder), got='a folder without images',
                    expected='TIFF or PNG files', remedy='check the path')


def _slice_names(folder: Path) -> list[str]:
  """Names of the slices in a folder, all of them TIFF or all of them PNG."""
  entries = [entry for entry in folder.iterdir() if entry.name[0] != '.']
  tiffs, pngs = (sorted(entry.name for entry in entries
                        if entry.suffix.lower() in suffixes)
                 for suffixes in (_TIFF_SUFFIXES, _PNG_SUFFIXES))
  if tiffs and pngs:
    raise InputError(str(folder), got=f'both {tiffs[0]} and {pngs[0]}',
                     expected='slices of one file type', remedy='move the others out')
  if not tiffs and not pngs:
    raise no_images(folder)
  for name in tiffs or pngs:
    if not (folder / name).is_file():
      # The last slice, left out, would leave no gap.
      raise InputError(str(folder / name), got='a broken link, a folder or a pipe',
                       expected='a file, by its name a slice',
                       remedy='restore the slice, or move it out of the folder')
  return tiffs or pngs


def _open_slice(file: Path):
  """The StackReader of a slice."""
  is_png = file.suffix.lower() in _PNG_SUFFIXES
  return png.open_png(file) if is_png else tiff.open_tiff(file)


def _read_header(file: Path) -> StackReader:
  """The StackReader of a slice, closed: what its header states, without its pixels."""
  with _open_slice(file) as stack:
    if stack.shape[0] != 1:
      raise InputError(str(file), got=f'{stack.shape[0]} pages',
                       expected='one slice per file in a folder',
                       remedy='give the file itself, or split it')
    return stack._replace(read=None)


def _read_slice(file: Path) -> np.ndarray:
  with _open_slice(file) as stack:
    return stack.read(0)
