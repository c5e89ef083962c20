"""Pore connectivity: percolation and Euler number.

Pore voxels are connected by faces (6 neighbours), solid voxels by faces, edges and
corners (26). With this pair every wall separates and every hole connects. The Euler
number counts components minus tunnels plus cavities: ball 1, ring 0, shell 2.
"""
import numpy as np
from scipy import ndimage

from fibjax.analysis.phases import AXES, find_pore
from fibjax.errors import InputError

_NM3_PER_UM3 = 1e9


def percolation(labels_zyx, voxel_size_zyx_nm) -> dict[str, float]:
  """Measures the fraction of the pore volume that connects two opposite faces.

  Args:
    labels_zyx: [z, y, x] 0 pore, 1 solid.
    voxel_size_zyx_nm: z, y, x.

  Returns:
    axis name -> fraction of the pore volume in components that reach both faces of
    the axis, 0 to 1; 0 without pore.

  Raises:
    InputError: as `phases.find_pore`.
  """
  pore_zyx, _ = find_pore(labels_zyx, voxel_size_zyx_nm)
  components_zyx, count = ndimage.label(pore_zyx)
  voxels_c = np.zeros(count + 1, np.int64)
  for components_yx in components_zyx:  # bincount copies to int64: slice by slice
    counts = np.bincount(components_yx.ravel())
    voxels_c[:len(counts)] += counts
  total = max(int(voxels_c[1:].sum()), 1)
  return {axis: int(voxels_c[_spanning(components_zyx, k)].sum()) / total
          for k, axis in enumerate(AXES)}


def spanning_pore(pore_zyx: np.ndarray, axis: int) -> np.ndarray:
  """Marks the pore in components that reach both faces of an axis, bool [z, y, x]."""
  components_zyx, count = ndimage.label(pore_zyx)
  spans_c = np.zeros(count + 1, bool)
  spans_c[_spanning(components_zyx, axis)] = True
  return spans_c[components_zyx]


def _spanning(components_zyx: np.ndarray, axis: int) -> np.ndarray:
  """Numbers of the components that reach both faces of an axis."""
  both = np.intersect1d(components_zyx.take(0, axis), components_zyx.take(-1, axis))
  return both[both > 0]


def euler_density(labels_zyx, voxel_size_zyx_nm) -> float:
  """Measures the Euler number of the solid per cubic micrometre.

  The Euler number of the union of the closed solid voxels equals that of the pore with
  6 neighbours, since the same surface bounds both. It is the alternating sum of the
  cells of the pore's grid: voxels, pairs, squares of four, cubes of eight. Cells are
  counted where they start in the volume without its last planes, so that the border
  adds nothing and the value is that of the medium. Details below two voxels are lost
  or torn apart: no other quantity here depends as much on the voxel size, and only
  volumes of the same voxel size can be compared.

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
  for code in range(8):  # bit k: whether the cell extends along axis k
    cell_zyx, sign = pore_zyx, 1
    for axis in range(3):
      if code >> axis & 1:
        lines = np.moveaxis(cell_zyx, axis, 0)
        cell_zyx, sign = np.moveaxis(lines[1:] & lines[:-1], 0, axis), -sign
    number += sign * int(np.count_nonzero(cell_zyx[anchors]))
  n_anchors = np.prod([n - 1 for n in pore_zyx.shape], dtype=float)
  return number / (n_anchors * np.prod(size)) * _NM3_PER_UM3
