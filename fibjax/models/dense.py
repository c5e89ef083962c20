"""Dense evaluation of context networks: all voxels of a window at once.

Neighbouring voxels share almost all of their convolutions. At full resolution, with
the taps of block k 2^(k-1) pixels apart and every pooling a maximum over two pixels so
far apart (Li et al. 2014; the same arithmetic as the max-pooling fragments of Giusti
et al. 2013, without moving data), each shared value is computed once: about 0.69 MMAC
per voxel at (113, 3) instead of 142 (§9.4), with the same numbers as one patch per
voxel. The network must be free of padding (patch_cnn 'context'): zeros around each
patch make values depend on where it begins (models/exact.py).

A window of 16 n + 59 + t pixels gives t x t logits, for any t.
"""
import functools

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from fibjax.models import coarse_path, conv
from fibjax.models.dropout import Dropout, drop
from fibjax.models.patch_cnn import CONTEXT_PX, HIDDEN, WIDTHS

STRIDE = 2 ** len(WIDTHS)  # pixels between two cells of the dense layers


def window_px(cells: int, out_px: int) -> int:
  """Side of the window that gives out_px x out_px logits."""
  return STRIDE * cells + 2 * CONTEXT_PX - 1 + out_px


def count_bytes(cells: int, window_px2: int) -> int:
  """Memory for a window of so many pixels: its widest maps and a strip (measured)."""
  return 7 * WIDTHS[-1] * window_px2 + 17_000_000 * (cells + 2)


def plan_extents(cells: int, out_px: int, block: int = 1) -> tuple[int, ...]:
  """Extents along one axis: of the window, each convolution's result and the logits.

  Args:
    cells: n of n_xy = 16 n + 1.
    out_px: logits wanted.
    block: each result is a multiple of block times its dilation, so that minimal
      filtering sees whole blocks of real pixels; 1: as small as possible.
  """
  # From the logits back to the window: each layer needs what the next one reads.
  extents, step = [], STRIDE
  needed = out_px
  for taps in (cells, *(3,) * 2 * len(WIDTHS)):
    multiple = block * step if block > 1 else 1
    extents.append(-(-needed // multiple) * multiple)
    needed = extents[-1] + step * (taps - 1)
    if len(extents) % 2:  # the layer before this one is followed by a pooling
      step //= 2
      needed += step
  return (needed - step, *reversed(extents))


def apply_dense(params, window_byxc: jax.Array, cells: int,
                dropout: Dropout | None = None,
                out_yx: tuple[int, int] | None = None) -> jax.Array:
  """Logits of all voxels of a window.

  Args:
    params: weights of a context PatchCNN.
    window_byxc: [b, y, x, n_z] images, y >= 16 cells + 59 + ty, x likewise. Logit
      (0, 0) belongs to voxel (8 cells + 30, 8 cells + 30). With a coarse path, 92 px
      more on every side.
    cells: n of n_xy = 16 n + 1.
    dropout: None outside training. A channel is dropped for a whole image, an element
      of a dense layer per voxel.
    out_yx: (ty, tx) logits wanted, computed the way that is best for large windows;
      None: as many as the window gives, the way that is best for small ones. With
      multiples of 64, and a window as large as plan_extents(cells, t, conv.BLOCK), the
      bits of a logit do not depend on the rest of the window.

  Returns:
    [b, ty, tx] logits.
  """
  far = None
  if coarse_path.names()[0] in params:
    far = coarse_path.apply_coarse(params, window_byxc)
    window_byxc = coarse_path.crop_to_fine(window_byxc)
  layer_of = conv.filtered_layer
  if out_yx is None:
    layer_of = conv.whole_layer
    out_yx = tuple(n - window_px(cells, 0) for n in window_byxc.shape[1:3])
  fits = [plan_extents(cells, t, conv.BLOCK) for t in out_yx]
  if any(n < fit[0] for n, fit in zip(window_byxc.shape[1:3], fits, strict=True)):
    fits = [plan_extents(cells, t) for t in out_yx]
  extents = list(zip(*fits, strict=True))[1:]
  # The pooling after block k is split: its maximum along x is taken with the layer
  # before it, along y with the layer after it, where rows are read anyway.
  maps, step = window_byxc, 1
  for block in range(1, len(WIDTHS) + 1):
    for part in 'ab':
      maps = layer_of(
          _after(step if part == 'b' else 0), step, step // 2 if part == 'a' else 0,
          extents.pop(0), params[f'conv{block}{part}'], maps)
    step *= 2
  if far is not None:
    maps = jnp.concatenate([maps, _pooled_along_x(
        far[:, :maps.shape[1]], step // 2)[:, :, :maps.shape[2]]], -1)
  # The first dense layer is a convolution of n x n taps, 16 pixels apart.
  kernel = params['fc1']['kernel'].reshape(cells, cells, -1, HIDDEN[0])
  weights = {'kernel': kernel, 'params': {k: params[k] for k in ('fc1', 'fc2', 'out')}}
  head = _head
  if dropout is not None:
    spatial_key, dense_key = jax.random.split(dropout.key)
    maps *= drop(spatial_key, jnp.ones(()), dropout.spatial,
                 (maps.shape[0], 1, 1, maps.shape[3]))
    head = functools.partial(_head, dropout=dropout._replace(key=dense_key))
  logits = layer_of(head, step, step // 2, extents.pop(0), weights, maps)
  return logits[:, :out_yx[0], :out_yx[1], 0]


@functools.cache
def _after(pooled: int):
  """Bias, ELU, and the maximum along x of a pooling; the next layer takes that along y.

  Cached: `conv.filtered_layer` compares functions by identity, so a new one per call
  would compile again.
  """
  def after(weights, maps_byxc):
    maps = nn.elu(maps_byxc + weights['bias'][None, None, None])
    return _pooled_along_x(maps, pooled) if pooled else maps
  return after


def _pooled_along_x(maps_byxc, step: int):
  return jnp.maximum(maps_byxc[:, :, :-step], maps_byxc[:, :, step:])


def _head(weights, hidden, dropout: Dropout | None = None):
  """The dense layers after the first one's products: one logit, [b, y, x, 1]."""
  layers = weights['params']
  for i in range(len(HIDDEN)):
    layer = layers[f'fc{i + 1}']
    if i:
      hidden = lax.dot_general(hidden, layer['kernel'], (((3,), (0,)), ((), ())))
    hidden = nn.elu(hidden + layer['bias'][None, None, None])
    if dropout is not None:
      hidden = drop(jax.random.fold_in(dropout.key, i), hidden, dropout.dense,
                    hidden.shape)
  # A product with a single column is summed in an order that depends on the number of
  # rows; this one is not, so that a voxel's bits do not depend on the tile.
  logits = jnp.sum(hidden * layers['out']['kernel'][None, None, None, :, 0], -1,
                   keepdims=True)
  return logits + layers['out']['bias'][None, None, None]
