"""Preconditioned minimal residuals for symmetric indefinite systems.

MINRES (Paige & Saunders 1975) in the form of Elman, Silvester & Wathen 2014, Finite
Elements and Fast Iterative Solvers, algorithm 4.1: a Lanczos recurrence whose
tridiagonal matrix is reduced by one plane rotation per iteration. Only the newest
vectors are kept. The norm of the residual that falls is that of the preconditioner,
which has to be symmetric and positive definite.
"""
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax


class Solution(NamedTuple):
  """Solution y of K y = b.

  Attributes:
    y: array like b.
    iterations: number of iterations.
    error: squared norm of the residual over b . y.
  """
  y: jax.Array
  iterations: jax.Array
  error: jax.Array


class _State(NamedTuple):
  """Vectors and scalars of one iteration; `_old` is that of the iteration before.

  Attributes:
    y: solution.
    v, v_old: Lanczos vectors, not normalised.
    z: newest vector, preconditioned and normalised.
    w, w_old: directions of search.
    gamma: norm of v of the iteration before; gamma_old of the one before that.
    delta: z . K z.
    eta: norm of the residual, with sign.
    cos, cos_old, sin, sin_old: rotations.
    value: b . y.
    iterations: number of iterations.
  """
  y: jax.Array
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
  value: jax.Array
  iterations: jax.Array


def solve(apply: Callable, precondition: Callable, b: jax.Array, tolerance,
          max_iterations) -> Solution:
  """Solves K y = b from y = 0; to be called under jit.

  The functional b . y is what is wanted: y . (b + r) with the residual r misses it only
  by the square of the error of y, which the squared norm of r estimates.

  Args:
    apply: K, symmetric.
    precondition: approximates the inverse of K's modulus, positive definite.
    b: right-hand side, not 0.
    tolerance: of `Solution.error`.
    max_iterations: largest number of iterations.
  """
  zero, scalar = jnp.zeros_like(b), jnp.float32(0)
  one = jnp.float32(1)
  start = _State(zero, b, zero, zero, zero, zero, one, scalar, one, one, one, scalar,
                 scalar, scalar, jnp.int32(-1))

  def unfinished(state):
    return (state.iterations < jnp.maximum(max_iterations, 1)) & (
        (state.iterations < 1) | (state.eta ** 2 > tolerance * jnp.abs(state.value)))

  def iterate(state):
    return _iterate(apply, precondition, b, state)

  end = lax.while_loop(unfinished, iterate, start)
  return Solution(end.y, end.iterations, end.eta ** 2 / jnp.abs(end.value))


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
  # A step of Lanczos.
  z = better / gamma
  image = apply(z)
  delta = dot(image, z)
  v = image - delta / gamma * state.v - gamma / state.gamma * state.v_old
  return _State(y, v, state.v, z, w, state.w, gamma, delta, eta, cos, state.cos, sin,
                state.sin, dot(b, y), state.iterations + 1)


def dot(a_czyx, b_czyx):
  """Scalar product; sums over one axis after the other lose fewer digits."""
  product = a_czyx * b_czyx
  for axis in reversed(range(product.ndim)):
    product = product.sum(axis)
  return product
