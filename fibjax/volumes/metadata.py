"""Metadata of volumes on disk: groups, voxel sizes, shapes and dtypes, checked."""
import json
import math
import os
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fibjax.errors import InputError
from fibjax.system import checksums, files, memory
from fibjax.volumes import ome_zarr
from fibjax.volumes.voxel_size import UNITS_NM, check_voxel_size

LEVEL = '0'
_EXPECTED = 'an OME-Zarr 0.5 image with axes z, y, x'

_MAX_LENGTH = 2**31 - 1  # of an axis
_MAX_CHUNK_BYTES, _INDEX_BYTES = 2**30, 16
_MAX_SHARDS, _FEW_SHARDS = 10**6, 10**4
_DTYPES = ('uint8', 'uint16', 'uint32', 'int32', 'float32', 'float64')

# Keys of attributes.fibjax that this module sets; all others are the caller's.
UNKNOWN_SIZE = 'voxel_size_unknown'
CHECKSUM = 'checksum'  # of the metadata of a volume


def size_from_ome(path, scale, units, fibjax_attributes):
  """Voxel size in nm; None where the volume is flagged or an axis has no known unit."""
  has_units = all(isinstance(unit, str) and unit in UNITS_NM for unit in units)
  if fibjax_attributes.get(UNKNOWN_SIZE, False) or not has_units:
    return None
  return check_voxel_size(
      str(path), [s * UNITS_NM[u] if type(s) in (int, float) else str(s)
                  for s, u in zip(scale, units, strict=True)])


def not_a_volume(path, got) -> InputError:
  """The error for a path that holds no volume of fibjax."""
  return InputError(str(path), got=got, expected=_EXPECTED,
                    remedy='import the stack again, or check the path')


def read_json_group(path) -> dict:
  """Attributes of the zarr group at path."""
  file = path / 'zarr.json'
  if not file.is_file():
    raise not_a_volume(path, 'no readable zarr.json')
  content = files.read_json(file, _EXPECTED)
  if not isinstance(content, dict) or content.get('node_type') != 'group':
    raise not_a_volume(file, 'not a zarr v3 group')
  attributes = content.get('attributes', {})
  return attributes if isinstance(attributes, dict) else {}


class Image(NamedTuple):
  """What the OME metadata say of a volume.

  Attributes:
    folder: of the array.
    scale: per axis z, y, x.
    units: of these scales, as written.
    channels: names of the values of a voxel; () for a single value.
  """
  folder: Path
  scale: list
  units: tuple
  channels: tuple[str, ...]


def describe_image(path: Path, ome: dict) -> Image:
  """Reads the 'ome' attributes of a volume of axes z, y, x, or c, z, y, x.

  Raises:
    InputError: for incomplete metadata, other axes, or an array outside the group.
  """
  try:
    multiscale = ome['multiscales'][0]
    axes, dataset = multiscale['axes'], multiscale['datasets'][0]
    names = tuple(axis['name'] for axis in axes)
    folder = level_folder(path, dataset['path'])
    scale = next(list(t['scale']) for t in dataset['coordinateTransformations']
                 if t['type'] == 'scale')
    units = tuple(axis.get('unit') for axis in axes)
    channels = ()
    if names[:1] == ('c',):
      channels = tuple(channel['label'] for channel in ome['omero']['channels'])
  except (KeyError, IndexError, TypeError, AttributeError, StopIteration) as error:
    raise not_a_volume(path, f'incomplete OME metadata ({error!r})') from None
  if channels:
    names, units, scale = names[1:], units[1:], scale[1:]
  if names != ome_zarr.AXES or len(scale) != 3:
    raise not_a_volume(path, f'axes {names}, scale {scale}')
  if not all(isinstance(channel, str) for channel in channels):
    raise not_a_volume(path, f'channels {channels}')
  return Image(folder, scale, units, channels)


class ArrayLayout(NamedTuple):
  """How a zarr array is stored.

  Attributes:
    shape: of the array.
    chunk_bytes: memory to decode a chunk, with the index of its shard.
    n_shards: files that a complete array has.
    is_blosc: whether a file is one chunk that blosc compressed.
  """
  shape: tuple[int, ...]
  chunk_bytes: int
  n_shards: int
  is_blosc: bool


def level_folder(group: Path, level) -> Path:
  """Folder of the array that the metadata of a group name; it lies in the group.

  Raises:
    InputError: for a path or a link that leads elsewhere, to another volume.
  """
  folder = group / level if isinstance(level, str) else group
  is_inside = isinstance(level, str) and level.isprintable() and folder.resolve(
      ).is_relative_to(group.resolve())
  if not is_inside or folder.resolve() == group.resolve():
    raise InputError(str(group), got=f'an array at {level!r}, outside the group',
                     expected='a folder in the group',
                     remedy='do not trust this volume: import or export it again')
  return folder


def read_layout(folder: Path, is_v3: bool) -> ArrayLayout:
  """Layout of the zarr array in a folder, of version 3 or 2, by its metadata.

  TensorStore believes what they claim: it aborts the process where memory for a claimed
  chunk cannot be had.

  Raises:
    InputError: for missing or damaged metadata, lengths out of range, or chunks of more
      memory than 1 GB.
  """
  content = files.read_json(folder / ('zarr.json' if is_v3 else '.zarray'),
                                 'JSON of a zarr array')
  try:
    shape = _lengths(content['shape'])
    if is_v3:
      chunk = shard = _lengths(content['chunk_grid']['configuration']['chunk_shape'], 1)
      dtype, codecs = content['data_type'], content['codecs']
      is_blosc = 'blosc' in [codec['name'] for codec in codecs]
      for inner in _shardings(codecs):
        chunk = _lengths(inner['chunk_shape'], 1)
        if len(codecs) > 1 or _shardings(inner['codecs']):
          raise ValueError('shards within shards or other codecs')
    else:
      chunk = shard = _lengths(content['chunks'], 1)
      dtype, is_blosc = content['dtype'], False
      if isinstance(content['compressor'], dict):
        is_blosc = content['compressor'].get('id') == 'blosc'
    if not isinstance(dtype, str) or not len(shape) == len(chunk) == len(shard):
      raise ValueError(f'dtype {dtype}, shape {shape}, chunks {chunk} in {shard}')
    size = int(re.search('[0-9]+', dtype)[0]) if re.search('[0-9]', dtype) else 1
  except (KeyError, TypeError, ValueError, AttributeError) as error:
    raise InputError(str(folder), got=f'{type(error).__name__}: {error}',
                     expected='metadata of a zarr array',
                     remedy='do not trust this volume: import or export it again'
                     ) from None
  itemsize = max(1, size // 8 if is_v3 else size)
  n_chunks = math.prod(-(-s // c) for s, c in zip(shard, chunk, strict=True))
  chunk_bytes = math.prod(chunk) * itemsize + _INDEX_BYTES * n_chunks
  n_shards = math.prod(-(-n // s) for n, s in zip(shape, shard, strict=True))
  return ArrayLayout(shape, chunk_bytes, n_shards, is_blosc)


def _shardings(codecs) -> list[dict]:
  """Configurations of the sharding codecs among some."""
  return [codec['configuration'] for codec in codecs
          if codec['name'] == 'sharding_indexed']


def check_layout(folder: Path, is_complete: bool) -> None:
  """Checks the metadata of a volume's array before TensorStore opens it.

  Args:
    folder: of the array.
    is_complete: whether every shard must be there.

  Raises:
    InputError: as `read_layout`, for chunks that take more than 1 GB of memory to
      decode, or a shape that the stored shards cannot fill.
  """
  layout = read_layout(folder, is_v3=True)
  if layout.chunk_bytes > _MAX_CHUNK_BYTES:
    raise InputError(str(folder), got=f'{layout.chunk_bytes / 2**30:.3g} GB to decode '
                     'a chunk', expected='at most 1 GB',
                     remedy='store the volume in smaller chunks')
  most = _MAX_SHARDS
  if is_complete and layout.n_shards > _FEW_SHARDS:  # counting takes time
    most = sum(len(names) for _, _, names in os.walk(folder / 'c'))
  if layout.n_shards > most or 0 in layout.shape:
    raise InputError(str(folder), got=f'shape {layout.shape} in {layout.n_shards} '
                     'shards', expected=f'at most {most}, and at least one voxel',
                     remedy='the metadata are wrong or data are missing: import or '
                     'compute it again')


def check_room(path, shape, itemsize: int) -> None:
  """Raises InputError for an array that this process has no memory for."""
  n_bytes, limit = math.prod(shape) * itemsize, memory.limit_bytes()
  if n_bytes > limit:
    raise InputError(str(path), got=f'an array of {n_bytes / 2**30:.3g} GB',
                     expected=f'at most the {limit / 2**30:.3g} GB of memory',
                     remedy='check the shape of the volume, or take a machine with '
                     'more memory')


def _lengths(values, least: int = 0) -> tuple[int, ...]:
  if not isinstance(values, list) or not all(
      type(n) is int and least <= n <= _MAX_LENGTH for n in values):
    raise ValueError(f'lengths {values}')
  return tuple(values)


def read_group(path) -> tuple[dict, dict]:
  """The attributes 'ome' and 'fibjax' of the group at path."""
  attributes = read_json_group(path)
  ome, fibjax_attributes = attributes.get('ome'), attributes.get('fibjax', {})
  # Only an array two levels down is a volume of a group; one level down it would be the
  # array of a volume whose metadata are damaged.
  members = sorted(array.parents[1].name for array in path.glob(f'*/{LEVEL}/zarr.json')
                   if not files.is_partial(array.parents[1]))
  if ome is None and members:
    raise InputError(str(path), got=f'a group with {", ".join(members)}',
                     expected='a volume',
                     remedy=f'open one of them, e.g. {path / members[0]}')
  if not isinstance(ome, dict) or not isinstance(fibjax_attributes, dict):
    raise not_a_volume(path, 'a zarr group without OME metadata')
  if ome.get('version') != ome_zarr.VERSION:
    raise not_a_volume(path, f'OME-Zarr version {ome.get("version")}')
  return ome, fibjax_attributes


def check_volume_shape(path, shape) -> list[int]:
  """Returns a shape as integers; raises InputError unless it is z, y, x, all > 0."""
  shape = list(shape)
  if len(shape) != 3 or any(int(n) != n or n < 1 for n in shape):
    raise InputError(str(path), got=f'shape {shape}',
                     expected='three positive whole numbers, z, y, x',
                     remedy='correct the shape')
  return [int(n) for n in shape]


def check_dtype(path, dtype) -> np.dtype:
  """Returns a dtype; raises InputError unless volumes can have it."""
  dtype = np.dtype(dtype)
  if dtype.name not in _DTYPES:
    raise InputError(str(path), got=f'dtype {dtype}',
                     expected=f'one of {", ".join(_DTYPES)}', remedy='convert it first')
  return dtype


def write_metadata(path: Path, ome: dict, fibjax_attributes: dict) -> None:
  """Writes the group's zarr.json, with the checksum of all metadata."""
  check = {CHECKSUM: _metadata_checksum(path, ome, fibjax_attributes)}
  files.write_json(path / 'zarr.json', ome_zarr.group(
      ome=ome, fibjax=fibjax_attributes | check), checked=False)


def check_metadata(path: Path, ome: dict, fibjax_attributes: dict) -> None:
  """Raises InputError when metadata changed since they got their checksum."""
  # Volumes of other programs, and those that fibjax made before, have none.
  written = fibjax_attributes.get(CHECKSUM)
  if written is not None and written != _metadata_checksum(path, ome,
                                                           fibjax_attributes):
    raise InputError(
        str(path), got='metadata that changed since they were written',
        expected=f'those that {CHECKSUM!r} in zarr.json was made of',
        remedy='the file is damaged: import or compute it again; if you edited it, '
        f'delete {CHECKSUM!r} from attributes.fibjax in zarr.json')


def _metadata_checksum(path: Path, ome: dict, fibjax_attributes: dict) -> str:
  """Hash of both zarr.json of a volume, without the checksum itself."""
  checked = {k: v for k, v in fibjax_attributes.items() if k != CHECKSUM}
  try:
    array = (path / LEVEL / 'zarr.json').read_text(encoding='utf-8')
  except (FileNotFoundError, NotADirectoryError, UnicodeDecodeError):
    raise not_a_volume(path, f'no readable {LEVEL}/zarr.json') from None
  return checksums.hash_bytes(json.dumps([ome, checked, array],
                                         sort_keys=True).encode())
