"""How the pore hangs together: percolation, and the Euler number.

Pore voxels touch by faces (6 neighbours) and solid ones by faces, edges and corners
(26), the pair for which a wall separates and a hole connects. The Euler number counts
pieces minus tunnels plus cavities: ball 1, ring 0, shell 2.
"""
import numpy as np
from scipy import ndimage

from fibjax.analysis.phases import AXES, find_pore
from fibjax.errors import InputError

_NM3_PER_UM3 = 1e9


def percolation(labels_zyx, voxel_size_zyx_nm) -> dict[str, float]:
  """Measures the share of the pore volume that connects two opposite faces.

  Args:
    labels_zyx: [z, y, x] 0 pore, 1 solid.
    voxel_size_zyx_nm: z, y, x.

  Returns:
    axis name -> share of the pore volume in pieces that reach both faces of the
    axis, 0 to 1; 0 without pore.

  Raises:
    InputError: as `phases.find_pore`.
  """
  pore_zyx, _ = find_pore(labels_zyx, voxel_size_zyx_nm)
  pieces_zyx, count = ndimage.label(pore_zyx)
  size_p = np.zeros(count + 1, np.int64)
  for pieces_yx in pieces_zyx:
    found = np.bincount(pieces_yx.ravel())
    size_p[:len(found)] += found
  total = max(int(size_p[1:].sum()), 1)
  return {axis: int(size_p[_spanning(pieces_zyx, k)].sum()) / total
          for k, axis in enumerate(AXES)}


def spanning_pore(pore_zyx: np.ndarray, axis: int) -> np.ndarray:
  """Marks the pore in pieces that reach both faces of an axis, bool [z, y, x]."""
  pieces_zyx, count = ndimage.label(pore_zyx)
  kept_p = np.zeros(count + 1, bool)
  kept_p[_spanning(pieces_zyx, axis)] = True
  return kept_p[pieces_zyx]


def _spanning(pieces_zyx: np.ndarray, axis: int) -> np.ndarray:
  """Numbers of the pieces that reach both faces of an axis."""
  both = np.intersect1d(pieces_zyx.take(0, axis), pieces_zyx.take(-1, axis))
  return both[both > 0]


def euler_density(labels_zyx, voxel_size_zyx_nm) -> float:
  """Measures the Euler number of the solid per cubic micrometre.

  Of the union of the closed solid voxels, which is that of the pore with 6
  neighbours as well: the same surface bounds both. Cells of the pore's grid (voxels,
  pairs, squares of four, cubes of eight) count where they start in the volume without
  its last planes, so that the border adds nothing and the value is that of the
  medium. Details below two voxels get lost or torn: the number depends on the voxel
  size more than any other measure here, and volumes are comparable at the same one.

  Args:
    labels_zyx: [z, y, x] 0 pore, 1 solid.
    voxel_size_zyx_nm: z, y, x.

  Raises:
    InputError: as `phases.find_pore`, or for an axis of one voxel.
  """
  pore_zyx, size = find_pore(labels_zyx, voxel_size_zyx_nm)
  if min(pore_zyx.shape) < 2:
    raise InputError('labels', got=f'shape {pore_zyx.shape}',
                     expected='at least 2 voxels along each axis',
                     remedy='give a larger volume')
  anchors = tuple(slice(n - 1) for n in pore_zyx.shape)
  number = 0
  for code in range(8):
    cell_zyx, sign = pore_zyx, 1
    for axis in range(3):
      if code >> axis & 1:
        lines = np.moveaxis(cell_zyx, axis, 0)
        cell_zyx, sign = np.moveaxis(lines[1:] & lines[:-1], 0, axis), -sign
    number += sign * int(np.count_nonzero(cell_zyx[anchors]))
  n_anchors = np.prod([n - 1 for n in pore_zyx.shape], dtype=float)
  return number / (n_anchors * np.prod(size)) * _NM3_PER_UM3
