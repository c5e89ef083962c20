import json

import pytest

from fibjax import bench
from fibjax.checks import InputError


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
