"""The registry of file formats: how each is recognised, read and written.

A new format is one module with the functions that `Format` describes and one entry in
FORMATS. Help texts, error messages and the choice of a reader or writer all derive from
this table. Format modules are imported on first use, because their libraries are slow
to import and the command-line help needs the names only.
"""
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from fibjax.errors import InputError

_GREY_DTYPES = ('uint8', 'uint16', 'float32')


class Format(NamedTuple):
  """A file format.

  Attributes:
    title: name in help texts and messages.
    suffixes: lower case, with the dot; the first is the usual one.
    open: (path, *, dataset, axes) -> context manager that yields a
      `stack_reader.StackReader`; None for a format of single images.
    write: (path, slabs_zyx, shape, dtype, voxel_size_zyx_nm, **options) -> None, with
      slabs in ascending z; None for a format that is only read.
    marks: (offset, bytes) pairs, one of which identifies the content of a file; () for
      a format without such a mark.
    hosts: titles of formats that a file of this one may look like by its marks.
    dtypes: what `write` accepts; None: any.
    options: keyword arguments of `write`: 'dataset' where arrays in a file have names,
      'ome_version'.
    read_masks: path -> [y, x] or [r, y, x], where a file may hold a single image; None
      where it holds a stack in any case.
    recognise: folder -> bool, for a format that is a folder; None for one that is a
      file.
  """
  title: str
  suffixes: tuple[str, ...]
  open: Callable | None
  write: Callable | None = None
  marks: tuple[tuple[int, bytes], ...] = ()
  hosts: tuple[str, ...] = ()
  dtypes: tuple[str, ...] | None = None
  options: tuple[str, ...] = ()
  read_masks: Callable | None = None
  recognise: Callable[[Path], bool] | None = None


def _lazy(name: str) -> Callable:
  """A function of a format module, 'module.function', imported at its first call."""
  module, function = name.split('.')

  def call(*args, **options):
    implementation = importlib.import_module(f'fibjax.formats.{module}')
    return getattr(implementation, function)(*args, **options)
  return call


SLICES = Format('folder of TIFF or PNG slices', (), _lazy('slices.open_slices'),
                recognise=Path.is_dir)
# Of several formats that recognise a folder, the first is taken.
FORMATS: tuple[Format, ...] = (
    Format('TIFF', ('.tif', '.tiff'), _lazy('tiff.open_tiff'), _lazy('tiff.write_tiff'),
           tuple((0, mark) for mark in (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+')),
           dtypes=_GREY_DTYPES, read_masks=_lazy('tiff.read_masks')),
    Format('HDF5', ('.h5', '.hdf5'), _lazy('hdf5.open_hdf5'), _lazy('hdf5.write_hdf5'),
           ((0, b'\x89HDF'),), options=('dataset',)),
    Format('MATLAB', ('.mat',), _lazy('mat.open_mat'), _lazy('mat.write_mat'),
           ((0, b'MATLAB 5.0'), (0, b'MATLAB 7.3')), hosts=('HDF5',),
           options=('dataset',)),
    Format('MRC', ('.mrc', '.rec', '.map'), _lazy('mrc.open_mrc'),
           _lazy('mrc.write_mrc'), ((208, b'MAP'),), dtypes=_GREY_DTYPES),
    Format('npy', ('.npy',), _lazy('npy.open_npy'), _lazy('npy.write_npy'),
           ((0, b'\x93NUMPY'),), read_masks=_lazy('npy.read_masks')),
    Format('raw', ('.raw',), _lazy('raw.open_raw'), _lazy('raw.write_raw')),
    Format('OME-Zarr', ('.zarr',), _lazy('foreign_zarr.open_ome_zarr'),
           _lazy('foreign_zarr.write_ome_zarr'), options=('ome_version',),
           recognise=_lazy('foreign_zarr.is_zarr')),
    Format('PNG', ('.png',), None, marks=((0, b'\x89PNG'),),
           read_masks=_lazy('png.read_masks')),
    SLICES)


def find_format(source) -> Format:
  """The format of a file or folder, by its suffix and its content.

  Raises:
    InputError: when there is no such path, or a file is empty, of no known format, or
      not what its suffix says.
  """
  source = Path(source)
  if source.is_dir():
    return next(form for form in FORMATS
                if form.recognise and form.recognise(source))
  if not source.is_file():
    raise InputError(str(source), got='no such file or folder',
                     expected='a folder of slices or an image file',
                     remedy='check the path')
  return _format_of_file(source)


def target_format(path) -> Format:
  """The format to write, by the suffix of a path.

  Raises:
    InputError: for a suffix of no format that can be written.
  """
  path = Path(path)
  suffix = path.suffix.lower()
  for form in FORMATS:
    if form.write and suffix in form.suffixes:
      return form
  raise InputError(str(path), got=f'a name with suffix {suffix or "none"}',
                   expected=f'one of {describe_writable()}',
                   remedy='the suffix chooses the format, e.g. film.tif')


def describe_readable() -> str:
  """Titles and suffixes of all formats of stacks, for help texts and messages."""
  return ', '.join(f'{form.title} ({" ".join(form.suffixes)})' if form.suffixes
                   else form.title for form in FORMATS if form.open)


def describe_writable() -> str:
  """Suffixes of all formats that can be written, for help texts and messages."""
  return ', '.join(form.suffixes[0] for form in FORMATS if form.write)


def mask_suffixes() -> tuple[str, ...]:
  """Suffixes of files that may hold a single image."""
  return tuple(suffix for form in FORMATS if form.read_masks
               for suffix in form.suffixes)


def _format_of_file(path: Path) -> Format:
  suffix = path.suffix.lower()
  by_name = next((form for form in FORMATS
                  if not form.recognise and suffix in form.suffixes), None)
  if path.stat().st_size == 0:
    raise InputError(str(path), got='an empty file', expected='an image file',
                     remedy='copy or export it again')
  # A format without a mark may start with any bytes, so that these say nothing.
  by_content = None if by_name and not by_name.marks else _format_by_marks(path)
  if by_name is None and by_content is None:
    raise not_a_stack(path, f'a {suffix or "nameless"} file')
  if by_name and by_content not in (None, by_name) and (
      by_content.title not in by_name.hosts):
    raise InputError(str(path), got=f'a {by_content.title} file by its content',
                     expected=f'{by_name.title}, as its name says',
                     remedy='give it the suffix of what it is')
  return by_name or by_content


def not_a_stack(path, got: str) -> InputError:
  """The error for a file that is no stack of a known format."""
  return InputError(str(path), got=got, expected=f'one of: {describe_readable()}',
                    remedy='export the stack in one of these formats')


def _format_by_marks(path: Path) -> Format | None:
  """The format that the first bytes of a file identify; None for no known one."""
  marks = [(offset, mark, form) for form in FORMATS for offset, mark in form.marks]
  with open(path, 'rb') as file:
    head = file.read(max(offset + len(mark) for offset, mark, _ in marks))
  return next((form for offset, mark, form in marks
               if head[offset:offset + len(mark)] == mark), None)
