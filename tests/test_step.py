import csv
import functools
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fibjax.config import base
from fibjax.errors import InputError
from fibjax.models import make_model
from fibjax.training import (
  checkpoint,
  loop,
  loss_expression,
  optim,
  sampling,
  single,
  stored,
)
from fibjax.training.step import (
  STEP_SETTINGS,
  StepInputs,
  Totals,
  TrainData,
  augment_sample,
  eval_step,
  init_state,
  make_hyper,
  summarise,
  train_step,
)
from tests.helpers import bright_is_solid, tiny_config


@pytest.fixture(scope='module')
def sides():
  model = make_model(tiny_config().model)
  made = [bright_is_solid(seed=s, margin=model.before_px) for s in (0, 1)]
  return [sampling.put_regions(*m, balanced=False) for m in made]


def run(settings, sides, folder):
  model = make_model(settings.model)
  best = single.train_run(settings.train, model, *sides, folder, seed=settings.seed,
                          data_seed=settings.data.seed,
                          standardise=settings.model.standardise)
  return best, stored.load_kept(model, settings.train, folder)


def latest_state(settings, folder):
  return stored.load_states(make_model(settings.model), settings.train, folder)[0]


def read_csv(folder):
  with open(folder / 'metrics.csv', encoding='utf-8') as file:
    return [{k: v for k, v in row.items() if k != 'seconds'}
            for row in csv.DictReader(file)]


class _KilledError(Exception):
  pass


@pytest.mark.long
@pytest.mark.parametrize('when', ['before', 'after'])
def test_a_killed_training_resumes_bit_by_bit(tmp_path, sides, monkeypatch, when):
  settings = tiny_config()
  run(settings, sides, tmp_path / 'whole')
  save, calls = checkpoint.save, []

  def dying_save(manager, epoch, *rest):
    calls.append(epoch)
    if when == 'after':
      save(manager, epoch, *rest)
    if epoch == 1:
      raise _KilledError
    if when == 'before':
      save(manager, epoch, *rest)

  monkeypatch.setattr(checkpoint, 'save', dying_save)
  with pytest.raises(_KilledError):
    run(settings, sides, tmp_path / 'cut')
  monkeypatch.setattr(checkpoint, 'save', save)
  assert not stored.is_finished(settings.train, tmp_path / 'cut')
  run(settings, sides, tmp_path / 'cut')
  assert stored.is_finished(settings.train, tmp_path / 'cut')
  states = [latest_state(settings, tmp_path / name) for name in ('whole', 'cut')]
  jax.tree.map(np.testing.assert_array_equal, *states)
  assert read_csv(tmp_path / 'whole') == read_csv(tmp_path / 'cut')
  assert len(read_csv(tmp_path / 'cut')) == 3


@pytest.mark.long
def test_training_learns_and_the_best_epoch_is_kept(tmp_path, sides):
  settings = tiny_config(epochs=5, optimizer='adam', log10_learning_rate=-2.5,
                         voxel_fraction=0.4, dropout_dense=0., dropout_spatial=0.)
  settings.model.standardise = True
  best, params = run(settings, sides, tmp_path)
  rows = read_csv(tmp_path)
  assert best['val_bce'] == min(float(row['val_bce']) for row in rows)
  assert best['val_bce'] < 0.45 and best['val_accuracy'] > 0.8
  model = make_model(settings.model)
  plan = sampling.make_plan(settings.train, 0,
                            *(sampling.hard_labels(side) for side in sides))
  evaluate = jax.jit(functools.partial(eval_step, model=model, crop_px=1))
  totals = [evaluate(params, sides[1], sampling.Samples(c, v)) for c, v in
            zip(plan.val_corners, plan.val_valid, strict=True)]
  bce = sum(np.asarray(t.bce, float) for t in totals).sum()
  count = sum(np.asarray(t.counts, float).sum() for t in totals)
  np.testing.assert_allclose(bce / count, best['val_bce'], rtol=1e-4)


@pytest.mark.long
def test_training_from_arrays_needs_no_folder(tmp_path, sides):
  settings = tiny_config(epochs=2)
  model = make_model(settings.model)
  options = {'settings': settings.train, 'standardise': False}
  in_memory, stored_run = (
      single.train_network(model, *sides, seed=3, folder=folder, **options)
      for folder in (None, tmp_path))
  assert stored_run.rows == single.train_network(
      model, *sides, seed=3, folder=tmp_path, **options).rows, 'resumed at its end'
  together = single.train_networks(
      model, *sides, [loop.make_member(settings.train, seed) for seed in (2, 3)],
      **options)
  for kind in ('params', 'average'):
    jax.tree.map(np.testing.assert_array_equal, getattr(in_memory, kind),
                 getattr(stored_run, kind))
  for row, expected in zip(together[1].rows, in_memory.rows, strict=True):
    assert row['val_bce'] == pytest.approx(expected['val_bce'], abs=1e-4)
  assert in_memory.ended is None and len(in_memory.rows) == 2


@pytest.mark.long
def test_permuted_labels_teach_nothing(tmp_path, sides):
  context, masks = bright_is_solid(seed=2)
  random = np.random.default_rng(0)
  noise = [sampling.put_regions(context, random.permutation(masks.ravel()).reshape(
      masks.shape), balanced=False) for _ in range(2)]
  best, _ = run(tiny_config(epochs=2), noise, tmp_path)
  assert abs(best['val_bce'] - np.log(2)) < 0.03


def test_a_loss_that_explodes_names_epoch_and_step(tmp_path, sides):
  with pytest.raises(InputError, match=r'at epoch 1, step \d+: got loss.*lower'):
    run(tiny_config(log10_learning_rate=1., momentum=0.99), sides, tmp_path)


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path, sides):
  settings = tiny_config(epochs=1)
  run(settings, sides, tmp_path)
  settings.model.n_xy = 49
  with pytest.raises(InputError, match='checkpoint.*the config it was trained with'):
    stored.load_kept(make_model(settings.model), settings.train, tmp_path)
  with pytest.raises(InputError, match='no finished epoch'):
    stored.load_kept(make_model(settings.model), settings.train, tmp_path / 'elsewhere')


def test_a_damaged_checkpoint_is_named(tmp_path, sides):
  settings = tiny_config(epochs=1)
  run(settings, sides, tmp_path)
  shutil.rmtree(tmp_path / 'checkpoints' / '0' / 'state')
  with pytest.raises(InputError, match=r'checkpoints.0'):
    stored.load_kept(make_model(settings.model), settings.train, tmp_path)


def test_an_epoch_visits_every_voxel_once_and_fills_with_weight_zero():
  settings = tiny_config(voxel_fraction=0.05)
  _, masks = bright_is_solid()
  plan = sampling.make_plan(settings.train, 0, masks, masks)
  for epoch in (0, 1):
    corners, valid = plan.train_corners(0, epoch)
    visited = corners.reshape(-1, 3)[valid.reshape(-1) > 0]
    assert len(np.unique(visited, axis=0)) == len(visited) == 2 * int(
        0.5 * 0.05 * masks.size)
    assert plan.steps == len(corners) == -(-len(visited) // 16)
  assert (plan.train_corners(0, 0)[0] != plan.train_corners(0, 1)[0]).any()


def test_samples_of_weight_zero_change_nothing(sides):
  settings = tiny_config(dropout_dense=0., dropout_spatial=0., intensity_mean_sd=0.,
                         intensity_deviation_sd=0.)
  model = make_model(settings.model)
  optimizer = optim.make_optimizer('sgd', 0.9)
  state = init_state(model, optimizer, 0)
  step = jax.jit(functools.partial(
      train_step, model=model, optimizer=optimizer,
      loss=loss_expression.make_loss('bce'), crop_px=1))
  corners = np.array([(0, 1, 1), (1, 5, 9), (2, 2, 2), (3, 9, 9)], np.int32)
  other = corners.copy()
  other[2:] = (0, 20, 20)
  valid = np.array([1, 1, 0, 0], np.float32)
  with jax.debug_key_reuse(True):
    outcomes = [step(state, step_inputs(settings, sampling.Samples(c, valid)),
                     TrainData(sides[0]))
                for c in (corners, other)]
  # Augmentation keys belong to places in the batch, so the valid ones are the same.
  jax.tree.map(np.testing.assert_array_equal, *outcomes)
  assert step._cache_size() == 1


def step_inputs(settings, samples):
  hyper = make_hyper(settings.train, [1.])
  return StepInputs(samples, jnp.uint32(1), hyper, jnp.float32(0.1), jnp.float32(0))


def test_class_weights_balance_pore_and_solid():
  context, masks = bright_is_solid()
  masks[:3] = np.where(np.arange(24)[:, None] < 4, 0, 1)
  regions = sampling.put_regions(context, masks, balanced=True)
  mass = [float(regions.weights_ryx[masks == k].sum()) for k in (0, 1)]
  np.testing.assert_allclose(mass[0], mass[1], rtol=1e-5)
  np.testing.assert_allclose(sum(mass), masks.size, rtol=1e-5)
  masks[:] = 1
  with pytest.raises(InputError, match='class pore'):
    sampling.put_regions(context, masks, balanced=True)


def test_balanced_validation_is_the_mean_over_classes():
  totals = Totals(np.array([2., 30.]), np.array([[8., 2.], [10., 90.]]))
  summary = summarise(totals, balanced=True)
  assert summary['val_bce'] == pytest.approx((0.2 + 0.3) / 2)
  assert summary['val_accuracy'] == pytest.approx((0.8 + 0.9) / 2)
  natural = summarise(totals, balanced=False)
  assert natural['val_bce'] == pytest.approx(32 / 110)


def test_windows_larger_than_the_regions_are_refused():
  settings = tiny_config()
  settings.model.padding = 'context'
  settings.train.update(sampling='dense', crop_px=48)
  _, masks = bright_is_solid()
  with pytest.raises(InputError, match='crop_px: got 48.*24 x 24'):
    sampling.make_plan(settings.train, 0, masks, masks)


def test_windows_of_sparse_labels_all_hold_a_label():
  settings = tiny_config()
  settings.model.padding = 'context'
  settings.train.update(sampling='dense', crop_px=16, steps_per_epoch=20, batch=4)
  masks = np.full((5, 60, 70), 255, np.uint8)
  masks[3, 59, 2], masks[1, 30, 69] = 0, 1
  plan = sampling.make_plan(settings.train, 0, masks, masks)
  corners = plan.train_corners(0, 0)[0].reshape(-1, 3)
  assert len(corners) == 80 and (corners >= 0).all()
  for r, y, x in corners:
    window = masks[r, y:y + 16, x:x + 16]
    assert window.shape == (16, 16) and (window != 255).any()


def test_image_and_labels_stay_together_through_cut_and_augmentation():
  model = make_model(base().model)
  margin, side = model.before_px, 32
  field = np.random.default_rng(0).random((1, side + 2 * margin, side + 2 * margin))
  masks = (field[:, margin:-margin, margin:-margin] > 0.5).astype(np.uint8)
  context = np.repeat(field[..., None], 3, -1).astype(np.float32)
  regions = sampling.put_regions(context, masks, balanced=False)
  hyper = make_hyper(dict.fromkeys(STEP_SETTINGS, 0.), [1.])
  samples = sampling.Samples(np.array([(0, 5, 9)] * 12, np.int32),
                             np.ones(12, np.float32))
  batch = sampling.cut_samples(regions, samples, model.before_px, 16)
  keys = jax.random.split(jax.random.key(0), 12)
  images, labels, weights = jax.vmap(functools.partial(
      augment_sample, hyper=hyper, kind='dihedral'))(*batch, keys)
  centre = images[:, margin:-margin, margin:-margin, 0]
  np.testing.assert_array_equal(labels, (np.asarray(centre) > 0.5))
  assert (weights == 1).all()
  assert len({np.asarray(label).tobytes() for label in labels}) > 3
