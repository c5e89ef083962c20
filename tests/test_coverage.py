"""The coverage experiment: what it counts, what it keeps, and the naive interval."""
import json

import numpy as np
import pytest
from scipy import ndimage, special, stats

from fibjax.config import base
from fibjax.errors import InputError
from fibjax.inference.score import BlockScorer, Scorer
from fibjax.studies import coverage

SMALL = coverage.Experiment(presets=('HPC45',), shape_zyx=(8, 64, 64), n_films=2,
                            n_slices=4, n_squares=1, square_px=32, draws=8,
                            artefacts='none')


def member(shift):
  """A member that sees grey values: brighter is solid."""
  def score(shape, image_zyx):
    del shape
    smooth_zyx = ndimage.gaussian_filter(image_zyx, (0, 1.5, 1.5))
    middle, width = smooth_zyx.mean(), smooth_zyx.std()
    return special.expit(4 * (smooth_zyx - middle) / width + shift).astype(np.float32)
  opened = BlockScorer(lambda box: box, score)
  return Scorer((1, 1, 1), (), {}, lambda memory_gb: opened)


def run(experiment, out, members=(0.0, 0.3, 0.5)):
  settings = base()
  return coverage.run_coverage([member(shift) for shift in members], settings.prepare,
                               settings.postprocess, experiment, out)


def row(truth, low, high, naive=(0.0, 1.0), estimate=1.0):
  return {'preset': 'A', 'quantities': {'porosity': {
      'truth': truth, 'value': 0.9, 'estimate': estimate, 'low': low, 'high': high,
      'naive_low': naive[0], 'naive_high': naive[1]}}}


def test_hits_are_counted_and_limits_are_those_of_clopper_and_pearson():
  rows = [row(0.5, 0.4, 0.6), row(0.5, 0.5, 0.6), row(0.5, 0.6, 0.7),
          row(2.0, 1.0, 3.0, naive=(0, 1)), row(None, 0, 1)]
  found = coverage._summarise(rows)['porosity']
  assert found['n'] == 4 and found['covered'] == 0.75
  # Exact limits are quantiles of beta distributions.
  assert found['covered_low'] == pytest.approx(stats.beta.ppf(0.025, 3, 2))
  assert found['covered_high'] == pytest.approx(stats.beta.ppf(0.975, 4, 1))
  assert found['naive_covered'] == 0.75 and found['naive_width'] == 1
  assert found['width'] == pytest.approx(0.15)  # of 0.2, 0.1, 0.1, 2
  assert found['error'] == pytest.approx(1.0)   # of 1, 1, 1, 0.5
  assert coverage._summarise([]) == {}


def test_the_naive_interval_is_the_t_of_the_members():
  values = [0.3, 0.35, 0.31, 0.4]
  found = coverage._naive(values, 0.9)
  expected = stats.t.interval(0.9, 3, np.mean(values), stats.sem(values))
  assert (found['naive_low'], found['naive_high']) == pytest.approx(expected)
  assert coverage._naive([0.1, None], 0.9)['naive_low'] is None


@pytest.mark.long
def test_an_experiment_resumes_and_keeps_its_films(tmp_path):
  out = tmp_path / 'c.json'
  first = run(SMALL._replace(n_films=1), tmp_path / 'one.json')
  whole = run(SMALL, out)
  assert whole['films'][0] == first['films'][0]
  assert whole['films'][0]['seed'] == 1000 != whole['films'][1]['seed']
  content = json.loads(out.read_text())
  content['films'] = content['films'][:1]
  out.write_text(json.dumps(content))
  assert run(SMALL, out)['films'] == whole['films']
  porosity = whole['films'][0]['quantities']['porosity']
  assert porosity['low'] < porosity['estimate'] < porosity['high']
  assert whole['by_preset']['HPC45']['porosity'] == (
      whole['summary']['porosity']['covered'])
  with pytest.raises(InputError, match='other settings'):
    run(SMALL._replace(draws=9), out)


@pytest.mark.parametrize(('change', 'members', 'match'), [
    ({}, (0.0,), 'members: got 1'), ({'n_films': 0}, (0., 1.), 'films: got 0'),
    ({'square_px': 65}, (0., 1.), 'shape'), ({'n_slices': 9}, (0., 1.), 'shape'),
    ({'presets': ('HPC46',)}, (0., 1.), 'HPC45')])
def test_bad_settings_are_named(tmp_path, change, members, match):
  with pytest.raises(InputError, match=match):
    run(SMALL._replace(**change), tmp_path / 'c.json', members)
