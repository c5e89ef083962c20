import copy
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from fibjax.models import empty_params, make_model
from fibjax.training import checkpoint, members_table, sampling, step
from fibjax.training.loop import Member, train_members
from fibjax.training.stored import load_states
from tests.helpers import bright_is_solid, tiny_config

MEMBERS = [Member(5, {'intensity_mean_sd': 0.03, 'intensity_deviation_sd': 0.05,
                      'l2': 1e-6, 'dropout_dense': 0.1, 'dropout_spatial': 0.3,
                      'log10_learning_rate': -3., 'decay_epochs': 4}),
           Member(6, {'intensity_mean_sd': 0.1, 'intensity_deviation_sd': 0.02,
                      'l2': 1e-4, 'dropout_dense': 0.5, 'dropout_spatial': 0.,
                      'log10_learning_rate': -2.5, 'decay_epochs': 1}),
           Member(7, {'intensity_mean_sd': 0., 'intensity_deviation_sd': 0.,
                      'l2': 0., 'dropout_dense': 0., 'dropout_spatial': 0.,
                      'log10_learning_rate': -2.5, 'decay_epochs': 2})]


def regions_of(model):
  return [sampling.put_regions(*bright_is_solid(seed=s, margin=model.before_px),
                               balanced=False) for s in (0, 1)]


def run(folder, members, epochs=2, halving=(), **changes):
  settings = tiny_config(epochs=epochs, **changes)
  model = make_model(settings.model)
  *_, reached = train_members(
      settings.train, model, members, *regions_of(model), folder,
      data_seed=settings.data.seed, standardise=False, halving=halving)
  return reached, load_states(model, settings.train, folder, len(members))


def scores(rows):
  return [{k: v for k, v in row.items() if k != 'seconds'} for row in rows]


@pytest.fixture
def one_device(monkeypatch):
  monkeypatch.setattr(jax, 'local_devices', lambda: jax.devices()[:1])


@pytest.fixture(scope='module')
def alone(tmp_path_factory):
  """What each member is in a training of its own, on one device."""
  patch = pytest.MonkeyPatch()
  patch.setattr(jax, 'local_devices', lambda: jax.devices()[:1])
  found = [run(tmp_path_factory.mktemp('alone'), [member]) for member in MEMBERS]
  patch.undo()
  return [(reached.rows[0], states[0]) for reached, states in found]


@pytest.mark.long
def test_a_member_is_bit_by_bit_what_it_is_alone(tmp_path, one_device, alone,
                                                 monkeypatch):
  traced, train_step = [], step.train_step

  def counted(*arguments, **options):
    traced.append(1)
    return train_step(*arguments, **options)

  monkeypatch.setattr(step, 'train_step', counted)
  reached, states = run(tmp_path, MEMBERS)
  for k, (rows, state) in enumerate(alone):
    assert scores(reached.rows[k]) == scores(rows)
    jax.tree.map(np.testing.assert_array_equal, states[k], state)
  assert len({row[-1]['val_bce'] for row in reached.rows}) == 3
  assert len(traced) == 1, 'one program serves all hyper-parameters'


def assert_close(reached, states, alone):
  for k, (rows, state) in enumerate(alone):
    # Sums in another order: what differs in the last bit grows with the steps.
    for found, expected, atol in zip(reached.rows[k], rows, (1e-5, 1e-4),
                                     strict=True):
      assert found['val_bce'] == pytest.approx(expected['val_bce'], abs=atol)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-3),
                 states[k].params, state.params)


@pytest.mark.long
def test_three_members_on_two_devices(tmp_path, alone):
  assert len(jax.local_devices()) == 2
  assert_close(*run(tmp_path, MEMBERS), alone)


SCRIPT = '''
import sys
import jax
from pathlib import Path
from tests.test_loop import MEMBERS, run
assert len(jax.local_devices()) == 8
run(Path(sys.argv[1]), MEMBERS, epochs=int(sys.argv[2]))
'''


def run_on_eight(folder, epochs):
  subprocess.run([sys.executable, '-c', SCRIPT, folder, str(epochs)], check=True,
                 cwd=Path(__file__).parents[1],
                 env={**os.environ, 'JAX_NUM_CPU_DEVICES': '8',
                      'JAX_PLATFORMS': 'cpu'})


@pytest.mark.long
def test_a_checkpoint_of_eight_devices_goes_on_on_one(tmp_path, one_device, alone):
  run_on_eight(tmp_path, 1)
  assert_close(*run(tmp_path, MEMBERS), alone)


@pytest.mark.long
def test_a_checkpoint_of_one_device_goes_on_on_eight(tmp_path, one_device, alone):
  run(tmp_path, MEMBERS, epochs=1)
  run_on_eight(tmp_path, 2)
  assert_close(*run(tmp_path, MEMBERS), alone)  # nothing left to do: it reads


@pytest.mark.long
def test_a_diverging_member_ends_and_the_others_go_on(tmp_path, one_device, alone,
                                                      capfd):
  wild = MEMBERS[1]._replace(settings=MEMBERS[1].settings | {'log10_learning_rate': 1.})
  reached, states = run(tmp_path, [MEMBERS[0], wild, MEMBERS[2]])
  assert reached.ended == (None, 'diverged', None) and len(reached.rows[1]) < 2
  assert 'member 1 (seed 6): loss' in capfd.readouterr().err
  for k in (0, 2):
    assert scores(reached.rows[k]) == scores(alone[k][0])
    jax.tree.map(np.testing.assert_array_equal, states[k], alone[k][1])
  for leaf in jax.tree.leaves(states[1].params):  # as they were before
    assert np.isfinite(leaf).all()
  assert not states[1].alive
  # Alone in a group too: a sweep does not stop for it.
  reached, _ = run(tmp_path / 'one', [wild])
  assert reached.ended == ('diverged',)


@pytest.mark.long
def test_the_worse_half_stops(tmp_path, one_device, alone):
  reached, states = run(tmp_path, MEMBERS, halving=(1,))
  first = [rows[0]['val_bce'] for rows, _ in alone]
  worst = int(np.argmax(first))
  assert reached.ended == tuple('stopped' if k == worst else None for k in range(3))
  assert [len(rows) for rows in reached.rows] == [1 if k == worst else 2
                                                  for k in range(3)]
  best = int(np.argmin(first))
  jax.tree.map(np.testing.assert_array_equal, states[best], alone[best][1])


def test_snapshots_of_progress_do_not_change_afterwards():
  settings = tiny_config(epochs=2)
  model = make_model(settings.model)
  seen = []
  for reached in train_members(settings.train, model, MEMBERS[:1], *regions_of(model),
                               data_seed=0, standardise=False):
    seen.append((reached, copy.deepcopy(reached)))
  assert [len(reached.rows[0]) for reached, _ in seen] == [0, 1, 2]
  for reached, before in seen:
    assert reached[:2] == before[:2]
    jax.tree.map(np.testing.assert_array_equal, reached.states, before.states)


@pytest.mark.long
def test_best_and_average_weights_are_what_they_say(tmp_path, one_device):
  # Four epochs: the mean is over the last one only, the fourth quarter.
  reached, (state,) = run(tmp_path / 'a', MEMBERS[:1], epochs=4)
  jax.tree.map(np.testing.assert_array_equal, state.average, state.params)
  best = members_table.best_row(reached.rows[0])['epoch']
  _, (until,) = run_until(tmp_path / 'b', best + 1, 4)
  jax.tree.map(np.testing.assert_array_equal, state.best, until.params)
  # Eight: over the last two.
  states = [run_until(tmp_path / f'c{n}', n, 8)[1][0] for n in (7, 8)]
  jax.tree.map(lambda mean, *two: np.testing.assert_allclose(
      mean, np.mean(two, 0), rtol=1e-6, atol=1e-7), states[1].average,
               *(s.params for s in states))


def run_until(folder, stop, epochs):
  settings = tiny_config(epochs=epochs)
  model = make_model(settings.model)
  snapshots = train_members(settings.train, model, MEMBERS[:1], *regions_of(model),
                            folder, data_seed=settings.data.seed, standardise=False)
  for reached in snapshots:
    if len(reached.rows[0]) == stop:
      snapshots.close()
      break
  return reached, load_states(model, settings.train, folder)


def test_snapshots_are_the_weights_at_the_ends_of_cycles(tmp_path, one_device):
  run(tmp_path, MEMBERS[:2], epochs=3, schedule='cycles', cycles=2)
  kept = sorted(path.name for path in (tmp_path / 'snapshots').iterdir())
  assert kept == ['1', '2']
  settings = tiny_config(epochs=3, schedule='cycles', cycles=2)
  model = make_model(settings.model)
  last = checkpoint.load_weights(tmp_path / 'snapshots' / '2', empty_params(model, 2))
  states = load_states(model, settings.train, tmp_path, 2)
  for k, state in enumerate(states):
    jax.tree.map(lambda a, b, k=k: np.testing.assert_array_equal(a[k], b), last,
                 state.params)
