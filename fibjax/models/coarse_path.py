"""A second, coarse path of the context network: it sees far with few channels (§8.3).

Means of 4 x 4 pixels, then five 3 x 3 convolutions whose taps are 4, 8, 16, 32 and 64
pixels apart (dilated convolutions, Yu & Koltun 2016), each followed by ELU. A value
sees 252 x 252 pixels; it joins the channels of the fourth block, centred on what those
see (68 x 68), before the last pooling. Everything stays translation equivariant, so one
patch per voxel and the dense form give the same numbers.
"""
import jax
from flax import linen as nn

from fibjax.models import conv

BOX_PX = 4
STEPS = (4, 8, 16, 32, 64)
REACH_PX = BOX_PX + 2 * sum(STEPS)  # 252
EXTRA_PX = (REACH_PX - 68) // 2  # on each side, beyond what the fourth block sees


def names() -> list[str]:
  """Names of the layers, first to last."""
  return [f'coarse{i + 1}' for i in range(len(STEPS))]


def apply_coarse(params, window_byxc: jax.Array) -> jax.Array:
  """Channels of the coarse path.

  Args:
    params: weights, with the layers `names`.
    window_byxc: [b, y, x, n_z] standardised images.

  Returns:
    [b, y - 251, x - 251, c] maps; value (0, 0) is centred between pixels 125 and 126.
  """
  maps = _box_means(window_byxc)
  for name, step in zip(names(), STEPS, strict=True):
    layer = params[name]
    maps = nn.elu(conv.conv_valid(maps, layer['kernel'], step)
                  + layer['bias'][None, None, None])
  return maps


def make_layers(n_z: int, features: int) -> dict:
  """Weights of the layers by name; called in a compact method, whose they become."""
  layers, channels = {}, n_z
  for name in names():
    layers[name] = Layer(channels, features, name=name)()
    channels = features
  return layers


def crop_to_fine(window_byxc: jax.Array) -> jax.Array:
  """The part of a window that the four blocks see."""
  return window_byxc[:, EXTRA_PX:-EXTRA_PX, EXTRA_PX:-EXTRA_PX]


def _box_means(maps_byxc):
  height, width = (n - BOX_PX + 1 for n in maps_byxc.shape[1:3])
  rows = sum(maps_byxc[:, k:k + height] for k in range(BOX_PX))
  return sum(rows[:, :, k:k + width] for k in range(BOX_PX)) / BOX_PX ** 2


class Layer(nn.Module):
  """The weights of a layer.

  Attributes:
    channels, features: of its input and its result.
  """
  channels: int
  features: int

  @nn.compact
  def __call__(self) -> dict:
    """Returns 'kernel' and 'bias'."""
    shape = (3, 3, self.channels, self.features)
    return {'kernel': self.param('kernel', nn.initializers.glorot_uniform(), shape),
            'bias': self.param('bias', nn.initializers.zeros, (self.features,))}
