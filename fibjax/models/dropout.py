"""Dropout with traced rates (§1.5)."""
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Dropout(NamedTuple):
  """Key and rates of dropout in training; the rates may be traced.

  Attributes:
    key: typed PRNG key, used for one call.
    dense: p_d, probability to drop an element after each hidden dense layer.
    spatial: p_sd, probability to drop a whole channel of the lowest maps.
  """
  key: jax.Array
  dense: float | jax.Array
  spatial: float | jax.Array


def drop(key, values: jax.Array, rate, mask_shape: tuple[int, ...]) -> jax.Array:
  """Zeroes values with probability rate and scales the others by 1 / (1 - rate).

  Args:
    key: typed PRNG key.
    values: array to drop from.
    rate: probability in [0, 1), may be traced.
    mask_shape: shape of the random mask; 1 along axes that drop together.
  """
  kept = jax.random.bernoulli(key, 1 - jnp.float32(rate), mask_shape)
  return jnp.where(kept, values / (1 - jnp.float32(rate)), 0.)
