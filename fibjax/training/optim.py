"""Optimisers and learning-rate schedules.

The learning rate is an argument of every update, so that it may differ between
members of a sweep without another compilation.
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


def make_optimizer(name: str, momentum: float) -> Optimizer:
  """Builds 'sgd' or 'adam'.

  'sgd' has momentum in the Keras form v <- m v - lr g, w <- w + v (§1.7): the learning
  rate acts before the velocity, so a drop of the rate leaves the velocity as it is.

  Args:
    name: 'sgd' or 'adam'.
    momentum: m of sgd, b1 of adam.

  Raises:
    InputError: for another name.
  """
  if name == 'sgd':
    transform = optax.trace(decay=momentum)

    def update(gradients, state, params, learning_rate):
      scaled = jax.tree.map(lambda g: -learning_rate * g, gradients)
      steps, state = transform.update(scaled, state)
      return optax.apply_updates(params, steps), state
  elif name == 'adam':
    transform = optax.scale_by_adam(b1=momentum)

    def update(gradients, state, params, learning_rate):
      directions, state = transform.update(gradients, state)
      steps = jax.tree.map(lambda d: -learning_rate * d, directions)
      return optax.apply_updates(params, steps), state
  else:
    raise InputError('config.train.optimizer', got=repr(name),
                     expected="'sgd' or 'adam'", remedy='choose one of these')
  return Optimizer(transform.init, update)


def learning_rate(schedule: str, log10_start: float, decay_epochs: float,
                  epoch: float, epochs: int, cycles: int = 1) -> float:
  """Learning rate at an epoch.

  Args:
    schedule: 'steps': 10^(log10_start - 0.25 floor(epoch / decay_epochs)), the paper's
      (§1.7); 'cosine': from 10^log10_start to 0 over all epochs; 'cycles': that again
      and again, for snapshots (Huang 2017, §8.7).
    log10_start: log10 of the rate at epoch 0.
    decay_epochs: k of the paper, unused by 'cosine'.
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
  """Epochs of one of the cycles of a training."""
  return -(-epochs // cycles)


def global_norm(gradients) -> jax.Array:
  """Euclidean norm over all leaves."""
  return optax.tree.norm(gradients)
