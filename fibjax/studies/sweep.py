"""Sweeps: many members per network size, by seed alone or by the paper's random search.

§1.7 of the methods (Skärberg et al. 2021): for each of 36 sizes (n_xy, n_z), 100
trainings with hyper-parameters drawn at random, the seed of each deciding on the draw,
the initialisation and the order. Members of one size are trained in groups that fit the
device's memory, side by side; a group is a unit of work, here or on a cluster. The best
member of a size is the one with the lowest validation BCE of all its epochs (S2).

Several losses (config.sweep.losses) are trained for each size with the same members,
and compared with the first of them on the test regions, seed by seed.

What a workdir gets, beside what `run` makes of the data:
* sweep/groups.json, which members are trained at once, whatever machine goes on;
* sweep/groups/<size>[-<loss>]/<first>-<last>/: members.json, weights/ (best and
  averaged ones of each member) when the group is finished, checkpoints/ before;
* sweep/members.csv, curves.csv, report.html, tables.md, figures/: all members;
* sweep/losses.json: several losses compared, of each size;
* sweep/winners/<size>[-<loss>]/: the best member of a size and loss, a workdir of its
  own for `segment`; sweep/winners/best.json names the best of all.
"""
import shutil
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from fibjax import models
from fibjax.config import from_dict, to_dict
from fibjax.errors import InputError
from fibjax.evaluation import region_scores
from fibjax.inference import score
from fibjax.methods import network
from fibjax.metrics import comparison
from fibjax.models import Model
from fibjax.pipeline import stages
from fibjax.report import sweep_page
from fibjax.system import cluster, files, progress, run_folder
from fibjax.system.cluster import HERE, Resources
from fibjax.system.devices import device_memory_bytes, stack
from fibjax.training import checkpoint, loop, loss_expression, members_table
from fibjax.training.loop import Member

_LOG10_RATES = (-2.5, -2.25, -2.0)
_DECAY_EPOCHS = tuple(range(4, 21, 2))
_LARGEST_GROUP = 16  # per device; more gain nothing and lose more when interrupted
_MAP_BYTES = 8000  # of all maps and their gradients, per pixel of a window
_MEMORY_SHARE = 0.5  # of the device, for what a group needs beside the regions


class Choice(NamedTuple):
  """A size of the neighbourhood, and a loss by its expression."""
  n_xy: int
  n_z: int
  loss: str


class Unit(NamedTuple):
  """Members first .. last of a choice: what is trained at once."""
  choice: Choice
  first: int
  last: int


def size_name(n_xy: int, n_z: int) -> str:
  """Name of a size in folders and settings, e.g. '33x3'."""
  return f'{n_xy}x{n_z}'


def sizes_of(config) -> list[tuple[int, int]]:
  """(n_xy, n_z) of config.sweep.sizes; the size of config.model where it is empty."""
  if not config.sweep.sizes:
    return [(config.model.n_xy, config.model.n_z)]
  return [tuple(map(int, name.split('x'))) for name in config.sweep.sizes]


def choices_of(config) -> list[Choice]:
  """All sizes with all losses; the loss of config.train where sweep.losses is empty."""
  return [Choice(*size, loss) for size in sizes_of(config)
          for loss in config.sweep.losses or (config.train.loss,)]


def _name_of(config, choice: Choice) -> str:
  """Name of a choice as a folder: '33x3', '33x3-bce+0.5xjaccard' or 'resunetx3'."""
  name = (size_name(choice.n_xy, choice.n_z) if config.model.name == 'patch_cnn'
          else f'{config.model.name}x{choice.n_z}')
  if config.sweep.losses:
    name += '-' + choice.loss.replace(' ', '').replace('*', 'x')
  return name


def draw_member(config, n_xy: int, n_z: int, number: int) -> Member:
  """Member number of a size; it does not depend on how many there are.

  With config.sweep.draw 'seeds', members differ by their seeds, config.seed + number.
  With 'random', a unique seed decides on the hyper-parameters too (§1.7): a, b uniform
  in [0.025, 0.10], log10 of the learning rate -2.5, -2.25 or -2, k in 4, 6, .. 20,
  log10 c uniform in [-7, -5], p_d and p_sd uniform in [0, 0.6].
  """
  single = loop.member_of(config)
  if config.sweep.draw == 'seeds':
    return single._replace(seed=config.seed + number)
  seed = config.seed + 100_000 * (n_xy + n_z) + number  # n_xy + n_z tells the size
  random = np.random.default_rng(seed)
  mean_sd, deviation_sd = random.uniform(0.025, 0.10, 2)
  drawn = {'intensity_mean_sd': mean_sd, 'intensity_deviation_sd': deviation_sd,
           'log10_learning_rate': random.choice(_LOG10_RATES),
           'decay_epochs': random.choice(_DECAY_EPOCHS),
           'l2': 10 ** random.uniform(-7, -5)}
  drawn['dropout_dense'], drawn['dropout_spatial'] = random.uniform(0, 0.6, 2)
  kinds = {name: type(value) for name, value in single.settings.items()}
  return Member(seed, {name: kinds[name](drawn[name]) for name in single.settings})


def run_sweep(config, folder, resources: Resources = HERE) -> dict:
  """Trains all members, or goes on, and writes tables, winners and report.

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
  folder = Path(folder).resolve()  # workers may have another working directory
  with run_folder.undo_on_mistake(folder), files.lock(folder):
    return train_all(config, folder, resources)


def train_all(config, folder: Path, resources: Resources) -> dict:
  """`run_sweep` in a workdir that is held already."""
  units = known_units(folder) or plan_units(config, resources)
  stages.claim(config, folder)
  if not known_units(folder):
    files.write_json(folder / 'sweep' / 'groups.json', units)
  stages.prepare(largest(config), folder)
  left = [unit for unit in units
          if not (_home(config, folder, unit) / 'members.json').exists()]
  shared = to_dict(config), folder
  finished = cluster.run_units(_train_unit, shared, left, resources)
  for _ in progress.track(finished, 'sweep', 'group', len(left)):
    _write_tables(config, folder, units)
  found = _write_tables(config, folder, units)
  if left or not (folder / 'sweep' / 'report.html').exists():
    _write_winners(config, folder)
    if config.sweep.losses:
      _compare_losses(config, folder)
    sweep_page.write_sweep_report(folder / 'sweep', folder)
  best = members_table.best_member(
      members_table.read_members(folder / 'sweep' / 'members.csv'))
  return {'members': len(found),
          'finished': sum(row['state'] == 'finished' for row in found),
          'best': None if best is None else found[best]}


def plan_units(config, resources: Resources = HERE) -> list[Unit]:
  """Groups of members that fit the device, size by size.

  Raises:
    InputError: when not even one member fits.
  """
  units, devices = [], jax.local_devices()
  sharers = max(1, resources.workers)  # of the memory of a device
  if devices[0].platform == 'cpu':
    sharers *= len(devices)
  memory = _MEMORY_SHARE * device_memory_bytes() / sharers
  for choice in choices_of(config):
    loss_expression.make_loss(choice.loss)  # a mistake in it is told before any work
    own = _config_of(config, choice)
    needed = member_bytes(own, models.make_model(own.model))
    if needed > memory:
      raise InputError(
          f'a member of size {size_name(choice.n_xy, choice.n_z)}',
          got=f'about {needed / 2**30:.1f} GiB',
          expected=f'at most {memory / 2**30:.1f} GiB of the device',
          remedy='lower config.train.batch or crop_px')
    group = config.sweep.group or min(_LARGEST_GROUP, int(memory / needed))
    group *= len(devices)
    units += [Unit(choice, first, min(first + group, config.sweep.members) - 1)
              for first in range(0, config.sweep.members, group)]
  return units


def known_units(folder: Path) -> list[Unit]:
  """The groups of a sweep that has begun, wherever it began; else none."""
  path = folder / 'sweep' / 'groups.json'
  return [Unit(Choice(*choice), first, last) for choice, first, last in (
      files.read_json(path) if path.exists() else ())]


def member_bytes(config, model: Model) -> int:
  """About what one member needs on a device while it takes a step."""
  weights = models.count_weights(models.empty_params(model))
  side = model.window_px
  if config.train.sampling == 'dense':
    side += config.train.crop_px - 1
  maps = _MAP_BYTES if config.train.sampling == 'dense' else _MAP_BYTES // 8
  return 4 * 7 * weights + config.train.batch * side ** 2 * maps


def _config_of(config, choice: Choice):
  own = from_dict(to_dict(config))
  own.model.n_xy, own.model.n_z, own.train.loss = choice
  return own


def largest(config):
  """The config whose windows hold those of all sizes, so that all share the regions."""
  return _config_of(config, Choice(*map(max, zip(*sizes_of(config), strict=True)),
                                   config.train.loss))


def _home(config, folder: Path, unit: Unit) -> Path:
  return (folder / 'sweep' / 'groups' / _name_of(config, unit.choice)
          / f'{unit.first:04}-{unit.last:04}')


def _train_unit(shared, unit: Unit) -> None:
  content, folder = shared
  config = from_dict(content)
  own = _config_of(config, unit.choice)
  model = models.make_model(own.model)
  inputs = stages.prepare(largest(config), folder)._replace(model=model)
  crew = [draw_member(config, unit.choice.n_xy, unit.choice.n_z, number)
          for number in range(unit.first, unit.last + 1)]
  home, name = _home(config, folder, unit), _name_of(config, unit.choice)
  for now in loop.train_members(own, model, crew, *network.put_sides(own, inputs), home,
                                   config.sweep.halving):
    _say(f'{name}, members {unit.first} to {unit.last}', now, own.train.epochs)
  states = loop.load_states(model, own, home, len(crew))
  checkpoint.replace_weights(home / 'weights', {
      name: stack([getattr(state, name) for state in states])
      for name in ('best', 'average')})
  files.write_json(home / 'members.json', [
      {'seed': member.seed, 'settings': member.settings, 'rows': rows,
       'state': now.ended.get(k, 'finished').replace('converged', 'finished')}
      for k, (member, rows) in enumerate(zip(crew, now.rows, strict=True))])
  shutil.rmtree(home / 'checkpoints')


def _say(name: str, now: loop.Progress, epochs: int) -> None:
  rows = [rows[-1] for rows in now.rows if rows]
  if rows:
    epoch = 1 + max(row['epoch'] for row in rows)
    bce = [row['val_bce'] for row in rows]
    progress.say(f'{name}: epoch {epoch}/{epochs}, validation BCE '
                 f'{np.mean(bce):.4f}, best {min(bce):.4f}')


def _write_tables(config, folder: Path, units) -> list[dict]:
  """members.csv of all finished groups; returns its rows."""
  table = [{name: row[name] for name in members_table.COLUMNS}
           for row in _read_members(config, folder, units)]
  if table:
    files.write_text(folder / 'sweep' / 'members.csv',
                       files.to_csv(table, members_table.COLUMNS))
  return table


def _read_members(config, folder: Path, units) -> list[dict]:
  """Rows of members.csv of finished groups, each with its unit, place and record."""
  found = []
  for unit in units:
    path = _home(config, folder, unit) / 'members.json'
    for k, record in enumerate(files.read_json(path) if path.exists() else ()):
      found.append(_member_row(unit, unit.first + k, record)
                   | {'unit': unit, 'place': k, 'member_json': record})
  return found


def _member_row(unit: Unit, number: int, found: dict) -> dict:
  row = {**unit.choice._asdict(), 'member': number, 'seed': found['seed'],
         'state': found['state'], **found['settings'], 'best_epoch': '', 'val_bce': '',
         'val_accuracy': '', 'val_miou': '',
         'seconds': sum(epoch['seconds'] for epoch in found['rows'])}
  row['log10_l2'] = float(np.log10(max(row.pop('l2'), 1e-30)))
  if found['rows']:
    best = members_table.best_row(found['rows'])
    row |= {name: best[name] for name in ('val_bce', 'val_accuracy', 'val_miou')}
    row['best_epoch'] = best['epoch']
  return row


def find_members(config, folder: Path) -> list[dict]:
  """The rows of members.csv with finished members only, best first.

  Each has its unit and its place in the unit's weights beside the columns.
  """
  found = _read_members(config, folder, known_units(folder))
  finished = [row for row in found if row['state'] == 'finished']
  return sorted(finished, key=lambda row: row['val_bce'])


def load_member(config, folder: Path, row: dict, which: str) -> tuple[Model, list]:
  """(model, weights) of a row of `find_members`: 'best', 'average' or 'snapshots'.

  Weights are a list, of one but for snapshots: one for the end of each cycle.
  """
  unit = row['unit']
  model = models.make_model(_config_of(config, unit.choice).model)
  count = unit.last - unit.first + 1
  target = models.empty_params(model, count)
  home = _home(config, folder, unit)
  if which == 'snapshots':
    epochs = sorted((path for path in (home / which).iterdir()),
                    key=lambda path: int(path.name))
    found = [checkpoint.load_weights(path, target) for path in epochs]
  else:
    found = [checkpoint.load_weights(home / 'weights', {
        'best': target, 'average': target})[which]]
  return model, [jax.tree.map(lambda leaf: leaf[row['place']], stacked)
                 for stacked in found]


def _write_winners(config, folder: Path) -> None:
  """winners/<size>/ for each size and loss, winners/best.json and curves.csv."""
  ranked = find_members(config, folder)
  for choice in choices_of(config):
    of_choice = [row for row in ranked if row['unit'].choice == choice]
    home = folder / 'sweep' / 'winners' / _name_of(config, choice)
    if of_choice and not home.exists():
      model, (best,) = load_member(config, folder, of_choice[0], 'best')
      _, (average,) = load_member(config, folder, of_choice[0], 'average')
      own = _config_of(config, choice)
      member = of_choice[0]['member_json']
      own.seed = member['seed']
      own.train.update(member['settings'])
      with files.new_folder(home) as partial:
        stages.claim(own, partial)
        loop.save_single(model, own, partial, best, average, member['rows'])
  if ranked:
    best = ranked[0]
    files.write_json(folder / 'sweep' / 'winners' / 'best.json', {
        'size': size_name(best['n_xy'], best['n_z']), 'loss': best['loss'],
        'member': best['member'], 'seed': best['seed'], 'val_bce': best['val_bce']})
    files.write_text(folder / 'sweep' / 'curves.csv', files.to_csv(
        [{name: row[name] for name in members_table.CURVES}
         for row in best['member_json']['rows']], members_table.CURVES))


def _compare_losses(config, folder: Path) -> None:
  """losses.json: for each size and loss the scores of its members, mean and sd, and
  the difference from the first loss with its interval."""
  inputs = stages.prepare(largest(config), folder)
  setting = region_scores.make_setting(config, inputs.regions)
  found, counts = [], {}
  for choice in choices_of(config):
    rows = [row for row in find_members(config, folder)
            if row['unit'].choice == choice]
    measured = {}
    for row in sorted(rows, key=lambda row: row['seed']):
      model, (params,) = load_member(config, folder, row, config.sweep.weights)
      measured[row['seed']] = region_scores.measure(setting, *(
          region_scores.score_regions(score.Predictor((model,), (params,)),
                                      inputs.prepared, side, setting.margin_px)[0]
          for side in (setting.val, setting.test)))
    counts[choice] = {seed: counted for seed, (_, counted) in measured.items()}
    baseline = counts[choice._replace(loss=config.sweep.losses[0])]
    common = [seed for seed in counts[choice] if seed in baseline]
    found.append({
        **choice._asdict(),
        'members': [{'seed': seed} | scores for seed, (scores, _) in measured.items()],
        'against_first': {
            name: interval._asdict() for name, interval in comparison.compare(
                *([side[seed] for seed in common]
                  for side in (counts[choice], baseline)), config.data.seed).items()}
        if common else None})
    progress.say(f'compared {_name_of(config, choice)}')
  files.write_json(folder / 'sweep' / 'losses.json', found)
