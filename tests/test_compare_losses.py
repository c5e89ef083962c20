"""Rows of losses.json from stored scores: the same numbers as from arrays."""
import json

import numpy as np
import pytest

from fibjax.metrics import comparison
from fibjax.studies import compare_losses
from fibjax.studies.sweep_plan import Choice
from tests.test_comparison import count, images

FILMS = dict.fromkeys(comparison.SCORES, 0.5) | {'per_volume': {}}


def stored(seed, diffusivity_error):
  """What _measure_unit writes of a member, once through JSON; and its counts."""
  counts = count(*images(seed))
  content = {'scores': {'ece': 0.1}, 'films': FILMS | {
      'miou': seed / 10, 'diffusivity_error': diffusivity_error},
             'counts': {name: value if name == 'volume_r' else value.tolist()
                        for name, value in counts._asdict().items()}}
  return json.loads(json.dumps(content)), counts


def test_a_row_has_the_intervals_of_pairs_of_the_same_seed():
  ours = {seed: stored(seed, 0.2 + seed / 100) for seed in (0, 1, 2)}
  theirs = {seed: stored(seed + 10, 0.1) for seed in (1, 2, 3)}  # 0 did not finish
  row = compare_losses._row(
      Choice(33, 3, 'jml'), *({seed: content for seed, (content, _) in side.items()}
                              for side in (ours, theirs)), seed=5)
  assert (row['loss'], [member['seed'] for member in row['members']]) == (
      'jml', [0, 1, 2])
  expected = comparison.compare([ours[k][1] for k in (1, 2)],
                                [theirs[k][1] for k in (1, 2)], 5)
  for name, interval in expected.items():
    assert row['against_first'][name] == pytest.approx(interval._asdict()), name
  films = row['films_against_first']
  assert films['miou']['difference'] == pytest.approx(-1)
  assert films['miou']['low'] == films['miou']['high'] == pytest.approx(-1)
  assert films['diffusivity_error'] == pytest.approx(comparison.paired_interval(
      [0.21, 0.22], [0.1, 0.1])._asdict())
  json.dumps(row, allow_nan=False)


def test_a_single_pair_and_unknown_diffusivities_give_no_interval():
  one = {0: stored(0, None)[0]}
  row = compare_losses._row(Choice(33, 3, 'jml'), one, one, 0)
  films = row['films_against_first']
  assert films['miou'] == {'difference': 0, 'low': None, 'high': None}
  assert 'diffusivity_error' not in films
  assert row['against_first']['miou']['difference'] == 0
  without = {0: one[0] | {'films': None}}
  assert compare_losses._row(Choice(33, 3, 'jml'), without, one, 0)[
      'films_against_first'] is None
  nobody = compare_losses._row(Choice(33, 3, 'jml'), one, {}, 0)
  assert nobody['against_first'] is None and np.isfinite(nobody['n_xy'])
