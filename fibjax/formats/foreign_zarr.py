"""OME-Zarr of any program: reads and writes 0.4 (zarr v2) and 0.5 (zarr v3).

Level 0 of the first multiscale image of a group is read, its axes in the order of the
metadata; a time or channel axis must have length one. The voxel size is the product of
the scales where every axis has a unit of length. In a group of several images (or of
labels), one must be named by its path. As zarr defines it, a missing chunk reads as the
fill value, but an array without any chunk is an error. Volumes written by fibjax are
read by volume.py, which also detects a lost shard.
"""
import contextlib
from pathlib import Path

import numpy as np

from fibjax.errors import InputError
from fibjax.formats.stack_reader import (
  AXES,
  UNKNOWN,
  StackReader,
  array_reader,
  block_bytes,
  check_claim,
  choose_axes,
  choose_dataset,
  decoding,
  place_slabs,
  read_by_blocks,
  slice_names,
)
from fibjax.system import files
from fibjax.volumes import ome_zarr
from fibjax.volumes.metadata import ArrayLayout, level_folder, read_layout
from fibjax.volumes.volume import (
  new_volume,
  open_array,
  open_volume,
  read_box,
  shard_shape,
  store_errors,
  write_box,
)
from fibjax.volumes.voxel_size import to_nm

_V04, _V05 = '0.4', ome_zarr.VERSION
_CHUNK_ZYX = (4, 512, 512)
_LEVEL = '0'
_DROPPED = '1'  # letter of an axis other than z, y and x
_BLOSC_HEAD_BYTES, _BLOSC_SIZE = 16, slice(4, 8)  # of its header


def is_zarr(path: Path) -> bool:
  """Whether a folder is a zarr group or array, or is named like one."""
  return path.suffix.lower() == '.zarr' or any(
      (path / name).exists() for name in ('zarr.json', '.zgroup', '.zattrs', '.zarray'))


@contextlib.contextmanager
def open_ome_zarr(path: Path, *, dataset=None, axes=None):
  """Yields the StackReader of level 0 of an image.

  Args:
    path: folder of the group.
    dataset: path of the image inside the group; None takes the group itself, or the
      only image in it.
    axes: None, or the same as in the metadata.

  Raises:
    InputError: when the image is missing or ambiguous, its metadata are damaged or of
      another version, or it has several channels or times.
  """
  if dataset is None and _multiscale(path) is None:
    images = {child.name: 'image' for child in sorted(path.iterdir())
              if child.is_dir() and _multiscale(child) is not None}
    dataset = choose_dataset(str(path), images, None)
  group = path / dataset if dataset else path
  if not group.resolve().is_relative_to(path.resolve()) or _multiscale(group) is None:
    raise InputError(f'{path}: dataset', got=repr(dataset),
                     expected='the path of an OME-Zarr image in the group',
                     remedy='correct it, or leave it out')
  if 'fibjax' in _attributes(group):
    choose_axes(str(group), axes, AXES)
    yield _fibjax_reader(group, dataset)
    return
  level, driver, letters, size = _describe(group)
  layout = read_layout(level, is_v3=driver == 'zarr3')
  array = _open_array(level, driver)
  shape = tuple(array.shape)
  dropped = {n for a, n in zip(letters, shape, strict=False) if a not in AXES}
  if len(shape) != len(letters) or dropped - {1}:
    raise InputError(str(group), got=f'shape {shape}',
                     expected='z, y, x and no other axis longer than one',
                     remedy='save the wanted channel and frame as an image')
  dtype = array.dtype.numpy_dtype
  _check_stored(level, layout, dtype.itemsize)
  choose_axes(str(group), axes, ''.join(a for a in letters if a in AXES))
  yield array_reader(str(group), array, letters, dtype=dtype, voxel_size_zyx_nm=size,
                     origin='OME-Zarr metadata' if any(size) else None,
                     chunks=array.chunk_layout.read_chunk.shape, dataset=dataset,
                     decoded_bytes=2 * layout.chunk_bytes)


def write_ome_zarr(path, slabs_zyx, shape, dtype, voxel_size_zyx_nm, *,
                   ome_version: str = _V05) -> None:
  """Writes an OME-Zarr image of one level, axes z, y, x.

  Args:
    path: folder to make.
    slabs_zyx: [z, y, x] arrays, z ascending.
    shape: z, y, x of all of them.
    dtype: of all of them.
    voxel_size_zyx_nm: nm per voxel; None leaves out the unit.
    ome_version: '0.4' (zarr v2) or '0.5' (zarr v3, a volume of fibjax).

  Raises:
    InputError: when path exists or cannot be written, or for another version.
  """
  writers = {_V04: _write_v04, _V05: _write_v05}
  if ome_version not in writers:
    raise InputError('OME-Zarr version', got=ome_version,
                     expected=' or '.join(writers), remedy='choose one of them')
  writers[ome_version](path, slabs_zyx, shape, dtype, voxel_size_zyx_nm)


def _write_v05(path, slabs_zyx, shape, dtype, voxel_size_zyx_nm) -> None:
  with new_volume(path, shape, dtype, voxel_size_zyx_nm, fill_value=None) as new:
    for z, slab_zyx in place_slabs(slabs_zyx):
      write_box(new, (z, 0, 0), slab_zyx)


def _write_v04(path, slabs_zyx, shape, dtype, voxel_size_zyx_nm) -> None:
  path, dtype = Path(path), np.dtype(dtype)
  image = ome_zarr.image_attributes(path.name.removesuffix('.ome.zarr'),
                                    voxel_size_zyx_nm, _LEVEL)['multiscales'][0]
  chunks = [min(c, n) for c, n in zip(_CHUNK_ZYX, shape, strict=True)]
  with files.new_folder(path) as partial, _store_errors(path, 'a folder to write to'):
    array = open_array(partial / _LEVEL, 'zarr', {
        'store_data_equal_to_fill_value': True, 'metadata': {
            'shape': list(shape), 'chunks': chunks, 'fill_value': 0,
            'dtype': dtype.newbyteorder('<').str, 'dimension_separator': '/',
            'compressor': {'id': 'blosc', 'cname': 'lz4', 'clevel': 5, 'shuffle': 1}}},
        create=True)
    files.write_json(partial / '.zgroup', {'zarr_format': 2}, checked=False)
    files.write_json(partial / '.zattrs',
                     {'multiscales': [image | {'version': _V04}]}, checked=False)
    for z, slab in place_slabs(slabs_zyx):
      array[z:z + len(slab)].write(slab).result()


def _attributes(group) -> dict:
  """Attributes of a zarr group: those of 0.5, else those of 0.4, else none."""
  for name in ('zarr.json', '.zattrs'):
    file = group / name
    if file.exists():
      content = files.read_json(file, 'JSON of a zarr group')
      with decoding(file, 'attributes of a zarr group'):
        return dict(content.get('attributes', {}) if name == 'zarr.json' else content)
  return {}


def _multiscale(group) -> dict | None:
  """The first image of a group, with its version; None where there is none."""
  attributes = _attributes(group)
  with decoding(group, 'OME-Zarr metadata'):
    ome = attributes.get('ome', attributes)
    if 'multiscales' not in ome:
      return None
    image = ome['multiscales'][0]
    return image | {'version': ome.get('version', image.get('version'))}


def _describe(group):
  """(folder of level 0, driver, a letter per axis, voxel size) by the metadata."""
  image = _multiscale(group)
  if image['version'] not in (_V04, _V05):
    raise InputError(str(group), got=f'OME-Zarr version {image["version"]}',
                     expected=f'{_V04} or {_V05}',
                     remedy='convert it with the program that wrote it')
  with decoding(group, 'OME-Zarr metadata'):
    level = image['datasets'][0]
    names = [axis['name'] for axis in image['axes']]
    units = [axis.get('unit') for axis in image['axes']]
    scale = _scale(level, len(names)) * _scale(image, len(names))
    folder = level_folder(group, level['path'])
    letters = ''.join(n if n in tuple(AXES) else _DROPPED for n in names)
    size = tuple(to_nm(scale[letters.index(a)], units[letters.index(a)]) for a in AXES)
  return folder, 'zarr' if image['version'] == _V04 else 'zarr3', letters, size


def _scale(metadata, n: int) -> np.ndarray:
  """Scale per axis by the transformations of a level or image; ones without any."""
  scale = np.ones(n)
  for transformation in metadata.get('coordinateTransformations', ()):
    if transformation['type'] == 'scale':
      factors = transformation['scale']
      if len(factors) != n or any(type(f) not in (int, float) for f in factors):
        raise ValueError(f'scale {factors} for {n} axes')
      scale = scale * np.array(factors, float)
  return scale


def _open_array(path, driver):
  with _store_errors(path, 'a readable zarr array'):
    return open_array(path, driver, {}, open=True, read=True)


def _check_stored(level: Path, layout: ArrayLayout, itemsize: int) -> None:
  """Raises InputError for an array without chunks, with far too few or false ones."""
  chunks = {file: file.stat().st_size for file in level.rglob('*') if file.is_file()
            and not file.name.startswith('.z') and file.name != 'zarr.json'}
  stored = sum(chunks.values())
  for file in chunks if layout.is_blosc else ():
    _check_blosc(file, layout.chunk_bytes)
  if stored == 0:
    raise InputError(str(level), got='no stored chunk', expected='the data',
                     remedy='the chunks were lost or never written: copy or export the '
                     'image again')
  check_claim(str(level), layout.shape, itemsize, stored)


def _check_blosc(file: Path, chunk_bytes: int) -> None:
  """Raises InputError for a chunk of blosc that claims more than a chunk holds.

  TensorStore stops other codecs at the end of a chunk; blosc decodes all at once, up to
  2 GB, and the process is aborted where memory is short.
  """
  with open(file, 'rb') as chunk:
    claimed = int.from_bytes(chunk.read(_BLOSC_HEAD_BYTES)[_BLOSC_SIZE], 'little')
  if claimed > chunk_bytes:
    raise InputError(str(file), got=f'{claimed} bytes in a chunk',
                     expected=f'at most {chunk_bytes}', remedy='the chunk is damaged: '
                     'copy or export the image again')


def _fibjax_reader(path, dataset) -> StackReader:
  """The StackReader of a volume that fibjax wrote."""
  volume = open_volume(path)

  def read_block(first, stop):
    return read_box(volume, (first, 0, 0), (stop, *volume.shape[1:]))
  size = volume.voxel_size_zyx_nm
  read = read_by_blocks(read_block, volume.shape, volume.dtype,
                        shard_shape(volume)[0])
  needed = block_bytes(volume.shape, volume.dtype, shard_shape(volume)[0])
  return StackReader(slice_names(str(path), volume.shape[0]), volume.shape,
                     volume.dtype, size or UNKNOWN,
                     'OME-Zarr metadata' if size else None, needed, read, AXES, dataset)


def _store_errors(path, expected):
  return store_errors(path, 'copy or export it again, check free space', expected)
