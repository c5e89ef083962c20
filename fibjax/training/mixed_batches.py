"""Batches of windows that hold both phases.

A loss of overlap leaves out a phase that its batch lacks, and then calling everything
the other phase costs nothing (§8.4). Masks are [r, y, x], 0 pore, 1 solid, 255
unlabelled; corners (r, y, x) are the first voxels of windows.
"""
import numpy as np
from scipy import ndimage

from fibjax.errors import InputError
from fibjax.metrics.labels import PORE, SOLID


def _is_held(masks_ryx, corners_n3, crop_px: int) -> np.ndarray:
  """Whether each window has a voxel of pore and of solid, bool [n, 2]."""
  return np.array([[(window_yx == code).any() for code in (PORE, SOLID)]
                   for window_yx in (masks_ryx[r, y:y + crop_px, x:x + crop_px]
                                     for r, y, x in corners_n3)])


def _beside(masks_ryx, code: int, other: int) -> np.ndarray:
  """Voxels of a phase with a face on the other one, [n, 3]."""
  in_plane = ndimage.generate_binary_structure(2, 1)[None]
  return np.argwhere((masks_ryx == code)
                     & ndimage.binary_dilation(masks_ryx == other, in_plane))


def check(masks_ryx, batch: int) -> None:
  """Checks that batches of windows can hold both phases.

  Args:
    masks_ryx: labels of the training regions.
    batch: windows in a batch.

  Raises:
    InputError: when they cannot.
  """
  phases = [code for code in (PORE, SOLID) if (masks_ryx == code).any()]
  if len(phases) < 2 or (batch == 1 and not len(_beside(masks_ryx, PORE, SOLID))):
    got, remedy = (
        ('training regions of one phase', 'annotate the other phase as well')
        if len(phases) < 2 else
        ('batches of one window, and no region where both phases touch',
         'raise config.train.batch to 2 or more'))
    raise InputError('config.train.mixed_batches', got=got, remedy=remedy,
                     expected='batches that can hold both phases')


def mix(masks_ryx, corners_sb3: np.ndarray, crop_px: int, random) -> np.ndarray:
  """Replaces the last window of each batch that lacks a phase by one that has it.

  It lies around a random voxel of the missing phase; in batches of one window, around
  one that touches the other phase. Batches that have both phases stay as they are.

  Args:
    masks_ryx: labels of the training regions, for which `check` holds.
    corners_sb3: [steps, b, 3] corners, with a labelled voxel in each window.
    crop_px: side of a window.
    random: numpy generator.

  Returns:
    [steps, b, 3] int32 corners.
  """
  steps, batch, _ = corners_sb3.shape
  held_sk = _is_held(masks_ryx, corners_sb3.reshape(-1, 3), crop_px).reshape(
      steps, batch, 2).any(1)
  mixed, last = corners_sb3.copy(), np.array(masks_ryx.shape) - (1, crop_px, crop_px)
  for code, other in ((PORE, SOLID), (SOLID, PORE)):
    lacking = np.flatnonzero(~held_sk[:, code])
    if lacking.size:
      voxels_n3 = (np.argwhere(masks_ryx == code) if batch > 1
                   else _beside(masks_ryx, code, other))
      chosen = voxels_n3[random.integers(len(voxels_n3), size=lacking.size)]
      # A window keeps a voxel of room around it, where its neighbour is.
      offsets = random.integers((0, 1, 1), (1, crop_px - 1, crop_px - 1),
                                (lacking.size, 3))
      mixed[lacking, -1] = np.clip(chosen - offsets, 0, last)
  return mixed
