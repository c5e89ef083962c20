"""Two-point cluster function of the pore along the axes.

C2(h) is the probability that two points a distance h apart lie in the same connected
piece of pore (Torquato, Beasley and Chiew 1988, J. Chem. Phys. 88, 6540). It is at most
S2(h) and equals it where the pore is one piece; where S2 counts pairs in pieces that
nothing connects, C2 does not. Pieces are connected by faces, inside the volume alone: a
connection outside is not seen, and C2 too small by that.
"""
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from fibjax.analysis.phases import AXES, find_pore
from fibjax.analysis.specific_surface import whole_lags


class ClusterCurve(NamedTuple):
  """C2 of the pore along an axis.

  Attributes:
    lag_nm: [k] distances.
    c2: [k] probabilities.
  """
  lag_nm: np.ndarray
  c2: np.ndarray


def c2_curves(labels_zyx, voxel_size_zyx_nm, max_lag_nm: float = 1000.0
              ) -> dict[str, ClusterCurve]:
  """Measures C2 of the pore along each axis, from all pairs inside the volume.

  Args:
    labels_zyx: [z, y, x] 0 pore, 1 solid.
    voxel_size_zyx_nm: z, y, x.
    max_lag_nm: longest distance; no longer than half the volume in any case.

  Returns:
    axis name -> ClusterCurve at the lags of `specific_surface.s2_curves`; C2(0) is the
    porosity.

  Raises:
    InputError: as `phases.find_pore`.
  """
  pore_zyx, size = find_pore(labels_zyx, voxel_size_zyx_nm)
  components_zyx, count = ndimage.label(pore_zyx)
  # The fewest bytes for the numbers of the pieces and -1.
  components_zyx = components_zyx.astype(np.min_scalar_type(-max(count, 1)))
  # Solid is 0 in the one and -1 in the other, so that equal numbers mean pore.
  others_zyx = np.where(pore_zyx, components_zyx, components_zyx.dtype.type(-1))
  curves = {}
  for k, axis in enumerate(AXES):
    n = pore_zyx.shape[k]
    near, far = (np.moveaxis(c, k, 0) for c in (components_zyx, others_zyx))
    lags = whole_lags(n, size[k], max_lag_nm)
    same = [np.count_nonzero(near[lag:] == far[:n - lag]) for lag in lags]
    pairs = (n - lags) * (pore_zyx.size // n)
    curves[axis] = ClusterCurve(lags * size[k], np.array(same) / pairs)
  return curves
