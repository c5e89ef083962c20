"""Raw stacks as sources of slices, and the records of what was done to them.

A record is JSON: input (source, shape, dtype, hash of the voxels), steps (name,
parameters, estimated) and result (shape, hash, number of clipped voxels).
"""
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fibjax.errors import InputError
from fibjax.preparation.steps import Step, check_estimated, complete
from fibjax.volumes.volume import Volume, check_image, read_box

ATTRIBUTE = 'preparation'  # of a corrected volume: its record
_DTYPES = ('uint8', 'uint16', 'float32')
READ_DEPTH = 8  # slices read at a time


class Source(NamedTuple):
  """A raw stack, on disk or in memory; read: (first, stop) -> [z, y, x] slices."""
  name: str
  shape: tuple[int, int, int]
  dtype: np.dtype
  read: Callable[[int, int], np.ndarray]


def record_path(out) -> Path:
  """Path of the copy of a volume's record: NAME.preparation.json beside the volume."""
  out = Path(out)
  return out.with_name(out.name.removesuffix('.ome.zarr') + '.preparation.json')


def volume_source(volume: Volume) -> Source:
  """A volume as a source of slices."""
  def read(first, stop):
    return read_box(volume, (first, 0, 0), (stop, *volume.shape[1:]))
  return Source(str(volume.path), volume.shape, volume.dtype, read)


def array_source(image_zyx) -> Source:
  """An array [z, y, x] as a source of slices.

  Raises:
    InputError: for another rank, no voxel or a dtype of no raw stack.
  """
  image_zyx = check_image('image_zyx', image_zyx)
  # Sums over slices of another memory layout would round differently.
  image_zyx = np.ascontiguousarray(image_zyx, image_zyx.dtype.newbyteorder('='))
  source = Source('image_zyx', image_zyx.shape, image_zyx.dtype,
                   lambda first, stop: image_zyx[first:stop])
  check_dtype(source)
  return source


def describe(source: Source) -> dict:
  """Shape, dtype and hash of the voxels, which do not depend on the file's layout.

  Raises:
    InputError: for values that are not finite; names the slice.
  """
  digest, n_z = new_hash(source.shape, source.dtype), source.shape[0]
  for start in range(0, n_z, READ_DEPTH):
    slab_zyx = source.read(start, min(start + READ_DEPTH, n_z))
    for z, image_yx in enumerate(slab_zyx, start):
      if source.dtype.kind == 'f' and not np.isfinite(image_yx).all():
        raise InputError(f'{source.name} slice z={z}', got='NaN or infinite values',
                         expected='finite grey values',
                         remedy='repair or leave out the slice')
      digest.update(np.ascontiguousarray(image_yx))
  return {'shape': list(source.shape), 'dtype': source.dtype.name,
          'hash': digest.hexdigest()}


def new_hash(shape, dtype):
  """A hash of voxels that has seen their shape and dtype, to be updated by slices."""
  digest = hashlib.blake2b(digest_size=16)
  digest.update(f'{tuple(shape)} {np.dtype(dtype).name}'.encode())
  return digest


def check_record(record: dict, n_z: int) -> list[dict]:
  """Checks a record's steps and estimates; returns them with all parameters."""
  try:
    parts = [(Step(part['name'], part['parameters']), part['estimated'])
             for part in record['steps']]
    for key in ('shape', 'dtype', 'hash'):
      record['input'][key]
    if not all(isinstance(step.name, str) and isinstance(step.parameters, dict)
               for step, _ in parts):
      raise TypeError('name and parameters of each step')
  except (KeyError, TypeError) as error:
    raise InputError('preparation record', got=f'no {error}',
                     expected='the record of a corrected volume',
                     remedy='check the file') from None
  steps = complete([step for step, _ in parts])
  for step, (_, estimated) in zip(steps, parts, strict=True):
    check_estimated(step, estimated, n_z)
  return [{**step._asdict(), 'estimated': estimated}
          for step, (_, estimated) in zip(steps, parts, strict=True)]


def check_input(source: Source, record: dict) -> None:
  """Raises InputError unless a record was made of this raw stack."""
  for key, value in describe(source).items():
    if value != record['input'][key]:
      raise InputError(source.name, got=f'{key} {value}',
                       expected=f'{record["input"][key]} of the record',
                       remedy='give the raw stack that the record was made of')


def check_dtype(source: Source) -> None:
  """Raises InputError for a dtype of no raw stack."""
  if source.dtype.name not in _DTYPES:
    raise InputError(source.name, got=f'dtype {source.dtype}',
                     expected=f'one of {", ".join(_DTYPES)}',
                     remedy='convert the stack')
