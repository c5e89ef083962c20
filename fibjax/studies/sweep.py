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
* sweep/loss_start.json: how losses start (loss_start.py); sweep/losses.json: how they
  end, for each size (compare_losses.py);
* sweep/halving.json: what successive halving would have found (halving.py);
* sweep/winners/<size>[-<loss>]/: the best member of a size and loss, a workdir that
  `segment` takes; sweep/winners/best.json names the best of all.
"""
import shutil
from pathlib import Path

import numpy as np

from fibjax import models
from fibjax.config import from_dict, to_dict
from fibjax.methods import network
from fibjax.methods.registry import make_method
from fibjax.pipeline import stages
from fibjax.report import sweep_page
from fibjax.studies import compare_losses, halving
from fibjax.studies.sweep_members import (
  find_members,
  group_folder,
  load_member,
  read_members,
)
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
from fibjax.system.run_folder import RunFolder, SweepFolder, lock
from fibjax.training import checkpoint, loop, members_table, metrics_log, stored


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
  inputs = stages.collect_inputs(widest, make_method(widest), workdir)
  for choice in choices_of(config) if config.sweep.losses else ():
    make_method(config_of(config, choice)).check(inputs.regions)
  if config.sweep.losses and not sweep.loss_start.exists():
    compare_losses.examine_start(config, inputs, workdir)
  remaining = [unit for unit in units
               if not group_folder(config, sweep, unit).records.exists()]
  finished = cluster.run_units(_train_unit, (to_dict(config), workdir), remaining,
                               resources)
  for _ in progress.track(finished, 'sweep', 'group', len(remaining)):
    _write_tables(config, sweep, units)
  rows = _write_tables(config, sweep, units)
  is_complete = (sweep.best.exists() and sweep.report.exists()
                 and (sweep.losses.exists() or not config.sweep.losses))
  if remaining or not is_complete:
    _write_winners(config, sweep)
    if config.sweep.losses:
      compare_losses.compare_losses(config, workdir, resources)
    halving.replay(config, workdir)
    sweep_page.write_sweep_report(workdir, models.NETWORKS[config.model.name].facts)
  best = members_table.best_member(members_table.read_members(sweep.members))
  return {'members': len(rows),
          'finished': sum(row['state'] == 'finished' for row in rows),
          'best': None if best is None else rows[best]}


def _train_unit(shared, unit: Unit) -> None:
  content, workdir = shared
  config = from_dict(content)
  choice_config = config_of(config, unit.choice)
  model = models.make_model(choice_config.model)
  widest = largest(config)
  inputs = stages.collect_inputs(widest, make_method(widest), workdir)
  members = [draw_member(config, unit.choice.n_xy, unit.choice.n_z, number)
             for number in range(unit.first, unit.last + 1)]
  group = group_folder(config, workdir.sweep, unit)
  name = choice_name(config, unit.choice)
  experiment = workdir.path.name
  with (network.training_data(choice_config, model, inputs) as data,
        metrics_log.open_log(experiment, choice_config.train) as log):
    for i, reached in enumerate(loop.train_members(
        choice_config.train, model, members, data.train, data.val, group,
        data_seed=config.data.seed, standardise=choice_config.model.standardise,
        halving=config.sweep.halving,
        start=network.start_params(choice_config.train, config.prepare, model),
        unlabelled=data.unlabelled)):
      _say(f'{name}, members {unit.first} to {unit.last}', reached,
           choice_config.train.epochs)
      for number, rows in enumerate(reached.rows, unit.first) if i else ():
        if rows and rows[-1]['epoch'] == max(r[-1]['epoch'] for r in reached.rows if r):
          log(f'{name}, member {number}', rows[-1])
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
           for row in read_members(config, sweep, units)]
  if table:
    csv_files.write_csv(sweep.members, table, members_table.COLUMNS)
  return table


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
