"""What all epochs of a training share: samples, compiled programs, data on devices."""
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from fibjax.models import Model
from fibjax.system import devices
from fibjax.training import loss_expression, sampling, step
from fibjax.training.sampling import DeviceRegions, Plan, RegionStream
from fibjax.training.step import TrainData, Unlabelled


class Programs(NamedTuple):
  """Compiled programs for a given number of members, and their shared data."""
  step: Callable
  evaluate: Callable
  close_epoch: Callable
  val: DeviceRegions


class Setup(NamedTuple):
  """What all epochs share.

  Attributes:
    settings: config.train.
    members: `loop.Member`s, what is trained.
    plan: which samples each epoch sees.
    factors: per member, those of the terms of its loss.
    programs: number of members -> Programs.
    data: (epoch, number of members) -> training regions and unlabelled windows on
      their devices.
    may_diverge: whether the others continue when a loss is not finite.
  """
  settings: Any
  members: list
  plan: Plan
  factors: list[tuple[float, ...]]
  programs: Callable[[int], Programs]
  data: Callable[[int, int], TrainData]
  may_diverge: bool


def make_setup(settings, model: Model, optimizer, members, train, val, unlabelled,
                data_seed: int, may_diverge: bool) -> Setup:
  """Prepares a training; arguments as for `loop.train_members`."""
  loss = loss_expression.make_loss(settings.loss)
  plan = sampling.make_plan(settings, data_seed, sampling.hard_labels(train),
                            sampling.hard_labels(val))
  how = Unlabelled(settings.unlabelled, settings.teacher_decay)
  train_step = functools.partial(step.train_step, model=model, optimizer=optimizer,
                                 loss=loss, crop_px=plan.crop_px,
                                 augmentation=settings.augment, unlabelled=how)

  def evaluate(state, _, shared):
    return step.eval_step(state.judged, *shared, model=model, crop_px=plan.crop_px)

  def close_epoch(state, shares, _):
    return step.close_epoch(state, *shares)

  # As many entries as are in use: what was made for another count, or epoch, is let go.
  @functools.lru_cache(1)
  def programs(count: int) -> Programs:
    return Programs(devices.map_members(train_step, count, donate=True),
                     devices.map_members(evaluate, count),
                     devices.map_members(close_epoch, count, donate=True),
                     devices.put_shared(val, count))

  @functools.lru_cache(2)
  def put(which: str, epoch, count: int) -> DeviceRegions:
    source = {'train': train, 'unlabelled': unlabelled}[which]
    return devices.put_shared(source if epoch is None else source.make(epoch), count)

  def put_data(epoch: int, count: int) -> TrainData:
    # The key of fixed regions has no epoch: they are put once.
    return TrainData(
        put('train', epoch if isinstance(train, RegionStream) else None, count),
        None if unlabelled is None else put('unlabelled', epoch, count))

  factors = [member.factors or loss.factors for member in members]
  return Setup(settings, members, plan, factors, programs, put_data, may_diverge)
