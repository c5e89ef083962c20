import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from fibjax.errors import InputError
from fibjax.metrics import confusion
from fibjax.training import loss_expression, losses

LOGITS = jnp.asarray([-2., 0.5, 3., 80., -90.])
LABELS = jnp.asarray([0, 1, 1, 0, 255], jnp.uint8)
ALL = ('bce', 'focal', 'focal(0.5)', 'dice', 'jaccard', 'jml', 'lovasz',
       'lovasz_hinge', 'tversky', 'porosity', 'calibration')
# Their best prediction depends on sums only.
AVERAGES = ('porosity', 'calibration')
SMOOTH = tuple(name for name in ALL if name != 'lovasz_hinge')


@functools.cache
def single(name):
  """The loss of one term, of (logits, targets, weights)."""
  loss = loss_expression.make_loss(name)
  return jax.jit(lambda *arrays: loss.apply(*arrays, jnp.ones(1), 0.)[0])


@functools.cache
def gradient_of(name):
  return jax.jit(jax.grad(single(name)))


def draw(seed, shape=(3, 4, 5), soft=False, weighted=True):
  random = np.random.default_rng(seed)
  targets = random.random(shape) if soft else random.random(shape) < 0.6
  weights = random.choice([0., 0.5, 1., 2.], shape) if weighted else np.ones(shape)
  return tuple(jnp.asarray(a, jnp.float32)
               for a in (2 * random.normal(size=shape), targets, weights))


def as_float64(arrays):
  logits, targets, weights = (np.asarray(a, np.float64) for a in arrays)
  return 1 / (1 + np.exp(-logits)), targets, weights


def class_sums(arrays):
  """Per class (pore, solid): sums of w p y, w p, w y in float64."""
  p, y, w = as_float64(arrays)
  return [(np.sum(w * a * b), np.sum(w * a), np.sum(w * b))
          for a, b in ((1 - p, 1 - y), (p, y))]


def hard_logits(prediction):
  # Their sigmoids are exactly 1 and 0.
  return np.where(np.asarray(prediction) == 1, np.float32(200), np.float32(-200))


def test_bce_equals_its_definition_and_is_stable():
  p = 1 / (1 + np.exp(-np.asarray(LOGITS[:3], float)))
  expected = -(np.log(1 - p[0]) + np.log(p[1]) + np.log(p[2])) / 3
  weights = jnp.asarray([1., 1., 1., 0., 0.])
  np.testing.assert_allclose(losses.bce(LOGITS, LABELS, weights), expected, rtol=1e-6)
  np.testing.assert_allclose(losses.bce_terms(LOGITS, LABELS)[3:], (80, 90), rtol=1e-6)


def test_weights_count_and_zero_weights_give_exactly_zero_gradient():
  weights = jnp.asarray([2., 1., 0., 1., 0.])
  gradient = jax.grad(losses.bce)(LOGITS, LABELS, weights)
  assert gradient[2] == 0 and gradient[4] == 0
  p = 1 / (1 + np.exp(2))
  np.testing.assert_allclose(gradient[0], 2 * p / 4, rtol=1e-6)


def test_penalty_is_the_sum_of_squares_of_kernels_only():
  params = {'a': {'kernel': jnp.asarray([[1., 2.]]), 'bias': jnp.asarray([9.])},
            'b': {'kernel': jnp.asarray([3.])}}
  assert losses.kernel_penalty(params) == 14
  gradient = jax.grad(losses.kernel_penalty)(params)
  np.testing.assert_array_equal(gradient['a']['kernel'], [[2., 4.]])
  np.testing.assert_array_equal(gradient['a']['bias'], [0.])


@pytest.mark.parametrize('soft', [False, True])
def test_voxelwise_losses_equal_their_definitions(soft):
  arrays = draw(1, soft=soft)
  p, y, w = as_float64(arrays)

  def mean(terms):
    return np.sum(w * terms) / np.sum(w)
  entropy = mean(-y * np.log(p) - (1 - y) * np.log(1 - p))
  np.testing.assert_allclose(single('bce')(*arrays), entropy, rtol=1e-5)
  for name, gamma in (('focal(0.5)', 0.5), ('focal', 2), ('focal(0)', 0)):
    expected = mean(-y * (1 - p) ** gamma * np.log(p)
                    - (1 - y) * p ** gamma * np.log(1 - p))
    np.testing.assert_allclose(single(name)(*arrays), expected, rtol=1e-5)


@pytest.mark.parametrize('soft', [False, True])
def test_overlap_losses_equal_their_definitions(soft):
  arrays = draw(2, soft=soft)
  sums = class_sums(arrays)
  both, predicted, true = sums[1]
  expected = {
      'dice': 1 - np.mean([2 * i / (a + b) for i, a, b in sums]),
      'jaccard': 1 - np.mean([i / (a + b - i) for i, a, b in sums]),
      'tversky(0.3, 0.7)': 1 - both / (both + 0.3 * (predicted - both)
                                       + 0.7 * (true - both)),
      'tversky(1, 1)': 1 - both / (predicted + true - both),
      'tversky(0.5, 0.5)': 1 - 2 * both / (predicted + true)}
  for name, value in expected.items():
    np.testing.assert_allclose(single(name)(*arrays), value, rtol=1e-5, err_msg=name)
  assert single('tversky')(*arrays) == single('tversky(0.3, 0.7)')(*arrays)


@pytest.mark.parametrize('soft', [False, True])
def test_jml_equals_its_definition_and_jaccard_for_hard_targets(soft):
  arrays = draw(20, soft=soft)
  p, y, w = as_float64(arrays)
  parts = []
  for a, b in ((1 - p, 1 - y), (p, y)):
    both, apart = np.sum(w * (a + b)), np.sum(w * np.abs(a - b))
    parts.append((both - apart) / (both + apart))
  np.testing.assert_allclose(single('jml')(*arrays), 1 - np.mean(parts), rtol=1e-5)
  same = np.isclose(single('jml')(*arrays), single('jaccard')(*arrays), rtol=1e-5)
  assert same == (not soft)


def test_jml_is_a_metric_that_soft_targets_minimise():
  _, targets, weights = draw(21, soft=True)
  exact = jnp.log(targets) - jnp.log1p(-targets)
  assert abs(single('jml')(exact, targets, weights)) < 1e-6
  assert single('jaccard')(exact, targets, weights) > 0.2
  hard = hard_logits(targets > 0.5)
  assert (single('jaccard')(hard, targets, weights)
          < single('jaccard')(exact, targets, weights))  # why jml exists
  # of one class; the mean of both classes is then a metric as well
  first, second, third = (jax.nn.sigmoid(draw(seed)[0]) for seed in (22, 23, 24))

  def distance(a, b):
    return single('jml')(jnp.log(a) - jnp.log1p(-a), b, weights)
  np.testing.assert_allclose(distance(first, second), distance(second, first),
                             rtol=1e-5)
  assert distance(first, third) <= distance(first, second) + distance(second, third)


def test_calibration_equals_brute_force_over_its_bins():
  arrays = draw(25, soft=True)
  p, y, w = (a.ravel() for a in as_float64(arrays))
  bins = np.zeros(16)
  for voxel in range(p.size):
    low = int(15 * p[voxel])
    share = 15 * p[voxel] - low
    for node, part in ((low, 1 - share), (min(low + 1, 15), share)):
      bins[node] += part * w[voxel] * (p[voxel] - y[voxel])
  value = single('calibration')(*arrays)
  np.testing.assert_allclose(value, np.abs(bins).sum() / w.sum(), rtol=1e-4)
  # between the error of the porosity and the mean error
  mean_error = np.sum(w * np.abs(p - y)) / w.sum()
  assert abs(np.sum(w * (p - y))) / w.sum() <= value <= mean_error


def test_calibrated_scores_have_no_calibration_error():
  _, targets, weights = draw(26)
  share = jnp.sum(weights * targets) / jnp.sum(weights)
  constant = jnp.full(targets.shape, jnp.log(share) - jnp.log1p(-share))
  assert single('calibration')(constant, targets, weights) < 1e-6
  assert single('calibration')(hard_logits(targets), targets, weights) < 1e-6
  np.testing.assert_allclose(
      single('calibration')(constant + 1, targets, weights),
      abs(jax.nn.sigmoid(constant + 1).ravel()[0] - share), rtol=1e-5)


def test_tversky_minds_missed_solid_more_than_false_solid():
  targets = jnp.asarray([[0., 0., 1., 1.]])
  false, missed = hard_logits([[1, 0, 1, 1]]), hard_logits([[0, 0, 1, 0]])
  ones = jnp.ones((1, 4))
  for logits, index in ((false, 2 / 2.3), (missed, 1 / 1.7)):
    np.testing.assert_allclose(single('tversky')(logits, targets, ones), 1 - index,
                               rtol=1e-6)


def brute_lovasz(errors, is_class, weights):
  """The extension from the set function itself: one set of errors after another."""
  def jaccard_loss(wrong):
    union = np.sum(weights[is_class | wrong])
    return 1 - np.sum(weights[is_class & ~wrong]) / union if union else 0.
  total, wrong = 0., np.zeros(len(errors), bool)
  for i in np.argsort(-errors):
    before = jaccard_loss(wrong)
    wrong[i] = True
    total += errors[i] * (jaccard_loss(wrong) - before)
  return total


@pytest.mark.parametrize('seed', range(3))
def test_lovasz_is_the_extension_of_the_jaccard_loss(seed):
  arrays = draw(seed, soft=True)
  p, y, w = (a.ravel() for a in as_float64(arrays))
  solid = y > 0.5
  sign, logits = np.where(solid, 1, -1), np.asarray(arrays[0], float).ravel()
  for name, errors in (('lovasz', np.abs(p - solid)),
                       ('lovasz_hinge', np.maximum(1 - sign * logits, 0))):
    expected = np.mean([brute_lovasz(errors, k, w) for k in (~solid, solid)])
    np.testing.assert_allclose(single(name)(*arrays), expected, rtol=1e-5)


def test_hard_predictions_cost_one_minus_the_miou_of_metrics():
  for seed in range(4):
    random = np.random.default_rng(seed)
    label = random.choice([0, 1, 255], (2, 6, 7), p=[0.3, 0.5, 0.2]).astype(np.uint8)
    prediction = random.integers(0, 2, label.shape)
    miou = confusion.summarise(confusion.confusion(label, prediction))['miou']
    weights = jnp.asarray(label != 255, jnp.float32)
    arrays = hard_logits(prediction), jnp.asarray(label), weights
    for name in ('jaccard', 'lovasz'):
      np.testing.assert_allclose(single(name)(*arrays), 1 - miou, rtol=1e-6)
    # The hinge's errors are 0 and 1 at the logits s and 0.
    sign = np.where(label == 1, 1., -1.)
    logits = jnp.asarray(np.where(prediction == label, sign, 0.), jnp.float32)
    np.testing.assert_allclose(single('lovasz_hinge')(logits, *arrays[1:]), 1 - miou,
                               rtol=1e-6)


def test_lovasz_hinge_is_convex_and_lovasz_convex_in_the_errors():
  _, targets, weights = draw(3)
  sign = jnp.where(targets > 0.5, 1., -1.)

  def of_errors(errors):
    logits = -sign * jnp.log(errors / (1 - errors))
    return single('lovasz')(logits, targets, weights)
  for seed in range(5):
    random = np.random.default_rng(seed)
    ends = [jnp.asarray(random.normal(size=targets.shape), jnp.float32)
            for _ in range(2)]
    for function, (a, b) in (
        (lambda z: single('lovasz_hinge')(z, targets, weights), ends),
        (of_errors, [jax.nn.sigmoid(2 * end) for end in ends])):
      for t in (0.25, 0.5, 0.8):
        chord = (1 - t) * function(a) + t * function(b)
        assert function((1 - t) * a + t * b) < chord + 1e-6


def test_porosity_is_the_divergence_per_large_window_or_of_the_batch():
  def expected(p, y, w):
    true, predicted = (np.sum(w * (1 - a)) / np.sum(w) for a in (y, p))
    return (true * np.log(true / predicted)
            + (1 - true) * np.log((1 - true) / (1 - predicted)))
  small = draw(4, (3, 15, 17), soft=True)  # 255 voxels
  np.testing.assert_allclose(single('porosity')(*small), expected(*as_float64(small)),
                             rtol=1e-3, atol=1e-6)
  logits, targets, weights = draw(5, (3, 16, 16), soft=True)
  weights = weights.at[1].set(0)
  windows = zip(*as_float64((logits, targets, weights)), strict=True)
  values = [expected(*window) for k, window in enumerate(windows) if k != 1]
  np.testing.assert_allclose(single('porosity')(logits, targets, weights),
                             np.mean(values), rtol=1e-3)
  hard = jnp.round(targets)
  assert abs(single('porosity')(hard_logits(hard), hard, weights)) < 1e-6


@pytest.mark.parametrize('name', ALL)
def test_labels_and_soft_targets_agree_and_unlabelled_voxels_do_not_count(name):
  logits, targets, weights = draw(6)
  labels = np.where(weights > 0, targets, 255).astype(np.uint8)
  value = single(name)(logits, targets, weights)
  np.testing.assert_allclose(single(name)(logits, labels, weights), value, rtol=1e-6)
  moved = np.where(weights > 0, logits, np.float32(-7))
  np.testing.assert_allclose(single(name)(moved, labels, weights), value, rtol=1e-6)
  for array in (targets, labels):
    gradient = gradient_of(name)(logits, array, weights)
    assert np.all(np.asarray(gradient)[np.asarray(weights) == 0] == 0)
    assert np.any(np.asarray(gradient) != 0)


@pytest.mark.parametrize('name', ALL)
def test_padding_order_and_scale_of_the_weights_change_nothing(name):
  arrays = draw(7)
  value = single(name)(*arrays)
  padded = (np.pad(a, [(1, 0), (2, 1), (0, 3)]) for a in arrays)
  np.testing.assert_allclose(single(name)(*padded), value, rtol=1e-5)
  order = np.random.default_rng(0).permutation(60)
  mixed = [np.reshape(a, (60, 1, 1))[order] for a in arrays]  # single voxels
  np.testing.assert_allclose(single(name)(*mixed), value, rtol=1e-5)
  logits, targets, weights = arrays
  np.testing.assert_allclose(single(name)(logits, targets, 3 * weights), value,
                             rtol=1e-5)


@pytest.mark.parametrize('name', [n for n in ALL if n != 'tversky'])
def test_the_classes_are_alike(name):
  logits, targets, weights = draw(8)
  np.testing.assert_allclose(single(name)(-logits, 1 - targets, weights),
                             single(name)(logits, targets, weights), rtol=1e-5)


@pytest.mark.parametrize('name', ALL)
def test_extreme_batches_have_a_finite_loss_and_gradient(name):
  logits, targets, weights = draw(9, (2, 16, 16))
  zeros, ones = jnp.zeros_like(logits), jnp.ones_like(logits)
  apply = jax.jit(jax.value_and_grad(single(name)))
  for z, y, w in itertools.product((logits, -1e4 * ones, 1e4 * ones, zeros),
                                   (targets, zeros, ones, 0.5 * ones),
                                   (weights, zeros)):
    value, gradient = apply(z, y, w)
    assert np.isfinite(value) and np.all(np.isfinite(gradient))
    if not np.any(w):
      assert value == 0 and not np.any(gradient)


def test_a_class_without_weight_is_left_out():
  logits, targets, weights = draw(10)
  only = weights * targets  # solid voxels alone have weight
  p, _, w = as_float64((logits, targets, only))
  recall = np.sum(w * p) / np.sum(w)
  for name, expected in (('jaccard', 1 - recall), ('lovasz', 1 - recall),
                         ('dice', 1 - 2 * recall / (1 + recall))):
    np.testing.assert_allclose(single(name)(logits, targets, only), expected, rtol=1e-5)
  assert single('tversky')(logits, targets, weights * (1 - targets)) == 0


@pytest.mark.parametrize('name', ALL)
def test_gradients_equal_finite_differences(name):
  # Few voxels, so that no two errors change places within the step.
  arrays = draw(11, (1, 2, 5), soft=name in SMOOTH)
  check_grads(lambda logits: single(name)(logits, *arrays[1:]), arrays[:1], order=1,
              modes='rev', eps=2e-3, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize('name', ALL)
def test_descent_reaches_the_labels(name):
  _, targets, weights = draw(12, weighted=False)
  logits = 0.1 * draw(13)[0]
  for _ in range(60):
    step = gradient_of(name)(logits, targets, weights)
    logits -= 0.3 * step / jnp.sqrt(jnp.mean(step ** 2) + 1e-12)
  if name in AVERAGES:
    assert abs(jnp.mean(jax.nn.sigmoid(logits)) - jnp.mean(targets)) < 0.05
  else:
    assert np.mean((logits > 0) == (targets > 0.5)) > 0.95


def test_a_sum_has_the_terms_the_factors_and_the_ramp():
  expression = 'bce + 0.5*ramp(0.6, 1)*jaccard + porosity*0.1*2 + 2*focal(3)'
  loss = loss_expression.make_loss(expression)
  assert loss.expression == expression
  assert loss.names == ('bce', 'jaccard', 'porosity', 'focal(3)')
  np.testing.assert_allclose(loss.factors, [1, 0.5, 0.2, 2])
  arrays, factors = draw(14), jnp.asarray(loss.factors)
  expected = {'bce': losses.bce(*arrays), 'jaccard': losses.jaccard(*arrays),
              'porosity': losses.porosity(*arrays),
              'focal(3)': losses.focal(*arrays, 3)}
  for progress, share in ((0., 0), (0.6, 0), (0.7, 0.25), (1., 1)):
    total, values = loss.apply(*arrays, factors, progress)
    assert values == expected and total.shape == ()
    b, j, p, f = (float(v) for v in expected.values())
    np.testing.assert_allclose(total, b + 0.5 * share * j + 0.2 * p + 2 * f, rtol=1e-5)
  total, _ = loss.apply(*arrays, jnp.asarray([0., 3., 0., 0.]), 0.8)
  np.testing.assert_allclose(total, 1.5 * j, rtol=1e-5)


@pytest.mark.parametrize('progress, share', [
    (0., 0.), (0.25, 0.), (0.375, 0.25), (0.5, 0.5), (0.75, 1.), (1., 1.)])
def test_one_term_fades_while_the_other_ramps(progress, share):
  loss = loss_expression.make_loss('2*fade(0.25, 0.75)*bce + ramp(0.25, 0.75)*jaccard')
  arrays = draw(17)
  total, _ = loss.apply(*arrays, jnp.asarray(loss.factors), progress)
  expected = 2 * (1 - share) * losses.bce(*arrays) + share * losses.jaccard(*arrays)
  np.testing.assert_allclose(total, expected, rtol=1e-6)


def test_a_hat_is_a_ramp_times_a_fade():
  loss = loss_expression.make_loss('fade(0.5, 1)*ramp(0, 0.5)*bce')
  arrays = draw(18)
  totals = [loss.apply(*arrays, jnp.ones(1), progress)[0]
            for progress in (0., 0.25, 0.5, 0.75, 1.)]
  np.testing.assert_allclose(totals, losses.bce(*arrays) * np.array(
      [0, 0.5, 1, 0.5, 0]), rtol=1e-6)


@pytest.mark.parametrize('written, meant', [
    ('jacard', 'jaccard'), ('bce + 0.5*ramp(0.6, 1)*lovas', 'lovasz'),
    ('focl(3)', 'focal'), ('bce*fad(0, 1)', 'fade'), ('porositty', 'porosity')])
def test_a_misspelt_word_suggests_the_nearest(written, meant):
  with pytest.raises(InputError, match=f"did you mean '{meant}'"):
    loss_expression.make_loss(written)


def test_a_new_loss_is_a_function_and_a_line(monkeypatch):
  def power(logits, targets, weights, exponent=2.):
    return losses.bce(logits, targets, weights) ** exponent

  monkeypatch.setitem(losses.TERMS, 'power', losses.Term(power))
  loss = loss_expression.make_loss('power + power(3)')
  assert loss.names == ('power(2)', 'power(3)')
  arrays = draw(19)
  total, _ = loss.apply(*arrays, jnp.ones(2), 0.)
  bce = losses.bce(*arrays)
  np.testing.assert_allclose(total, bce ** 2 + bce ** 3, rtol=1e-6)


def test_labels_of_terms_are_unique_and_say_their_arguments():
  loss = loss_expression.make_loss(
      ' focal + focal(2.5)\t+ tversky + tversky(0.5, 1e-7) ')
  assert loss.names == ('focal(2)', 'focal(2.5)', 'tversky(0.3, 0.7)',
                        'tversky(0.5, 1e-07)')
  assert loss_expression.make_loss('focal(2.0000001)').names == ('focal(2.0000001)',)
  loss = loss_expression.make_loss('(bce + 0*dice) + ramp(0, 1)*lovasz')
  assert loss.factors == (1, 0, 1)


@pytest.mark.parametrize('expression, said', [
    ('bce + iou', "'iou'.*bce, focal, dice"), ('bce + iou(2)', "'iou'"),
    ('exp(bce)', "'exp'"), ('ramp', "'ramp'"), ('', 'no sum'), ('  ', 'no sum'),
    (None, "'None'"), (3, '0 terms'), ('0.5', '0 terms'), ('bce*dice', '2 terms'),
    ('0.5*(bce + dice)', 'sum of products'), ('bce - dice', 'sum of products'),
    ('bce/2', 'sum of products'), ('bce**2', 'sum of products'), ('bce +', 'no sum'),
    ('bce; dice', 'no sum'), ('a = bce', 'no sum'), ('bce\x00', 'no sum'),
    ('"bce"', 'sum of products'), ('True*bce', 'sum of products'),
    ('1j*bce', 'sum of products'), ('-bce', 'sum of products'),
    ('losses.bce', 'sum of products'), ('bce()()', 'sum of products'),
    ('-1*bce', 'number -1'), ('1e999*bce', 'number inf'), ('1e39*bce', 'number inf'),
    (f'1{"0" * 400}*bce', 'number inf'), ('1e30*1e30*bce', 'number 1e\\+60'),
    ('bce + bce', 'bce twice'), ('focal + focal(2)', r'focal\(2\) twice'),
    ('bce(2)', 'bce without'), ('focal()', '1 numbers'), ('focal(1, 2)', '1 numbers'),
    ('focal(-1)', 'number -1'), ('focal(gamma=2)', '1 numbers'),
    ('focal(2, x=2)', '1 numbers'), ('focal(*x)', '1 numbers'),
    ('tversky(1)', '2 numbers'), ('tversky(0, 1)', '> 0'),
    ('ramp(0.6)*bce', '2 numbers'), ('ramp(0.6, 0.6)*bce', 'a < b'),
    ('ramp(0.7, 0.6)*bce', 'a < b'), ('ramp(0.6, 1.1)*bce', 'a < b'),
    ('ramp(-0.1, 1)*bce', 'number -0.1'), ('ramp(0, 1)', '0 terms'),
    ('fade*bce', "'fade'"), ('fade(1, 0.5)*bce', 'a < b'), ('fade(0.5)', '2 numbers'),
    ('fade(0, 0.3)*bce + ramp(0.6, 1)*jaccard', 'no term from 0.3 to 0.6'),
    ('ramp(0.2, 1)*bce', 'no term from 0 to 0.2'),
    ('fade(0, 0.5)*bce', 'no term from 0.5 to 1'),
    ('bce + fade(0, 0.3)*ramp(0.6, 1)*jaccard', 'jaccard, which is 0 at all times'),
    ('(' * 500 + 'bce' + ')' * 500, 'no sum')])
def test_mistakes_are_told_in_one_line(expression, said):
  with pytest.raises(InputError, match=f'^config.train.loss: got.*{said}') as error:
    loss_expression.make_loss(expression)
  assert '\n' not in str(error.value)


def test_arrays_of_different_shapes_are_told():
  arrays = draw(15)
  loss = loss_expression.make_loss('bce')
  with pytest.raises(InputError, match='weights'):
    loss.apply(*arrays[:2], arrays[2][:, :, 0], jnp.ones(1), 0.)
  with pytest.raises(InputError, match='factors'):
    loss.apply(*arrays, jnp.ones(2), 0.)


def test_members_with_their_own_factors_share_one_compilation():
  loss = loss_expression.make_loss('bce + ramp(0.5, 1)*lovasz + dice + porosity')
  traces = []

  def apply(*arguments):
    traces.append(1)
    return jax.value_and_grad(lambda *a: loss.apply(*a)[0])(*arguments)
  members = jax.jit(jax.vmap(apply, (0, None, None, 0, None)))
  alone = jax.jit(jax.value_and_grad(lambda *a: loss.apply(*a)[0]))
  logits_m = jnp.stack([draw(seed)[0] for seed in range(3)])
  _, targets, weights = draw(16)
  for seed, progress in ((0, 0.2), (1, 0.9)):
    factors_mt = jnp.asarray(np.random.default_rng(seed).random((3, 4)), jnp.float32)
    totals, gradients = members(logits_m, targets, weights, factors_mt, progress)
    assert len(traces) == 1
    for m in range(3):
      total, gradient = alone(logits_m[m], targets, weights, factors_mt[m], progress)
      np.testing.assert_allclose(totals[m], total, rtol=1e-5)
      np.testing.assert_allclose(gradients[m], gradient, rtol=1e-4, atol=1e-7)
