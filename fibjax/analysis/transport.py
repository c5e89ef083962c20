"""Effective diffusivity and tortuosity of the pore, by finite volumes on the device.

Steady diffusion, div(grad c) = 0 in the pore and no flux into the solid. Every pore
voxel is a cell; two that share a face exchange (area / distance) x (c - c'), so voxels
may have any shape. Along the axis of flow c is 1 on the first outer face and 0 on the
last, half a spacing from the centres next to them; the sides are closed. Only
components of pore that reach both faces carry flux, the others are left out. With J the
flux, L the length and A the cross-section of the volume,

  D_eff / D_0 = J L / A,    tortuosity = connected porosity / (D_eff / D_0).

The system is solved by conjugate gradients that start from the linear profile. The
flux error of such an iterate is the square of its error in the energy norm, so few
digits of c give twice as many of the flux. One V-cycle of multigrid preconditions the
iterations: cells are joined two by two along each axis of small spacing, fluxes add up
over twice the distance, damped Jacobi sweeps smooth. About ten iterations suffice,
nearly independent of the size. float32; the flux is summed in float64. In this module
arrays [z, y, x] have the axis of flow first.
"""
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fibjax.analysis.connectivity import spanning_pore
from fibjax.analysis.phases import Size, axis_index, find_pore

_DAMPING = 0.8          # of Jacobi sweeps; 1 would not damp checkerboard errors
_SWEEPS = 2             # as many before as after the coarser grid, for symmetry
_COARSEST = 4           # cells along the longest axis
_COARSEST_SWEEPS = 20   # in place of an exact solution there


class Transport(NamedTuple):
  """Diffusion along one axis.

  Attributes:
    relative_diffusivity: D_eff / D_0, 0 where no pore spans the volume.
    connected_porosity: fraction of the volume in pore that reaches both faces.
    tortuosity: their ratio, >= 1; None where no pore spans the volume.
    iterations: number of iterations of conjugate gradients.
    error: estimated relative error of the diffusivity from stopping there; the error
      of the voxel geometry is not included.
    flux_spread: (largest - smallest) / mean flux over the planes, 0 when exact.
    converged: whether error reached the tolerance; if not, D_eff is too large.
  """
  relative_diffusivity: float
  connected_porosity: float
  tortuosity: float | None
  iterations: int
  error: float
  flux_spread: float
  converged: bool


class _Level(NamedTuple):
  """Conductances of one grid.

  Attributes:
    faces: for each axis [z, y, x], conductance to the next cell, 0 for the last one.
    ends: [2, y, x] conductance from the first and the last plane to the outside.
    sums: [z, y, x] sum of all conductances of a cell, 0 in the solid.
  """
  faces: tuple[jax.Array, ...]
  ends: jax.Array
  sums: jax.Array


def effective_diffusivity(labels_zyx, voxel_size_zyx_nm, axis: str = 'z', *,
                          tolerance: float = 1e-4, max_iterations: int = 500
                          ) -> Transport:
  """Computes the effective diffusivity of the pore along an axis.

  Args:
    labels_zyx: [z, y, x] 0 pore, 1 solid.
    voxel_size_zyx_nm: voxel size along z, y, x, nm.
    axis: 'z', 'y' or 'x'.
    tolerance: relative error of the diffusivity at which iterations stop.
    max_iterations: largest number of iterations; `converged` is then False.

  Raises:
    InputError: as `phases.find_pore`, or for another axis.
  """
  pore_zyx, size = find_pore(labels_zyx, voxel_size_zyx_nm)
  k = axis_index(axis)
  pore_zyx = np.moveaxis(spanning_pore(pore_zyx, k), k, 0)
  size = (size[k], *size[:k], *size[k + 1:])
  porosity = float(pore_zyx.mean())
  if not porosity:
    return Transport(0.0, 0.0, None, 0, 0.0, 0.0, True)
  # Conductances relative to that along the flow, so that float32 suits any nm: area /
  # distance along axis a, over that along the flow f, is (spacing_f / spacing_a)^2.
  relative = tuple((size[0] / s) ** 2 for s in size)
  c_zyx, iterations, error = _solve(
      jnp.asarray(pore_zyx), relative, tolerance, max_iterations,
      joins=_plan(pore_zyx.shape, size))
  flux_p = _plane_fluxes(np.asarray(c_zyx), pore_zyx)
  # The exact flux is the same through all planes. The mean weights the outer two by
  # half, as their resistance is that of half a spacing.
  flux = (flux_p.sum() - (flux_p[0] + flux_p[-1]) / 2) / len(pore_zyx)
  diffusivity = float(flux * len(pore_zyx) / pore_zyx[0].size)
  return Transport(diffusivity, porosity, porosity / diffusivity, int(iterations),
                   float(error), float(np.ptp(flux_p) / flux),
                   bool(error <= tolerance))


def formation_factor(transport: Transport) -> float | None:
  """Free over effective diffusivity, >= 1; None where no pore spans the volume.

  The same as the electrical resistivity of the volume over that of an electrolyte in
  its pores (Archie 1942, Trans. AIME 146, 54).
  """
  diffusivity = transport.relative_diffusivity
  return 1 / diffusivity if diffusivity else None


def _plane_fluxes(c_zyx: np.ndarray, pore_zyx: np.ndarray) -> np.ndarray:
  """Flux through the first outer face, between all planes, and the last: [z + 1].

  Conductances are 1 inside and 2 over the half spacing to an outer face.
  """
  first = 2 * (1 - c_zyx[0][pore_zyx[0]].astype(np.float64)).sum()
  last = 2 * c_zyx[-1][pore_zyx[-1]].sum(dtype=np.float64)
  inner = [(c[both].astype(np.float64) - after[both]).sum() for c, after, both in
           zip(c_zyx[:-1], c_zyx[1:], pore_zyx[:-1] & pore_zyx[1:], strict=True)]
  return np.array([first, *inner, last])


@functools.partial(jax.jit, static_argnames='joins')
def _solve(pore_zyx, relative, tolerance, max_iterations, joins):
  """Concentrations, iterations, and the estimated relative error of the flux."""
  levels = [_finest(pore_zyx, relative)]
  for join in joins:
    levels.append(_coarser(levels[-1], join))
  finest = levels[0]
  # c of the linear profile; the solid stays 0, where sums and hence _apply are 0 too.
  n = pore_zyx.shape[0]
  profile = 1 - (jnp.arange(n, dtype=jnp.float32) + 0.5) / n
  c_zyx = jnp.where(pore_zyx, profile[:, None, None], 0)
  source_zyx = jnp.zeros_like(c_zyx).at[0].set(2.0 * pore_zyx[0])
  residual_zyx = source_zyx - _apply(finest, c_zyx)
  precondition = functools.partial(_v_cycle, levels, joins)
  step_zyx = precondition(residual_zyx)
  # residual x preconditioned residual estimates the squared error in the energy norm,
  # which is the error of the flux.
  error = _dot(residual_zyx, step_zyx)
  # Energy of the linear profile, which equals its flux averaged over the planes. Each
  # iteration lowers it by length x error, towards the true flux.
  energy = (_total(finest.faces[0]) + _total(finest.ends) / 4) / n ** 2

  def unfinished(state):
    *_, error, energy, iterations = state
    return (error > tolerance * energy) & (iterations < max_iterations)

  def iterate(state):
    c_zyx, residual_zyx, step_zyx, error, energy, iterations = state
    change_zyx = _apply(finest, step_zyx)
    length = error / _dot(step_zyx, change_zyx)
    residual_zyx = residual_zyx - length * change_zyx
    better_zyx = precondition(residual_zyx)
    new_error = _dot(residual_zyx, better_zyx)
    return (c_zyx + length * step_zyx, residual_zyx,
            better_zyx + new_error / error * step_zyx, new_error,
            energy - length * error, iterations + 1)

  c_zyx, *_, error, energy, iterations = lax.while_loop(
      unfinished, iterate, (c_zyx, residual_zyx, step_zyx, error, energy, 0))
  return c_zyx, iterations, error / energy


def _plan(shape: tuple[int, ...], size: Size) -> tuple[tuple[int, ...], ...]:
  """Cells joined along each axis, from each grid to the next coarser one.

  Along axes of small spacing first (semi-coarsening): conductances there are largest,
  and point-wise smoothing works only along strong connections. Cells thereby become
  nearly cubic.
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


def _finest(pore_zyx, relative) -> _Level:
  pore_zyx = pore_zyx.astype(jnp.float32)
  faces = [k * pore_zyx * _shift(pore_zyx, axis, -1) for axis, k in enumerate(relative)]
  return _level(faces, 2 * pore_zyx[jnp.array([0, -1])])


def _coarser(level: _Level, join) -> _Level:
  """Next coarser grid: parallel conductances add up, over twice the distance.

  Of the faces across a joined axis only those between the new cells remain, every
  second one.
  """
  faces = []
  for axis, face_zyx in enumerate(level.faces):
    if join[axis] == 2:
      face_zyx = lax.slice_in_dim(_even(face_zyx, axis), 1, None, 2, axis) / 2
    faces.append(_add_up(face_zyx, [1 if a == axis else j for a, j in enumerate(join)]))
  return _level(faces, _add_up(level.ends, (1, *join[1:])) / join[0])


def _level(faces, ends) -> _Level:
  sums_zyx = sum(f + _shift(f, axis, 1) for axis, f in enumerate(faces))
  return _Level(tuple(faces), ends, sums_zyx.at[0].add(ends[0]).at[-1].add(ends[1]))


def _apply(level: _Level, c_zyx):
  """Net flux out of each cell: the matrix of the system times c."""
  flux_zyx = level.sums * c_zyx
  for axis, face_zyx in enumerate(level.faces):
    flux_zyx = flux_zyx - face_zyx * _shift(c_zyx, axis, -1)
    flux_zyx = flux_zyx - _shift(face_zyx * c_zyx, axis, 1)
  return flux_zyx


def _v_cycle(levels, joins, residual_zyx):
  """Approximate solution for a residual; linear, symmetric and positive.

  Conjugate gradients need all three: restriction is the transpose of prolongation
  (sums and repeats of cells), and as many sweeps follow as precede.

  The fori_loops keep XLA from fusing sweeps with each other: it would compute a sweep
  again for every neighbour that reads it.
  """
  level = levels[0]
  rate_zyx = jnp.where(level.sums > 0, _DAMPING / jnp.maximum(level.sums, 1e-30), 0)

  def before(_, state):
    c_zyx, remainder_zyx = state
    c_zyx = c_zyx + rate_zyx * remainder_zyx
    return c_zyx, residual_zyx - _apply(level, c_zyx)

  def after(_, c_zyx):
    return c_zyx + rate_zyx * (residual_zyx - _apply(level, c_zyx))

  c_zyx, remainder_zyx = lax.fori_loop(
      0, _SWEEPS if joins else _COARSEST_SWEEPS, before,
      (jnp.zeros_like(residual_zyx), residual_zyx))
  if not joins:
    return c_zyx
  coarse_zyx = _v_cycle(levels[1:], joins[1:], _add_up(remainder_zyx, joins[0]))
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


def _shift(values_zyx, axis, by):
  """Moves values one cell along an axis, by = 1 or -1, filling with 0."""
  pad = [(0, 0, 0)] * 3
  pad[axis] = (by, -by, 0)
  return lax.pad(values_zyx, jnp.float32(0), pad)


def _dot(a_zyx, b_zyx):
  return _total(a_zyx * b_zyx)


def _total(values_zyx):
  """Sum over one axis after the other: float32 loses fewer digits than in one go."""
  return values_zyx.sum(2).sum(1).sum(0)
