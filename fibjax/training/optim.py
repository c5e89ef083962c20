"""Optimisers and learning-rate schedules.

The learning rate is an argument of every update, so that it may differ between members
of a sweep without another compilation.
"""
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import optax

from fibjax.errors import InputError


class Optimizer(NamedTuple):
  """A pair of pure functions.

  Attributes:
    init: params -> state.
    update: (gradients, state, params, learning_rate) -> (params, state).
  """
  init: Callable
  update: Callable


def sgd(momentum: float) -> Optimizer:
  """Momentum in the Keras form v <- m v - lr g, w <- w + v (§1.7).

  The learning rate acts before the velocity, so a drop of the rate leaves the velocity
  as it is; optax.sgd multiplies the velocity by the new rate instead.
  """
  transform = optax.trace(decay=momentum)

  def update(gradients, state, params, learning_rate):
    scaled = jax.tree.map(lambda g: -learning_rate * g, gradients)
    steps, state = transform.update(scaled, state)
    return optax.apply_updates(params, steps), state
  return Optimizer(transform.init, update)


def adam(momentum: float) -> Optimizer:
  """Adam with b1 = momentum and optax's other defaults (Kingma & Ba 2015)."""
  transform = optax.scale_by_adam(b1=momentum)

  def update(gradients, state, params, learning_rate):
    directions, state = transform.update(gradients, state)
    steps = jax.tree.map(lambda d: -learning_rate * d, directions)
    return optax.apply_updates(params, steps), state
  return Optimizer(transform.init, update)


OPTIMIZERS = {'sgd': sgd, 'adam': adam}


def make_optimizer(name: str, momentum: float) -> Optimizer:
  """Builds one of OPTIMIZERS.

  Raises:
    InputError: for another name.
  """
  if name not in OPTIMIZERS:
    raise InputError('config.train.optimizer', got=repr(name),
                     expected=f'one of {", ".join(OPTIMIZERS)}',
                     remedy='choose one of these')
  return OPTIMIZERS[name](momentum)


def learning_rate(schedule: str, log10_start: float, decay_epochs: float,
                  epoch: float, epochs: int, cycles: int = 1) -> float:
  """Learning rate at an epoch, in double precision.

  The schedules of optax are not used: they compute in float32, and the rate that a
  step gets differs from this one in its last bit for 64 % of the steps of a cosine of
  20 epochs of 100 steps (by up to 1.5 % near its end, where 1 + cos cancels) and for
  27 % of 'steps'. They would also cost a dispatch to the device per member and step
  (2 ms against 0.4 us on two busy cores, 2026-11, optax 0.2, jax 0.10).

  Args:
    schedule: 'steps': 10^(log10_start - 0.25 floor(epoch / decay_epochs)), the paper's
      (§1.7); 'cosine': from 10^log10_start to 0 over all epochs; 'cycles': the same in
      every cycle, for snapshots (Huang 2017, §8.7).
    log10_start: log10 of the rate at epoch 0.
    decay_epochs: k of the paper, of 'steps' only.
    epoch: epochs done, may be fractional.
    epochs: length of the training.
    cycles: of 'cycles', of ceil(epochs / cycles) epochs each.

  Raises:
    InputError: for another schedule.
  """
  if schedule == 'steps':
    return 10. ** (log10_start - 0.25 * math.floor(epoch / decay_epochs))
  if schedule in ('cosine', 'cycles'):
    length = cycle_epochs(epochs, cycles)
    done = epoch / epochs if schedule == 'cosine' else epoch % length / length
    return 10. ** log10_start * 0.5 * (1 + math.cos(math.pi * done))
  raise InputError('config.train.schedule', got=repr(schedule),
                   expected="'steps', 'cosine' or 'cycles'",
                   remedy='choose one of these')


def cycle_epochs(epochs: int, cycles: int) -> int:
  """Epochs of one of the cycles of a training; the last one may be shorter."""
  return -(-epochs // cycles)


def global_norm(gradients) -> jax.Array:
  """Euclidean norm over all leaves."""
  return optax.tree.norm(gradients)
