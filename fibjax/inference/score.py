"""Scores of whole volumes: prepared volume -> score volume, shard by shard (shards.py).

A shard is read with the margin that the network sees, mirrored at the faces of the
volume (§1.9), and scored slice by slice in equal tiles as large as the memory allows.
A voxel's score does not depend on the tile: it has the same bits on one kind of device.
Scores are P(solid), float32. Several networks score in one pass, each tile read once:
their mean, its entropy H(mean p) and their mutual information H(mean p) - mean H(p)
are the channels of the score volume (§8.7).
"""
import functools
import math
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fibjax.errors import InputError
from fibjax.metrics import calibration
from fibjax.models import Model, make_model
from fibjax.models import windows as augment
from fibjax.models.params import hash_params
from fibjax.models.windows import gather_windows
from fibjax.system import devices, files, geometry
from fibjax.system.cluster import HERE, Resources
from fibjax.volumes import blockwise
from fibjax.volumes.blockwise import Steps
from fibjax.volumes.volume import Volume, open_volume, read_mirrored

CHANNELS = ('solid', 'entropy', 'mutual_information')  # nats
_SMALL_PX = 64  # smaller tiles are mostly margin
_BATCH = 2048  # voxels of mode 'patch' at once, if the memory allows (§1.9)


class Predictor(NamedTuple):
  """Networks that score a volume together.

  Attributes:
    models: one network, or several of any sizes.
    params: weights of each.
    dihedral: whether each score is the mean over the 8 symmetries of the square.
  """
  models: tuple[Model, ...]
  params: tuple
  dihedral: bool = False


def score_volume(predictor: Predictor, source: Volume, out, *, mode: str = 'auto',
                 resources: Resources = HERE, tile_px: int = 0) -> Volume:
  """Scores every voxel of a volume; resumes an interrupted call.

  Args:
    predictor: networks and weights.
    source: prepared volume, [z, y, x].
    out: path of the score volume to make; returned as it is when it is complete. For
      several networks its channels are CHANNELS.
    mode: 'auto' and 'dense' (all voxels of a tile at once) or 'patch' (each voxel by
      its own neighbourhood, the literal method and the oracle of 'dense').
    resources: where to work.
    tile_px: largest tile in y and x; 0: as large as resources.memory_gb allows.

  Raises:
    InputError: as `shards.make_volume`.
  """
  mode = 'dense' if mode == 'auto' else mode
  host = [jax.tree.map(np.asarray, params) for params in predictor.params]
  settings = [model.settings for model in predictor.models]
  fingerprint = {'weights': [hash_params(params) for params in host], 'model': settings,
                 'mode': mode, 'dihedral': predictor.dihedral,
                 'source': files.hash_files(source.path)}
  open_steps = functools.partial(_open_steps, settings, host, predictor.dihedral,
                                 source.path, mode, resources.memory_gb, tile_px)
  return blockwise.make_volume(out, source, np.float32, open_steps, fingerprint,
                            f'score {source.path.name}', resources,
                            channels=CHANNELS if len(host) > 1 else ())


def _open_steps(settings, params, dihedral: bool, path: Path, mode: str,
                memory_gb: float, tile_px: int) -> Steps:
  networks = [make_model(dict(one)) for one in settings]
  held = [devices.put_everywhere(one) for one in params]
  source = open_volume(path)
  largest = max(networks, key=lambda model: model.dense_bytes((_SMALL_PX,) * 2))
  stride = math.lcm(*(model.stride_px for model in networks))
  before, half = (max(getattr(model, name) for model in networks)
                  for name in ('before_px', 'n_z'))
  half //= 2

  @functools.cache
  def tile_of(extent_yx):
    if tile_px or mode == 'patch':
      tile_yx = tuple(tile_side(e, tile_px or e, stride) for e in extent_yx)
      return (min(tile_yx),) * 2 if dihedral else tile_yx
    return choose_tile(extent_yx, largest, memory_gb, stride, square=dihedral)

  @functools.cache
  def score_fn(k: int, tile_yx):
    same = settings.index(settings[k])
    if same != k:
      return score_fn(same, tile_yx)
    model = networks[k]
    patches_held = memory_gb * 1e9 / devices.count_in_work() / model.patch_bytes
    batch = max(1, min(_BATCH, int(patches_held)))
    return make_score_fn(model, mode, tile_yx, batch, dihedral)

  def covering(box):
    """Extent of the whole tiles that cover a box."""
    depth, *extent_yx = geometry.box_shape(box)
    return (depth, *(-(-extent // tile) * tile for extent, tile in
                     zip(extent_yx, tile_of(tuple(extent_yx)), strict=True)))

  def read(box):
    tile_yx = tile_of(geometry.box_shape(box)[1:])
    depth, *extent_yx = covering(box)
    start = [a - b for a, b in zip(box[0], (half, before, before), strict=True)]
    sides = [extent - tile + max(
        before - model.before_px + model.image_px(tile, dihedral) for model in networks)
             for extent, tile in zip(extent_yx, tile_yx, strict=True)]
    stop = [a + n for a, n in zip(start, (depth + 2 * half, *sides), strict=True)]
    return read_mirrored(source, start, stop)

  def compute(box, block_zyx):
    shape_zyx = geometry.box_shape(box)
    tile_yx, whole = tile_of(shape_zyx[1:]), covering(box)
    starts = [start for start, _ in geometry.tile_boxes(whole, (1, *tile_yx))]
    several = len(networks) > 1
    sums = np.zeros((1 + several, *whole), np.float32)  # scores, their entropies
    for k, model in enumerate(networks):
      top, left = half - model.n_z // 2, before - model.before_px
      rows, columns = (model.image_px(tile, dihedral) for tile in tile_yx)
      images = (np.moveaxis(block_zyx[
          top + z:top + z + model.n_z, left + y:left + y + rows,
          left + x:left + x + columns], 0, -1) for z, y, x in starts)
      found = score_fn(k, tile_yx)(held[k], images)
      for (z, y, x), score_yx in zip(starts, found, strict=True):
        where = z, slice(y, y + tile_yx[0]), slice(x, x + tile_yx[1])
        sums[(0, *where)] += score_yx
        if several:
          sums[(1, *where)] += calibration.binary_entropy(score_yx)
    sums = sums[..., :shape_zyx[1], :shape_zyx[2]]
    if not several:
      return np.ascontiguousarray(sums[0])
    mean, expected = sums / np.float32(len(networks))
    entropy = calibration.binary_entropy(mean).astype(np.float32)
    return np.stack([mean, entropy, np.maximum(entropy - expected, 0)])

  return Steps(read, compute)


def tile_side(extent_px: int, largest_px: int, stride_px: int) -> int:
  """Side of equal tiles, a multiple of the stride, that cover an extent."""
  count = math.ceil(extent_px / largest_px)
  return math.ceil(extent_px / count / stride_px) * stride_px


def choose_tile(extent_yx, model: Model, memory_gb: float, stride_px: int = 0,
                square: bool = False) -> tuple[int, int]:
  """Fewest equal tiles of a shard that fit the memory; they stay about square.

  Args:
    extent_yx: of the shard, voxels.
    model: network.
    memory_gb: for all tiles in work on one device, 10^9 bytes.
    stride_px: the sides are multiples of it; 0: of the model's.
    square: whether both sides must be equal.

  Raises:
    InputError: when not even a small tile fits.
  """
  stride_px = stride_px or model.stride_px

  def needed_gb(tile_yx):
    return devices.count_in_work() * model.dense_bytes(tile_yx) / 1e9

  tile_yx = tuple(tile_side(e, e, stride_px) for e in extent_yx)
  if square:
    tile_yx = (min(tile_yx),) * 2
  while needed_gb(tile_yx) > memory_gb:
    if max(tile_yx) <= max(_SMALL_PX, stride_px):
      raise InputError('--memory_gb', got=memory_gb,
                       expected=f'at least {needed_gb(tile_yx):.2f} for this network',
                       remedy='raise it')
    axis = int(tile_yx[1] > tile_yx[0])
    side = tile_side(tile_yx[axis], math.ceil(tile_yx[axis] / 2), stride_px)
    tile_yx = (side, tile_yx[1]) if axis == 0 else (tile_yx[0], side)
    if square:
      tile_yx = (side, side)
  return tile_yx


def make_score_fn(model: Model, mode: str, tile_yx: tuple[int, int], batch: int,
                  dihedral: bool = False):
  """Builds (weights, images) -> scores for tiles of one size.

  Args:
    model: network.
    mode: 'dense' or 'patch', as for `score_volume`.
    tile_yx: voxels of a tile; a square for dihedral.
    batch: voxels per batch of 'patch'.
    dihedral: as for Predictor.

  Returns:
    A function of weights of `parallel.put_everywhere` and images [image_px(ty),
    image_px(tx), n_z] to their scores [ty, tx] float32, as `parallel.map_images`.
  """
  if mode == 'dense':
    def score(weights, image_yxc):
      return jax.nn.sigmoid(model.apply_dense(weights, image_yxc[None],
                                              out_yx=tile_yx)[0])
  else:
    score = _score_patches(model, tile_yx, batch)
  if not dihedral:
    return devices.map_images(score)
  side = tile_yx[0] + 2 * model.before_px  # the same margin on all sides
  fill = model.image_px(tile_yx[0]) - side

  def score_all(weights, image_yxc):
    def one(total, transform):
      image = augment.dihedral(image_yxc[:side, :side], transform)
      if fill > 0:
        image = jnp.pad(image, ((0, fill), (0, fill), (0, 0)))  # read by no voxel
      scored = score(weights, image)
      return total + augment.undo_dihedral(scored, transform), None
    total, _ = jax.lax.scan(one, jnp.zeros(tile_yx), jnp.arange(8))
    return total / 8
  return devices.map_images(score_all)


def _score_patches(model: Model, tile_yx, batch: int):
  corners = np.stack(np.meshgrid([0], *map(np.arange, tile_yx), indexing='ij'), -1)
  corners = corners.reshape(-1, 3).astype(np.int32)
  batches = math.ceil(len(corners) / batch)
  corners_nb3 = np.resize(corners, (batches, min(batch, len(corners)), 3))

  def score(weights, image_yxc):
    def score_batch(corners_b3):
      windows = gather_windows(image_yxc[None], corners_b3, model.window_px)
      return jax.nn.sigmoid(model.apply(weights, windows))
    scores = jax.lax.map(score_batch, corners_nb3)
    return scores.reshape(-1)[:len(corners)].reshape(tile_yx)
  return score


