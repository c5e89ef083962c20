"""Preconditioned minimal residuals for symmetric indefinite systems.

MINRES (Paige & Saunders 1975) in the form of Elman, Silvester & Wathen 2014, Finite
Elements and Fast Iterative Solvers, algorithm 4.1: a Lanczos recurrence whose
tridiagonal matrix is reduced by one plane rotation per iteration. Only the newest
vectors are kept. The norm of the residual that falls is that of the preconditioner,
which has to be symmetric and positive definite.

What is wanted of K y = b is the functional b . y. With the residual r of an iterate y,

  b . y + y . r

misses it by r . (inverse of K) r only, the square of the error. That is estimated by
the larger of two numbers: the squared norm of r, right where the preconditioner is the
inverse of K's modulus, and the largest change over the newest iterations, which also
sees the few slow components that the preconditioner misses.
"""
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from fibjax.analysis.multigrid import dot

_RECENT = 5  # iterations over which changes count


class Solution(NamedTuple):
  """Solution y of K y = b.

  Attributes:
    y: array like b.
    value: b . y + y . r, in float32.
    iterations: number of iterations.
    error: estimated relative error of the value.
  """
  y: jax.Array
  value: jax.Array
  iterations: jax.Array
  error: jax.Array


class _State(NamedTuple):
  """Vectors and scalars of one iteration; `_old` is that of the iteration before.

  Attributes:
    y: solution.
    r: its residual.
    v, v_old: Lanczos vectors, not normalised; v is the next one.
    z: v_old, preconditioned and normalised.
    w, w_old: directions of search.
    gamma: norm of v_old.
    delta: z . K z.
    eta: norm of r, with sign.
    cos, cos_old, sin, sin_old: rotations.
    values: [_RECENT] functional after the newest iterations.
    iterations: number of iterations.
  """
  y: jax.Array
  r: jax.Array
  v: jax.Array
  v_old: jax.Array
  z: jax.Array
  w: jax.Array
  w_old: jax.Array
  gamma: jax.Array
  delta: jax.Array
  eta: jax.Array
  cos: jax.Array
  cos_old: jax.Array
  sin: jax.Array
  sin_old: jax.Array
  values: jax.Array
  iterations: jax.Array


def solve(apply: Callable, precondition: Callable, b: jax.Array, tolerance,
          max_iterations) -> Solution:
  """Solves K y = b from y = 0; to be called under jit.

  Args:
    apply: K, symmetric.
    precondition: approximates the inverse of K's modulus, positive definite.
    b: right-hand side, not 0.
    tolerance: of `Solution.error`.
    max_iterations: largest number of iterations, at least 1.
  """
  zero, nought, one = jnp.zeros_like(b), jnp.float32(0), jnp.float32(1)
  start = _State(zero, b, b, zero, zero, zero, zero, one, nought, one, one, one, nought,
                 nought, jnp.zeros(_RECENT), jnp.int32(-1))

  def unfinished(state):
    return (state.iterations < 1) | (
        (state.iterations < max_iterations) & (_error(state) > tolerance))

  end = lax.while_loop(unfinished,
                       lambda state: _iterate(apply, precondition, b, state), start)
  return Solution(end.y, end.values[0], end.iterations, _error(end))


def _error(state: _State):
  newest = state.values[0]
  change = jnp.max(jnp.abs(state.values - newest))
  return jnp.maximum(state.eta ** 2, change) / jnp.abs(newest)


def _iterate(apply, precondition, b, state: _State) -> _State:
  """Ends an iteration with the norm of the newest Lanczos vector, begins the next.

  The first call only begins one. The preconditioner is thus in one place of the
  program, and compiled once.
  """
  first = state.iterations < 0
  better = precondition(state.v)
  gamma = jnp.sqrt(jnp.maximum(dot(better, state.v), 1e-30))
  # The column of the tridiagonal matrix, rotated twice, and a rotation to end it.
  upper = state.cos * state.delta - state.cos_old * state.sin * state.gamma
  length = jnp.hypot(upper, gamma)
  middle = state.sin * state.delta + state.cos_old * state.cos * state.gamma
  cos, sin = upper / length, gamma / length
  w = (state.z - state.sin_old * state.gamma * state.w_old - middle * state.w) / length
  y = state.y + cos * state.eta * w
  cos, sin = jnp.where(first, 1, cos), jnp.where(first, 0, sin)
  eta = jnp.where(first, gamma, -sin * state.eta)
  r = jnp.where(first, 1, sin ** 2) * state.r + jnp.where(
      first, 0, cos * eta / gamma) * state.v
  values = jnp.concatenate([dot(y, b + r)[None], state.values[:-1]])
  # A step of Lanczos.
  z = better / gamma
  image = apply(z)
  delta = dot(image, z)
  v = image - delta / gamma * state.v - gamma / state.gamma * state.v_old
  return _State(y, r, v, state.v, z, w, state.w, gamma, delta, eta, cos, state.cos, sin,
                state.sin, values, state.iterations + 1)
