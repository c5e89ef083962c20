"""Ensembles: the best members of a sweep as one segmentation, calibrated (§8.7).

The k members of lowest validation BCE, or those that are best together
(ensemble_selection.py), of one size or of several, score the volumes in one pass:
P(solid) is the mean of their probabilities, with its entropy and their mutual
information beside it. Post-processing is tuned for the mean. Its probabilities are
calibrated by one temperature, fitted on the validation regions, after the prior of
training with balanced classes is undone; the score volume holds the uncalibrated mean.
Each member is measured like the ensemble, on the same regions.

What a workdir gets beside what `sweep` and `run` make: ensemble/<k>/, the members'
weights; ensemble.json, which members they are; results.json, members and ensemble with
their calibration; porosity.json, an interval for the porosity of each volume; and with
config.ensemble.growth growth.json, what more members bring (ensemble_growth.py).
"""
import functools
import math

import numpy as np

from fibjax.analysis import two_point, uncertainty
from fibjax.annotation.regions import (
  Regions,
  make_regions,
  region_mask,
  select_regions,
)
from fibjax.errors import InputError
from fibjax.evaluation import evaluate, region_scores
from fibjax.methods import network
from fibjax.methods.method import Inputs
from fibjax.methods.registry import make_method
from fibjax.metrics.labels import UNLABELLED
from fibjax.pipeline import stages
from fibjax.pipeline.run import open_run, write_report
from fibjax.studies import (
  coverage,
  ensemble_growth,
  ensemble_selection,
  sweep,
  sweep_plan,
)
from fibjax.system import files, progress
from fibjax.system.cluster import HERE, Resources
from fibjax.system.run_folder import RunFolder, lock
from fibjax.volumes.volume import Volume, read_box

_WINDOWS, _WINDOW_PX = 24, 256  # for the spread of the members in a volume


def run_ensemble(config, folder, resources: Resources = HERE) -> dict:
  """Trains the members, or resumes, and does the whole job with the best of them.

  Args:
    config: the experiment.
    folder: workdir; may be that of a finished sweep of the same config.
    resources: where to work.

  Returns:
    The content of results.json.

  Raises:
    InputError: as `sweep.run_sweep`, or for fewer finished members than wanted.
  """
  workdir = RunFolder(folder)
  with lock(workdir):
    sweep.train_all(config, workdir, resources)
    widest = sweep_plan.largest(config)
    method = make_method(widest)
    inputs = stages.collect_inputs(widest, method, workdir)
    ensemble_selection.choose_members(config, inputs, workdir)
    scores = stages.score_volumes(method.open(workdir, config.segment.mode),
                                  inputs.prepared, workdir, resources)
    segmentations = stages.segment_volumes(config.postprocess, inputs.regions, scores,
                                           workdir, resources)
    if config.ensemble.growth and not workdir.growth.exists():
      ensemble_growth.measure_growth(config, inputs, workdir)
    if not workdir.results.exists():
      measure(config, inputs, segmentations, workdir)
    if not workdir.metrics.exists():
      stages.write_metrics(config, inputs, scores, segmentations, workdir)
    write_report(config, workdir)
    return files.read_json(workdir.results)


def measure(config, inputs: Inputs, segmentations: dict[str, Volume],
            workdir: RunFolder) -> None:
  """Writes results.json and porosity.json: see the module docstring."""
  scorers = network.member_scorers(*network.open_networks(workdir))
  setting = region_scores.make_setting(
      config.postprocess, network.is_balanced(config.train), inputs.regions)
  val_mryx, test_mryx = (region_scores.score_regions(scorers, inputs.prepared, regions,
                                                     setting.margin_px)
                         for regions in (setting.val, setting.test))
  scores = {f'member {k}': pair for k, pair in enumerate(zip(
      val_mryx, test_mryx, strict=True))}
  scores['ensemble'] = val_mryx.mean(0), test_mryx.mean(0)
  rows = []
  for name, (val_ryx, test_ryx) in scores.items():
    measured, _ = region_scores.measure(setting, val_ryx, test_ryx)
    rows.append({'name': name, **measured})
    progress.say(f'{name}: test mIoU {rows[-1]["miou_after"]:.4f}, ECE '
                 f'{rows[-1]["ece"]:.4f}')
  chosen = files.read_json(workdir.postprocess)
  how = stages.postprocessing(config.postprocess, chosen)
  label = functools.partial(region_scores.label_regions, scorers, how, inputs.prepared)
  files.write_json(workdir.porosity, {
      name: volume_porosity(label, inputs, segmentations[name], name, config.data.seed)
      for name in inputs.prepared})
  members = rows[:-1]
  mean = {key: float(np.mean([row[key] for row in members]))
          for key, value in members[0].items() if isinstance(value, float)}
  deviation = {key: float(np.std([row[key] for row in members], ddof=1))
               for key in mean} if len(members) > 1 else {}
  files.write_json(workdir.results, {
      'prior_offset': setting.prior_offset, 'members': members, 'mean_member': mean,
      'sd_of_members': deviation, 'ensemble': rows[-1]})


def volume_porosity(label, inputs: Inputs, segmentation: Volume, name: str,
                    seed: int) -> dict:
  """Estimates the porosity of a volume with its interval (analysis/uncertainty.py).

  Each member's bias is that on the volume's validation regions, a slice being a block.
  Its porosity is that of the ensemble's segmentation, plus how it differs from the
  ensemble in random windows. Sampling comes from the two-point function of the
  segmentation. All are post-processed with what was tuned for the ensemble, without the
  removal of small objects.

  Args:
    label: regions -> labels of the ensemble and of each member,
      `region_scores.label_regions`.
    inputs: prepared volumes and annotated regions.
    segmentation: of the ensemble.
    name: of the volume.
    seed: of bootstrap and windows.
  """
  regions = select_regions(inputs.regions, split='val', volume=name)
  manual, automatic, slices = [], [], []
  _, labels_mryx = label(regions)
  for r in range(len(regions.volume)):
    mask_yx = region_mask(regions, r)
    height, width = mask_yx.shape
    labelled_yx = mask_yx != UNLABELLED
    if labelled_yx.any():
      manual.append(np.mean(mask_yx[labelled_yx] == 0))
      automatic.append((labels_mryx[:, r, :height, :width][:, labelled_yx] == 0
                        ).mean(1))
      slices.append(int(regions.z[r]))
  bias = None
  if len(set(slices)) > 1:
    bias = uncertainty.region_bias(manual, np.stack(automatic, 1), seed,
                                   groups_r=slices)
  windows = _random_windows(seed, inputs.prepared[name].shape, name)
  ensemble_ryx, labels_mryx = label(windows)
  members_m = (labels_mryx == 0).mean((1, 2, 3))
  whole = evaluate.whole_volume(segmentation, None)['porosity_automatic']
  members_m += whole - np.mean(ensemble_ryx == 0)
  interval = uncertainty.porosity_interval(members_m, bias,
                                           sampling_error(segmentation))
  return interval | {'members': members_m.tolist()}


def _random_windows(seed: int, shape_zyx, name: str) -> Regions:
  """The same random windows of a volume for all members; without labels."""
  random = np.random.default_rng((seed, 3))
  depth, *extent_yx = shape_zyx
  side_yx = [min(_WINDOW_PX, extent) for extent in extent_yx]
  positions = [(int(random.integers(depth)),
                *(int(random.integers(extent - side + 1))
                  for extent, side in zip(extent_yx, side_yx, strict=True)))
               for _ in range(_WINDOWS)]
  return make_regions((name,) * _WINDOWS, positions,
                      [np.zeros(side_yx, np.uint8)] * _WINDOWS, ['test'] * _WINDOWS)


def sampling_error(segmentation: Volume, largest_vox: int = 2 ** 27
                   ) -> two_point.Sampling:
  """Sampling error of the porosity of a volume, from its central part.

  The variance of a mean falls as one over the volume, so the error of a part is scaled
  to the whole.

  Args:
    segmentation: [z, y, x] labels, 0 = pore.
    largest_vox: voxels of the part whose two-point function is computed.
  """
  depth, height, width = segmentation.shape
  side = max(1, int((largest_vox / depth) ** 0.5))
  sides = (depth, min(side, height), min(side, width))
  start = [(n - s) // 2 for n, s in zip(segmentation.shape, sides, strict=True)]
  stop = [a + s for a, s in zip(start, sides, strict=True)]
  sampling = two_point.sampling_sd(read_box(segmentation, start, stop) == 0)
  share = math.prod(sides) / math.prod(segmentation.shape)
  return sampling._replace(sd=sampling.sd * math.sqrt(share))


def check_coverage(folder, experiment: coverage.Experiment, out,
                   resources: Resources = HERE) -> dict:
  """Measures how often the intervals of a finished ensemble hold.

  Args:
    folder: workdir of the ensemble.
    experiment: settings; its artefacts are those of the ensemble's films.
    out: path of the JSON file with the result.
    resources: where films are made and measured.

  Returns:
    As `coverage.run_coverage`.

  Raises:
    InputError: when the workdir holds no finished ensemble, or as
      `coverage.run_coverage`.
  """
  config, workdir = open_run(folder)
  if not workdir.ensemble.exists():
    raise InputError(str(workdir.path), got='no ensemble', expected='a finished one',
                     remedy='run `fibjax ensemble` with this workdir first')
  return coverage.run_coverage(
      network.member_scorers(*network.open_networks(workdir)), config.prepare,
      config.postprocess, experiment._replace(artefacts=config.data.artefacts), out,
      resources)
