"""U-Net (Ronneberger, Fischer & Brox 2015; §4.1).

Two 3 x 3 convolutions with ReLU per level, 2 x 2 max pooling on the way down, and on
the way up every pixel doubled, a 2 x 2 convolution that halves the channels, and the
maps of the same resolution beside it. Differs from the paper's in three ways (our
choices): convolutions keep the size and the margin is discarded instead, up-sampling is
a resize and a convolution (the same number of weights as a transposed one, without its
checkerboard), and a normalisation may follow each 3 x 3 convolution.
"""
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import linen as nn

from fibjax.models import conv
from fibjax.models.dropout import Dropout, drop
from fibjax.models.layers import Conv, Norm, upsample
from fibjax.models.model import Model
from fibjax.models.unet_common import UNetGraph, build_unet, unet_facts


class UNet(nn.Module):
  """Images to values of the two classes; see the module docstring.

  Attributes:
    base: channels at full resolution; they double with every halving.
    depth: number of halvings; 4 in the paper, with base 64.
    norm: one of layers.NORMS; 'none' in the paper.
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
    maps, joined = images_byxc, []
    for level in range(self.depth + 1):
      if level:
        joined.append(maps)
        maps = conv.max_pool(maps)
      features = self.base * 2 ** level
      maps = self._convolve_twice(f'down{level}', features, maps, training)
    if training:
      maps = drop(dropout.key, maps, dropout.spatial,
                  (maps.shape[0], 1, 1, maps.shape[3]))
    for level in reversed(range(self.depth)):
      features = self.base * 2 ** level
      maps = Conv(features, 2, name=f'half{level}')(upsample(maps))
      maps = jnp.concatenate([joined.pop(), maps], 3)
      maps = self._convolve_twice(f'up{level}', features, maps, training)
    return Conv(2, 1, name='out')(maps)

  def _convolve_twice(self, name, features, maps, training):
    for part in 'ab':
      maps = Conv(features, name=f'{name}{part}')(maps)
      maps = nn.relu(Norm(self.norm, name=f'{name}{part}_norm')(maps, training))
    return maps


def write_onnx(model: Model, params: dict) -> bytes:
  """The network as an ONNX file; see `onnx_graph.py`."""
  graph, depth = UNetGraph(model, params), model.settings['depth']
  maps, joined = graph.standardise('image', params), []

  def convolve_twice(maps, name):
    for part in 'ab':
      maps = graph.normalise(graph.convolve(maps, f'{name}{part}'),
                             f'{name}{part}_norm')
    return maps

  for level in range(depth + 1):
    if level:
      joined.append(maps)
      maps = graph.pool(maps)
    maps = convolve_twice(maps, f'down{level}')
  for level in reversed(range(depth)):
    maps = graph.convolve(graph.upsample(maps), f'half{level}')
    maps = graph.add('Concat', joined.pop(), maps, axis=1)
    maps = convolve_twice(maps, f'up{level}')
  return graph.score(maps, model.settings['name'])


def reach_px(depth: int) -> int:
  """How far a voxel sees, in pixels, towards where the 2 x 2 convolutions reach.

  Two 3 x 3 convolutions per level on each way and two at the bottom; a 2 x 2
  convolution per level adds a pixel of that level on one side, and pooling and
  up-sampling the rest of a cell.
  """
  cell = 2 ** depth
  return 2 * 2 * (cell - 1) + 2 * cell + 2 * (cell - 1)


def build(config: Mapping) -> Model:
  """Builds the network of config.model; see `unet_common.build_unet`."""
  return build_unet(config, UNet, reach_px)


FACTS = unet_facts(
    'U-Net',
    'O. Ronneberger, P. Fischer, T. Brox. U-Net: convolutional networks for biomedical '
    'image segmentation. MICCAI 2015. doi:10.1007/978-3-319-24574-4_28')
