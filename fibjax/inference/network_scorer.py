"""Networks as a `Scorer`: whole tiles at once, or each voxel by itself.

A block is scored slice by slice in equal tiles, as large as the memory allows. Several
networks score in one pass, each block read once: their mean, its entropy H(mean p) and
their mutual information H(mean p) - mean H(p) are the channels of the score (§8.7).
"""
import functools
import json
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from fibjax import models
from fibjax.errors import InputError
from fibjax.inference.score import BlockScorer, Scorer
from fibjax.metrics import calibration
from fibjax.models import Model
from fibjax.models.params import hash_params
from fibjax.models.windows import dihedral as turn
from fibjax.models.windows import gather_windows, undo_dihedral
from fibjax.system import devices, geometry

CHANNELS = ('solid', 'entropy', 'mutual_information')  # entropies in nats
_SMALL_PX = 64  # smaller tiles are mostly margin


def network_scorer(networks: Sequence[Model], params: Sequence, *,
                   dihedral: bool = False, mode: str = 'auto',
                   tile_px: int = 0, batch: int = 2048) -> Scorer:
  """Makes a scorer of one network, or of an ensemble of networks of any sizes.

  Args:
    networks: the networks.
    params: weights of each; the same twice count twice, and are scored once.
    dihedral: whether each score is the mean over the 8 symmetries of the square.
    mode: 'auto' and 'dense' (all voxels of a tile at once) or 'patch' (each voxel by
      its own neighbourhood, the literal method and the oracle of 'dense').
    tile_px: largest tile in y and x; 0: as large as the memory allows.
    batch: voxels of mode 'patch' at once, if the memory allows (§1.9).

  Returns:
    A scorer; with several networks its channels are CHANNELS.
  """
  mode = 'dense' if mode == 'auto' else mode
  params = [jax.tree.map(np.asarray, weights) for weights in params]
  settings = [network.settings for network in networks]
  hashes = [hash_params(weights) for weights in params]
  # A member that is listed several times is scored once, and counts as often.
  members = list(zip(hashes, settings, strict=True))
  first = [members.index(member) for member in members]
  counts = {k: first.count(k) for k in first}
  n_z, window_px = (max(getattr(network, name) for network in networks)
                    for name in ('n_z', 'window_px'))
  return Scorer(
      window_zyx=(n_z, window_px, window_px),
      channels=CHANNELS if len(networks) > 1 else (),
      fingerprint={'weights': hashes, 'model': settings, 'mode': mode,
                   'dihedral': dihedral},
      open=functools.partial(_open, [settings[k] for k in counts],
                             [params[k] for k in counts], tuple(counts.values()),
                             dihedral, mode, tile_px, batch))


def _open(settings, params, counts: tuple[int, ...], dihedral: bool, mode: str,
          tile_px: int, batch: int, memory_gb: float) -> BlockScorer:
  networks = [models.make_model(dict(one)) for one in settings]
  weights = [devices.put_everywhere(one) for one in params]
  largest = max(networks, key=lambda network: network.dense_bytes((_SMALL_PX,) * 2))
  stride = math.lcm(*(network.stride_px for network in networks))
  before = max(network.before_px for network in networks)
  half = max(network.n_z for network in networks) // 2

  @functools.cache
  def tile_of(extent_yx):
    if tile_px or mode == 'patch':
      tile_yx = tuple(tile_side(e, tile_px or e, stride) for e in extent_yx)
      return (min(tile_yx),) * 2 if dihedral else tile_yx
    return choose_tile(extent_yx, largest, memory_gb, stride, square=dihedral)

  def program(network: Model, tile_yx):
    patches = memory_gb * 1e9 / devices.count_in_work() / network.patch_bytes
    return _score_program(json.dumps(network.settings, sort_keys=True), mode, tile_yx,
                          max(1, min(batch, int(patches))), dihedral,
                          len(jax.local_devices()))

  def covering(shape_zyx):
    """Extent of the whole tiles that cover a block."""
    depth, *extent_yx = shape_zyx
    return (depth, *(-(-extent // tile) * tile for extent, tile in
                     zip(extent_yx, tile_of(tuple(extent_yx)), strict=True)))

  def reads(box):
    # Whole tiles are computed, so that the last ones read beyond the block. These
    # pixels belong to the image (or its mirror image), never to a fill value: the
    # networks' filters mix neighbouring voxels, and no bit may depend on the block.
    shape_zyx = geometry.box_shape(box)
    tile_yx = tile_of(shape_zyx[1:])
    depth, *extent_yx = covering(shape_zyx)
    start = [a - b for a, b in zip(box[0], (half, before, before), strict=True)]
    sides = [extent - tile + max(
        before - network.before_px + network.image_px(tile, dihedral)
        for network in networks)
             for extent, tile in zip(extent_yx, tile_yx, strict=True)]
    stop = [a + n for a, n in zip(start, (depth + 2 * half, *sides), strict=True)]
    return tuple(start), tuple(stop)

  def score(shape_zyx, image_zyx):
    tile_yx, whole = tile_of(tuple(shape_zyx[1:])), covering(shape_zyx)
    starts = [start for start, _ in geometry.tile_boxes(whole, (1, *tile_yx))]
    several = sum(counts) > 1
    sums = np.zeros((1 + several, *whole), np.float32)  # scores, their entropies
    for network, network_weights, count in zip(networks, weights, counts, strict=True):
      top, left = half - network.n_z // 2, before - network.before_px
      rows, columns = (network.image_px(tile, dihedral) for tile in tile_yx)
      images = (np.moveaxis(image_zyx[
          top + z:top + z + network.n_z, left + y:left + y + rows,
          left + x:left + x + columns], 0, -1) for z, y, x in starts)
      scores = program(network, tile_yx)(network_weights, images)
      for (z, y, x), score_yx in zip(starts, scores, strict=True):
        where = z, slice(y, y + tile_yx[0]), slice(x, x + tile_yx[1])
        sums[(0, *where)] += np.float32(count) * score_yx
        if several:
          sums[(1, *where)] += np.float32(count) * calibration.binary_entropy(score_yx)
    sums = sums[..., :shape_zyx[1], :shape_zyx[2]]
    if not several:
      return np.ascontiguousarray(sums[0])
    mean, expected = sums / np.float32(sum(counts))
    entropy = calibration.binary_entropy(mean).astype(np.float32)
    return np.stack([mean, entropy, np.maximum(entropy - expected, 0)])

  return BlockScorer(reads, score)


@functools.lru_cache(32)
def _score_program(settings: str, mode: str, tile_yx, batch: int, dihedral: bool,
                   device_count: int) -> Callable:
  """The program of the network with these settings (JSON), shared by its members."""
  del device_count  # part of the key: the program is compiled for so many
  return make_score_fn(models.make_model(json.loads(settings)), mode, tile_yx, batch,
                       dihedral)


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
    mode: 'dense' or 'patch', as for `network_scorer`.
    tile_yx: voxels of a tile; a square for dihedral.
    batch: voxels per batch of 'patch'.
    dihedral: as for `network_scorer`.

  Returns:
    A function of weights of `devices.put_everywhere` and images [image_px(ty),
    image_px(tx), n_z] to their scores [ty, tx] float32, as `devices.map_images`.
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
      image = turn(image_yxc[:side, :side], transform)
      if fill > 0:
        image = jnp.pad(image, ((0, fill), (0, fill), (0, 0)))  # read by no voxel
      scored = score(weights, image)
      return total + undo_dihedral(scored, transform), None
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
