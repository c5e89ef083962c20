"""U-Nets: numbers of weights, what a voxel sees, tiles without seams, training."""
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fibjax import models
from fibjax.config import load, validate
from fibjax.errors import InputError
from fibjax.inference.network_scorer import network_scorer
from fibjax.inference.score import score_volume
from fibjax.methods.registry import make_method
from fibjax.models import Dropout, conv, layers
from fibjax.models.model import STATISTICS
from fibjax.training import members_table, sampling, single, step, stored
from fibjax.volumes.volume import new_volume, open_volume, read_box, write_box
from tests.helpers import tiny_config


def make(name='resunet', base=4, depth=2, norm='group', n_z=1, seed=None):
  model = models.make_model({'name': name, 'n_z': n_z, 'base': base, 'depth': depth,
                             'norm': norm})
  if seed is None:
    return model
  model = model._replace(apply_dense=jax.jit(model.apply_dense,
                                             static_argnames='out_yx'))
  keys = (jax.random.fold_in(jax.random.key(seed), k) for k in itertools.count())
  params = {group: weights if group in ('input', STATISTICS) else jax.tree.map(
      lambda leaf: leaf + 0.1 * jax.random.normal(next(keys), leaf.shape), weights)
            for group, weights in jax.jit(model.init)(jax.random.key(seed)).items()}
  return model, params


@pytest.mark.parametrize('name, base, depth, norm, weights', [
    ('resunet', 64, 3, 'batch', 8_219_778), ('resunet', 32, 3, 'group', 2_057_794),
    ('resunet', 16, 3, 'group', 515_874), ('unet', 64, 4, 'none', 31_030_658),
    ('unet', 32, 4, 'none', 7_759_554), ('unet', 16, 4, 'none', 1_940_834)])
def test_weights_are_as_many_as_in_the_papers(name, base, depth, norm, weights):
  model = make(name, base, depth, norm)
  assert models.count_weights(models.empty_params(model)) == weights


@pytest.mark.long
@pytest.mark.parametrize('name, depth, reach', [
    ('resunet', 1, 8), ('resunet', 2, 20), ('unet', 1, 10), ('unet', 2, 26)])
def test_a_voxel_sees_its_reach_and_no_farther(name, depth, reach):
  model, params = make(name, depth=depth, norm='group', seed=0)
  assert model.before_px == layers.margin_px(reach, depth)
  seen, cell = 0, 2 ** depth
  side = model.window_px + cell

  @jax.jit
  @jax.grad
  def slope(image, phase):
    tile = model.apply_dense(params, image[None, :, :, None], out_yx=(cell, cell))
    return tile[0, phase, phase]

  for phase, seed in itertools.product(range(cell), range(2)):
    image = jax.random.normal(jax.random.key(seed), (side, side))
    slopes = np.abs(np.asarray(slope(image, phase)))
    rows = np.flatnonzero(slopes.sum(1)) - model.before_px - phase
    seen = max(seen, *abs(rows))
  assert seen == reach


@pytest.mark.long
@pytest.mark.parametrize('name, norm', [('resunet', 'group'), ('resunet', 'batch'),
                                        ('unet', 'none')])
def test_tiles_have_no_seams(name, norm, tmp_path):
  model, params = make(name, norm=norm, n_z=3, seed=1)
  array = np.random.default_rng(1).random((3, 70, 90), np.float32)
  with new_volume(tmp_path / 'v', array.shape, np.float32, None) as made:
    write_box(made, (0, 0, 0), array)
  source = open_volume(tmp_path / 'v')
  whole, tiled = (read_box(
      score_volume(network_scorer([model], [params], tile_px=tile), source,
                   tmp_path / str(tile)),
      (0, 0, 0), array.shape) for tile in (0, 32))
  np.testing.assert_allclose(tiled, whole, atol=1e-5)
  m = model.before_px
  padded = np.pad(array, ((1, 1), (m, m + 2), (m, m + 2)), 'reflect')
  expected = jax.nn.sigmoid(model.apply_dense(
      params, np.moveaxis(padded[1:4], 0, -1)[None], out_yx=(70, 90)))[0]
  np.testing.assert_allclose(whole[1], expected, atol=1e-5)
  assert np.ptp(whole) > 0.05


@pytest.mark.long
@pytest.mark.parametrize('name', ['resunet', 'unet'])
def test_cells_shift_with_the_image(name):
  model, params = make(name, seed=2)
  cell, out = 4, 16
  side = out + 2 * model.before_px + cell
  image = jax.random.normal(jax.random.key(0), (1, side, side, 1))
  near, far = (model.apply_dense(params, image[:, s:, s:], out_yx=(out, out))
               for s in (0, cell))
  np.testing.assert_allclose(near[:, cell:, cell:], far[:, :-cell, :-cell], atol=1e-5)
  apart = model.apply_dense(params, image[:, 1:, 1:], out_yx=(out, out))
  assert abs(near[:, 1:, 1:] - apart[:, :-1, :-1]).max() > 1e-4  # within a cell not


@pytest.mark.long
def test_a_voxel_alone_is_the_voxel_in_a_tile():
  model, params = make(n_z=3, seed=3)
  image = jax.random.normal(jax.random.key(1), (1, model.window_px, model.window_px, 3))
  tile = model.apply_dense(params, image, out_yx=(1, 1))
  np.testing.assert_allclose(model.apply(params, image), tile[:, 0, 0], atol=1e-6)


@pytest.mark.long
def test_a_unit_without_its_last_convolution_is_its_shortcut():
  model, params = make(depth=1, seed=4)
  for level in ('down1', 'up0'):
    params[level]['conv_b'] = jax.tree.map(jnp.zeros_like, params[level]['conv_b'])
  image = np.random.default_rng(0).normal(size=(1, 20, 20, 1)).astype(np.float32)
  with jax.default_matmul_precision('float32'):
    found = model.apply_dense(params, jnp.asarray(image), out_yx=(4, 4))

  def convolve(layer, maps, stride=1):
    return conv.conv_lax(maps, layer['kernel'], padding='SAME',
                         stride=stride) + layer['bias'][None, None, None]

  def normalise(layer, maps):  # of 4 channels: one group
    centred = maps - maps.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred ** 2).mean(-1, keepdims=True) + 1e-5)
    return scaled * layer['scale'][None, None, None] + layer['shift'][None, None, None]

  stem = convolve(params['stem_b'], jnp.maximum(normalise(
      params['stem_norm'], convolve(params['stem_a'], image)), 0))
  stem += convolve(params['stem_shortcut'], image)
  low = convolve(params['down1']['shortcut'], stem[:, ::2, ::2])
  joined = jnp.concatenate([low.repeat(2, 1).repeat(2, 2), stem], 3)
  values = convolve(params['out'], convolve(params['up0']['shortcut'], joined))
  expected = (values[..., 1] - values[..., 0])[:, 8:12, 8:12]
  np.testing.assert_allclose(found, expected, atol=1e-4)


def test_groups_are_of_about_sixteen_channels_of_one_pixel():
  maps = jax.random.normal(jax.random.key(0), (2, 3, 3, 48)) * 3 + 1
  norm = layers.Norm('group')
  found = norm.apply(norm.init(jax.random.key(0), maps, False), maps, False)
  grouped = np.asarray(found).reshape(2, 3, 3, 3, 16)
  np.testing.assert_allclose(grouped.mean(-1), 0, atol=1e-5)
  np.testing.assert_allclose(grouped.std(-1), 1, atol=1e-3)


@pytest.mark.long
def test_running_statistics_follow_the_batch():
  model, params = make('unet', norm='batch', seed=5)
  dropout = Dropout(jax.random.key(0), 0., 0.)
  images = jax.random.normal(jax.random.key(1), (3, *(model.window_px + 15,) * 2, 1))
  trained = model.apply_dense(params, images, dropout)
  before = model.apply_dense(params, images)
  update = jax.jit(model.update_statistics)
  for _ in range(150):
    params = update(params, images, dropout)
  np.testing.assert_allclose(model.apply_dense(params, images), trained, atol=1e-3)
  assert abs(before - trained).max() > 0.1
  slopes = jax.grad(lambda p: jnp.sum(model.apply_dense(p, images)))(params)
  assert all((np.asarray(leaf) == 0).all()
             for leaf in jax.tree.leaves(slopes[STATISTICS]))


@pytest.mark.parametrize('stride, side', [(2, 9), (2, 10), (3, 11)])
def test_strided_convolution_is_xlas(stride, side):
  keys = jax.random.split(jax.random.key(0))
  maps = jax.random.normal(keys[0], (2, side, side + 1, 3))
  kernel = jax.random.normal(keys[1], (3, 3, 3, 5))
  np.testing.assert_allclose(conv.conv_strided(maps, kernel, stride),
                             conv.conv_lax(maps, kernel, stride=stride), atol=1e-5)


def noisy_regions(model, seed, side=32, count=2):
  """Stripes in noise: what a voxel is cannot be told from the voxel alone."""
  random = np.random.default_rng(seed)
  margin = model.before_px
  whole = side + 2 * margin
  phase = random.integers(0, 16, count)
  rows = np.arange(whole)[None, :, None] + phase[:, None, None]
  solid = np.broadcast_to((rows // 8) % 2, (count, whole, whole))
  images = solid + random.normal(0, 0.7, solid.shape)
  masks = solid[:, margin:-margin, margin:-margin].astype(np.uint8)
  return sampling.put_regions(images[..., None].astype(np.float32), masks, False)


def unet_config(**changes):
  settings = tiny_config()
  settings.model.update(name='resunet', base=8, depth=2, n_z=1, padding='context',
                        standardise=True)
  settings.train.update(epochs=6, steps_per_epoch=8, batch=2, crop_px=16,
                        optimizer='adam', log10_learning_rate=-2., sampling='dense',
                        schedule='cosine', val_windows=4, dropout_spatial=0.)
  settings.train.update(**changes)
  validate(settings)
  return settings


def train(settings, model, sides, folder):
  return single.train_run(settings.train, model, *sides, folder, seed=settings.seed,
                          data_seed=settings.data.seed, standardise=True)


@pytest.mark.parametrize('name, norm, augment', [
    ('resunet', 'group', 'dihedral'), ('resunet', 'batch', 'physical'),
    ('unet', 'none', 'full')])
@pytest.mark.long
def test_training_learns_what_single_voxels_do_not_tell(tmp_path, name, norm, augment):
  settings = unet_config(augment=augment)
  settings.model.update(name=name, norm=norm)
  model = models.make_model(settings.model)
  sides = [noisy_regions(model, seed) for seed in (0, 1)]
  best = train(settings, model, sides, tmp_path)
  assert best['val_accuracy'] > 0.88  # a voxel alone: 0.76
  params = stored.load_kept(model, settings.train, tmp_path)
  if norm == 'batch':
    moments = jax.tree.leaves(params[STATISTICS])
    assert any(abs(np.asarray(leaf)).max() > 0.01 for leaf in moments)


@pytest.mark.long
def test_a_training_that_has_converged_ends_and_stays_ended(tmp_path):
  settings = unet_config(patience=2, augment='physical')
  settings.train.log10_learning_rate = -1.  # too high to go on improving
  settings.train.update(epochs=20, steps_per_epoch=1)
  model = models.make_model(settings.model)
  sides = [noisy_regions(model, seed) for seed in (0, 1)]
  train(settings, model, sides, tmp_path)
  rows = members_table.read_rows(tmp_path)
  losses = [row['val_bce'] for row in rows]
  assert len(rows) < 20 and losses.index(min(losses)) == len(rows) - 3
  assert stored.is_finished(settings.train, tmp_path)
  train(settings, model, sides, tmp_path)
  assert members_table.read_rows(tmp_path) == rows


@pytest.mark.parametrize('override, message', [
    ('model.name=resnet', 'model.name'), ('model.norm=layer', 'model.norm'),
    ('model.depth=0', 'model.depth'), ('model.base=1000', 'model.base'),
    ('train.sampling=patch', "'dense' for a resunet"),
    ('sweep.sizes=33x1', 'sweep.sizes'), ('train.augment=all', 'train.augment')])
def test_settings_that_are_none_are_named(override, message, tmp_path):
  path = tmp_path / 'c.py'
  path.write_text('from fibjax.config import base\n'
                  'def get_config():\n  c = base()\n  c.model.name = "resunet"\n'
                  '  return c\n')
  with pytest.raises(InputError, match=message):
    make_method(load(str(path), (override,)))


def smooth_blobs(seed, side, inner):
  random = np.random.default_rng(seed)
  y, x = np.mgrid[:side, :side] / side
  image = sum(a * np.cos(2 * np.pi * (i * y + j * x) + p) for a, p, (i, j) in zip(
      random.normal(size=6), random.uniform(0, 6, 6),
      ((1, 0), (0, 1), (1, 1), (2, 1), (1, 2), (2, 0)), strict=True))
  edge = (side - inner) // 2
  return (image[..., None].astype(np.float32),
          (image > 0)[edge:-edge, edge:-edge].astype(np.float32))


@pytest.mark.parametrize('kind', ['full', 'physical'])
def test_deformed_images_and_labels_stay_together(kind):
  image, target = smooth_blobs(0, 96, 48)
  keys = jax.random.split(jax.random.key(0), 24)
  deform = functools.partial(step.augment_sample, hyper=None, kind=kind)
  images, targets, weights = jax.vmap(deform, (None, None, None, 0))(
      jnp.asarray(image), jnp.asarray(target), jnp.ones((48, 48)), keys)
  inside = np.asarray(images)[:, 24:-24, 24:-24, 0]
  kept = np.asarray(weights) > 0
  for one, label, keep in zip(inside, np.asarray(targets), kept, strict=True):
    # Brightness and contrast move the level; that of best agreement is the level.
    levels = np.quantile(one, np.linspace(0.02, 0.98, 97))
    agreement = max(((one > level) == label)[keep].mean() for level in levels)
    assert agreement > 0.97
  lost = 1 - kept.mean((1, 2))
  assert lost.max() > 0.1 if kind == 'full' else lost.max() < 0.25
  assert len({np.asarray(t).tobytes() for t in targets}) == 24


def test_physical_augmentation_keeps_the_direction_of_the_tilt():
  ramp = jnp.broadcast_to(jnp.linspace(-1, 1, 64)[:, None, None], (64, 64, 1))
  label = jnp.ones((32, 32))
  keys = jax.random.split(jax.random.key(1), 40)
  slopes = {}
  for kind in ('physical', 'full'):
    deform = functools.partial(step.augment_sample, hyper=None, kind=kind)
    images, *_ = jax.vmap(deform, (None, None, None, 0))(ramp, label, label, keys)
    middle = np.asarray(images)[:, 16:48, 16:48, 0]
    slopes[kind] = np.gradient(middle.mean(2), axis=1).mean(1)
  assert (slopes['physical'] > 0).all()
  assert (slopes['full'] > 0).any() and (slopes['full'] < 0).any()
  turned = jnp.swapaxes(ramp, 0, 1)
  images, *_ = jax.vmap(functools.partial(step.augment_sample, hyper=None,
                                          kind='physical'), (None, None, None, 0))(
      turned, label, label, keys)
  across = np.gradient(np.asarray(images)[:, 16:48, 16:48, 0].mean(1), axis=1).mean(1)
  assert (across > 0).any() and (across < 0).any()
