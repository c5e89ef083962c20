"""Block-wise, resumable processing of volumes, locally or on a cluster.

`map_blocks` makes a volume from another one, shard by shard: each shard is read with
the margin that its computation needs, computed, and written once, whole. In a single
process the next shard is read and the previous one written while one is computed, so
memory does not grow with the volume.

Finished shards are listed in a manifest beside the output, NAME.manifest.jsonl: the
first line holds everything that the result depends on, then comes a line per shard. A
second call verifies the finished shards by their checksums and computes the others. The
volume gets its final name when it is complete; whoever asks for it again gets it when
all its checksums hold.
"""
import concurrent.futures
import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fibjax.errors import InputError
from fibjax.system import cluster, files, geometry, memory, progress
from fibjax.system.cluster import Resources
from fibjax.system.geometry import Box
from fibjax.system.refusals import RefusedError
from fibjax.volumes.volume import (
  Volume,
  create_volume,
  discard_shard,
  open_volume,
  read_box,
  read_mirrored,
  shard_shape,
  write_box,
)

_CHECKED_AT_ONCE = 2  # shards that are read together to verify a volume


class BlockFunction(NamedTuple):
  """What is done with each block of a volume.

  Attributes:
    reads: box of the output -> box of the source that `compute` needs. It may leave the
      source, which is then mirrored at its faces.
    compute: (box of the output, block of the source) -> [z, y, x] array of the box, or
      [c, z, y, x].
  """
  reads: Callable[[Box], Box]
  compute: Callable[[Box, np.ndarray], np.ndarray]


class _Source(NamedTuple):
  """The source as it was when the work began.

  Attributes:
    volume: the source.
    stamp: names, sizes and times of its files, to notice changes during the work.
  """
  volume: Volume
  stamp: str


def map_blocks(open_function: Callable[[Volume], BlockFunction], source: Volume, out,
               dtype, *, fingerprint: dict, title: str, resources: Resources,
               channels: tuple[str, ...] = ()) -> Volume:
  """Makes a volume of the shape of another, or resumes making it.

  Args:
    open_function: builds the block function for the source, in each process that
      works. It has to be a top-level function, or a functools.partial of one, so that
      it can be sent to workers.
    source: volume to read.
    out: path of the volume to make; a complete one is verified and returned.
    dtype: of the voxels to make.
    fingerprint: JSON of everything that the result depends on, including the source
      (`files.hash_files`); becomes the attributes of the new volume.
    title: of the progress line.
    resources: where to work.
    channels: names, where blocks are computed as [c, z, y, x].

  Raises:
    InputError: when finished shards belong to another fingerprint, when the source
      changes during the work, or when a shard cannot be read, computed or written; when
      a complete volume is damaged.
  """
  out = Path(out)
  partial = files.partial_path(out)
  manifest = out.with_name(f'{out.name}.manifest.jsonl')
  fingerprint = json.loads(json.dumps(fingerprint))  # as it will be read back
  if out.exists():
    manifest.unlink(missing_ok=True)
    complete = open_finished(out)
    _check_same(out, complete.attributes, fingerprint)
    return complete
  target, done = _open_target(partial, manifest, source, dtype, fingerprint, channels)
  boxes = [box for box in shard_boxes(target) if box[0] not in done]
  if boxes:
    stamped = _Source(source, files.stamp_files(source.path))
    if cluster.is_here(resources):
      finished = _pipeline(open_function(source), stamped, target, boxes)
    else:
      finished = (box for box, _ in cluster.run_units(
          _make_shard, (open_function, source.path, stamped.stamp, target.path), boxes,
          resources))
    with open(manifest, 'a', encoding='utf-8') as log:
      for box in progress.track(finished, title, 'shard', len(boxes)):
        log.write(json.dumps(box[0]) + '\n')
        log.flush()
  files.rename_folder(partial, out)
  manifest.unlink()
  return open_volume(out)


def open_finished(path) -> Volume:
  """Opens a complete volume when the checksums of all its voxels hold.

  Raises:
    InputError: when a part of it is damaged or missing.
  """
  volume = open_volume(path)
  with concurrent.futures.ThreadPoolExecutor(_CHECKED_AT_ONCE) as pool:
    for _ in pool.map(lambda box: read_box(volume, *box, channel=None) is not None,
                      shard_boxes(volume)):
      pass
  return volume


def shard_boxes(volume: Volume) -> list[Box]:
  """Boxes of all shards of a volume."""
  return list(geometry.tile_boxes(volume.shape, shard_shape(volume)))


def _open_target(partial: Path, manifest: Path, source: Volume, dtype,
                 fingerprint: dict, channels) -> tuple[Volume, set[tuple]]:
  """The volume under construction and the starts of its intact shards."""
  if partial.exists() and manifest.exists():
    recorded, done = _read_manifest(manifest)
    _check_same(manifest, recorded, fingerprint)
    target = open_volume(partial)
    damaged = {start for start in done if not _is_intact(target, start)}
    for start in damaged:
      discard_shard(target, start)
    done -= damaged
  else:
    manifest.unlink(missing_ok=True)
    shutil.rmtree(partial, ignore_errors=True)  # worthless without a manifest
    target = create_volume(partial, source.shape, dtype, source.voxel_size_zyx_nm,
                           attributes=fingerprint, fill_value=None, channels=channels)
    done = set()
  _write_manifest(manifest, fingerprint, done)
  return target, done


def _read_block(function: BlockFunction, source: Volume, box: Box) -> np.ndarray:
  return read_mirrored(source, *function.reads(box))


def _pipeline(function: BlockFunction, source: _Source, target: Volume, boxes):
  """Yields each box when it is written; reads ahead and writes behind."""
  with (concurrent.futures.ThreadPoolExecutor(1) as reader,
        concurrent.futures.ThreadPoolExecutor(1) as writer):

    read = functools.partial(reader.submit, _read_block, function, source.volume)
    ahead, behind = read(boxes[0]), None
    for i, box in enumerate(boxes):
      try:
        block_zyx = ahead.result()
        if i + 1 < len(boxes):
          ahead = read(boxes[i + 1])
        array_zyx = function.compute(box, block_zyx)
        memory.trim()
      finally:  # the previous shard is kept, whatever stops this one
        if behind is not None:
          behind.result()
          yield boxes[i - 1]
      behind = writer.submit(_write, source.volume.path, source.stamp, target, box,
                             array_zyx)
    behind.result()
    yield boxes[-1]


def _write(source_path: Path, stamp: str, target: Volume, box: Box,
           array_zyx: np.ndarray) -> None:
  if files.stamp_files(source_path) != stamp:
    raise InputError(str(source_path), got='a volume that changed during the work',
                     expected='an unchanged volume',
                     remedy='delete the partial result and start again')
  write_box(target, box[0], array_zyx)


@functools.lru_cache(1)
def _open_in_worker(open_function, source_path: Path,
                    target_path: Path) -> tuple[BlockFunction, Volume, Volume]:
  source = open_volume(source_path)
  return open_function(source), source, open_volume(target_path)


def _make_shard(shared, box: Box) -> None:
  """One shard from reading to writing, in a worker."""
  open_function, source_path, stamp, target_path = shared
  function, source, target = _open_in_worker(open_function, source_path, target_path)
  array_zyx = function.compute(box, _read_block(function, source, box))
  _write(source_path, stamp, target, box, array_zyx)
  memory.trim()


def _is_intact(target: Volume, start) -> bool:
  """Whether a shard can be read, its checksums included."""
  stop = tuple(min(a + n, size) for a, n, size in
               zip(start, shard_shape(target), target.shape, strict=True))
  try:
    read_box(target, start, stop, channel=None)
  except RefusedError:  # says nothing about the shard
    raise
  except InputError:
    return False
  return True


def _write_manifest(manifest: Path, fingerprint: dict, done) -> None:
  lines = [fingerprint, *sorted(done)]
  files.write_text(manifest, ''.join(json.dumps(line) + '\n' for line in lines))


def _read_manifest(manifest: Path) -> tuple[dict, set[tuple]]:
  """Fingerprint and finished shards; a line torn by a crash ends the list."""
  first, *rest = manifest.read_text(encoding='utf-8').splitlines()
  starts = set()
  for line in rest:
    try:
      starts.add(tuple(json.loads(line)))
    except json.JSONDecodeError:
      break
  return json.loads(first), starts


def _check_same(name, recorded: dict, expected: dict) -> None:
  differing = {key: recorded.get(key) for key in expected
               if recorded.get(key) != expected[key]}
  if differing:
    raise InputError(str(name), got=f'parts made with {differing}',
                     expected={key: expected[key] for key in differing},
                     remedy='delete it, or restore what it was made with')
