"""The sliding-window network of Skärberg et al. 2021 (§1.5).

Input is one neighbourhood per voxel, [batch, y, x, slice], n_xy = 16 n + 1 pixels wide
with n in 2..15 (the paper: 2..7) and n_z slices as channels; output is one logit of
P(solid) per voxel. Four blocks conv-ELU-conv-ELU-pool with 16, 32, 64, 80 channels,
then dense layers of 128, 64 and 1. Two paddings share one set of weights,
10240 n^2 + 144 n_z + 183937:

* 'same': zeros around every map, the published network. The window is n_xy wide.
* 'context': no padding; the window holds 30 real pixels more on each side, so it is
  16 n + 60 wide and the network is translation equivariant, which makes it fast
  (models/dense.py). It is another network: weights of one padding must not be used
  with the other.

Weights are a dict of layers 'conv1a' ... 'conv4b', 'fc1', 'fc2', 'out', each with
'kernel' and 'bias'; 'fc1' sees the last map flattened in (y, x, channel) order.
"""
import jax
import jax.numpy as jnp
from flax import linen as nn

from fibjax.models import coarse_path, conv
from fibjax.models.dropout import Dropout, drop

WIDTHS = (16, 32, 64, 80)
HIDDEN = (128, 64)
# Pixels that four blocks of two 3 x 3 convolutions see beyond the patch on each side:
# 2 (1 + 2 + 4 + 8), as each pooling doubles the step.
CONTEXT_PX = 30
SIZES_XY = tuple(16 * n + 1 for n in range(2, 16))  # the paper's: up to 113


class PatchCNN(nn.Module):
  """Neighbourhoods to logits; see the module docstring.

  Attributes:
    cells: n, side of the last feature map.
    padding: 'same' or 'context'.
    coarse: channels of the coarse path (coarse_path.py); 0: none.
  """
  cells: int
  padding: str
  coarse: int = 0

  @nn.compact
  def __call__(self, patches_byxc: jax.Array,
               dropout: Dropout | None = None) -> jax.Array:
    """Maps [b, window, window, n_z] neighbourhoods to [b] logits."""
    maps = patches_byxc
    if self.coarse:
      layers = coarse_path.make_layers(patches_byxc.shape[-1], self.coarse)
      far = coarse_path.apply_coarse(layers, patches_byxc)
      maps = coarse_path.crop_to_fine(maps)
    for block, width in enumerate(WIDTHS, start=1):
      for part in 'ab':
        maps = _ConvElu(width, self.padding, name=f'conv{block}{part}')(maps)
      if self.coarse and block == len(WIDTHS):
        step = 2 ** (block - 1)
        maps = jnp.concatenate([maps, far[:, ::step, ::step]], -1)
      maps = conv.max_pool(maps)
    batch, cells_y, cells_x, channels = maps.shape
    if (cells_y, cells_x) != (self.cells, self.cells):
      raise ValueError(f'a window of {patches_byxc.shape[1:3]} px gives a last map of '
                       f'{(cells_y, cells_x)}; {self.cells} cells were expected')
    keys = None
    if dropout is not None:
      keys = jax.random.split(dropout.key, 3)
      maps = drop(keys[2], maps, dropout.spatial, (batch, 1, 1, channels))
    hidden = maps.reshape(batch, -1)
    for i, width in enumerate(HIDDEN):
      hidden = nn.elu(_Dense(width, name=f'fc{i + 1}')(hidden))
      if dropout is not None:
        hidden = drop(keys[i], hidden, dropout.dense, hidden.shape)
    return _Dense(1, name='out')(hidden)[:, 0]


class _ConvElu(nn.Module):
  features: int
  padding: str

  @nn.compact
  def __call__(self, maps_byxc):
    shape = (3, 3, maps_byxc.shape[-1], self.features)
    kernel = self.param('kernel', nn.initializers.glorot_uniform(), shape)
    bias = self.param('bias', nn.initializers.zeros, (self.features,))
    if self.padding == 'same':  # XLA's own is faster for small maps with zeros around
      out = conv.conv_lax(maps_byxc, kernel, padding='SAME')
    else:
      out = conv.conv_valid(maps_byxc, kernel)
    return nn.elu(out + bias[None, None, None])


class _Dense(nn.Module):
  features: int

  @nn.compact
  def __call__(self, hidden_bc):
    kernel = self.param('kernel', nn.initializers.glorot_uniform(),
                        (hidden_bc.shape[-1], self.features))
    bias = self.param('bias', nn.initializers.zeros, (self.features,))
    return hidden_bc @ kernel + bias[None]


def window_px(n_xy: int, padding: str, coarse: int = 0) -> int:
  """Side of the window the network reads for one voxel, in pixels."""
  far = 2 * coarse_path.EXTRA_PX if coarse else 0
  return n_xy if padding == 'same' else n_xy - 1 + 2 * CONTEXT_PX + far


def window_before_px(n_xy: int, padding: str, coarse: int = 0) -> int:
  """Pixels of the window before its voxel (the centre, index 8 n, of the patch)."""
  far = coarse_path.EXTRA_PX if coarse else 0
  return n_xy // 2 + (0 if padding == 'same' else CONTEXT_PX + far)
