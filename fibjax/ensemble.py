"""Ensembles: the best members of a sweep as one segmentation, calibrated (§8.7).

The k members of lowest validation BCE, of one size or of several, score the volumes in
one pass: P(solid) is the mean of their probabilities, with its entropy and their mutual
information beside it. Post-processing is tuned for the mean. Its probabilities are
calibrated by one temperature, fitted on the validation regions, after the prior of a
training with balanced classes is undone; the score volume holds the uncalibrated mean.
Each member is measured like the ensemble, on the same regions.

What a workdir gets beside what `sweep` and `run` make: ensemble/<k>/, the members'
weights, ensemble.json, what they are, results.json, members and ensemble with their
calibration, and an interval for the porosity of each volume in porosity.json.
"""
import functools
import json
import math
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from fibjax import (
  calibration,
  checkpoint,
  evaluate,
  infer,
  metrics,
  models,
  patches,
  postprocess,
  progress,
  run,
  sweep,
  workdir,
)
from fibjax.analysis import coverage, two_point, uncertainty
from fibjax.checks import InputError
from fibjax.cluster import HERE, Resources
from fibjax.data import regions as region_tables
from fibjax.data import volume as volumes
from fibjax.data.regions import Regions
from fibjax.prep import intensity
from fibjax.report import page

_WINDOWS, _WINDOW_PX = 24, 256  # for the spread of the members in a volume
_SAMPLING_VOX = 2 ** 27  # of a volume, about its centre, for the two-point function


def run_ensemble(config, folder, resources: Resources = HERE) -> dict:
  """Trains the members, or goes on, and does the whole job with the best of them.

  Args:
    config: the experiment.
    folder: workdir; may be that of a finished sweep of the same config.
    resources: where to work.

  Returns:
    The content of results.json.

  Raises:
    InputError: as `sweep.run_sweep`, or for fewer finished members than wanted.
  """
  folder = Path(folder)
  with run.no_trace_of_mistakes(folder), workdir.lock(folder):
    sweep.train_all(config, folder, resources)
    choose_members(config, folder)
    predictor = run.open_predictor(config, folder)
    inputs = run.prepare(sweep.largest(config), folder)
    scores = run.score(config, inputs, predictor, folder, resources)
    segmentations = run.segment(config, inputs, scores, folder, resources)
    if not (folder / 'results.json').exists():
      measure(config, predictor, inputs, segmentations, folder)
    if not (folder / 'metrics.json').exists():
      run.write_metrics(config, inputs, scores, segmentations, folder)
    page.write_report(folder)
    return workdir.read_json(folder / 'results.json')


def choose_members(config, folder: Path) -> None:
  """Writes ensemble.json and the weights of the best members; once."""
  path, settings = folder / 'ensemble.json', config.ensemble
  if path.exists():
    return
  ranked = sweep.find_members(folder)
  if len(ranked) < settings.top:
    raise InputError('config.ensemble.top', got=settings.top,
                     expected=f'at most the {len(ranked)} members that finished',
                     remedy='lower it or train more members')
  chosen = []
  for row in ranked[:settings.top]:
    model, weights = sweep.load_member(config, folder, row, settings.weights)
    for params in weights:
      checkpoint.replace_weights(folder / 'ensemble' / str(len(chosen)), params)
      chosen.append({'size': sweep.size_name(row['n_xy'], row['n_z']),
                     'member': row['member'], 'seed': row['seed'],
                     'val_bce': row['val_bce'], 'model': model.settings})
  workdir.write_json(path, {'weights': settings.weights, 'dihedral': settings.dihedral,
                            'members': chosen})


def score_regions(predictor: infer.Predictor, prepared, regions: Regions,
                  margin_px: int) -> np.ndarray:
  """Scores of all members on all regions, with a margin, mirrored at faces.

  Returns:
    [m, r, H + 2 margin, W + 2 margin] float32 P(solid).
  """
  found, contexts = [], {}
  for model, params in zip(predictor.models, predictor.params, strict=True):
    sight = model.before_px + margin_px, model.n_z
    if sight not in contexts:
      contexts = {sight: patches.cut_contexts(prepared, regions, *sight)}
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


def measure(config, predictor: infer.Predictor, inputs: run.Inputs, segmentations,
            folder: Path) -> None:
  """Writes results.json and porosity.json: see the module docstring."""
  settings = config.postprocess
  margin = postprocess.margin_px(6., settings.kernel)
  sides, scored = {}, {}
  for split in ('train', 'val', 'test'):
    sides[split] = region_tables.select(inputs.regions, split=split)
    if split != 'train':
      scored[split] = score_regions(predictor, inputs.prepared, sides[split], margin)
  offset = _prior_offset(config, sides['train'])
  kinds = {f'member {k}': scores for k, scores in enumerate(zip(
      scored['val'], scored['test'], strict=True))}
  kinds['ensemble'] = scored['val'].mean(0), scored['test'].mean(0)
  rows = []
  for name, (val_ryx, test_ryx) in kinds.items():
    chosen = _tune(settings, sides['val'], val_ryx, margin)
    rows.append({'name': name, **_measure_one(
        sides, val_ryx, test_ryx, margin, chosen, settings.kernel, offset)})
    progress.say(f'{name}: test mIoU {rows[-1]["miou_after"]:.4f}, ECE '
                 f'{rows[-1]["ece"]:.4f}')
  workdir.write_json(folder / 'porosity.json', {
      name: volume_porosity(config, predictor, inputs, segmentations[name], name,
                            workdir.read_json(folder / 'postprocess.json'))
      for name in inputs.prepared})
  alone = rows[:-1]
  mean = {key: float(np.mean([row[key] for row in alone]))
          for key, value in alone[0].items() if isinstance(value, float)}
  deviation = {key: float(np.std([row[key] for row in alone], ddof=1))
               for key in mean} if len(alone) > 1 else {}
  workdir.write_json(folder / 'results.json', {
      'prior_offset': offset, 'members': alone, 'mean_member': mean,
      'sd_of_members': deviation, 'ensemble': rows[-1]})


def _prior_offset(config, train: Regions) -> float:
  """What logits of a training with balanced classes lack of the natural prior."""
  balanced = (config.train.sampling == 'patch' or config.train.balance == 'classes')
  solid, pore = ((train.masks_ryx == code).sum() for code in (1, 0))
  return calibration.prior_offset(solid / (solid + pore)) if balanced else 0.


def _tune(settings, regions: Regions, scores_ryx, margin: int):
  if not settings.tune:
    return settings.sigma_px, settings.threshold
  best = postprocess.tune(
      [postprocess.RegionScore(_of_region(regions, r, score_yx, margin),
                               region_tables.mask_of(regions, r), (margin, margin))
       for r, score_yx in enumerate(scores_ryx)], kernel=settings.kernel)
  return best.sigma_px, best.threshold


def _of_region(regions: Regions, r: int, score_yx, margin: int):
  """A region's scores with its margin: regions smaller than the largest are filled."""
  height, width = (int(sizes[r]) for sizes in (regions.heights, regions.widths))
  return score_yx[:height + 2 * margin, :width + 2 * margin]


def _inside(regions: Regions, scores_ryx, margin: int) -> list[np.ndarray]:
  return [_of_region(regions, r, score_yx, margin)[margin:-margin, margin:-margin]
          for r, score_yx in enumerate(scores_ryx)]


def _measure_one(sides, val_ryx, test_ryx, margin, chosen, kernel: str,
                 offset: float) -> dict:
  """mIoU and calibration of one set of scores; T is fitted on validation."""
  flat = {}
  for split, scores_ryx in (('val', val_ryx), ('test', test_ryx)):
    masks = [region_tables.mask_of(sides[split], r) for r in range(len(scores_ryx))]
    flat[split] = (np.concatenate([s.ravel() for s in _inside(sides[split], scores_ryx,
                                                              margin)]),
                   np.concatenate([mask.ravel() for mask in masks]))
  (val_n, val_labels_n), (test_n, test_labels_n) = flat['val'], flat['test']
  temperature = calibration.fit_temperature(calibration.to_logits(val_n), val_labels_n,
                                            offset)
  calibrated_n = calibration.calibrate(calibration.to_logits(test_n), temperature,
                                       offset)
  sigma_px, threshold = chosen
  counts = np.zeros((2, 2), np.int64)
  for r, score_yx in enumerate(test_ryx):
    labels_yx = postprocess.double_threshold(
        _of_region(sides['test'], r, score_yx, margin), sigma_px, threshold, kernel)
    counts += metrics.confusion(region_tables.mask_of(sides['test'], r),
                                labels_yx[margin:-margin, margin:-margin])
  before = metrics.summarise(metrics.confusion(test_labels_n,
                                               (test_n > 0.5).astype(np.uint8)))
  after = metrics.summarise(counts)
  raw, calibrated = (calibration.summarise(scores_n, test_labels_n)
                     for scores_n in (test_n, calibrated_n))
  return {'miou_before': before['miou'], 'miou_after': after['miou'],
          **{name: float(raw[name]) for name in ('ece', 'brier', 'nll')},
          **{f'{name}_calibrated': float(calibrated[name])
             for name in ('ece', 'brier', 'nll')},
          'temperature': float(temperature), 'sigma_px': float(sigma_px),
          'threshold': float(threshold),
          'reliability': {name: [part.tolist() for part in calibration.reliability(
              scores_n, test_labels_n)]
                          for name, scores_n in (('before', test_n),
                                                 ('after', calibrated_n))}}


def volume_porosity(config, predictor: infer.Predictor, inputs: run.Inputs,
                    segmentation, name: str, chosen: dict) -> dict:
  """Porosity of a volume with its interval (analysis/uncertainty.py).

  Each member's bias is that on the volume's validation regions, a slice being a block.
  Its porosity is that of the ensemble's segmentation, plus what sets it apart from the
  ensemble in random windows. Sampling comes from the two-point function of the
  segmentation. All are post-processed with what was tuned for the ensemble, without the
  removal of small objects.
  """
  regions = region_tables.select(inputs.regions, split='val', volume=name)
  manual, automatic, slices = [], [], []
  _, labels_mryx = _label_regions(config, predictor, inputs.prepared, regions, chosen)
  for r in range(len(regions.volume)):
    mask_yx = region_tables.mask_of(regions, r)
    height, width = mask_yx.shape
    if (mask_yx != 255).any():
      manual.append(np.mean(mask_yx[mask_yx != 255] == 0))
      automatic.append((labels_mryx[:, r, :height, :width][:, mask_yx != 255] == 0
                        ).mean(1))
      slices.append(int(regions.z[r]))
  bias = None
  if len(set(slices)) > 1:
    bias = uncertainty.region_bias(manual, np.stack(automatic, 1), config.data.seed,
                                   groups_r=slices)
  windows = _random_windows(config, inputs.prepared[name].shape, name)
  together_ryx, labels_mryx = _label_regions(config, predictor, inputs.prepared,
                                             windows, chosen)
  members_m = (labels_mryx == 0).mean((1, 2, 3))
  together = evaluate.whole_volume(segmentation, None)['porosity_automatic']
  members_m += together - np.mean(together_ryx == 0)
  interval = uncertainty.porosity_interval(members_m, bias, _sampling(segmentation))
  return interval | {'members': members_m.tolist()}


def _random_windows(config, shape_zyx, name: str) -> Regions:
  """The same random windows of a volume for all members; without labels."""
  random = np.random.default_rng((config.data.seed, 3))
  depth, *extent_yx = shape_zyx
  side_yx = [min(_WINDOW_PX, extent) for extent in extent_yx]
  positions = [(int(random.integers(depth)),
                *(int(random.integers(extent - side + 1))
                  for extent, side in zip(extent_yx, side_yx, strict=True)))
               for _ in range(_WINDOWS)]
  return region_tables.make_regions(
      (name,) * _WINDOWS, positions, [np.zeros(side_yx, np.uint8)] * _WINDOWS,
      ['test'] * _WINDOWS)


def _label_regions(config, predictor, prepared, regions: Regions, chosen):
  """[r, y, x] labels of the ensemble and [m, r, y, x] of each member, in regions."""
  kernel = config.postprocess.kernel
  margin = postprocess.margin_px(chosen['sigma_px'], kernel)
  inside = slice(margin, -margin or None)
  scores_mryx = score_regions(predictor, prepared, regions, margin)
  return (postprocess.double_threshold(scores_ryx, chosen['sigma_px'],
                                       chosen['threshold'], kernel)[..., inside, inside]
          for scores_ryx in (scores_mryx.mean(0), scores_mryx))


def _sampling(segmentation) -> two_point.Sampling:
  """Sampling error of the porosity, from as much of the volume as is practical.

  The variance of a mean falls as one over the volume: what is found in a part is
  scaled to the whole.
  """
  depth, height, width = segmentation.shape
  side = max(1, int((_SAMPLING_VOX / depth) ** 0.5))
  sides = (depth, min(side, height), min(side, width))
  start = [(n - s) // 2 for n, s in zip(segmentation.shape, sides, strict=True)]
  stop = [a + s for a, s in zip(start, sides, strict=True)]
  found = two_point.sampling_sd(volumes.read_box(segmentation, start, stop) == 0)
  share = math.prod(sides) / math.prod(segmentation.shape)
  return found._replace(sd=found.sd * math.sqrt(share))


def check_coverage(folder, preset: str, shape_zyx, films: int, seed: int) -> dict:
  """How often the porosity intervals of a finished ensemble hold what they promise.

  Args:
    folder: workdir of the ensemble.
    preset, shape_zyx: films to make; their porosities scatter about the material's.
    films: how many.
    seed: of the films.

  Returns:
    As `coverage.coverage_experiment`, for nominal 90 %.

  Raises:
    InputError: when the workdir holds no finished ensemble, or films are too few.
  """
  config, folder = run.open_run(folder)
  if not (folder / 'ensemble.json').exists():
    raise InputError(str(folder), got='no ensemble', expected='a finished one',
                     remedy='run `fibjax ensemble` with this workdir first')
  predictor = run.open_predictor(config, folder)
  chosen = workdir.read_json(folder / 'postprocess.json')
  make_film, porosity = coverage.free_films(preset, shape_zyx,
                                            artefacts=config.data.artefacts)
  return coverage.coverage_experiment(
      functools.partial(_label_film, config, predictor, chosen), make_film, porosity,
      seed=seed, n_films=films)


def _label_film(config, predictor: infer.Predictor, chosen: dict,
                image_zyx: np.ndarray) -> np.ndarray:
  """[m, z, y, x] labels of each member of a film in memory."""
  with tempfile.TemporaryDirectory() as folder:
    folder = Path(folder)
    with volumes.new_volume(folder / 'raw', image_zyx.shape, image_zyx.dtype,
                            None) as raw:
      volumes.write_box(raw, (0, 0, 0), image_zyx)
    intensity.prepare_volume(volumes.open_volume(folder / 'raw'), folder / 'film',
                             scale=config.prepare.scale,
                             gradient=config.prepare.gradient)
    depth, *extent_yx = image_zyx.shape
    slices = region_tables.make_regions(
        ('film',) * depth, [(z, 0, 0) for z in range(depth)],
        [np.zeros(extent_yx, np.uint8)] * depth, ['test'] * depth)
    film = {'film': volumes.open_volume(folder / 'film')}
    return tuple(_label_regions(config, predictor, film, slices, chosen))[1]
