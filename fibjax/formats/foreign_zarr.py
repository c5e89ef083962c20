"""OME-Zarr of any writer: 0.4 (zarr v2) and 0.5 (zarr v3) in, 0.4 out.

Read is level 0 of the first multiscale image of a group, in the order of the axes that
its metadata name; a time or channel axis must have length one. The voxel size is the
product of the scales where every axis has a unit of length. A group of several images
(or of labels) needs the path of one of them. As zarr has it, a chunk that is missing
reads as the fill value, but an array without any chunk is an error. Volumes that fibjax
wrote itself are read by volume.py, which also notices a lost shard.
"""
import contextlib
import json
from pathlib import Path

import numpy as np

from fibjax.errors import InputError
from fibjax.formats.stack import (
  AXES,
  UNKNOWN,
  Stack,
  array_stack,
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
from fibjax.volumes.volume import (
  open_array,
  open_volume,
  read_box,
  shard_shape,
  store_errors,
)
from fibjax.volumes.voxel_size import to_nm

SUFFIXES = ('.zarr',)
VERSION = '0.4'
_VERSIONS = (VERSION, ome_zarr.VERSION)
_CHUNK_ZYX = (4, 512, 512)
_LEVEL = '0'
_DROPPED = '1'  # stands for an axis that is none of z, y and x


def is_zarr(path: Path) -> bool:
  """Whether a folder is a zarr group or array, or is named as one."""
  return path.suffix.lower() in SUFFIXES or any(
      (path / name).exists() for name in ('zarr.json', '.zgroup', '.zattrs', '.zarray'))


@contextlib.contextmanager
def open_ome_zarr(path: Path, *, dataset=None, axes=None):
  """Yields the Stack of level 0 of an image.

  Args:
    path: folder of the group.
    dataset: path of the image inside the group; None takes the group itself, or the
      only image in it.
    axes: as the metadata say, or None.

  Raises:
    InputError: when there is no such image or a choice of several, its metadata are
      damaged or of another version, or it has several channels or times.
  """
  if dataset is None and _multiscale(path) is None:
    found = {child.name: 'image' for child in sorted(path.iterdir())
             if child.is_dir() and _multiscale(child) is not None}
    dataset = choose_dataset(str(path), found, None)
  group = path / dataset if dataset else path
  if not group.resolve().is_relative_to(path.resolve()) or _multiscale(group) is None:
    raise InputError(f'{path}: dataset', got=repr(dataset),
                     expected='the path of an OME-Zarr image in the group',
                     remedy='correct it, or leave it out')
  if 'fibjax' in _attributes(group):
    choose_axes(str(group), axes, AXES)
    yield _own(group, dataset)
    return
  level, driver, letters, size = _describe(group)
  array = _open_array(level, driver)
  shape = tuple(array.shape)
  others = {n for a, n in zip(letters, shape, strict=False) if a not in AXES}
  if len(shape) != len(letters) or others - {1}:
    raise InputError(str(group), got=f'shape {shape}',
                     expected='z, y, x and no other axis longer than one',
                     remedy='save the channel and frame you want by itself')
  dtype = array.dtype.numpy_dtype
  _check_stored(level, shape, dtype.itemsize)
  choose_axes(str(group), axes, ''.join(a for a in letters if a in AXES))
  yield array_stack(str(group), array, letters, dtype=dtype, voxel_size_zyx_nm=size,
                    origin='OME-Zarr metadata' if any(size) else None,
                    chunks=array.chunk_layout.read_chunk.shape, dataset=dataset)


def write_ome_zarr04(path, slabs_zyx, shape, dtype, voxel_size_zyx_nm) -> None:
  """Writes an OME-Zarr 0.4 image of one level (zarr v2), axes z, y, x.

  Args:
    path: folder to make.
    slabs_zyx: [z, y, x] arrays, z ascending.
    shape: z, y, x of all of them.
    dtype: of all of them.
    voxel_size_zyx_nm: nm per voxel; None leaves out the unit.

  Raises:
    InputError: when path exists or cannot be written.
  """
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
    files.write_json(partial / '.zgroup', {'zarr_format': 2})
    files.write_json(partial / '.zattrs',
                       {'multiscales': [image | {'version': VERSION}]})
    for z, slab in place_slabs(slabs_zyx):
      array[z:z + len(slab)].write(slab).result()


def _attributes(group) -> dict:
  """Attributes of a zarr group: those of 0.5, else those of 0.4, else none."""
  for name in ('zarr.json', '.zattrs'):
    file = group / name
    if file.exists():
      with decoding(file, 'JSON of a zarr group'):
        content = json.loads(file.read_text(encoding='utf-8'))
        return content.get('attributes', {}) if name == 'zarr.json' else dict(content)
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
  if image['version'] not in _VERSIONS:
    raise InputError(str(group), got=f'OME-Zarr version {image["version"]}',
                     expected=' or '.join(_VERSIONS),
                     remedy='convert it with the program that wrote it')
  with decoding(group, 'OME-Zarr metadata'):
    level = image['datasets'][0]
    names = [axis['name'] for axis in image['axes']]
    units = [axis.get('unit') for axis in image['axes']]
    scale = _scale(level, len(names)) * _scale(image, len(names))
    folder = group / level['path']
    if not folder.resolve().is_relative_to(group.resolve()):
      raise ValueError(f'level {level["path"]!r} outside the group')
    letters = ''.join(n if n in tuple(AXES) else _DROPPED for n in names)
    size = tuple(to_nm(scale[letters.index(a)], units[letters.index(a)]) for a in AXES)
  return folder, 'zarr' if image['version'] == VERSION else 'zarr3', letters, size


def _scale(of, n: int) -> np.ndarray:
  """Scale per axis by the transformations of a level or an image; ones without."""
  scale = np.ones(n)
  for transformation in of.get('coordinateTransformations', ()):
    if transformation['type'] == 'scale':
      scale = scale * np.asarray(transformation['scale'], float)
  return scale


def _open_array(path, driver):
  with _store_errors(path, 'a readable zarr array'):
    return open_array(path, driver, {}, open=True, read=True)


def _check_stored(level: Path, shape, itemsize: int) -> None:
  """Raises InputError for an array without chunks, or with far too few."""
  stored = sum(file.stat().st_size for file in level.rglob('*') if file.is_file()
               and not file.name.startswith('.z') and file.name != 'zarr.json')
  if stored == 0:
    raise InputError(str(level), got='no stored chunk', expected='the data',
                     remedy='they were lost or never written: copy or export it again')
  check_claim(str(level), shape, itemsize, stored)


def _own(path, dataset) -> Stack:
  volume = open_volume(path)

  def read_block(first, stop):
    return read_box(volume, (first, 0, 0), (stop, *volume.shape[1:]))
  size = volume.voxel_size_zyx_nm
  read = read_by_blocks(read_block, volume.shape, volume.dtype,
                        shard_shape(volume)[0])
  return Stack(slice_names(str(path), volume.shape[0]), volume.shape, volume.dtype,
               size or UNKNOWN, 'OME-Zarr metadata' if size else None, read, AXES,
               dataset)


def _store_errors(path, expected):
  return store_errors(path, 'copy or export it again, check free space',
                              expected)
