"""Scores of networks on annotated regions: post-processing, calibration, metrics.

Ensembles and comparisons need many networks on the same few regions. Only the regions
are scored, with the margin that post-processing needs, so no network needs a score
volume. Arrays are [r, y, x], smaller regions padded to the largest one; labels 0 pore,
1 solid, 255 unlabelled.
"""
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fibjax.annotation.regions import Regions, region_mask, select_regions
from fibjax.inference import postprocess, tuning
from fibjax.inference.score import Scorer
from fibjax.inference.segment import Postprocessing
from fibjax.metrics import calibration, comparison, confusion
from fibjax.volumes.volume import Volume, read_mirrored

_MEMORY_GB = 1.5  # for the tiles of a region
_WINDOW_PX = 64  # about the side of the windows whose worst are reported


class Setting(NamedTuple):
  """Regions and settings with which networks are measured.

  Attributes:
    val: regions on which post-processing and temperature are chosen.
    test: regions on which metrics are reported.
    postprocess: config.postprocess.
    margin_px: margin of the scores around a region, voxels.
    prior_offset: log odds of the true class fractions relative to those seen in
      training (`calibration.prior_offset`); 0 unless training was balanced.
  """
  val: Regions
  test: Regions
  postprocess: object
  margin_px: int
  prior_offset: float


def make_setting(postprocess_settings, balanced: bool, regions: Regions) -> Setting:
  """Makes the setting of a run.

  Args:
    postprocess_settings: config.postprocess.
    balanced: whether training weighted both classes equally.
    regions: annotated regions of all splits.
  """
  train, val, test = (select_regions(regions, split=split)
                      for split in ('train', 'val', 'test'))
  solid, pore = ((train.masks_ryx == code).sum() for code in (1, 0))
  return Setting(val, test, postprocess_settings,
                 postprocess.margin_px(6., postprocess_settings.kernel),
                 calibration.prior_offset(solid / (solid + pore)) if balanced else 0.)


def score_regions(scorers: Sequence[Scorer], prepared: dict[str, Volume],
                  regions: Regions, margin_px: int) -> np.ndarray:
  """Scores all regions with each scorer.

  Args:
    scorers: scorers of networks, m of them.
    prepared: prepared volumes by name.
    regions: regions to score.
    margin_px: margin in y and x around a region, voxels; beyond the faces of a volume
      it is mirrored.

  Returns:
    [m, r, H + 2 margin, W + 2 margin] float32 P(solid).
  """
  fingerprints = [scorer.fingerprint for scorer in scorers]
  first = [fingerprints.index(one) for one in fingerprints]  # equal ones score once
  opened = {m: scorers[m].open(_MEMORY_GB) for m in sorted(set(first))}
  count, height, width = regions.masks_ryx.shape
  shape_zyx = 1, height + 2 * margin_px, width + 2 * margin_px
  scores_mryx = np.empty((len(scorers), count, *shape_zyx[1:]), np.float32)
  for r in range(count):
    start = (int(regions.z[r]), int(regions.y[r]) - margin_px,
             int(regions.x[r]) - margin_px)
    box = start, tuple(a + n for a, n in zip(start, shape_zyx, strict=True))
    for m, scorer in opened.items():
      image_zyx = read_mirrored(prepared[regions.volume[r]], *scorer.reads(box))
      scores = scorer.score(shape_zyx, image_zyx)
      scores_mryx[m, r] = (scores[0] if scorers[m].channels else scores)[0]
  return scores_mryx[first]


def label_regions(scorers: Sequence[Scorer], how: Postprocessing,
                  prepared: dict[str, Volume], regions: Regions
                  ) -> tuple[np.ndarray, np.ndarray]:
  """[r, y, x] labels of the mean of scorers and [m, r, y, x] of each, in regions.

  Small objects are not removed: a region is too small to know them.
  """
  margin = postprocess.margin_px(how.sigma_px, how.kernel)
  inside = slice(margin, -margin or None)
  scores_mryx = score_regions(scorers, prepared, regions, margin)
  return tuple(postprocess.double_threshold(
      scores, how.sigma_px, how.threshold, how.kernel)[..., inside, inside]
               for scores in (scores_mryx.mean(0), scores_mryx))


def region_mious(labels_ryx: np.ndarray, regions: Regions) -> dict:
  """mIoU of labels of regions: {'miou' of all, 'per_volume': {name: mIoU}}."""
  masks = [region_mask(regions, r) for r in range(len(regions.volume))]
  counts = [confusion.confusion(mask_yx, labels_yx[tuple(map(slice, mask_yx.shape))])
            for mask_yx, labels_yx in zip(masks, labels_ryx, strict=True)]

  def miou(volumes):
    chosen = [count for count, volume in zip(counts, regions.volume, strict=True)
              if volume in volumes]
    return confusion.summarise(sum(chosen, np.zeros((2, 2), np.int64)))['miou']
  names = sorted(set(regions.volume))
  return {'miou': miou(names), 'per_volume': {name: miou((name,)) for name in names}}


def measure(setting: Setting, val_ryx: np.ndarray,
            test_ryx: np.ndarray) -> tuple[dict, comparison.Counts]:
  """Measures a network with post-processing and temperature chosen for it.

  Args:
    setting: regions and post-processing.
    val_ryx: scores of the validation regions with their margins, on which sigma,
      threshold and temperature are chosen.
    test_ryx: scores of the test regions with their margins.

  Returns:
    JSON-able metrics on the test regions, and the counts from which they are computed.
  """
  margin, settings = setting.margin_px, setting.postprocess
  sigma_px, threshold = tune(setting, val_ryx)
  val_n, val_labels_n = _labelled(setting.val, val_ryx, margin)
  temperature = calibration.fit_temperature(calibration.to_logits(val_n), val_labels_n,
                                            setting.prior_offset)
  masks, scores, labels = [], [], []
  for r, score_yx in enumerate(test_ryx):
    score_yx = _unpadded(setting.test, r, score_yx, margin)
    masks.append(region_mask(setting.test, r))
    labels_yx = postprocess.double_threshold(score_yx, sigma_px, threshold,
                                             settings.kernel)
    inside = slice(margin, -margin or None)
    scores.append(score_yx[inside, inside])
    labels.append(labels_yx[inside, inside])
  calibrated = [calibration.calibrate(calibration.to_logits(score_yx), temperature,
                                      setting.prior_offset) for score_yx in scores]
  test_counts = count(setting.test.volume, masks, scores, labels, calibrated)
  test_n, calibrated_n, labels_n = (
      np.concatenate([image_yx.ravel() for image_yx in images])
      for images in (scores, calibrated, masks))
  before = confusion.summarise(confusion.confusion(
      labels_n, (test_n > 0.5).astype(np.uint8)))
  after = {name: float(value[0])
           for name, value in comparison.scores_of(test_counts).items()}
  uncalibrated_metrics, calibrated_metrics = (
      calibration.summarise(scores_n, labels_n)
      for scores_n in (test_n, calibrated_n))
  return {'miou_before': before['miou'], 'miou_after': after['miou'],
          **{name: after[name] for name in (
              'worst_miou', 'accuracy', 'porosity_error', 'porosity_bias',
              'boundary_f1')},
          **{name: float(uncalibrated_metrics[name])
             for name in ('ece', 'brier', 'nll')},
          **{f'{name}_calibrated': float(calibrated_metrics[name])
             for name in ('ece', 'brier', 'nll')},
          'temperature': float(temperature), 'sigma_px': float(sigma_px),
          'threshold': float(threshold),
          'reliability': {
              name: [column.tolist()
                     for column in calibration.reliability(scores_n, labels_n)]
              for name, scores_n in (('before', test_n), ('after', calibrated_n))}
          }, test_counts


def count(volumes: Sequence[str], masks, scores, labels, calibrated
          ) -> comparison.Counts:
  """Counts from which all scores of a network on regions, or slices, are computed.

  Args:
    volumes: name of the volume of each region.
    masks: labels of each region, [y, x] 0, 1 or 255.
    scores: P(solid).
    labels: the segmentation, 0 or 1.
    calibrated: P(solid) after calibration.
  """
  pairs = list(zip(masks, labels, strict=True))
  return comparison.Counts(
      tuple(volumes), np.stack([confusion.confusion(*pair) for pair in pairs]),
      np.stack([confusion.boundary_counts(*pair) for pair in pairs]),
      comparison.count_bins(scores, masks), comparison.count_bins(calibrated, masks),
      _padded([count_windows(*pair) for pair in pairs]))


def count_windows(mask_yx: np.ndarray, labels_yx: np.ndarray) -> np.ndarray:
  """Confusion counts of the windows of a region, [w, label, prediction] int64.

  The region is divided evenly into windows of about 64 px, one at least.
  """
  rows, columns = (np.array_split(np.arange(side), max(1, round(side / _WINDOW_PX)))
                   for side in mask_yx.shape)
  return np.stack([confusion.confusion(mask_yx[np.ix_(*at)], labels_yx[np.ix_(*at)])
                   for at in itertools.product(rows, columns)])


def _padded(windows: list[np.ndarray]) -> np.ndarray:
  """[r, w, 2, 2] of the windows of all regions, with windows of 0 voxels added."""
  most = max(map(len, windows))
  return np.stack([np.pad(of_region, [(0, most - len(of_region)), (0, 0), (0, 0)])
                   for of_region in windows])


def tune(setting: Setting, val_ryx: np.ndarray) -> tuple[float, float]:
  """Chooses sigma and threshold on the validation regions unless they are fixed.

  Args:
    setting: regions and post-processing.
    val_ryx: scores of the validation regions with their margins.

  Returns:
    sigma in pixels, and the threshold.
  """
  settings, margin = setting.postprocess, setting.margin_px
  if settings.tune == 'none':
    return settings.sigma_px, settings.threshold
  regions = [postprocess.RegionScore(_unpadded(setting.val, r, score_yx, margin),
                                     region_mask(setting.val, r), (margin, margin))
             for r, score_yx in enumerate(val_ryx)]
  if settings.tune == 'miou':
    best = postprocess.tune(regions, kernel=settings.kernel)
    return best.sigma_px, best.threshold
  choice = tuning.choose(settings.tune, regions, setting.val.volume, setting.val.z,
                         kernel=settings.kernel)
  return choice.sigma_px, choice.threshold


def _unpadded(regions: Regions, r: int, score_yx, margin: int):
  """Scores of a region with its margin, without the padding to the largest region."""
  height, width = (int(sizes[r]) for sizes in (regions.heights, regions.widths))
  return score_yx[:height + 2 * margin, :width + 2 * margin]


def _labelled(regions: Regions, scores_ryx, margin: int):
  """Scores and labels of the voxels of all regions without margins, [n] each."""
  inside = slice(margin, -margin or None)
  return tuple(np.concatenate(arrays) for arrays in zip(*(
      (_unpadded(regions, r, score_yx, margin)[inside, inside].ravel(),
       region_mask(regions, r).ravel())
      for r, score_yx in enumerate(scores_ryx)), strict=True))
