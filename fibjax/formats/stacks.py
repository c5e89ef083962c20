"""Image stacks of any format: opened slice by slice, as arrays, and as volumes.

A stack is a folder with one TIFF or PNG per slice, or a file or OME-Zarr folder of one
of the formats in registry.py. The suffix and the content of a file both identify its
format and must agree. A stack becomes a volume slab by slab, one shard deep, so memory
does not grow with its size (except for a compressed MATLAB 5 variable, which is read
whole). What a slice takes to decode is bounded before anything is decoded.

Axes: arrays and volumes are z, y, x. The order in the file is taken from the file, else
from the argument, else it is z, y, x; MATLAB files must state it or be given it. Voxel
sizes are in nm: from the argument, else from the file, else unknown (None).

Grey values are kept as stored: uint8, uint16, float32; one bit becomes 0/1 uint8. int8,
int16 and float16 become float32 exactly, float64 by rounding; a volume's attributes
record it. Other types hold no grey values. Codes of label images are translated only by
a named table (label_codes.py).
"""
import contextlib
import math
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fibjax.errors import InputError
from fibjax.formats import registry
from fibjax.formats.label_codes import (
  check_label_codes,
  decode_labels,
  encode_labels,
)
from fibjax.formats.registry import Format
from fibjax.formats.stack_reader import (
  MAX_SLICE_GB,
  StackReader,
  check_budget,
  check_numbers,
  decoding,
  native,
)
from fibjax.volumes.metadata import check_room
from fibjax.volumes.volume import (
  Volume,
  new_volume,
  open_volume,
  read_box,
  slab_boxes,
  write_box,
)
from fibjax.volumes.voxel_size import check_stated, check_voxel_size

_GREY_DTYPES = ('uint8', 'uint16', 'float32')
_TO_FLOAT32 = {'int8': 'exact', 'int16': 'exact', 'float16': 'exact',
               'float64': 'rounded'}
_WRITTEN_DTYPES = (*_GREY_DTYPES, 'uint32', 'int32', 'float64')  # those of volumes
_SLAB_SLICES = 8  # of an array, written at a time


class Stack(NamedTuple):
  """A stack in memory.

  Attributes:
    image_zyx: grey values or labels.
    voxel_size_zyx_nm: nm per voxel; None when unknown.
  """
  image_zyx: np.ndarray
  voxel_size_zyx_nm: tuple[float, float, float] | None


@contextlib.contextmanager
def open_stack(source, *, dataset=None, axes=None, voxel_size_zyx_nm=None,
               max_slice_gb: float = MAX_SLICE_GB):
  """Yields the StackReader of a folder or file; reads headers only.

  Args:
    source: folder of slices, image file, or OME-Zarr group.
    dataset: name of the array in an HDF5 or MATLAB file, path of the image in an
      OME-Zarr group; None takes the only one.
    axes: order of the axes in the file, slowest first (MATLAB: first index first), such
      as 'yxz'; None takes the file's own, else 'zyx'. A MATLAB file that does not state
      it needs it here.
    voxel_size_zyx_nm: what the caller will use in place of the size that the file
      states, which may then be nonsense.
    max_slice_gb: largest memory, GB, that decoding a slice may take.

  Raises:
    InputError: when source is missing, damaged, not what its name says, or its slices
      do not fit together; for a voxel size in it that is no length, or slices that take
      more memory.
  """
  source = Path(source)
  form = registry.find_format(source)
  if form.open is None:
    raise registry.not_a_stack(source, f'a {form.title} file')
  with contextlib.ExitStack() as opened:
    with decoding(source):  # of damaged headers, whatever a format does not foresee
      stack = opened.enter_context(form.open(source, dataset=dataset, axes=axes))
    check_budget(stack, max_slice_gb)
    if voxel_size_zyx_nm is None:
      check_stated(str(source), stack.voxel_size_zyx_nm)
    yield stack


def read_stack(path, *, axes: str | None = None, dataset: str | None = None,
               voxel_size_zyx_nm=None, label_codes: str | None = None,
               max_slice_gb: float = MAX_SLICE_GB) -> Stack:
  """Reads a stack of any format into memory.

  Args:
    path: folder of TIFF or PNG slices, image file, or OME-Zarr group; see
      `registry.describe_readable`.
    axes: order of the axes in the file, slowest first (MATLAB: first index first), such
      as 'yxz'; None takes the file's own, else 'zyx'. A MATLAB file that does not state
      it needs it here.
    dataset: name of the array in an HDF5 or MATLAB file, path of the image in an
      OME-Zarr group; None takes the only one.
    voxel_size_zyx_nm: nm per voxel in z, y, x; overrides that of the file.
    label_codes: key of `labels.LABEL_CODES` for a stack of labels; None keeps grey
      values.
    max_slice_gb: largest memory, GB, that decoding a slice may take; a small file can
      hold gigabytes of zeros.

  Returns:
    `Stack(image_zyx, voxel_size_zyx_nm)`: [z, y, x] grey values uint8, uint16 or
    float32 as `import_stack` stores them, or labels uint8 (0 pore, 1 solid, 255
    unlabelled); nm per voxel, or None when neither the argument nor the file gives it
    for all axes.

  Raises:
    InputError: for a stack that is missing, empty, incomplete, damaged, of mixed size
      or type, not grey, not finite, or of unknown label codes; names the file.

  Example:
    >>> import fibjax
    >>> image_zyx, voxel_size_zyx_nm = fibjax.read_stack('film.tif')
    >>> image_zyx.shape, image_zyx.dtype.name, voxel_size_zyx_nm
    ((36, 64, 64), 'uint16', (50.0, 10.0, 10.0))
  """
  given = check_voxel_size(str(path), voxel_size_zyx_nm)
  with open_stack(path, dataset=dataset, axes=axes, voxel_size_zyx_nm=given,
                  max_slice_gb=max_slice_gb) as stack:
    dtype, _ = _stored_dtype(stack, label_codes)
    check_room(path, stack.shape, dtype.itemsize)
    image_zyx = _read_slab(stack, 0, stack.shape[0], dtype, label_codes)
    return Stack(image_zyx, given or _size_in_file(stack))


def write_stack(path, image_zyx: np.ndarray, voxel_size_zyx_nm=None, *,
                label_codes: str | None = None, dataset: str | None = None,
                ome_version: str | None = None) -> Path:
  """Writes an array as a file with its voxel size; the suffix chooses the format.

  Args:
    path: file or folder to make, such as film.tif; must not exist. See
      `registry.describe_writable`.
    image_zyx: [z, y, x] bool (written as 0/1 uint8), uint8, uint16, uint32, int32,
      float32 or float64; TIFF and MRC take uint8, uint16 and float32 only.
    voxel_size_zyx_nm: nm per voxel in z, y, x; None: unknown.
    label_codes, dataset, ome_version: as for `export_stack`.

  Returns:
    Path of the file.

  Raises:
    InputError: when path exists or cannot be written; for an array of another rank,
      without voxels or of a dtype the format does not have; for a bad voxel size, or a
      label without a code.

  Example:
    >>> import fibjax, numpy
    >>> pore_zyx = numpy.zeros((2, 3, 4), bool)
    >>> fibjax.write_stack('pores.h5', pore_zyx, (50, 10, 10)).name
    'pores.h5'
    >>> fibjax.read_stack('pores.h5').voxel_size_zyx_nm
    (50.0, 10.0, 10.0)
  """
  image_zyx = np.asarray(image_zyx)
  if image_zyx.ndim != 3:
    raise InputError('image_zyx', got=f'an array of shape {image_zyx.shape}',
                     expected='three axes, z, y, x',
                     remedy='add an axis of length one for a single slice')
  check_numbers('image_zyx', image_zyx.shape, image_zyx.dtype)
  image_zyx = image_zyx.astype(native(image_zyx.dtype), copy=False)
  if image_zyx.dtype.name not in _WRITTEN_DTYPES:
    raise InputError('image_zyx', got=f'dtype {image_zyx.dtype}',
                     expected=f'bool or one of {", ".join(_WRITTEN_DTYPES)}',
                     remedy='convert it first')
  size = check_voxel_size('image_zyx', voxel_size_zyx_nm)
  slabs = (image_zyx[z:z + _SLAB_SLICES]
           for z in range(0, len(image_zyx), _SLAB_SLICES))
  return _write(path, 'image_zyx', slabs, image_zyx.shape, image_zyx.dtype, size,
                label_codes, dataset, ome_version)


def import_stack(source, out, *, voxel_size_zyx_nm=None, dataset=None, axes=None,
                 label_codes=None, max_slice_gb: float = MAX_SLICE_GB) -> Volume:
  """Copies a stack into a new volume, slab by slab; a failure leaves nothing.

  The volume's attributes record where its values, axes and voxel size come from.

  Args:
    source, dataset, axes, max_slice_gb: as for `open_stack`.
    out: path of the volume; must not exist.
    voxel_size_zyx_nm: nm per voxel; overrides that of the file (both are recorded).
      The size is unknown when neither is given.
    label_codes: key of `labels.LABEL_CODES` for a stack of labels, which become 0
      pore, 1 solid, 255 unlabelled; None keeps grey values.

  Raises:
    InputError: for a source that is missing, empty, incomplete, damaged, of mixed
      size or type, not grey, not finite, or of unknown label codes; names the file.
  """
  given = check_voxel_size(str(source), voxel_size_zyx_nm)
  with open_stack(source, dataset=dataset, axes=axes, voxel_size_zyx_nm=given,
                  max_slice_gb=max_slice_gb) as stack:
    dtype, conversion = _stored_dtype(stack, label_codes)
    size = given or _size_in_file(stack)
    origin = 'argument' if given else stack.origin if size else None
    attributes = {'source': str(source), 'voxel_size_from': origin,
                  'voxel_size_in_file_zyx_nm': [
                      s if s is not None and math.isfinite(s) else None
                      for s in stack.voxel_size_zyx_nm],
                  'dataset_in_file': stack.dataset, 'axes_in_file': stack.axes,
                  'dtype_in_file': stack.dtype.name, 'conversion': conversion}
    with new_volume(out, stack.shape, dtype, size, fill_value=None,
                    attributes=attributes) as new:
      for (z, *_), (stop, *_) in slab_boxes(new):
        write_box(new, (z, 0, 0), _read_slab(stack, z, stop, dtype, label_codes))
  return open_volume(out)


def export_stack(volume: Volume, out, *, label_codes=None, dataset=None,
                 ome_version=None) -> Path:
  """Writes a volume, slab by slab, as a file with its voxel size.

  The suffix chooses the format (`registry.describe_writable`). npy and raw get a JSON
  sidecar. Axes are z, y, x, in MATLAB files (below 2 GB) y, x, z.

  Args:
    volume: to write; of several channels, the first. TIFF and MRC take uint8, uint16
      and float32 (MRC stores uint8 as uint16).
    out: file or folder to make; must not exist.
    label_codes: key of `labels.LABEL_CODES` for a volume of labels, which become
      the codes of that program; None keeps the values.
    dataset: name of the array in an HDF5 or MATLAB file; None: 'volume'.
    ome_version: of an OME-Zarr, '0.4' or '0.5'; None: '0.5'.

  Returns:
    Path of the file.

  Raises:
    InputError: when out exists or cannot be written, for a dtype the format does not
      have, or a label without a code.
  """
  slabs = (read_box(volume, start, stop) for start, stop in slab_boxes(volume))
  return _write(out, str(volume.path), slabs, volume.shape, volume.dtype,
                volume.voxel_size_zyx_nm, label_codes, dataset, ome_version)


def _write(path, name: str, slabs_zyx: Iterable[np.ndarray], shape, dtype, size,
           label_codes, dataset, ome_version) -> Path:
  """Writes slabs as a file; name: of the array or volume, for messages."""
  path = Path(path)
  form = registry.target_format(path)
  if form.dtypes and dtype.name not in form.dtypes:
    raise InputError(name, got=f'dtype {dtype}',
                     expected=f'one of {", ".join(form.dtypes)} for {form.title}',
                     remedy='convert it first, or export to .h5')
  if label_codes:
    if dtype != np.uint8:
      raise InputError(name, got=f'dtype {dtype}',
                       expected='uint8 labels to translate into label codes',
                       remedy='leave the label codes out, or export a segmentation')
    slabs_zyx = (encode_labels(slab_zyx, label_codes, name) for slab_zyx in slabs_zyx)
  options = _write_options(form, path, dataset, ome_version)
  form.write(path, slabs_zyx, shape, dtype, size, **options)
  return path


def _write_options(form: Format, path: Path, dataset, ome_version) -> dict:
  """Keyword arguments of the format's writer."""
  if dataset is not None and 'dataset' not in form.options:
    raise InputError(f'{path}: dataset', got=repr(dataset),
                     expected=f'none, arrays in {form.title} files have no names',
                     remedy='leave it out, or export to .h5')
  given = {'dataset': dataset, 'ome_version': ome_version}
  return {key: value for key, value in given.items()
          if key in form.options and value is not None}


def _size_in_file(stack: StackReader):
  """Voxel size by the file; None unless it is known for all axes."""
  size = stack.voxel_size_zyx_nm
  return None if None in size else size


def _stored_dtype(stack: StackReader, label_codes) -> tuple[np.dtype, str | None]:
  """The dtype a stack is stored as, and how its values are converted, if they are."""
  name = stack.dtype.name
  if label_codes:
    check_label_codes(label_codes)
    return np.dtype(np.uint8), f'label codes of {label_codes}'
  if name in _TO_FLOAT32:
    return np.dtype(np.float32), f'{name} to float32, {_TO_FLOAT32[name]}'
  if name not in _GREY_DTYPES:
    raise InputError(stack.names[0], got=f'dtype {stack.dtype}',
                     expected='8 or 16 bits, 1 bit, or 32- or 64-bit float',
                     remedy='convert the stack (Fiji: Image > Type), or name its label '
                     'codes')
  return stack.dtype, None


def _read_slab(stack: StackReader, start: int, stop: int, dtype, label_codes
               ) -> np.ndarray:
  """Reads the slices [start, stop) as they are stored."""
  slab_zyx = np.empty((stop - start, *stack.shape[1:]), dtype)
  for z in range(start, stop):
    slice_yx = stack.read(z)
    if label_codes:
      slice_yx = decode_labels(slice_yx, label_codes, stack.names[z])
    with np.errstate(over='ignore'):  # infinite values are refused below
      slab_zyx[z - start] = slice_yx
    if dtype.kind == 'f' and not np.isfinite(slab_zyx[z - start]).all():
      raise InputError(stack.names[z], got='NaN, infinite or too large values',
                       expected='finite grey values within float32',
                       remedy='repair or leave out the slice')
  return slab_zyx
