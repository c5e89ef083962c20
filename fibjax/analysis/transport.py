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
digits of c give twice as many of the flux. One V-cycle of `multigrid` preconditions the
iterations; about ten suffice, nearly independent of the size. float32; the flux is
summed in float64. In this module arrays [z, y, x] have the axis of flow first.
"""
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fibjax.analysis import multigrid
from fibjax.analysis.connectivity import spanning_pore
from fibjax.analysis.phases import axis_index, find_pore


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
      joins=multigrid.plan_joins(pore_zyx.shape, size))
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
  finest = _finest(pore_zyx, relative)
  levels = multigrid.make_levels(finest, joins)
  # c of the linear profile; the solid stays 0, where sums and hence fluxes are 0 too.
  n = pore_zyx.shape[0]
  profile = 1 - (jnp.arange(n, dtype=jnp.float32) + 0.5) / n
  c_zyx = jnp.where(pore_zyx, profile[:, None, None], 0)
  source_zyx = jnp.zeros_like(c_zyx).at[0].set(2.0 * pore_zyx[0])
  residual_zyx = source_zyx - multigrid.apply_level(finest, c_zyx)
  precondition = functools.partial(multigrid.v_cycle, levels, joins)
  step_zyx = precondition(residual_zyx)
  # residual x preconditioned residual estimates the squared error in the energy norm,
  # which is the error of the flux.
  error = multigrid.dot(residual_zyx, step_zyx)
  # Energy of the linear profile, which equals its flux averaged over the planes. Each
  # iteration lowers it by length x error, towards the true flux.
  energy = (multigrid.total(finest.faces[0]) + multigrid.total(finest.outside) / 4
            ) / n ** 2

  def unfinished(state):
    *_, error, energy, iterations = state
    return (error > tolerance * energy) & (iterations < max_iterations)

  def iterate(state):
    c_zyx, residual_zyx, step_zyx, error, energy, iterations = state
    change_zyx = multigrid.apply_level(finest, step_zyx)
    length = error / multigrid.dot(step_zyx, change_zyx)
    residual_zyx = residual_zyx - length * change_zyx
    better_zyx = precondition(residual_zyx)
    new_error = multigrid.dot(residual_zyx, better_zyx)
    return (c_zyx + length * step_zyx, residual_zyx,
            better_zyx + new_error / error * step_zyx, new_error,
            energy - length * error, iterations + 1)

  c_zyx, *_, error, energy, iterations = lax.while_loop(
      unfinished, iterate, (c_zyx, residual_zyx, step_zyx, error, energy, 0))
  return c_zyx, iterations, error / energy


def _finest(pore_zyx, relative) -> multigrid.Level:
  pore_zyx = pore_zyx.astype(jnp.float32)
  faces = [k * pore_zyx * multigrid.shift(pore_zyx, axis, -1)
           for axis, k in enumerate(relative)]
  outside_zyx = jnp.zeros_like(pore_zyx)
  for end in (0, -1):
    outside_zyx = outside_zyx.at[end].add(2 * pore_zyx[end])
  return multigrid.make_level(faces, outside_zyx)
