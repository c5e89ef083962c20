"""The stages of the main job, each from what the one before left in the workdir.

A stage's output appears under its name only when it is complete, and a stage whose
output exists is skipped. So a second call resumes where the first was stopped, and ends
with the same numbers.
"""
import math
import shutil
from pathlib import Path

import numpy as np

from fibjax.annotation.regions import Regions, region_mask, select_regions
from fibjax.config import check_section, to_dict
from fibjax.datasets import collect
from fibjax.errors import InputError
from fibjax.evaluation import evaluate, region_scores
from fibjax.inference import postprocess, tuning
from fibjax.inference.network_scorer import network_scorer
from fibjax.inference.score import Scorer, score_volume
from fibjax.inference.segment import Postprocessing, segment_scores
from fibjax.methods import shared
from fibjax.methods.method import Inputs, Method
from fibjax.preparation import scaling
from fibjax.system import files, progress, provenance
from fibjax.system.cluster import HERE, Resources
from fibjax.system.devices import device_memory_bytes
from fibjax.system.run_folder import RunFolder
from fibjax.volumes.blockwise import open_finished
from fibjax.volumes.volume import (
  Volume,
  create_group,
  new_volume,
  open_volume,
  read_box,
  write_box,
)

_COPIES = 12  # of the volume, float32, that a classical method holds at most


def record_settings(config, run: RunFolder) -> None:
  """Writes config, inputs and versions .json, or checks that the workdir has the same.

  Raises:
    InputError: when the workdir was made with other settings; names them.
  """
  collect.find_source(config.data)  # mistakes are reported before any work
  content, inputs = to_dict(config), collect.fingerprint(config.data)
  weights = config.train.weights
  if weights and Path(weights).is_file():
    inputs[weights] = files.hash_files(weights)
  start = shared.resolve_start(config.train.start, config.model)
  for model in filter(None, (start, config.train.teacher)):
    inputs[model] = shared.hash_model(model)
  if run.config.exists():
    differing = sorted(provenance.differences(files.read_json(run.config), content))
    differing += sorted(provenance.differences(files.read_json(run.inputs), inputs))
    if differing:
      raise InputError(str(run.path), got=f'other settings: {"; ".join(differing)}',
                       expected='the settings and files the workdir was made with',
                       remedy='choose another --workdir, or the same settings')
    return
  provenance.write_versions(run)
  files.write_json(run.inputs, inputs)
  files.write_json(run.config, content)


def collect_inputs(config, method: Method, run: RunFolder) -> Inputs:
  """Raw volumes and regions, checked; then the prepared volumes (§1.2)."""
  raw, regions = collect.collect(config.data, config.split, method.window_zyx, run)
  if method.check is not None:
    method.check(regions)
  return Inputs(prepare_volumes(config.prepare, raw, run), regions)


def prepare_volumes(settings, raw: dict[str, Volume], run: RunFolder
                    ) -> dict[str, Volume]:
  """Scales volumes for the networks, or resumes doing so (§1.2).

  Args:
    settings: config.prepare.
    raw: volumes by name.
    run: workdir; gets the prepared volumes and their records.
  """
  group = create_group(run.prepared)
  records = files.read_json(run.preprocessing) if run.preprocessing.exists() else {}
  for name, volume in raw.items():
    if name not in records or not (group / name).exists():
      shutil.rmtree(group / name, ignore_errors=True)  # left by a killed run
      records[name] = scaling.prepare_volume(volume, group / name, scale=settings.scale,
                                             gradient=settings.gradient)
      files.write_json(run.preprocessing, records)
      progress.say(f'prepared {name}')
  return {name: open_volume(group / name) for name in raw}


def segment_all(config, method: Method, inputs: Inputs, run: RunFolder,
                resources: Resources = HERE) -> tuple[dict, dict]:
  """Scores and segmentations of all volumes by name.

  A classical method has no scores: its labels stand for both.
  """
  if method.label is not None:
    group = create_group(run.segmentation)
    labels = {name: label_volume(method, volume, group / name)
              for name, volume in inputs.prepared.items()}
    return labels, labels
  scores = score_volumes(method.open(run, config.segment.mode), inputs.prepared, run,
                         resources)
  return scores, segment_volumes(config.postprocess, inputs.regions, scores, run,
                                 resources)


def label_volume(method: Method, source: Volume, out) -> Volume:
  """Labels a prepared volume by a classical method, in memory; once.

  Args:
    method: with `label`.
    source: prepared volume.
    out: path of the label volume; a complete one is verified and returned.

  Raises:
    InputError: when the volume does not fit the memory, or as the method.
  """
  if Path(out).exists():
    return open_finished(out)
  title = method.facts.title
  needed, limit = 4 * _COPIES * math.prod(source.shape), device_memory_bytes()
  if needed > limit:
    raise InputError(str(source.path),
                     got=f'{needed / 2**30:.1f} GiB needed by {title}',
                     expected=f'at most the {limit / 2**30:.1f} GiB of this machine',
                     remedy='segment a part of it, or use a network')
  labels_zyx = method.label(read_box(source, (0, 0, 0), source.shape),
                            source.voxel_size_zyx_nm)
  with new_volume(out, source.shape, np.uint8, source.voxel_size_zyx_nm,
                  fill_value=None, attributes={'method': title}) as labels:
    write_box(labels, (0, 0, 0), labels_zyx)
  progress.say(f'{title}: segmented {source.path.name}')
  return open_volume(out)


def score_volumes(scorer: Scorer, prepared: dict[str, Volume], run: RunFolder,
                  resources: Resources = HERE) -> dict[str, Volume]:
  """Scores every voxel of every volume."""
  group = create_group(run.scores)
  return {name: score_volume(scorer, volume, group / name, resources=resources)
          for name, volume in prepared.items()}


def segment_volumes(settings, regions: Regions, scores: dict[str, Volume],
                    run: RunFolder, resources: Resources = HERE) -> dict[str, Volume]:
  """Chooses the post-processing on annotated regions and applies it (§1.10).

  Args:
    settings: config.postprocess.
    regions: annotated regions.
    scores: P(solid) by name.
    run: workdir; gets what was chosen, and the segmentations.
    resources: where to work.
  """
  if not run.postprocess.exists():
    chosen = _choose_postprocess(settings, regions, scores)
    files.write_json(run.postprocess, chosen)
    progress.say(tuning.sentence(chosen))
  chosen = files.read_json(run.postprocess)
  group = create_group(run.segmentation)
  return {name: segment_scores(volume, group / name,
                               postprocessing(settings, chosen, name),
                               resources=resources)
          for name, volume in scores.items()}


def postprocessing(settings, chosen: dict, name: str = '') -> Postprocessing:
  """The post-processing of config.postprocess, with the sigma and threshold chosen.

  Args:
    settings: config.postprocess.
    chosen: content of postprocess.json.
    name: volume; where per_volume lacks it, the common threshold holds.
  """
  threshold = chosen.get('per_volume', {}).get(name, chosen['threshold'])
  return Postprocessing(chosen['sigma_px'], threshold, settings.kernel,
                        settings.min_size_vox, settings.ndim, settings.connectivity)


def _choose_postprocess(settings, regions: Regions, scores) -> dict:
  """The content of postprocess.json."""
  if settings.tune == 'none':
    return {'sigma_px': settings.sigma_px, 'threshold': settings.threshold,
            'tuned': False}
  splits = ('val',) if settings.tune == 'miou' else ('train', 'val')
  chosen = [r for r, split in enumerate(regions.split) if split in splits]
  margin = postprocess.margin_px(postprocess.SIGMA_MAX_PX, settings.kernel)
  crops = []
  for r in chosen:
    score_yx, start_yx = evaluate.crop_region(scores[regions.volume[r]], regions, r,
                                              margin)
    crops.append(postprocess.RegionScore(score_yx, region_mask(regions, r), start_yx))
  choice = tuning.choose(settings.tune, crops, [regions.volume[r] for r in chosen],
                         [int(regions.z[r]) for r in chosen], kernel=settings.kernel)
  return {'tuned': True, **choice._asdict()}


def write_metrics(config, inputs: Inputs, scores, segmentations,
                  run: RunFolder) -> dict:
  """Writes metrics.json and porosities.csv of what is in the workdir.

  Args:
    config: the experiment.
    inputs: prepared volumes and annotated regions.
    scores, segmentations: by name.
    run: workdir.

  Returns:
    The content of metrics.json.
  """
  truths = {name: collect.open_truth(name, run) for name in scores}
  result, rows = evaluate.evaluate(inputs.prepared, inputs.regions, scores,
                                   segmentations, truths, config.data.seed)
  if run.postprocess.exists():
    chosen = files.read_json(run.postprocess)
    result['postprocess'] = {key: chosen[key] for key in ('sigma_px', 'threshold')}
  start = shared.resolve_start(config.train.start, config.model)
  if start and config.train.epochs:
    result['start'] = _measure_start(start, inputs)
  files.write_text(run.porosities, rows, checked=True)
  files.write_json(run.metrics, result)
  return result


def _measure_start(start: str, inputs: Inputs) -> dict:
  """Test mIoU of what training started from as it is, without any label."""
  model = shared.read_model(start)
  scorer = network_scorer(model.networks, model.params, dihedral=model.dihedral)
  how = postprocessing(check_section('postprocess', model.postprocess),
                       model.postprocess)
  test = select_regions(inputs.regions, split='test')
  labels_ryx, _ = region_scores.label_regions([scorer], how, inputs.prepared, test)
  return region_scores.region_mious(labels_ryx, test)
