"""Sweeps: many members per network size, by seed alone or by the paper's random search.

§1.7 (Skärberg et al. 2021): for each of 36 sizes (n_xy, n_z), 100 training runs with
hyper-parameters drawn at random, where the seed of a run determines the draw, the
initialisation and the order of samples. Members of one size are trained side by side,
in groups that fit the device's memory; a group is a unit of work, here or on a cluster.
The best member of a size is the one with the lowest validation BCE of all its epochs
(S2).

Several losses (config.sweep.losses) are trained for each size with the same members,
and compared with the first loss on the test regions, seed by seed.

What a workdir gets, beside what `run` makes of the data:
* sweep/groups.json: which members are trained together, on whatever machine the sweep
  is resumed;
* sweep/groups/<size>[-<loss>]/<first>-<last>/: members.json and weights/ (the best and
  the averaged weights of each member) of a finished group, checkpoints/ before;
* sweep/members.csv, curves.csv, report.html, tables.md, figures/: all members;
* sweep/losses.json: the comparison of losses, for each size;
* sweep/winners/<size>[-<loss>]/: the best member of a size and loss, a workdir that
  `segment` takes; sweep/winners/best.json names the best of all.
"""
import shutil
from pathlib import Path

import jax
import numpy as np

from fibjax import models
from fibjax.config import from_dict, to_dict
from fibjax.evaluation import region_scores
from fibjax.inference.network_scorer import network_scorer
from fibjax.methods import network
from fibjax.methods.registry import make_method
from fibjax.metrics import comparison
from fibjax.models import Model
from fibjax.pipeline import stages
from fibjax.report import sweep_page
from fibjax.studies.sweep_plan import (
  Unit,
  choice_name,
  choices_of,
  config_of,
  draw_member,
  known_units,
  largest,
  plan_units,
  size_name,
)
from fibjax.system import cluster, csv_files, files, progress
from fibjax.system.cluster import HERE, Resources
from fibjax.system.devices import stack
from fibjax.system.run_folder import (
  GroupFolder,
  RunFolder,
  SweepFolder,
  lock,
)
from fibjax.training import (
  checkpoint,
  loop,
  members_table,
  stored,
)


def run_sweep(config, folder, resources: Resources = HERE) -> dict:
  """Trains all members, or resumes, and writes tables, winners and report.

  Args:
    config: the experiment.
    folder: workdir.
    resources: where groups are trained.

  Returns:
    {'members', 'finished', 'best'}; best is the winner's row of members.csv.

  Raises:
    InputError: when the workdir is in use or belongs to another config, or when not
      even one member fits the device.
  """
  workdir = RunFolder(Path(folder).resolve())  # workers may have another directory
  with lock(workdir):
    return train_all(config, workdir, resources)


def train_all(config, workdir: RunFolder, resources: Resources) -> dict:
  """`run_sweep` in a workdir that is locked already."""
  make_method(config)  # bad settings are reported before any work
  sweep = workdir.sweep
  units = known_units(sweep) or plan_units(config, resources)
  stages.record_settings(config, workdir)
  if not sweep.groups.exists():
    files.write_json(sweep.groups, units)
  widest = largest(config)
  stages.collect_inputs(widest, make_method(widest), workdir)
  remaining = [unit for unit in units
               if not _group_folder(config, sweep, unit).records.exists()]
  finished = cluster.run_units(_train_unit, (to_dict(config), workdir), remaining,
                               resources)
  for _ in progress.track(finished, 'sweep', 'group', len(remaining)):
    _write_tables(config, sweep, units)
  rows = _write_tables(config, sweep, units)
  if remaining or not sweep.report.exists():
    _write_winners(config, sweep)
    if config.sweep.losses:
      _compare_losses(config, workdir)
    sweep_page.write_sweep_report(workdir, models.NETWORKS[config.model.name].facts)
  best = members_table.best_member(members_table.read_members(sweep.members))
  return {'members': len(rows),
          'finished': sum(row['state'] == 'finished' for row in rows),
          'best': None if best is None else rows[best]}


def _group_folder(config, sweep: SweepFolder, unit: Unit) -> GroupFolder:
  return sweep.group(choice_name(config, unit.choice), unit.first, unit.last)


def _train_unit(shared, unit: Unit) -> None:
  content, workdir = shared
  config = from_dict(content)
  choice_config = config_of(config, unit.choice)
  model = models.make_model(choice_config.model)
  widest = largest(config)
  inputs = stages.collect_inputs(widest, make_method(widest), workdir)
  members = [draw_member(config, unit.choice.n_xy, unit.choice.n_z, number)
             for number in range(unit.first, unit.last + 1)]
  group = _group_folder(config, workdir.sweep, unit)
  name = choice_name(config, unit.choice)
  regions = network.put_regions(choice_config.train, model, inputs)
  for reached in loop.train_members(
      choice_config.train, model, members, *regions, group,
      data_seed=config.data.seed, standardise=choice_config.model.standardise,
      halving=config.sweep.halving):
    _say(f'{name}, members {unit.first} to {unit.last}', reached,
         choice_config.train.epochs)
  checkpoint.replace_weights(group.weights, {
      kind: stack([getattr(state, kind) for state in reached.states])
      for kind in ('best', 'average')})
  files.write_json(group.records, [
      {'seed': member.seed, 'settings': member.settings, 'rows': rows,
       'state': 'finished' if ended in (None, loop.CONVERGED) else ended}
      for member, rows, ended in zip(members, reached.rows, reached.ended,
                                     strict=True)])
  shutil.rmtree(group.checkpoints)


def _say(name: str, reached: loop.Progress, epochs: int) -> None:
  rows = [rows[-1] for rows in reached.rows if rows]
  if rows:
    epoch = 1 + max(row['epoch'] for row in rows)
    bce = [row['val_bce'] for row in rows]
    progress.say(f'{name}: epoch {epoch}/{epochs}, validation BCE '
                 f'{np.mean(bce):.4f}, best {min(bce):.4f}')


def _write_tables(config, sweep: SweepFolder, units) -> list[dict]:
  """Writes members.csv of all finished groups and returns its rows."""
  table = [{name: row[name] for name in members_table.COLUMNS}
           for row in _read_members(config, sweep, units)]
  if table:
    csv_files.write_csv(sweep.members, table, members_table.COLUMNS)
  return table


def _read_members(config, sweep: SweepFolder, units) -> list[dict]:
  """Rows of members.csv of finished groups, each with its unit, place and record."""
  rows = []
  for unit in units:
    path = _group_folder(config, sweep, unit).records
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
  rows = _read_members(config, sweep, known_units(sweep))
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
  group = _group_folder(config, sweep, unit)
  if which == 'snapshots':
    epochs = sorted(group.snapshots.iterdir(), key=lambda path: int(path.name))
    stacked = [checkpoint.load_weights(path, target) for path in epochs]
  else:
    stacked = [checkpoint.load_weights(group.weights, {
        'best': target, 'average': target})[which]]
  return model, [jax.tree.map(lambda leaf: leaf[row['place']], weights)
                 for weights in stacked]


def _write_winners(config, sweep: SweepFolder) -> None:
  """The workdir of the best member of each size and loss, and the best of all."""
  ranked = find_members(config, sweep)
  for choice in choices_of(config):
    of_choice = [row for row in ranked if row['unit'].choice == choice]
    winner = sweep.winner(choice_name(config, choice))
    if of_choice and not winner.path.exists():
      model, (best,) = load_member(config, sweep, of_choice[0], 'best')
      _, (average,) = load_member(config, sweep, of_choice[0], 'average')
      member_config, record = config_of(config, choice), of_choice[0]['record']
      member_config.seed = record['seed']
      member_config.train.update(record['settings'])
      with files.new_folder(winner.path) as partial:
        stages.record_settings(member_config, RunFolder(partial))
        stored.save_single(model, member_config.train, RunFolder(partial), best,
                           average, record['rows'])
  if ranked:
    best = ranked[0]
    files.write_json(sweep.best, {
        'size': size_name(best['n_xy'], best['n_z']), 'loss': best['loss'],
        'member': best['member'], 'seed': best['seed'], 'val_bce': best['val_bce']})
    csv_files.write_csv(sweep.curves, [
        {name: row[name] for name in members_table.CURVE_COLUMNS}
        for row in best['record']['rows']], members_table.CURVE_COLUMNS)


def _compare_losses(config, workdir: RunFolder) -> None:
  """Writes losses.json: for each size and loss the scores of its members, and the
  difference from the first loss with its interval."""
  widest, sweep = largest(config), workdir.sweep
  inputs = stages.collect_inputs(widest, make_method(widest), workdir)
  setting = region_scores.make_setting(
      config.postprocess, network.is_balanced(config.train), inputs.regions)
  table, counts = [], {}
  for choice in choices_of(config):
    rows = [row for row in find_members(config, sweep) if row['unit'].choice == choice]
    measured = {}
    for row in sorted(rows, key=lambda row: row['seed']):
      model, params = load_member(config, sweep, row, config.sweep.weights)
      scorers = [network_scorer([model], params)]
      measured[row['seed']] = region_scores.measure(setting, *(
          region_scores.score_regions(scorers, inputs.prepared, regions,
                                      setting.margin_px)[0]
          for regions in (setting.val, setting.test)))
    counts[choice] = {seed: counted for seed, (_, counted) in measured.items()}
    baseline = counts[choice._replace(loss=config.sweep.losses[0])]
    common = [seed for seed in counts[choice] if seed in baseline]
    table.append({
        **choice._asdict(),
        'members': [{'seed': seed} | scores for seed, (scores, _) in measured.items()],
        'against_first': {
            name: interval._asdict() for name, interval in comparison.compare(
                *([by_seed[seed] for seed in common]
                  for by_seed in (counts[choice], baseline)), config.data.seed).items()}
        if common else None})
    progress.say(f'compared {choice_name(config, choice)}')
  files.write_json(sweep.losses, table)
