import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from fibjax.models import empty_params, make_model
from fibjax.training import checkpoint, members_table, sampling
from fibjax.training import step as train
from fibjax.training.loop import Member, load_states, train_members
from tests.helpers import bright_is_solid, tiny_config

CREW = [Member(5, {'intensity_mean_sd': 0.03, 'intensity_deviation_sd': 0.05,
                   'l2': 1e-6, 'dropout_dense': 0.1, 'dropout_spatial': 0.3,
                   'log10_learning_rate': -3., 'decay_epochs': 4}),
        Member(6, {'intensity_mean_sd': 0.1, 'intensity_deviation_sd': 0.02,
                   'l2': 1e-4, 'dropout_dense': 0.5, 'dropout_spatial': 0.,
                   'log10_learning_rate': -2.5, 'decay_epochs': 1}),
        Member(7, {'intensity_mean_sd': 0., 'intensity_deviation_sd': 0.,
                   'l2': 0., 'dropout_dense': 0., 'dropout_spatial': 0.,
                   'log10_learning_rate': -2.5, 'decay_epochs': 2})]


def made_sides(model):
  return [sampling.put_regions(*bright_is_solid(seed=s, margin=model.before_px),
                               balanced=False) for s in (0, 1)]


def run(folder, crew, epochs=2, halving=(), **changes):
  settings = tiny_config(epochs=epochs, **changes)
  model = make_model(settings.model)
  *_, now = train_members(settings, model, crew, *made_sides(model), folder,
                                  halving)
  return now, load_states(model, settings, folder, len(crew))


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
  found = [run(tmp_path_factory.mktemp('alone'), [member]) for member in CREW]
  patch.undo()
  return [(now.rows[0], states[0]) for now, states in found]


def test_a_member_is_bit_by_bit_what_it_is_alone(tmp_path, one_device, alone,
                                                 monkeypatch):
  traced, step = [], train.train_step

  def counted(*arguments, **options):
    traced.append(1)
    return step(*arguments, **options)

  monkeypatch.setattr(train, 'train_step', counted)
  now, states = run(tmp_path, CREW)
  for k, (rows, state) in enumerate(alone):
    assert scores(now.rows[k]) == scores(rows)
    jax.tree.map(np.testing.assert_array_equal, states[k], state)
  assert len({row[-1]['val_bce'] for row in now.rows}) == 3
  assert len(traced) == 1, 'one program serves all hyper-parameters'


def assert_close(now, states, alone):
  for k, (rows, state) in enumerate(alone):
    # Sums in another order: what differs in the last bit grows with the steps.
    for found, expected, atol in zip(now.rows[k], rows, (1e-5, 1e-4), strict=True):
      assert found['val_bce'] == pytest.approx(expected['val_bce'], abs=atol)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-3),
                 states[k].params, state.params)


def test_three_members_on_two_devices(tmp_path, alone):
  assert len(jax.local_devices()) == 2
  assert_close(*run(tmp_path, CREW), alone)


SCRIPT = '''
import sys
import jax
from pathlib import Path
from tests.test_members import CREW, run
assert len(jax.local_devices()) == 8
run(Path(sys.argv[1]), CREW, epochs=int(sys.argv[2]))
'''


def run_on_eight(folder, epochs):
  subprocess.run([sys.executable, '-c', SCRIPT, folder, str(epochs)], check=True,
                 cwd=Path(__file__).parents[1],
                 env={**os.environ, 'JAX_NUM_CPU_DEVICES': '8',
                      'JAX_PLATFORMS': 'cpu'})


@pytest.mark.long
def test_a_checkpoint_of_eight_devices_goes_on_on_one(tmp_path, one_device, alone):
  run_on_eight(tmp_path, 1)
  assert_close(*run(tmp_path, CREW), alone)


@pytest.mark.long
def test_a_checkpoint_of_one_device_goes_on_on_eight(tmp_path, one_device, alone):
  run(tmp_path, CREW, epochs=1)
  run_on_eight(tmp_path, 2)
  assert_close(*run(tmp_path, CREW), alone)  # nothing left to do: it reads


def test_a_diverging_member_ends_and_the_others_go_on(tmp_path, one_device, alone,
                                                      capfd):
  wild = CREW[1]._replace(settings=CREW[1].settings | {'log10_learning_rate': 1.})
  now, states = run(tmp_path, [CREW[0], wild, CREW[2]])
  assert now.ended == {1: 'diverged'} and len(now.rows[1]) < 2
  assert 'member 1 (seed 6): loss' in capfd.readouterr().err
  for k in (0, 2):
    assert scores(now.rows[k]) == scores(alone[k][0])
    jax.tree.map(np.testing.assert_array_equal, states[k], alone[k][1])
  for leaf in jax.tree.leaves(states[1].params):  # as they were before
    assert np.isfinite(leaf).all()
  assert not states[1].alive
  # Alone in a group too: a sweep does not stop for it.
  now, _ = run(tmp_path / 'one', [wild])
  assert now.ended == {0: 'diverged'}


def test_the_worse_half_stops(tmp_path, one_device, alone):
  now, states = run(tmp_path, CREW, halving=(1,))
  first = [rows[0]['val_bce'] for rows, _ in alone]
  worst = int(np.argmax(first))
  assert now.ended == {worst: 'stopped'}
  assert [len(rows) for rows in now.rows] == [1 if k == worst else 2 for k in range(3)]
  best = int(np.argmin(first))
  jax.tree.map(np.testing.assert_array_equal, states[best], alone[best][1])


@pytest.mark.long
def test_best_and_average_weights_are_what_they_say(tmp_path, one_device):
  # Four epochs: the mean is over the last one only, the fourth quarter.
  now, (state,) = run(tmp_path / 'a', CREW[:1], epochs=4)
  jax.tree.map(np.testing.assert_array_equal, state.average, state.params)
  best = members_table.best_row(now.rows[0])['epoch']
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
  crew = CREW[:1]
  loop = train_members(settings, model, crew, *made_sides(model), folder)
  for now in loop:
    if len(now.rows[0]) == stop:
      loop.close()
      break
  return now, load_states(model, settings, folder)


def test_snapshots_are_the_weights_at_the_ends_of_cycles(tmp_path, one_device):
  run(tmp_path, CREW[:2], epochs=3, schedule='cycles', cycles=2)
  kept = sorted(path.name for path in (tmp_path / 'snapshots').iterdir())
  assert kept == ['1', '2']
  settings = tiny_config(epochs=3, schedule='cycles', cycles=2)
  model = make_model(settings.model)
  last = checkpoint.load_weights(tmp_path / 'snapshots' / '2', empty_params(model, 2))
  states = load_states(model, settings, tmp_path, 2)
  for k, state in enumerate(states):
    jax.tree.map(lambda a, b, k=k: np.testing.assert_array_equal(a[k], b), last,
                 state.params)
