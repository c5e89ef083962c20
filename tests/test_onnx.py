"""ONNX files of the networks give the scores of JAX."""
import jax
import numpy as np
import pytest
from scipy import special

from fibjax import models
from fibjax.models import NETWORKS
from tests.helpers import small_model

runtime = pytest.importorskip('onnxruntime')


def unet(name, norm):
  return models.make_model({'name': name, 'n_z': 3, 'base': 18, 'depth': 2,
                            'norm': norm})


def random_params(model):
  """Weights with biases, factors and statistics that are not those of the start."""
  params = jax.device_get(model.init(jax.random.key(0), 0.4, 0.25))
  random = np.random.default_rng(0)
  params['out'] = {**params['out'], 'kernel': params['out']['kernel'] / 8}
  leaves, tree = jax.tree.flatten(params)
  return jax.tree.unflatten(tree, [
      leaf if leaf.ndim != 1 else (leaf + random.uniform(0, 0.3, leaf.shape)).astype(
          np.float32) for leaf in leaves])


def run_onnx(model, params, image_byxc):
  content = NETWORKS[model.settings['name']].write_onnx(model, params)
  session = runtime.InferenceSession(content, providers=['CPUExecutionProvider'])
  return session.run(['score'], {'image': np.moveaxis(image_byxc, 3, 1)})[0][:, 0]


@pytest.mark.long
@pytest.mark.parametrize('model', [
    small_model(n_xy=33, n_z=3), small_model(n_xy=49, n_z=1),
    small_model(n_xy=33, n_z=3, coarse=3), unet('unet', 'group'), unet('unet', 'batch'),
    unet('resunet', 'group'), unet('resunet', 'none')],
    ids=['33x3', '49x1', 'coarse', 'unet', 'unet batch', 'resunet', 'resunet none'])
def test_scores_are_those_of_jax(model):
  params = random_params(model)
  rows, columns = model.image_px(20, True), model.image_px(24, True)
  image = np.random.default_rng(1).random((2, rows, columns, model.n_z)).astype(
      np.float32)
  found = run_onnx(model, params, image)
  expected = special.expit(np.asarray(model.apply_dense(params, image), np.float64))
  assert expected.std() > 1e-3
  rows, columns = (min(a, b) for a, b in zip(found.shape[1:], expected.shape[1:],
                                             strict=True))
  assert rows >= 20 and columns >= 24
  np.testing.assert_allclose(found[:, :rows, :columns], expected[:, :rows, :columns],
                             atol=1e-5)


def test_a_padded_network_scores_neighbourhoods():
  model = small_model(n_xy=33, n_z=3, padding='same')
  params = random_params(model)
  patches = np.random.default_rng(1).random((5, 33, 33, 3)).astype(np.float32)
  found = run_onnx(model, params, patches)
  expected = special.expit(np.asarray(model.apply(params, patches), np.float64))
  np.testing.assert_allclose(found[:, 0, 0], expected, atol=1e-5)
