"""Permeability.
"""
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fibjax.analysis import minres, multigrid
from fibjax.analysis.connectivity import spanning_pore
from fibjax.analysis.phases import axis_index, find_pore
from fibjax.analysis.specific_surface import specific_surface
from fibjax.errors import InputError

_KOZENY = 5.0        # Carman 1937
_MOBILITY_CYCLES = 4
_PART = 0.0
import os
_PART=float(os.environ.get('PART','0'))
_VEL=os.environ.get('VEL','vmap')


class Permeability(NamedTuple):
  permeability_nm2: float
  kozeny_carman_nm2: float | None
  connected_porosity: float
  tortuosity: float | None
  iterations: int
  error: float
  flux_spread: float
  converged: bool


class _Pore(NamedTuple):
  """Grid of the pore; all arrays have one plane more than the volume.

  Attributes:
    cells_zyx: 1 in pore voxels.
    open_czyx: 1 on the faces that carry flow.
    velocity: conductances of the velocities, [c, z, y, x].
    size: spacings over that along the flow.
  """
  cells_zyx: jax.Array
  open_czyx: jax.Array
  velocity: multigrid.Level
  size: tuple


def permeability(labels_zyx, voxel_size_zyx_nm, axis: str = 'z', *,
                 tolerance: float = 1e-3, max_iterations: int = 500) -> Permeability:
  pore_zyx, size = find_pore(labels_zyx, voxel_size_zyx_nm)
  if pore_zyx.all():
    raise InputError('labels', got='no solid', expected='pore and solid',
                     remedy='check the segmentation, or give a larger volume')
  k = axis_index(axis)
  estimate = _kozeny_carman(pore_zyx, size)
  pore_zyx = np.moveaxis(spanning_pore(pore_zyx, k), k, 0)
  size = (size[k], *size[:k], *size[k + 1:])
  porosity = float(pore_zyx.mean())
  if not porosity:
    return Permeability(0.0, estimate, 0.0, None, 0, 0.0, 0.0, True)
  n = len(pore_zyx)
  relative = tuple(np.float32(s / size[0]) for s in size)
  joins = multigrid.plan_joins((n + 1, *pore_zyx.shape[1:]), size)
  pore_zyx = jnp.asarray(pore_zyx)
  mobility_czyx = _mobility(pore_zyx, relative, joins)
  y, dual, speed, iterations, error = _solve(pore_zyx, relative, mobility_czyx,
                                      tolerance, max_iterations, joins)
  flux_p = np.asarray(y[0]).sum((1, 2), dtype=np.float64)
  flux = float(np.einsum('czyx,czyx->', np.asarray(y), np.asarray(dual), dtype=np.float64))
  permeability_nm2 = n * flux / pore_zyx[0].size * size[0] ** 2
  return Permeability(permeability_nm2, estimate, porosity,
                      float(speed/ flux_p.mean()/n), int(iterations), float(error),
                      float(np.ptp(flux_p) / flux_p.mean()), bool(error <= tolerance))


def _kozeny_carman(pore_zyx, size):
  if min(pore_zyx.shape) < 3:
    return None
  if not pore_zyx.any():
    return 0.0
  per_nm = specific_surface(~pore_zyx, size).per_um / 1e3
  return float(pore_zyx.mean() ** 3 / (_KOZENY * per_nm ** 2))


def _make_pore(pore_zyx, size) -> _Pore:
  cells_zyx = jnp.pad(pore_zyx.astype(jnp.float32), ((0, 1), (0, 0), (0, 0)))
  grids = [_make_component(cells_zyx, size, k) for k in range(3)]
  open_czyx = jnp.stack([g[0] for g in grids])
  level = jax.tree.map(lambda *a: jnp.stack(a), *[g[1] for g in grids])
  return _Pore(cells_zyx, open_czyx, level, size)


def _make_component(cells_zyx, size, component):
  """Open faces of one component of the velocity, and conductances between them."""
  if component == 0:
    before = jnp.concatenate([cells_zyx[:1], cells_zyx[:-1]])
    after = jnp.concatenate([cells_zyx[:-1], cells_zyx[-2:-1]])
  else:
    before, after = cells_zyx, multigrid.shift(cells_zyx, component, -1)
  open_zyx = before * after
  touched_zyx = jnp.maximum(before, after)
  faces = []
  outside_zyx = jnp.zeros_like(cells_zyx)
  for axis in range(3):
    scale = (1 / size[axis]) ** 2
    if component == 0 and axis != 0:
      scale = scale * _weights(len(cells_zyx))
    faces.append(scale * open_zyx * multigrid.shift(open_zyx, axis, -1))
    mirror = component == 0 or axis not in (0, component)
    beyond = _mirrored_shift if mirror else multigrid.shift
    for by in (1, -1):
      wall = 1 if axis == component else 2 - (1-_PART)*beyond(touched_zyx, axis, by)
      nb = beyond(open_zyx, axis, by)
      outside_zyx += scale * open_zyx * wall * (1-nb)
  return open_zyx, multigrid.make_level(faces, outside_zyx)


def _weights(n):
  """Half a control volume on the outer faces."""
  return jnp.ones(n).at[jnp.array([0, n - 1])].set(0.5)[:, None, None]


def _mirrored_shift(values_zyx, axis, by):
  moved = multigrid.shift(values_zyx, axis, by)
  n = values_zyx.shape[axis]
  i = 0 if by == 1 else n - 1
  ix = (slice(None),) * axis + (i,)
  return moved.at[ix].set(values_zyx[ix])


def _gradient(pore, p_zyx):
  parts = [p_zyx - multigrid.shift(p_zyx, 0, 1)]
  for axis in (1, 2):
    parts.append((multigrid.shift(p_zyx, axis, -1) - p_zyx) / pore.size[axis])
  return pore.open_czyx * jnp.stack(parts)


def _gradient_transposed(pore, u_czyx):
  out = u_czyx[0] - multigrid.shift(u_czyx[0], 0, -1)
  for axis in (1, 2):
    u = u_czyx[axis]
    out += (multigrid.shift(u, axis, 1) - u) / pore.size[axis]
  return pore.cells_zyx * out


_apply_c = jax.vmap(multigrid.apply_level)


def _velocity_cycle(pore, joins):
  levels = jax.vmap(lambda level: multigrid.make_levels(level, joins))(pore.velocity)
  f=lambda a: multigrid.v_cycle(a[0], joins, a[1])
  if _VEL=='vmap':
    return lambda residual_czyx: jax.vmap(lambda l,r:f((l,r)))(levels, residual_czyx)
  return lambda residual_czyx: lax.map(f, (levels, residual_czyx))


@functools.partial(jax.jit, static_argnames='joins')
def _mobility(pore_zyx, size, joins):
  pore = _make_pore(pore_zyx, size)
  cycle = _velocity_cycle(pore, joins)
  force = pore.open_czyx.at[0].multiply(_weights(len(pore.cells_zyx)))

  def improve(_, m):
    return m + cycle(force - _apply_c(pore.velocity, m))
  m = lax.fori_loop(0, _MOBILITY_CYCLES, improve, jnp.zeros_like(force))
  least = force / jnp.maximum(pore.velocity.sums, 1e-30)
  return jnp.maximum(m, least)


def _darcy(pore, mobility_czyx):
  flow, *across = mobility_czyx
  n = len(flow) - 1
  inner = multigrid.shift(flow, 0, -1).at[n - 1].set(0)
  faces = [inner, *(m / s ** 2 for m, s in zip(across, pore.size[1:]))]
  outside = jnp.zeros_like(flow).at[0].add(flow[0]).at[n - 1].add(flow[n])
  return multigrid.make_level(faces, outside)


@functools.partial(jax.jit, static_argnames='joins')
def _solve(pore_zyx, size, mobility_czyx, tolerance, max_iterations, joins):
  pore = _make_pore(pore_zyx, size)
  cycle = _velocity_cycle(pore, joins)
  darcy = multigrid.make_levels(_darcy(pore, mobility_czyx), joins)

  def apply(field):
    u, p = field[:3], field[3]
    return jnp.concatenate([_apply_c(pore.velocity, u) + _gradient(pore, p),
                            _gradient_transposed(pore, u)[None]])

  def precondition(r):
    p = r[3] + multigrid.v_cycle(darcy, joins, r[3])
    return jnp.concatenate([cycle(r[:3]), p[None]])

  n = len(pore.cells_zyx) - 1
  b = jnp.zeros((4, *pore.cells_zyx.shape)).at[0].set(pore.open_czyx[0] * _weights(n + 1) / n)
  solution = minres.solve(apply, precondition, b, tolerance, max_iterations)
  y = solution.y
  r = b - apply(y)
  u = y[:3]
  uc = [(u[0] + multigrid.shift(u[0], 0, -1)) / 2] + [(u[a] + multigrid.shift(u[a], a, 1)) / 2 for a in (1, 2)]
  speed = multigrid.total(pore.cells_zyx * jnp.sqrt(sum(c * c for c in uc)))
  return y, b + r, speed, solution.iterations, solution.error
