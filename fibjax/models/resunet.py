"""Residual U-Net (Zhang, Liu & Wang 2018; §3.4).

Pre-activation residual units (normalisation, ReLU, 3 x 3 convolution, twice, plus a
shortcut) on the way down, each halving the resolution by its first convolution, and on
the way up, after up-sampling and joining with the unit of the same resolution. No
pooling. The last 1 x 1 convolution gives a value for pore and one for solid.
"""
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import linen as nn

from fibjax.models.dropout import Dropout, drop
from fibjax.models.layers import Conv, Norm, upsample
from fibjax.models.model import Model
from fibjax.models.unet_common import build_unet, unet_facts


class ResUNet(nn.Module):
  """Images to values of the two classes; see the module docstring.

  Attributes:
    base: channels at full resolution; they double with every halving.
    depth: number of halvings.
    norm: one of layers.NORMS.
  """
  base: int
  depth: int
  norm: str

  @nn.compact
  def __call__(self, images_byxc: jax.Array, dropout: Dropout | None = None
               ) -> jax.Array:
    """Maps [b, y, x, n_z], sides multiples of 2^depth, to [b, y, x, 2].

    With dropout, which drops channels of the lowest maps, it is in training.
    """
    training = dropout is not None
    maps = Conv(self.base, name='stem_a')(images_byxc)
    maps = nn.relu(Norm(self.norm, name='stem_norm')(maps, training))
    maps = Conv(self.base, name='stem_b')(maps)
    maps += Conv(self.base, 1, name='stem_shortcut')(images_byxc)
    joined = []
    for level in range(1, self.depth + 1):
      joined.append(maps)
      maps = _Unit(self.base * 2 ** level, 2, self.norm, name=f'down{level}')(
          maps, training)
    if training:
      maps = drop(dropout.key, maps, dropout.spatial,
                  (maps.shape[0], 1, 1, maps.shape[3]))
    for level in reversed(range(self.depth)):
      maps = jnp.concatenate([upsample(maps), joined.pop()], 3)
      maps = _Unit(self.base * 2 ** level, 1, self.norm, name=f'up{level}')(
          maps, training)
    return Conv(2, 1, name='out')(maps)


class _Unit(nn.Module):
  """Residual unit with pre-activation; the shortcut is a 1 x 1 convolution."""
  features: int
  stride: int
  norm: str

  @nn.compact
  def __call__(self, maps_byxc, training):
    maps = nn.relu(Norm(self.norm, name='norm_a')(maps_byxc, training))
    maps = Conv(self.features, stride=self.stride, name='conv_a')(maps)
    maps = nn.relu(Norm(self.norm, name='norm_b')(maps, training))
    maps = Conv(self.features, name='conv_b')(maps)
    return maps + Conv(self.features, 1, self.stride, name='shortcut')(maps_byxc)


def reach_px(depth: int) -> int:
  """How far the network sees: 37 px of convolutions at depth 3, 7 of up-sampling."""
  cell = 2 ** depth
  return 2 + 3 * (cell - 1) + 2 * (cell - 1) + cell - 1


def build(config: Mapping) -> Model:
  """Builds the network of config.model; see `unet_common.build_unet`."""
  return build_unet(config, ResUNet, reach_px)


FACTS = unet_facts(
    'residual U-Net',
    'Z. Zhang, Q. Liu, Y. Wang. Road extraction by deep residual U-Net. IEEE '
    'Geoscience and Remote Sensing Letters 15 (2018) 749–753. '
    'doi:10.1109/LGRS.2018.2802944')
