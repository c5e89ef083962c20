"""Networks on annotated regions: scores, tuned post-processing, calibration, counts.

Ensembles and comparisons need many networks on the same few regions: these are scored
with a margin as wide as post-processing sees, without a volume of scores for each.
Arrays are [r, y, x], smaller regions filled up to the largest; labels 0 pore, 1 solid,
255 unlabelled.
"""
import functools
import json
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fibjax import models
from fibjax.annotation.contexts import cut_contexts
from fibjax.annotation.regions import Regions, region_mask, select_regions
from fibjax.inference import postprocess
from fibjax.inference.score import Predictor
from fibjax.metrics import calibration, comparison
from fibjax.metrics import confusion as metrics


class Setting(NamedTuple):
  """What networks are measured on.

  Attributes:
    val, test: regions that choose, and regions that judge.
    postprocess: config.postprocess.
    margin_px: of scores about a region.
    prior_offset: what logits lack of the natural prior.
  """
  val: Regions
  test: Regions
  postprocess: object
  margin_px: int
  prior_offset: float


def make_setting(config, regions: Regions) -> Setting:
  """The setting of a config; regions of all splits."""
  train, val, test = (select_regions(regions, split=split)
                      for split in ('train', 'val', 'test'))
  balanced = config.train.sampling == 'patch' or config.train.balance == 'classes'
  solid, pore = ((train.masks_ryx == code).sum() for code in (1, 0))
  return Setting(val, test, config.postprocess,
                 postprocess.margin_px(6., config.postprocess.kernel),
                 calibration.prior_offset(solid / (solid + pore)) if balanced else 0.)


def score_regions(predictor: Predictor, prepared, regions: Regions,
                  margin_px: int) -> np.ndarray:
  """Scores of all members on all regions, with a margin, mirrored at faces.

  Returns:
    [m, r, H + 2 margin, W + 2 margin] float32 P(solid).
  """
  found, contexts = [], {}
  for model, params in zip(predictor.models, predictor.params, strict=True):
    sight = model.before_px + margin_px, model.n_z
    if sight not in contexts:
      contexts = {sight: cut_contexts(prepared, regions, *sight)}
    score = _score_program(json.dumps(model.settings, sort_keys=True))
    found.append(np.stack([_score(score, model.before_px, params, image_yxc,
                                  predictor.dihedral)
                           for image_yxc in contexts[sight]]))
  return np.stack(found)


def _score(program, before_px: int, params, image_yxc, dihedral: bool) -> np.ndarray:
  """[y, x] scores of an image with before_px more pixels on each side."""
  total = 0
  for transform in range(8 if dihedral else 1):
    # As augment.dihedral, for images that need not be squares.
    turned = image_yxc[::-1] if transform & 1 else image_yxc
    turned = turned[:, ::-1] if transform & 2 else turned
    turned = turned.swapaxes(0, 1) if transform & 4 else turned
    out_yx = tuple(n - 2 * before_px for n in turned.shape[:2])
    score_yx = np.asarray(program(params, turned, out_yx))
    score_yx = score_yx.T if transform & 4 else score_yx
    score_yx = score_yx[:, ::-1] if transform & 2 else score_yx
    total = total + (score_yx[::-1] if transform & 1 else score_yx)
  return total / np.float32(8 if dihedral else 1)


@functools.lru_cache(8)
def _score_program(settings: str):
  """(weights, image, out_yx) -> scores, of the network with these settings."""
  model = models.make_model(json.loads(settings))

  def score(params, image_yxc, out_yx):
    rows, columns = (out + model.window_px - 1 for out in out_yx)
    return jax.nn.sigmoid(model.apply_dense(
        params, jnp.asarray(image_yxc)[None, :rows, :columns], out_yx=out_yx)[0])
  return jax.jit(score, static_argnums=2)


def measure(setting: Setting, val_ryx: np.ndarray,
            test_ryx: np.ndarray) -> tuple[dict, comparison.Counts]:
  """Judges a network by its scores, with post-processing and temperature of its own.

  Args:
    setting: regions.
    val_ryx: scores of the validation regions with their margins: these choose sigma,
      threshold and temperature.
    test_ryx: the same of the test regions.

  Returns:
    JSON-able scores on the test regions, and the counts that they come from.
  """
  margin, settings = setting.margin_px, setting.postprocess
  sigma_px, threshold = _tune(setting, val_ryx)
  val_n, val_labels_n = _labelled(setting.val, val_ryx, margin)
  temperature = calibration.fit_temperature(calibration.to_logits(val_n), val_labels_n,
                                            setting.prior_offset)
  masks, scores, confusion, boundary = [], [], [], []
  for r, score_yx in enumerate(test_ryx):
    score_yx = _of_region(setting.test, r, score_yx, margin)
    masks.append(region_mask(setting.test, r))
    labels_yx = postprocess.double_threshold(score_yx, sigma_px, threshold,
                                             settings.kernel)
    inside = slice(margin, -margin or None)
    scores.append(score_yx[inside, inside])
    confusion.append(metrics.confusion(masks[r], labels_yx[inside, inside]))
    boundary.append(metrics.boundary_counts(masks[r], labels_yx[inside, inside]))
  calibrated = [calibration.calibrate(calibration.to_logits(score_yx), temperature,
                                      setting.prior_offset) for score_yx in scores]
  counts = comparison.Counts(
      tuple(setting.test.volume), np.stack(confusion), np.stack(boundary),
      comparison.count_bins(scores, masks), comparison.count_bins(calibrated, masks))
  test_n, calibrated_n, labels_n = (
      np.concatenate([part.ravel() for part in parts])
      for parts in (scores, calibrated, masks))
  before = metrics.summarise(metrics.confusion(labels_n,
                                               (test_n > 0.5).astype(np.uint8)))
  after = {name: float(value[0])
           for name, value in comparison.scores_of(counts).items()}
  raw, later = (calibration.summarise(scores_n, labels_n)
                for scores_n in (test_n, calibrated_n))
  return {'miou_before': before['miou'], 'miou_after': after['miou'],
          **{name: after[name] for name in ('accuracy', 'porosity_error',
                                            'boundary_f1')},
          **{name: float(raw[name]) for name in ('ece', 'brier', 'nll')},
          **{f'{name}_calibrated': float(later[name])
             for name in ('ece', 'brier', 'nll')},
          'temperature': float(temperature), 'sigma_px': float(sigma_px),
          'threshold': float(threshold),
          'reliability': {name: [part.tolist() for part in calibration.reliability(
              scores_n, labels_n)]
                          for name, scores_n in (('before', test_n),
                                                 ('after', calibrated_n))}}, counts


def _tune(setting: Setting, val_ryx):
  settings, margin = setting.postprocess, setting.margin_px
  if not settings.tune:
    return settings.sigma_px, settings.threshold
  best = postprocess.tune(
      [postprocess.RegionScore(_of_region(setting.val, r, score_yx, margin),
                               region_mask(setting.val, r), (margin, margin))
       for r, score_yx in enumerate(val_ryx)], kernel=settings.kernel)
  return best.sigma_px, best.threshold


def _of_region(regions: Regions, r: int, score_yx, margin: int):
  """A region's scores with its margin: regions smaller than the largest are filled."""
  height, width = (int(sizes[r]) for sizes in (regions.heights, regions.widths))
  return score_yx[:height + 2 * margin, :width + 2 * margin]


def _labelled(regions: Regions, scores_ryx, margin: int):
  """Scores and labels of all regions, flat."""
  inside = slice(margin, -margin or None)
  return tuple(np.concatenate(parts) for parts in zip(*(
      (_of_region(regions, r, score_yx, margin)[inside, inside].ravel(),
       region_mask(regions, r).ravel())
      for r, score_yx in enumerate(scores_ryx)), strict=True))
