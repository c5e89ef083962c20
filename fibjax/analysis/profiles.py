"""Porosity profiles along the axes, and the representative volume of the porosity."""
import math
from typing import NamedTuple

import numpy as np

from fibjax.analysis.phases import AXES, Size, check_two_phases, find_pore
from fibjax.analysis.two_point import block_fractions
from fibjax.errors import InputError

_GROWTH = 1.25     # factor of the edge from one box size to the next
_MIN_BOXES = 8
_MIN_POINTS = 3
_DECAYED = 1 / 4   # variance over phi (1 - phi) below which boxes exceed the structures


class Profile(NamedTuple):
  """Porosity of the planes across an axis.

  Attributes:
    position_nm: [n] middles of the planes.
    porosity: [n] fractions of pore.
  """
  position_nm: np.ndarray
  porosity: np.ndarray


class Representative(NamedTuple):
  """Scatter of the porosity of boxes, and the edge of a representative box.

  Attributes:
    edge_nm: [k] edges of the boxes, nm.
    sd: [k] standard deviation of their porosity.
    boxes: [k] number of boxes.
    exponent: p of the decay sd ~ edge^-p of large boxes; 1.5 in a medium without
      long-range variation, whose variance falls with the volume. None without a fit.
    needed_nm: edge of a box whose porosity has the given relative error (one standard
      deviation); None without a fit, 0 where a point would do.
    too_small: whether the volume is too small to tell: no box in it is large enough to
      show the decay, or the edge needed exceeds the shortest edge and is extrapolated.
  """
  edge_nm: np.ndarray
  sd: np.ndarray
  boxes: np.ndarray
  exponent: float | None
  needed_nm: float | None
  too_small: bool


def porosity_profiles(labels_zyx, voxel_size_zyx_nm) -> dict[str, Profile]:
  """Measures the porosity of each plane across each axis.

  Args:
    labels_zyx: [z, y, x] 0 pore, 1 solid.
    voxel_size_zyx_nm: z, y, x.

  Returns:
    axis name -> Profile; positions count from the outer face of the first plane.

  Raises:
    InputError: as `phases.find_pore`.
  """
  pore_zyx, size = find_pore(labels_zyx, voxel_size_zyx_nm)
  profiles = {}
  for k, axis in enumerate(AXES):
    others = tuple(other for other in range(3) if other != k)
    profiles[axis] = Profile((np.arange(pore_zyx.shape[k]) + 0.5) * size[k],
                             pore_zyx.mean(others, dtype=np.float64))
  return profiles


def representative_volume(labels_zyx, voxel_size_zyx_nm, tolerance: float = 0.05
                          ) -> Representative:
  """Estimates the box size whose porosity represents that of the medium.

  The volume is cut into boxes, as near to cubes as whole voxels allow, of growing
  edge L. The variance of their porosity is phi (1 - phi) for a point and a power of L
  for large boxes (Kanit et al. 2003, Int. J. Solids Struct. 40, 3647). It is fitted by
  phi (1 - phi) / (1 + (L / a)^2p) where boxes are larger than the structures
  (variance below a quarter of phi (1 - phi)), each size weighted by its number of
  boxes less one. Where the largest boxes hold few structures, p tends to be below 1.5
  and the edge too long.

  Args:
    labels_zyx: [z, y, x] 0 pore, 1 solid.
    voxel_size_zyx_nm: z, y, x.
    tolerance: relative error of the porosity that is accepted, > 0.

  Raises:
    InputError: as `phases.find_pore`, for one phase only, or another tolerance.
  """
  pore_zyx, size = find_pore(labels_zyx, voxel_size_zyx_nm)
  check_two_phases(pore_zyx)
  if not 0 < tolerance < math.inf:
    raise InputError('tolerance', got=tolerance, expected='a relative error above 0',
                     remedy='0.05 is usual')
  rows = []
  for block in _block_shapes(pore_zyx.shape, size):
    fractions = block_fractions(pore_zyx, block)
    edge = np.cbrt(math.prod(b * s for b, s in zip(block, size, strict=True)))
    rows.append((edge, float(fractions.std(ddof=1)), fractions.size))
  edge_k, sd_k, boxes_k = np.array(rows).reshape(-1, 3).T
  exponent, needed = _fit(edge_k, sd_k, boxes_k, float(pore_zyx.mean()), tolerance)
  shortest = min(n * s for n, s in zip(pore_zyx.shape, size, strict=True))
  return Representative(edge_k, sd_k, boxes_k.astype(int), exponent, needed,
                        needed is None or needed > shortest)


def _fit(edge_k, sd_k, boxes_k, phi: float, tolerance: float):
  """Exponent and needed edge, or None for both without a decay.

  With y = phi (1 - phi) / variance - 1 the model is a line, log y = 2 p log(L / a).
  """
  point = phi * (1 - phi)
  fitted = (sd_k > 0) & (sd_k ** 2 < _DECAYED * point)
  if fitted.sum() < _MIN_POINTS:
    return None, None
  decay = np.log(point / sd_k[fitted] ** 2 - 1)
  # polyfit squares its weights; the variance of a variance falls with n - 1.
  slope, start = np.polyfit(np.log(edge_k[fitted]), decay, 1,
                            w=np.sqrt(boxes_k[fitted] - 1))
  if slope <= 0:
    return None, None
  wanted = max(point / (tolerance * phi) ** 2 - 1, 0)
  return float(slope / 2), float((wanted / np.exp(start)) ** (1 / slope))


def _block_shapes(shape: tuple[int, ...], size: Size) -> list[tuple[int, ...]]:
  """Shapes of boxes in voxels, of growing edge, while there are enough of them."""
  blocks, edge = [], 2 * max(size)
  while True:
    block = tuple(max(1, round(edge / s)) for s in size)
    if math.prod(n // b for n, b in zip(shape, block, strict=True)) < _MIN_BOXES:
      return blocks
    if block not in blocks:
      blocks.append(block)
    edge *= _GROWTH
