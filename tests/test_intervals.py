"""Intervals of physical quantities: their parts, and coverage where the model holds."""
import math

import numpy as np
import pytest
from scipy import ndimage, special, stats

from fibjax.analysis import (
  error_sums,
  intervals,
  physics,
  plausible,
  specific_surface,
)
from fibjax.analysis.plausible import ErrorModel, ScoredRegion
from fibjax.errors import InputError

SIZE = (40.0, 10.0, 10.0)
MODEL = ErrorModel(1.0, 0.3, np.diag([1e-4, 1e-3]), 9, np.array([1.0]),
                   np.array([40.0]), 1.0, True, 6, 6)


def body(seed, shape=(12, 48, 48), width_nm=60.0):
  """Probits of a smooth random medium."""
  noise = np.random.default_rng(seed).standard_normal(shape)
  noise = ndimage.gaussian_filter(noise, width_nm / np.array(SIZE), mode='wrap')
  return 2 * noise / noise.std()


def annotated(score_zyx, labels_zyx, slices):
  return [ScoredRegion(score_zyx[z], labels_zyx[z], (z, 0, 0), k)
          for k, z in enumerate(slices)]


def test_scatter_is_split_into_what_the_calibration_explains_and_the_rest():
  rng = np.random.default_rng(0)
  calibrations = rng.multivariate_normal([1, 0], np.diag([0.01, 0.04]), 2000)
  values = 5 + 3 * calibrations[:, 1] + 0.5 * rng.standard_normal(2000)
  mean, (rest, free), (bias, df) = intervals._spread(calibrations, values, 7)
  assert mean == pytest.approx(5, abs=0.05)
  assert rest == pytest.approx(0.5, rel=0.05) and free == 1997
  assert bias == pytest.approx(3 * 0.2, rel=0.05) and df == 7
  # A calibration without an error explains nothing.
  same = np.ones((50, 2))
  _, (rest, _), (bias, _) = intervals._spread(same, values[:50], 0)
  assert bias < 1e-12
  assert rest == pytest.approx(values[:50].std(ddof=1) * math.sqrt(1 + 1 / 50))


def test_ends_are_those_of_the_t_with_summed_variances():
  error = error_sums.add_errors([(3.0, 10), (4.0, 20)])
  low, high = error_sums.interval(2.0, error, 0.9)
  df = 25 ** 2 / (81 / 10 + 256 / 20)
  half = stats.t.ppf(0.95, df) * 5
  assert (low, high) == pytest.approx((2 - half, 2 + half))


def test_the_jackknife_of_a_mean_is_its_variance():
  values_g2 = np.random.default_rng(1).standard_normal((9, 2))
  left_out = [np.delete(values_g2, g, 0).mean(0) for g in range(9)]
  assert error_sums.jackknife_covariance(left_out) == pytest.approx(
      np.cov(values_g2.T) / 9)
  assert error_sums.jackknife_covariance([row[0] for row in left_out]).item() == (
      pytest.approx(values_g2[:, 0].var(ddof=1) / 9))


def test_what_is_above_zero_has_an_interval_of_its_logarithm():
  drawn = [((1.0, 0.0), {'a': math.exp(v), 'porosity': 0.4 + v / 50})
           for v in range(1, 10)]
  row = intervals._interval('a', math.exp(5.0), drawn, {}, None, MODEL, 0.9)
  assert row['estimate'] == pytest.approx(math.exp(5)) and row['bias'] == (
      pytest.approx(0, abs=1e-9))
  assert math.sqrt(row['low'] * row['high']) == pytest.approx(math.exp(5))
  assert row['material_low'] is None
  row = intervals._interval('a', math.exp(5.0), drawn, {'a': (0.5, 0.0, 3)}, None,
                            MODEL, 0.9)
  assert row['estimate'] == pytest.approx(math.exp(5.5))
  row = intervals._interval('porosity', 0.5, drawn, {}, (0.02, 4, None), MODEL,
                            0.9)
  assert row['low'] + row['high'] == pytest.approx(1.0)
  assert row['material_low'] < row['low'] < row['high'] < row['material_high']
  few = intervals._interval('porosity', 0.5, drawn[:3], {}, None, MODEL, 0.9)
  assert few['low'] is None and few['value'] == 0.5


def test_labels_rougher_than_the_draws_raise_the_surface():
  """In the plane the ratio is that of the labels' own numbers to those of draws."""
  score_zyx = special.ndtr(body(1, (8, 64, 64))).astype(np.float32)
  rng = np.random.default_rng(2)
  alike = plausible.draw_labels(score_zyx, MODEL, SIZE, rng)
  rough_model = MODEL._replace(length_nm_k=np.array([12.0]))
  rough = plausible.draw_labels(score_zyx, rough_model, SIZE, rng)
  same, rougher = (intervals.plane_corrections(
      annotated(score_zyx, labels, range(8)), MODEL, SIZE) for labels in (alike, rough))
  ratio, sd, df = same['specific_surface.per_um']
  assert df == 7 and abs(ratio) < 3 * sd
  for path in ('pore_size.mean_nm', 'chords.pore.x', 'chords.solid.y'):
    assert abs(same[path][0]) < 4 * same[path][1] + 0.02

  def surface(labels_zyx):
    # Lines along y and x of all slices; slices apart have no lines along z.
    return np.mean(specific_surface.specific_surface(labels_zyx, SIZE).zyx_per_um[1:])

  draws = [surface(plausible.draw_labels(score_zyx, MODEL, (1e6, 10., 10.), rng))
           for _ in range(6)]
  expected = math.log(surface(rough)) - np.mean(np.log(draws))
  assert rougher['specific_surface.per_um'][0] == pytest.approx(expected, abs=0.04)
  assert expected > 0.2
  one_block = [r._replace(block=0) for r in annotated(score_zyx, alike, range(3))]
  assert intervals.plane_corrections(one_block, MODEL, SIZE) == {}


def test_regions_without_solid_do_not_move_pore_sizes():
  """Nothing bounds their pores: in the labels, or in a draw alone."""
  score_zyx = special.ndtr(body(1, (8, 64, 64))).astype(np.float32)
  labels_zyx = plausible.draw_labels(score_zyx, MODEL, SIZE, np.random.default_rng(2))
  regions = annotated(score_zyx, labels_zyx, range(8))
  expected = intervals.plane_corrections(regions, MODEL, SIZE)
  open_yx, corner_yx = np.zeros((2, 64, 64), np.uint8)
  corner_yx[:2, :2] = 1
  pore_yx = np.full((64, 64), 1e-6, np.float32)
  more = [ScoredRegion(pore_yx, mask_yx, (z, 0, 0), z)
          for z, mask_yx in ((8, open_yx), (9, corner_yx))]
  found = intervals.plane_corrections([*regions, *more], MODEL, SIZE)
  for path, (ratio, sd, _) in expected.items():
    if path.startswith('pore_size'):
      assert abs(found[path][0] - ratio) < 3 * sd + 0.02, path
      assert found[path][1] < 2 * sd + 0.02, path


def test_scatter_is_extrapolated_by_a_power_of_the_volume():
  # 8 boxes of sd 4, 27 of sd 4 (27/8)^0.4: exponent 0.4.
  spread = 4 * (27 / 8) ** 0.4
  sd, df, exponent = intervals._extrapolate([8, 27], [4.0, spread])
  assert exponent == pytest.approx(0.4) and df == 7
  assert sd == pytest.approx(4 / 8 ** 0.4)
  assert intervals._extrapolate([8, 27], [4.0, 40.0])[2] == 0.5
  assert intervals._extrapolate([8], [4.0]) == (pytest.approx(4 / math.sqrt(8)), 7, 0.5)


def test_boxes_have_one_shape_and_do_not_overlap():
  seen = np.zeros((10, 7, 9), int)
  boxes = list(intervals._boxes(seen.shape, 3))
  for box in boxes:
    seen[box] += 1
    assert seen[box].shape == (3, 2, 3)
  assert len(boxes) == 27 and seen.max() == 1 and seen.sum() == 27 * 18


@pytest.mark.long
def test_the_sampling_error_is_the_scatter_of_volumes():
  """Volumes of one random medium: their own estimates against their scatter."""
  shape, paths = (14, 64, 64), ('porosity', 'specific_surface.per_um',
                                'pore_size.mean_nm')
  values, errors = [], []
  for seed in range(24):
    labels_zyx = (body(seed, (28, 128, 128), 45.0)[:14, :64, :64] > 0).astype(np.uint8)
    assert labels_zyx.shape == shape
    numbers = physics.numbers(physics.analyse(labels_zyx, SIZE, flow_axes=''))
    values.append([numbers[path] for path in paths])
    found = intervals.sampling_errors(labels_zyx, SIZE, numbers, '')
    errors.append([found[path][0] for path in paths])
  ratio = np.sqrt(np.mean(np.square(errors), 0)) / np.std(values, 0, ddof=1)
  assert ((ratio > 0.6) & (ratio < 1.6)).all(), ratio


def test_labels_alone_have_the_sampling_part_and_say_so():
  labels_zyx = (body(3) > 0).astype(np.uint8)
  result = intervals.quantity_intervals(labels_zyx, None, SIZE, flow_axes='')
  assert result['draws'] == 0 and 'Labels alone' in result['caveats'][0]
  row = result['quantities']['porosity']
  assert row['low'] is None and row['material_low'] < row['value']
  assert row['sd']['segmentation'] is None and row['sd']['sampling'] > 0
  assert row['representative_nm'] > 0


@pytest.mark.parametrize(('options', 'match'), [
    ({'draws': 7}, 'draws'), ({'draws': 0}, 'draws'), ({'confidence': 1.0}, 'confiden'),
    ({'confidence': float('nan')}, 'confidence'), ({'flow_axes': 'q'}, 'z, y or x')])
def test_bad_settings_are_named(options, match):
  labels_zyx = (body(3) > 0).astype(np.uint8)
  with pytest.raises(InputError, match=match):
    intervals.quantity_intervals(labels_zyx, None, SIZE, **options)


@pytest.mark.long
def test_intervals_cover_the_truth_where_the_model_holds():
  """40 volumes whose labels come from the model, annotated in six slices each."""
  hits, naive = [], []
  for seed in range(40):
    score_zyx = special.ndtr(body(seed)).astype(np.float32)
    rng = np.random.default_rng((seed, 1))
    truth_zyx = plausible.draw_labels(score_zyx, MODEL._replace(
        length_nm_k=np.array([50.0])), SIZE, rng)
    regions = annotated(score_zyx, truth_zyx, range(0, 12, 2))
    model = plausible.fit_error_model(regions, SIZE, seed)
    labels_zyx = (score_zyx > 0.5).astype(np.uint8)
    found = intervals.quantity_intervals(labels_zyx, score_zyx, SIZE, model=model,
                                         regions=regions, draws=12, seed=seed,
                                         flow_axes='')
    truth = physics.numbers(physics.analyse(truth_zyx, SIZE, flow_axes=''))
    rows = [(found['quantities'][path], truth[path]) for path in (
        'porosity', 'specific_surface.per_um', 'pore_size.mean_nm')]
    hits.append([row['low'] <= value <= row['high'] for row, value in rows])
    naive.append([abs(row['bias']) > 0 for row, _ in rows])
  covered = np.mean(hits, 0)
  assert ((covered >= 0.78) & (covered <= 1)).all(), covered
  assert np.all(naive)
