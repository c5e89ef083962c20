import jax
import numpy as np
import pytest

from fibjax.errors import InputError
from fibjax.inference import network_scorer
from fibjax.inference.score import score_array, score_volume
from fibjax.volumes.volume import new_volume, open_volume, read_box, write_box
from tests.helpers import patch_cnn_logit, random_params, small_model


@pytest.fixture(scope='module')
def film(tmp_path_factory):
  folder = tmp_path_factory.mktemp('film')
  array = np.random.default_rng(0).random((3, 37, 30)).astype(np.float32)
  with new_volume(folder / 'film', array.shape, np.float32, (50., 10., 10.),
                  shard_zyx=(2, 20, 20)) as volume:
    write_box(volume, (0, 0, 0), array)
  return array, open_volume(folder / 'film')


@pytest.fixture(scope='module')
def context_model():
  model = small_model(33, 3)
  return model, random_params(model)


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def scored(model, params, film, out, **options):
  scorer = network_scorer.network_scorer([model], [params], **options)
  volume = score_volume(scorer, film, out)
  return read_box(volume, (0, 0, 0), volume.shape)


@pytest.mark.long
def test_dense_scores_equal_the_network_voxel_by_voxel(film, context_model, tmp_path):
  array, volume = film
  model, params = context_model
  found = scored(model, params, volume, tmp_path / 's', tile_px=32)
  before, after = model.before_px, model.window_px - model.before_px - 1
  padded = np.pad(array, ((1, 1), (before, after), (before, after)), 'reflect')
  for z, y, x in [(0, 0, 0), (2, 36, 29), (1, 18, 3), (0, 36, 15), (2, 7, 29)]:
    window = padded[z:z + 3, y:y + model.window_px, x:x + model.window_px]
    expected = sigmoid(patch_cnn_logit(params, np.moveaxis(window, 0, -1), 'context'))
    assert abs(found[z, y, x] - expected) < 1e-4
  assert open_volume(tmp_path / 's').voxel_size_zyx_nm == (50., 10., 10.)


@pytest.mark.long
@pytest.mark.parametrize('mode', ['patch', 'auto'])
def test_the_published_network_voxel_by_voxel(film, tmp_path, mode):
  array, volume = film
  model = small_model(33, 1, 'same')
  params = random_params(model)
  found = scored(model, params, volume, tmp_path / 's', mode=mode, batch=500)
  padded = np.pad(array, ((0, 0), (16, 16), (16, 16)), 'reflect')
  for z, y, x in [(0, 0, 0), (2, 36, 29), (1, 18, 3), (0, 36, 15)]:
    window = padded[z, y:y + 33, x:x + 33, None]
    assert abs(found[z, y, x] - sigmoid(patch_cnn_logit(params, window, 'same'))) < 1e-4


@pytest.mark.long
def test_both_modes_agree_and_no_bit_depends_on_the_tile(context_model, tmp_path):
  model, params = context_model
  array = np.random.default_rng(1).random((1, 40, 24)).astype(np.float32)
  with new_volume(tmp_path / 'film', array.shape, np.float32, None) as made:
    write_box(made, (0, 0, 0), array)
  volume = open_volume(tmp_path / 'film')
  whole = scored(model, params, volume, tmp_path / 'whole')
  for tile_px in (11, 16, 32):
    tiles = scored(model, params, volume, tmp_path / f't{tile_px}', tile_px=tile_px)
    np.testing.assert_array_equal(tiles, whole)
  patch = scored(model, params, volume, tmp_path / 'p', mode='patch', batch=100)
  np.testing.assert_allclose(patch, whole, atol=1e-4)


@pytest.mark.long
def test_one_device_gives_the_scores_of_two(context_model, film, tmp_path, monkeypatch):
  _, volume = film
  two = scored(*context_model, volume, tmp_path / 'two')
  assert len(jax.local_devices()) == 2
  monkeypatch.setattr(jax, 'local_devices', lambda: jax.devices()[:1])
  one = scored(*context_model, volume, tmp_path / 'one')
  np.testing.assert_allclose(one, two, atol=1e-6)


@pytest.mark.long
@pytest.mark.parametrize('n_xy, tile_yx', [(33, (512, 512)), (113, (1024, 256))])
def test_the_memory_of_a_tile_is_what_the_compiler_plans(n_xy, tile_yx):
  model = small_model(n_xy, 3)
  params = jax.eval_shape(model.init, jax.random.key(0))
  window = jax.ShapeDtypeStruct((1, *map(model.dense_px, tile_yx), 3), np.float32)
  planned = jax.jit(model.apply_dense, static_argnums=3).lower(
      params, window, None, tile_yx).compile().memory_analysis().temp_size_in_bytes
  assert 0.6 * model.dense_bytes(tile_yx) < planned < model.dense_bytes(tile_yx)


@pytest.mark.parametrize('in_work', [1, 2])
def test_tiles_follow_the_memory(context_model, monkeypatch, in_work):
  model, _ = context_model
  monkeypatch.setattr(network_scorer.devices, 'count_in_work', lambda: in_work)
  assert network_scorer.choose_tile((1000, 768), model, 20) == (1024, 768)
  whole = in_work * model.dense_bytes((1000, 768))
  assert network_scorer.choose_tile((1000, 768), model, (whole - 1) / 1e9) == (512, 768)
  for gigabytes in (0.3, 0.6, 1.2):
    tile_yx = network_scorer.choose_tile((1000, 768), model, gigabytes)
    needed = in_work * model.dense_bytes(tile_yx)
    assert 0.3 * gigabytes * 1e9 < needed <= gigabytes * 1e9
  with pytest.raises(InputError, match='--memory_gb: got 0.001') as error:
    network_scorer.choose_tile((1000, 768), model, 0.001)
  # What the message asks for is enough.
  gigabytes = float(str(error.value).split('at least ')[1].split()[0])
  network_scorer.choose_tile((1000, 768), model, gigabytes + 0.01)


def test_scores_of_other_weights_are_not_mixed(film, context_model, tmp_path):
  _, volume = film
  model, params = context_model
  scored(model, params, volume, tmp_path / 's', tile_px=16)
  other = jax.tree.map(lambda p: p + 1, params)
  with pytest.raises(InputError, match='weights'):
    scored(model, other, volume, tmp_path / 's')


@pytest.mark.parametrize('extent, largest, expected', [
    (320, 256, 160), (256, 256, 256), (257, 256, 144), (10, 256, 16), (37, 32, 32)])
def test_tiles_are_equal_and_cover(extent, largest, expected):
  assert network_scorer.tile_side(extent, largest, 16) == expected


@pytest.mark.parametrize('settings', [
    {}, pytest.param({'dihedral': True}, marks=pytest.mark.long), {'tile_px': 16}])
def test_an_array_gets_the_scores_of_the_volume(context_model, film, tmp_path,
                                                settings):
  array, volume = film
  model, params = context_model
  scorer = network_scorer.network_scorer([model, model], [params, params], **settings)
  stored = score_volume(scorer, volume, tmp_path / 's')
  expected = read_box(stored, (0, 0, 0), stored.shape, channel=None)
  np.testing.assert_array_equal(score_array(scorer.open(1.5), array), expected)
  with pytest.raises(InputError, match='image_zyx'):
    score_array(scorer.open(1.5), array[0])
