"""Porosities of regions and their comparison, against scipy and closed cases."""
import json

import numpy as np
import pytest
from scipy import stats

from fibjax.analysis import porosity
from fibjax.errors import InputError


def paired_regions(n=60, bias=0.02, seed=0):
  rng = np.random.default_rng(seed)
  manual = np.clip(rng.normal(0.3, 0.09, n), 0, 1)
  return manual, manual + bias + rng.normal(0, 0.02, n)


def test_t_tests_by_their_formulas():
  manual, automatic = paired_regions()
  n = manual.size
  result = porosity.compare_porosities(manual, automatic, seed=1)
  pooled = np.sqrt((manual.var(ddof=1) + automatic.var(ddof=1)) / 2)
  t = (automatic.mean() - manual.mean()) / (pooled * np.sqrt(2 / n))
  assert result['unpaired_t'] == pytest.approx(t)
  assert result['unpaired_p'] == pytest.approx(2 * stats.t.sf(abs(t), 2 * n - 2))
  d = automatic - manual
  t = d.mean() / (d.std(ddof=1) / np.sqrt(n))
  assert result['paired_t'] == pytest.approx(t)
  assert result['paired_p'] == pytest.approx(2 * stats.t.sf(abs(t), n - 1))
  json.dumps(result, allow_nan=False)


def test_unpaired_test_pools_unequal_variances():
  manual = np.array([0.1, 0.5, 0.2, 0.6])
  automatic = np.array([0.41, 0.42, 0.43, 0.44])
  result = porosity.compare_porosities(manual, automatic, seed=0)
  assert result['unpaired_p'] == pytest.approx(
      2 * stats.t.sf(result['unpaired_t'], 6), rel=1e-9)


def test_bootstrap_interval_is_near_the_normal_one():
  manual, automatic = paired_regions(n=400)
  result = porosity.compare_porosities(manual, automatic, seed=0, confidence=0.9)
  half = stats.norm.ppf(0.95) * (automatic - manual).std() / 20
  width = result['difference_high'] - result['difference_low']
  assert width == pytest.approx(2 * half, rel=0.04)
  assert result['confidence'] == 0.9


def test_pairing_sees_a_bias_that_the_unpaired_test_misses():
  result = porosity.compare_porosities(*paired_regions(), seed=1)
  assert result['unpaired_p'] > 0.05
  assert result['paired_p'] < 1e-6
  assert 0 < result['difference_low'] < result['difference'] < result['difference_high']


def test_bootstrap_interval_covers_at_its_rate():
  hits = 0
  for seed in range(300):
    manual, automatic = paired_regions(n=40, bias=0.01, seed=seed)
    result = porosity.compare_porosities(manual, automatic, seed, n_resamples=400)
    hits += result['difference_low'] <= 0.01 <= result['difference_high']
  assert 0.90 < hits / 300 < 0.98


def test_bootstrap_resamples_pairs_and_follows_its_seed():
  manual, automatic = paired_regions()
  first = porosity.compare_porosities(manual, automatic, seed=5)
  assert first == porosity.compare_porosities(manual, automatic, seed=5)
  assert first != porosity.compare_porosities(manual, automatic, seed=6)
  # Regions in step: a paired resample has no spread at all.
  shifted = porosity.compare_porosities(manual, manual + 0.0625, seed=5)
  assert shifted['paired_p'] is None and shifted['unpaired_p'] < 0.01
  width = shifted['difference_high'] - shifted['difference_low']
  assert width == pytest.approx(0, abs=1e-12)


def test_what_is_undefined_is_none():
  one = porosity.compare_porosities([0.2], [0.3], seed=0)
  assert one['difference'] == pytest.approx(0.1)
  assert one['paired_p'] is None and one['difference_low'] is None
  none = porosity.compare_porosities([], [], seed=0)
  assert none['n_regions'] == 0 and none['manual'] is None
  same = porosity.compare_porosities([0.25, 0.5], [0.25, 0.5], seed=0)
  assert same['paired_p'] is None and same['unpaired_p'] == pytest.approx(1)
  constant = porosity.compare_porosities([0.25, 0.25], [0.5, 0.5], seed=0)
  assert constant['unpaired_p'] is None
  json.dumps([none, one, same, constant], allow_nan=False)


@pytest.mark.parametrize(('manual', 'automatic'), [
    ([0.1, np.nan], [0.1, 0.2]), ([0.1, 0.2], [0.1])])
def test_bad_porosities_are_refused(manual, automatic):
  with pytest.raises(InputError):
    porosity.compare_porosities(np.array(manual), np.array(automatic), seed=0)
