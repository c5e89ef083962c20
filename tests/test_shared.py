"""Models as folders: the same numbers, other numbers of slices, damaged files."""
import json

import jax
import numpy as np
import pytest

from fibjax import models
from fibjax.errors import InputError
from fibjax.methods import shared
from tests.helpers import small_model

PREPARE = {'scale': 'standard', 'gradient': True}


def random_params(network, seed=0):
  return jax.device_get(network.init(jax.random.key(seed), 0.4, 0.2))


def unet(n_z, norm='group'):
  return models.make_model({'name': 'unet', 'n_z': n_z, 'base': 4, 'depth': 1,
                            'norm': norm})


def write(folder, *networks):
  params = tuple(random_params(network, seed) for seed, network in enumerate(networks))
  shared.write_model(folder, shared.SharedModel(
      networks, params, False, PREPARE, {'sigma_px': 0.0, 'threshold': 0.5}), '# card')
  return params


def assert_equal(tree, other):
  jax.tree.map(np.testing.assert_array_equal, tree, other)


def test_a_model_has_the_same_bits_when_it_is_read(tmp_path):
  networks = small_model(), unet(3, 'batch')
  params = write(tmp_path / 'm', *networks)
  read = shared.read_model(tmp_path / 'm')
  for tree, other in zip(read.params, params, strict=True):
    assert_equal(tree, other)
  assert [one.settings for one in read.networks] == [one.settings for one in networks]
  assert (read.prepare, read.dihedral) == (PREPARE, False)
  assert read.postprocess == {'sigma_px': 0.0, 'threshold': 0.5}
  assert (tmp_path / 'm' / shared.CARD).read_text() == '# card'
  with pytest.raises(InputError, match='exists'):
    write(tmp_path / 'm', small_model())


@pytest.mark.parametrize('make', [lambda n_z: small_model(n_z=n_z), unet])
def test_a_start_with_more_slices_ignores_the_outer_ones(tmp_path, make):
  old, new = make(3), make(7)
  params, = write(tmp_path / 'm', old)
  started = shared.start_weights(tmp_path / 'm', new, 'standard')
  side = old.window_px
  window = np.random.default_rng(0).random((1, side, side, 7)).astype(np.float32)
  np.testing.assert_allclose(new.apply(started, window),
                             old.apply(params, window[..., 2:5]), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize('make', [lambda n_z: small_model(n_z=n_z), unet])
def test_a_start_with_fewer_slices_sees_the_outermost_ones_again(tmp_path, make):
  old, new = make(7), make(3)
  params, = write(tmp_path / 'm', old)
  started = shared.start_weights(tmp_path / 'm', new, 'standard')
  side = old.window_px
  window = np.random.default_rng(1).random((1, side, side, 3)).astype(np.float32)
  repeated = window[..., [0, 0, 0, 1, 2, 2, 2]]
  np.testing.assert_allclose(new.apply(started, window), old.apply(params, repeated),
                             rtol=2e-5, atol=2e-6)


def test_a_start_with_a_wider_neighbourhood_gives_the_same_scores(tmp_path):
  old, new = small_model(n_z=3), small_model(n_xy=97, n_z=5)
  params, = write(tmp_path / 'm', old)
  started = shared.start_weights(tmp_path / 'm', new, 'standard')
  side, edge = new.window_px, new.before_px - old.before_px
  window = np.random.default_rng(2).random((1, side, side, 5)).astype(np.float32)
  inner = window[:, edge:edge + old.window_px, edge:edge + old.window_px, 1:4]
  np.testing.assert_allclose(new.apply(started, window), old.apply(params, inner),
                             rtol=2e-5, atol=2e-6)


def test_a_start_of_another_architecture_is_refused(tmp_path):
  write(tmp_path / 'm', small_model())
  for other in (small_model(n_xy=49), unet(1)):
    with pytest.raises(InputError, match='only n_z may differ'):
      shared.start_weights(tmp_path / 'm', other, 'standard')


def test_the_start_that_is_shipped_is_that_of_the_network(tmp_path, monkeypatch):
  monkeypatch.setattr(shared, '_SHIPPED', tmp_path)
  write(tmp_path / 'narrow', small_model(n_z=3))
  write(tmp_path / 'wide', small_model(n_xy=49))
  write(tmp_path / 'unet', unet(3))
  def of(network, start=shared.SHIPPED):
    return shared.resolve_start(start, network.settings)
  assert of(small_model(n_z=7)) == 'narrow' and of(small_model(n_xy=49)) == 'wide'
  assert of(small_model(n_xy=65)) == '' == of(small_model(padding='same'))
  assert of(small_model(), 'wide') == 'wide' and of(small_model(), '') == ''
  assert shared.resolve_start(shared.SHIPPED, {'name': 'otsu'}) == ''


def test_a_start_for_other_grey_values_is_refused(tmp_path):
  write(tmp_path / 'm', small_model())
  with pytest.raises(InputError, match=r"config\.train\.start.*'standard'"):
    shared.start_weights(tmp_path / 'm', small_model(), 'dtype')


def test_every_flipped_byte_of_the_weights_is_noticed(tmp_path):
  write(tmp_path / 'm', unet(1))
  path = tmp_path / 'm' / shared.WEIGHTS
  content = path.read_bytes()
  for place in np.random.default_rng(0).integers(0, len(content), 20):
    damaged = bytearray(content)
    damaged[place] ^= 4
    path.write_bytes(damaged)
    with pytest.raises(InputError, match='other bytes'):
      shared.read_model(tmp_path / 'm')


def test_damaged_and_foreign_files_are_named(tmp_path):
  write(tmp_path / 'm', unet(1))
  path = tmp_path / 'm' / shared.MODEL
  content = json.loads(path.read_text())
  weights = tmp_path / 'm' / shared.WEIGHTS
  for changed, match in (
      ({**content, 'format': 'other 2'}, "format 'other 2'"), ([], 'an object'),
      ({**content, 'networks': [{'name': 'unet'}]}, 'KeyError'),
      ({**content, 'networks': 3}, 'TypeError'),
      ({**content, 'networks': []}, 'other networks'),
      ({**content, 'networks': content['networks'] * 2}, 'no array 1/'),
      ({**content, 'networks': [dict(content['networks'][0], base=8)]}, 'of shape')):
    path.write_text(json.dumps(changed))
    with pytest.raises(InputError, match=match):
      shared.read_model(tmp_path / 'm')
  path.write_text(json.dumps(content))
  weights.write_bytes(b'\x80\x04N.')  # a pickle
  with pytest.raises(InputError, match='other bytes'):
    shared.read_model(tmp_path / 'm')
  path.write_text(json.dumps(content | {
      'weights': shared.checksums.hash_file(weights)}))
  with pytest.raises(InputError, match='a model of'):
    shared.read_model(tmp_path / 'm')
  weights.unlink()
  with pytest.raises(InputError, match='got no file'):
    shared.read_model(tmp_path / 'm')


def test_names_stand_for_the_models_of_fibjax(tmp_path, monkeypatch):
  monkeypatch.setattr(shared, '_SHIPPED', tmp_path)
  monkeypatch.chdir(tmp_path.parent)
  params, = write(tmp_path / 'films_33x7', unet(1))
  assert shared.shipped_names() == ['films_33x7'] and shared.is_shared('films_33x7')
  assert_equal(shared.read_model('films_33x7').params[0], params)
  with pytest.raises(InputError, match="did you mean 'films_33x7'"):
    shared.read_model('films_33x9')
  with pytest.raises(InputError, match='no model.json'):
    shared.read_model(tmp_path)
