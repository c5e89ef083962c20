"""Two-point probabilities along the axes, and the specific surface from their slope.

S2(h) is the probability that two points a distance h apart are both pore. Over small h
the two differ where the interface lies between them: S2(h) = phi - s h / 4 + ..., with
s the interface area per volume (Debye et al. 1957, J. Appl. Phys. 28, 679), averaged
over all directions. Voxels are samples on a grid, so S2 at whole steps along an axis is
free of the staircase error of counting voxel faces; only steps below the spacing are
unknown.
"""
from typing import NamedTuple

import numpy as np

from fibjax.analysis.phases import AXES, find_pore
from fibjax.errors import InputError

_NM_PER_UM = 1e3


class Curve(NamedTuple):
  """S2 of the pore along an axis.

  Attributes:
    lag_nm: [k] distances.
    s2: [k] probabilities.
  """
  lag_nm: np.ndarray
  s2: np.ndarray


class SpecificSurface(NamedTuple):
  """Interface area per volume, 1/um.

  Attributes:
    zyx_per_um: from lines along z, y and x.
    per_um: their mean.
  """
  zyx_per_um: tuple[float, float, float]
  per_um: float


def s2_curves(labels_zyx, voxel_size_zyx_nm, max_lag_nm: float = 1000.0
              ) -> dict[str, Curve]:
  """Measures S2 of the pore along each axis, from all pairs inside the volume.

  Args:
    labels_zyx: [z, y, x] 0 pore, 1 solid.
    voxel_size_zyx_nm: z, y, x.
    max_lag_nm: longest distance; no longer than half the volume in any case.

  Returns:
    axis name -> Curve at whole steps from 0; S2(0) is the porosity.

  Raises:
    InputError: as `phases.find_pore`.
  """
  pore_zyx, size = find_pore(labels_zyx, voxel_size_zyx_nm)
  curves = {}
  for k, axis in enumerate(AXES):
    bits_nb, lines = _pack(pore_zyx, k), pore_zyx.size // pore_zyx.shape[k]
    n = len(bits_nb)
    lags = whole_lags(n, size[k], max_lag_nm)
    both = [_count(bits_nb[lag:] & bits_nb[:n - lag]) / ((n - lag) * lines)
            for lag in lags]
    curves[axis] = Curve(lags * size[k], np.array(both))
  return curves


def specific_surface(labels_zyx, voxel_size_zyx_nm) -> SpecificSurface:
  """Measures the interface area per volume from S2 at one and two steps.

  s = -4 S2'(0). With v(h) = phi - S2(h), half the fraction of pairs that differ,
  s = 4 (8 v(h) - v(2 h)) / 6 h along each axis. This combination has no term in h^3,
  the next one after the slope for a smooth interface: it is exact for balls, and for
  other smooth interfaces too small by O((h / chord)^4), where the secant 4 v(h) / h
  misses O((h / chord)^2). Sharp edges add a term in h^2, of which two thirds remain: s
  is then too small by O(h / chord). Lines along one axis weight the interface by its
  orientation; the mean over the three axes is s for an isotropic medium, and between
  2/3 and 1.16 s for a single plane interface.

  Args:
    labels_zyx: [z, y, x] 0 pore, 1 solid.
    voxel_size_zyx_nm: z, y, x.

  Raises:
    InputError: as `phases.find_pore`, or for an axis of fewer than 3 voxels.
  """
  pore_zyx, size = find_pore(labels_zyx, voxel_size_zyx_nm)
  if min(pore_zyx.shape) < 3:
    raise InputError('labels', got=f'shape {pore_zyx.shape}',
                     expected='at least 3 voxels along each axis',
                     remedy='give a larger volume')
  per_um = []
  for axis, spacing in enumerate(size):
    bits_nb, lines = _pack(pore_zyx, axis), pore_zyx.size // pore_zyx.shape[axis]
    v_1, v_2 = (_count(bits_nb[lag:] ^ bits_nb[:-lag])
                / (2 * (len(bits_nb) - lag) * lines) for lag in (1, 2))
    per_um.append(surface_per_nm(v_1, v_2, spacing) * _NM_PER_UM)
  return SpecificSurface(tuple(per_um), float(np.mean(per_um)))


def whole_lags(n: int, spacing_nm: float, max_lag_nm: float) -> np.ndarray:
  """Lags in voxels from 0 to max_lag_nm, along n voxels at most half of them."""
  return np.arange(min(int(max_lag_nm / spacing_nm), n // 2) + 1)


def surface_per_nm(v_1: float, v_2: float, spacing_nm: float) -> float:
  """Specific surface, 1/nm, from v at one and two steps; see `specific_surface`."""
  return 4 * (8 * v_1 - v_2) / (6 * spacing_nm)


def _pack(pore_zyx: np.ndarray, axis: int) -> np.ndarray:
  """Planes across an axis, [n, bytes], eight voxels per byte: an AND counts 8 pairs."""
  planes = np.moveaxis(pore_zyx, axis, 0)
  return np.packbits(planes.reshape(len(planes), -1), axis=1)


def _count(bits: np.ndarray) -> int:
  return int(np.bitwise_count(bits).sum(dtype=np.int64))
