"""Tables of training: metrics.csv, a row per epoch, and members.csv, a row per member.

metrics.csv has EPOCH_COLUMNS and belongs to a single run. members.csv has COLUMNS and
belongs to a sweep: the size of the neighbourhood and the loss a member was trained
with, its number and seed, its hyper-parameters, the scores of its best epoch and how it
ended. Seeds stay text, since a float64 does not hold all of their digits.
"""
import math
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fibjax.errors import InputError
from fibjax.system import csv_files
from fibjax.system.run_folder import RunFolder


class Axis(NamedTuple):
  """A hyper-parameter as it is drawn and listed.

  Attributes:
    label: text for tables and figures.
    paper: the published value of the paper's winner.
    digits: decimals to show.
  """
  label: str
  paper: float
  digits: int


EPOCH_COLUMNS = ('epoch', 'lr', 'train_loss', 'train_bce', 'train_accuracy', 'val_bce',
                 'val_accuracy', 'val_miou', 'grad_norm', 'seconds')
CURVE_COLUMNS = ('epoch', 'train_bce', 'val_bce', 'train_accuracy',
                 'val_accuracy')  # of curves.csv, the epochs of a sweep's best member
HYPERS = {  # columns of members.csv; the published values as in §1.7
    'intensity_mean_sd': Axis('intensity mean, sd a', 0.048, 3),
    'intensity_deviation_sd': Axis('intensity deviation, sd b', 0.056, 3),
    'log10_learning_rate': Axis('log10 of first learning rate', -2.0, 2),
    'decay_epochs': Axis('epochs k per decay step', 8.0, 0),
    'log10_l2': Axis('log10 of weight penalty c', math.log10(4.16e-6), 2),
    'dropout_dense': Axis('dropout, dense layers', 0.401, 3),
    'dropout_spatial': Axis('dropout, spatial', 0.195, 3)}
COLUMNS = ('n_xy', 'n_z', 'loss', 'member', 'seed', *HYPERS, 'best_epoch', 'val_bce',
           'val_accuracy', 'val_miou', 'seconds', 'state')
STATES = ('finished', 'diverged', 'stopped')
_SUMMARISED_COLUMNS = ('val_bce', 'val_miou', 'seconds')

_TEXT_COLUMNS = ('loss', 'seed', 'state')
_WHOLE_COLUMNS = ('n_xy', 'n_z', 'member')  # whole numbers; with the loss, the key
_RANGES = {'n_xy': (1, math.inf), 'n_z': (1, math.inf), 'member': (0, math.inf),
           'val_bce': (0, math.inf), 'val_miou': (0, 1), 'val_accuracy': (0, 1),
           'seconds': (0, math.inf)}
_REMEDY = 'delete the row or run the sweep again'


class Size(NamedTuple):
  """Summary of the members of one neighbourhood size and loss.

  Attributes:
    n_xy, n_z: the size in voxels.
    loss: expression of the loss.
    counts: state -> number of members.
    best: row of the selected member in members.csv, None without finished members.
    mean: column -> mean over finished members, of val_bce, val_miou and seconds.
    sd: column -> sample standard deviation; NaN for fewer than two members.
  """
  n_xy: int
  n_z: int
  loss: str
  counts: dict[str, int]
  best: int | None
  mean: dict[str, float]
  sd: dict[str, float]


def best_row(rows) -> dict:
  """The row of metrics.csv with the lowest validation BCE; the first of equals."""
  return min(rows, key=lambda row: row['val_bce'])


def write_rows(folder, rows) -> None:
  """Writes metrics.csv of a workdir."""
  csv_files.write_csv(RunFolder(folder).epochs, rows, EPOCH_COLUMNS)


def read_rows(folder) -> list[dict]:
  """Rows of metrics.csv of a workdir, all values as floats."""
  path = RunFolder(folder).epochs
  if not path.is_file():
    raise InputError(str(path), got='no such file', expected='a row per epoch',
                     remedy='check --workdir, or train again')
  columns = csv_files.read_columns(path)
  return [dict(zip(columns, row, strict=True))
          for row in zip(*(column.tolist() for column in columns.values()),
                         strict=True)]


def read_members(path) -> dict[str, np.ndarray]:
  """Reads members.csv.

  Args:
    path: CSV with COLUMNS, one row per member; further columns are not checked.

  Returns:
    columns [m]; loss, seed and state are text, all others float64, NaN where empty.

  Raises:
    InputError: for a missing, empty or damaged file, a missing column, an unknown
      state, a value out of range, a finished member without scores, or a member
      listed twice.
  """
  path = Path(path)
  if not path.is_file():
    raise InputError(str(path), got='no such file', expected='the members of a sweep',
                     remedy='check --workdir, or run the sweep first')
  columns = csv_files.read_columns(path, _TEXT_COLUMNS)
  if not columns:
    raise InputError(str(path), got='no rows', expected='one row per member',
                     remedy='run the sweep first')
  check_columns(path, columns, COLUMNS)
  unknown = [s for s in columns['state'].tolist() if s not in STATES]
  if unknown:
    raise InputError(f'{path}: state', got=repr(unknown[0]),
                     expected=', '.join(STATES), remedy=_REMEDY)
  not_whole = [s for s in columns['seed'].tolist() if not s.isdecimal()]
  if not_whole:
    raise InputError(f'{path}: seed', got=repr(not_whole[0]), expected='a whole number',
                     remedy=_REMEDY)
  _check_values(path, columns)
  counts = Counter(zip(*(columns[k].tolist() for k in (*_WHOLE_COLUMNS, 'loss')),
                       strict=True))
  key, count = counts.most_common(1)[0]
  if count > 1:
    raise InputError(str(path),
                     got='{:g} x {:g}, member {:g} of {} twice'.format(*key),
                     expected='each member once', remedy=_REMEDY)
  return columns


def check_columns(path, columns: dict, expected) -> None:
  """Raises InputError, naming them, when a table lacks columns."""
  missing = [name for name in expected if name not in columns]
  if missing:
    raise InputError(str(path), got=f'no column {", ".join(missing)}',
                     expected=f'columns {", ".join(expected)}',
                     remedy='run the sweep again with this version')


def _check_values(path, columns):
  """Checks that numbers are present where needed, whole where they count, in range."""
  finished = columns['state'] == 'finished'
  everyone = np.ones_like(finished)
  for name in COLUMNS:
    if name in _TEXT_COLUMNS:
      continue
    values = columns[name]
    needed = everyone if name in _WHOLE_COLUMNS or name in HYPERS else finished
    low, high = _RANGES.get(name, (-math.inf, math.inf))
    bad = needed & ~np.isfinite(values)
    if name not in HYPERS:  # scores of diverged members may be anything
      bad |= needed & ~((values >= low) & (values <= high))
    if name in _WHOLE_COLUMNS:
      bad |= values != np.rint(values)
    if bad.any():
      i = int(np.argmax(bad))
      kind = 'a whole number' if name in _WHOLE_COLUMNS else 'a finite number'
      reach = f' from {low:g}' * (low > -math.inf) + f' to {high:g}' * (high < math.inf)
      raise InputError(f'{path}: {name} of row {i + 2}', got=f'{values[i]:g}',
                       expected=kind + reach, remedy=_REMEDY)


def best_member(members: dict, where=True) -> int | None:
  """Row of the finished member of lowest val_bce; the first of equals.

  Args:
    members: columns of members.csv.
    where: [m] bool, the members to choose from; all by default.

  Returns:
    its row, or None when none is finished.
  """
  allowed = (members['state'] == 'finished') & where
  if not allowed.any():
    return None
  return int(np.argmin(np.where(allowed, members['val_bce'], math.inf)))


def summarise_sizes(members: dict) -> list[Size]:
  """Summarises the members of each size and loss; sizes by n_z, then n_xy.

  Args:
    members: columns of members.csv.
  """
  keys = dict.fromkeys(zip(
      *(members[name].tolist() for name in ('n_z', 'n_xy', 'loss')), strict=True))
  sizes = []
  for n_z, n_xy, loss in sorted(keys, key=lambda key: key[:2]):  # losses as they come
    of_size = ((members['n_z'] == n_z) & (members['n_xy'] == n_xy)
               & (members['loss'] == loss))
    finished = of_size & (members['state'] == 'finished')
    values = {name: members[name][finished] for name in _SUMMARISED_COLUMNS}
    n = int(finished.sum())
    sizes.append(Size(
        int(n_xy), int(n_z), loss,
        {s: int((of_size & (members['state'] == s)).sum()) for s in STATES},
        best_member(members, of_size),
        {k: float(v.mean()) if n else math.nan for k, v in values.items()},
        {k: float(v.std(ddof=1)) if n > 1 else math.nan for k, v in values.items()}))
  return sizes
