"""Which slices to train on: choice, partly painted slices, correction, scores by slice.

The pieces of the training-set study (methods, section 3): a random forest, trained on a
few partly painted slices, segments a stack; its errors are corrected; some slices of
that train a network, which is judged on others. Arrays are [z, y, x]; labels 0 pore,
1 solid, 255 unlabelled.
"""

import numpy as np
from scipy import ndimage

from fibjax.errors import InputError, check_shape, unknown
from fibjax.metrics.labels import UNLABELLED
from fibjax.simulation import annotator

PLACEMENTS = ('initial', 'distributed', 'uncertain')
_BOUNDARY_PX = 2  # so near to true solid a wrong voxel is an error of its boundary
_CERTAIN = 1e-7  # scores are held so far away from 0 and 1


def choose_slices(depth: int, count: int, placement: str, test_slices=(),
                  uncertainty_z=None) -> list[int]:
  """Chooses training slices (§3.1, B1: indices from 0, offset 0).

  Args:
    depth: slices of the stack.
    count: how many to choose.
    placement: 'initial': the first ones; 'distributed': every depth // count slices
      from the first; 'uncertain': those of highest uncertainty, at least half of that
      spacing apart from each other (ours).
    test_slices: must not be chosen; 'uncertain' avoids them.
    uncertainty_z: [z] of each slice, for 'uncertain'.

  Returns:
    Ascending indices.

  Raises:
    InputError: for a slice outside the stack, or both trained and tested on, more
      slices than there are, or an unknown placement.
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
    raise InputError('config.study.test_slices', got=f'slices {both} in training, too',
                     expected='slices that are not trained on',
                     remedy=f'test on others, or train on another number than {count}')
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
  """[z] mean entropy of the scores of each slice, nats: how unsure a slice leaves."""
  p = np.clip(np.asarray(scores_zyx, np.float64), _CERTAIN, 1 - _CERTAIN)
  return -(p * np.log(p) + (1 - p) * np.log1p(-p)).mean((1, 2))


def paint(truth_zyx: np.ndarray, slices, share: float, seed: int, patch_px: int = 32
          ) -> np.ndarray:
  """Paints squares of some slices as an expert would, the rest stays unlabelled.

  Args:
    truth_zyx: labels of every voxel.
    slices: which to paint.
    share: of a slice's squares that are painted.
    seed: of squares and expert (annotator.py).
    patch_px: side of a square.

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

  Of each slice's connected pieces of solid called so inside true pores, the largest
  first, as many become pore as hold the share of all such voxels. What lies within 2
  px of true solid is an error of its boundary and stays, as does pore called in solid.

  Args:
    labels_zyx: segmentation, 0/1.
    truth_zyx: truth, 0/1.
    share: rho, 0 corrects nothing, 1 all.

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
    pieces_yx, _ = ndimage.label((labels_yx == 1) & ~near_yx)
    sizes_n = np.bincount(pieces_yx.ravel())[1:]
    order = np.argsort(-sizes_n, kind='stable')
    before_n = np.cumsum(sizes_n[order]) - sizes_n[order]
    removed = 1 + order[before_n < share * sizes_n.sum()]
    labels_yx[np.isin(pieces_yx, removed)] = 0
  return corrected_zyx


def score_slices(scores_zyx: np.ndarray, labels_zyx: np.ndarray) -> dict:
  """Loss and agreement of each slice.

  Args:
    scores_zyx: P(solid).
    labels_zyx: 0 pore, 1 solid, of the same shape.

  Returns:
    name -> [z]: loss (mean cross-entropy, nats), accuracy, miou, iou_solid,
    dice_solid, porosity_error (automatic - manual) and all_pore, the accuracy of
    calling everything pore. A class that neither has counts as IoU 1.
  """
  check_shape('labels', labels_zyx, scores_zyx.shape)
  p = np.clip(np.asarray(scores_zyx, np.float64), _CERTAIN, 1 - _CERTAIN)
  solid, called = labels_zyx == 1, scores_zyx > 0.5
  axes = 1, 2
  both, either = (solid & called).mean(axes), (solid | called).mean(axes)
  neither, one = (~solid & ~called).mean(axes), (~solid | ~called).mean(axes)
  iou_solid, iou_pore = (np.where(union > 0, part / np.maximum(union, 1e-12), 1.)
                         for part, union in ((both, either), (neither, one)))
  return {'loss': -np.where(solid, np.log(p), np.log1p(-p)).mean(axes),
          'accuracy': (solid == called).mean(axes), 'miou': (iou_solid + iou_pore) / 2,
          'iou_solid': iou_solid, 'dice_solid': 2 * iou_solid / (1 + iou_solid),
          'porosity_error': solid.mean(axes) - called.mean(axes),
          'all_pore': 1 - solid.mean(axes)}


def hold_out_squares(labels_yx: np.ndarray, share: float, side_px: int, seed
                     ) -> tuple[np.ndarray, list[tuple[int, int]]]:
  """Takes squares of a training slice out, for validation (§3.5, B2: ours).

  Args:
    labels_yx: of the slice.
    share: of its whole squares that are taken out, at least one; never the first one,
      whose place would be that of the slice itself.
    side_px: of a square.
    seed: anything numpy.random.default_rng takes.

  Returns:
    The labels with 255 in the squares, and their first pixels (y, x).

  Raises:
    InputError: when not two squares fit.
  """
  rows, columns = (n // side_px for n in labels_yx.shape)
  if rows * columns < 2:
    raise InputError('config.train.crop_px', got=side_px,
                     expected=f'two squares in a slice of {labels_yx.shape}',
                     remedy='lower it, or take larger slices')
  count = min(max(1, round(share * rows * columns)), rows * columns - 1)
  drawn = 1 + np.random.default_rng(seed).choice(rows * columns - 1, count,
                                                 replace=False)
  places = [(int(k) // columns * side_px, int(k) % columns * side_px)
            for k in sorted(drawn)]
  kept_yx = labels_yx.copy()
  for y, x in places:
    kept_yx[y:y + side_px, x:x + side_px] = UNLABELLED
  return kept_yx, places
