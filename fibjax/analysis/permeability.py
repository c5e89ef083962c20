"""Permeability of the pore by the Stokes equation, on the device.

Slow flow of a fluid of viscosity mu, -mu div(grad u) + grad p = 0 and div u = 0 in the
pore, u = 0 on the solid. Along the axis of flow p is 1 on the first outer face and 0 on
the last, and velocity has no component along these faces; the sides are closed and free
of friction. All outer faces are thus mirror planes: a cell with these symmetries has
the permeability of the periodic medium. Only components of pore that reach both faces
carry flow, the others are left out. With <u> the flux per cross-section and L the
length of the volume, Darcy's law gives k = mu <u> L / (pressure difference).

Discretisation: staggered grid (Harlow & Welch 1965, Phys. Fluids 8, 2182). Pressures
are those of pore voxels, velocities those of the faces between them. The next face
across a velocity's direction, if closed, is a wall: half a spacing away between two
solid voxels, a whole one where either is pore. The velocity on an outer face belongs
to half a control volume. Voxels may have any shape.

The symmetric, indefinite system is solved by MINRES from a linear pressure. The
preconditioner has one block for each component of velocity, a multigrid V-cycle of its
Laplacian, and one for the pressure, whose Schur complement acts like 1 / mu within
pores and like Darcy's law between them:

  S^-1 ~ mu + (-div(m grad))^-1.

m, the mobility of each face, is the velocity that a unit force on all faces causes
without regard to div u = 0. (Cahouet & Chabert 1988, Int. J. Numer. Methods Fluids 8,
869, have the time step in place of m.) About 20 iterations suffice. The flux is
stationary: its error is quadratic in that of u and p. float32; sums in float64, except
along x. In this module arrays [z, y, x] have the axis of flow first; they are in units
of the spacing along the flow, viscosity and pressure difference.
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

_KOZENY = 5.0               # Carman 1937, Trans. Inst. Chem. Eng. 15, 150
_MOBILITY_TOLERANCE = 0.1   # of a preconditioner; more digits save no iterations
_MOBILITY_ITERATIONS = 100  # wide open volumes take more, and need them less


class Permeability(NamedTuple):
  """Slow flow along one axis.

  Attributes:
    permeability_nm2: k of Darcy's law, 0 where no pore spans the volume.
    kozeny_carman_nm2: porosity^3 / (5 s^2) with the specific surface s, for comparison;
      None where an axis has fewer than 3 voxels.
    connected_porosity: fraction of the volume in pore that reaches both faces.
    tortuosity: hydraulic, mean speed over mean velocity along the axis, >= 1; None
      where no pore spans the volume.
    iterations: number of iterations of MINRES.
    error: estimated relative error of the permeability from stopping there; the error
      of the voxel geometry is not included.
    flux_spread: (largest - smallest) / mean flux over the planes, 0 when exact.
    converged: whether error reached the tolerance.
  """
  permeability_nm2: float
  kozeny_carman_nm2: float | None
  connected_porosity: float
  tortuosity: float | None
  iterations: int
  error: float
  flux_spread: float
  converged: bool


class _Pore(NamedTuple):
  """Grid of the pore, with one plane more than the volume for its last outer face.

  Attributes:
    cells_zyx: 1 in pore voxels, 0 in the solid and in the last plane.
    open_czyx: 1 on faces that carry flow. Faces along the flow are numbered by the
      voxel behind them, those across it by the voxel before.
    laplacian: of each component of velocity, all arrays [c, z, y, x].
    size: spacings over that along the flow.
  """
  cells_zyx: jax.Array
  open_czyx: jax.Array
  laplacian: multigrid.Level
  size: tuple


def permeability(labels_zyx, voxel_size_zyx_nm, axis: str = 'z', *,
                 tolerance: float = 1e-3, max_iterations: int = 500) -> Permeability:
  """Computes the permeability of the pore along an axis.

  Args:
    labels_zyx: [z, y, x] 0 pore, 1 solid.
    voxel_size_zyx_nm: voxel size along z, y, x, nm.
    axis: 'z', 'y' or 'x'.
    tolerance: relative error of the permeability at which iterations stop; float32
      allows 1e-5.
    max_iterations: largest number of iterations, at least 1; `converged` is then False.

  Raises:
    InputError: as `phases.find_pore`, for a volume without solid, whose permeability
      is not bounded, or for another axis.
  """
  pore_zyx, size = find_pore(labels_zyx, voxel_size_zyx_nm)
  if pore_zyx.all():
    raise InputError('labels', got='no solid', expected='pore and solid',
                     remedy='check the segmentation, or give a larger volume')
  k = axis_index(axis)
  kozeny_carman_nm2 = _kozeny_carman(pore_zyx, size)
  pore_zyx = np.moveaxis(spanning_pore(pore_zyx, k), k, 0)
  size = (size[k], *size[:k], *size[k + 1:])
  porosity = float(pore_zyx.mean())
  if not porosity:
    return Permeability(0.0, kozeny_carman_nm2, 0.0, None, 0, 0.0, 0.0, True)
  n, *across = pore_zyx.shape
  flux_zy, plane_flux_zy, speed_zy, iterations, error = _solve(
      jnp.asarray(pore_zyx), tuple(s / size[0] for s in size), tolerance,
      max_iterations, joins=multigrid.plan_joins((n + 1, *across), size))
  flux = np.asarray(flux_zy).sum(dtype=np.float64)
  flux_p = np.asarray(plane_flux_zy).sum(1, dtype=np.float64)
  speed = np.asarray(speed_zy).sum(dtype=np.float64)
  permeability_nm2 = float(flux * n / np.prod(across) * size[0] ** 2)
  return Permeability(permeability_nm2, kozeny_carman_nm2, porosity,
                      float(speed / (n * flux_p.mean())), int(iterations),
                      float(error), float(np.ptp(flux_p) / flux_p.mean()),
                      bool(error <= tolerance))


def _kozeny_carman(pore_zyx: np.ndarray, size: multigrid.Size) -> float | None:
  if min(pore_zyx.shape) < 3:
    return None
  if not pore_zyx.any():
    return 0.0
  per_nm = specific_surface(~pore_zyx, size).per_um / 1e3
  return float(pore_zyx.mean() ** 3 / (_KOZENY * per_nm ** 2))


@functools.partial(jax.jit, static_argnames='joins')
def _solve(pore_zyx, size, tolerance, max_iterations, joins):
  """Flow through the pore.

  Returns:
    flux_zy, plane_flux_zy, speed_zy: sums along x of what adds up to the flux, of the
      flux through each plane of faces, and of the speed in each voxel.
    iterations, error: as in `Permeability`.
  """
  pore = _make_pore(pore_zyx, size)
  # Velocities and pressure share one V-cycle, mapped over the four: it compiles once.
  blocks = jax.tree.map(lambda u_czyx, p_zyx: jnp.concatenate([u_czyx, p_zyx[None]]),
                        pore.laplacian, _darcy(pore, _mobility(pore)))
  levels = jax.vmap(functools.partial(multigrid.make_levels, joins=joins))(blocks)
  is_pressure = jnp.array([0, 0, 0, 1], jnp.float32)[:, None, None, None]
  cycle = jax.vmap(lambda levels, r_zyx: multigrid.v_cycle(levels, joins, r_zyx))

  def apply(y_czyx):
    u_czyx, p_zyx = y_czyx[:3], y_czyx[3]
    force_czyx = _apply_laplacian(pore, u_czyx) + _gradient(pore, p_zyx)
    return jnp.concatenate([force_czyx, _divergence(pore, u_czyx)[None]])

  def precondition(r_czyx):
    return cycle(levels, r_czyx) + is_pressure * r_czyx

  # The gradient of the linear pressure, a force of 1 / n; y is what comes in addition.
  force_zyx = pore.open_czyx[0] * _shares(pore.cells_zyx) / pore_zyx.shape[0]
  b_czyx = jnp.pad(force_zyx[None], ((0, 3), (0, 0), (0, 0), (0, 0)))
  y_czyx, iterations, error = minres.solve(apply, precondition, b_czyx, tolerance,
                                           max_iterations)
  # b . y is the flux; with the residual, it is stationary.
  flux_czy = (y_czyx * (2 * b_czyx - apply(y_czyx))).sum(3)
  return (flux_czy, y_czyx[0].sum(2), _speed(pore, y_czyx[:3]).sum(2), iterations,
          error)


def _make_pore(pore_zyx, size) -> _Pore:
  cells_zyx = jnp.pad(pore_zyx.astype(jnp.float32), ((0, 1), (0, 0), (0, 0)))
  open_c, laplacian_c = zip(*(_component(cells_zyx, size, component)
                              for component in range(3)), strict=True)
  return _Pore(cells_zyx, jnp.stack(open_c),
               jax.tree.map(lambda *arrays: jnp.stack(arrays), *laplacian_c), size)


def _component(cells_zyx, size, component: int):
  """Open faces of one component of velocity, and the conductances between them."""
  if component == 0:  # mirrored at the ends: both sides of an outer face are alike
    before_zyx = _mirrored_shift(cells_zyx, 0, 1)
    after_zyx = jnp.concatenate([cells_zyx[:-1], cells_zyx[-2:-1]])
  else:
    before_zyx = cells_zyx
    after_zyx = multigrid.shift(cells_zyx, component, -1)
  open_zyx = before_zyx * after_zyx
  touched_zyx = jnp.maximum(before_zyx, after_zyx)
  faces, walls_zyx = [], 0
  for axis in range(3):
    conductance = 1 / size[axis] ** 2
    if component == 0 and axis != 0:
      conductance = conductance * _shares(cells_zyx)
    faces.append(conductance * open_zyx * multigrid.shift(open_zyx, axis, -1))
    # Beyond the volume everything is closed, or the mirror image where flow is along
    # the outer face and without friction.
    mirrored = component == 0 or axis not in (0, component)
    neighbour = _mirrored_shift if mirrored else multigrid.shift
    for by in (1, -1):
      closed_zyx = open_zyx * (1 - neighbour(open_zyx, axis, by))
      near = 1 if axis == component else 2 - neighbour(touched_zyx, axis, by)
      walls_zyx = walls_zyx + conductance * closed_zyx * near
  return open_zyx, multigrid.make_level(faces, walls_zyx)


def _mirrored_shift(values_zyx, axis: int, by: int):
  """As `multigrid.shift`, but the plane at the end is repeated."""
  cut = functools.partial(lax.slice_in_dim, values_zyx, axis=axis)
  parts = (cut(0, 1), cut(0, -1)) if by == 1 else (cut(1, None), cut(-1, None))
  return lax.concatenate(parts, axis)


def _shares(cells_zyx):
  """Part of a control volume, [z, 1, 1], of velocities along the flow: 1/2 at ends."""
  z = jnp.arange(len(cells_zyx))
  return jnp.where((z == 0) | (z == len(z) - 1), 0.5, 1.0)[:, None, None]


def _apply_laplacian(pore: _Pore, u_czyx):
  return jax.vmap(multigrid.apply_level)(pore.laplacian, u_czyx)


def _gradient(pore: _Pore, p_zyx):
  """Pressure differences on the open faces; p = 0 outside."""
  parts = [p_zyx - multigrid.shift(p_zyx, 0, 1)]
  for axis in (1, 2):
    parts.append((multigrid.shift(p_zyx, axis, -1) - p_zyx) / pore.size[axis])
  return pore.open_czyx * jnp.stack(parts)


def _divergence(pore: _Pore, u_czyx):
  """Net flow into each cell: the transpose of `_gradient`."""
  flow_zyx = u_czyx[0] - multigrid.shift(u_czyx[0], 0, -1)
  for axis in (1, 2):
    flow_zyx = flow_zyx + (multigrid.shift(u_czyx[axis], axis, 1) - u_czyx[axis]
                           ) / pore.size[axis]
  return pore.cells_zyx * flow_zyx


def _mobility(pore: _Pore):
  """Velocities that a unit force on each open face causes, incompressible or not."""
  along_zyx, *across = pore.open_czyx
  force_czyx = jnp.stack([along_zyx * _shares(pore.cells_zyx), *across])
  resistance_czyx = jnp.maximum(pore.laplacian.sums, 1e-30)
  least_czyx = force_czyx / resistance_czyx  # all the others at rest
  mobility_czyx, _ = jax.scipy.sparse.linalg.cg(
      functools.partial(_apply_laplacian, pore), force_czyx, least_czyx,
      tol=_MOBILITY_TOLERANCE, maxiter=_MOBILITY_ITERATIONS,
      M=lambda r_czyx: r_czyx / resistance_czyx)
  return jnp.maximum(mobility_czyx, least_czyx)


def _darcy(pore: _Pore, mobility_czyx) -> multigrid.Level:
  """Conductances of div(m grad) between cells."""
  along_zyx, *across = mobility_czyx
  n = len(along_zyx) - 1
  z = jnp.arange(n + 1)[:, None, None]
  behind_zyx = multigrid.shift(along_zyx, 0, -1)
  faces = [jnp.where(z < n - 1, behind_zyx, 0),
           *(m_zyx / s ** 2 for m_zyx, s in zip(across, pore.size[1:], strict=True))]
  ends_zyx = jnp.where(z == 0, along_zyx, 0) + jnp.where(z == n - 1, behind_zyx, 0)
  return multigrid.make_level(faces, ends_zyx)


def _speed(pore: _Pore, u_czyx):
  """Speed in each pore voxel, from the means of opposite faces."""
  means = [u_czyx[0] + multigrid.shift(u_czyx[0], 0, -1),
           *(u_czyx[axis] + multigrid.shift(u_czyx[axis], axis, 1) for axis in (1, 2))]
  return pore.cells_zyx * jnp.sqrt(sum(mean_zyx ** 2 for mean_zyx in means)) / 2
