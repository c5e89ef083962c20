"""Checkpoints: the only user of Orbax.

A checkpoint is one pytree of host arrays (`state`) and one JSON item (`meta`), in a
folder FOLDER/<epoch>. Arrays are fetched to the host before they are written, so that
a checkpoint restores on any number of devices. The newest is kept; the one before goes
when all of the new one is on the disk. The checksums of its files are verified before
it is read, since Orbax does not notice all damage.
"""
import contextlib
import functools
import logging
import shutil
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from fibjax.errors import InputError
from fibjax.system import checksums, files, refusals

_ERRORS = (ValueError, OSError, KeyError, TypeError)
_SETTLING_S, _SETTLING_TRIES = 0.5, 10


def newest_epoch(folder) -> int | None:
  """Epoch of the newest complete checkpoint; None without one."""
  path = Path(folder)
  names = [child.name for child in path.iterdir()] if path.is_dir() else []
  return max((int(name) for name in names if name.isdigit()), default=None)


def save(folder, epoch: int, state: Any, meta: dict) -> None:
  """Writes the checkpoint of an epoch, complete or not at all; removes older ones.

  Args:
    folder: of the checkpoints; made if need be.
    epoch: not that of a checkpoint in the folder.
    state: pytree of arrays.
    meta: JSON.

  Raises:
    InputError: when it cannot be written.
  """
  folder, host_state = Path(folder).resolve(), jax.device_get(state)
  path = folder / str(epoch)
  with files.new_folder(path) as partial:
    with _removing_unfinished(partial):
      _checkpointer().save(partial, args=ocp.args.Composite(
          state=ocp.args.StandardSave(host_state), meta=ocp.args.JsonSave(meta)))
    checksums.seal(partial)
  for child in folder.iterdir():
    if child.name.isdigit() and int(child.name) != epoch:
      files.remove(child)


@contextlib.contextmanager
def _removing_unfinished(path: Path):
  """Removes what Orbax left beside path, of a process that was killed or of this one.

  Orbax raises the first error while its threads still write other arrays, and reports
  theirs; so the block ends a little later, when they are done with the folder.
  """
  def remove():
    for unfinished in path.parent.glob(f'{path.name}.orbax-checkpoint-tmp*'):
      shutil.rmtree(unfinished, ignore_errors=True)
  remove()
  try:
    yield
  except Exception:
    _checkpointer.cache_clear()  # it still holds what failed
    for _ in range(_SETTLING_TRIES):
      remove()
      time.sleep(_SETTLING_S / _SETTLING_TRIES)
    raise


def restore(folder, epoch: int, target: Any) -> tuple[Any, dict]:
  """Reads (state, meta) of an epoch.

  Args:
    folder: of the checkpoints.
    epoch: one of them.
    target: a state of the same structure and shapes.

  Raises:
    InputError: when the checkpoint is damaged or of another architecture.
  """
  path, host_target = Path(folder).resolve() / str(epoch), jax.device_get(target)
  checksums.check_sealed(path)
  try:
    items = _checkpointer().restore(path, args=ocp.args.Composite(
        state=ocp.args.StandardRestore(host_target), meta=ocp.args.JsonRestore()))
  except _ERRORS as error:
    raise (refusals.refused(error, f'checkpoint {path}')
           or _unusable(path, _first_line(error))) from None
  # Orbax returns arrays as stored, even where the target has another shape.
  stored, wanted = (jax.tree.map(np.shape, tree)
                    for tree in (items['state'], host_target))
  if stored != wanted:
    raise _unusable(path, 'weights of other shapes')
  return items['state'], items['meta']


def replace_weights(folder, weights: Any) -> None:
  """Writes a pytree of arrays to a folder, which it replaces."""
  files.remove(folder)
  save(folder, 0, weights, {})


def load_weights(folder, target: Any) -> Any:
  """Reads what `replace_weights` wrote; raises as `restore`."""
  return restore(folder, 0, target)[0]


@functools.cache
def _checkpointer() -> ocp.Checkpointer:
  # One warning per leaf otherwise; errors of its threads are raised by `save` as well.
  logging.getLogger('absl').setLevel(logging.CRITICAL)
  return ocp.Checkpointer(ocp.CompositeCheckpointHandler('state', 'meta'))


def _first_line(error: Exception) -> str:
  return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _unusable(path: Path, got: str) -> InputError:
  return InputError(f'checkpoint {path}', got=got,
                    expected='a whole checkpoint of the configured model',
                    remedy='use the config it was trained with, or train again')
