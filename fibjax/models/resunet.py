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
from fibjax.models.unet_common import UNetGraph, build_unet, unet_facts


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

    Dropout drops channels of the lowest maps; given one, batch normalisation uses
    the batch.
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


def write_onnx(model: Model, params: dict) -> bytes:
  """The network as an ONNX file; see `onnx_graph.py`."""
  graph, depth = UNetGraph(model, params), model.settings['depth']
  image, joined = graph.standardise('image', params), []

  def unit(maps, name, stride):
    inner = graph.normalise(maps, name, 'norm_a')
    inner = graph.convolve(inner, name, 'conv_a', stride=stride)
    inner = graph.normalise(inner, name, 'norm_b')
    inner = graph.convolve(inner, name, 'conv_b')
    return graph.add('Add', inner, graph.convolve(maps, name, 'shortcut',
                                                  stride=stride))

  maps = graph.normalise(graph.convolve(image, 'stem_a'), 'stem_norm')
  maps = graph.add('Add', graph.convolve(maps, 'stem_b'),
                   graph.convolve(image, 'stem_shortcut'))
  for level in range(1, depth + 1):
    joined.append(maps)
    maps = unit(maps, f'down{level}', 2)
  for level in reversed(range(depth)):
    maps = graph.add('Concat', graph.upsample(maps), joined.pop(), axis=1)
    maps = unit(maps, f'up{level}', 1)
  return graph.score(maps, model.settings['name'])


def reach_px(depth: int) -> int:
  """How far a voxel sees, in pixels: 37 by convolutions at depth 3, 7 by up-sampling.

  Two convolutions of the stem at full resolution; on the way down two per level, the
  first of which still has the step of the level above; on the way up two per level; a
  pixel of the lowest maps stands for a cell of 2^depth.
  """
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
