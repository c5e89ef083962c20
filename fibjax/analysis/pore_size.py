"""Pore sizes: distribution of local thickness, by openings with balls.

The local thickness of a pore voxel is the diameter of the largest ball in the pore
that covers it (Hildebrand and Ruegsegger 1997, J. Microsc. 185, 67); the voxels of a
thickness of d or more are the opening of the pore by a ball of diameter d, its
granulometry. Both follow from distance maps alone. With D the distance to the solid,

  a ball of radius r covers v if the distance from v to {D >= r} is below r,

which takes one dilation by a ball per radius: of packed voxels where the ball is
small (`balls.dilate`), by a distance map where it is large, with the same result. So
the thickness is computed for a grid of radii with about 20 bytes per voxel, and
different spacings along z, y and x cost nothing. Balls between two radii of the grid
are rounded down; that changes the mean of a random medium by less than 2 %, single
voxels at the rim of a ball by more.

Distances are measured between voxel centres, and balls are centred on voxels. So a slab
is too thick by 0 or 1 voxel (even or odd number of voxels), and a ball too small by 0
to 1.7 (centre at a voxel or at a corner), in spacings of the directions concerned. The
outside of the volume is not assumed to be solid: balls may extend beyond the border, so
that pores there tend to be too large.

This is the only module that knows edt.
"""
from typing import NamedTuple

import edt
import numpy as np
from scipy import stats

from fibjax.analysis import balls
from fibjax.analysis.phases import Size, check_two_phases, find_pore

STEPS = 30
_MAX_ROWS = 700  # of a ball; a distance map takes less time than a larger one
_EPSILON = 1e-3  # in smallest spacings, the accuracy of float32 distances


class PoreSizes(NamedTuple):
  """Distribution of pore volume over local thickness.

  Attributes:
    diameter_k: [k] ascending lower ends of the classes, nm; the last class holds only
      the largest balls, of that diameter.
    share_k: [k] fraction of the pore volume in each class; sums to 1.
  """
  diameter_k: np.ndarray
  share_k: np.ndarray


def local_thickness(labels_zyx, voxel_size_zyx_nm, steps: int = STEPS
                    ) -> tuple[np.ndarray, np.ndarray]:
  """Measures the diameter of the largest ball in the pore that covers each voxel.

  Args:
    labels_zyx: [z, y, x] 0 pore, 1 solid.
    voxel_size_zyx_nm: z, y, x.
    steps: largest number of steps of the radii, from the smallest spacing to the
      largest ball; fewer where a step would be below half the smallest spacing.

  Returns:
    thickness_zyx: float32 nm, rounded down to diameter_k; 0 in the solid.
    diameter_k: [k] diameters tried, ascending, nm.

  Raises:
    InputError: as `phases.find_pore`, or for one phase only.
  """
  pore_zyx, size = find_pore(labels_zyx, voxel_size_zyx_nm)
  check_two_phases(pore_zyx)
  distance2_zyx = squared_distances(pore_zyx, size)
  radius_k = ball_radii(distance2_zyx, size, steps)
  thickness_zyx = np.zeros(pore_zyx.shape, np.float32)
  for radius in radius_k:
    centre_zyx = ball_centres(distance2_zyx, size, radius)
    thickness_zyx[cover(centre_zyx, size, radius)] = 2 * radius
  return thickness_zyx, 2 * radius_k


def squared_distances(pore_zyx: np.ndarray, size: Size) -> np.ndarray:
  """Squared distance of each pore voxel to the solid, nm^2, 0 in the solid, float32.

  Between the centres of voxels; infinite without any solid.
  """
  return edt.edtsq(pore_zyx, anisotropy=size, parallel=0)


def ball_radii(distance2_zyx: np.ndarray, size: Size, steps: int) -> np.ndarray:
  """Radii of balls from the smallest spacing to the largest ball, ascending, nm.

  Args:
    distance2_zyx: of `squared_distances`.
    size: spacing along z, y, x, nm.
    steps: largest number of steps; fewer where a step would be below half the smallest
      spacing.
  """
  low, high = min(size), float(np.sqrt(distance2_zyx.max()))
  count = int(np.clip(np.ceil((high - low) / (low / 2)), 1, steps))
  return np.linspace(low, high, count + 1) if high > low else np.array([low])


def ball_centres(distance2_zyx: np.ndarray, size: Size, radius: float) -> np.ndarray:
  """Marks the voxels where a ball of that radius fits into the pore."""
  return distance2_zyx >= _square(radius, size)


def cover(centre_zyx: np.ndarray, size: Size, radius: float) -> np.ndarray:
  """Marks the voxels within balls of that radius around the marked ones."""
  square = _square(radius, size)
  if balls.rows(size, square) <= _MAX_ROWS:
    return balls.dilate(centre_zyx, size, square)
  return edt.edtsq(~centre_zyx, anisotropy=size, parallel=0) < square


def _square(radius: float, size: Size) -> np.float32:
  return np.float32((radius - _EPSILON * min(size)) ** 2)


def pore_sizes(labels_zyx, voxel_size_zyx_nm, steps: int = STEPS) -> PoreSizes:
  """Measures the distribution of the pore volume over local thickness.

  Args and errors as `local_thickness`.
  """
  thickness_zyx, diameter_k = local_thickness(labels_zyx, voxel_size_zyx_nm, steps)
  return count_sizes(thickness_zyx, diameter_k)


def count_sizes(thickness_zyx: np.ndarray, diameter_k: np.ndarray) -> PoreSizes:
  """Counts the classes of a map of `local_thickness`."""
  # Halfway between the diameters, so that their rounding to float32 does not matter.
  edges = (diameter_k[1:] + diameter_k[:-1]) / 2
  count_k = np.zeros(len(diameter_k), np.int64)
  for thickness_yx in thickness_zyx:
    values = thickness_yx[thickness_yx > 0]
    count_k += np.bincount(np.searchsorted(edges, values), minlength=len(count_k))
  return PoreSizes(diameter_k, count_k / count_k.sum())


def mean_diameter(sizes: PoreSizes) -> float:
  """Mean local thickness over the pore volume, nm."""
  return float(_middles(sizes) @ sizes.share_k)


def diameter_quantile(sizes: PoreSizes, share: float) -> float:
  """Quantile of local thickness over the pore volume, nm: a share of it is thinner."""
  below = np.concatenate([[0], np.cumsum(sizes.share_k)[:-1]])
  return float(np.interp(share, below, sizes.diameter_k))


def size_distance(first: PoreSizes, second: PoreSizes) -> float:
  """Wasserstein-1 distance of two distributions, nm: mean shift of the pore volume."""
  return float(stats.wasserstein_distance(
      _middles(first), _middles(second), first.share_k, second.share_k))


def _middles(sizes: PoreSizes) -> np.ndarray:
  """Middles of the classes, nm; the last class is its diameter."""
  diameter_k = sizes.diameter_k
  return np.append((diameter_k[1:] + diameter_k[:-1]) / 2, diameter_k[-1])
