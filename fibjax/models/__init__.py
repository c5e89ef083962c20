"""Networks behind one door: `make_model(config.model) -> Model`.

A model is a pair of pure functions and the numbers a caller needs to cut its input.
Weights are nested dicts of arrays; nothing is mutable and nothing is hidden. Beside
the layers a dict holds 'input', the grey value mean and standard deviation that every
image is standardised with; they are constants of a training (0 and 1 for the published
network) and no weights. So are the running statistics of a batch normalisation.
"""
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fibjax.errors import InputError
from fibjax.models import conv, dense, exact, patch_cnn, resunet, unet
from fibjax.models.layers import NORMS, STATISTICS, margin_px
from fibjax.models.patch_cnn import Dropout

NAMES = ('patch_cnn', 'resunet', 'unet')
_INPUT = 'input'
_STATISTICS = STATISTICS
_UNET_MAPS = 14  # maps of base channels at full resolution held at once (12 measured)

__all__ = ['NAMES', 'Dropout', 'Model', 'count_weights', 'empty_params', 'make_model']


class Model(NamedTuple):
  """A network as pure functions.

  Attributes:
    init: (key, mean=0, deviation=1) -> params.
    apply: (params, patches_byxc, dropout=None) -> logits_b, one neighbourhood each.
    apply_dense: (params, window_byxc, dropout=None, out_yx=None) -> logits_byx, all
      voxels of a window or its first (ty, tx), the same numbers as apply (of a U-Net
      for windows that start at the same place in its cells of 2^depth pixels); only
      free of padding a patch_cnn takes dropout.
    n_z: number of slices (channels) read, centred on the voxel's slice.
    window_px: side of the window read for one voxel.
    before_px: pixels of that window before its voxel.
    stride_px: apply_dense is best given multiples of this many voxels.
    dense_px: t -> side of the window apply_dense is best given for t voxels.
    dense_bytes: (ty, tx) -> about what apply_dense needs for so many voxels.
    patch_bytes: about what apply needs for one voxel.
    settings: config.model, from which make_model builds the same network.
    follow: (params, window_byxc, dropout) -> params with the statistics of batch
      normalisation moved towards those of the windows; None for networks without.
  """
  init: Callable
  apply: Callable
  apply_dense: Callable
  n_z: int
  window_px: int
  before_px: int
  stride_px: int
  dense_px: Callable
  dense_bytes: Callable
  patch_bytes: int
  settings: dict
  follow: Callable | None = None

  def image_px(self, out_px: int, symmetric: bool = False) -> int:
    """Side of the image to cut for out_px voxels, before_px pixels before the first.

    Args:
      out_px: voxels.
      symmetric: whether before_px pixels are wanted after the last one too.
    """
    return max(self.dense_px(out_px), symmetric * (out_px + 2 * self.before_px))


def make_model(config) -> Model:
  """Builds the network of config.model.

  Args:
    config: mapping of name and n_z (odd, 1..11), and for 'patch_cnn' n_xy (33, 49, ...
      113) and padding ('same' or 'context'), for 'resunet' and 'unet' base, depth and
      norm.

  Raises:
    InputError: for an unknown name, size, padding or norm.
  """
  _check_known(config, 'name', NAMES)
  _check_known(config, 'n_z', patch_cnn.SIZES_Z)
  return (_make_patch_cnn if config['name'] == NAMES[0] else _make_unet)(config)


def _check_known(config, key: str, known: tuple) -> None:
  if config[key] not in known:
    raise InputError(f'config.model.{key}', got=repr(config[key]),
                     expected=f'one of {known}', remedy='choose one of these')


def _make_patch_cnn(config) -> Model:
  _check_known(config, 'n_xy', patch_cnn.SIZES_XY)
  _check_known(config, 'padding', ('same', 'context'))
  cells = config['n_xy'] // 16
  n_z, padding = config['n_z'], config['padding']
  window = patch_cnn.window_px(config['n_xy'], padding)
  module = patch_cnn.PatchCNN(cells=cells, padding=padding)

  def init(key, mean=0., deviation=1.):
    layers = module.init(key, jnp.zeros((1, window, window, n_z)))['params']
    return _with_input(layers, mean, deviation)

  def apply(params, patches_byxc, dropout: Dropout | None = None):
    return module.apply({'params': params}, _standardise(params, patches_byxc), dropout)

  def apply_context(params, window_byxc, dropout: Dropout | None = None, out_yx=None):
    return dense.apply_dense(params, _standardise(params, window_byxc), cells, dropout,
                             out_yx)

  def apply_slots(params, window_byxc, dropout: None = None, out_yx=None):
    if dropout is not None:
      raise ValueError('a zero-padded network is trained by single voxels')
    return exact.apply_exact(params, _standardise(params, window_byxc), cells, out_yx)

  def aligned_px(out_px):
    return dense.plan_extents(cells, out_px, conv.BLOCK)[0]

  def smallest_px(out_px):
    return out_px + window - 1

  fast, apply_dense, dense_px, stride_px = (
      (dense, apply_context, aligned_px, dense.STRIDE * conv.BLOCK)
      if padding == 'context' else (exact, apply_slots, smallest_px, exact.BOX_PX))

  def dense_bytes(tile_yx):
    return fast.count_bytes(cells, math.prod(map(dense_px, tile_yx)))

  return Model(init=init, apply=apply, apply_dense=apply_dense, n_z=n_z,
               window_px=window,
               before_px=patch_cnn.window_before_px(config['n_xy'], padding),
               stride_px=stride_px, dense_px=dense_px, dense_bytes=dense_bytes,
               patch_bytes=4 * window ** 2 * (n_z + 2 * patch_cnn.WIDTHS[0]),
               settings=dict(config))


def _make_unet(config) -> Model:
  """A U-Net with the margin that holds all a voxel sees, cut off after evaluation."""
  _check_known(config, 'norm', NORMS)
  for key, most in (('base', 256), ('depth', 6)):
    if not 1 <= config[key] <= most:
      raise InputError(f'config.model.{key}', got=config[key], expected=f'1 to {most}',
                       remedy='choose one of these')
  base, depth, n_z = config['base'], config['depth'], config['n_z']
  network, reach = {'resunet': (resunet.ResUNet, resunet.reach_px),
                    'unet': (unet.UNet, unet.reach_px)}[config['name']]
  module = network(base=base, depth=depth, norm=config['norm'])
  cell = 2 ** depth
  margin = margin_px(reach(depth), depth)
  window = 2 * margin + 1

  def init(key, mean=0., deviation=1.):
    found = module.init(key, jnp.zeros((1, cell, cell, n_z)))
    return _with_input(found['params'], mean, deviation) | (
        {_STATISTICS: found[_STATISTICS]} if _STATISTICS in found else {})

  def evaluate(params, window_byxc, dropout, mutable):
    missing = [(0, -n % cell) for n in window_byxc.shape[1:3]]  # no voxel sees it
    images = jnp.pad(_standardise(params, window_byxc), ((0, 0), *missing, (0, 0)))
    variables = {'params': params}
    if _STATISTICS in params:
      variables[_STATISTICS] = jax.lax.stop_gradient(params[_STATISTICS])
    return module.apply(variables, images, dropout, mutable=mutable)

  def apply_dense(params, window_byxc, dropout: Dropout | None = None, out_yx=None):
    values = evaluate(params, window_byxc, dropout, False)
    rows, columns = out_yx or (n - 2 * margin for n in window_byxc.shape[1:3])
    inside = values[:, margin:margin + rows, margin:margin + columns]
    return inside[..., 1] - inside[..., 0]

  def apply(params, patches_byxc, dropout: Dropout | None = None):
    return apply_dense(params, patches_byxc, dropout, (1, 1))[:, 0, 0]

  def follow(params, window_byxc, dropout: Dropout):
    _, found = evaluate(params, window_byxc, dropout, [_STATISTICS])
    return params | {_STATISTICS: found[_STATISTICS]}

  def dense_px(out_px):
    return math.ceil(out_px / cell) * cell + 2 * margin

  def dense_bytes(tile_yx):
    return _UNET_MAPS * 4 * base * math.prod(map(dense_px, tile_yx))

  return Model(init=init, apply=apply, apply_dense=apply_dense, n_z=n_z,
               window_px=window, before_px=margin, stride_px=cell, dense_px=dense_px,
               dense_bytes=dense_bytes, patch_bytes=_UNET_MAPS * 4 * base * window ** 2,
               settings=dict(config),
               follow=follow if config['norm'] == 'batch' else None)


def _with_input(weights, mean, deviation) -> dict:
  return {_INPUT: {'mean': jnp.float32(mean), 'deviation': jnp.float32(deviation)},
          **weights}


def _standardise(params, images: jax.Array) -> jax.Array:
  fixed = jax.lax.stop_gradient(params[_INPUT])
  return (images - fixed['mean']) / fixed['deviation']


def empty_params(model: Model, *leading: int) -> dict:
  """Zeros in the place of all weights, with further leading axes if wanted."""
  shapes = jax.eval_shape(model.init, jax.random.key(0))
  return jax.tree.map(lambda leaf: np.zeros((*leading, *leaf.shape), leaf.dtype),
                      shapes)


def count_weights(params) -> int:
  """Number of weights, biases included; constants and statistics are none."""
  weights = {name: layer for name, layer in params.items()
             if name not in (_INPUT, _STATISTICS)}
  return sum(leaf.size for leaf in jax.tree.leaves(weights))
