"""Correction of a raw stack by a chain of steps, recorded and replayable.

The steps (steps.py) are estimated one by one, each in a pass over the raw stack that
applies the steps before it; the last pass applies all and writes. Threads compute the
slices of a slab. So memory holds a few slices whatever the depth of the stack, no
intermediate volume is written, and a slice is resampled only once. The result for a
slice depends neither on other slices' results nor on the slabs.

Grey values stay on the raw scale and of the raw dtype, for anything that reads raw
volumes; a run scales them to [0, 1] (scaling.py). Integers are rounded; values beyond
the range of the dtype are clipped, and the record states how many. Floats are not
changed.

The record (records.py) is part of the volume's attributes, which appear together with
the volume, and a copy is written beside the volume. `replay` makes the same voxels from
it without estimating.
"""
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fibjax.errors import InputError
from fibjax.preparation.records import (
  ATTRIBUTE,
  READ_DEPTH,
  Source,
  array_source,
  check_dtype,
  check_input,
  check_record,
  describe,
  new_hash,
  record_path,
  volume_source,
)
from fibjax.preparation.steps import Step, apply, complete, estimate, steps_from
from fibjax.system import files, progress
from fibjax.volumes.volume import (
  Volume,
  new_volume,
  open_volume,
  shard_shape,
  write_attributes,
  write_box,
)


class Corrected(NamedTuple):
  """A stack after a chain of steps.

  Attributes:
    image_zyx: grey values, dtype of the raw stack.
    record: as `apply_steps` returns it.
  """
  image_zyx: np.ndarray
  record: dict


def apply_steps(volume: Volume, out, steps: Sequence[Step]) -> dict:
  """Estimates a chain of steps on a raw volume and writes the corrected volume.

  A call that was killed after the volume was complete is finished by the same call.

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
  source = volume_source(volume)
  record = _finish_killed_call(source, out, [step._asdict() for step in steps])
  if record is not None:
    return record
  _check_target(source, out)
  described = {'source': source.name, **describe(source)}
  return _write(volume, out, {'input': described, 'steps': _estimate(source, steps)})


def replay(volume: Volume, record: dict, out) -> dict:
  """Makes a corrected volume again from the raw one and its record.

  Args:
    volume: the raw volume; its path and shards may differ from the original's.
    record: as returned by `apply_steps`, or read from its file.
    out: volume to make; it and its record must not exist.

  Returns:
    The record, which is also written to `record_path(out)`. Its result differs from
    that given only where another version of a library computes other digits, which is
    reported.

  Raises:
    InputError: for a record that is incomplete or of another volume, or when out
      exists.
  """
  source = volume_source(volume)
  applied = check_record(record, source.shape[0])
  finished = _finish_killed_call(source, out, applied)
  if finished is not None:
    return finished
  _check_target(source, out)
  check_input(source, record)
  again = _write(volume, out, {'input': record['input'], 'steps': applied})
  if record.get('result') not in (None, again['result']):
    progress.say(f'{out}: not the voxels of the record; other versions of numpy, scipy '
                 'or PyWavelets?')
  return again


def apply_steps_to_array(image_zyx: np.ndarray, steps: str | Sequence[Step]
                         ) -> Corrected:
  """Estimates and applies a chain of steps in memory, with the bits of `apply_steps`.

  Args:
    image_zyx: [z, y, x] grey values as acquired, uint8, uint16 or float32; solid
      brighter than pores.
    steps: text such as 'align:trend=linear,gradient', see `steps.steps_from`, or its
      result.

  Returns:
    `Corrected(image_zyx, record)`: grey values of the same dtype, cropped by the step
    'align'; the record can be replayed.

  Raises:
    InputError: for bad steps, an array of another rank or dtype, values that are not
      finite, or slices that a step cannot work on.

  Example:
    >>> import fibjax
    >>> film = fibjax.simulate_film('HPC45', (6, 64, 64), seed=0, artefacts='real')
    >>> flat = fibjax.correct_stack(film.image_zyx, 'gradient,brightness')
    >>> flat.image_zyx.shape, [step['name'] for step in flat.record['steps']]
    ((6, 64, 64), ['gradient', 'brightness'])
  """
  source = array_source(image_zyx)
  steps = steps_from(steps) if isinstance(steps, str) else complete(steps)
  described = {'source': source.name, **describe(source)}
  return _correct(source, {'input': described, 'steps': _estimate(source, steps)})


def replay_on_array(image_zyx: np.ndarray, record: dict) -> Corrected:
  """Makes a corrected stack again in memory from the raw one and its record.

  Args:
    image_zyx: [z, y, x] the raw grey values that the record was made of.
    record: as returned by `apply_steps` or `apply_steps_to_array`.

  Raises:
    InputError: for a record that is incomplete or of another stack.
  """
  source = array_source(image_zyx)
  applied = check_record(record, source.shape[0])
  check_input(source, record)
  return _correct(source, {'input': record['input'], 'steps': applied})


def _estimate(source: Source, steps) -> list[dict]:
  """Estimates steps one after the other: their entries in the record."""
  applied, shape_yx = [], source.shape[1:]
  for step in steps:
    shape_yx = _shape_after(applied, shape_yx)

    def mapped(function, step=step, applied=tuple(applied)):
      return _map_slices(source, applied, function, f'estimate {step.name}',
                         READ_DEPTH)

    # The estimates go through JSON, so that a replay applies the same digits.
    estimated = json.loads(json.dumps(estimate(step, mapped, shape_yx),
                                      allow_nan=False))
    applied.append({**step._asdict(), 'estimated': estimated})
  return applied


def _corrected_slices(source: Source, applied, depth: int) -> Iterator:
  """Yields (image_yx, number of clipped voxels) of all slices, as they are stored."""
  return _map_slices(source, applied,
                     lambda image_yx: _to_dtype(image_yx, source.dtype),
                     'prep', depth)


def _correct(source: Source, record: dict) -> Corrected:
  """Applies the steps of a record in memory and adds its result."""
  shape = (source.shape[0], *_shape_after(record['steps'], source.shape[1:]))
  image_zyx, clipped = np.empty(shape, source.dtype), 0
  for z, (image_yx, outside) in enumerate(
      _corrected_slices(source, record['steps'], READ_DEPTH)):
    image_zyx[z] = image_yx
    clipped += outside
  digest = new_hash(shape, source.dtype)
  digest.update(image_zyx)
  return Corrected(image_zyx, _with_result(record, shape, digest, clipped))


def _write(volume: Volume, out, record: dict) -> dict:
  """Applies the steps of a record in one pass, adds its result and writes both."""
  source = volume_source(volume)
  shape = (source.shape[0], *_shape_after(record['steps'], source.shape[1:]))
  digest, clipped, z = new_hash(shape, source.dtype), 0, 0
  with new_volume(out, shape, source.dtype, volume.voxel_size_zyx_nm,
                  fill_value=None) as new:
    depth = shard_shape(new)[0]
    slab = []
    for image_yx, outside in _corrected_slices(source, record['steps'], depth):
      digest.update(image_yx)
      clipped += outside
      slab.append(image_yx)
      if len(slab) == depth or z + len(slab) == shape[0]:
        write_box(new, (z, 0, 0), np.stack(slab))
        z, slab = z + len(slab), []
    record = _with_result(record, shape, digest, clipped)
    write_attributes(new, {ATTRIBUTE: record})  # before the volume appears
  if clipped:
    progress.say(f'{out}: {clipped} voxels left the range of {source.dtype} and were '
                 'clipped')
  files.write_json(record_path(out), record, checked=False)
  return record


def _with_result(record: dict, shape, digest, clipped: int) -> dict:
  return {**record, 'result': {'shape': list(shape), 'hash': digest.hexdigest(),
                               'clipped_voxels': clipped}}


def _finish_killed_call(source: Source, out, applied) -> dict | None:
  """Writes the copy of the record that a killed call left out.

  Args:
    source: the raw volume.
    out: path of the corrected volume.
    applied: steps of the call, with or without their estimates.

  Returns:
    The record; None where out is not the complete result of the same call.
  """
  if not Path(out).exists() or record_path(out).exists():
    return None
  try:
    record = open_volume(out).attributes[ATTRIBUTE]
    made = [{key: part[key] for key in step}
            for part, step in zip(record['steps'], applied, strict=True)]
  except (InputError, KeyError, TypeError, ValueError):
    return None
  if made != applied or record['input'] != record['input'] | describe(source):
    return None
  files.write_json(record_path(out), record, checked=False)
  return record


def _map_slices(source: Source, applied, function: Callable, description: str,
                depth: int) -> Iterator:
  """Yields function(slice) of all slices after some steps, in order.

  Args:
    source: the raw stack.
    applied: the steps' entries in the record.
    function: of a [y, x] image; called from threads.
    description: for the progress bar.
    depth: slices in memory.
  """
  def compute(z, image_yx):
    try:
      for part in applied:
        image_yx = apply(Step(part['name'], part['parameters']), part['estimated'],
                         image_yx, z)
      return function(image_yx)
    except InputError as error:
      error.args = (f'{source.name} z={z} {error}',)
      raise

  n_z = source.shape[0]
  starts = range(0, n_z, depth)
  with ThreadPoolExecutor(min(depth, os.cpu_count() or 1)) as pool:
    for start in progress.track(starts, description, 'slab', len(starts)):
      slab_zyx = source.read(start, min(start + depth, n_z))
      yield from pool.map(compute, range(start, start + len(slab_zyx)), slab_zyx)


def _shape_after(applied, shape_yx):
  """Shape of the slices after steps; 'align' cuts out a box."""
  for part in applied:
    if part['name'] == 'align':
      box = part['estimated']
      shape_yx = tuple(b - a for a, b in zip(box['start_yx'], box['stop_yx'],
                                             strict=True))
  return tuple(shape_yx)


def _to_dtype(image_yx, dtype) -> tuple[np.ndarray, int]:
  """A slice as it is stored, and the number of values out of range."""
  if dtype.kind == 'f':
    return np.ascontiguousarray(image_yx, dtype), 0
  rounded_yx = np.rint(image_yx)
  limits = np.iinfo(dtype)
  stored_yx = np.clip(rounded_yx, limits.min, limits.max)
  return stored_yx.astype(dtype), int(np.count_nonzero(stored_yx != rounded_yx))


def _check_target(source: Source, out) -> None:
  check_dtype(source)
  files.check_absent(out)
  files.check_absent(record_path(out))
