"""Where a sweep stands: members that ended, those in training, the time left."""
from typing import NamedTuple

import numpy as np

from fibjax.system import csv_files, files
from fibjax.system.run_folder import RunFolder


class InTraining(NamedTuple):
  """A group of members that has begun: its name, members and finished epochs."""
  name: str
  members: int
  epochs: int


class Status(NamedTuple):
  """State of a sweep, from the files in its workdir.

  Attributes:
    members: planned.
    ended: finished, diverged or stopped.
    in_training: groups that have a checkpoint.
    epochs: that each member is trained for.
    seconds_left: of the remaining members in one process, estimated by the mean time of
      members of the same size and loss, else of all; None before any has ended.
  """
  members: int
  ended: int
  in_training: tuple[InTraining, ...]
  epochs: int
  seconds_left: float | None


def read_status(folder) -> Status | None:
  """Reads the state of a sweep; None for a workdir without one.

  Args:
    folder: workdir.
  """
  run = RunFolder(folder)
  sweep = run.sweep
  if not sweep.groups.is_file():
    return None
  epochs = files.read_json_object(run.config)['train']['epochs']
  # The table may be one of an earlier time: it is written as groups end.
  table = (csv_files.read_columns(sweep.members, ('loss', 'seed', 'state'))
           if sweep.members.is_file() else None)
  planned, left = 0, []
  for choice, first, last in files.read_json(sweep.groups):
    count, taken = last - first + 1, ()
    planned += count
    if table:
      of_choice = np.all([table[name] == value for name, value in
                          zip(('n_xy', 'n_z', 'loss'), choice, strict=True)], axis=0)
      taken = table['seconds'][of_choice].tolist()
      if (table['member'][of_choice] == first).any():
        continue
    left.append((count, taken))
  seconds = table['seconds'].tolist() if table else []
  in_training = tuple(_in_training(group) for group in sweep.begun_groups())
  remaining = None
  if seconds:
    mean = float(np.mean(seconds))
    remaining = sum(count * float(np.mean(taken or mean)) for count, taken in left)
    remaining -= sum(mean * group.members * group.epochs / epochs
                     for group in in_training)
    remaining = max(remaining, 0.)
  return Status(planned, len(seconds), in_training, epochs, remaining)


def _in_training(group) -> InTraining:
  epochs = [int(path.name) for path in group.checkpoints.glob('*')
            if path.name.isdigit()]
  first, last = map(int, group.path.name.split('-'))
  return InTraining(f'{group.path.parent.name}, members {first} to {last}',
                    last - first + 1, max(epochs, default=-1) + 1)


def describe(status: Status) -> list[tuple[str, str]]:
  """(name, text) pairs of an unfinished sweep; none of one with all members ended."""
  if status.ended == status.members:
    return []
  pairs = [('Progress', f'{status.ended} of {status.members} members ended')]
  for group in status.in_training:
    pairs.append(('In training', f'{group.name}: epoch {group.epochs} of '
                                 f'{status.epochs}'))
  left = ('not known before the first members have ended'
          if status.seconds_left is None
          else f'about {status.seconds_left / 3600:.1f} h in one process')
  return [*pairs, ('Time left', left)]
