"""Choice of members against brute force; what more members bring."""
import itertools
import json

import jax
import numpy as np
import pytest

from fibjax.config import load
from fibjax.errors import InputError
from fibjax.inference.network_scorer import network_scorer
from fibjax.inference.score import score_array
from fibjax.report import growth
from fibjax.studies import ensemble, ensemble_growth
from fibjax.studies.ensemble_selection import greedy_choice
from tests.helpers import ROOT, random_params, small_model, visible_text


def draw(seed, members=5, voxels=400):
  random = np.random.default_rng(seed)
  solid = random.random(voxels) < 0.6
  skill = random.uniform(0.5, 2, (members, 1))
  logits = skill * (2. * solid - 1) + random.normal(0, 1.5, (members, voxels))
  return 1 / (1 + np.exp(-logits)), solid, random.random(voxels)


def loss_of(chosen, scores, solid, weights):
  mean = scores[list(chosen)].mean(0)
  return np.sum(weights * -np.log(np.where(solid, mean, 1 - mean)))


@pytest.mark.parametrize('seed', range(4))
def test_every_choice_is_the_best_next_one(seed):
  arrays = draw(seed)
  chosen = greedy_choice(*arrays, count=6)
  for k in range(6):
    losses = [loss_of([*chosen[:k], m], *arrays) for m in range(5)]
    assert chosen[k] == np.argmin(losses)


def test_two_of_complementary_members_are_found():
  # Each of the first two errs, surely, where the other is right; the third is unsure
  # everywhere and the best alone.
  solid = np.array([True] * 10)
  scores = np.array([[0.95] * 5 + [0.3] * 5, [0.3] * 5 + [0.95] * 5, [0.55] * 10])
  chosen = greedy_choice(scores, solid, np.ones(10), count=5)
  best = min(itertools.combinations_with_replacement(range(3), 5),
             key=lambda subset: loss_of(subset, scores, solid, np.ones(10)))
  assert chosen[0] == 2 and set(chosen) == {0, 1, 2}
  assert loss_of(chosen, scores, solid, np.ones(10)) < (
      loss_of(best, scores, solid, np.ones(10)) * 1.1)


def test_a_member_that_is_far_better_is_chosen_again():
  _, solid, weights = draw(0)
  scores = np.stack([np.where(solid, 0.99, 0.01), np.full(solid.size, 0.5)])
  assert greedy_choice(scores, solid, weights, count=3) == [0, 0, 0]
  assert greedy_choice(scores[[0, 0]], solid, weights, count=2) == [0, 0]


def test_weights_say_which_voxels_count():
  solid = np.array([True, False])
  scores = np.array([[0.9, 0.6], [0.6, 0.1]])
  for weights, expected in (([1, 0], 0), ([0, 1], 1)):
    assert greedy_choice(scores, solid, np.array(weights), count=1) == [expected]


@pytest.mark.long
def test_a_member_that_is_listed_twice_counts_twice_and_is_scored_once():
  model = small_model()
  first, second = random_params(model, 0), random_params(model, 1)
  image = np.random.default_rng(0).random((1, 40, 40), np.float32)

  def score(*params):
    opened = network_scorer([model] * len(params), params).open(1.)
    return score_array(opened, image)
  alone = [score(params) for params in (first, second)]
  found = score(first, second, first)
  np.testing.assert_allclose(found[0], (2 * alone[0] + alone[1]) / 3, atol=1e-6)
  same = score(first, first)  # of one member: no mutual information
  np.testing.assert_allclose(same[0], alone[0], atol=1e-6)
  assert np.abs(same[2]).max() < 1e-6
  copy = jax.tree.map(np.array, first)
  np.testing.assert_array_equal(score(first, copy), same)


def test_subsets_are_different_and_all_of_few():
  assert ensemble_growth.sizes_of(8) == [1, 2, 4, 8]
  assert ensemble_growth.sizes_of(6) == [1, 2, 4, 6]
  assert ensemble_growth.sizes_of(1) == [1]
  for members, count, expected in ((8, 1, 8), (8, 2, 8), (8, 8, 1), (3, 2, 3)):
    subsets = ensemble_growth.draw_subsets(members, count, 0)
    assert len({tuple(subset) for subset in subsets}) == len(subsets) == expected
    assert all(len(set(subset)) == count for subset in subsets)
  assert subsets == ensemble_growth.draw_subsets(3, 2, 0)


def test_growth_is_a_table_and_a_figure():
  rows = [{'kind': kind, 'members': k, 'passes': 8 * k if kind == 'dihedral' else k,
           'draws': 3, **dict.fromkeys(ensemble_growth.SCORES, [0.8 + k / 100, sd])}
          for kind in ('seeds', 'dihedral') for k, sd in ((1, 0.01), (2, None))]
  table = growth.growth_table(rows)
  assert table.rows[0][:5] == ('seeds', '1', '1', '3', '0.8100 ± 0.0100')
  assert table.rows[3][:5] == ('dihedral', '2', '16', '3', '0.8200')
  figure = growth.growth_figure(rows)
  line = figure.axes[0].containers[1].lines[0]
  assert line.get_xdata().tolist() == [8, 16]
  assert line.get_ydata() == pytest.approx([0.81, 0.82])


def test_other_selections_are_told():
  with pytest.raises(InputError, match=r"ensemble.selection='gredy'.*'greedy'"):
    load(f'{ROOT}/configs/demo.py:ensemble_tiny', ('ensemble.selection=gredy',))


@pytest.mark.long
def test_a_greedy_ensemble_with_its_growth(tmp_path):
  config = load(f'{ROOT}/configs/demo.py:ensemble_tiny', (
      'ensemble.selection=greedy', 'ensemble.growth=True', 'train.schedule=cycles',
      'train.cycles=2', 'data.shape_zyx=16,112,112', 'model.n_z=1',
      'ensemble.dihedral=False'))
  results = ensemble.run_ensemble(config, tmp_path / 'w')
  members = json.loads((tmp_path / 'w' / 'ensemble.json').read_text())['members']
  assert len(members) == len(results['members']) == 2
  rows = json.loads((tmp_path / 'w' / 'growth.json').read_text())
  passes = {(row['kind'], row['members']): row['passes'] for row in rows}
  assert passes[('seeds', 2)] == 2 and passes[('dihedral', 1)] == 8
  assert passes[('snapshots', 2)] == 4 and ('averaged weights', 1) in passes
  assert passes[('greedy', 2)] == len({member['member'] for member in members})
  by_kind = {(row['kind'], row['members']): row for row in rows}
  assert by_kind[('greedy', 2)]['brier'][0] == pytest.approx(
      results['ensemble']['brier'], rel=1e-5)
  text = visible_text((tmp_path / 'w' / 'report.html').read_text())
  assert 'Ensembles against their cost' in text
