"""Porosity with an error bar: known covariances, known variances, coverage."""
import json
import math

import numpy as np
import pytest
from scipy import ndimage, stats

from fibjax.analysis import two_point, uncertainty
from fibjax.errors import InputError
from fibjax.simulation.films import PRESETS, Film
from fibjax.studies.coverage import free_films
from tests import porosity_coverage as coverage


def medium(shape_zyx, seed, porosity=0.3, sigma_zyx=(1.0, 1.5, 1.5)):
  """A level-cut Gaussian field, 1 = solid; faces are not correlated."""
  rng = np.random.default_rng(seed)
  padded = [n + math.ceil(6 * s) for n, s in zip(shape_zyx, sigma_zyx, strict=True)]
  # A filter of small sigma does not have the norm of its formula: taken from itself.
  pulse = np.zeros([math.ceil(8 * s) * 2 + 1 for s in sigma_zyx])
  pulse[tuple(n // 2 for n in pulse.shape)] = 1
  norm = np.sqrt((ndimage.gaussian_filter(pulse, sigma_zyx) ** 2).sum())
  field = ndimage.gaussian_filter(rng.standard_normal(padded), sigma_zyx, mode='wrap')
  field = field[tuple(slice(n) for n in shape_zyx)] / norm
  return (field > stats.norm.ppf(porosity)).astype(np.uint8)



# --- Two-point function ---------------------------------------------------------------

def test_covariance_by_brute_force():
  phase_zyx = (np.random.default_rng(0).random((3, 4, 5)) < 0.4).astype(np.uint8)
  covariance, count = two_point.two_point_covariance(phase_zyx)
  assert covariance.shape == count.shape == (5, 7, 9)
  centred = phase_zyx - phase_zyx.mean()
  for lag in np.ndindex(5, 7, 9):
    h = np.array(lag) - (2, 3, 4)
    pairs = [centred[a] * centred[tuple(a + h)] for a in np.ndindex(3, 4, 5)
             if (np.array(a) + h >= 0).all() and (np.array(a) + h < (3, 4, 5)).all()]
    assert count[lag] == len(pairs)
    assert covariance[lag] == pytest.approx(np.mean(pairs), abs=1e-12)
  assert (covariance * count).sum() == pytest.approx(0, abs=1e-10)


def test_covariance_of_a_boolean_medium():
  # Pores overlap: intensity lam of cubes of side 3 uncovers S2(h) of the solid,
  # exp(-lam (2 V - V_overlap(h))), minus exp(-2 lam V).
  rng, lam, side = np.random.default_rng(1), 0.03, 3
  seeds = rng.random((40, 60, 60)) < 1 - math.exp(-lam)
  pore = ndimage.maximum_filter(seeds, side)[2:-2, 2:-2, 2:-2]
  covariance, _ = two_point.two_point_covariance(~pore)
  middle = [n // 2 for n in covariance.shape]
  solid = math.exp(-lam * side ** 3)
  for h in ((0, 0, 0), (1, 0, 0), (0, 2, 0), (1, 1, 1), (0, 0, 4)):
    overlap = math.prod(max(side - a, 0) for a in h)
    expected = solid ** 2 * (math.exp(lam * overlap) - 1)
    found = covariance[tuple(m + a for m, a in zip(middle, h, strict=True))]
    assert found == pytest.approx(expected, abs=0.006)


def test_independent_voxels_have_an_integral_range_of_one():
  found = [two_point.sampling_sd(np.random.default_rng(k).random((12, 20, 25)) < 0.3)
           for k in range(12)]
  assert np.mean([f.integral_range_vox for f in found]) == pytest.approx(1, rel=0.1)
  expected = math.sqrt(0.21 / 6000)
  assert np.mean([f.sd for f in found]) == pytest.approx(expected, rel=0.1)
  assert all(f.resolved and f.df > 20 for f in found)


def test_blocks_have_their_volume_as_integral_range():
  # Blocks of 2 x 3 x 4 voxels, randomly shifted: the covariance is a product of
  # triangles, whose sums over lags are 2, 3 and 4.
  found, block = [], (2, 3, 4)
  for seed in range(16):
    rng = np.random.default_rng(seed)
    voxels = rng.random((13, 13, 13)) < 0.4
    for axis, size in enumerate(block):
      voxels = voxels.repeat(size, axis)
    shift = [rng.integers(0, size) for size in block]
    voxels = voxels[shift[0]:shift[0] + 24, shift[1]:shift[1] + 36,
                    shift[2]:shift[2] + 48]
    found.append(two_point.sampling_sd(voxels))
  assert np.mean([f.integral_range_vox for f in found]) == pytest.approx(24, rel=0.12)
  assert np.sqrt(np.mean([f.sd ** 2 for f in found])) == pytest.approx(
      math.sqrt(0.24 * 24 / (24 * 36 * 48)), rel=0.12)


def test_sampling_is_the_same_for_both_phases_and_for_blocks(monkeypatch):
  labels_zyx = medium((20, 40, 41), 3)
  whole = two_point.sampling_sd(labels_zyx)
  other = two_point.sampling_sd((1 - labels_zyx).astype(np.float32))
  assert other.sd == pytest.approx(whole.sd) and other.window_zyx == whole.window_zyx
  monkeypatch.setattr(two_point, 'MAX_BLOCKS', 9000)
  coarse = two_point.sampling_sd(labels_zyx)
  assert coarse.sd == pytest.approx(whole.sd, rel=0.15)
  blocks_zyx = two_point.block_fractions(labels_zyx, (1, 2, 2))  # the fewest that fit
  assert coarse.sd == pytest.approx(two_point.sampling_sd(blocks_zyx).sd)
  assert coarse.integral_range_vox == pytest.approx(whole.integral_range_vox, rel=0.35)


def test_the_window_pays_for_the_mean_of_the_sample():
  labels_zyx = medium((8, 30, 30), 4)
  found = two_point.sampling_sd(labels_zyx)
  covariance, count = two_point.two_point_covariance(labels_zyx)
  box = tuple(slice(n // 2 - w, n // 2 + w + 1)
              for n, w in zip(count.shape, found.window_zyx, strict=True))
  share = count[box].sum() / 7200 ** 2
  assert 0.02 < share < 1 / 3 and found.df == pytest.approx(1 / share - 1)
  variance = (covariance * count)[box].sum() / 7200 ** 2
  assert found.sd ** 2 == pytest.approx(variance / (1 - share))


def test_blocks_average_and_drop_the_rest():
  phase_zyx = np.arange(60.0).reshape(3, 4, 5)
  found = two_point.block_fractions(phase_zyx, (2, 2, 2))
  assert found.shape == (1, 2, 2)
  assert found[0, 1, 1] == pytest.approx(phase_zyx[:2, 2:4, 2:4].mean())


def test_a_range_beyond_the_volume_is_not_resolved():
  labels_zyx = np.zeros((6, 20, 20), np.uint8)
  labels_zyx[:, :, 8:] = 1
  found = two_point.sampling_sd(labels_zyx)
  assert not found.resolved and found.df < 6 and found.sd > 0.05


def test_oscillating_media_keep_a_positive_variance():
  layers = np.broadcast_to((np.arange(40) % 2)[:, None, None], (40, 8, 8))
  found = two_point.sampling_sd(layers)
  assert 0 < found.sd < 0.5


def test_sampling_between_volumes():
  found = two_point.sampling_between([0.2, 0.3, 0.4])
  assert found.sd == pytest.approx(0.1) and found.df == 2 and found.resolved is None


@pytest.mark.parametrize('bad', [
    np.zeros((3, 3, 3)), np.full((3, 3, 3), 255), np.eye(3), np.zeros((0, 3, 3)),
    np.full((2, 2, 2), np.nan)])
def test_bad_volumes_are_refused(bad):
  with pytest.raises(InputError):
    two_point.sampling_sd(bad)


def test_one_volume_has_no_spread():
  with pytest.raises(InputError):
    two_point.sampling_between([0.3])


# --- Regions ------------------------------------------------------------------------

def test_porosity_of_members():
  scores_mzyx = np.array([[[[0.0, 0.5], [0.75, 1.0]]], [[[0.2, 0.4], [0.6, 0.8]]]])
  np.testing.assert_allclose(uncertainty.member_porosities(scores_mzyx), [0.5, 0.5])
  np.testing.assert_allclose(uncertainty.member_porosities(scores_mzyx, 0.7),
                             [0.5, 0.75])
  np.testing.assert_allclose(uncertainty.member_porosities(scores_mzyx, None),
                             [0.4375, 0.5])


def test_bootstrap_error_is_that_of_the_mean():
  values_r = np.random.default_rng(0).normal(0.3, 0.05, 12)
  found = uncertainty.block_bootstrap(values_r, 1, n_resamples=40_000)
  assert found.mean == pytest.approx(values_r.mean()) and found.df == 11
  assert found.sd == pytest.approx(values_r.std(ddof=1) / math.sqrt(12), rel=0.02)
  # Copies of a region are no new regions.
  copies = uncertainty.block_bootstrap(np.repeat(values_r, 5), 1, n_resamples=40_000,
                                       groups_r=np.repeat(np.arange(12), 5))
  assert copies.sd == pytest.approx(found.sd, rel=1e-9) and copies.df == 11


def test_bias_of_members_and_of_another_volume():
  # Two volumes of two regions; differences 1, 3 | 5, 7 points.
  manual_r = np.array([0.2, 0.3, 0.25, 0.4])
  difference_r = np.array([0.01, 0.03, 0.05, 0.07])
  automatic_mr = manual_r + difference_r + np.array([[0.02], [-0.02]])
  found = uncertainty.region_bias(manual_r, automatic_mr, 0, n_resamples=40_000,
                                  groups_r=['a', 'a', 'b', 'b'])
  np.testing.assert_allclose(found.members_m, [0.06, 0.02])
  assert found.mean == pytest.approx(0.04)
  assert found.sd == pytest.approx(0.02, rel=0.02) and found.df == 1
  assert found.new_df == 1 and found.new_sd > found.sd
  assert found.member_variance == pytest.approx(0, abs=1e-12)
  single = uncertainty.region_bias(manual_r, automatic_mr[0], 0)
  assert single.new_sd is None and single.member_variance is None and single.df == 3


def test_error_for_another_volume():
  # Regions of a volume that agree, or one region per volume: the next volume is drawn
  # from the same normal as the others, sd sqrt(1 + 1 / g) with g - 1 degrees.
  rng = np.random.default_rng(0)
  bias_g = rng.normal(0.03, 0.01, 8)
  exact = bias_g.std(ddof=1) * math.sqrt(1 + 1 / 8)
  for each in (1, 5):
    groups_r, manual_r = np.repeat(np.arange(8), each), np.full(8 * each, 0.3)
    found = uncertainty.region_bias(manual_r, manual_r + bias_g[groups_r], 0,
                                    groups_r=groups_r)
    assert found.new_sd == pytest.approx(exact, rel=0.03) and found.new_df == 7
  # Volumes that differ by less than their regions let expect.
  scatter_r = rng.normal(0, 0.05, 40)
  scatter_r -= 0.7 * scatter_r.reshape(8, 5).mean(1)[groups_r]
  found = uncertainty.region_bias(manual_r, manual_r + scatter_r, 0, groups_r=groups_r)
  means_g = scatter_r.reshape(8, 5).mean(1)
  assert found.sd < found.new_sd < 0.8 * means_g.std(ddof=1) * math.sqrt(1 + 1 / 8)


def test_members_that_differ_from_region_to_region():
  rng = np.random.default_rng(0)
  own_mr = rng.normal(0, 0.02, (5, 400))
  found = uncertainty.region_bias(np.full(400, 0.3), 0.3 + own_mr, 0, n_resamples=10)
  assert found.member_variance == pytest.approx(4e-4, rel=0.1)


@pytest.mark.parametrize('call', [
    lambda: uncertainty.region_bias([0.1], [0.1], 0),
    lambda: uncertainty.region_bias([0.1, 0.2], [0.1], 0),
    lambda: uncertainty.region_bias([0.1, np.nan], [0.1, 0.2], 0),
    lambda: uncertainty.region_bias([0.1, 0.2], [0.1, 0.2], 0, groups_r=[1, 1]),
    lambda: uncertainty.region_bias([0.1, 0.2], [0.1, 0.2], 0, groups_r=[1])])
def test_bad_regions_are_refused(call):
  with pytest.raises(InputError):
    call()


# --- The interval -------------------------------------------------------------------

def bias_of(**changed):
  values = {'members_m': np.array([0.02]), 'mean': 0.02, 'sd': 0.01, 'df': 4.0,
            'new_sd': 0.03, 'new_df': 3.0, 'member_variance': None}
  return uncertainty.Bias(**values | changed)


SAMPLING = two_point.Sampling(0.02, 15.0, 30.0, (3, 4, 4), True)


def test_one_part_gives_its_own_t():
  found = uncertainty.porosity_interval([0.3], bias_of(), confidence=0.9)
  assert found['estimate'] == pytest.approx(0.28)
  half = stats.t.ppf(0.95, 4) * 0.01
  assert found['volume']['low'] == pytest.approx(0.28 - half)
  assert found['volume']['high'] == pytest.approx(0.28 + half)
  assert found['material'] is None and found['sd']['members'] is None
  new = uncertainty.porosity_interval([0.3], bias_of(), new_volume=True)
  assert new['volume']['sd'] == 0.03 and new['volume']['df'] == pytest.approx(3)


def test_parts_add_up_and_the_material_is_less_certain():
  members_m = np.array([0.30, 0.32, 0.34])
  found = uncertainty.porosity_interval(members_m, bias_of(), SAMPLING)
  one = 0.02 / math.sqrt(3)
  assert found['sd'] == pytest.approx({'members': one, 'bias': 0.01, 'sampling': 0.02})
  assert found['automatic'] == pytest.approx(0.32)
  assert found['estimate'] == pytest.approx(0.30)
  assert found['volume']['sd'] == pytest.approx(math.hypot(one, 0.01))
  assert found['material']['sd'] == pytest.approx(math.hypot(one, 0.01, 0.02))
  variance = one ** 2 + 0.01 ** 2 + 0.02 ** 2
  df = variance ** 2 / (one ** 4 / 2 + 0.01 ** 4 / 4 + 0.02 ** 4 / 15)
  assert found['material']['df'] == pytest.approx(df)
  half = stats.t.ppf(0.975, df) * math.sqrt(variance)
  assert found['material']['high'] == pytest.approx(0.30 + half)
  assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_only_unseen_disagreement_of_members_counts():
  members_m, own_m = np.array([0.30, 0.32, 0.34]), np.array([0.0, 0.02, 0.04])
  # Every member has the bias that it had in the regions: nothing is left.
  known = bias_of(members_m=own_m, member_variance=0.0)
  found = uncertainty.porosity_interval(members_m, known)
  assert found['sd']['members'] == pytest.approx(0) and found['member_spread'] < 1e-12
  same = bias_of(members_m=np.full(3, 0.02), member_variance=1e-4)
  found = uncertainty.porosity_interval(members_m, same)
  chance = 2e-5 * stats.f.ppf(0.95, 2, 8)
  assert found['sd']['members'] ** 2 == pytest.approx((4e-4 - chance) / 3)
  seen = same._replace(member_variance=1e-4)
  found = uncertainty.porosity_interval(members_m, seen, new_volume=True)
  assert found['sd']['members'] == 0


def test_porosities_stay_porosities_and_nothing_is_made_up():
  found = uncertainty.porosity_interval([0.01], bias_of())
  assert found['estimate'] == found['volume']['low'] == 0
  found = uncertainty.porosity_interval([0.3], None, SAMPLING)
  assert found['volume'] is None and found['material']['sd'] == 0.02
  exact = bias_of(members_m=np.zeros(1), mean=0.0, sd=0.0)
  found = uncertainty.porosity_interval([0.3], exact)
  assert found['volume'] == {'low': 0.3, 'high': 0.3, 'sd': 0.0, 'df': None}
  json.dumps(found, allow_nan=False)


@pytest.mark.parametrize('call', [
    lambda: uncertainty.porosity_interval([]),
    lambda: uncertainty.porosity_interval([0.3]),
    lambda: uncertainty.porosity_interval([0.3, np.nan]),
    lambda: uncertainty.porosity_interval([0.3] * 3, bias_of(members_m=np.zeros(2))),
    lambda: uncertainty.porosity_interval([0.3], bias_of(new_sd=None), new_volume=True),
    lambda: uncertainty.porosity_interval([0.3, 0.4], None, new_volume=True),
    lambda: uncertainty.porosity_interval([0.3, 0.4], confidence=1.0)])
def test_bad_intervals_are_refused(call):
  with pytest.raises(InputError):
    call()


# --- Coverage -----------------------------------------------------------------------

def test_intervals_of_another_volume_cover_as_often_as_they_say():
  # Numbers only: six volumes of five regions, volumes and regions both scatter.
  rng = np.random.default_rng(0)
  groups_r, covered = np.repeat(np.arange(6), 5), []
  for k in range(600):
    volume_g, region_r = rng.normal(0.03, 0.01, 7), rng.normal(0, 0.015, 30)
    manual_r = rng.uniform(0.2, 0.4, 30)
    automatic_r = manual_r + volume_g[groups_r] + region_r
    bias = uncertainty.region_bias(manual_r, automatic_r, k, groups_r=groups_r,
                                   n_resamples=400)
    found = uncertainty.porosity_interval([0.3 + volume_g[6]], bias, new_volume=True,
                                          confidence=0.9)
    covered.append(found['volume']['low'] <= 0.3 <= found['volume']['high'])
  assert 0.87 < np.mean(covered) < 0.94


def test_intervals_of_annotated_volumes_cover_as_often_as_they_say():
  # Regions of the volume itself; three members move every boundary their own way.
  volume, material = [], []
  for seed in range(250):
    truth_zyx = medium((8, 44, 44), (seed, 5))
    rng = np.random.default_rng((seed, 6))
    grey_zyx = ndimage.gaussian_filter(truth_zyx.astype(float), (0, 1, 1))
    noise_zyx = 0.12 * rng.standard_normal(truth_zyx.shape)
    scores_mzyx = np.stack([grey_zyx + noise_zyx + 0.12 + own
                            for own in rng.normal(0, 0.05, 3)])
    corners_r3 = rng.integers(0, (8, 45 - 14, 45 - 14), (16, 3))
    boxes = [np.s_[z, y:y + 14, x:x + 14] for z, y, x in corners_r3]
    bias = uncertainty.region_bias(
        [np.mean(truth_zyx[b] == 0) for b in boxes],
        np.stack([uncertainty.member_porosities(scores_mzyx[(slice(None), *b)])
                  for b in boxes], 1), seed, n_resamples=400)
    found = uncertainty.porosity_interval(
        uncertainty.member_porosities(scores_mzyx), bias,
        two_point.sampling_sd(scores_mzyx.mean(0) > 0.5), confidence=0.9)
    own = np.mean(truth_zyx == 0)
    volume.append(found['volume']['low'] <= own <= found['volume']['high'])
    material.append(found['material']['low'] <= 0.3 <= found['material']['high'])
  assert 0.85 < np.mean(volume) < 0.95
  assert 0.85 < np.mean(material) < 0.95


def make_fake(seed, slow=0.0):
  porosity = stats.norm.cdf(stats.norm.ppf(0.3)
                            + slow * np.random.default_rng((seed, 3)).normal())
  truth_zyx = medium((8, 48, 48), (seed, 4), porosity)
  return Film(truth_zyx.astype(np.uint16) * 1000, truth_zyx, (50.0, 10.0, 10.0), {})


def segment_fake(image_zyx):
  """Blurred truth, a common bias, and noise and offsets of members and films."""
  rng = np.random.default_rng(image_zyx.sum())
  blurred_zyx = ndimage.gaussian_filter(image_zyx / 1000, (0, 1, 1))
  return np.stack([blurred_zyx + 0.1 + 0.03 * m + 0.03 * rng.standard_normal()
                   + 0.15 * rng.standard_normal(image_zyx.shape) for m in (-1, 0, 1)])


@pytest.mark.parametrize('threshold', [0.5, None])
def test_the_experiment_covers(threshold):
  found = coverage.coverage_experiment(
      segment_fake, make_fake, 0.3, seed=7, n_films=300, region_px=24,
      threshold=threshold, n_resamples=300)
  for target in ('volume', 'material', 'material_between'):
    assert 0.85 <= found[target]['covered'] <= 0.95
    assert found[target]['low'] < found[target]['covered'] < found[target]['high']
  assert found['rms_error'] < 0.5 * found['rms_error_automatic']
  assert found['sampling_sd'] == pytest.approx(found['true_sd'], rel=0.2)
  assert found['resolved'] == 1 and found['n_members'] == 3
  json.dumps(found, allow_nan=False)
  assert len(found['films']) == 300 and found['films'][3]['seed'] == 10


def test_what_a_film_does_not_span_only_other_films_tell():
  found = coverage.coverage_experiment(
      segment_fake, lambda seed: make_fake(seed, 0.3), 0.3, seed=7, n_films=60,
      region_px=24, n_resamples=100)
  assert found['material']['covered'] < 0.75
  assert found['material_between']['covered'] > 0.82
  assert found['true_sd'] > 2 * found['sampling_sd']


def test_the_bias_of_a_film_is_learnt_from_others():
  bad = make_fake(2).image_zyx

  def segment(image_zyx):
    scores_zyx = (image_zyx > 0).astype(float)
    if np.array_equal(image_zyx, bad):
      scores_zyx[:, :24] = 0
    return scores_zyx[None]

  found = coverage.coverage_experiment(segment, make_fake, 0.3, seed=1, n_films=6,
                                       n_validation=3, region_px=24, n_resamples=50)
  for row in found['films']:
    if row['seed'] == 2:
      assert row['bias'] == 0 and row['estimate'] > row['truth'] + 0.3
    assert row['sd_members'] is None
  assert any(row['bias'] > 0 for row in found['films'])


def test_free_films_scatter_about_the_material():
  make_film, porosity = free_films('HPC30', (2, 64, 64), artefacts='none',
                                            shine_through=0, slow_amplitude=0.0)
  assert porosity == PRESETS['HPC30'].geometry.porosity
  films = [make_film(seed) for seed in range(24)]
  truth = np.array([film.meta['porosity'] for film in films])
  assert truth.std() > 0.03
  assert abs(truth.mean() - porosity) < 3.5 * truth.std() / math.sqrt(24)
  geometry = films[0].meta['geometry']
  assert not geometry['match_porosity'] and geometry['slow_amplitude'] == 0
  trend, _ = free_films('MEM80', (2, 16, 16))
  assert trend(0).meta['geometry']['porosity_trend'] == 0
  kept, _ = free_films('HPC30', (2, 16, 16))
  assert kept(0).meta['geometry']['slow_amplitude'] == 0.25


def test_the_experiment_runs_on_simulated_films():
  make_film, porosity = free_films('HPC30', (4, 64, 64), artefacts='none',
                                            shine_through=0, slow_amplitude=0.0)
  found = coverage.coverage_experiment(
      lambda image_zyx: np.stack([(image_zyx / image_zyx.max() > t) * 1.0
                                  for t in (0.3, 0.4)]),
      make_film, porosity, seed=0, n_films=5, n_validation=3, n_regions=3)
  assert len(found['films']) == 5 and found['rms_error'] < 0.05


def test_bad_experiments_are_refused():
  with pytest.raises(InputError):
    coverage.coverage_experiment(segment_fake, make_fake, 0.3, seed=0, n_films=4,
                                 n_validation=4)
  with pytest.raises(InputError):
    coverage.coverage_experiment(lambda image_zyx: image_zyx, make_fake, 0.3, seed=0)
