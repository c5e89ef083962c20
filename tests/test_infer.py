import json

import jax
import numpy as np
import pytest

from fibjax import infer
from fibjax.checks import InputError
from fibjax.data import volume as volumes
from tests.test_dense import random_params
from tests.test_patch_cnn import oracle, small_model


@pytest.fixture(scope='module')
def film(tmp_path_factory):
  folder = tmp_path_factory.mktemp('film')
  array = np.random.default_rng(0).random((3, 37, 30)).astype(np.float32)
  with volumes.new_volume(folder / 'film', array.shape, np.float32, (50., 10., 10.),
                          shard_zyx=(2, 20, 20)) as volume:
    volumes.write_box(volume, (0, 0, 0), array)
  return array, volumes.open_volume(folder / 'film')


@pytest.fixture(scope='module')
def context_model():
  model = small_model(33, 3)
  return model, random_params(model)


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def scored(model, params, film, out, **options):
  volume = infer.score_volume(model, params, film, out, **options)
  return volumes.read_box(volume, (0, 0, 0), volume.shape)


def test_dense_scores_equal_the_network_voxel_by_voxel(film, context_model, tmp_path):
  array, volume = film
  model, params = context_model
  found = scored(model, params, volume, tmp_path / 's', tile_px=32)
  before, after = model.before_px, model.window_px - model.before_px - 1
  padded = np.pad(array, ((1, 1), (before, after), (before, after)), 'reflect')
  for z, y, x in [(0, 0, 0), (2, 36, 29), (1, 18, 3), (0, 36, 15), (2, 7, 29)]:
    window = padded[z:z + 3, y:y + model.window_px, x:x + model.window_px]
    expected = sigmoid(oracle(params, np.moveaxis(window, 0, -1), 'context'))
    assert abs(found[z, y, x] - expected) < 1e-4
  assert volumes.open_volume(tmp_path / 's').voxel_size_zyx_nm == (50., 10., 10.)


@pytest.mark.parametrize('mode', ['patch', 'auto'])
def test_the_published_network_voxel_by_voxel(film, tmp_path, mode):
  array, volume = film
  model = small_model(33, 1, 'same')
  params = random_params(model)
  found = scored(model, params, volume, tmp_path / 's', mode=mode, batch=500)
  padded = np.pad(array, ((0, 0), (16, 16), (16, 16)), 'reflect')
  for z, y, x in [(0, 0, 0), (2, 36, 29), (1, 18, 3), (0, 36, 15)]:
    window = padded[z, y:y + 33, x:x + 33, None]
    assert abs(found[z, y, x] - sigmoid(oracle(params, window, 'same'))) < 1e-4


def test_both_modes_and_all_tile_sizes_agree(context_model, tmp_path):
  model, params = context_model
  array = np.random.default_rng(1).random((1, 20, 24)).astype(np.float32)
  with volumes.new_volume(tmp_path / 'film', array.shape, np.float32, None) as made:
    volumes.write_box(made, (0, 0, 0), array)
  volume = volumes.open_volume(tmp_path / 'film')
  dense = scored(model, params, volume, tmp_path / 'd', tile_px=32)
  tiles = scored(model, params, volume, tmp_path / 't', tile_px=16)
  patch = scored(model, params, volume, tmp_path / 'p', mode='patch', batch=100)
  np.testing.assert_allclose(dense, patch, atol=1e-4)
  np.testing.assert_allclose(dense, tiles, atol=1e-6)


def test_an_interrupted_scoring_goes_on_and_ends_the_same(film, context_model, tmp_path,
                                                          monkeypatch):
  _, volume = film
  model, params = context_model
  whole = scored(model, params, volume, tmp_path / 'whole', tile_px=16)
  write, written = infer.write_box, []

  def dying_write(target, start, array):
    written.append(start)
    if len(written) == 2:
      raise KeyboardInterrupt
    write(target, start, array)

  monkeypatch.setattr(infer, 'create_volume', _sharded(infer.create_volume))
  monkeypatch.setattr(infer, 'write_box', dying_write)
  with pytest.raises(KeyboardInterrupt):
    scored(model, params, volume, tmp_path / 'cut', tile_px=16)
  assert not (tmp_path / 'cut').exists()
  manifest = (tmp_path / 'cut.manifest.jsonl').read_text().splitlines()
  assert [json.loads(line) for line in manifest[1:]] == [list(written[0])]
  monkeypatch.setattr(infer, 'write_box', write)
  again = scored(model, params, volume, tmp_path / 'cut', tile_px=16)
  np.testing.assert_allclose(again, whole, atol=1e-6)
  assert sorted(p.name for p in tmp_path.iterdir()) == ['cut', 'whole']


def _sharded(create):
  def create_small(*args, **options):
    return create(*args, **{'shard_zyx': (2, 16, 16), **options})
  return create_small


def test_scores_of_other_weights_are_not_mixed(film, context_model, tmp_path):
  _, volume = film
  model, params = context_model
  scored(model, params, volume, tmp_path / 's', tile_px=16)
  other = jax.tree.map(lambda p: p + 1, params)
  with pytest.raises(InputError, match='weights'):
    infer.score_volume(model, other, volume, tmp_path / 's')


@pytest.mark.parametrize('extent, largest, expected', [
    (320, 256, 160), (256, 256, 256), (257, 256, 144), (10, 256, 16), (37, 32, 32)])
def test_tiles_are_equal_and_cover(extent, largest, expected):
  assert infer.tile_side(extent, largest, 16) == expected
