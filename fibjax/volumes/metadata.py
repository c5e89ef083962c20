"""Metadata of volumes on disk: groups, voxel sizes, shapes and dtypes, checked."""
import json

import numpy as np

from fibjax.errors import InputError
from fibjax.system import files
from fibjax.volumes import ome_zarr
from fibjax.volumes.voxel_size import UNITS_NM, check_voxel_size

LEVEL = '0'

_DTYPES = ('uint8', 'uint16', 'uint32', 'int32', 'float32', 'float64')

# Keys of attributes.fibjax that this module sets; all others are the caller's.
UNKNOWN_SIZE = 'voxel_size_unknown'


def size_from_ome(path, scale, units, fibjax_attributes):
  """Voxel size in nm; None where the volume is flagged or an axis has no known unit."""
  has_units = all(unit in UNITS_NM for unit in units)
  if fibjax_attributes.get(UNKNOWN_SIZE, False) or not has_units:
    return None
  return check_voxel_size(
      str(path), [s * UNITS_NM[u] for s, u in zip(scale, units, strict=True)])


def not_a_volume(path, got) -> InputError:
  """The error for a path that holds no volume of fibjax."""
  return InputError(str(path), got=got,
                    expected='an OME-Zarr 0.5 image with axes z, y, x',
                    remedy='import the stack again, or check the path')


def read_json_group(path) -> dict:
  """Attributes of the zarr group at path."""
  file = path / 'zarr.json'
  try:
    content = json.loads(file.read_text(encoding='utf-8'))
  except OSError:
    raise not_a_volume(path, 'no readable zarr.json') from None
  except ValueError as error:
    raise not_a_volume(file, f'damaged JSON ({error})') from None
  if not isinstance(content, dict) or content.get('node_type') != 'group':
    raise not_a_volume(file, 'not a zarr v3 group')
  attributes = content.get('attributes', {})
  return attributes if isinstance(attributes, dict) else {}


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
