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
869, have the time step in place of m; see §8.8.) 20 to 50 iterations suffice, whatever
the size. The flux is stationary: its error is quadratic in that of u and p. float32;
sums in float64, except along x. About 550 bytes of memory per voxel.

In this module arrays [z, y, x] have the axis of flow first; they are in units of the
spacing along the flow, viscosity and pressure difference.
"""
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fibjax.analysis import minres, multigrid
from fibjax.analysis.connectivity import spanning_pore
from fibjax.analysis.phases import Size, axis_index, find_pore
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

  Example:
    >>> import fibjax, numpy
    >>> slit_zyx = numpy.ones((3, 12, 3), 'uint8')
    >>> slit_zyx[:, 2:10] = 0  # 80 nm wide: k = 2/3 80^2 / 12, on 8 voxels 3 % more
    >>> found = fibjax.permeability(slit_zyx, (10, 10, 10), axis='x')
    >>> round(found.permeability_nm2 / (2 / 3 * 80 ** 2 / 12), 2)
    1.03
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
      _find_walls(pore_zyx), tuple(s / size[0] for s in size), tolerance,
      max_iterations, joins=multigrid.plan_joins((n + 1, *across), size))
  flux = np.asarray(flux_zy).sum(dtype=np.float64)
  flux_p = np.asarray(plane_flux_zy).sum(1, dtype=np.float64)
  speed = np.asarray(speed_zy).sum(dtype=np.float64)
  permeability_nm2 = float(flux * n / np.prod(across) * size[0] ** 2)
  return Permeability(permeability_nm2, kozeny_carman_nm2, porosity,
                      float(speed / (n * flux_p.mean())), int(iterations),
                      float(error), float(np.ptp(flux_p) / flux_p.mean()),
                      bool(error <= tolerance))


def _kozeny_carman(pore_zyx: np.ndarray, size: Size) -> float | None:
  if min(pore_zyx.shape) < 3:
    return None
  if not pore_zyx.any():
    return 0.0
  per_nm = specific_surface(~pore_zyx, size).per_um / 1e3
  return float(pore_zyx.mean() ** 3 / (_KOZENY * per_nm ** 2))


@functools.partial(jax.jit, static_argnames='joins')
def _solve(grid, size, tolerance, max_iterations, joins):
  """Flow through the pore; `grid` is that of `_find_walls`.

  Returns:
    flux_zy, plane_flux_zy, speed_zy: sums along x of what adds up to the flux, of the
      flux through each plane of faces, and of the speed in each voxel.
    iterations, error: as in `Permeability`.
  """
  pore = _make_pore(*grid, size)
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
  force_zyx = pore.open_czyx[0] * _shares(pore.cells_zyx) / (len(pore.cells_zyx) - 1)
  b_czyx = jnp.pad(force_zyx[None], ((0, 3), (0, 0), (0, 0), (0, 0)))
  y_czyx, _, iterations, error = minres.solve(apply, precondition, b_czyx, tolerance,
                                              max_iterations)
  # b . y is the flux; with the residual, it is stationary. Summed anew, in float64.
  flux_czy = (y_czyx * (2 * b_czyx - apply(y_czyx))).sum(3)
  return (flux_czy, y_czyx[0].sum(2), _speed(pore, y_czyx[:3]).sum(2), iterations,
          error)


def _find_walls(pore_zyx: np.ndarray) -> tuple[np.ndarray, ...]:
  """Marks the faces that carry flow, and counts the walls beside them.

  On the host, since the cases are many and simple: they take longer to compile than to
  compute.

  Returns:
    cells_zyx: bool, the pore with a plane of solid behind the last.
    open_czyx: bool, see `_Pore`.
    walls_cazyx: uint8 closed neighbours along each axis a, from 0 to 4: 1 for those a
      whole spacing away, 2 for those half a spacing away.
  """
  cells_zyx = np.pad(pore_zyx, ((0, 1), (0, 0), (0, 0)))
  open_czyx = np.empty((3, *cells_zyx.shape), bool)
  walls_cazyx = np.zeros((3, *open_czyx.shape), np.uint8)
  for component, open_zyx in enumerate(open_czyx):
    if component == 0:  # mirrored at the ends: both sides of an outer face are alike
      before_zyx = np.pad(pore_zyx, ((1, 0), (0, 0), (0, 0)), mode='edge')
      after_zyx = np.pad(pore_zyx, ((0, 1), (0, 0), (0, 0)), mode='edge')
    else:
      before_zyx, after_zyx = cells_zyx, _neighbours(cells_zyx, component, 1)
    open_zyx[:] = before_zyx & after_zyx
    solid_zyx = ~(before_zyx | after_zyx)
    for axis, walls_zyx in enumerate(walls_cazyx[component]):
      # Beyond the volume everything is solid, or the mirror image where flow is along
      # the outer face and without friction.
      mirrored = component == 0 or axis not in (0, component)
      for step in (-1, 1):
        walls_zyx += open_zyx & ~_neighbours(open_zyx, axis, step, mirrored)
        if axis != component:
          walls_zyx += open_zyx & _neighbours(solid_zyx, axis, step, mirrored,
                                              outside=True)
  return cells_zyx, open_czyx, walls_cazyx


def _neighbours(marks_zyx: np.ndarray, axis: int, step: int, mirrored: bool = False,
                outside: bool = False) -> np.ndarray:
  """What is a step, -1 or 1, further along an axis; at the end `outside`, or itself."""
  marks = np.moveaxis(marks_zyx, axis, 0)[::step]
  last = marks[-1:] if mirrored else np.full_like(marks[-1:], outside)
  return np.moveaxis(np.concatenate([marks[1:], last])[::step], 0, axis)


def _make_pore(cells_zyx, open_czyx, walls_cazyx, size) -> _Pore:
  cells_zyx, open_czyx = cells_zyx.astype(jnp.float32), open_czyx.astype(jnp.float32)
  # Friction along the outer faces is that of half a control volume.
  shares_czyx = jnp.concatenate([_shares(cells_zyx)[None],
                                 jnp.ones((2, len(cells_zyx), 1, 1))])
  faces, outside_czyx = [], 0
  for axis, spacing in enumerate(size):
    conductance = (shares_czyx if axis else 1) / spacing ** 2
    next_czyx = jax.vmap(lambda o, axis=axis: multigrid.shift(o, axis, -1))(open_czyx)
    faces.append(conductance * open_czyx * next_czyx)
    outside_czyx = outside_czyx + conductance * walls_cazyx[:, axis]
  return _Pore(cells_zyx, open_czyx,
               jax.vmap(multigrid.make_level)(faces, outside_czyx), size)


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
