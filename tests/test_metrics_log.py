"""The hook for metrics: what it is told, MLflow by a stand-in, off by default."""
import contextlib
import sys
import types

import pytest

from fibjax.config import check_section, load
from fibjax.errors import InputError
from fibjax.methods.registry import make_method
from fibjax.training import metrics_log
from fibjax.training.members_table import EPOCH_COLUMNS
from tests.helpers import ROOT

ROW = dict.fromkeys(EPOCH_COLUMNS, 0.5) | {'epoch': 3}


class Client:
  """What metrics_log asks of mlflow.MlflowClient; records the calls."""
  calls = []

  def __getattr__(self, name):
    def call(*args, **options):
      self.calls.append((name, args, options))
      if name == 'create_run':
        return types.SimpleNamespace(info=types.SimpleNamespace(
            run_id=options['run_name'] + '!'))
      return 'made' if name == 'create_experiment' else None
    return call


@pytest.fixture
def calls(monkeypatch):
  monkeypatch.setattr(Client, 'calls', [])
  monkeypatch.setitem(sys.modules, 'mlflow', types.SimpleNamespace(MlflowClient=Client))
  return Client.calls


def test_every_member_is_a_run_of_an_experiment(calls):
  settings = check_section('train', {'log': 'mlflow'})
  with metrics_log.open_log('film', settings) as log:
    log('member 0', ROW)
    log('member 1', ROW)
    log('member 0', ROW | {'epoch': 4})
  names = [name for name, _, _ in calls]
  assert names.count('create_experiment') == 1 and names.count('create_run') == 2
  metrics = [(args, options) for name, args, options in calls if name == 'log_metric']
  assert len(metrics) == 3 * (len(EPOCH_COLUMNS) - 1)
  assert (('member 0!', 'val_bce', 0.5), {'step': 4}) in metrics
  params = [args for name, args, _ in calls if name == 'log_param']
  assert ('member 1!', 'loss', 'bce') in params
  assert [args for name, args, _ in calls if name == 'set_terminated'] == [
      ('member 0!', 'FINISHED'), ('member 1!', 'FINISHED')]


def test_a_training_that_fails_leaves_no_open_run(calls):
  with (pytest.raises(KeyboardInterrupt),
        metrics_log.mlflow_log('film', {}) as log):
    log('member 0', ROW)
    raise KeyboardInterrupt
  assert calls[-1][:2] == ('set_terminated', ('member 0!', 'FAILED'))


def test_it_is_off_by_default_and_mistakes_are_told_before_any_work(monkeypatch):
  with metrics_log.open_log('film', check_section('train', {})) as log:
    assert log('member 0', ROW) is None
  config = load(f'{ROOT}/configs/demo.py:tiny', ('train.log=mlfow',))
  with pytest.raises(InputError, match="train.log.*did you mean 'mlflow'"):
    make_method(config)
  monkeypatch.setitem(sys.modules, 'mlflow', None)
  with (pytest.raises(InputError, match=r'pip install fibjax\[mlflow\]'),
        metrics_log.open_log('film', check_section('train', {'log': 'mlflow'}))):
    pass


@pytest.mark.long
def test_ones_own_log_gets_every_epoch_of_every_member(monkeypatch, tmp_path):
  from fibjax.studies import sweep
  rows = []

  @contextlib.contextmanager
  def listed(name, settings):
    yield lambda member, row: rows.append((name, member, row['epoch']))
  monkeypatch.setitem(metrics_log.LOGS, 'listed', listed)
  config = load(f'{ROOT}/configs/skarberg2021.py:sweep_tiny', (
      'train.log=listed', 'sweep.sizes=33x1', 'sweep.members=2'))
  sweep.run_sweep(config, tmp_path / 'mine')
  assert rows == [('mine', f'33x1, member {k}', epoch) for epoch in (0, 1)
                  for k in (0, 1)]
