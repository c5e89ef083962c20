"""Multigrid for sums of conductances between neighbouring cells of a grid.

A level is a symmetric, positive definite system: each cell exchanges conductance x
(c - c') with its six neighbours and conductance x c with the outside, where c is 0.
One V-cycle approximates its solution and serves as preconditioner: cells are joined two
by two along each axis of small spacing, conductances between them add up over twice the
distance, those to the outside add up, damped Jacobi sweeps smooth. Cells without any
conductance (solid) stay 0. float32 on the device; arrays are [z, y, x].
"""
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from fibjax.analysis.phases import Size

_DAMPING = 0.8          # of Jacobi sweeps; 1 would not damp checkerboard errors
_SWEEPS = 2             # as many before as after the coarser grid, for symmetry
_COARSEST = 4           # cells along the longest axis
_COARSEST_SWEEPS = 20   # in place of an exact solution there

Joins = tuple[tuple[int, ...], ...]


class Level(NamedTuple):
  """Conductances of one grid.

  Attributes:
    faces: for each axis [z, y, x], conductance to the next cell, 0 for the last one.
    outside: [z, y, x] conductance to the outside.
    sums: [z, y, x] sum of all conductances of a cell, 0 in the solid.
  """
  faces: tuple[jax.Array, ...]
  outside: jax.Array
  sums: jax.Array


def plan_joins(shape: tuple[int, ...], size: Size) -> Joins:
  """Cells joined along each axis, from each grid to the next coarser one.

  Along axes of small spacing first (semi-coarsening): conductances there are largest,
  and point-wise smoothing works only along strong connections. Cells thereby become
  nearly cubic.

  Args:
    shape: cells of the finest grid along each axis.
    size: their spacings.
  """
  joins = []
  while max(shape) > _COARSEST:
    smallest = min(s for s, n in zip(size, shape, strict=True) if n > 1)
    join = tuple(2 if n > 1 and s < 2 * smallest else 1
                 for s, n in zip(size, shape, strict=True))
    shape = tuple(-(-n // j) for n, j in zip(shape, join, strict=True))
    size = tuple(s * j for s, j in zip(size, join, strict=True))
    joins.append(join)
  return tuple(joins)


def make_level(faces, outside) -> Level:
  """A level from its conductances; see `Level`."""
  sums_zyx = outside + sum(f + shift(f, axis, 1) for axis, f in enumerate(faces))
  return Level(tuple(faces), outside, sums_zyx)


def make_levels(finest: Level, joins: Joins) -> list[Level]:
  """All grids, the finest first."""
  levels = [finest]
  for join in joins:
    levels.append(_coarser(levels[-1], join))
  return levels


def _coarser(level: Level, join) -> Level:
  """Next coarser grid: parallel conductances add up, over twice the distance.

  Of the faces across a joined axis only those between the new cells remain, every
  second one.
  """
  faces = []
  for axis, face_zyx in enumerate(level.faces):
    if join[axis] == 2:
      face_zyx = lax.slice_in_dim(_even(face_zyx, axis), 1, None, 2, axis) / 2
    faces.append(_add_up(face_zyx, [1 if a == axis else j for a, j in enumerate(join)]))
  return make_level(faces, _add_up(level.outside, join))


def apply_level(level: Level, c_zyx):
  """Net flux out of each cell: the matrix of the system times c."""
  flux_zyx = level.sums * c_zyx
  for axis, face_zyx in enumerate(level.faces):
    flux_zyx = flux_zyx - face_zyx * shift(c_zyx, axis, -1)
    flux_zyx = flux_zyx - shift(face_zyx * c_zyx, axis, 1)
  return flux_zyx


def v_cycle(levels: list[Level], joins: Joins, residual_zyx):
  """Approximate solution for a residual; linear, symmetric and positive.

  Krylov methods need all three: restriction is the transpose of prolongation (sums and
  repeats of cells), and as many sweeps follow as precede.

  The fori_loops keep XLA from fusing sweeps with each other: it would compute a sweep
  again for every neighbour that reads it.
  """
  level = levels[0]
  rate_zyx = jnp.where(level.sums > 0, _DAMPING / jnp.maximum(level.sums, 1e-30), 0)

  def before(_, state):
    c_zyx, remainder_zyx = state
    c_zyx = c_zyx + rate_zyx * remainder_zyx
    return c_zyx, residual_zyx - apply_level(level, c_zyx)

  def after(_, c_zyx):
    return c_zyx + rate_zyx * (residual_zyx - apply_level(level, c_zyx))

  c_zyx, remainder_zyx = lax.fori_loop(
      0, _SWEEPS if joins else _COARSEST_SWEEPS, before,
      (jnp.zeros_like(residual_zyx), residual_zyx))
  if not joins:
    return c_zyx
  coarse_zyx = v_cycle(levels[1:], joins[1:], _add_up(remainder_zyx, joins[0]))
  for axis, join in enumerate(joins[0]):
    coarse_zyx = jnp.repeat(coarse_zyx, join, axis)
  coarse_zyx = coarse_zyx[tuple(slice(n) for n in c_zyx.shape)]
  return lax.fori_loop(0, _SWEEPS, after,
                       c_zyx + jnp.where(level.sums > 0, coarse_zyx, 0))


def _add_up(values_zyx, join):
  """Sums of the cells that are joined."""
  for axis, j in enumerate(join):
    if j == 2:
      values_zyx = _even(values_zyx, axis)
      values_zyx = (lax.slice_in_dim(values_zyx, 0, None, 2, axis)
                    + lax.slice_in_dim(values_zyx, 1, None, 2, axis))
  return values_zyx


def _even(values_zyx, axis):
  """Pads an odd axis with a plane of zeros."""
  pad = [(0, n % 2 if a == axis else 0) for a, n in enumerate(values_zyx.shape)]
  return jnp.pad(values_zyx, pad)


def shift(values_zyx, axis: int, by: int):
  """Moves values one cell along an axis, by = 1 or -1, filling with 0."""
  pad = [(0, 0, 0)] * 3
  pad[axis] = (by, -by, 0)
  return lax.pad(values_zyx, jnp.float32(0), pad)


def total(values):
  """Sum over one axis after the other: float32 loses fewer digits than in one go."""
  for axis in reversed(range(values.ndim)):
    values = values.sum(axis)
  return values


def dot(a, b):
  """Scalar product, summed as `total`."""
  return total(a * b)
