"""`Model`, a network as pure functions, and what all networks share.

Parameters are nested dicts of arrays; nothing is mutable and nothing is hidden. Beside
the layers a dict has an entry 'input', the grey-value mean and standard deviation that
every image is standardised with. They are constants of a training run (0 and 1 for the
published network), not weights. Neither are the running statistics of a batch
normalisation, which stand under 'batch_stats'.
"""
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fibjax.errors import unknown
from fibjax.models.facts import MethodFacts

SIZES_Z = tuple(range(1, 16, 2))  # slices a network may see; the paper's: up to 11
STATISTICS = 'batch_stats'  # flax's name of the collection
_INPUT = 'input'


class Model(NamedTuple):
  """A network as pure functions.

  Attributes:
    init: (key, mean=0, deviation=1) -> params.
    apply: (params, patches_byxc, dropout=None) -> logits_b, one neighbourhood each.
    apply_dense: (params, window_byxc, dropout=None, out_yx=None) -> logits_byx of all
      voxels of a window, or of its first (ty, tx). The numbers are those of apply; of
      a U-Net they are for windows that start at the same place in its cells of 2^depth
      pixels. A network with zero padding takes no dropout here.
    n_z: number of slices (channels) read, centred on the voxel's slice.
    window_px: side of the window read for one voxel.
    before_px: pixels of that window before its voxel.
    stride_px: apply_dense is fastest for multiples of this many voxels.
    dense_px: t -> side of the window for which apply_dense is fastest for t voxels.
    dense_bytes: (ty, tx) -> estimate of the memory apply_dense needs for so many
      voxels.
    patch_bytes: estimate of the memory apply needs for one voxel.
    settings: config.model, from which make_model builds the same network.
    update_statistics: (params, window_byxc, dropout) -> params with the running
      statistics of batch normalisation moved towards those of the windows; None for
      networks without any.
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
  update_statistics: Callable | None = None

  def image_px(self, out_px: int, symmetric: bool = False) -> int:
    """Side of the image to cut for out_px voxels, before_px pixels before the first.

    Args:
      out_px: voxels.
      symmetric: whether before_px pixels are wanted after the last one too.
    """
    return max(self.dense_px(out_px), symmetric * (out_px + 2 * self.before_px))


class Network(NamedTuple):
  """An entry of the registry of networks.

  Attributes:
    build: config.model -> Model; raises InputError for settings it cannot have.
    facts: what tables, texts and rules need to know.
    write_onnx: (network, params) -> the same as an ONNX file (onnx_graph.py);
      None: it cannot be written.
    widen: (params, settings of their network, settings wanted) -> params of a wider
      view with the same scores, or as they are where there is none; None: never.
  """
  build: Callable[[Mapping], Model]
  facts: MethodFacts
  write_onnx: Callable[[Model, dict], bytes] | None = None
  widen: Callable[[dict, Mapping, Mapping], dict] | None = None


def check_choice(config: Mapping, key: str, known: Sequence) -> None:
  """Raises InputError unless config.model.KEY is one of the known values."""
  if config[key] not in known:
    raise unknown(f'config.model.{key}', config[key], known)


def with_input(layers: dict, mean, deviation) -> dict:
  """Parameters of a network: its layers and the standardisation of its input."""
  return {_INPUT: {'mean': jnp.float32(mean), 'deviation': jnp.float32(deviation)},
          **layers}


def replace_layers(params: dict, layers: dict) -> dict:
  """Params with the layers of other params, and its own standardisation."""
  return {**layers, _INPUT: params[_INPUT]}


def standardise(params, images: jax.Array) -> jax.Array:
  """Images with the mean and deviation of params taken out; neither is trained."""
  constants = jax.lax.stop_gradient(params[_INPUT])
  return (images - constants['mean']) / constants['deviation']


def empty_params(model: Model, *leading: int) -> dict:
  """Zeros with the structure and shapes of params.

  Args:
    model: the network.
    leading: lengths of further leading axes, such as the number of members.
  """
  shapes = jax.eval_shape(model.init, jax.random.key(0))
  return jax.tree.map(lambda leaf: np.zeros((*leading, *leaf.shape), leaf.dtype),
                      shapes)


def count_weights(params) -> int:
  """Number of weights, biases included; constants and statistics do not count."""
  weights = {name: layer for name, layer in params.items()
             if name not in (_INPUT, STATISTICS)}
  return sum(leaf.size for leaf in jax.tree.leaves(weights))
