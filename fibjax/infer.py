"""Segmentation of whole volumes: prepared volume -> score volume, shard by shard.

Each shard of the score volume is read with its margin (mirrored at the faces, §1.9),
computed and written once, whole; the next one is read and the last one written while
one is computed. What is finished stands in a manifest beside the output, so that a
second call goes on where the first was stopped; the volume gets its final name when it
is complete. Scores are P(solid), float32.
"""
import concurrent.futures
import functools
import hashlib
import json
import math
import os
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from fibjax import geometry, patches, progress, workdir
from fibjax.checks import InputError
from fibjax.data.volume import (
  Volume,
  create_volume,
  open_volume,
  read_mirrored,
  shard_shape,
  write_box,
)
from fibjax.models import Model


def tile_side(extent_px: int, largest_px: int, stride_px: int) -> int:
  """Side of equal tiles, a multiple of the stride, that cover an extent."""
  count = math.ceil(extent_px / largest_px)
  return math.ceil(extent_px / count / stride_px) * stride_px


def make_score_fn(model: Model, params, mode: str, tile_yx: tuple[int, int],
                  batch: int):
  """Builds image -> scores for tiles of one size.

  Args:
    model: network.
    params: its weights.
    mode: 'dense' (all voxels of a tile at once) or 'patch' (each voxel by its own
      neighbourhood, the literal method and the oracle of 'dense').
    tile_yx: voxels of a tile.
    batch: voxels per batch of 'patch'.

  Returns:
    A function of an image [ty + 2 m, tx + 2 m, n_z], m = model.before_px, to scores
    [ty, tx] float32.
  """
  end = model.window_px - model.before_px - 1  # pixels read after the last voxel
  if mode == 'dense':
    @jax.jit
    def score_dense(weights, image_yxc):
      rows, columns = (t + model.before_px + end for t in tile_yx)
      logits = model.apply_dense(weights, image_yxc[None, :rows, :columns])
      return jax.nn.sigmoid(logits[0])
    return functools.partial(score_dense, params)

  corners = np.stack(np.meshgrid([0], *map(np.arange, tile_yx), indexing='ij'), -1)
  corners = corners.reshape(-1, 3).astype(np.int32)

  @jax.jit
  def score_batch(weights, image_yxc, corners_b3):
    windows = patches.gather_windows(image_yxc[None], corners_b3, model.window_px)
    return jax.nn.sigmoid(model.apply(weights, windows))

  def score_patches(image_yxc):
    image_yxc = jnp.asarray(image_yxc)
    scores = []
    for first in range(0, len(corners), batch):
      part = corners[first:first + batch]
      filled = np.resize(part, (min(batch, len(corners)), 3))
      scores.append(score_batch(params, image_yxc, filled)[:len(part)])
    return jnp.concatenate(scores).reshape(tile_yx)
  return score_patches


def score_volume(model: Model, params, source: Volume, out, *, mode: str = 'auto',
                 tile_px: int = 512, batch: int = 2048) -> Volume:
  """Scores every voxel of a volume; resumes an interrupted call.

  Args:
    model: network.
    params: its weights.
    source: prepared volume, [z, y, x].
    out: path of the score volume to make; returned as it is when it is complete.
    mode: 'auto' (dense), 'dense' or 'patch'.
    tile_px: largest computed tile in y and x.
    batch: voxels per batch of mode 'patch'.

  Raises:
    InputError: when a finished part belongs to other weights or another volume.
  """
  mode = 'dense' if mode == 'auto' else mode
  out = Path(out)
  fingerprint = {'weights': hash_params(params), 'source': _describe(source),
                 'shape_zyx': list(source.shape), 'mode': mode}
  partial = out.with_name(f'{out.name}.partial')
  manifest = out.with_name(f'{out.name}.manifest.jsonl')
  if out.exists():
    manifest.unlink(missing_ok=True)
    finished = open_volume(out)
    _check_manifest(out, finished.attributes, fingerprint)
    return finished
  done: set[tuple] = set()
  if partial.exists() and manifest.exists():
    found, done = _read_manifest(manifest)
    _check_manifest(manifest, found, fingerprint)
    target = open_volume(partial)
  else:
    manifest.unlink(missing_ok=True)
    shutil.rmtree(partial, ignore_errors=True)  # without a manifest it has no worth
    target = create_volume(partial, source.shape, np.float32, source.voxel_size_zyx_nm,
                           attributes=fingerprint, fill_value=None)
    workdir.write_text(manifest, json.dumps(fingerprint) + '\n')
  _score_shards(model, params, source, target, manifest, done, mode, tile_px, batch)
  os.replace(partial, out)
  manifest.unlink()
  return open_volume(out)


def _describe(source: Volume):
  """What tells one prepared volume from another: its record, else its path."""
  return source.attributes.get('preprocessing', str(source.path.resolve()))


def _read_manifest(manifest: Path) -> tuple[dict, set[tuple]]:
  """First line and finished shards; a line torn by a crash is dropped for good."""
  first, *rest = manifest.read_text(encoding='utf-8').splitlines()
  whole = []
  for line in rest:
    try:
      whole.append(tuple(json.loads(line)))
    except json.JSONDecodeError:
      break
  workdir.write_text(manifest, '\n'.join([first, *map(json.dumps, whole)]) + '\n')
  return json.loads(first), set(whole)


def hash_params(params) -> str:
  """Short hash of all weights."""
  digest = hashlib.sha256()
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    digest.update(jax.tree_util.keystr(path).encode())
    digest.update(np.asarray(leaf).tobytes())
  return digest.hexdigest()[:16]


def _check_manifest(name, found: dict, expected: dict) -> None:
  differing = {key: found.get(key) for key in expected
               if found.get(key) != expected[key]}
  if differing:
    raise InputError(str(name), got=f'parts made with {differing}',
                     expected={key: expected[key] for key in differing},
                     remedy='delete it, or go back to what it was made with')


def _score_shards(model, params, source, target, manifest, done, mode, tile_px, batch):
  _, height, width = source.shape
  shard_zyx = shard_shape(target)
  tile_yx = tuple(tile_side(min(shard, extent), tile_px, model.stride_px)
                  for shard, extent in zip(shard_zyx[1:], (height, width), strict=True))
  score_fn = make_score_fn(model, params, mode, tile_yx, batch)
  boxes = [box for box in geometry.tile_boxes(source.shape, shard_zyx)
           if tuple(box[0]) not in done]
  with (concurrent.futures.ThreadPoolExecutor(1) as reader,
        concurrent.futures.ThreadPoolExecutor(1) as writer,
        open(manifest, 'a', encoding='utf-8') as log):

    def read(box):
      # Tiles at the far faces are whole ones too, so they read beyond the volume.
      start, stop = geometry.grow(box, (model.n_z // 2, model.before_px,
                                        model.before_px))
      reach = (0, *((-(b - a)) % t for a, b, t in
                    zip(box[0][1:], box[1][1:], tile_yx, strict=True)))
      stop = tuple(b + r for b, r in zip(stop, reach, strict=True))
      return read_mirrored(source, start, stop)

    def write(box, scores_zyx):
      write_box(target, box[0], scores_zyx)
      log.write(json.dumps(box[0]) + '\n')
      log.flush()

    ahead = reader.submit(read, boxes[0]) if boxes else None
    behind = None
    for i, box in enumerate(progress.track(boxes, f'score {source.path.name}', 'shard',
                                           len(boxes))):
      block_zyx = ahead.result()
      if i + 1 < len(boxes):
        ahead = reader.submit(read, boxes[i + 1])
      scores_zyx = _score_block(score_fn, block_zyx, geometry.box_shape(box), tile_yx,
                                model)
      if behind is not None:
        behind.result()
      behind = writer.submit(write, box, scores_zyx)
    if behind is not None:
      behind.result()


def _score_block(score_fn, block_zyx, shape_zyx, tile_yx, model) -> np.ndarray:
  """Scores of one shard from its image with margins."""
  margin = 2 * model.before_px
  scores_zyx = np.empty(shape_zyx, np.float32)
  for z in range(shape_zyx[0]):
    image_yxc = np.moveaxis(block_zyx[z:z + model.n_z], 0, -1)
    for (y, x), (y_stop, x_stop) in geometry.tile_boxes(shape_zyx[1:], tile_yx):
      tile = score_fn(image_yxc[y:y + tile_yx[0] + margin, x:x + tile_yx[1] + margin])
      scores_zyx[z, y:y_stop, x:x_stop] = np.asarray(tile)[:y_stop - y, :x_stop - x]
  return scores_zyx
