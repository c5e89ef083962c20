"""What a sweep has trained so far: its members, best first, and their weights."""
import jax
import numpy as np

from fibjax import models
from fibjax.models import Model
from fibjax.studies.sweep_plan import Unit, choice_name, config_of, known_units
from fibjax.system import files
from fibjax.system.run_folder import GroupFolder, SweepFolder
from fibjax.training import checkpoint, members_table


def group_folder(config, sweep: SweepFolder, unit: Unit) -> GroupFolder:
  """Folder of the members of a unit."""
  return sweep.group(choice_name(config, unit.choice), unit.first, unit.last)


def read_members(config, sweep: SweepFolder, units) -> list[dict]:
  """Rows of members.csv of finished groups, each with its unit, place and record."""
  rows = []
  for unit in units:
    path = group_folder(config, sweep, unit).records
    for k, record in enumerate(files.read_json(path) if path.exists() else ()):
      rows.append(_member_row(unit, unit.first + k, record)
                  | {'unit': unit, 'place': k, 'record': record})
  return rows


def _member_row(unit: Unit, number: int, record: dict) -> dict:
  row = {**unit.choice._asdict(), 'member': number, 'seed': record['seed'],
         'state': record['state'], **record['settings'], 'best_epoch': '',
         'val_bce': '', 'val_accuracy': '', 'val_miou': '',
         'seconds': sum(epoch['seconds'] for epoch in record['rows'])}
  row['log10_l2'] = float(np.log10(max(row.pop('l2'), 1e-30)))
  if record['rows']:
    best = members_table.best_row(record['rows'])
    row |= {name: best[name] for name in ('val_bce', 'val_accuracy', 'val_miou')}
    row['best_epoch'] = best['epoch']
  return row


def find_members(config, sweep: SweepFolder) -> list[dict]:
  """The rows of members.csv with finished members only, best first.

  Each has its unit, its place in the unit's weights and its record beside the columns.
  """
  rows = read_members(config, sweep, known_units(sweep))
  return sorted((row for row in rows if row['state'] == 'finished'),
                key=lambda row: row['val_bce'])


def load_member(config, sweep: SweepFolder, row: dict, which: str
                ) -> tuple[Model, list]:
  """Loads a row of `find_members`.

  Args:
    config: the experiment.
    sweep: its folder.
    row: of `find_members`.
    which: 'best', 'average' or 'snapshots'.

  Returns:
    The network, and a list of weights: a single one but for snapshots, which has one
    for the end of each cycle.
  """
  unit = row['unit']
  model = models.make_model(config_of(config, unit.choice).model)
  target = models.empty_params(model, unit.last - unit.first + 1)
  group = group_folder(config, sweep, unit)
  if which == 'snapshots':
    epochs = sorted(group.snapshots.iterdir(), key=lambda path: int(path.name))
    stacked = [checkpoint.load_weights(path, target) for path in epochs]
  else:
    stacked = [checkpoint.load_weights(group.weights, {
        'best': target, 'average': target})[which]]
  return model, [jax.tree.map(lambda leaf: leaf[row['place']], weights)
                 for weights in stacked]
