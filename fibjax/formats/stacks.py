"""The front door of image files: stacks in and out of volumes, masks in.

A stack is a folder with one TIFF or PNG per slice, or a file: multi-page TIFF, HDF5,
MATLAB, MRC, npy, raw with a JSON sidecar; or an OME-Zarr folder. The suffix and the
content of a file both tell the format, and have to agree. A stack becomes a volume slab
by slab, one shard deep, so memory does not grow with it (a packed MATLAB 5 variable, up
to 2 GB, is read whole). Each format has a module of its own (formats.py).

Axes: a Stack and a volume are z, y, x. The order in the file is what the file says,
else the argument, else z, y, x; in MATLAB it has to be said. Voxel sizes are in nm: the
argument, else the file's, else unknown (None).

Grey values are kept as stored: uint8, uint16, float32; one bit becomes 0/1 uint8. int8,
int16 and float16 become float32 without a loss, float64 by rounding; the volume's
attributes say so. Other types hold no grey values. Codes of label volumes are
translated through a named profile only (labels.py).
"""
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fibjax.errors import InputError
from fibjax.formats import foreign_zarr, hdf5, mat, mrc, npy, raw, tiff
from fibjax.formats.label_codes import decode_labels, encode_labels
from fibjax.formats.slice_names import natural_key
from fibjax.formats.stack import Stack, place_slabs
from fibjax.volumes import ome_zarr, voxel_size
from fibjax.volumes.volume import (
  Volume,
  new_volume,
  open_volume,
  read_box,
  slab_boxes,
  write_box,
)

_GREY_DTYPES = ('uint8', 'uint16', 'float32')
_TO_FLOAT32 = {'int8': 'exact', 'int16': 'exact', 'float16': 'exact',
               'float64': 'rounded'}


class Format(NamedTuple):
  """A file format: its name, suffixes, functions, and what it can write.

  dtypes: of volumes it takes, None: any; has_names: whether arrays in it have names.
  """
  name: str
  suffixes: tuple[str, ...]
  open: Callable
  write: Callable
  dtypes: tuple[str, ...] | None = None
  has_names: bool = False


_FORMATS = (
    Format('TIFF', tiff.SUFFIXES, tiff.open_tiff, tiff.write_tiff, _GREY_DTYPES),
    Format('HDF5', hdf5.SUFFIXES, hdf5.open_hdf5, hdf5.write_hdf5, has_names=True),
    Format('MATLAB', mat.SUFFIXES, mat.open_mat, mat.write_mat, has_names=True),
    Format('MRC', mrc.SUFFIXES, mrc.open_mrc, mrc.write_mrc, _GREY_DTYPES),
    Format('npy', npy.SUFFIXES, npy.open_npy, npy.write_npy),
    Format('raw', raw.SUFFIXES, raw.open_raw, raw.write_raw))
_KNOWN = ', '.join((*(s for f in _FORMATS for s in f.suffixes), *foreign_zarr.SUFFIXES))
# First bytes of a file -> its format; MRC has its mark further on (_content).
_MAGIC = {b'II*\0': 'TIFF', b'MM\0*': 'TIFF', b'II+\0': 'TIFF', b'MM\0+': 'TIFF',
          b'\x89PNG': 'PNG', b'\x89HDF': 'HDF5', b'\x93NUMPY': 'npy',
          b'MATLAB 5.0': 'MATLAB', b'MATLAB 7.3': 'MATLAB'}


@contextlib.contextmanager
def open_stack(source, *, dataset=None, axes=None):
  """Yields the Stack of a folder or file; reads headers only.

  Args:
    source: folder of slices, image file, or OME-Zarr group.
    dataset: name of the array in an HDF5 or MATLAB file, path of the image in an
      OME-Zarr group; None takes the only one.
    axes: order of the axes in the file, slowest (MATLAB: first) first, such as 'yxz';
      None takes the file's own, else 'zyx'. MATLAB files must say it or be given it.

  Raises:
    InputError: when there is none, it is damaged or not what its name says, or its
      parts do not fit together.
  """
  source = Path(source)
  if source.is_dir():
    opener = (foreign_zarr.open_ome_zarr if foreign_zarr.is_zarr(source)
              else tiff.open_folder)
  elif source.is_file():
    opener = _format_of(source).open
  else:
    raise InputError(str(source), got='no such file or folder',
                     expected='a folder of slices or an image file',
                     remedy='check the path')
  with opener(source, dataset=dataset, axes=axes) as stack:
    yield stack


def import_stack(source, out, *, voxel_size_zyx_nm=None, dataset=None, axes=None,
                 profile=None) -> Volume:
  """Copies a stack into a new volume, slab by slab; a failure leaves nothing.

  The volume's attributes record where its values, axes and voxel size come from.

  Args:
    source, dataset, axes: as for `open_stack`.
    out: path of the volume; must not exist.
    voxel_size_zyx_nm: nm per voxel; wins over the file's (both are recorded). Without
      it and without the file's the size is unknown.
    profile: key of labels.LABEL_PROFILES for a stack of label codes, which become 0
      pore, 1 solid, 255 unlabelled; None keeps grey values.

  Raises:
    InputError: for a source that is missing, empty, incomplete, damaged, of mixed
      size or type, not grey, not finite, or of unknown codes; names the file.
  """
  given = voxel_size.check_voxel_size(str(source), voxel_size_zyx_nm)
  with open_stack(source, dataset=dataset, axes=axes) as stack:
    dtype, conversion = _volume_dtype(stack, profile)
    in_file = stack.voxel_size_zyx_nm
    size = given or (None if None in in_file else in_file)
    origin = 'argument' if given else stack.origin if size else None
    attributes = {'source': str(source), 'voxel_size_from': origin,
                  'voxel_size_in_file_zyx_nm': list(in_file),
                  'dataset_in_file': stack.dataset, 'axes_in_file': stack.axes,
                  'dtype_in_file': stack.dtype.name, 'conversion': conversion}
    with new_volume(out, stack.shape, dtype, size, fill_value=None,
                            attributes=attributes) as new:
      for (z, *_), (stop, *_) in slab_boxes(new):
        write_box(new, (z, 0, 0), _read_slab(stack, z, stop, dtype, profile))
  return open_volume(out)


def export_stack(volume: Volume, out, *, profile=None, dataset=None,
                 ome_version=ome_zarr.VERSION) -> Path:
  """Writes a volume, slab by slab, as a file that keeps its voxel size.

  The suffix chooses: .tif, .h5, .mat (axes y, x, z; below 2 GB), .mrc, .npy and .raw
  (each with a JSON sidecar), .zarr. Axes are z, y, x where nothing else is said.

  Args:
    volume: to write; of its channels the first. TIFF and MRC take uint8, uint16 and
      float32 (MRC stores uint8 as uint16).
    out: file or folder to make; must not exist.
    profile: key of labels.LABEL_PROFILES for a volume of labels, which become the codes
      of that tool; None keeps the values.
    dataset: name of the array in an HDF5 or MATLAB file; None: 'volume'.
    ome_version: of an OME-Zarr, '0.4' or '0.5'.

  Returns:
    Path of the file.

  Raises:
    InputError: when out exists or cannot be written, for a dtype the format does not
      have, or a label without a code.
  """
  out = Path(out)
  form = _target(out, ome_version)
  if form.dtypes and volume.dtype.name not in form.dtypes:
    raise InputError(str(volume.path), got=f'dtype {volume.dtype}',
                     expected=f'one of {", ".join(form.dtypes)} for {form.name}',
                     remedy='convert it first, or export to .h5')
  if profile and volume.dtype != np.uint8:
    raise InputError(str(volume.path), got=f'dtype {volume.dtype}',
                     expected='uint8 labels to translate by a profile',
                     remedy='leave the profile out, or export a segmentation')
  options = {}
  if dataset is not None:
    if not form.has_names:
      raise InputError(f'{out}: dataset', got=repr(dataset),
                       expected=f'none, {form.name} has no names for arrays',
                       remedy='leave it out, or export to .h5')
    options['dataset'] = dataset
  form.write(out, _slabs(volume, profile), volume.shape, volume.dtype,
             volume.voxel_size_zyx_nm, **options)
  return out


def read_masks(path, *, dataset=None, axes=None) -> np.ndarray:
  """Reads label images from one image file or OME-Zarr; codes as stored.

  Args:
    path: a file of any format of `open_stack`, or a PNG; an npy may be 2-D.
    dataset, axes: as for `open_stack`; z counts the masks.

  Returns:
    [y, x] for a PNG, a TIFF of one page or a 2-D npy, else [r, y, x]; 1 bit as 0/1
    uint8.

  Raises:
    InputError: when the file is missing, damaged, pickled, or not grey.
  """
  path = Path(path)
  suffix = path.suffix.lower()
  if not path.is_file() and not (path.is_dir() and foreign_zarr.is_zarr(path)):
    raise InputError(str(path), got='no such file', expected='a mask file',
                     remedy='check the path')
  if suffix in tiff.PNG_SUFFIXES:
    return tiff.read_png(path)
  if suffix in npy.SUFFIXES and axes is None:
    masks = npy.map_npy(path)
    if masks.ndim not in (2, 3):
      raise InputError(str(path), got=f'{masks.ndim}-D array of {masks.dtype}',
                       expected='a 2-D or 3-D array of numbers',
                       remedy='save the masks as region, row, column')
    return np.array(masks, np.uint8 if masks.dtype == bool else masks.dtype)
  with open_stack(path, dataset=dataset, axes=axes) as stack:
    masks = np.stack([stack.read(z) for z in range(stack.shape[0])])
  return masks[0] if len(masks) == 1 and suffix in tiff.SUFFIXES else masks


def read_mask_list(path) -> list[np.ndarray]:
  """Reads one [y, x] mask per region from a file, or a folder in natural order.

  Raises:
    InputError: as `read_masks`; also for a folder without masks.
  """
  path = Path(path)
  files = [path]
  if path.is_dir() and not foreign_zarr.is_zarr(path):
    images = (*tiff.SUFFIXES, *tiff.PNG_SUFFIXES, *npy.SUFFIXES)
    files = sorted((f for f in path.iterdir() if not f.name.startswith('.')
                    and f.suffix.lower() in images),
                   key=lambda f: (natural_key(f.name), f.name))
  if not files:
    raise tiff.no_images(path)
  masks = [read_masks(f) for f in files]
  return [mask for m in masks for mask in (m if m.ndim == 3 else m[None])]


def _format_of(path: Path) -> Format:
  """The format of a file by its suffix and its content."""
  suffix = path.suffix.lower()
  named = next((f for f in _FORMATS if suffix in f.suffixes), None)
  if path.stat().st_size == 0:
    raise InputError(str(path), got='an empty file', expected='an image file',
                     remedy='copy or export it again')
  content = None if suffix in raw.SUFFIXES else _content(path)
  form = next((f for f in _FORMATS if f.name == content), named)
  if form is None:
    got = f'a {suffix or "nameless"} file' if content is None else f'a {content} file'
    raise InputError(str(path), got=got,
                     expected=f'one of {_KNOWN}, or a folder of slices',
                     remedy='export the stack in one of these formats')
  if named and content not in (None, named.name) and not (
      named.name == 'MATLAB' and content == 'HDF5'):
    raise InputError(str(path), got=f'a {content} file by its content',
                     expected=f'{named.name}, as its name says',
                     remedy='give it the suffix of what it is')
  return named or form


def _content(path: Path) -> str | None:
  """The format that the first bytes of a file tell, None for no known one."""
  with open(path, 'rb') as file:
    head = file.read(211)
  for magic, name in _MAGIC.items():
    if head.startswith(magic):
      return name
  return 'MRC' if head[208:211] == b'MAP' else None


def _target(out: Path, ome_version: str) -> Format:
  """The format to write by the suffix of a path."""
  suffix = out.suffix.lower()
  if suffix in foreign_zarr.SUFFIXES:
    writers = {foreign_zarr.VERSION: foreign_zarr.write_ome_zarr04,
               ome_zarr.VERSION: _write_volume}
    if ome_version not in writers:
      raise InputError('OME-Zarr version', got=ome_version,
                       expected=' or '.join(writers), remedy='choose one of them')
    return Format('OME-Zarr', foreign_zarr.SUFFIXES, foreign_zarr.open_ome_zarr,
                  writers[ome_version])
  form = next((f for f in _FORMATS if suffix in f.suffixes), None)
  if form is None:
    raise InputError(str(out), got=f'a name with suffix {suffix or "none"}',
                     expected=f'one of {_KNOWN}',
                     remedy='the suffix chooses the format, e.g. film.tif')
  return form


def _write_volume(path, slabs_zyx, shape, dtype, voxel_size_zyx_nm) -> None:
  """Writes OME-Zarr 0.5, fibjax's own format; as the writers of the other formats."""
  with new_volume(path, shape, dtype, voxel_size_zyx_nm,
                          fill_value=None) as new:
    for z, slab in place_slabs(slabs_zyx):
      write_box(new, (z, 0, 0), slab)


def _slabs(volume, profile):
  for start, stop in slab_boxes(volume):
    slab_zyx = read_box(volume, start, stop)
    yield encode_labels(slab_zyx, profile, str(volume.path)) if profile else slab_zyx


def _volume_dtype(stack: Stack, profile):
  """The dtype of the volume of a stack, and how its values are converted, if so."""
  name = stack.dtype.name
  if profile:
    return np.dtype(np.uint8), f'label profile {profile}'
  if name in _TO_FLOAT32:
    return np.dtype(np.float32), f'{name} to float32, {_TO_FLOAT32[name]}'
  if name not in _GREY_DTYPES:
    raise InputError(stack.names[0], got=f'dtype {stack.dtype}',
                     expected='8 or 16 bits, 1 bit, or 32- or 64-bit float',
                     remedy='convert the stack (Fiji: Image > Type), or name a label '
                     'profile')
  return stack.dtype, None


def _read_slab(stack: Stack, start: int, stop: int, dtype, profile) -> np.ndarray:
  slab_zyx = np.empty((stop - start, *stack.shape[1:]), dtype)
  for z in range(start, stop):
    slice_yx = stack.read(z)
    if profile:
      slice_yx = decode_labels(slice_yx, profile, stack.names[z])
    with np.errstate(over='ignore'):  # found below
      slab_zyx[z - start] = slice_yx
    if dtype.kind == 'f' and not np.isfinite(slab_zyx[z - start]).all():
      raise InputError(stack.names[z], got='NaN, infinite or too large values',
                       expected='finite grey values within float32',
                       remedy='repair or leave out the slice')
  return slab_zyx
