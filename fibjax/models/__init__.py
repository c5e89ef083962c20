"""Networks as pure functions: `make_model(config.model) -> Model`.

A new network is a module with `build` and `FACTS` (see `model.Network`) and a line in
NETWORKS; no other place names a network.
"""
from collections.abc import Mapping

from fibjax.models import patch_network, resunet, unet
from fibjax.models.dropout import Dropout
from fibjax.models.model import (
  Model,
  Network,
  check_choice,
  count_weights,
  empty_params,
)

NETWORKS: dict[str, Network] = {
    'patch_cnn': Network(patch_network.build, patch_network.FACTS,
                         patch_network.write_onnx, patch_network.widen),
    'resunet': Network(resunet.build, resunet.FACTS, resunet.write_onnx),
    'unet': Network(unet.build, unet.FACTS, unet.write_onnx)}
NAMES = tuple(NETWORKS)

__all__ = ['NAMES', 'NETWORKS', 'Dropout', 'Model', 'Network', 'count_weights',
           'empty_params', 'make_model']


def make_model(config: Mapping) -> Model:
  """Builds the network of config.model.

  Args:
    config: mapping of name and n_z (1, 3, ... 15), and for 'patch_cnn' n_xy (33, 49,
      ... 113) and padding ('same' or 'context'), for 'resunet' and 'unet' base, depth
      and norm.

  Raises:
    InputError: for an unknown name, size, padding or norm.
  """
  check_choice(config, 'name', tuple(NETWORKS))
  return NETWORKS[config['name']].build(config)
