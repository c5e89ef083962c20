"""Preparation of a raw stack by a chain of steps, written down and replayable.

The steps (steps.py) are estimated one by one, each in a pass over the raw volume that
applies the steps before; the last pass applies all and writes. Threads compute the
slices of a slab, so memory holds a few slices whatever the stack's depth, no volume
stands in between, and a slice is resampled once. What each slice becomes depends on no
other, nor on the slabs.

Grey values stay on the raw scale and of the raw dtype, for what reads raw volumes: a
run scales them to [0, 1] (intensity.py). Integers are rounded; values beyond the
dtype's range are clipped, and the record says how many. Floats are not changed.

The record is JSON, and stands beside the volume: input (source, shape, dtype, hash of
the voxels), steps (name, parameters, estimated) and result (shape, hash, number of
clipped voxels). `replay` makes the same voxels from it without estimating.
"""
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from fibjax.errors import InputError
from fibjax.preparation.steps import Step, apply, check_estimated, complete, estimate
from fibjax.system import files, progress
from fibjax.volumes.volume import Volume, new_volume, read_box, shard_shape, write_box

_DTYPES = ('uint8', 'uint16', 'float32')
READ_DEPTH = 8  # slices read at a time while estimating


def record_path(out) -> Path:
  """Where the record of a prepared volume stands: NAME.preparation.json beside it."""
  out = Path(out)
  return out.with_name(out.name.removesuffix('.ome.zarr') + '.preparation.json')


def prepare(volume: Volume, out, steps: Sequence[Step]) -> dict:
  """Estimates a chain of steps on a raw volume and writes what it makes of it.

  Args:
    volume: as acquired; uint8, uint16 or float32.
    out: volume to make; it and its record must not exist.
    steps: from `steps.steps_from`.

  Returns:
    The record, which is also written to `record_path(out)`.

  Raises:
    InputError: for bad steps, a volume of another dtype or with values that are not
      finite, slices that a step cannot work on, or when out exists.
  """
  steps = complete(steps)
  _check_target(volume, out)
  record = {'input': {'source': str(volume.path), **_describe(volume)}, 'steps': []}
  shape_yx = volume.shape[1:]
  for step in steps:
    before = record['steps']
    shape_yx = _shape_after(before, shape_yx)

    def mapped(function, step=step, before=before):
      return _map_slices(volume, before, function, f'estimate {step.name}')

    # What is written down is what is applied, to the last digit.
    estimated = json.loads(json.dumps(estimate(step, mapped, shape_yx),
                                      allow_nan=False))
    record['steps'] = [*before, {**step._asdict(), 'estimated': estimated}]
  return _write(volume, out, record)


def replay(volume: Volume, record: dict, out) -> dict:
  """Makes a prepared volume again from the raw one and its record.

  Args:
    volume: the raw volume, wherever it stands and however it is sharded.
    record: as returned by `prepare`, or read from its file.
    out: volume to make; it and its record must not exist.

  Returns:
    The record, which is also written to `record_path(out)`. Its result differs from
    that given only where another version of a library computes other digits, which is
    said.

  Raises:
    InputError: for a record that is incomplete or of another volume, or when out
      exists.
  """
  _check_target(volume, out)
  try:
    source, applied = record['input'], record['steps']
    parts = [(Step(part['name'], part['parameters']), part['estimated'])
             for part in applied]
    expected = {key: source[key] for key in ('shape', 'dtype', 'hash')}
  except (KeyError, TypeError) as error:
    raise InputError('preparation record', got=f'no {error}',
                     expected='the record of a prepared volume',
                     remedy='check the file') from None
  steps = complete([step for step, _ in parts])
  for step, (_, estimated) in zip(steps, parts, strict=True):
    check_estimated(step, estimated, volume.shape[0])
  for key, value in _describe(volume).items():
    if value != expected[key]:
      raise InputError(str(volume.path), got=f'{key} {value}',
                       expected=f'{expected[key]} of the record',
                       remedy='give the raw volume that the record was made of')
  again = {'input': source, 'steps': [
      {**step._asdict(), 'estimated': estimated}
      for step, (_, estimated) in zip(steps, parts, strict=True)]}
  again = _write(volume, out, again)
  if record.get('result') not in (None, again['result']):
    progress.say(f'{out}: not the voxels of the record; other versions of numpy, scipy '
                 'or PyWavelets?')
  return again


def _write(volume, out, record) -> dict:
  """Applies the steps of a record in one pass and completes it by the result."""
  shape = (volume.shape[0], *_shape_after(record['steps'], volume.shape[1:]))
  digest, clipped, z = _new_hash(shape, volume.dtype), 0, 0
  with new_volume(out, shape, volume.dtype, volume.voxel_size_zyx_nm,
                          fill_value=None, attributes={'preparation': record}) as new:
    depth = shard_shape(new)[0]
    slab = []
    for image_yx, outside in _map_slices(volume, record['steps'],
                                         lambda i: _to_dtype(i, volume.dtype),
                                         'prepare', depth):
      digest.update(image_yx)
      clipped += outside
      slab.append(image_yx)
      if len(slab) == depth or z + len(slab) == shape[0]:
        write_box(new, (z, 0, 0), np.stack(slab))
        z, slab = z + len(slab), []
  if clipped:
    progress.say(f'{out}: {clipped} voxels left the range of {volume.dtype} and were '
                 'clipped')
  record = {**record, 'result': {'shape': list(shape), 'hash': digest.hexdigest(),
                                 'clipped_voxels': clipped}}
  files.write_json(record_path(out), record)
  return record


def _map_slices(volume, applied, function: Callable, description: str,
                depth: int = READ_DEPTH) -> Iterator:
  """Yields function(slice) of all slices after some steps, in order.

  Args:
    volume: raw.
    applied: the steps' entries in the record.
    function: of a [y, x] image; called from threads.
    description: for the progress.
    depth: slices in memory.
  """
  def compute(z, image_yx):
    try:
      for part in applied:
        image_yx = apply(Step(part['name'], part['parameters']),
                               part['estimated'], image_yx, z)
      return function(image_yx)
    except InputError as error:
      error.args = (f'{volume.path} z={z} {error}',)
      raise

  starts = range(0, volume.shape[0], depth)
  with ThreadPoolExecutor(min(depth, os.cpu_count() or 1)) as pool:
    for start in progress.track(starts, description, 'slab', len(starts)):
      slab_zyx = _read(volume, start, depth)
      yield from pool.map(compute, range(start, start + len(slab_zyx)), slab_zyx)


def _read(volume, start, depth):
  stop = min(start + depth, volume.shape[0])
  return read_box(volume, (start, 0, 0), (stop, *volume.shape[1:]))


def _shape_after(applied, shape_yx):
  """Shape of slices after steps: that of the box that 'align' cuts out."""
  for part in applied:
    if part['name'] == 'align':
      box = part['estimated']
      shape_yx = tuple(b - a for a, b in zip(box['start_yx'], box['stop_yx'],
                                             strict=True))
  return tuple(shape_yx)


def _to_dtype(image_yx, dtype) -> tuple[np.ndarray, int]:
  """A slice as it is stored, and how many values did not fit."""
  if dtype.kind == 'f':
    return np.ascontiguousarray(image_yx, dtype), 0
  rounded_yx = np.rint(image_yx)
  limits = np.iinfo(dtype)
  stored_yx = np.clip(rounded_yx, limits.min, limits.max)
  return stored_yx.astype(dtype), int(np.count_nonzero(stored_yx != rounded_yx))


def _describe(volume) -> dict:
  """Shape, dtype and hash of the voxels, which do not depend on the file's layout.

  Raises:
    InputError: for values that are not finite; names the slice.
  """
  digest = _new_hash(volume.shape, volume.dtype)
  for start in range(0, volume.shape[0], READ_DEPTH):
    for z, image_yx in enumerate(_read(volume, start, READ_DEPTH), start):
      if volume.dtype.kind == 'f' and not np.isfinite(image_yx).all():
        raise InputError(f'{volume.path} slice z={z}', got='NaN or infinite values',
                         expected='finite grey values',
                         remedy='repair or leave out the slice')
      digest.update(np.ascontiguousarray(image_yx))
  return {'shape': list(volume.shape), 'dtype': volume.dtype.name,
          'hash': digest.hexdigest()}


def _new_hash(shape, dtype):
  digest = hashlib.blake2b(digest_size=16)
  digest.update(f'{tuple(shape)} {np.dtype(dtype).name}'.encode())
  return digest


def _check_target(volume, out):
  if volume.dtype.name not in _DTYPES:
    raise InputError(str(volume.path), got=f'dtype {volume.dtype}',
                     expected=f'one of {", ".join(_DTYPES)}',
                     remedy='convert the stack')
  files.check_absent(out)
  files.check_absent(record_path(out))
