"""Calibration: known temperatures and priors, brute force, closed forms."""
import json
import math

import numpy as np
import pytest
from scipy import special

from fibjax.errors import InputError
from fibjax.metrics import calibration


def draw(probabilities_n, seed):
  rng = np.random.default_rng(seed)
  return (rng.random(len(probabilities_n)) < probabilities_n).astype(np.uint8)


@pytest.mark.parametrize(('temperature', 'offset'),
                         [(2.5, 0.0), (0.4, 0.0), (1.7, 0.8)])
def test_a_known_temperature_is_recovered(temperature, offset):
  logits_n = np.random.default_rng(0).normal(0, 3, 60_000)
  labels_n = draw(special.expit(logits_n / temperature + offset), 1)
  labels_n[::7] = 255
  found = calibration.fit_temperature(logits_n, labels_n, offset)
  assert found == pytest.approx(temperature, rel=0.03)
  if offset:  # and is another without the offset
    wrong = calibration.fit_temperature(logits_n, labels_n)
    assert abs(wrong - temperature) > 0.1


def test_the_temperature_is_the_best_of_a_grid():
  rng = np.random.default_rng(2)
  logits_n, labels_n = rng.normal(0, 2, 50), rng.integers(0, 2, 50)
  labels_n[logits_n > 0.5] = 1

  def loss(temperature):
    return calibration.nll(special.expit(logits_n / temperature), labels_n)

  best = loss(calibration.fit_temperature(logits_n, labels_n))
  assert best <= min(loss(t) for t in np.geomspace(0.01, 100, 400)) + 1e-12


def test_without_a_finite_optimum_the_temperature_is_a_bound():
  low, high = calibration.TEMPERATURES
  logits_n = np.array([-2.0, -1.0, 1.0, 3.0])
  right_n = np.array([0, 0, 1, 1])
  assert calibration.fit_temperature(logits_n, right_n) == pytest.approx(low)
  assert calibration.fit_temperature(logits_n, 1 - right_n) == pytest.approx(high)


def test_a_balanced_network_is_calibrated_at_another_prior():
  # x is normal about +1 in solid and -1 in pore: trained 50/50, its logit is 2 x.
  rng = np.random.default_rng(3)
  labels_n = draw(np.full(60_000, 0.7), 4)
  logits_n = 2 * rng.normal(2.0 * labels_n - 1)
  raw = calibration.summarise(special.expit(logits_n), labels_n)
  scores_n = special.expit(calibration.shift_prior(logits_n, 0.7))
  shifted = calibration.summarise(scores_n, labels_n)
  assert raw['ece'] > 0.03 and shifted['ece'] < 0.008
  assert shifted['brier'] < raw['brier'] and shifted['nll'] < raw['nll']
  assert np.mean(1 - scores_n) == pytest.approx(np.mean(labels_n == 0), abs=0.005)
  np.testing.assert_allclose(
      calibration.calibrate(2 * logits_n, 2.0, calibration.prior_offset(0.7)), scores_n)


def test_prior_offset_is_a_difference_of_log_odds():
  assert calibration.prior_offset(0.8) == pytest.approx(math.log(4))
  assert calibration.prior_offset(0.5, 0.2) == pytest.approx(math.log(4))
  np.testing.assert_allclose(calibration.shift_prior([1.0, 2.0], 0.3, 0.3), [1, 2])


def test_logits_of_scores():
  scores = np.array([0.0, 0.1, 0.5, 0.9, 1.0], np.float32)
  logits = calibration.to_logits(scores)
  assert np.isfinite(logits).all()
  np.testing.assert_allclose(special.expit(logits), scores, atol=2e-7)


@pytest.mark.parametrize('levels', [None, 7])
def test_reliability_by_brute_force(levels):
  rng = np.random.default_rng(5)
  scores_n = rng.random(203)
  if levels:
    scores_n = np.round(scores_n * levels) / levels
  labels_n = draw(scores_n ** 2, 6)
  labels_n[::10] = 255
  table = calibration.reliability(scores_n, labels_n, bins=5)
  valid = labels_n != 255
  s, y = scores_n[valid], labels_n[valid]
  members = [[] for _ in range(5)]
  for value, label in zip(s, y, strict=True):
    middle = (np.sum(s < value) + np.sum(s <= value)) / 2
    members[int(5 * middle / s.size)].append((value, label))
  members = [np.array(m) for m in members if m]
  np.testing.assert_array_equal(table.count_b, [len(m) for m in members])
  np.testing.assert_allclose(table.score_b, [m[:, 0].mean() for m in members])
  np.testing.assert_allclose(table.solid_b, [m[:, 1].mean() for m in members])
  if not levels:
    assert np.ptp(table.count_b) <= 1  # equal mass
  order = rng.permutation(203)
  for a, b in zip(table, calibration.reliability(scores_n[order], labels_n[order], 5),
                  strict=True):
    np.testing.assert_allclose(a, b)


def test_closed_forms():
  # 4 of 10 solid at score 0.2, 9 of 10 at 0.8.
  scores_n = np.repeat([0.2, 0.8], 10)
  labels_n = np.concatenate([np.arange(10) < 4, np.arange(10) < 9]).astype(np.uint8)
  found = calibration.summarise(scores_n, labels_n)
  assert found['ece'] == pytest.approx((0.2 + 0.1) / 2)
  assert found['brier'] == pytest.approx(
      (4 * 0.64 + 6 * 0.04 + 9 * 0.04 + 1 * 0.64) / 20)
  assert found['nll'] == pytest.approx(
      -(5 * math.log(0.2) + 15 * math.log(0.8)) / 20)
  assert found['n_voxels'] == 20


def test_the_error_of_calibrated_scores_vanishes_as_predicted():
  for n, seed in ((4_000, 7), (64_000, 8)):
    rng = np.random.default_rng(seed)
    found, expected = [], []
    for k in range(20):
      scores_n = rng.random(n)
      table = calibration.reliability(scores_n, draw(scores_n, (seed, k, 1)))
      found.append(calibration.ece(table))
      p = table.score_b
      # mean |N(0, p (1 - p) / count)|; scores vary in a bin, which adds nothing.
      expected.append(np.mean(np.sqrt(2 * p * (1 - p) / (np.pi * table.count_b))))
    assert np.mean(found) == pytest.approx(np.mean(expected), rel=0.15)


def test_summary_is_json_and_leaves_unlabelled_voxels_out():
  scores_zyx = np.array([[[0.9, 0.2], [0.5, 0.4]]], np.float32)
  labels_zyx = np.array([[[1, 0], [255, 255]]], np.uint8)
  found = calibration.summarise(scores_zyx, labels_zyx)
  assert found['n_voxels'] == 2 and found['brier'] == pytest.approx(0.025)
  empty = calibration.summarise(scores_zyx, np.full_like(labels_zyx, 255))
  assert empty == {'ece': None, 'brier': None, 'nll': None, 'n_voxels': 0}
  json.dumps([found, empty], allow_nan=False)
  certain = calibration.summarise([0.0, 1.0], [1, 1])
  assert certain['nll'] == pytest.approx(0.5 * 7 * math.log(10), rel=1e-3)


@pytest.mark.parametrize('call', [
    lambda: calibration.summarise([0.5, 1.5], [0, 1]),
    lambda: calibration.summarise([0.5, np.nan], [0, 1]),
    lambda: calibration.summarise([0.5, 0.5], [0, 2]),
    lambda: calibration.summarise([0.5], [0, 1]),
    lambda: calibration.reliability([0.5], [0], bins=0),
    lambda: calibration.fit_temperature([1.0], [255]),
    lambda: calibration.fit_temperature([np.inf], [1]),
    lambda: calibration.prior_offset(1.0),
    lambda: calibration.prior_offset(0.5, 0.0),
    lambda: calibration.predictive(np.zeros((0, 3))),
    lambda: calibration.predictive([[0.5], [-0.1]])])
def test_bad_input_is_refused(call):
  with pytest.raises(InputError):
    call()


def test_entropy_is_stable_at_the_ends():
  np.testing.assert_array_equal(calibration.binary_entropy([0.0, 1.0]), 0)
  assert calibration.binary_entropy(0.5) == pytest.approx(math.log(2))
  tiny = 1e-20
  assert calibration.binary_entropy(tiny) == pytest.approx(
      tiny * (1 - math.log(tiny)), rel=1e-12, abs=0)


def test_members_that_agree_and_members_that_do_not():
  apart = calibration.predictive([[0.0], [1.0]])
  assert apart.mean[0] == 0.5
  assert apart.entropy[0] == apart.mutual_information[0] == pytest.approx(math.log(2))
  same = calibration.predictive(np.full((5, 3), 0.3, np.float32))
  np.testing.assert_allclose(same.mutual_information, 0, atol=1e-15)
  np.testing.assert_allclose(same.entropy, calibration.binary_entropy(np.float32(0.3)))


def test_ensemble_by_direct_formulas():
  scores_mzyx = np.random.default_rng(9).uniform(0.01, 0.99, (4, 2, 3, 5))
  found = calibration.predictive(scores_mzyx)

  def entropy(p):
    return -(p * np.log(p) + (1 - p) * np.log(1 - p))

  mean = scores_mzyx.mean(0)
  np.testing.assert_allclose(found.mean, mean)
  np.testing.assert_allclose(found.entropy, entropy(mean))
  # The mutual information is the mean divergence of the members from their mean.
  divergence = scores_mzyx * np.log(scores_mzyx / mean)
  divergence += (1 - scores_mzyx) * np.log((1 - scores_mzyx) / (1 - mean))
  np.testing.assert_allclose(found.mutual_information, divergence.mean(0), atol=1e-14)
