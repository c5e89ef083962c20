"""Checkpoints: the only user of Orbax.

A checkpoint is one pytree of host arrays (`state`) and one JSON item (`meta`), under
workdir/checkpoints/<epoch>. Arrays are fetched to the host before they are written, so
a checkpoint restores on any number of devices. The newest is kept.
"""
import logging
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from fibjax.errors import InputError
from fibjax.system import refusals

_ERRORS = (ValueError, OSError, KeyError, TypeError)


def open_manager(folder) -> ocp.CheckpointManager:
  """Opens a folder of checkpoints, creating it; use it as a context manager."""
  # One warning per leaf otherwise; errors of its threads are raised by `save` as well.
  logging.getLogger('absl').setLevel(logging.CRITICAL)
  options = ocp.CheckpointManagerOptions(
      preservation_policy=ocp.checkpoint_managers.LatestN(1),
      enable_async_checkpointing=False)
  return ocp.CheckpointManager(Path(folder).resolve(), options=options)


def save(manager: ocp.CheckpointManager, epoch: int, state: Any, meta: dict) -> None:
  """Writes the checkpoint of an epoch, complete or not at all.

  Raises:
    RuntimeError: when the manager declines to save.
  """
  items = ocp.args.Composite(state=ocp.args.StandardSave(jax.device_get(state)),
                             meta=ocp.args.JsonSave(meta))
  try:
    with refusals.naming(manager.directory / str(epoch)):
      saved = manager.save(epoch, args=items, force=True)
  except refusals.RefusedError:
    for unfinished in Path(manager.directory).glob(f'{epoch}.orbax-checkpoint-tmp*'):
      shutil.rmtree(unfinished, ignore_errors=True)  # it may hold the last free space
    raise
  if not saved:
    raise RuntimeError(f'the checkpoint of epoch {epoch} was not written to '
                       f'{manager.directory}')


def restore(manager: ocp.CheckpointManager, epoch: int,
            target: Any) -> tuple[Any, dict]:
  """Reads (state, meta) of an epoch.

  Args:
    manager: an open folder of checkpoints.
    epoch: one of its checkpoints.
    target: a state of the same structure and shapes.

  Raises:
    InputError: when the checkpoint is damaged or of another architecture.
  """
  host_target = jax.device_get(target)
  try:
    items = manager.restore(epoch, args=ocp.args.Composite(
        state=ocp.args.StandardRestore(host_target), meta=ocp.args.JsonRestore()))
  except _ERRORS as error:
    refusal = refusals.refused(error, f'checkpoint {manager.directory}/{epoch}')
    if refusal is not None:
      raise refusal from None
    reason = str(error).strip().splitlines()
    raise InputError(f'checkpoint {manager.directory}/{epoch}',
                     got=reason[0] if reason else type(error).__name__,
                     expected='a whole checkpoint of the configured model',
                     remedy='use the config it was trained with, or train again'
                     ) from None
  # Orbax returns arrays as stored, even where the target has another shape.
  stored, wanted = (jax.tree.map(np.shape, tree)
                    for tree in (items['state'], host_target))
  if stored != wanted:
    raise InputError(f'checkpoint {manager.directory}/{epoch}',
                     got='weights of other shapes', expected='the configured model',
                     remedy='use the config it was trained with, or train again')
  return items['state'], items['meta']


def replace_weights(folder, weights: Any) -> None:
  """Writes a pytree of arrays to a folder, which it replaces."""
  shutil.rmtree(folder, ignore_errors=True)
  with open_manager(folder) as manager:
    save(manager, 0, weights, {})


def load_weights(folder, target: Any) -> Any:
  """Reads what `replace_weights` wrote; raises as `restore`."""
  with open_manager(folder) as manager:
    return restore(manager, 0, target)[0]
