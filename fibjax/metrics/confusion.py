"""Scores of a segmentation against labels, from counts that merge by addition.

A confusion matrix is `counts[label, prediction]`, int64 [2, 2], codes 0 pore and
1 solid; voxels labelled 255 are not counted. Counts of regions, volumes and tiles add
up, and every score is computed from the sum: the score of a split is pooled over its
voxels, not an average of scores (Skärberg et al. 2021, Tables 2 and 3). Pure numpy and
scipy; no files, no devices.
"""
import numpy as np
from scipy import ndimage

from fibjax.errors import InputError, check_shape
from fibjax.metrics.labels import UNLABELLED

_REMEDY = 'convert the labels with a label profile first'


def confusion(label: np.ndarray, prediction: np.ndarray) -> np.ndarray:
  """Counts voxels by label and prediction.

  Args:
    label: any shape, 0 pore, 1 solid, 255 unlabelled (not counted).
    prediction: same shape, 0 pore or 1 solid where the label is 0 or 1.

  Returns:
    [label, prediction] int64 counts.

  Raises:
    InputError: for different shapes or another code.
  """
  label, prediction = np.asarray(label), np.asarray(prediction)
  check_shape('prediction', prediction, label.shape)
  valid = label != UNLABELLED
  solid, predicted = label == 1, prediction == 1
  _check_codes('label', label, valid, solid)
  _check_codes('prediction', prediction, valid, predicted)
  n = np.count_nonzero(valid)
  n_solid = np.count_nonzero(solid)
  n_predicted = np.count_nonzero(predicted & valid)
  both = np.count_nonzero(solid & predicted)
  return np.array([[n - n_solid - n_predicted + both, n_predicted - both],
                   [n_solid - both, both]], np.int64)


def _check_codes(name, array, valid, is_one):
  wrong = valid & ~is_one & (array != 0)
  if wrong.any():
    raise InputError(name, got=f'codes {np.unique(array[wrong])[:5].tolist()}',
                     expected='0 pore, 1 solid or 255 unlabelled', remedy=_REMEDY)


def _ratio(part, whole):
  return float(part / whole) if whole > 0 else None


def summarise(counts: np.ndarray) -> dict:
  """Scores of a confusion matrix.

  A class absent from labels and predictions has no IoU: it is None, named in
  `undefined`, and mIoU is that of the other class. A class absent from the labels
  only has IoU 0.

  Args:
    counts: [label, prediction] counts or fractions, not negative.

  Returns:
    miou, accuracy, iou_pore, iou_solid, porosity_manual, porosity_automatic (fractions
    0-1, or None), n_voxels, and undefined: a list of the names that are None or
    incomplete. JSON-able.

  Raises:
    InputError: for another shape or negative counts.
  """
  counts = np.asarray(counts)
  check_shape('counts', counts, (2, 2))
  if (counts < 0).any():
    raise InputError('counts', got=counts.tolist(), expected='no negative count',
                     remedy='build them with confusion.confusion')
  n = counts.sum()
  wrong = counts[0, 1] + counts[1, 0]
  iou = [_ratio(counts[k, k], counts[k, k] + wrong) for k in (0, 1)]
  defined = [value for value in iou if value is not None]
  scores = {
      'miou': sum(defined) / len(defined) if defined else None,
      'accuracy': _ratio(n - wrong, n),
      'iou_pore': iou[0],
      'iou_solid': iou[1],
      'porosity_manual': _ratio(counts[0].sum(), n),
      'porosity_automatic': _ratio(counts[:, 0].sum(), n),
  }
  undefined = [name for name, value in scores.items() if value is None]
  if len(defined) == 1:
    undefined.append('miou')
  is_count = np.issubdtype(counts.dtype, np.integer)
  return {**scores, 'n_voxels': int(n) if is_count else float(n),
          'undefined': undefined}


def boundary_counts(label_yx: np.ndarray, prediction_yx: np.ndarray,
                    tolerance_px: float = 2.) -> np.ndarray:
  """Counts interface voxels that have a counterpart in the other image (§8.5).

  Interface voxels are those of either phase with a labelled neighbour of the other
  phase across an edge. Unlabelled voxels are not interface in either image.

  Args:
    label_yx: [y, x] 0 pore, 1 solid, 255 unlabelled.
    prediction_yx: [y, x] 0 or 1 where there is a label.
    tolerance_px: greatest distance of a counterpart, between centres of voxels.

  Returns:
    [4] int64: matched and all of the prediction, matched and all of the labels.

  Raises:
    InputError: for different shapes.
  """
  check_shape('prediction', prediction_yx, label_yx.shape)
  valid_yx = label_yx != UNLABELLED
  interfaces, counts = [], []
  for image_yx in (prediction_yx, label_yx):
    solid_yx, pore_yx = valid_yx & (image_yx == 1), valid_yx & (image_yx == 0)
    interfaces.append((solid_yx & ndimage.binary_dilation(pore_yx))
                      | (pore_yx & ndimage.binary_dilation(solid_yx)))
  for mine_yx, other_yx in (interfaces, interfaces[::-1]):
    matched = 0
    if other_yx.any():
      distance_yx = ndimage.distance_transform_edt(~other_yx)
      matched = np.count_nonzero(mine_yx & (distance_yx <= tolerance_px))
    counts += [matched, np.count_nonzero(mine_yx)]
  return np.array(counts, np.int64)


def boundary_f1(counts) -> np.ndarray:
  """F1 score of interfaces from sums of `boundary_counts`, [..., 4] -> [...].

  Harmonic mean of the matched fractions of prediction and labels: 1 where neither has
  any interface, 0 where only one has.
  """
  matched_p, all_p, matched_l, all_l = np.moveaxis(np.asarray(counts, float), -1, 0)
  precision = np.where(all_p > 0, matched_p / np.maximum(all_p, 1), all_l == 0)
  recall = np.where(all_l > 0, matched_l / np.maximum(all_l, 1), all_p == 0)
  total = precision + recall
  return np.where(total > 0, 2 * precision * recall / np.where(total > 0, total, 1), 0.)


def confusion_from_published(accuracy: float, porosity_manual: float,
                             porosity_automatic: float) -> np.ndarray:
  """Recovers a confusion matrix from the three numbers that a paper reports.

  Pore called solid and solid called pore add up to 1 - accuracy, and they differ by the
  difference of the porosities.

  Args:
    accuracy: fraction of voxels that agree.
    porosity_manual: fraction of pore in the labels.
    porosity_automatic: fraction of pore in the predictions.

  Returns:
    [label, prediction] float64 fractions of all voxels, sum 1.
  """
  error, excess = 1 - accuracy, porosity_automatic - porosity_manual
  pore_as_solid, solid_as_pore = (error - excess) / 2, (error + excess) / 2
  pore = porosity_manual - pore_as_solid
  return np.array([[pore, pore_as_solid], [solid_as_pore, accuracy - pore]])


def best_global_threshold(images, masks) -> dict:
  """Finds the grey threshold of highest mIoU on labelled regions.

  Solid is where grey > threshold; the opposite polarity is not tried. As it is chosen
  on the labels it is scored on, no global threshold does better, and a trained model
  should. Exact: every distinct grey value is tried.

  Args:
    images: [y, x] grey values, one array per region; pooled.
    masks: [y, x] labels 0/1/255, one per image.

  Returns:
    threshold (float; lowest of equals) and miou.

  Raises:
    InputError: when nothing is labelled, shapes differ, codes are unknown or a grey
      value is not finite.
  """
  images, masks = list(images), list(masks)
  if len(images) != len(masks):
    raise InputError('masks', got=f'{len(masks)} masks', expected=f'{len(images)}',
                     remedy='give one mask per image')
  values, solid = [], []
  for image, mask in zip(images, masks, strict=True):
    check_shape('mask', mask, image.shape)
    valid = mask != UNLABELLED
    _check_codes('mask', mask, valid, mask == 1)
    values.append(image[valid])
    solid.append(mask[valid] == 1)
  if not sum(v.size for v in values):
    raise InputError('masks', got='no labelled voxel', expected='at least one',
                     remedy='annotate a region')
  value, solid = np.concatenate(values), np.concatenate(solid)
  if not np.isfinite(value).all():
    raise InputError('images', got='NaN or infinity', expected='finite grey values',
                     remedy='repair the stack or leave the region out')
  return _best_cut(value, solid)


def _best_cut(value, solid):
  order = np.argsort(value)
  value, solid = value[order], solid[order]
  n, n_solid = value.size, np.count_nonzero(solid)
  # Cut k calls the k lowest values pore; only cuts between distinct values count.
  cut = np.concatenate([[0], np.flatnonzero(value[1:] != value[:-1]) + 1, [n]])
  solid_below = np.concatenate([[0], np.cumsum(solid)])[cut]
  pore_right, solid_right = cut - solid_below, n_solid - solid_below
  wrong = n - pore_right - solid_right
  with np.errstate(invalid='ignore'):
    iou = np.stack([pore_right / (pore_right + wrong),
                    solid_right / (solid_right + wrong)])
  miou = np.nanmean(iou, axis=0)  # 0/0: class in neither, left out as in summarise
  best = int(np.argmax(miou))
  if best == 0:
    threshold = np.nextafter(np.float64(value[0]), -np.inf)
  else:
    threshold = value[cut[best] - 1]
  return {'threshold': float(threshold), 'miou': float(miou[best])}
