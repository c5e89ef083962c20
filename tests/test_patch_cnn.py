import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from fibjax.errors import InputError
from fibjax.models import Dropout, count_weights, make_model
from fibjax.models.dropout import drop
from fibjax.models.model import SIZES_Z
from fibjax.models.patch_cnn import SIZES_XY
from fibjax.report import published
from tests.helpers import patch_cnn_logit, small_model

TABLES = Path(__file__).parents[1] / 'third_party' / 'skarberg2021' / 'tables.json'


def published_count(n_xy, n_z):
  return json.loads(TABLES.read_text())['table1_weights']['counts'][str(n_xy)][str(n_z)]


def count(n_xy, n_z, padding):
  shapes = jax.eval_shape(small_model(n_xy, n_z, padding).init, jax.random.key(0))
  return count_weights(shapes)


@pytest.mark.parametrize('n_xy', published.SIZES_XY)
@pytest.mark.parametrize('n_z', published.SIZES_Z)
@pytest.mark.parametrize('padding', ['same', 'context'])
def test_weight_counts_are_those_of_table_1(n_xy, n_z, padding):
  assert count(n_xy, n_z, padding) == published_count(n_xy, n_z)


@pytest.mark.parametrize(('n_xy', 'n_z'), [(33, 13), (129, 15), (241, 1), (241, 15)])
def test_larger_networks_have_the_weights_of_the_published_formula(n_xy, n_z):
  assert set(published.SIZES_XY) < set(SIZES_XY)
  assert set(published.SIZES_Z) < set(SIZES_Z)
  n = n_xy // 16
  assert count(n_xy, n_z, 'context') == 10240 * n ** 2 + 144 * n_z + 183937


@pytest.mark.parametrize('padding', [
    pytest.param('same', marks=pytest.mark.long), 'context'])
def test_logits_equal_the_network_written_out(padding):
  model = small_model(33, 3, padding)
  params = jax.jit(model.init)(jax.random.key(1))
  params = jax.tree.map(lambda p: p + 0.05 * jax.random.normal(
      jax.random.key(p.size), p.shape), params)
  side = model.window_px
  patches = jax.random.normal(jax.random.key(2), (2, side, side, 3))
  expected = [patch_cnn_logit(params, patch, padding) for patch in patches]
  np.testing.assert_allclose(jax.jit(model.apply)(params, patches), expected, rtol=1e-4,
                             atol=1e-4)


def test_glorot_uniform_limits_and_zero_biases():
  params = jax.jit(small_model(33, 3).init)(jax.random.key(0))
  kernel = params['conv3a']['kernel']
  limit = np.sqrt(6 / (9 * 32 + 9 * 64))
  assert 0.95 * limit < np.abs(kernel).max() <= limit
  assert all((layer['bias'] == 0).all() for layer in params.values()
             if 'bias' in layer)


def test_dropout_keeps_the_mean_and_drops_whole_channels():
  ones = jnp.ones((400, 2, 2, 50))
  dropped = drop(jax.random.key(0), ones, 0.3, (400, 1, 1, 50))
  assert set(np.unique(np.round(dropped, 4))) == {0., np.float32(round(1 / 0.7, 4))}
  assert abs(float(dropped.mean()) - 1) < 5 * np.sqrt(0.3 / 0.7 / 20000)
  assert (dropped == dropped[:, :1, :1]).all()


def test_dropout_of_rate_zero_changes_nothing():
  model = small_model(33, 1, 'same')
  params = jax.jit(model.init)(jax.random.key(1))
  patches = jax.random.normal(jax.random.key(2), (3, 33, 33, 1))
  none = Dropout(jax.random.key(3), 0., 0.)
  np.testing.assert_array_equal(jax.jit(model.apply)(params, patches, none),
                                jax.jit(model.apply)(params, patches))


@pytest.mark.parametrize('key, value', [('n_xy', 32), ('n_z', 2), ('padding', 'full'),
                                        ('name', 'vit')])
def test_unknown_settings_are_named(key, value):
  settings = {'name': 'patch_cnn', 'n_xy': 33, 'n_z': 1, 'padding': 'same', key: value}
  with pytest.raises(InputError, match=rf'config\.model\.{key}'):
    make_model(ConfigDict(settings))
