"""A hook for metrics: where the rows of each epoch go besides metrics.csv.

A log is opened once for each training run and called after every epoch of every member
with the member's name and its row of `members_table.EPOCH_COLUMNS`. `LOGS` has the logs
that config.train.log may name; another one is a function and an entry:

  @contextlib.contextmanager
  def print_log(name, settings):
    yield lambda member, row: print(name, member, row['val_bce'])
  metrics_log.LOGS['print'] = print_log
"""
import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Protocol

from fibjax.errors import InputError, unknown


class Log(Protocol):
  """Takes the row of an epoch of a member."""

  def __call__(self, member: str, row: Mapping[str, float]) -> None:
    """member: name within the training; row: EPOCH_COLUMNS -> value."""


@contextlib.contextmanager
def mlflow_log(name: str, settings: Mapping) -> Iterator[Log]:
  """Logs to MLflow: an experiment for the training, a run for each member.

  Where it goes is MLflow's own setting, MLFLOW_TRACKING_URI. A training that is resumed
  gets new runs.

  Args:
    name: of the experiment.
    settings: config.train, the parameters of the runs.

  Raises:
    InputError: when MLflow is not installed.
  """
  try:
    import mlflow
  except ImportError:
    raise InputError('config.train.log', got='mlflow, which is not installed',
                     expected='an installed package',
                     remedy='pip install fibjax[mlflow]') from None
  client = mlflow.MlflowClient()
  experiment = client.get_experiment_by_name(name)
  experiment_id = (client.create_experiment(name) if experiment is None
                   else experiment.experiment_id)
  runs: dict[str, str] = {}

  def add(member, row):
    if member not in runs:
      runs[member] = client.create_run(experiment_id, run_name=member).info.run_id
      for key, value in settings.items():
        client.log_param(runs[member], key, value)
    for key, value in row.items():
      if key != 'epoch':
        client.log_metric(runs[member], key, value, step=int(row['epoch']))
  status = 'FAILED'
  try:
    yield add
    status = 'FINISHED'
  finally:
    for run_id in runs.values():
      client.set_terminated(run_id, status)


LOGS: dict[str, Callable[[str, Mapping], AbstractContextManager[Log]]] = {
    'mlflow': mlflow_log}


def open_log(name: str, settings: Mapping) -> AbstractContextManager[Log]:
  """Opens the log of config.train.log; '' gives one that does nothing.

  Args:
    name: of the training, e.g. that of its workdir.
    settings: config.train.

  Raises:
    InputError: for an unknown log, or as the log.
  """
  check_log(settings)
  if not settings['log']:
    return contextlib.nullcontext(lambda member, row: None)
  return LOGS[settings['log']](name, settings)


def check_log(settings: Mapping) -> None:
  """Raises InputError for a log in config.train.log that LOGS lacks."""
  if settings['log'] and settings['log'] not in LOGS:
    raise unknown('config.train.log', settings['log'], LOGS)
