"""Simulated mercury intrusion: throat sizes, constrictivity, break-through diameter.

Mercury does not wet the solid. At a pressure p it enters pores wider than d with

  p = -4 gamma cos(theta) / d

(Washburn 1921, Proc. Natl. Acad. Sci. 7, 115), so behind a narrow throat a wide pore
stays empty until the throat gives way. In the volume that is a ball of diameter d that
moves through the pore from the outside, voxel by voxel over faces, and fills whatever
it covers on its way (Hilpert and Miller 2001, Adv. Water Resour. 24, 243; Münch and
Holzer 2008, J. Am. Ceram. Soc. 91, 4059). Without the path it is the opening of
`pore_size`, which measures the bodies of the pores; with it, their throats. The squared
ratio of the two medians is the constrictivity (Holzer et al. 2013, J. Mater. Sci. 48,
2934).

In a porosimeter mercury surrounds the sample, so by default it enters through all six
faces of the volume; from one face the way is longer and the throats are smaller. Either
depends on the size of the volume as long as that is small.

Distances, radii and their errors are those of `pore_size`.
"""
import math
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from fibjax.analysis import pore_size
from fibjax.analysis.phases import AXES, axis_index, check_two_phases, find_pore
from fibjax.errors import InputError

ALL_FACES = 'all'


class Intrusion(NamedTuple):
  """Intrusion curve.

  Attributes:
    diameter_k: [k] diameters of the ball, ascending, nm.
    share_k: [k] fraction of the pore volume behind throats of at least that diameter;
      pore without connection to the outside is behind none.
  """
  diameter_k: np.ndarray
  share_k: np.ndarray


def intrusion(labels_zyx, voxel_size_zyx_nm, faces: str = ALL_FACES,
              steps: int = pore_size.STEPS) -> Intrusion:
  """Simulates mercury intrusion over a grid of diameters.

  Args:
    labels_zyx: [z, y, x] 0 pore, 1 solid.
    voxel_size_zyx_nm: voxel size along z, y, x, nm.
    faces: where mercury enters: 'all', or 'z', 'y' or 'x' for the first outer face of
      that axis alone.
    steps: largest number of steps of the radii, as `pore_size.local_thickness`.

  Raises:
    InputError: as `phases.find_pore`, for one phase only, or other faces.
  """
  pore_zyx, size = find_pore(labels_zyx, voxel_size_zyx_nm)
  check_two_phases(pore_zyx)
  _check_faces(faces)
  distance2_zyx = pore_size.squared_distances(pore_zyx, size)
  radius_k = pore_size.ball_radii(distance2_zyx, size, steps)
  filled_zyx, share_k = np.zeros(pore_zyx.shape, bool), []
  # Wide balls first: what they fill stays full at a higher pressure.
  for radius in radius_k[::-1]:
    centre_zyx = pore_size.ball_centres(distance2_zyx, size, radius)
    inside_zyx = _from_faces(centre_zyx, faces)
    if inside_zyx.any():
      filled_zyx |= pore_size.cover(inside_zyx, size, radius)
    share_k.append(np.count_nonzero(filled_zyx))
  return Intrusion(2 * radius_k, np.array(share_k[::-1]) / np.count_nonzero(pore_zyx))


def median_diameter(curve: Intrusion) -> float | None:
  """Diameter at which half of the pore volume is filled, linear between diameters, nm.

  None where mercury never fills half of it.
  """
  if curve.share_k[0] < 0.5:
    return None
  return float(np.interp(-0.5, -curve.share_k, curve.diameter_k))


def constrictivity(curve: Intrusion, sizes: pore_size.PoreSizes) -> float | None:
  """Squared ratio of the median diameters of throats and of bodies, 0 to 1.

  Args:
    curve: of `intrusion`, the throats.
    sizes: of `pore_size.pore_sizes` of the same volume, the bodies.

  Returns:
    1 for pores of equal width; None where the median of the throats is undefined.
  """
  throat = median_diameter(curve)
  if throat is None:
    return None
  return (throat / pore_size.diameter_quantile(sizes, 0.5)) ** 2


def washburn_pressure(diameter_nm, contact_angle_deg: float = 140.0,
                      surface_tension_n_per_m: float = 0.48) -> np.ndarray:
  """Pressure at which mercury enters a cylinder of that diameter, MPa.

  Args:
    diameter_nm: diameters, above 0, of any shape.
    contact_angle_deg: between mercury and solid, 90 to 180; ISO 15901-1 takes 140
      where it was not measured.
    surface_tension_n_per_m: of mercury, N/m; 0.48 in ISO 15901-1.

  Raises:
    InputError: for values out of these ranges.
  """
  diameter_nm = np.asarray(diameter_nm, np.float64)
  if not (np.isfinite(diameter_nm) & (diameter_nm > 0)).all():
    raise InputError('diameter_nm', got='values not above 0', expected='nm, above 0',
                     remedy='leave out the others')
  if not 90 < contact_angle_deg <= 180:
    raise InputError('contact_angle_deg', got=contact_angle_deg,
                     expected='degrees, above 90 and at most 180',
                     remedy='140 is usual; a wetting liquid is not pressed in')
  if not 0 < surface_tension_n_per_m < math.inf:
    raise InputError('surface_tension_n_per_m', got=surface_tension_n_per_m,
                     expected='N/m, above 0', remedy='0.48 is usual for mercury')
  # N/m over nm is 1e9 Pa, 1e3 MPa.
  return (-4e3 * surface_tension_n_per_m * math.cos(math.radians(contact_angle_deg))
          / diameter_nm)


def breakthrough_diameters(labels_zyx, voxel_size_zyx_nm) -> dict[str, float | None]:
  """Measures the largest ball that passes from face to face along each axis.

  Exact on the grid: bisection over all distances that occur, not over steps.

  Args:
    labels_zyx: [z, y, x] 0 pore, 1 solid.
    voxel_size_zyx_nm: voxel size along z, y, x, nm.

  Returns:
    axis name -> diameter in nm; None where no pore spans the volume.

  Raises:
    InputError: as `phases.find_pore`, or for one phase only.
  """
  pore_zyx, size = find_pore(labels_zyx, voxel_size_zyx_nm)
  check_two_phases(pore_zyx)
  distance2_zyx = pore_size.squared_distances(pore_zyx, size)
  square_r = np.unique(distance2_zyx)[1:]  # without the 0 of the solid
  spans_r: dict[int, list[bool]] = {}  # along z, y, x, for the radii tried
  return {axis: _breakthrough(distance2_zyx, k, square_r, spans_r)
          for k, axis in enumerate(AXES)}


def _breakthrough(distance2_zyx: np.ndarray, axis: int, square_r: np.ndarray,
                  spans_r: dict[int, list[bool]]) -> float | None:
  """Largest diameter that spans an axis; radii tried are kept for the other axes."""
  others = tuple(k for k in range(3) if k != axis)
  # No path avoids a plane, so the widest place of the narrowest plane is the most.
  bound = np.searchsorted(square_r, distance2_zyx.max(others).min(), 'right')
  low, high = -1, int(bound)  # low spans (-1: unknown), high does not
  while high - low > 1:
    middle = (low + high) // 2
    if middle not in spans_r:
      components_zyx, _ = ndimage.label(distance2_zyx >= square_r[middle])
      spans_r[middle] = [_spans(components_zyx, k) for k in range(3)]
    low, high = (middle, high) if spans_r[middle][axis] else (low, middle)
  return None if low < 0 else 2 * float(np.sqrt(square_r[low]))


def _spans(components_zyx: np.ndarray, axis: int) -> bool:
  both = np.intersect1d(components_zyx.take(0, axis), components_zyx.take(-1, axis))
  return bool((both > 0).any())


def _from_faces(centre_zyx: np.ndarray, faces: str) -> np.ndarray:
  """Marks the centres that balls reach from outside."""
  components_zyx, count = ndimage.label(centre_zyx)
  reached_c = np.zeros(count + 1, bool)
  for axis in range(3) if faces == ALL_FACES else (axis_index(faces),):
    reached_c[components_zyx.take(0, axis)] = True
    if faces == ALL_FACES:
      reached_c[components_zyx.take(-1, axis)] = True
  reached_c[0] = False
  return centre_zyx if reached_c[1:].all() else reached_c[components_zyx]


def _check_faces(faces: str) -> None:
  if faces not in (ALL_FACES, *AXES):
    raise InputError('faces', got=repr(faces), expected=f'{ALL_FACES}, z, y or x',
                     remedy=f'{ALL_FACES} is usual')
