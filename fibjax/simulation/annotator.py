"""A simulated annotator: exact truth to a mask as a person would draw it (§7.4).

Masks are uint8, 0 pore, 1 solid. The drawn boundary wanders about the true one (a
smooth random field is added to the signed distance, px) and is biased as a whole; small
pores are missed, and some bright pore-backs are taken for solid. The truth is not
modified; keep both.
"""
import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from fibjax.errors import InputError
from fibjax.simulation.fields import smooth_noise

_EIGHT = np.ones((3, 3), bool)


@dataclass(frozen=True)
class Annotator:
  """Errors of an annotator; Annotator(0, 30, 0, 0) is exact."""
  boundary_sd_px: float = 2.0       # wander of the drawn boundary
  boundary_length_px: float = 30.0  # over which it wanders
  bias_px: float = 0.0              # > 0 draws the solid too large
  omitted_area_px: float = 60.0     # pores smaller than this may be missed ...
  omission: float = 0.5             # ... with this probability
  confusion: float = 0.0            # probability of a bright pore-back drawn as solid
  confusion_contrast: float = 0.9   # from this brightness, relative to the solid


def signed_distance(truth_yx: np.ndarray) -> np.ndarray:
  """Distance to the phase boundary in px, > 0 in the solid; 0.5 at boundary pixels.

  Without a boundary it is +-inf, so a single-phase slice stays as it is.
  """
  solid = np.asarray(truth_yx) == 1
  if solid.all() or not solid.any():
    return np.where(solid, np.inf, -np.inf)
  inside = ndimage.distance_transform_edt(solid)
  outside = ndimage.distance_transform_edt(~solid)
  return np.where(solid, inside - 0.5, 0.5 - outside)


def annotate(truth_yx: np.ndarray, seed, annotator: Annotator | None = None,
             image_yx: np.ndarray | None = None) -> np.ndarray:
  """Draws the mask of one annotator for a slice.

  Distances near the rim depend on what lies beyond it: annotate a rectangle with some
  30 px around the region wanted, then cut.

  Args:
    truth_yx: 0/1 truth.
    seed: anything numpy.random.default_rng takes; different for each slice and
      annotator.
    annotator: None takes the defaults.
    image_yx: image of the slice, needed for annotator.confusion.

  Returns:
    uint8 [y, x] mask, 0 pore, 1 solid.

  Raises:
    InputError: for another rank or codes, or confusion without an image.
  """
  annotator = annotator or Annotator()
  truth_yx = np.asarray(truth_yx)
  if truth_yx.ndim != 2 or not np.isin(truth_yx, (0, 1)).all():
    raise InputError('truth_yx', got=f'{truth_yx.ndim}-D {truth_yx.dtype}',
                     expected='one 2-D slice of 0 and 1',
                     remedy='annotate slice by slice; mask unlabelled voxels after')
  if annotator.confusion and image_yx is None:
    raise InputError('image_yx', got='None', expected='the image of the slice',
                     remedy='confusion of pore-backs depends on their brightness')
  rng = np.random.default_rng(seed)
  distance_yx = signed_distance(truth_yx) + annotator.bias_px
  if annotator.boundary_sd_px:
    distance_yx += annotator.boundary_sd_px * smooth_noise(
        truth_yx.shape, annotator.boundary_length_px, rng)
  pore_yx = distance_yx <= 0
  if annotator.omission:
    pore_yx &= ~_some_components(
        pore_yx, annotator.omission, rng, below=annotator.omitted_area_px)
  if annotator.confusion:
    smooth_yx = ndimage.gaussian_filter(np.asarray(image_yx, np.float32), 3.0)
    solid_level = np.median(smooth_yx[truth_yx == 1]) if truth_yx.any() else np.inf
    bright_yx = (truth_yx == 0) & (
        smooth_yx > annotator.confusion_contrast * solid_level)
    pore_yx &= ~_some_components(bright_yx, annotator.confusion, rng)
  return (~pore_yx).astype(np.uint8)


def annotate_stack(truth_zyx: np.ndarray, seed: int,
                   annotator: Annotator | None = None,
                   image_zyx: np.ndarray | None = None) -> np.ndarray:
  """Annotates every slice (or region) of a stack, slice k with seed (seed, k).

  Args and errors as `annotate`, with [z, y, x] arrays.

  Returns:
    [z, y, x] uint8 masks.
  """
  return np.stack([
      annotate(truth_yx, (seed, k), annotator,
               None if image_zyx is None else image_zyx[k])
      for k, truth_yx in enumerate(truth_zyx)])


def _some_components(mask_yx, probability, rng, below=math.inf):
  """8-connected components of area below a limit, each chosen with a probability."""
  labels, count = ndimage.label(mask_yx, _EIGHT)
  area = np.bincount(labels.ravel(), minlength=count + 1)
  taken = (rng.random(count + 1) < probability) & (area < below)
  taken[0] = False
  return taken[labels]
