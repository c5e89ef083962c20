"""Learning from unlabelled windows: teacher, loss, windows, and resuming."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from fibjax.config import check_section
from fibjax.errors import InputError
from fibjax.inference.network_scorer import network_scorer
from fibjax.inference.score import score_array
from fibjax.methods import shared
from fibjax.methods.unlabelled import unlabelled_stream
from fibjax.training import loss_expression, optim, sampling, step
from fibjax.training.loop import make_member, train_members
from fibjax.volumes.volume import array_volume
from tests.helpers import small_model

CROP = 16
SETTINGS = {'sampling': 'dense', 'crop_px': CROP, 'batch': 2, 'steps_per_epoch': 3,
            'val_windows': 2, 'epochs': 2, 'unlabelled': 0.7, 'teacher_decay': 0.9}


def regions(model, seed=0, labelled=True):
  """Regions whose voxels are solid where the image is bright."""
  random, m = np.random.default_rng(seed), model.before_px
  coarse = random.normal(size=(3, 20, 20))
  image_ryx = np.kron(coarse, np.ones((6, 6)))[:, :CROP + 4 + 2 * m, :CROP + 4 + 2 * m]
  masks_ryx = (image_ryx[:, m:-m, m:-m] > 0).astype(np.uint8)
  context_ryxc = (0.5 + 0.2 * image_ryx)[..., None].astype(np.float32)
  made = sampling.put_regions(context_ryxc, masks_ryx, balanced=False)
  return made if labelled else made._replace(
      targets_ryx=jnp.zeros_like(made.targets_ryx))


def inputs(learning_rate=1e-2, progress=0.0):
  hyper = step.make_hyper({'intensity_mean_sd': 0.0, 'intensity_deviation_sd': 0.0,
                           'l2': 0.0, 'dropout_dense': 0.0, 'dropout_spatial': 0.0},
                          [1.0])
  corners = np.array([(0, 0, 0), (1, 3, 4)], np.int32)
  samples = sampling.Samples(corners, np.ones(2, np.float32))
  return step.StepInputs(samples, np.uint32(1), hyper, np.float32(learning_rate),
                         np.float32(progress), samples)


def take_step(model, how):
  return jax.jit(functools.partial(
      step.train_step, model=model, optimizer=optim.make_optimizer('sgd', 0.0),
      loss=loss_expression.make_loss('bce'), crop_px=CROP, unlabelled=how))


@pytest.mark.long
def test_the_teacher_is_the_moving_average_of_the_weights():
  model = small_model()
  how = step.Unlabelled(1.0, 0.3)
  state = step.init_state(model, optim.make_optimizer('sgd', 0.0), 0, has_teacher=True)
  expected = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), state.teacher)
  data = step.TrainData(regions(model), regions(model, 1, labelled=False))
  take = take_step(model, how)
  for k in range(5):
    state, _ = take(state, inputs(), data)
    decay = min(0.3, (1 + k) / (10 + k))  # 0.1, 0.18, 0.25, 0.3, 0.3
    expected = jax.tree.map(lambda old, new, d=decay: d * old + (1 - d) * np.asarray(
        new, np.float64), expected, state.params)
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-6),
               state.teacher, expected)
  assert state.judged is state.teacher


@pytest.mark.long
@pytest.mark.parametrize(('progress', 'ramp'), [
    (0.0, np.exp(-5)), (0.15, np.exp(-1.25)), (0.3, 1.0), (0.9, 1.0)])
def test_the_loss_is_the_confident_cross_entropy_against_the_teacher(progress, ramp):
  """On one grey value everywhere the score is the same in every voxel."""
  model = small_model()
  optimizer = optim.make_optimizer('sgd', 0.0)
  state = step.init_state(model, optimizer, 0, has_teacher=True)
  teacher = jax.tree.map(lambda leaf: 1.5 * leaf, state.params)
  state = state._replace(teacher=teacher)
  labelled, flat = regions(model), regions(model, 1, labelled=False)
  flat = flat._replace(context_ryxc=jnp.full_like(flat.context_ryxc, 0.8))
  given = inputs(0.0, progress)
  weight = 0.7

  def run(how, given, data):
    return take_step(model, how)(state, given, data)[1]['loss']
  whole = run(step.Unlabelled(weight, 0.0), given, step.TrainData(labelled, flat))
  # A weight of zero leaves the loss on the labelled windows, augmented alike.
  without = run(step.Unlabelled(0.0, 0.0), given, step.TrainData(labelled, flat))
  window = np.full((1, model.window_px, model.window_px, 1), 0.8, np.float32)
  p = special.expit(float(model.apply(teacher, window)[0]))
  logit = float(model.apply(state.params, window)[0])
  entropy = p * np.log1p(np.exp(-logit)) + (1 - p) * np.log1p(np.exp(logit))
  assert float(whole - without) == pytest.approx(
      weight * ramp * (2 * p - 1) ** 2 * entropy, rel=2e-3, abs=1e-6)
  assert abs(p - 0.5) > 1e-3


def test_windows_are_dealt_out_evenly():
  corners, valid = sampling.window_batches(5, 4, 3, 1)
  assert corners.shape == (4, 3, 3) and valid.all() and not corners[..., 1:].any()
  counts = np.bincount(corners[..., 0].ravel(), minlength=5)
  assert counts.sum() == 12 and set(counts) <= {2, 3}
  assert (corners != sampling.window_batches(5, 4, 3, 2)[0]).any()


@pytest.mark.long
def test_a_resumed_training_ends_with_the_same_bits(tmp_path):
  train, model = settings(epochs=3), small_model()
  places = []

  def make(epoch):
    places.append(epoch)
    return regions(model, 5 + epoch, labelled=False)
  shape = regions(model).weights_ryx.shape
  unlabelled = sampling.RegionStream(shape, make)

  def run(folder, epochs):
    members = [make_member(train, seed) for seed in (0, 1)]
    for reached in train_members(train, model, members, regions(model),
                                 regions(model, 1), folder, data_seed=0,
                                 standardise=False, unlabelled=unlabelled):
      if len(reached.rows[0]) == epochs:
        break
    return reached
  whole = run(tmp_path / 'a', 3)
  run(tmp_path / 'b', 1)
  places.clear()
  resumed = run(tmp_path / 'b', 3)
  assert places == [1, 2]
  jax.tree.map(np.testing.assert_array_equal, whole.states, resumed.states)


def volumes():
  random = np.random.default_rng(0)
  return {name: array_volume(random.random(shape).astype(np.float32), name=name)
          for name, shape in (('a', (6, 40, 44)), ('b', (5, 60, 30)))}


def settings(**changes):
  return check_section('train', SETTINGS | changes)


def test_windows_come_from_everywhere_and_repeat_themselves():
  model = small_model(n_z=3)
  prepare = check_section('prepare', {})
  made = []
  for _ in range(2):
    with unlabelled_stream(settings(), prepare, model, volumes(), 3) as stream:
      made.append([np.asarray(stream.make(epoch).context_ryxc) for epoch in (0, 1)])
  np.testing.assert_array_equal(made[0], made[1])
  assert (made[0][0] != made[0][1]).any()
  side = CROP + 2 * model.before_px
  assert made[0][0].shape == (6, side, side, 3)
  with unlabelled_stream(settings(unlabelled=0.0), prepare, model, volumes(), 3
                         ) as stream:
    assert stream is None
  with pytest.raises(InputError, match='volume b'), unlabelled_stream(
      settings(crop_px=32), prepare, model, volumes(), 3):
    pass


def test_targets_of_a_model_are_its_scores(tmp_path):
  """A teacher of more slices and of a wider window than the network it teaches."""
  teachers = small_model(n_xy=49, n_z=3), small_model(n_z=1)
  params = [jax.device_get(one.init(jax.random.key(k))) for k, one in
            enumerate(teachers)]
  prepare = check_section('prepare', {})
  shared.write_model(tmp_path / 'm', shared.SharedModel(
      teachers, tuple(params), False, prepare.to_dict(), {}), '')
  image_zyx = np.random.default_rng(2).random((5, 24, 26)).astype(np.float32)
  scores = score_array(network_scorer(teachers, params).open(1.0), image_zyx)[0]
  with unlabelled_stream(settings(teacher=str(tmp_path / 'm')), prepare, small_model(),
                         {'a': array_volume(image_zyx, name='a')}, 3) as stream:
    made = stream.make(0)
  targets = np.asarray(made.targets_ryx)
  margin = small_model().before_px
  inner = np.asarray(made.context_ryxc)[:, margin:-margin, margin:-margin, 0]
  for target_yx, inner_yx in zip(targets, inner, strict=True):
    z, y, x = (int(i[0]) for i in np.nonzero(image_zyx == inner_yx[0, 0]))
    np.testing.assert_array_equal(inner_yx, image_zyx[z, y:y + CROP, x:x + CROP])
    np.testing.assert_allclose(target_yx, scores[z, y:y + CROP, x:x + CROP], atol=2e-6)
  with pytest.raises(InputError, match='prepare'), unlabelled_stream(
      settings(teacher=str(tmp_path / 'm')), check_section('prepare', {
          'scale': 'standard'}), small_model(), volumes(), 3):
    pass
  with pytest.raises(InputError, match='gradient'), unlabelled_stream(
      settings(teacher=str(tmp_path / 'm')), check_section('prepare', {
          'gradient': False}), small_model(), volumes(), 3):
    pass
