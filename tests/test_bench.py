"""Benchmarks: what is timed, what a stopped run keeps, and each group in small."""
import json
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from fibjax.bench import bench, figures, members, segment, workloads
from fibjax.cli import main
from fibjax.errors import InputError
from fibjax.inference.score import BlockScorer, Scorer, score_array
from tests.helpers import ROOT


def test_medians_are_of_alternating_runs_after_a_warm_up():
  order = []
  result = workloads.median_seconds({'a': lambda: order.append('a'),
                                     'b': lambda: order.append('b')})
  assert order == ['a', 'b'] * (workloads.REPEATS + 1)
  assert set(result) == {'a', 'b'}


class _StoppedError(Exception):
  pass


@pytest.fixture
def measured(monkeypatch):
  """Two groups of one figure each; a list of the groups that were measured."""
  names = []

  def group(name, figure):
    def measure():
      names.append(name)
      return figure
    return measure

  monkeypatch.setattr(bench, 'GROUPS', {'x': group('x', {'p': 1.5}),
                                        'y': group('y', {'q': 2.})})
  return names


def test_figures_are_printed_as_flat_json(tmp_path, measured, capsys):
  bench.main(tmp_path / 'f.json', 'y')
  content = json.loads((tmp_path / 'f.json').read_text())
  assert content['groups']['y']['figures'] == {'q': 2.0}
  assert {'jax', 'python', 'cpu', 'cores', 'source'} <= set(content['measured_on'])
  assert json.loads(capsys.readouterr().out) == {'q': 2.0}
  with pytest.raises(InputError, match='--only: got z, expected x, y'):
    bench.main(None, 'z')


def test_a_stopped_benchmark_keeps_its_groups_and_resumes(
    tmp_path, measured, monkeypatch, capsys):
  def stop():
    raise _StoppedError

  out = tmp_path / 'f.json'
  with monkeypatch.context() as patch:
    patch.setitem(bench.GROUPS, 'y', stop)
    with pytest.raises(_StoppedError):
      bench.main(out)
  assert list(json.loads(out.read_text())['groups']) == ['x']
  capsys.readouterr()
  assert bench.main(out) == {'p': 1.5, 'q': 2.0}
  captured = capsys.readouterr()
  assert measured == ['x', 'y'] and json.loads(captured.out) == {'p': 1.5, 'q': 2.0}
  assert 'has 1 of 2 groups' in captured.err and 'y, group 1 of 1' in captured.err
  bench.main(out, 'x')  # measures nothing, and leaves the other group in the file
  assert measured == ['x', 'y']
  assert list(json.loads(out.read_text())['groups']) == ['x', 'y']
  bench.main(out, 'x', restart=True)
  assert measured == ['x', 'y', 'x']
  assert list(json.loads(out.read_text())['groups']) == ['x']


def test_figures_of_another_machine_or_source_are_not_kept(
    tmp_path, measured, monkeypatch, capsys):
  out = tmp_path / 'f.json'
  bench.main(out)
  conditions = bench.fingerprint()
  monkeypatch.setattr(bench, 'fingerprint', lambda: conditions | {'cores': 999})
  bench.main(out, 'x')
  assert measured == ['x', 'y', 'x']
  assert 'cores was' in capsys.readouterr().err
  content = json.loads(out.read_text())
  assert list(content['groups']) == ['x'] and content['measured_on']['cores'] == 999


def test_a_file_of_something_else_is_not_overwritten(tmp_path, measured):
  out = tmp_path / 'config.json'
  out.write_text('{"name": "film"}')
  with pytest.raises(InputError, match='no file of `fibjax bench`.*--restart'):
    bench.main(out)
  assert out.read_text() == '{"name": "film"}' and not measured
  with pytest.raises(InputError, match='--out: got .*expected a file in an existing'):
    bench.main(tmp_path / 'none' / 'f.json')


def test_a_peer_that_is_not_installed_is_named(monkeypatch):
  monkeypatch.setattr(bench.importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(InputError, match=r'--peer torch.*pip install -e .\[torch\]'):
    bench.main(None, 'gather', 'torch')


def test_figures_with_a_peer_are_a_group_of_their_own(monkeypatch):
  monkeypatch.setattr(bench.importlib.util, 'find_spec', lambda name: True)
  chosen = bench.choose_groups('gather,dense', 'torch')
  assert chosen == {'gather': figures.gather_share, 'dense-torch':
                    figures.dense_and_torch}


def test_the_command_has_every_option(tmp_path, measured, capsys):
  words = ['bench', '--only=y', f'--out={tmp_path / "f.json"}']
  for more in ([], [], ['--restart']):
    assert main.main(words + more) == 0
    assert json.loads(capsys.readouterr().out) == {'q': 2.0}
  assert measured == ['y', 'y']


@pytest.mark.long
def test_a_group_is_measured_in_this_process(monkeypatch):
  monkeypatch.setattr(workloads, 'REPEATS', 1)
  values = figures.gather_share()
  assert set(values) == {'gather_share_33_3', 'gather_share_113_3'}
  assert all(0 < share < 1 for share in values.values())


def _open_slow(memory_gb):
  assert memory_gb > 0

  def score(shape_zyx, image_zyx):
    time.sleep(0.02)
    return 1 - image_zyx
  return BlockScorer(lambda box: box, score)


def test_a_timed_scorer_scores_the_same_and_keeps_its_seconds():
  scorer, seconds = segment.timed(Scorer((1, 1, 1), (), {'k': 1}, _open_slow))
  assert scorer.fingerprint == {'k': 1}
  image_zyx = np.random.default_rng(0).random((20, 3, 4), np.float32)
  np.testing.assert_array_equal(score_array(scorer.open(1.), image_zyx), 1 - image_zyx)
  assert len(seconds) == 2 and all(0.02 <= s < 10 for s in seconds)


@pytest.mark.long
def test_segment_is_measured_in_its_own_process(tmp_path):
  done = subprocess.run(
      [sys.executable, '-m', 'fibjax.bench.segment', tmp_path, 'film', '1', '64', '64'],
      check=True, cwd=ROOT, stdout=subprocess.PIPE)
  values = json.loads(done.stdout)
  assert 0 < values['compute_s'] < values['score_s'] < values['wall_s']
  assert 0.05 < values['peak_rss_gb'] < 100

@pytest.mark.long
def test_eight_members_are_compared_with_one(monkeypatch):
  def call_once(functions):
    return {name: len(jax.tree.leaves(function())) and 1. for name, function
            in functions.items()}

  monkeypatch.setattr(members, 'median_seconds', call_once)
  assert members.members_over_solo('patch', 33) == {
      'members_over_solo': 8., 'solo_step_ms': 1000.}


def test_the_peer_computes_the_same_network():
  torch_peer = pytest.importorskip('fibjax.bench.torch_peer', exc_type=ImportError)
  model = workloads.default_network(33, 1, 'context')
  params = jax.jit(model.init)(jax.random.key(0))
  window = np.random.default_rng(0).random((91 + 16, 91 + 32, 1), np.float32)
  np.testing.assert_allclose(
      torch_peer.apply_dense(torch_peer.convert(params, 2), window),
      jax.jit(model.apply_dense)(params, window[None])[0], atol=1e-4)
  same = workloads.default_network(33, 1, 'same')
  patches = np.random.default_rng(0).random((3, 33, 33, 1), np.float32)
  np.testing.assert_allclose(
      torch_peer.apply_patches(torch_peer.convert(params, 2), patches),
      same.apply(params, patches), atol=1e-4)
