"""Error models of scores: what made the labels is found, and draws have it."""
import numpy as np
import pytest
from scipy import ndimage, special, stats

from fibjax.analysis import plausible
from fibjax.analysis.plausible import ErrorModel, ScoredRegion
from fibjax.errors import InputError

SIZE = (40.0, 10.0, 10.0)


def model(slope=1.0, offset=0.0, weights=(0.6, 0.4), lengths=(30., 90.), stretch=1.0,
          covariance=((0, 0), (0, 0)), df=0):
  return ErrorModel(slope, offset, np.array(covariance, float), df, np.array(weights),
                    np.array(lengths), stretch, True, 1, 1)


def scores(seed, shape, strength=2.0):
  """Smooth scores P(solid) whose probits have about this standard deviation."""
  noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape),
                                  (2, 6, 6))
  return special.ndtr(strength * noise / noise.std()).astype(np.float32)


def annotate(score_zyx, labels_zyx, slices, trained=()):
  return [ScoredRegion(score_zyx[z], labels_zyx[z], (z, 0, 0), k, z in trained)
          for k, z in enumerate(slices)]


def test_the_parameters_that_made_the_labels_are_found():
  true = model(0.8, 0.3, stretch=0.7)
  score_zyx = scores(0, (24, 160, 160))
  labels_zyx = plausible.draw_labels(score_zyx, true, SIZE, np.random.default_rng(1))
  found = plausible.fit_error_model(annotate(score_zyx, labels_zyx, range(24)), SIZE)
  assert found.slope == pytest.approx(0.8, abs=0.08)
  assert found.offset == pytest.approx(0.3, abs=0.08)
  # rho, not the parts of the mixture, is what the data tell.
  lags_nm = np.array([20., 40., 80., 160.])
  for lag in lags_nm:
    rho, expected = (sum(w * np.exp(-lag ** 2 / (2 * length ** 2)) for w, length in zip(
        m.weight_k, m.length_nm_k, strict=True)) for m in (found, true))
    assert rho == pytest.approx(expected, abs=0.07)
  assert found.z_measured and found.stretch_z == pytest.approx(0.7, rel=0.15)
  # 24 blocks of 24 slices: the errors are of the size of what was missed.
  sd = np.sqrt(np.diag(found.covariance))
  assert found.df == 23 and (sd > 0.01).all() and (sd < 0.1).all()


def test_draws_follow_the_calibrated_scores():
  true = model(1.3, -0.4)
  score_zyx = scores(2, (4, 60, 60))
  rng = np.random.default_rng(3)
  mean_zyx = np.mean([plausible.draw_labels(score_zyx, true, SIZE, rng)
                      for _ in range(400)], 0)
  expected_zyx = special.ndtr(1.3 * special.ndtri(score_zyx) - 0.4)
  error_zyx = mean_zyx - expected_zyx
  assert abs(error_zyx.mean()) < 0.005
  # Every voxel within 5 standard errors, or 4 draws where they are rare.
  assert (np.abs(error_zyx) < 5 * np.sqrt(expected_zyx * (1 - expected_zyx) / 400)
          + 0.01).all()
  # Another calibration is used where it is given.
  solid = plausible.draw_labels(score_zyx, true, SIZE, rng, (1.0, 5.0)).mean()
  assert solid > 0.95


def test_the_field_has_the_correlation_of_the_mixture():
  rng = np.random.default_rng(4)
  true = model(weights=(0.7, 0.3), lengths=(30., 80.), stretch=1.6)
  fields = np.stack([plausible.draw_field((24, 96, 96), true, SIZE, rng)
                     for _ in range(12)])
  assert fields.mean() == pytest.approx(0, abs=0.05)
  assert fields.var() == pytest.approx(1, abs=0.05)
  for axis, lag, length_scale, spacing in ((3, 2, 1, 10), (3, 6, 1, 10), (2, 4, 1, 10),
                                           (1, 1, 1.6, 40), (1, 2, 1.6, 40)):
    expected = sum(w * np.exp(-(lag * spacing / length_scale) ** 2 / (2 * n ** 2))
                   for w, n in ((0.7, 30.), (0.3, 80.)))
    product = fields * np.roll(fields, lag, axis)  # the fields are periodic
    assert product.mean() == pytest.approx(expected, abs=0.04)


def test_the_covariance_of_two_voxels_is_that_of_the_bivariate_normal():
  rng = np.random.default_rng(5)
  first, second = rng.normal(size=(2, 6))
  for rho in (0.2, 0.7, 0.95):
    joint = stats.multivariate_normal([0, 0], [[1, rho], [rho, 1]])
    expected = np.mean([joint.cdf([a, b]) - special.ndtr(a) * special.ndtr(b)
                        for a, b in zip(first, second, strict=True)])
    assert plausible._covariance(first, second, rho) == pytest.approx(expected,
                                                                      abs=2e-4)


def test_the_slope_is_that_of_regions_the_network_has_not_seen():
  """On regions of training the scores are surer than elsewhere."""
  score_zyx = scores(6, (16, 96, 96))
  rng = np.random.default_rng(7)
  labels_zyx = plausible.draw_labels(score_zyx, model(0.7), SIZE, rng)
  labels_zyx[:8] = plausible.draw_labels(score_zyx[:8], model(3.0), SIZE, rng)
  found = plausible.fit_error_model(
      annotate(score_zyx, labels_zyx, range(16), trained=range(8)), SIZE)
  assert found.slope == pytest.approx(0.7, abs=0.15)


def test_without_regions_of_near_slices_lengths_are_the_same_in_nm():
  score_zyx = scores(8, (24, 64, 64))
  labels_zyx = plausible.draw_labels(score_zyx, model(), SIZE, np.random.default_rng(9))
  found = plausible.fit_error_model(annotate(score_zyx, labels_zyx, [0, 8, 16]), SIZE)
  assert (found.stretch_z, found.z_measured) == (1.0, False)


def test_calibrations_scatter_as_their_error_says():
  uncertain = model(1.0, 0.2, covariance=((0.01, 0.004), (0.004, 0.04)), df=200)
  rng = np.random.default_rng(10)
  drawn = np.array([plausible.draw_calibration(uncertain, rng) for _ in range(4000)])
  np.testing.assert_allclose(drawn.mean(0), [1.0, 0.2], atol=0.02)
  np.testing.assert_allclose(np.cov(drawn.T), uncertain.covariance, rtol=0.15)
  assert plausible.draw_calibration(model(1.1, 0.3), rng) == (1.1, 0.3)


def test_regions_that_tell_nothing_are_refused():
  score_zyx = scores(11, (1, 20, 20))
  with pytest.raises(InputError, match='one phase'):
    plausible.fit_error_model(annotate(score_zyx, score_zyx * 0 + 255, [0]), SIZE)
  with pytest.raises(InputError, match='one phase'):
    plausible.fit_error_model([], SIZE)
  narrow = [ScoredRegion(np.array([[0.2, 0.8]]), np.array([[0, 1]]), (0, 0, 0), 0)]
  with pytest.raises(InputError, match='larger regions'):
    plausible.fit_error_model(narrow, SIZE)
