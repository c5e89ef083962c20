"""Steps of the training-slice study (§3): choose, paint, correct and score slices.

A random forest, trained on a few partly painted slices, segments a stack; its errors
are corrected; some of the corrected slices train a network, which is scored on others.
Arrays are [z, y, x]; labels 0 pore, 1 solid, 255 unlabelled.
"""
import numpy as np
from scipy import ndimage

from fibjax.errors import InputError, check_shape, unknown
from fibjax.metrics.labels import UNLABELLED
from fibjax.simulation import annotator

PLACEMENTS = ('initial', 'distributed', 'uncertain')
_BOUNDARY_PX = 2  # wrong voxels this near to true solid are errors of its boundary
_CLIP = 1e-7  # scores are clipped to this distance from 0 and 1


def choose_slices(depth: int, count: int, placement: str, test_slices=(),
                  uncertainty_z=None) -> list[int]:
  """Chooses training slices (§3.1, B1: indices from 0, offset 0).

  Args:
    depth: slices of the stack.
    count: number of slices to choose.
    placement: 'initial': the first ones; 'distributed': every depth // count slices
      from the first; 'uncertain': those of highest uncertainty, at least half of that
      spacing apart (an addition to the paper).
    test_slices: must not be chosen; 'uncertain' avoids them.
    uncertainty_z: [z] uncertainty of each slice, for 'uncertain'.

  Returns:
    Ascending indices.

  Raises:
    InputError: for a test slice outside the stack or among the chosen, more slices
      than the stack has, or an unknown placement.
  """
  outside = [z for z in test_slices if not 0 <= z < depth]
  if outside:
    raise InputError('config.study.test_slices', got=outside,
                     expected=f'indices from 0 to {depth - 1}', remedy='correct them')
  if not 1 <= count <= depth:
    raise InputError('config.study.counts', got=count, expected=f'1 to {depth} slices',
                     remedy='lower it, or take a deeper stack')
  spacing = depth // count
  if placement == 'initial':
    chosen = list(range(count))
  elif placement == 'distributed':
    chosen = [spacing * i for i in range(count)]
  elif placement == 'uncertain':
    chosen = _most_uncertain(np.asarray(uncertainty_z), count, spacing / 2, test_slices)
  else:
    raise unknown('config.study.placements', placement, PLACEMENTS)
  both = sorted(set(chosen) & set(test_slices))
  if both:
    raise InputError('config.study.test_slices', got=f'slices {both} in training too',
                     expected='slices that are not trained on',
                     remedy=f'choose other test slices, or another count than {count}')
  return chosen


def _most_uncertain(uncertainty_z, count, distance, test_slices) -> list[int]:
  chosen: list[int] = []
  for z in map(int, np.argsort(-uncertainty_z, kind='stable')):
    far = all(abs(z - other) >= distance for other in chosen)
    if far and z not in test_slices and len(chosen) < count:
      chosen.append(z)
  if len(chosen) < count:
    raise InputError('config.study.counts', got=count,
                     expected=f'at most {len(chosen)} slices so far apart',
                     remedy='lower it, or take a deeper stack')
  return sorted(chosen)


def mean_entropy(scores_zyx: np.ndarray) -> np.ndarray:
  """Mean predictive entropy of each slice, nats, [z] float64."""
  p = np.clip(np.asarray(scores_zyx, np.float64), _CLIP, 1 - _CLIP)
  return -(p * np.log(p) + (1 - p) * np.log1p(-p)).mean((1, 2))


def paint(truth_zyx: np.ndarray, slices, share: float, seed: int, patch_px: int = 32
          ) -> np.ndarray:
  """Paints squares of some slices as an expert would; other voxels stay unlabelled.

  Args:
    truth_zyx: labels of every voxel.
    slices: slices to paint.
    share: fraction of the squares of a slice that are painted.
    seed: seed of squares and expert (`annotator.annotate`).
    patch_px: edge of a square.

  Returns:
    [len(slices), y, x] uint8 masks, 255 outside the squares.

  Raises:
    InputError: when the painted squares lack a class.
  """
  masks = []
  for z in slices:
    random = np.random.default_rng((seed, z))
    drawn_yx = annotator.annotate(truth_zyx[z], (seed, z, 1))
    rows, columns = (-(-n // patch_px) for n in drawn_yx.shape)
    chosen = np.zeros(rows * columns, bool)
    count = max(1, round(share * chosen.size))
    chosen[random.choice(chosen.size, count, replace=False)] = True
    painted_yx = np.kron(chosen.reshape(rows, columns),
                         np.ones((patch_px, patch_px), bool))
    painted_yx = painted_yx[:drawn_yx.shape[0], :drawn_yx.shape[1]]
    masks.append(np.where(painted_yx, drawn_yx, UNLABELLED).astype(np.uint8))
  masks_nyx = np.stack(masks)
  for code, name in ((0, 'pore'), (1, 'solid')):
    if not (masks_nyx == code).any():
      raise InputError('painted slices', got=f'no voxel of class {name}',
                       expected='both classes', remedy='paint more slices or squares')
  return masks_nyx


def correct_pore_backs(labels_zyx: np.ndarray, truth_zyx: np.ndarray,
                       share: float) -> np.ndarray:
  """Emulates correction by hand (§3.3): removes solid that lies in true pores.

  In each slice the connected components of false solid become pore, largest first,
  until their share of all such voxels is reached. Solid within 2 px of true solid is an
  error of its boundary and stays, as does false pore.

  Args:
    labels_zyx: segmentation, 0/1.
    truth_zyx: truth, 0/1.
    share: rho, 0 corrects nothing, 1 everything.

  Raises:
    InputError: for different shapes, or a share outside 0 to 1.
  """
  check_shape('labels', labels_zyx, truth_zyx.shape)
  if not 0 <= share <= 1:
    raise InputError('config.study.correction', got=share, expected='0 to 1',
                     remedy='0 corrects nothing, 1 every pore-back')
  y, x = np.mgrid[-_BOUNDARY_PX:_BOUNDARY_PX + 1, -_BOUNDARY_PX:_BOUNDARY_PX + 1]
  disc_yx = y ** 2 + x ** 2 <= _BOUNDARY_PX ** 2
  corrected_zyx = labels_zyx.copy()
  for labels_yx, truth_yx in zip(corrected_zyx, truth_zyx, strict=True):
    near_yx = ndimage.binary_dilation(truth_yx == 1, disc_yx)
    components_yx, _ = ndimage.label((labels_yx == 1) & ~near_yx)
    sizes_n = np.bincount(components_yx.ravel())[1:]
    order = np.argsort(-sizes_n, kind='stable')
    before_n = np.cumsum(sizes_n[order]) - sizes_n[order]
    removed = 1 + order[before_n < share * sizes_n.sum()]
    labels_yx[np.isin(components_yx, removed)] = 0
  return corrected_zyx


def score_slices(scores_zyx: np.ndarray, labels_zyx: np.ndarray) -> dict:
  """Computes loss and agreement of each slice.

  Args:
    scores_zyx: P(solid).
    labels_zyx: 0 pore, 1 solid, of the same shape.

  Returns:
    name -> [z]: loss (mean cross-entropy, nats), accuracy, miou, iou_solid,
    dice_solid, porosity_error (automatic - manual) and all_pore, the accuracy of a
    segmentation that is pore everywhere. A class absent from both counts as IoU 1.

  Raises:
    InputError: for different shapes.
  """
  check_shape('labels', labels_zyx, scores_zyx.shape)
  p = np.clip(np.asarray(scores_zyx, np.float64), _CLIP, 1 - _CLIP)
  solid, predicted = labels_zyx == 1, scores_zyx > 0.5
  axes = 1, 2

  def iou(first, second):
    union = (first | second).mean(axes)
    return np.where(union > 0, (first & second).mean(axes) / np.maximum(union, 1e-12),
                    1.)
  iou_solid, iou_pore = iou(solid, predicted), iou(~solid, ~predicted)
  return {'loss': -np.where(solid, np.log(p), np.log1p(-p)).mean(axes),
          'accuracy': (solid == predicted).mean(axes),
          'miou': (iou_solid + iou_pore) / 2, 'iou_solid': iou_solid,
          'dice_solid': 2 * iou_solid / (1 + iou_solid),
          'porosity_error': solid.mean(axes) - predicted.mean(axes),
          'all_pore': 1 - solid.mean(axes)}


def hold_out_squares(labels_yx: np.ndarray, share: float, side_px: int, seed
                     ) -> tuple[np.ndarray, list[tuple[int, int]]]:
  """Holds out squares of a training slice for validation (§3.5, B2).

  Args:
    labels_yx: labels of the slice.
    share: fraction of its whole squares to hold out, at least one; never the first
      one, which would have the same position as the region of the slice itself.
    side_px: edge of a square.
    seed: anything numpy.random.default_rng takes.

  Returns:
    Labels with 255 in the squares, and the first pixels (y, x) of the squares.

  Raises:
    InputError: when fewer than two squares fit.
  """
  rows, columns = (n // side_px for n in labels_yx.shape)
  if rows * columns < 2:
    raise InputError('config.train.crop_px', got=side_px,
                     expected=f'two squares in a slice of {labels_yx.shape}',
                     remedy='lower it, or take larger slices')
  count = min(max(1, round(share * rows * columns)), rows * columns - 1)
  drawn = 1 + np.random.default_rng(seed).choice(rows * columns - 1, count,
                                                 replace=False)
  corners = [(int(k) // columns * side_px, int(k) % columns * side_px)
             for k in sorted(drawn)]
  kept_yx = labels_yx.copy()
  for y, x in corners:
    kept_yx[y:y + side_px, x:x + side_px] = UNLABELLED
  return kept_yx, corners
