"""The training loop: members side by side, resumable after every epoch.

A member is a seed with its settings. A single run has one member, a sweep or an
ensemble many (system/devices.py spreads them over the devices). Each member has its own
initial weights, order of samples and hyper-parameters, and is bit by bit what it would
be alone; the regions are shared. A member whose loss is not finite ends there, and the
others continue.

A checkpoint holds the states of all members, [member, ..] on the host, and the rows of
their epochs, so that training resumes on any number of devices.
"""
import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fibjax.errors import InputError
from fibjax.models import Model
from fibjax.system import devices
from fibjax.system.progress import say, track
from fibjax.system.run_folder import RunFolder
from fibjax.training import checkpoint, optim, sampling, step
from fibjax.training.members_table import EPOCH_COLUMNS, best_row
from fibjax.training.sampling import DeviceRegions, RegionStream, Samples
from fibjax.training.setup import Programs, Setup, make_setup
from fibjax.training.step import StepInputs, Totals, TrainData, TrainState

# Settings of config.train that only the schedule of the learning rate reads.
RATE_SETTINGS = ('log10_learning_rate', 'decay_epochs')
# All settings in which members of one training may differ.
MEMBER_SETTINGS = (*step.STEP_SETTINGS, *RATE_SETTINGS)

# Why a member ended before its last epoch.
DIVERGED = 'diverged'  # loss or gradient not finite
STOPPED = 'stopped'  # in the worse half of a successive halving
CONVERGED = 'converged'  # no lower validation BCE for config.train.patience epochs

_AVERAGE_FROM = 0.75  # share of the training after which weights are averaged (§8.7)


class Member(NamedTuple):
  """Per-member settings.

  Attributes:
    seed: of initialisation, order, augmentation and dropout.
    settings: values of MEMBER_SETTINGS, as in config.train.
    factors: of the terms of the loss; None: those of its expression.
  """
  seed: int
  settings: Mapping
  factors: tuple[float, ...] | None = None


class Progress(NamedTuple):
  """Snapshot of all members after an epoch; later epochs do not change it.

  Attributes:
    rows: per member, one row of EPOCH_COLUMNS per epoch that it finished.
    ended: per member, None or why it ended before its last epoch: DIVERGED, STOPPED or
      CONVERGED.
    states: per member, its state on the host.
  """
  rows: tuple[tuple[dict, ...], ...]
  ended: tuple[str | None, ...]
  states: tuple[TrainState, ...]

  def active(self) -> list[int]:
    """Numbers of the members that have not ended."""
    return [k for k, reason in enumerate(self.ended) if reason is None]


def make_member(settings, seed: int) -> Member:
  """A member with the values of config.train.

  Example:
    >>> import fibjax
    >>> settings = fibjax.train_settings(l2=1e-5)
    >>> members = [fibjax.make_member(settings, seed) for seed in (0, 1)]
    >>> members[1].seed, members[0].settings == members[1].settings
    (1, True)
  """
  return Member(seed, {name: settings[name] for name in MEMBER_SETTINGS})


def train_members(settings, model: Model, members: list[Member],
                  train: DeviceRegions | RegionStream, val: DeviceRegions, folder=None,
                  *, data_seed: int, standardise: bool, halving: tuple[int, ...] = (),
                  may_diverge: bool = True, start=None,
                  unlabelled: RegionStream | None = None) -> Iterator[Progress]:
  """Trains members, resuming from the newest checkpoint in folder.

  Args:
    settings: config.train; a member's own settings take precedence.
    model: the network.
    members: what to train.
    train: training regions on the device, or a stream of them.
    val: validation regions.
    folder: gets checkpoints/, and snapshots/<epoch> at the ends of cycles. None keeps
      everything in memory.
    data_seed: of the voxels that 'patch' sampling draws and of what validates.
    standardise: whether images are standardised by mean and sd of those of `train`, or
      of `val` where `train` is a stream.
    halving: epochs after which the worse half of the members stops.
    may_diverge: whether a member whose loss is not finite ends and the others continue.
    start: weights that all members begin with; None draws those of each.
    unlabelled: windows of config.train.crop_px without labels, whose targets are the
      teacher's or come with them.

  Yields:
    Snapshots of all members: the one in the checkpoint (or the start), then one after
    every epoch, as soon as it is in the checkpoint.

  Raises:
    InputError: when a loss is not finite and may not be, naming epoch and step, or for
      unlabelled windows without config.train.unlabelled.
  """
  if (unlabelled is None) == (settings.unlabelled > 0):
    raise InputError('config.train.unlabelled', got=settings.unlabelled,
                     expected=f'0 {"without" if unlabelled is None else "but with"} '
                     'unlabelled windows', remedy='give both or none')
  optimizer = optim.make_optimizer(settings.optimizer, settings.momentum)
  setup = make_setup(settings, model, optimizer, members, train, val, unlabelled,
                      data_seed, may_diverge)
  states = initial_states(
      settings, model, [member.seed for member in members],
      val if isinstance(train, RegionStream) else train, standardise, start)
  run = None if folder is None else RunFolder(folder)
  first_epoch, reached = _resume(run, states)
  yield reached
  active, resident = [], None  # members whose states are on the devices, and those
  for epoch in range(first_epoch, settings.epochs):
    if not reached.active():
      return
    if reached.active() != active:
      active = reached.active()
      resident = devices.put_members([reached.states[k] for k in active])
    resident, reached = _train_epoch(setup, epoch, active, resident, reached)
    if epoch + 1 in halving:
      reached = _stop_worse_half(reached)
    if run is not None:
      stacked = devices.stack(list(reached.states))
      if _ends_a_cycle(settings, epoch):
        checkpoint.replace_weights(run.snapshots / str(epoch), stacked.params)
      checkpoint.save(run.checkpoints, epoch, stacked.fields(), _to_meta(reached))
    yield reached


def initial_states(settings, model: Model, seeds: Sequence[int], seen: DeviceRegions,
                   standardise: bool, start=None) -> list[TrainState]:
  """States that members of these seeds begin with, on the host.

  Args:
    settings: config.train.
    model: the network.
    seeds: of the members.
    seen: regions whose mean and sd standardise images.
    standardise: whether they do.
    start: weights that all members begin with, or None.
  """
  optimizer = optim.make_optimizer(settings.optimizer, settings.momentum)
  input_statistics = ((jnp.mean(seen.context_ryxc), jnp.std(seen.context_ryxc))
                      if standardise else (0., 1.))
  init = jax.jit(functools.partial(
      step.init_state, model, optimizer,
      has_teacher=has_teacher(settings)))
  return [step.begin_with(start, jax.device_get(init(np.uint32(seed),
                                                     *input_statistics)))
          for seed in seeds]


def has_teacher(settings) -> bool:
  """Whether a moving average of the weights labels unlabelled windows."""
  return settings.unlabelled > 0 and not settings.teacher


def _resume(run: RunFolder | None, states: list[TrainState]) -> tuple[int, Progress]:
  """The next epoch and the snapshot in the newest checkpoint; else 0 and the start."""
  last_epoch = None if run is None else checkpoint.newest_epoch(run.checkpoints)
  if last_epoch is None:
    count = len(states)
    return 0, Progress(((),) * count, (None,) * count, tuple(states))
  fields, meta = checkpoint.restore(run.checkpoints, last_epoch,
                                    devices.stack(states).fields())
  stacked = TrainState(**fields)
  return last_epoch + 1, Progress(
      tuple(map(tuple, meta['rows'])),
      tuple(meta['ended'].get(str(k)) for k in range(len(states))),
      tuple(devices.unstack(stacked, len(states))))


def _to_meta(reached: Progress) -> dict:
  """The JSON content of a checkpoint; `_resume` reads it."""
  return {'rows': reached.rows, 'ended': {
      str(k): reason for k, reason in enumerate(reached.ended) if reason}}


def _ends_a_cycle(settings, epoch: int) -> bool:
  length = optim.cycle_epochs(settings.epochs, settings.cycles)
  return settings.schedule == 'cycles' and (
      (epoch + 1) % length == 0 or epoch + 1 == settings.epochs)


def _train_epoch(setup: Setup, epoch: int, active: list[int], resident,
                 reached: Progress) -> tuple[Any, Progress]:
  """Steps, validation and rows of one epoch.

  Args:
    setup: of the training.
    epoch: its number, from 0.
    active: numbers of the members whose states are on the devices.
    resident: those states; their buffers are used again.
    reached: before the epoch.

  Returns:
    the states on the devices and the snapshot after the epoch.
  """
  start, programs = time.monotonic(), setup.programs(len(active))
  resident, means, failures = _take_steps(setup, epoch, active, resident, programs)
  summaries = _validate(setup, resident, len(active), programs)
  seconds = (time.monotonic() - start) / len(active)
  rows, ended, shares = list(reached.rows), list(reached.ended), []
  for k, mean, summary in zip(active, means, summaries, strict=True):
    failure, is_best = failures.get(k), False
    if failure is None and not math.isfinite(summary['val_bce']):
      failure = f'validation BCE {summary["val_bce"]} after epoch {epoch + 1}'
    if failure is not None:
      ended[k] = DIVERGED
      say(f'member {k} (seed {setup.members[k].seed}): {failure}; it ends here')
    else:
      is_best = all(summary['val_bce'] < row['val_bce'] for row in rows[k])
      values = mean | summary | {'epoch': epoch, 'seconds': seconds}
      rows[k] = *rows[k], {name: values[name] for name in EPOCH_COLUMNS}
      if has_converged(setup.settings, rows[k]):
        ended[k] = CONVERGED
    averaged = max(0, epoch - math.floor(_AVERAGE_FROM * setup.settings.epochs))
    shares.append((np.float32(is_best), np.float32(1 / (1 + averaged))))
  resident = programs.close_epoch(resident, devices.put_members(shares), None)
  states = list(reached.states)
  for k, state in zip(active, devices.fetch_members(resident, len(active)),
                      strict=True):
    states[k] = state
  return resident, Progress(tuple(rows), tuple(ended), tuple(states))


def _take_steps(setup: Setup, epoch: int, active: list[int], resident,
                programs: Programs):
  """Takes all steps of an epoch.

  Reports are fetched one step late: while the host waits for those of a step, the next
  one is in the devices' queue, and they need not wait for the host.

  Returns:
    states on the devices, per active member the means of its reports, and {member:
    what was not finite}.
  """
  settings, steps = setup.settings, setup.plan.steps
  data = setup.data(epoch, len(active))
  members = [setup.members[k] for k in active]
  batches = [_samples_of(setup.plan.train_corners(member.seed, epoch))
             for member in members]
  guesses = [_unlabelled_batches(setup, data, member.seed, epoch) for member in members]
  hypers = [step.make_hyper(member.settings, setup.factors[k])
            for k, member in zip(active, members, strict=True)]
  reports, failures, pending = [], {}, None
  title = f'epoch {epoch + 1}/{settings.epochs}'
  for i in track(range(steps), title, 'step', steps):
    done = epoch + i / steps
    rates = [_rate(settings, member, done) for member in members]
    inputs = [StepInputs(batch(i), np.uint32(member.seed), hyper, np.float32(rate),
                         np.float32(done / settings.epochs), guess and guess(i))
              for member, batch, guess, hyper, rate in
              zip(members, batches, guesses, hypers, rates, strict=True)]
    resident, report = devices.unzip(programs.step(
        resident, devices.put_members(inputs), data))
    if pending is not None:
      reports.append(devices.fetch_members(pending, len(active)))
      failures = _find_failures(setup, epoch, i - 1, active, reports[-1], failures)
    pending = report
  reports.append(devices.fetch_members(pending, len(active)))
  failures = _find_failures(setup, epoch, steps - 1, active, reports[-1], failures)
  return resident, [_mean_report([report[i] for report in reports], rate)
                    for i, rate in enumerate(rates)], failures


def _unlabelled_batches(setup: Setup, data: TrainData, seed: int, epoch: int):
  """Step -> its unlabelled windows, or None without any."""
  if data.unlabelled is None:
    return None
  count = data.unlabelled.weights_ryx.shape[0]
  return _samples_of(sampling.window_batches(
      count, setup.plan.steps, setup.settings.batch, (seed, epoch, 1)))


def _samples_of(batches) -> Callable[[int], Samples]:
  """Step -> its samples."""
  corners, valid = batches
  return lambda i: Samples(corners[i], valid[i])


def _find_failures(setup: Setup, epoch: int, step_number: int, active: list[int],
                   reports: list[dict], earlier: dict[int, str]) -> dict[int, str]:
  """Earlier failures of the members and those of one step, member -> what and where.

  Raises:
    InputError: for any when members may not diverge.
  """
  failures = dict(earlier)
  for k, report in zip(active, reports, strict=True):
    if k in earlier or math.isfinite(report['loss'] + report['grad_norm']):
      continue
    values = f'loss {report["loss"]}, gradient norm {report["grad_norm"]}'
    if not setup.may_diverge:
      raise InputError(f'training at epoch {epoch + 1}, step {step_number + 1}',
                       got=values, expected='finite values',
                       remedy='start in another --workdir with a lower '
                       '--config.train.log10_learning_rate')
    failures[k] = f'{values} at epoch {epoch + 1}, step {step_number + 1}'
  return failures


def _mean_report(reports: list[dict], last_rate: float) -> dict[str, float]:
  """Columns of an epoch's row from the reports of its steps."""
  mean = {name: float(np.mean([report[name] for report in reports]))
          for name in reports[0]}
  return {'lr': last_rate, 'train_loss': mean['loss'], 'train_bce': mean['bce'],
          'train_accuracy': mean['accuracy'], 'grad_norm': mean['grad_norm']}


def _rate(settings, member: Member, epoch: float) -> float:
  return optim.learning_rate(settings.schedule, member.settings['log10_learning_rate'],
                             member.settings['decay_epochs'], epoch, settings.epochs,
                             settings.cycles)


def _validate(setup: Setup, resident, count: int, programs: Programs) -> list[dict]:
  """Per member, {'val_bce', 'val_accuracy', 'val_miou'} over all validation samples."""
  totals = []
  for batch in zip(setup.plan.val_corners, setup.plan.val_valid, strict=True):
    shared = programs.val, Samples(*batch)
    totals.append(devices.fetch_members(programs.evaluate(resident, None, shared),
                                        count))
  balanced = setup.settings.balance == 'classes'
  return [step.summarise(_add_totals([of_batch[i] for of_batch in totals]), balanced)
          for i in range(count)]


def _add_totals(totals: list[Totals]) -> Totals:
  """Sums in double precision, as many batches of many voxels are added up."""
  return Totals(*(np.sum(part, 0, dtype=float) for part in zip(*totals, strict=True)))


def has_converged(settings, rows) -> bool:
  """Whether the best epoch is config.train.patience epochs ago."""
  if not settings.patience or not rows:
    return False
  return len(rows) - 1 - rows.index(best_row(rows)) >= settings.patience


def _stop_worse_half(reached: Progress) -> Progress:
  """Ends the active members of highest best validation BCE, half of them or less."""
  ranked = sorted(reached.active(),
                  key=lambda k: best_row(reached.rows[k])['val_bce'])
  worse = ranked[-(-len(ranked) // 2):]
  return reached._replace(ended=tuple(
      STOPPED if k in worse else reason for k, reason in enumerate(reached.ended)))
