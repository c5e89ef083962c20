"""Trained states in a workdir: loading, saving, and whether a run is finished."""
import functools

import jax
import numpy as np

from fibjax.errors import InputError
from fibjax.models import Model
from fibjax.system import devices
from fibjax.system.run_folder import RunFolder
from fibjax.training import checkpoint, loop, optim, step
from fibjax.training.members_table import read_rows, write_rows
from fibjax.training.step import TrainState


def is_finished(settings, folder) -> bool:
  """Whether a single run has all epochs of config.train, or has converged."""
  run = RunFolder(folder)
  last_epoch = checkpoint.newest_epoch(run.checkpoints)
  if last_epoch is None:
    return False
  if last_epoch == _last_epoch(settings):
    return True
  rows = read_rows(run) if run.epochs.exists() else []
  return len(rows) - 1 == last_epoch and loop.has_converged(settings, rows)


def _last_epoch(settings) -> int:
  """Number of the checkpoint of a finished run."""
  return max(settings.epochs, 1) - 1


def load_states(model: Model, settings, folder, count: int = 1) -> list[TrainState]:
  """States of the newest checkpoint, one per member.

  Args:
    model: the network that was trained.
    settings: config.train, for the optimiser.
    folder: workdir, or folder of a group of members.
    count: number of members in it.

  Raises:
    InputError: when there is no checkpoint or it does not fit the model.
  """
  target = devices.stack([_empty_state(model, settings)] * count)
  checkpoints = RunFolder(folder).checkpoints
  epoch = checkpoint.newest_epoch(checkpoints)
  if epoch is None:
    raise InputError(str(folder), got='no finished epoch', expected='a trained run',
                     remedy='run `fibjax train` (with --resume, once it has begun) '
                     'with this workdir first')
  fields, _ = checkpoint.restore(checkpoints, epoch, target.fields())
  return devices.unstack(TrainState(**fields), count)


def _empty_state(model: Model, settings) -> TrainState:
  optimizer = optim.make_optimizer(settings.optimizer, settings.momentum)
  return jax.tree.map(
      lambda leaf: np.zeros(leaf.shape, leaf.dtype),
      jax.eval_shape(functools.partial(step.init_state, model, optimizer, 0,
                                       has_teacher=loop.has_teacher(settings))))


def load_kept(model: Model, settings, folder):
  """Weights of a single run, as config.train.keep says; raises as `load_states`."""
  return getattr(load_states(model, settings, folder)[0], settings.keep)


def save_single(model: Model, settings, folder, best, average, rows) -> None:
  """Writes weights as those of a finished single run: a checkpoint and metrics.csv.

  Args:
    model: the network.
    settings: config.train.
    folder: workdir.
    best: weights of the best epoch.
    average: averaged weights.
    rows: of EPOCH_COLUMNS, none for weights that were not trained here.
  """
  run = RunFolder(folder)
  state = _empty_state(model, settings)._replace(params=best, best=best,
                                                 average=average)
  checkpoint.save(run.checkpoints, _last_epoch(settings),
                  devices.stack([state]).fields(), {'rows': [rows], 'ended': {}})
  write_rows(run, rows)
