"""The sliding-window network of §1.5 as a `Model`: build, facts and rules.

Its layers are in patch_cnn.py. The network without padding is evaluated densely by
dense.py, the zero-padded one by exact.py.
"""
import math
from collections.abc import Iterable, Mapping

import jax.numpy as jnp

from fibjax.models import conv, dense, exact, patch_cnn
from fibjax.models.dropout import Dropout
from fibjax.models.facts import NETWORK, MethodFacts, Rule
from fibjax.models.model import SIZES_Z, Model, check_choice, standardise, with_input


def build(config: Mapping) -> Model:
  """Builds the network of config.model with n_xy, n_z and padding.

  Raises:
    InputError: for another size or padding.
  """
  check_choice(config, 'n_z', SIZES_Z)
  check_choice(config, 'n_xy', patch_cnn.SIZES_XY)
  check_choice(config, 'padding', ('same', 'context'))
  cells = config['n_xy'] // 16
  n_z, padding = config['n_z'], config['padding']
  window = patch_cnn.window_px(config['n_xy'], padding)
  module = patch_cnn.PatchCNN(cells=cells, padding=padding)

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
    return dense.plan_extents(cells, out_px, conv.BLOCK)[0]

  def smallest_px(out_px):
    return out_px + window - 1

  evaluator, apply_dense, dense_px, stride_px = (
      (dense, apply_context, aligned_px, dense.STRIDE * conv.BLOCK)
      if padding == 'context' else (exact, apply_padded, smallest_px, exact.BOX_PX))

  def dense_bytes(tile_yx):
    return evaluator.count_bytes(cells, math.prod(map(dense_px, tile_yx)))

  return Model(init=init, apply=apply, apply_dense=apply_dense, n_z=n_z,
               window_px=window,
               before_px=patch_cnn.window_before_px(config['n_xy'], padding),
               stride_px=stride_px, dense_px=dense_px, dense_bytes=dense_bytes,
               patch_bytes=4 * window ** 2 * (n_z + 2 * patch_cnn.WIDTHS[0]),
               settings=dict(config))


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
