"""Scores of whole volumes: prepared volume -> score volume, shard by shard (shards.py).

A shard is read with the margin that the network sees, mirrored at the faces of the
volume (§1.9), and scored slice by slice in equal tiles as large as the memory allows.
A voxel's score does not depend on the tile: it has the same bits on one kind of device.
Scores are P(solid), float32.
"""
import functools
import hashlib
import math
from pathlib import Path

import jax
import numpy as np

from fibjax import geometry, models, parallel, patches, shards, workdir
from fibjax.checks import InputError
from fibjax.cluster import HERE, Resources
from fibjax.data import volume as volumes
from fibjax.data.volume import Volume, read_mirrored
from fibjax.models import Model
from fibjax.shards import Steps

_SMALL_PX = 64  # smaller tiles are mostly margin
_BATCH = 2048  # voxels of mode 'patch' at once, if the memory allows (§1.9)


def score_volume(model: Model, params, source: Volume, out, *, mode: str = 'auto',
                 resources: Resources = HERE, tile_px: int = 0) -> Volume:
  """Scores every voxel of a volume; resumes an interrupted call.

  Args:
    model: network.
    params: its weights.
    source: prepared volume, [z, y, x].
    out: path of the score volume to make; returned as it is when it is complete.
    mode: 'auto' and 'dense' (all voxels of a tile at once) or 'patch' (each voxel by
      its own neighbourhood, the literal method and the oracle of 'dense').
    resources: where to work.
    tile_px: largest tile in y and x; 0: as large as resources.memory_gb allows.

  Raises:
    InputError: as `shards.make_volume`.
  """
  mode = 'dense' if mode == 'auto' else mode
  host = jax.tree.map(np.asarray, params)
  fingerprint = {'weights': hash_params(host), 'model': model.settings, 'mode': mode,
                 'source': workdir.hash_files(source.path)}
  open_steps = functools.partial(_open_steps, model.settings, host,
                                 source.path, mode, resources.memory_gb, tile_px)
  return shards.make_volume(out, source, np.float32, open_steps, fingerprint,
                            f'score {source.path.name}', resources)


def _open_steps(settings: dict, params, path: Path, mode: str, memory_gb: float,
                tile_px: int) -> Steps:
  model = models.make_model(settings)
  source = volumes.open_volume(path)
  patches_held = memory_gb * 1e9 / parallel.count_in_work() / model.patch_bytes
  batch = max(1, min(_BATCH, int(patches_held)))
  score_fns = {}

  def tile_of(shape_zyx):
    extent = shape_zyx[1:]
    if tile_px:
      return tuple(tile_side(e, tile_px, model.stride_px) for e in extent)
    return choose_tile(extent, model, memory_gb if mode == 'dense' else math.inf)

  def covering(box):
    """Extent of the whole tiles that cover a box."""
    shape_zyx = geometry.box_shape(box)
    return (shape_zyx[0], *(-(-extent // tile) * tile for extent, tile in
                            zip(shape_zyx[1:], tile_of(shape_zyx), strict=True)))

  def read(box):
    tile_yx, half = tile_of(geometry.box_shape(box)), model.n_z // 2
    depth, *extent_yx = covering(box)
    start = [a - before for a, before in
             zip(box[0], (half, model.before_px, model.before_px), strict=True)]
    sides = [extent - tile + model.dense_px(tile)
             for extent, tile in zip(extent_yx, tile_yx, strict=True)]
    stop = [a + n for a, n in zip(start, (depth + 2 * half, *sides), strict=True)]
    return read_mirrored(source, start, stop)

  def compute(box, block_zyx):
    shape_zyx = geometry.box_shape(box)
    tile_yx = tile_of(shape_zyx)
    if tile_yx not in score_fns:
      score_fns[tile_yx] = make_score_fn(model, params, mode, tile_yx, batch)
    rows, columns = map(model.dense_px, tile_yx)
    scores_zyx = np.empty(covering(box), np.float32)
    starts = [start for start, _ in
              geometry.tile_boxes(scores_zyx.shape, (1, *tile_yx))]
    images = (np.moveaxis(block_zyx[z:z + model.n_z, y:y + rows, x:x + columns], 0, -1)
              for z, y, x in starts)
    for (z, y, x), score_yx in zip(starts, score_fns[tile_yx](images), strict=True):
      scores_zyx[z, y:y + tile_yx[0], x:x + tile_yx[1]] = score_yx
    return np.ascontiguousarray(scores_zyx[:, :shape_zyx[1], :shape_zyx[2]])

  return Steps(read, compute)


def tile_side(extent_px: int, largest_px: int, stride_px: int) -> int:
  """Side of equal tiles, a multiple of the stride, that cover an extent."""
  count = math.ceil(extent_px / largest_px)
  return math.ceil(extent_px / count / stride_px) * stride_px


def choose_tile(extent_yx, model: Model, memory_gb: float) -> tuple[int, int]:
  """Fewest equal tiles of a shard that fit the memory; they stay about square.

  Args:
    extent_yx: of the shard, voxels.
    model: network.
    memory_gb: for all tiles in work on one device, 10^9 bytes.

  Raises:
    InputError: when not even a small tile fits.
  """
  def needed_gb(tile_yx):
    return parallel.count_in_work() * model.dense_bytes(tile_yx) / 1e9

  tile_yx = tuple(tile_side(e, e, model.stride_px) for e in extent_yx)
  while needed_gb(tile_yx) > memory_gb:
    if max(tile_yx) <= _SMALL_PX:
      raise InputError('--memory_gb', got=memory_gb,
                       expected=f'at least {needed_gb(tile_yx):.2f} for this network',
                       remedy='raise it')
    axis = int(tile_yx[1] > tile_yx[0])
    side = tile_side(tile_yx[axis], math.ceil(tile_yx[axis] / 2), model.stride_px)
    tile_yx = (side, tile_yx[1]) if axis == 0 else (tile_yx[0], side)
  return tile_yx


def make_score_fn(model: Model, params, mode: str, tile_yx: tuple[int, int],
                  batch: int):
  """Builds images -> scores for tiles of one size.

  Args:
    model: network.
    params: its weights.
    mode: 'dense' or 'patch', as for `score_volume`.
    tile_yx: voxels of a tile.
    batch: voxels per batch of 'patch'.

  Returns:
    A function of images [model.dense_px(ty), model.dense_px(tx), n_z] to their scores
    [ty, tx] float32, as `parallel.map_images`.
  """
  if mode == 'dense':
    def score(weights, image_yxc):
      return jax.nn.sigmoid(model.apply_dense(weights, image_yxc[None],
                                              out_yx=tile_yx)[0])
    return parallel.map_images(score, params)

  corners = np.stack(np.meshgrid([0], *map(np.arange, tile_yx), indexing='ij'), -1)
  corners = corners.reshape(-1, 3).astype(np.int32)
  batches = math.ceil(len(corners) / batch)
  corners_nb3 = np.resize(corners, (batches, min(batch, len(corners)), 3))

  def score_patches(weights, image_yxc):
    def score_batch(corners_b3):
      windows = patches.gather_windows(image_yxc[None], corners_b3, model.window_px)
      return jax.nn.sigmoid(model.apply(weights, windows))
    scores = jax.lax.map(score_batch, corners_nb3)
    return scores.reshape(-1)[:len(corners)].reshape(tile_yx)
  return parallel.map_images(score_patches, params)


def hash_params(params) -> str:
  """Short hash of all weights."""
  digest = hashlib.sha256()
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    digest.update(jax.tree_util.keystr(path).encode())
    digest.update(np.asarray(leaf).tobytes())
  return digest.hexdigest()[:16]
