"""The registry of networks: what facts say is true of the networks themselves."""
import jax
import jax.numpy as jnp
import pytest

from fibjax import models
from fibjax.config import base, to_dict
from fibjax.errors import InputError
from fibjax.models.facts import NETWORK
from fibjax.models.model import Model, Network


def settings_of(name, **changes):
  config = base()
  config.model.name = name
  config.model.update(base=4, depth=2, **changes)
  return config


@pytest.mark.parametrize('name', models.NETWORKS)
def test_facts_say_what_a_network_depends_on(name):
  facts = models.NETWORKS[name].facts
  windows = {models.make_model(settings_of(name, n_xy=n_xy).model).window_px
             for n_xy in (33, 49)}
  assert facts.has_neighbourhood == (len(windows) == 2)
  assert facts.role == NETWORK
  for n_z in (3, 7):
    content = to_dict(settings_of(name, n_z=n_z))
    assert str(n_z) in facts.describe(content) and str(n_z) in facts.summary(content)[1]


def violations(name, **changes):
  config = settings_of(name)
  for key, value in changes.items():
    section, setting = key.split('__')
    config[section][setting] = value
  return {rule.key for rule in models.NETWORKS[name].facts.rules(config)
          if not rule.holds}


@pytest.mark.parametrize('name', models.NETWORKS)
@pytest.mark.parametrize('padding', ['same', 'context'])
@pytest.mark.parametrize('sampling', ['dense', 'patch'])
def test_rules_allow_the_sampling_a_network_can_be_trained_with(name, padding,
                                                                sampling):
  broken = violations(name, model__padding=padding, train__sampling=sampling)
  model = models.make_model(settings_of(name, padding=padding).model)
  params = jax.eval_shape(model.init, jax.random.key(0))
  dropout = models.Dropout(jax.random.key(0), 0.1, 0.1)
  if sampling == 'dense':
    window = jnp.zeros((1, *(model.window_px + 15,) * 2, 3))
    try:
      jax.eval_shape(lambda p, w: model.apply_dense(p, w, dropout), params, window)
    except ValueError:
      assert broken == {'train.sampling'}
      return
    assert not broken
  elif models.NETWORKS[name].facts.has_neighbourhood:
    assert not broken
  else:  # a whole window evaluated for one voxel: possible, but a waste
    assert broken == {'train.sampling'}


@pytest.mark.parametrize('name', models.NETWORKS)
def test_published_weights_and_sizes_belong_to_the_published_network(name):
  is_published = models.NETWORKS[name].facts.has_neighbourhood
  weights = {'model__padding': 'same', 'train__weights': 'weights.h5',
             'train__sampling': 'patch' if is_published else 'dense',
             'model__standardise': False}
  assert violations(name, **weights) == (set() if is_published else {'train.weights'})
  assert violations(name, sweep__sizes=('33x1',)) == (
      set() if is_published else {'sweep.sizes'})
  if is_published:
    assert violations(name, **weights | {'model__standardise': True}) == {
        'train.weights'}


def test_a_new_network_is_a_module_and_a_line(monkeypatch):
  def build(config):
    def apply(params, patches_byxc, dropout=None):
      del dropout
      return jnp.mean(patches_byxc, (1, 2, 3)) * params['factor']
    return Model(lambda key, mean=0., deviation=1.: {'factor': jnp.ones(())}, apply,
                 None, config['n_z'], 3, 1, 1, lambda t: t + 2, None, 36, dict(config))

  facts = models.NETWORKS['unet'].facts._replace(title='mean')
  monkeypatch.setitem(models.NETWORKS, 'mean', Network(build, facts))
  model = models.make_model({'name': 'mean', 'n_z': 1})
  params = model.init(jax.random.key(0))
  assert float(model.apply(params, jnp.full((1, 3, 3, 1), 2.))[0]) == 2
  with pytest.raises(InputError, match='config.model.name.*mean'):
    models.make_model({'name': 'median', 'n_z': 1})
