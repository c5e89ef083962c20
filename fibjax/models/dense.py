"""Dense evaluation of context networks: all voxels of a window at once.

Neighbouring voxels share almost all of their convolutions. At full resolution, with
the taps of block k 2^(k-1) pixels apart and every pooling a maximum over two pixels so
far apart (Li et al. 2014; the same arithmetic as the max-pooling fragments of Giusti
et al. 2013, without moving anything), each shared value is computed once: about 0.69
MMAC per voxel at (113, 3) instead of 142 (spec §9.4), with the same numbers as one
patch per voxel. The network must be free of padding (patch_cnn 'context').

A window of 16 n + 59 + t pixels gives t x t logits, for any t.
"""
import functools

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from fibjax.models import conv
from fibjax.models.patch_cnn import CONTEXT_PX, HIDDEN, WIDTHS, Dropout, drop

_POOLED_PX = 2 ** len(WIDTHS)  # pixels between two cells of the dense layers


def window_px(cells: int, out_px: int) -> int:
  """Side of the window that gives out_px x out_px logits."""
  return _POOLED_PX * cells + 2 * CONTEXT_PX - 1 + out_px


def count_bytes(_, window_px2: int) -> int:
  """Memory for a window of so many pixels: the widest map, read and written."""
  return 2 * WIDTHS[-1] * 4 * window_px2


def apply_dense(params, window_byxc: jax.Array, cells: int,
                dropout: Dropout | None = None,
                strip_px: int = conv.STRIP_PX) -> jax.Array:
  """Logits of all voxels of a window.

  Args:
    params: weights of a context PatchCNN.
    window_byxc: [b, y, x, n_z] images, y = 16 cells + 59 + ty, x likewise. Logit
      (0, 0) belongs to voxel (8 cells + 30, 8 cells + 30).
    cells: n of n_xy = 16 n + 1.
    dropout: None outside training. A channel is dropped for a whole image, an element
      of a dense layer per voxel.
    strip_px: positions worked on at once.

  Returns:
    [b, ty, tx] logits.
  """
  maps, step = window_byxc, 1
  for block in range(1, len(WIDTHS) + 1):
    for part in 'ab':
      pooled = step // 2 if part == 'a' else 0
      maps = conv.map_rows(_layer(step, part == 'b'), 2 * step + pooled, strip_px,
                           params[f'conv{block}{part}'], maps)
    step *= 2
  dense = {name: params[name] for name in ('fc1', 'fc2', 'out')}
  reach = step // 2 + step * (cells - 1)
  if dropout is None:
    return conv.map_rows(_head(cells, step), reach, strip_px // 2, dense, maps)[..., 0]
  spatial_key, dense_key = jax.random.split(dropout.key)
  maps *= drop(spatial_key, jnp.ones(()), dropout.spatial,
               (maps.shape[0], 1, 1, maps.shape[3]))
  return _head(cells, step)(dense, maps, dropout._replace(key=dense_key))[..., 0]


def _max_rows(maps_byxc, step: int):
  return jnp.maximum(maps_byxc[:, :-step], maps_byxc[:, step:])


@functools.cache
def _layer(step: int, pool_columns: bool):
  """A convolution with what stands around it.

  Half of the pooling before it (rows) is done as it reads, half of the pooling after
  it (columns) before it writes, so that each stays inside a strip.
  """
  def layer(weights, rows_byxc):
    if not pool_columns and step > 1:
      rows_byxc = _max_rows(rows_byxc, step // 2)
    maps = nn.elu(conv.conv_valid(rows_byxc, weights['kernel'], step)
                  + weights['bias'][None, None, None])
    return jnp.maximum(maps[:, :, :-step], maps[:, :, step:]) if pool_columns else maps
  return layer


@functools.cache
def _head(cells: int, step: int):
  """The dense layers: cells step px apart to one logit, [b, y, x, 1]."""
  def head(weights, rows_byxc, dropout=None):
    kernel = weights['fc1']['kernel'].reshape(cells, cells, -1, HIDDEN[0])
    hidden = conv.conv_valid(_max_rows(rows_byxc, step // 2), kernel, step)
    for i in range(len(HIDDEN)):
      layer = weights[f'fc{i + 1}']
      if i:
        hidden = lax.dot_general(hidden, layer['kernel'], (((3,), (0,)), ((), ())))
      hidden = nn.elu(hidden + layer['bias'][None, None, None])
      if dropout is not None:
        key = jax.random.fold_in(dropout.key, i)
        hidden = drop(key, hidden, dropout.dense, hidden.shape)
    # A product with a single column is summed in an order that depends on the number
    # of rows; this one is not, so that a voxel's bits do not depend on the tile.
    logits = jnp.sum(hidden * weights['out']['kernel'][None, None, None, :, 0], -1,
                     keepdims=True)
    return logits + weights['out']['bias'][None, None, None]
  return head
