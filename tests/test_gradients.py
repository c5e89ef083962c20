"""Gradients against double precision, and the first step of training of each network.

XLA's back end for CPU fuses and reorders operations from version to version. What a
version may change is rounding: gradients of every layer and loss stay within 1e-5 of
those in float64, and the first step stays what it was.
"""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fibjax.models import conv, layers, make_model
from fibjax.training import loss_expression, losses, optim, sampling, step

LARGEST_ERROR = 1e-5  # of a gradient, relative to its largest entry


def draw(seed, *shape):
  return np.random.default_rng(seed).normal(size=shape)


def weighted(function, seed=9):
  """The function's result as a scalar with random weights, so that no sum cancels."""
  def scalar(*arguments):
    result = function(*arguments)
    return jnp.sum(result * jnp.asarray(draw(seed, *result.shape), result.dtype))
  return scalar


def assert_agrees_with_float64(function, *arguments):
  """Gradients of a scalar function by all arguments in float32 and in float64."""
  gradients = []
  for is_double in (False, True):
    dtype = np.float64 if is_double else np.float32
    with jax.enable_x64(is_double):
      given = jax.tree.map(lambda a, dtype=dtype: jnp.asarray(a, dtype), arguments)
      argnums = tuple(range(len(arguments)))
      found = jax.device_get(jax.jit(jax.grad(function, argnums))(*given))
    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(found))
    gradients.append(found)
  for single, double in zip(*map(jax.tree.leaves, gradients), strict=True):
    scale = np.abs(double).max()
    assert scale > 0, 'nothing is checked'
    np.testing.assert_allclose(single / scale, double / scale, atol=LARGEST_ERROR)


LAYERS = {
    'conv with few features': (conv.conv_valid, (2, 20, 22, 3), (3, 3, 3, 16)),
    'conv in strips': (conv.conv_valid, (2, 70, 90, 16), (3, 3, 16, 32)),
    'dilated conv': (functools.partial(conv.conv_valid, dilation=4), (1, 40, 40, 32),
                     (3, 3, 32, 48)),
    'dense layer as a dilated conv': (functools.partial(conv.conv_valid, dilation=16),
                                      (1, 48, 48, 16), (2, 2, 16, 24)),
    'strided conv': (functools.partial(conv.conv_strided, stride=2), (2, 21, 21, 8),
                     (3, 3, 8, 16)),
    'padded conv': (functools.partial(conv.conv_lax, padding='SAME'), (4, 17, 17, 8),
                    (3, 3, 8, 16)),
    'conv as one product': (conv.conv_product, (2, 24, 24, 8), (3, 3, 8, 40)),
    'filtered conv': (lambda maps, kernel: conv.filtered_layer(
        plain, 2, 1, (16, 16), {'kernel': kernel}, maps), (1, 24, 24, 32),
                      (3, 3, 32, 32)),
    'max pooling': (lambda maps: conv.max_pool(maps), (2, 17, 16, 8)),
    'upsampling': (layers.upsample, (2, 5, 6, 8)),
    'ELU': (jax.nn.elu, (2, 9, 9, 16))}


def plain(_, maps):
  return maps


@pytest.mark.parametrize('name', LAYERS)
def test_gradients_of_layers_agree_with_float64(name):
  function, *shapes = LAYERS[name]
  assert_agrees_with_float64(weighted(function),
                             *(draw(seed, *s) for seed, s in enumerate(shapes)))


@pytest.mark.parametrize('module, shape', [
    (layers.Conv(12), (2, 9, 9, 5)), (layers.Conv(12, 2), (2, 9, 9, 5)),
    (layers.Conv(12, 1), (2, 9, 9, 5)), (layers.Conv(12, 3, 2), (2, 8, 8, 5)),
    (layers.Conv(12, 1, 2), (2, 8, 8, 5)), (layers.Conv(32), (2, 30, 30, 24)),
    (layers.Norm('group'), (2, 7, 7, 32)), (layers.Norm('batch'), (4, 7, 7, 6))])
def test_gradients_of_unet_layers_agree_with_float64(module, shape):
  args = (True,) if isinstance(module, layers.Norm) else ()
  variables = module.init(jax.random.key(0), jnp.zeros(shape), *args)
  weights = jax.tree.map(lambda leaf: leaf + 0.1 * draw(2, *leaf.shape),
                         variables['params'])
  fixed = {k: jax.device_get(v) for k, v in variables.items() if k != 'params'}

  def function(weights, maps):
    return module.apply({'params': weights, **fixed}, maps, *args)
  assert_agrees_with_float64(weighted(function), weights, draw(1, *shape))


@pytest.mark.parametrize('name', losses.TERMS)
def test_gradients_of_losses_agree_with_float64(name):
  targets = (draw(1, 3, 20, 20) > 0.4).astype(np.float32)
  weights = np.random.default_rng(2).random((3, 20, 20)) + 0.1
  loss = loss_expression.make_loss(name)

  def function(logits):
    fixed = (jnp.asarray(array, logits.dtype) for array in (targets, weights))
    return loss.apply(logits, *fixed, jnp.ones(1, logits.dtype), 0.)[0]
  assert_agrees_with_float64(function, 2 * draw(3, 3, 20, 20))


NETWORKS = {
    'patch_cnn context': {'name': 'patch_cnn', 'n_xy': 33, 'n_z': 3,
                          'padding': 'context'},
    'patch_cnn same': {'name': 'patch_cnn', 'n_xy': 33, 'n_z': 3, 'padding': 'same'},
    'resunet': {'name': 'resunet', 'base': 8, 'depth': 2, 'norm': 'group', 'n_z': 3},
    'unet': {'name': 'unet', 'base': 8, 'depth': 2, 'norm': 'none', 'n_z': 3}}


def numpy_params(model, seed=0):
  """Weights of unit gain with biases, from numpy: the same for all versions of jax."""
  random = np.random.default_rng(seed)
  shapes = jax.eval_shape(model.init, jax.random.key(0))

  def fill(path, leaf):
    if path[-1].key == 'kernel':
      fan_in = np.prod(leaf.shape[:-1])
      return random.normal(0, np.sqrt(1.5 / fan_in), leaf.shape).astype(np.float32)
    centre = {'scale': 1., 'deviation': 1.}.get(path[-1].key, 0.)
    noise = 0. if path[0].key == 'input' else 0.05
    return (centre + noise * random.normal(size=leaf.shape)).astype(np.float32)
  return jax.tree_util.tree_map_with_path(fill, shapes)


@pytest.mark.long
@pytest.mark.parametrize('name', NETWORKS)
def test_gradients_of_networks_agree_with_float64(name):
  model = make_model(NETWORKS[name])
  params = numpy_params(model)
  constants = {'input': params.pop('input')}
  crop_px = 1 if name.endswith('same') else 16
  side = model.window_px + crop_px - 1
  images = np.float32(draw(5, 2, side, side, 3))
  targets = np.float32(draw(6, 2, crop_px, crop_px) > 0)

  def function(params):
    dtype = jax.tree.leaves(params)[0].dtype
    fixed = jax.tree.map(lambda a: jnp.asarray(a, dtype), constants)
    logits = step.predict(model, params | fixed, jnp.asarray(images, dtype), crop_px)
    return losses.bce(logits, jnp.asarray(targets, dtype), jnp.ones_like(logits))
  assert_agrees_with_float64(function, params)


def first_step(name):
  """Loss and gradient norm of the first training step of a fixed, tiny setting."""
  model = make_model(NETWORKS[name])
  random = np.random.default_rng(7)
  side = 32 + 2 * model.before_px
  field = np.cumsum(np.cumsum(random.normal(size=(2, side, side, 3)), 1), 2) / side
  inside = field[:, model.before_px:-model.before_px, model.before_px:-model.before_px]
  masks = (inside[..., 1] > np.median(inside[..., 1])).astype(np.uint8)
  masks[:, :3] = 255
  regions = sampling.put_regions(field.astype(np.float32), masks, balanced=True)
  crop_px = 1 if name.endswith('same') else 16
  corners = random.integers(0, (2, 33 - crop_px, 33 - crop_px), (4, 3))
  samples = sampling.Samples(corners.astype(np.int32), np.float32([1, 1, 1, 0]))
  settings = {'intensity_mean_sd': 0.05, 'intensity_deviation_sd': 0.05, 'l2': 1e-4,
              'dropout_dense': 0.2, 'dropout_spatial': 0.1}
  loss = loss_expression.make_loss('bce + 0.5*jaccard')
  optimizer = optim.make_optimizer('adam', 0.9)
  inputs = step.StepInputs(samples, np.uint32(3), step.make_hyper(
      settings, loss.factors), np.float32(1e-3), np.float32(0))
  state = jax.jit(functools.partial(step.init_state, model, optimizer))(np.uint32(3))
  _, report = jax.jit(functools.partial(
      step.train_step, model=model, optimizer=optimizer, loss=loss,
      crop_px=crop_px))(state, inputs, step.TrainData(regions))
  return float(report['loss']), float(report['grad_norm'])


# If a change of initialisation, sampling, augmentation, dropout, loss or network is
# wanted, print first_step(name) for all NETWORKS and record the new values here.
@pytest.mark.long
@pytest.mark.parametrize('name, loss, gradient_norm', [
    ('patch_cnn context', 1.122569, 2.902178), ('patch_cnn same', 1.036178, 6.049423),
    ('resunet', 3.428250, 59.25457), ('unet', 1.405737, 8.950383)])
def test_the_first_step_of_training_is_what_it_was(name, loss, gradient_norm):
  np.testing.assert_allclose(first_step(name), (loss, gradient_norm), rtol=1e-4)
