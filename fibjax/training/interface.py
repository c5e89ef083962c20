"""The interface between pore and solid: weights and soft labels of voxels near it.

The distance to the interface is that to the nearest voxel of the other phase with a
face on it, less 0.5 px: 0.5 px for its neighbours. Only faces between a pore and a
solid voxel are interface; the edge of an unlabelled area is not. Pure numpy on masks
[y, x], 0 pore, 1 solid, 255 unlabelled.
"""
import math

import numpy as np
from scipy import ndimage

from fibjax.errors import InputError, check_shape
from fibjax.metrics.labels import PORE, SOLID, UNLABELLED


def interface_distance(mask_yx: np.ndarray) -> np.ndarray | None:
  """Distance of every labelled voxel to the interface, [y, x] px; None without one.

  Unlabelled voxels have no meaningful value.

  Raises:
    InputError: for another rank.
  """
  check_shape('mask', mask_yx, (None, None))
  pore, solid = mask_yx == PORE, mask_yx == SOLID
  pore_face = pore & ndimage.binary_dilation(solid)
  solid_face = solid & ndimage.binary_dilation(pore)
  if not pore_face.any():
    return None
  to_solid, to_pore = map(ndimage.distance_transform_edt, (~solid_face, ~pore_face))
  return np.where(pore, to_solid, to_pore) - 0.5


def border_weights(mask_yx: np.ndarray, amount: float, sigma_px: float) -> np.ndarray:
  """Weights that stress, or spare, the voxels near the pore/solid interface (§8.5).

  (1 + amount exp(-d^2 / (2 sigma^2))), divided by its mean over the labelled voxels, d
  the distance to the interface.

  Args:
    mask_yx: [y, x] labels 0 pore, 1 solid, 255 unlabelled.
    amount: > -1; 0 gives 1 everywhere, less weighs borders down.
    sigma_px: width of the border.

  Returns:
    [y, x] float32, 0 where unlabelled; 1 elsewhere when there is no interface.

  Raises:
    InputError: for another amount, width or rank.
  """
  if not -1 < amount < math.inf:
    raise InputError('amount of border weight', got=amount, expected='more than -1',
                     remedy='0 weighs all voxels alike')
  if not 0 < sigma_px < math.inf:
    raise InputError('sigma_px of border weight', got=sigma_px, expected='more than 0',
                     remedy='give pixels, e.g. 5')
  distance_yx, labelled = interface_distance(mask_yx), mask_yx != UNLABELLED
  if distance_yx is None:
    return labelled.astype(np.float32)
  weights_yx = 1 + amount * np.exp(-(distance_yx / sigma_px) ** 2 / 2)
  return np.where(labelled, weights_yx / weights_yx[labelled].mean(), 0).astype(
      np.float32)


def smooth_targets(targets_yx: np.ndarray, mask_yx: np.ndarray,
                   width_px: float) -> np.ndarray:
  """Draws the targets near the interface towards 1/2: 1/2 + (y - 1/2) min(d / s, 1).

  d is the distance to the interface, s = width_px (§8.5). For hard labels that is
  P(solid) of an interface whose place is uncertain, uniformly, by +-s. No target
  changes sides.

  Args:
    targets_yx: [y, x] P(solid).
    mask_yx: [y, x] labels 0 pore, 1 solid, 255 unlabelled, which have the interface.
    width_px: s; 0 changes nothing.

  Returns:
    [y, x] float32; unlabelled voxels, and all without an interface, keep their value.

  Raises:
    InputError: for a negative or infinite width, other shapes or another rank.
  """
  check_shape('targets', targets_yx, mask_yx.shape)
  if not 0 <= width_px < math.inf:
    raise InputError('width_px of smoothed targets', got=width_px,
                     expected='0 or more', remedy='give pixels, e.g. 2')
  targets_yx = np.asarray(targets_yx, np.float32)
  distance_yx = interface_distance(mask_yx) if width_px else None
  if distance_yx is None:
    return targets_yx
  share_yx = np.where(mask_yx == UNLABELLED, 1, np.minimum(distance_yx / width_px, 1))
  return (0.5 + (targets_yx - 0.5) * share_yx).astype(np.float32)
