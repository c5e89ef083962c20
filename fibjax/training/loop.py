"""The training loop: members side by side, resumable after every epoch.

A single run is one member, a sweep or an ensemble many (parallel.py spreads them over
the devices). Each has its own seed, hyper-parameters and order of samples, and is what
it would be alone; the regions are shared. A member whose loss is not finite ends where
it was, and the others go on.

A checkpoint holds the states of all members, [member, ..] on the host, and the rows of
their epochs, so that it resumes on any number of devices.
"""
import functools
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tensorboardX import SummaryWriter

from fibjax.errors import InputError
from fibjax.models import Model
from fibjax.system import devices, progress
from fibjax.training import checkpoint, loss_expression, optim, sampling
from fibjax.training import step as training
from fibjax.training.members_table import FIELDS, best_row, read_rows, write_rows
from fibjax.training.sampling import DeviceRegions, Plan, Samples
from fibjax.training.step import TrainState

SETTINGS = (*training.Hyper._fields[:-1], 'log10_learning_rate', 'decay_epochs')
_AVERAGE_FROM = 0.75  # share of the training after which weights are averaged (§8.7)


class Member(NamedTuple):
  """What is its own of a member.

  Attributes:
    seed: of initialisation, order, augmentation and dropout.
    settings: values of SETTINGS, as in config.train.
    factors: of the terms of the loss; None: those of its expression.
  """
  seed: int
  settings: dict
  factors: tuple[float, ...] | None = None


class Progress(NamedTuple):
  """Where members stand after an epoch.

  Attributes:
    rows: per member one row of FIELDS per epoch that it finished.
    ended: member -> 'diverged' (loss or gradient not finite), 'stopped' (successive
      halving) or 'converged' (config.train.patience), for those that do not go on.
  """
  rows: list[list[dict]]
  ended: dict[int, str]


class _Programs(NamedTuple):
  """What is run for so many members at once, and what they share."""
  step: Callable
  evaluate: Callable
  close_epoch: Callable
  train: DeviceRegions
  val: DeviceRegions


class _Run(NamedTuple):
  """What stays the same over all epochs."""
  settings: Any
  members: list[Member]
  plan: Plan
  factors: list[tuple[float, ...]]
  programs: Callable[[int], _Programs]
  balanced: bool
  may_diverge: bool


def member_of(config) -> Member:
  """The only member of a config."""
  return Member(config.seed, {name: config.train[name] for name in SETTINGS})


def train_members(config, model: Model, members: list[Member], train: DeviceRegions,
                  val: DeviceRegions, folder, halving=(),
                  may_diverge: bool = True) -> Iterator[Progress]:
  """Trains members, or goes on from the newest checkpoint in folder.

  Args:
    config: the experiment; a member's settings go before those of config.train.
    model: network of config.model.
    members: what to train.
    train: training regions on the device.
    val: validation regions.
    folder: gets checkpoints/, and snapshots/<epoch> at the ends of cycles.
    halving: epochs after which the worse half of the members stops.
    may_diverge: whether a member whose loss is not finite ends and the others go on.

  Yields:
    Where they stand: as found in the checkpoint, then after every epoch, when it is in
    the checkpoint.

  Raises:
    InputError: when a loss is not finite and may not be, naming epoch and step.
  """
  optimizer = optim.make_optimizer(config.train.optimizer, config.train.momentum)
  run = _plan_run(config, model, optimizer, members, train, val, may_diverge)
  moments = ((jnp.mean(train.context_ryxc), jnp.std(train.context_ryxc))
             if config.model.standardise else (0., 1.))
  start = jax.jit(functools.partial(training.init_state, model, optimizer))
  states = [jax.device_get(start(np.uint32(m.seed), *moments)) for m in members]
  now, first = Progress([[] for _ in members], {}), 0
  with checkpoint.open_manager(Path(folder) / 'checkpoints') as manager:
    if manager.latest_step() is not None:
      first = manager.latest_step() + 1
      stacked, meta = checkpoint.restore(manager, first - 1, devices.stack(states))
      states = devices.unstack(stacked, len(members))
      now = Progress(meta['rows'], {int(k): why for k, why in meta['ended'].items()})
    yield now
    active, held = [], None
    for epoch in range(first, config.train.epochs):
      going = [k for k in range(len(members)) if k not in now.ended]
      if not going:
        return
      if going != active:
        active, held = going, devices.put_members([states[k] for k in going])
      held = _train_epoch(run, epoch, active, held, now)
      if epoch + 1 in halving:
        now.ended.update(dict.fromkeys(_worse_half(now), 'stopped'))
      for k, state in zip(active, devices.fetch_members(held, len(active)),
                          strict=True):
        states[k] = state
      if _ends_a_cycle(config.train, epoch):
        checkpoint.replace_weights(Path(folder) / 'snapshots' / str(epoch),
                                   devices.stack([state.params for state in states]))
      checkpoint.save(manager, epoch, devices.stack(states),
                      {'rows': now.rows, 'ended': now.ended})
      yield now


def _ends_a_cycle(settings, epoch: int) -> bool:
  length = optim.cycle_epochs(settings.epochs, settings.cycles)
  return settings.schedule == 'cycles' and (
      (epoch + 1) % length == 0 or epoch + 1 == settings.epochs)


def _plan_run(config, model: Model, optimizer, members, train, val,
              may_diverge: bool) -> _Run:
  loss = loss_expression.make_loss(config.train.loss)
  plan = sampling.make_plan(config.train, config.data.seed,
                            *(sampling.hard_labels(side) for side in (train, val)))
  step = functools.partial(training.train_step, model=model, optimizer=optimizer,
                           loss=loss, crop_px=plan.crop_px,
                           augmentation=config.train.augment)

  def evaluate(state, _, shared):
    return training.eval_step(state.params, *shared, model=model, crop_px=plan.crop_px)

  def close_epoch(state, shares, _):
    return training.close_epoch(state, *shares)

  @functools.lru_cache(1)  # the regions of another count are let go
  def programs(count: int) -> _Programs:
    return _Programs(devices.map_members(step, count, donate=True),
                     devices.map_members(evaluate, count),
                     devices.map_members(close_epoch, count, donate=True),
                     devices.put_shared(train, count), devices.put_shared(val, count))

  factors = [m.factors or loss.factors for m in members]
  return _Run(config.train, members, plan, factors, programs,
              config.train.balance == 'classes', may_diverge)


def _train_epoch(run: _Run, epoch: int, active: list[int], held, now: Progress):
  """Steps, validation and rows of one epoch; returns the states on the devices."""
  start, programs = time.monotonic(), run.programs(len(active))
  held, means, lost = _take_steps(run, epoch, active, held, programs)
  summaries = _validate(run, held, len(active), programs)
  seconds = (time.monotonic() - start) / len(active)
  shares = []
  for k, mean, summary in zip(active, means, summaries, strict=True):
    rows, best = now.rows[k], False
    if k not in lost and not math.isfinite(summary['val_bce']):
      lost[k] = f'validation BCE {summary["val_bce"]} after epoch {epoch + 1}'
    if k in lost:
      now.ended[k] = 'diverged'
      progress.say(f'member {k} (seed {run.members[k].seed}): {lost[k]}; it ends here')
    else:
      best = all(summary['val_bce'] < row['val_bce'] for row in rows)
      row = mean | summary | {'epoch': epoch, 'seconds': seconds}
      rows.append({name: row[name] for name in FIELDS})
      if _has_converged(run.settings, rows):
        now.ended[k] = 'converged'
    averaged = max(0, epoch - math.floor(_AVERAGE_FROM * run.settings.epochs))
    shares.append((np.float32(best), np.float32(1 / (1 + averaged))))
  return programs.close_epoch(held, devices.put_members(shares), None)


def _take_steps(run: _Run, epoch: int, active: list[int], held, programs: _Programs):
  """All steps of an epoch: states, mean reports, {member: what is not finite}.

  Reports are fetched one step late, so that the devices need not wait.
  """
  settings, steps = run.settings, run.plan.steps
  chosen = [run.members[k] for k in active]
  corners = [run.plan.train_corners(member.seed, epoch) for member in chosen]
  hypers = [training.Hyper(*(np.float32(m.settings[name]) for name in SETTINGS[:-2]),
                           np.asarray(run.factors[k], np.float32))
            for k, m in zip(active, chosen, strict=True)]
  reports, lost, pending = [], {}, None

  def fetch(step: int):
    found = devices.fetch_members(pending, len(active))
    reports.append(found)
    for k, report in zip(active, found, strict=True):
      if k not in lost and not math.isfinite(report['loss'] + report['grad_norm']):
        lost[k] = (f'loss {report["loss"]}, gradient norm {report["grad_norm"]} at '
                   f'epoch {epoch + 1}, step {step + 1}')
    if lost and not run.may_diverge:
      raise InputError(f'training at epoch {epoch + 1}, step {step + 1}',
                       got=lost[active[0]].partition(' at ')[0],
                       expected='finite values',
                       remedy='start in another --workdir with a lower '
                       '--config.train.log10_learning_rate')

  title = f'epoch {epoch + 1}/{settings.epochs}'
  for i in progress.track(range(steps), title, 'step', steps):
    done = epoch + i / steps
    rates = [_rate(settings, member, done) for member in chosen]
    moments = [training.Moment(Samples(at[i], valid[i]), np.uint32(member.seed), hyper,
                               np.float32(rate), np.float32(done / settings.epochs))
               for member, (at, valid), hyper, rate in
               zip(chosen, corners, hypers, rates, strict=True)]
    held, report = devices.unzip(programs.step(held, devices.put_members(moments),
                                                programs.train))
    if pending is not None:
      fetch(i - 1)
    pending = report
  fetch(steps - 1)
  means = [{name: float(np.mean([found[i][name] for found in reports]))
            for name in reports[0][i]} for i in range(len(active))]
  return held, [{'lr': rate, 'train_loss': mean['loss'], 'train_bce': mean['bce'],
                 'train_accuracy': mean['accuracy'], 'grad_norm': mean['grad_norm']}
                for rate, mean in zip(rates, means, strict=True)], lost


def _rate(settings, member: Member, epoch: float) -> float:
  return optim.learning_rate(settings.schedule, member.settings['log10_learning_rate'],
                             member.settings['decay_epochs'], epoch, settings.epochs,
                             settings.cycles)


def _validate(run: _Run, held, count: int, programs: _Programs) -> list[dict]:
  totals = []
  for batch in zip(run.plan.val_corners, run.plan.val_valid, strict=True):
    shared = programs.val, Samples(*batch)
    totals.append(devices.fetch_members(programs.evaluate(held, None, shared), count))
  pooled = [training.Totals(*(np.sum([found[i][part] for found in totals], 0,
                                     dtype=float) for part in (0, 1)))
            for i in range(count)]
  return [training.summarise(one, run.balanced) for one in pooled]


def _has_converged(settings, rows: list[dict]) -> bool:
  """Whether the best epoch is config.train.patience epochs ago."""
  if not settings.patience or not rows:
    return False
  return len(rows) - 1 - rows.index(best_row(rows)) >= settings.patience


def _worse_half(now: Progress) -> list[int]:
  going = [k for k in range(len(now.rows)) if k not in now.ended]
  ranked = sorted(going, key=lambda k: best_row(now.rows[k])['val_bce'])
  return ranked[-(-len(ranked) // 2):]


def train_and_evaluate(config, model: Model, train: DeviceRegions, val: DeviceRegions,
                       folder) -> dict:
  """Trains the only member of a config for config.train.epochs, or goes on.

  Args:
    config: the whole experiment.
    model: network of config.model.
    train: training regions on the device.
    val: validation regions.
    folder: workdir; gets checkpoints/, metrics.csv and TensorBoard events.

  Returns:
    The metrics row of the best epoch (lowest validation BCE).

  Raises:
    InputError: when the loss is not finite, naming epoch and step.
  """
  folder = Path(folder)
  known = None
  with SummaryWriter(str(folder / 'events')) as events:
    for now in train_members(config, model, [member_of(config)], train, val, folder,
                             may_diverge=False):
      rows = now.rows[0]
      write_rows(folder, rows)
      if known is not None:
        row = rows[-1]
        progress.say(f'epoch {len(rows)}/{config.train.epochs}: training BCE '
                     f'{row["train_bce"]:.4f}, validation BCE {row["val_bce"]:.4f}, '
                     f'mIoU {row["val_miou"]:.4f}, {row["seconds"]:.0f} s')
        for name in FIELDS[1:]:
          events.add_scalar(name, row[name], row['epoch'])
      known = rows
  return best_row(rows)


def is_finished(config, folder) -> bool:
  """Whether a run has all its epochs, or has converged."""
  checkpoints = Path(folder) / 'checkpoints'
  if not checkpoints.is_dir():
    return False
  with checkpoint.open_manager(checkpoints) as manager:
    last = manager.latest_step()
  if last == config.train.epochs - 1:
    return True
  rows = read_rows(folder) if (Path(folder) / 'metrics.csv').exists() else []
  return len(rows) - 1 == last and _has_converged(config.train, rows)


def load_states(model: Model, config, folder, count: int = 1) -> list[TrainState]:
  """States of the newest checkpoint in folder/checkpoints, one per member.

  Raises:
    InputError: when there is no checkpoint or it does not fit the model.
  """
  target = devices.stack([_empty_state(model, config)] * count)
  checkpoints = Path(folder) / 'checkpoints'
  if not checkpoints.is_dir():
    raise InputError(str(folder), got='no checkpoints', expected='a trained run',
                     remedy='run `fibjax train` with this workdir first')
  with checkpoint.open_manager(checkpoints) as manager:
    if manager.latest_step() is None:
      raise InputError(str(folder), got='no finished epoch', expected='a trained run',
                       remedy='run `fibjax train --resume` with this workdir')
    stacked, _ = checkpoint.restore(manager, manager.latest_step(), target)
    return devices.unstack(stacked, count)


def _empty_state(model: Model, config) -> TrainState:
  optimizer = optim.make_optimizer(config.train.optimizer, config.train.momentum)
  return jax.tree.map(
      lambda leaf: np.zeros(leaf.shape, leaf.dtype),
      jax.eval_shape(functools.partial(training.init_state, model, optimizer, 0)))


def load_best(model: Model, config, folder):
  """Weights of the best epoch of a single run; raises as `load_states`."""
  return load_states(model, config, folder)[0].best


def save_single(model: Model, config, folder, best, average, rows: list[dict]) -> None:
  """Writes a member as the finished training of a single run: weights, metrics.csv."""
  start = _empty_state(model, config)
  state = start._replace(params=best, best=best, average=average)
  with checkpoint.open_manager(Path(folder) / 'checkpoints') as manager:
    checkpoint.save(manager, config.train.epochs - 1, devices.stack([state]),
                    {'rows': [rows], 'ended': {}})
  write_rows(Path(folder), rows)
