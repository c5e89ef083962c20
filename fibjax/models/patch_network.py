"""The sliding-window network of §1.5 as a `Model`: build, facts and rules.

Its layers are in patch_cnn.py. The network without padding is evaluated densely by
dense.py, the zero-padded one by exact.py.
"""
import math
from collections.abc import Iterable, Mapping

import jax.numpy as jnp
import numpy as np

from fibjax.errors import InputError
from fibjax.models import coarse_path, conv, dense, exact, patch_cnn
from fibjax.models.dropout import Dropout
from fibjax.models.facts import NETWORK, MethodFacts, Rule
from fibjax.models.model import SIZES_Z, Model, check_choice, standardise, with_input
from fibjax.models.onnx_graph import Graph


def build(config: Mapping) -> Model:
  """Builds the network of config.model with n_xy, n_z and padding.

  Raises:
    InputError: for another size or padding.
  """
  check_choice(config, 'n_z', SIZES_Z)
  check_choice(config, 'n_xy', patch_cnn.SIZES_XY)
  check_choice(config, 'padding', ('same', 'context'))
  if coarse_channels(config) and config['padding'] == 'same':
    raise InputError('config.model.coarse', got=config['coarse'],
                     expected="0 with padding='same'", remedy="use padding='context'")
  cells = config['n_xy'] // 16
  n_z, padding, coarse = config['n_z'], config['padding'], coarse_channels(config)
  sides = config['n_xy'], padding, coarse
  window = patch_cnn.window_px(*sides)
  extra = 2 * coarse_path.EXTRA_PX if coarse else 0
  module = patch_cnn.PatchCNN(cells=cells, padding=padding, coarse=coarse)

  def init(key, mean=0., deviation=1.):
    layers = module.init(key, jnp.zeros((1, window, window, n_z)))['params']
    return with_input(layers, mean, deviation)

  def apply(params, patches_byxc, dropout: Dropout | None = None):
    return module.apply({'params': params}, standardise(params, patches_byxc), dropout)

  def apply_context(params, window_byxc, dropout: Dropout | None = None, out_yx=None):
    return dense.apply_dense(params, standardise(params, window_byxc), cells, dropout,
                             out_yx)

  def apply_padded(params, window_byxc, dropout: None = None, out_yx=None):
    if dropout is not None:
      raise ValueError('a zero-padded network is trained by single voxels')
    return exact.apply_exact(params, standardise(params, window_byxc), cells, out_yx)

  def aligned_px(out_px):
    return dense.plan_extents(cells, out_px, conv.BLOCK)[0] + extra

  def smallest_px(out_px):
    return out_px + window - 1

  evaluator, apply_dense, dense_px, stride_px = (
      (dense, apply_context, aligned_px, dense.STRIDE * conv.BLOCK)
      if padding == 'context' else (exact, apply_padded, smallest_px, exact.BOX_PX))

  def dense_bytes(tile_yx):
    pixels = math.prod(map(dense_px, tile_yx))
    return evaluator.count_bytes(cells, pixels) + 16 * coarse * pixels

  return Model(init=init, apply=apply, apply_dense=apply_dense, n_z=n_z,
               window_px=window,
               before_px=patch_cnn.window_before_px(*sides),
               stride_px=stride_px, dense_px=dense_px, dense_bytes=dense_bytes,
               patch_bytes=4 * window ** 2 * (
                   n_z + 2 * patch_cnn.WIDTHS[0] + 4 * coarse),
               settings=dict(config))


def coarse_channels(settings: Mapping) -> int:
  """config.model.coarse; networks stored by earlier versions have none."""
  return settings['coarse'] if 'coarse' in settings else 0  # noqa: SIM401


def widen(params: dict, have: Mapping, wanted: Mapping) -> dict:
  """Params of a wider neighbourhood: the new cells around the old count for nothing.

  The old cells stay where they were when as many are added on each side, so the scores
  of the context network are the same. Other params are returned as they are.
  """
  old, new = have['n_xy'] // 16, wanted['n_xy'] // 16
  added = new - old
  if added <= 0 or added % 2 or 'same' in (have['padding'], wanted['padding']):
    return params
  first = params['fc1']
  kernel = np.reshape(first['kernel'], (old, old, -1, patch_cnn.HIDDEN[0]))
  kernel = np.pad(kernel, ((added // 2, added // 2),) * 2 + ((0, 0),) * 2)
  return {**params, 'fc1': {**first, 'kernel': kernel.reshape(-1, kernel.shape[-1])}}


def write_onnx(model: Model, params: dict) -> bytes:
  """The network as an ONNX file.

  Without padding the whole image is scored at once: every step of 2 becomes a spread of
  the filters by 2. With zero padding the image is a neighbourhood, of a single score.
  """
  graph, cells = Graph(model.n_z), model.settings['n_xy'] // 16
  padded = model.settings['padding'] == 'same'
  image, spread = graph.standardise('image', params), 1
  maps = image
  if coarse_channels(model.settings):
    maps = graph.crop(image, coarse_path.EXTRA_PX)
  for block in range(1, len(patch_cnn.WIDTHS) + 1):
    for part in 'ab':
      maps = graph.add('Elu', graph.conv(maps, params[f'conv{block}{part}'],
                                         pads=[int(padded)] * 4, dilation=spread))
    if block == len(patch_cnn.WIDTHS) and coarse_channels(model.settings):
      maps = graph.add('Concat', maps, _add_coarse(graph, image, params), axis=1)
    maps = graph.pool(maps, 2 if padded else 1, spread)
    spread *= 1 if padded else 2
  first = params['fc1']
  kernel = np.reshape(first['kernel'], (cells, cells, -1, patch_cnn.HIDDEN[0]))
  maps = graph.add('Elu', graph.conv(maps, {'kernel': kernel, 'bias': first['bias']},
                                     dilation=spread))
  maps = graph.add('Elu', graph.conv(maps, _pointwise(params['fc2'])))
  return graph.finish(graph.add('Sigmoid', graph.conv(maps, _pointwise(params['out']))),
                      model.settings['name'])


def _add_coarse(graph: Graph, image: str, params: dict) -> str:
  """The coarse path of a graph."""
  maps = graph.add('AveragePool', image, kernel_shape=[coarse_path.BOX_PX] * 2)
  for name, step in zip(coarse_path.names(), coarse_path.STEPS, strict=True):
    maps = graph.add('Elu', graph.conv(maps, params[name], dilation=step))
  return maps


def _pointwise(layer: dict) -> dict:
  """A dense layer as a 1 x 1 convolution."""
  return {'kernel': np.asarray(layer['kernel'])[None, None], 'bias': layer['bias']}


def _describe(settings: Mapping) -> str:
  model = settings['model']
  kind = {'same': 'with zero padding, as published', 'context':
          'evaluated densely on the pixels around it instead of zero padding'}
  return (f'Each voxel was classified as pore or solid by a convolutional network '
          f'from its neighbourhood of {model["n_xy"]} × {model["n_xy"]} × '
          f'{model["n_z"]} voxels (Skärberg et al. 2021), {kind[model["padding"]]}.')


def _summary(settings: Mapping) -> tuple[str, str]:
  model = settings['model']
  kind = ', '.join(str(model[key]) for key in ('name', 'padding') if key in model)
  if coarse_channels(model):
    kind += f', coarse path of {model["coarse"]} channels'
  return 'Neighbourhood', (f'{model["n_xy"]} × {model["n_xy"]} × {model["n_z"]} voxels'
                           + (f' ({kind})' if kind else ''))


def _rules(config) -> Iterable[Rule]:
  """The zero-padded network is trained by single voxels; only it may be loaded."""
  train, padded = config.train, config.model.padding == 'same'
  yield Rule('train.sampling', train.sampling,
             train.sampling == 'patch' or not padded,
             "'patch' where model.padding is 'same'")
  yield Rule('train.weights', train.weights,
             not train.weights or (padded and not config.model.standardise),
             "'' unless model.padding='same' and model.standardise=False")
  sizes = config.sweep.sizes
  known = [f'{n_xy}x{n_z}' for n_z in SIZES_Z for n_xy in patch_cnn.SIZES_XY]
  yield Rule('sweep.sizes', sizes,
             set(sizes) <= set(known) and len(set(sizes)) == len(sizes),
             f'different ones of {", ".join(known)}')


FACTS = MethodFacts(title='sliding-window CNN', describe=_describe, summary=_summary,
                    role=NETWORK, has_neighbourhood=True, rules=_rules)
