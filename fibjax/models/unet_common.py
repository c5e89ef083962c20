"""A U-Net of any kind as a `Model`: evaluation with a margin, facts and rules."""
import functools
import math
from collections.abc import Callable, Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from fibjax.errors import InputError
from fibjax.models.dropout import Dropout
from fibjax.models.facts import NETWORK, MethodFacts, Rule, no_sizes, no_weights
from fibjax.models.layers import NORMS, count_groups, margin_px
from fibjax.models.model import (
  SIZES_Z,
  STATISTICS,
  Model,
  check_choice,
  standardise,
  with_input,
)
from fibjax.models.onnx_graph import Graph

_MAPS = 14  # maps of base channels at full resolution in memory at once (12 measured)


def build_unet(config: Mapping, network: Callable, reach_px: Callable) -> Model:
  """Builds a U-Net whose window has a margin that holds all a voxel sees.

  The network itself keeps the size of its input, with zeros around every map. Values
  of the margin feel those zeros and are cut off, so that a voxel's value does not
  depend on where its tile ends.

  Args:
    config: config.model with base, depth, norm and n_z.
    network: flax module of (base, depth, norm), [b, y, x, n_z] -> [b, y, x, 2].
    reach_px: depth -> how far a voxel sees, in pixels.

  Raises:
    InputError: for another norm or a value out of range.
  """
  check_choice(config, 'n_z', SIZES_Z)
  check_choice(config, 'norm', NORMS)
  for key, largest in (('base', 256), ('depth', 6)):
    if not 1 <= config[key] <= largest:
      raise InputError(f'config.model.{key}', got=config[key],
                       expected=f'1 to {largest}', remedy='choose one of these')
  base, depth, n_z = config['base'], config['depth'], config['n_z']
  module = network(base=base, depth=depth, norm=config['norm'])
  cell = 2 ** depth
  margin = margin_px(reach_px(depth), depth)
  window = 2 * margin + 1

  def init(key, mean=0., deviation=1.):
    variables = module.init(key, jnp.zeros((1, cell, cell, n_z)))
    return with_input(variables['params'], mean, deviation) | (
        {STATISTICS: variables[STATISTICS]} if STATISTICS in variables else {})

  def evaluate(params, window_byxc, dropout, mutable):
    # Fills the last cell up; no voxel that is kept sees these zeros.
    missing = [(0, -n % cell) for n in window_byxc.shape[1:3]]
    images = jnp.pad(standardise(params, window_byxc), ((0, 0), *missing, (0, 0)))
    variables = {'params': params}
    if STATISTICS in params:
      variables[STATISTICS] = jax.lax.stop_gradient(params[STATISTICS])
    return module.apply(variables, images, dropout, mutable=mutable)

  def apply_dense(params, window_byxc, dropout: Dropout | None = None, out_yx=None):
    values = evaluate(params, window_byxc, dropout, False)
    rows, columns = out_yx or (n - 2 * margin for n in window_byxc.shape[1:3])
    inside = values[:, margin:margin + rows, margin:margin + columns]
    return inside[..., 1] - inside[..., 0]

  def apply(params, patches_byxc, dropout: Dropout | None = None):
    return apply_dense(params, patches_byxc, dropout, (1, 1))[:, 0, 0]

  def update_statistics(params, window_byxc, dropout: Dropout):
    _, updated = evaluate(params, window_byxc, dropout, [STATISTICS])
    return params | {STATISTICS: updated[STATISTICS]}

  def dense_px(out_px):
    return math.ceil(out_px / cell) * cell + 2 * margin

  def dense_bytes(tile_yx):
    return _MAPS * 4 * base * math.prod(map(dense_px, tile_yx))

  return Model(init=init, apply=apply, apply_dense=apply_dense, n_z=n_z,
               window_px=window, before_px=margin, stride_px=cell, dense_px=dense_px,
               dense_bytes=dense_bytes, patch_bytes=_MAPS * 4 * base * window ** 2,
               settings=dict(config),
               update_statistics=update_statistics if config['norm'] == 'batch'
               else None)


class UNetGraph(Graph):
  """The layers of layers.py in an ONNX graph; `params` holds all of them by name."""

  def __init__(self, model: Model, params: dict):
    super().__init__(model.n_z)
    self.norm, self.margin = model.settings['norm'], model.before_px
    self.params, self.statistics = params, params.get(STATISTICS, {})

  def layer(self, *names: str) -> dict:
    """Weights of a layer."""
    return functools.reduce(lambda tree, name: tree.get(name, {}), names, self.params)

  def convolve(self, maps: str, *names: str, stride: int = 1) -> str:
    """`layers.Conv`."""
    size = np.shape(self.layer(*names)['kernel'])[0]
    before = (size - 1) // 2
    after = size - 1 - before
    return self.conv(maps, self.layer(*names), pads=(before, before, after, after),
                     stride=stride)

  def normalise(self, maps: str, *names: str) -> str:
    """`layers.Norm` and ReLU."""
    if self.norm == 'none':
      return self.add('Relu', maps)
    layer = self.layer(*names)
    channels = np.size(layer['scale'])
    if self.norm == 'batch':
      fixed = functools.reduce(lambda tree, name: tree[name], names, self.statistics)
      maps = self.normalise_channels(maps, fixed['mean'], fixed['variance'])
    else:
      maps = self.normalise_pixels(maps, channels, count_groups(channels))
    return self.add('Relu', self.affine(maps, layer['scale'], layer['shift']))

  def score(self, maps: str, name: str) -> bytes:
    """The file: P(solid) by the last 1 x 1 convolution, without the margin."""
    out = self.layer('out')
    logit = {key: np.asarray(value)[..., 1:] - np.asarray(value)[..., :1]
             for key, value in out.items()}
    score = self.add('Sigmoid', self.conv(maps, logit))
    ends = [self.constant(numbers, np.int64) for numbers in (
        [self.margin] * 2, [-self.margin] * 2, [2, 3])]
    return self.finish(self.add('Slice', score, *ends), name)


def unet_facts(title: str, citation: str) -> MethodFacts:
  """Facts of a U-Net called title in texts, with the paper to cite."""

  def describe(settings: Mapping) -> str:
    model = settings['model']
    return (f'Each voxel was classified as pore or solid by a {title} of depth '
            f'{model["depth"]} and {model["base"]} channels at full resolution on '
            f'{model["n_z"]} neighbouring slices.')

  return MethodFacts(title=title, describe=describe, summary=_summary,
                     citations=(citation,), role=NETWORK, rules=_rules)


def _summary(settings: Mapping) -> tuple[str, str]:
  model = settings['model']
  return 'Network', (f'{model["name"]}, {model["n_z"]} slices, depth '
                     f'{model["depth"]}, base {model["base"]}, norm {model["norm"]}')


def _rules(config) -> Iterable[Rule]:
  sampling, name = config.train.sampling, config.model.name
  yield Rule('train.sampling', sampling, sampling == 'dense', f"'dense' for a {name}")
  yield no_weights(config)
  yield no_sizes(config)
