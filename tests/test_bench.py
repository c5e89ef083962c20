import json

import jax
import numpy as np
import pytest

from fibjax.bench import bench
from fibjax.errors import InputError


def test_medians_are_of_alternating_runs_after_a_warm_up():
  order = []
  result = bench.median_seconds({'a': lambda: order.append('a'),
                                 'b': lambda: order.append('b')})
  assert order == ['a', 'b'] * (bench._REPEATS + 1)
  assert set(result) == {'a', 'b'}


def test_figures_are_flat_json(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(bench, 'GROUPS', {'x': lambda _: {'p': 1.5},
                                        'y': lambda _: {'q': 2.}})
  bench.main(tmp_path / 'f.json', 'y')
  assert json.loads((tmp_path / 'f.json').read_text()) == {'q': 2.0}
  assert json.loads(capsys.readouterr().out) == {'q': 2.0}
  with pytest.raises(InputError, match='--only: got z, expected x, y'):
    bench.main(None, 'z')


def test_a_peer_that_is_not_installed_is_named(monkeypatch):
  monkeypatch.setattr(bench.importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(InputError, match=r'--peer torch.*pip install -e .\[torch\]'):
    bench.main(None, 'gather', 'torch')


def test_the_peer_computes_the_same_network():
  torch_peer = pytest.importorskip('fibjax.bench.torch_peer', exc_type=ImportError)
  model = bench.bench_model(33, 1, 'context')
  params = jax.jit(model.init)(jax.random.key(0))
  window = np.random.default_rng(0).random((91 + 16, 91 + 32, 1), np.float32)
  np.testing.assert_allclose(
      torch_peer.apply_dense(torch_peer.convert(params, 2), window),
      jax.jit(model.apply_dense)(params, window[None])[0], atol=1e-4)
  same = bench.bench_model(33, 1, 'same')
  patches = np.random.default_rng(0).random((3, 33, 33, 1), np.float32)
  np.testing.assert_allclose(
      torch_peer.apply_patches(torch_peer.convert(params, 2), patches),
      same.apply(params, patches), atol=1e-4)
