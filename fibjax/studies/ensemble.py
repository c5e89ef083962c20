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
import math
import tempfile
from pathlib import Path

import numpy as np

from fibjax.analysis import two_point, uncertainty
from fibjax.annotation.regions import Regions, make_regions, region_mask, select_regions
from fibjax.errors import InputError
from fibjax.evaluation import evaluate, region_scores
from fibjax.inference import postprocess, score
from fibjax.methods import method, registry
from fibjax.pipeline import segmenter, stages
from fibjax.preparation import scaling
from fibjax.report import page
from fibjax.studies import coverage, sweep
from fibjax.system import files, progress, run_folder
from fibjax.system.cluster import HERE, Resources
from fibjax.training import checkpoint
from fibjax.volumes.volume import new_volume, open_volume, read_box, write_box

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
  with run_folder.undo_on_mistake(folder), run_folder.lock(folder):
    sweep.train_all(config, folder, resources)
    choose_members(config, folder)
    predictor = registry.open_predictor(config, folder)
    inputs = stages.prepare(sweep.largest(config), folder)
    scores = stages.score(config, inputs, predictor, folder, resources)
    segmentations = stages.segment(config, inputs, scores, folder, resources)
    if not (folder / 'results.json').exists():
      measure(config, predictor, inputs, segmentations, folder)
    if not (folder / 'metrics.json').exists():
      stages.write_metrics(config, inputs, scores, segmentations, folder)
    page.write_report(folder)
    return files.read_json(folder / 'results.json')


def choose_members(config, folder: Path) -> None:
  """Writes ensemble.json and the weights of the best members; once."""
  path, settings = folder / 'ensemble.json', config.ensemble
  if path.exists():
    return
  ranked = sweep.find_members(config, folder)
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
  files.write_json(path, {'weights': settings.weights, 'dihedral': settings.dihedral,
                            'members': chosen})


def measure(config, predictor: score.Predictor, inputs: method.Inputs, segmentations,
            folder: Path) -> None:
  """Writes results.json and porosity.json: see the module docstring."""
  setting = region_scores.make_setting(config, inputs.regions)
  val_mryx, test_mryx = (region_scores.score_regions(predictor, inputs.prepared, side,
                                                     setting.margin_px)
                         for side in (setting.val, setting.test))
  kinds = {f'member {k}': scores for k, scores in enumerate(zip(
      val_mryx, test_mryx, strict=True))}
  kinds['ensemble'] = val_mryx.mean(0), test_mryx.mean(0)
  rows = []
  for name, (val_ryx, test_ryx) in kinds.items():
    found, _ = region_scores.measure(setting, val_ryx, test_ryx)
    rows.append({'name': name, **found})
    progress.say(f'{name}: test mIoU {rows[-1]["miou_after"]:.4f}, ECE '
                 f'{rows[-1]["ece"]:.4f}')
  files.write_json(folder / 'porosity.json', {
      name: volume_porosity(config, predictor, inputs, segmentations[name], name,
                            files.read_json(folder / 'postprocess.json'))
      for name in inputs.prepared})
  alone = rows[:-1]
  mean = {key: float(np.mean([row[key] for row in alone]))
          for key, value in alone[0].items() if isinstance(value, float)}
  deviation = {key: float(np.std([row[key] for row in alone], ddof=1))
               for key in mean} if len(alone) > 1 else {}
  files.write_json(folder / 'results.json', {
      'prior_offset': setting.prior_offset, 'members': alone, 'mean_member': mean,
      'sd_of_members': deviation, 'ensemble': rows[-1]})


def volume_porosity(config, predictor: score.Predictor, inputs: method.Inputs,
                    segmentation, name: str, chosen: dict) -> dict:
  """Porosity of a volume with its interval (analysis/uncertainty.py).

  Each member's bias is that on the volume's validation regions, a slice being a block.
  Its porosity is that of the ensemble's segmentation, plus what sets it apart from the
  ensemble in random windows. Sampling comes from the two-point function of the
  segmentation. All are post-processed with what was tuned for the ensemble, without the
  removal of small objects.
  """
  regions = select_regions(inputs.regions, split='val', volume=name)
  manual, automatic, slices = [], [], []
  _, labels_mryx = _label_regions(config, predictor, inputs.prepared, regions, chosen)
  for r in range(len(regions.volume)):
    mask_yx = region_mask(regions, r)
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
  return make_regions(
      (name,) * _WINDOWS, positions, [np.zeros(side_yx, np.uint8)] * _WINDOWS,
      ['test'] * _WINDOWS)


def _label_regions(config, predictor, prepared, regions: Regions, chosen):
  """[r, y, x] labels of the ensemble and [m, r, y, x] of each member, in regions."""
  kernel = config.postprocess.kernel
  margin = postprocess.margin_px(chosen['sigma_px'], kernel)
  inside = slice(margin, -margin or None)
  scores_mryx = region_scores.score_regions(predictor, prepared, regions, margin)
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
  found = two_point.sampling_sd(read_box(segmentation, start, stop) == 0)
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
  config, folder = segmenter.open_run(folder)
  if not (folder / 'ensemble.json').exists():
    raise InputError(str(folder), got='no ensemble', expected='a finished one',
                     remedy='run `fibjax ensemble` with this workdir first')
  predictor = registry.open_predictor(config, folder)
  chosen = files.read_json(folder / 'postprocess.json')
  make_film, porosity = coverage.free_films(preset, shape_zyx,
                                            artefacts=config.data.artefacts)
  return coverage.coverage_experiment(
      functools.partial(_label_film, config, predictor, chosen), make_film, porosity,
      seed=seed, n_films=films)


def _label_film(config, predictor: score.Predictor, chosen: dict,
                image_zyx: np.ndarray) -> np.ndarray:
  """[m, z, y, x] labels of each member of a film in memory."""
  with tempfile.TemporaryDirectory() as folder:
    folder = Path(folder)
    with new_volume(folder / 'raw', image_zyx.shape, image_zyx.dtype,
                            None) as raw:
      write_box(raw, (0, 0, 0), image_zyx)
    scaling.prepare_volume(open_volume(folder / 'raw'), folder / 'film',
                             scale=config.prepare.scale,
                             gradient=config.prepare.gradient)
    depth, *extent_yx = image_zyx.shape
    slices = make_regions(
        ('film',) * depth, [(z, 0, 0) for z in range(depth)],
        [np.zeros(extent_yx, np.uint8)] * depth, ['test'] * depth)
    film = {'film': open_volume(folder / 'film')}
    return tuple(_label_regions(config, predictor, film, slices, chosen))[1]
