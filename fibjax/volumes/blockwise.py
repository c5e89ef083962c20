"""Volumes made shard by shard: resumable, whole or absent, here or on a cluster.

Each shard of the new volume is read (with whatever margin it needs), computed and
written once, whole. In one process the next shard is read and the last one written
while one is computed; memory does not grow with the volume. What is finished stands in
a manifest beside the output, NAME.manifest.jsonl: first what the result depends on,
then a line per shard. A second call checks the finished shards by their checksums and
makes the rest; the volume gets its final name when it is complete.
"""
import concurrent.futures
import functools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fibjax.errors import InputError
from fibjax.system import cluster, files, geometry, memory, progress
from fibjax.system.cluster import Resources
from fibjax.system.geometry import Box
from fibjax.volumes.volume import (
  Volume,
  create_volume,
  discard_shard,
  open_volume,
  read_box,
  shard_shape,
  write_box,
)


class Steps(NamedTuple):
  """How a shard is made.

  Attributes:
    read: box -> whatever compute needs of it.
    compute: (box, what read gave) -> [z, y, x] array of the box, or [c, z, y, x].
  """
  read: Callable[[Box], Any]
  compute: Callable[[Box, Any], np.ndarray]


class _Origin(NamedTuple):
  """The volume that a new one is made of, as it was when the work began.

  Attributes:
    path: where it is.
    stamp: of its files, to notice when it changes under the work.
  """
  path: Path
  stamp: str


def make_volume(out, source: Volume, dtype, open_steps: Callable[[], Steps],
                fingerprint: dict, title: str, resources: Resources,
                channels=()) -> Volume:
  """Makes a volume of the shape of another, or goes on making it.

  Args:
    out: path of the volume to make; returned as it is when it is complete.
    source: what it is made of.
    dtype: of the voxels to make.
    open_steps: makes the steps, in each process that works; a functools.partial of a
      function of the package's top level, so that it can be sent to workers.
    fingerprint: JSON of all that the result depends on, source included
      (`workdir.hash_files`).
    title: of the progress line.
    resources: where to work.
    channels: names, where the steps make [c, z, y, x].

  Raises:
    InputError: when finished shards belong to another fingerprint, when the source
      changes meanwhile, or when a shard cannot be read, made or written.
  """
  out = Path(out)
  partial = out.with_name(f'{out.name}.partial')
  manifest = out.with_name(f'{out.name}.manifest.jsonl')
  fingerprint = json.loads(json.dumps(fingerprint))  # as it will be read back
  if out.exists():
    manifest.unlink(missing_ok=True)
    finished = open_volume(out)
    _check_same(out, finished.attributes, fingerprint)
    return finished
  done: set[tuple] = set()
  if partial.exists() and manifest.exists():
    found, done = _read_manifest(manifest)
    _check_same(manifest, found, fingerprint)
    target = open_volume(partial)
    damaged = {start for start in done if not _is_whole(target, start)}
    for start in damaged:
      discard_shard(target, start)
    done -= damaged
    _write_manifest(manifest, fingerprint, done)
  else:
    manifest.unlink(missing_ok=True)
    shutil.rmtree(partial, ignore_errors=True)  # without a manifest it has no worth
    target = create_volume(partial, source.shape, dtype,
                                   source.voxel_size_zyx_nm, attributes=fingerprint,
                                   fill_value=None, channels=channels)
    _write_manifest(manifest, fingerprint, done)
  boxes = [box for box in shard_boxes(target) if box[0] not in done]
  origin = _Origin(source.path, files.stamp_files(source.path))
  if boxes:
    if cluster.is_here(resources):
      finished = _pipeline(open_steps(), origin, target, boxes)
    else:
      finished = (box for box, _ in cluster.run_units(
          _make_shard, (open_steps, origin, target.path), boxes, resources))
    with open(manifest, 'a', encoding='utf-8') as log:
      for box in progress.track(finished, title, 'shard', len(boxes)):
        log.write(json.dumps(box[0]) + '\n')
        log.flush()
  os.replace(partial, out)
  manifest.unlink()
  return open_volume(out)


def shard_boxes(volume: Volume) -> list[Box]:
  """Boxes of all shards of a volume."""
  return list(geometry.tile_boxes(volume.shape, shard_shape(volume)))


def _pipeline(steps: Steps, origin: _Origin, target: Volume, boxes):
  """Yields each box when it is written; reads ahead and writes behind."""
  with (concurrent.futures.ThreadPoolExecutor(1) as reader,
        concurrent.futures.ThreadPoolExecutor(1) as writer):
    ahead, behind = reader.submit(steps.read, boxes[0]), None
    for i, box in enumerate(boxes):
      try:
        block = ahead.result()
        if i + 1 < len(boxes):
          ahead = reader.submit(steps.read, boxes[i + 1])
        array_zyx = steps.compute(box, block)
        memory.trim()
      finally:  # what was computed before is kept, whatever stops this one
        if behind is not None:
          behind.result()
          yield boxes[i - 1]
      behind = writer.submit(_write, origin, target, box, array_zyx)
    behind.result()
    yield boxes[-1]


def _write(origin: _Origin, target: Volume, box: Box, array_zyx: np.ndarray) -> None:
  if files.stamp_files(origin.path) != origin.stamp:
    raise InputError(str(origin.path), got='a volume that changed during the work',
                     expected='one that stays as it is',
                     remedy='delete what was begun and start again')
  write_box(target, box[0], array_zyx)


@functools.lru_cache(1)
def _opened(open_steps, target: Path) -> tuple[Steps, Volume]:
  return open_steps(), open_volume(target)


def _make_shard(shared, box: Box) -> None:
  """One shard from reading to writing, in a worker."""
  open_steps, origin, target = shared
  steps, volume = _opened(open_steps, target)
  _write(origin, volume, box, steps.compute(box, steps.read(box)))
  memory.trim()


def _is_whole(target: Volume, start) -> bool:
  stop = tuple(min(a + n, size) for a, n, size in
               zip(start, shard_shape(target), target.shape, strict=True))
  try:
    read_box(target, start, stop, channel=None)
  except InputError:
    return False
  return True


def _write_manifest(manifest: Path, fingerprint: dict, done) -> None:
  lines = [fingerprint, *sorted(done)]
  files.write_text(manifest, ''.join(json.dumps(line) + '\n' for line in lines))


def _read_manifest(manifest: Path) -> tuple[dict, set[tuple]]:
  """First line and finished shards; a line torn by a crash ends them."""
  first, *rest = manifest.read_text(encoding='utf-8').splitlines()
  whole = []
  for line in rest:
    try:
      whole.append(tuple(json.loads(line)))
    except json.JSONDecodeError:
      break
  return json.loads(first), set(whole)


def _check_same(name, found: dict, expected: dict) -> None:
  differing = {key: found.get(key) for key in expected
               if found.get(key) != expected[key]}
  if differing:
    raise InputError(str(name), got=f'parts made with {differing}',
                     expected={key: expected[key] for key in differing},
                     remedy='delete it, or go back to what it was made with')
