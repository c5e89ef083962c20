"""Layers of the U-Nets: convolutions, normalisations and up-sampling.

Maps are [batch, y, x, channel] float32. Convolutions keep the size, with zeros around
the map, and choose their form as in conv.py. A normalisation sees one pixel, or
statistics that are fixed outside training. The value of a voxel therefore depends on
the voxel's surroundings, not on the whole tile, and tiles have no seams.
"""
import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from fibjax.models import conv
from fibjax.models.model import STATISTICS

NORMS = ('group', 'batch', 'none')
_GROUP = 16  # channels that are normalised together
_MOMENTUM = 0.9
_EPSILON = 1e-5


class Conv(nn.Module):
  """Convolution with bias that keeps the size, or halves it with stride 2.

  Attributes:
    features: channels of the result.
    size: side of the kernel.
    stride: 1 or 2.
  """
  features: int
  size: int = 3
  stride: int = 1

  @nn.compact
  def __call__(self, maps_byxc: jax.Array) -> jax.Array:
    """Maps [b, y, x, c] to [b, y / stride, x / stride, features]."""
    shape = (self.size, self.size, maps_byxc.shape[-1], self.features)
    kernel = self.param('kernel', nn.initializers.he_normal(), shape)
    bias = self.param('bias', nn.initializers.zeros, (self.features,))
    if self.size == 1:
      out = lax.dot_general(maps_byxc[:, ::self.stride, ::self.stride], kernel[0, 0],
                            (((3,), (0,)), ((), ())))
    else:
      before = (self.size - 1) // 2
      edge = before, self.size - 1 - before
      padded = jnp.pad(maps_byxc, ((0, 0), edge, edge, (0, 0)))
      out = (conv.conv_valid(padded, kernel) if self.stride == 1
             else conv.conv_strided(padded, kernel, self.stride))
    return out + bias[None, None, None]


class Norm(nn.Module):
  """Normalisation with a factor and a shift per channel.

  * 'group': of each pixel over groups of about 16 channels. Wu & He 2018 normalise over
    the pixels of an image as well; a voxel would then depend on the tile.
  * 'batch': of each channel, by the batch in training and by running statistics with
    momentum 0.9 otherwise (Ioffe & Szegedy 2015).
  * 'none': none, and no weights.

  Attributes:
    kind: one of NORMS.
  """
  kind: str

  @nn.compact
  def __call__(self, maps_byxc: jax.Array, training: bool) -> jax.Array:
    """Maps [b, y, x, c] to the same shape."""
    if self.kind == 'none':
      return maps_byxc
    channels = maps_byxc.shape[-1]
    scale = self.param('scale', nn.initializers.ones, (channels,))
    shift = self.param('shift', nn.initializers.zeros, (channels,))
    normalise = self._by_batch if self.kind == 'batch' else _by_pixel
    args = (training,) if self.kind == 'batch' else ()
    normalised = normalise(maps_byxc, *args)
    return normalised * scale[None, None, None] + shift[None, None, None]

  def _by_batch(self, maps_byxc, training):
    channels = maps_byxc.shape[-1]
    mean = self.variable(STATISTICS, 'mean', jnp.zeros, (channels,))
    variance = self.variable(STATISTICS, 'variance', jnp.ones, (channels,))
    mean_c, variance_c = lax.stop_gradient((mean.value, variance.value))
    if training:
      mean_c = jnp.mean(maps_byxc, (0, 1, 2))
      variance_c = jnp.var(maps_byxc, (0, 1, 2))
      if self.is_mutable_collection(STATISTICS):
        for running, new in ((mean, mean_c), (variance, variance_c)):
          running.value = _MOMENTUM * running.value + (1 - _MOMENTUM) * new
    return ((maps_byxc - mean_c[None, None, None])
            * lax.rsqrt(variance_c + _EPSILON)[None, None, None])


def _by_pixel(maps_byxc):
  channels = maps_byxc.shape[-1]
  groups = count_groups(channels)
  grouped = maps_byxc.reshape(*maps_byxc.shape[:3], groups, channels // groups)
  centred = grouped - jnp.mean(grouped, -1, keepdims=True)
  variance = jnp.mean(centred ** 2, -1, keepdims=True)
  return (centred * lax.rsqrt(variance + _EPSILON)).reshape(maps_byxc.shape)


def count_groups(channels: int) -> int:
  """Number of equal groups of about 16 channels."""
  return max(g for g in range(1, max(1, channels // _GROUP) + 1) if not channels % g)


def upsample(maps_byxc: jax.Array) -> jax.Array:
  """Repeats every pixel 2 x 2 times: [b, y, x, c] -> [b, 2 y, 2 x, c]."""
  batch, height, width, channels = maps_byxc.shape
  wide = jnp.broadcast_to(maps_byxc[:, :, None, :, None],
                          (batch, height, 2, width, 2, channels))
  return wide.reshape(batch, 2 * height, 2 * width, channels)


def margin_px(reach_px: int, depth: int) -> int:
  """Pixels around a tile that contain all its voxels see, in whole cells of 2^depth.

  Whole cells, since a voxel's place in its cell decides what pooling joins it with.
  """
  return math.ceil(reach_px / 2 ** depth) * 2 ** depth
