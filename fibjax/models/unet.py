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
from fibjax.models.unet_common import build_unet, unet_facts


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

    With dropout, which drops channels at the end of the way down, it is in training.
    """
    training = dropout is not None
    maps, joined = images_byxc, []
    for level in range(self.depth + 1):
      if level:
        joined.append(maps)
        maps = conv.max_pool(maps)
      maps = self._two(f'down{level}', self.base * 2 ** level, maps, training)
    if training:
      maps = drop(dropout.key, maps, dropout.spatial,
                  (maps.shape[0], 1, 1, maps.shape[3]))
    for level in reversed(range(self.depth)):
      features = self.base * 2 ** level
      maps = Conv(features, 2, name=f'half{level}')(upsample(maps))
      maps = jnp.concatenate([joined.pop(), maps], 3)
      maps = self._two(f'up{level}', features, maps, training)
    return Conv(2, 1, name='out')(maps)

  def _two(self, name, features, maps, training):
    for part in 'ab':
      maps = Conv(features, name=f'{name}{part}')(maps)
      maps = nn.relu(Norm(self.norm, name=f'{name}{part}_norm')(maps, training))
    return maps


def reach_px(depth: int) -> int:
  """How far the network sees, to the side where the 2 x 2 convolutions look."""
  cell = 2 ** depth
  return 2 * 2 * (cell - 1) + 2 * cell + 2 * (cell - 1)


def build(config: Mapping) -> Model:
  """Builds the network of config.model; see `unet_common.build_unet`."""
  return build_unet(config, UNet, reach_px)


FACTS = unet_facts(
    'U-Net',
    'O. Ronneberger, P. Fischer, T. Brox. U-Net: convolutional networks for biomedical '
    'image segmentation. MICCAI 2015. doi:10.1007/978-3-319-24574-4_28')
