"""Successive halving replayed on curves: against the real one, and by hand."""
import json

import numpy as np
import pytest

from fibjax.config import load
from fibjax.errors import InputError
from fibjax.report import sweep_tables
from fibjax.studies import halving
from fibjax.system.run_folder import RunFolder
from fibjax.training import loop
from tests.helpers import ROOT

CONFIG = f'{ROOT}/configs/skarberg2021.py'


def draw(seed, members=32, epochs=8):
  """Curves that fall from 0.7 to a level of their own, with noise."""
  random = np.random.default_rng(seed)
  level_m1 = random.uniform(0.2, 0.5, (members, 1))
  rate_m1 = random.uniform(0.3, 1.5, (members, 1))
  return (level_m1 + (0.7 - level_m1) * np.exp(-rate_m1 * np.arange(1, epochs + 1))
          + random.normal(0, 0.01, (members, epochs)))


@pytest.mark.parametrize('members', [1, 5, 32])
@pytest.mark.parametrize('rungs', [(1, 2, 4), (3,), ()])
def test_a_replay_stops_whom_the_training_would_have_stopped(members, rungs):
  curves = draw(members, members)
  reached = loop.Progress(((),) * members, (None,) * members, (None,) * members)
  for epoch in range(1, 9):
    reached = reached._replace(rows=tuple(
        rows if ended else (*rows, {'val_bce': curve[epoch - 1]})
        for rows, ended, curve in zip(reached.rows, reached.ended, curves,
                                      strict=True)))
    if epoch in rungs:
      reached = loop._stop_worse_half(reached)
  np.testing.assert_array_equal(halving.synchronous(curves, rungs),
                                [len(rows) for rows in reached.rows])


def test_the_compute_of_32_draws_is_what_the_rungs_say():
  spent = halving.synchronous(draw(1), (1, 2, 4))
  # 32 members for an epoch, 16 for another, 8 for two, 4 for four
  assert spent.sum() == 32 + 16 + 8 * 2 + 4 * 4
  found = halving.outcome(draw(1), spent)
  assert found['share'] == pytest.approx(80 / 256) and found['share'] <= 0.35


def test_outcomes_by_hand():
  curves = np.array([[0.5, 0.4, 0.3], [0.6, 0.5, 0.1], [0.4, 0.38, 0.35],
                     [0.7, 0.7, 0.7]])
  spent = halving.synchronous(curves, (1,))
  assert spent.tolist() == [3, 1, 3, 1]  # the late one is lost
  assert halving.outcome(curves, spent) == pytest.approx({
      'found': 0.3, 'best': 0.1, 'regret': 0.2, 'rank': 2, 'share': 8 / 12})
  full = halving.outcome(curves, np.full(4, 3))
  assert full['regret'] == 0 and full['rank'] == 1 and full['share'] == 1


def test_the_asynchronous_form_by_hand():
  curves = np.array([[0.5, 0.4], [0.4, 0.3], [0.3, 0.2], [0.6, 0.5]])
  # 0 and 1 begin; 1 is the better half of two and goes on; 2 begins and is best of
  # three, a half of which is one, so it goes on; 3 begins: two of four, both went on.
  assert halving.asynchronous(curves, (1,)).tolist() == [1, 2, 2, 1]


@pytest.mark.parametrize('seed', range(3))
def test_the_asynchronous_form_takes_no_member_twice_to_an_epoch(seed):
  curves = draw(seed)
  spent = halving.asynchronous(curves, (1, 2, 4))
  assert set(spent.tolist()) <= {1, 2, 4, 8} and spent.min() == 1
  found = halving.outcome(curves, spent)
  assert found['share'] < 0.5 and found['regret'] >= 0


def test_equal_curves_cost_the_same_whoever_is_kept():
  curves = np.tile(draw(0, 1), (8, 1))
  assert np.bincount(halving.synchronous(curves, (2, 4)))[[2, 4, 8]].tolist() == [4, 2,
                                                                                 2]
  assert halving.outcome(curves, halving.synchronous(curves, (2, 4)))['rank'] == 1


@pytest.mark.parametrize('override', [
    'sweep.replay=(2,1)', 'sweep.replay=(8,)', 'sweep.replay=(0,)',
    'sweep.replay_draws=97', 'sweep.halving=(2,)'])
def test_bad_rungs_are_told(override):
  with pytest.raises(InputError, match=r'sweep\.replay'):
    load(f'{CONFIG}:halving', (override,))


def test_the_search_on_films_is_sized_as_it_says():
  config = load(f'{CONFIG}:sweep_films')
  assert len(config.sweep.sizes) == 12 and config.sweep.members >= 8
  assert config.train.sampling == 'dense' and config.sweep.halving
  assert len(load(f'{CONFIG}:sweep_films_full').sweep.sizes) == 36
  patch = load(f'{CONFIG}:sweep_films_patch')
  assert patch.train.sampling == 'patch' and patch.model.padding == 'same'
  draws = load(f'{CONFIG}:halving')
  assert draws.sweep.members == 3 * draws.sweep.replay_draws and not draws.sweep.halving


@pytest.mark.long
def test_a_sweep_without_halving_tells_what_it_would_have_found(tmp_path):
  from fibjax.studies import sweep
  config = load(f'{CONFIG}:sweep_tiny', (
      'sweep.sizes=33x1', 'sweep.members=4', 'sweep.replay=(1,)',
      'sweep.replay_draws=2'))
  sweep.run_sweep(config, tmp_path / 'w')
  rows = json.loads(RunFolder(tmp_path / 'w').sweep.halving.read_text())
  assert [(row['form'], row['repetition']) for row in rows] == [
      (form, k) for k in (0, 1) for form in ('synchronous', 'asynchronous')]
  assert all(row['share'] == 0.75 and row['regret'] >= 0 for row in rows)
  table = sweep_tables.halving_table(rows, True)
  assert table.rows[0][:5] == ('33 × 33 × 1', 'synchronous', '1', '1', '75.00')
  assert 'Successive halving, replayed' in (
      tmp_path / 'w' / 'sweep' / 'tables.md').read_text()
