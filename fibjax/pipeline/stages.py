"""TODO fibjax.pipeline.stages."""
import shutil
from pathlib import Path

from fibjax.annotation import contexts
from fibjax.annotation.regions import (
  Regions,
  concatenate_regions,
  region_mask,
  select_regions,
)
from fibjax.config import to_dict
from fibjax.datasets import collect
from fibjax.errors import InputError
from fibjax.evaluation import evaluate
from fibjax.inference import postprocess
from fibjax.inference.segment import segment_scores
from fibjax.methods import classical, registry
from fibjax.methods.method import Inputs
from fibjax.methods.network import _trained_regions
from fibjax.preparation import scaling
from fibjax.system import files, progress, provenance
from fibjax.system.cluster import HERE, Resources
from fibjax.training import loss_expression, sampling
from fibjax.volumes.volume import Volume, create_group, open_volume


def segment_all(config, inputs: Inputs, folder: Path,
                resources: Resources = HERE) -> tuple[dict, dict]:
  """Scores and segmentations of all volumes by name.

  A classical method has no scores: its labels stand for both.
  """
  if registry.is_classical(config):
    group = create_group(folder / 'segmentation.ome.zarr')
    labels = {name: classical.segment_volume(config.model.name, volume, group / name)
              for name, volume in inputs.prepared.items()}
    return labels, labels
  scores = score(config, inputs, registry.open_predictor(config, folder), folder,
                 resources)
  return scores, segment(config, inputs, scores, folder, resources)


def claim(config, folder: Path) -> None:
  """Writes config, inputs and versions .json, or checks that the workdir is theirs.

  Raises:
    InputError: when the workdir was made with other settings; names them.
  """
  path, content = folder / 'config.json', to_dict(config)
  found, inputs = folder / 'inputs.json', collect.fingerprint(config)
  if path.exists():
    differing = sorted(provenance.differences(files.read_json(path), content))
    differing += sorted(provenance.differences(files.read_json(found), inputs))
    if differing:
      raise InputError(str(folder), got=f'other settings: {"; ".join(differing)}',
                       expected='the settings and files the workdir was made with',
                       remedy='choose another --workdir, or the same settings')
    return
  provenance.write_versions(folder)
  files.write_json(found, inputs)
  files.write_json(path, content)


def prepare(config, folder: Path) -> Inputs:
  """Data and pre-processing (§1.2): prepared.ome.zarr, preprocessing.json."""
  loss_expression.make_loss(config.train.loss)  # a mistake in it is told before any work
  model = registry.make_network(config)
  raw, regions = collect.collect(config, registry.window_zyx(config, model), folder)
  if model is not None:
    trained = _trained_regions(config, regions)
    contexts.check_memory(concatenate_regions(trained), model.before_px, model.n_z)
    sampling.make_plan(config.train, config.data.seed,
                       *(side.masks_ryx for side in trained))
  return Inputs(prepare_volumes(config, raw, folder), regions, model)


def prepare_volumes(config, raw: dict[str, Volume], folder: Path) -> dict[str, Volume]:
  """Pre-processes volumes, or goes on: prepared.ome.zarr, preprocessing.json (§1.2)."""
  group = create_group(folder / 'prepared.ome.zarr')
  record_path = folder / 'preprocessing.json'
  records = files.read_json(record_path) if record_path.exists() else {}
  for name, volume in raw.items():
    if name not in records or not (group / name).exists():
      shutil.rmtree(group / name, ignore_errors=True)  # made by a killed run
      records[name] = scaling.prepare_volume(
          volume, group / name, scale=config.prepare.scale,
          gradient=config.prepare.gradient)
      files.write_json(record_path, records)
      progress.say(f'prepared {name}')
  return {name: open_volume(group / name) for name in raw}


def score(config, inputs: Inputs, predictor, folder: Path,
          resources: Resources) -> dict[str, Volume]:
  """Scores every voxel of every volume by what `methods.open_predictor` gave:
  scores.ome.zarr/<name>."""
  group = create_group(folder / 'scores.ome.zarr')
  return {name: registry.score_volume(predictor, volume, group / name,
                                     config.segment.mode, resources)
          for name, volume in inputs.prepared.items()}


def segment(config, inputs: Inputs, scores, folder: Path,
            resources: Resources) -> dict[str, Volume]:
  """Tunes and applies the post-processing: segmentation.ome.zarr/<name> (§1.10)."""
  settings = config.postprocess
  path = folder / 'postprocess.json'
  if not path.exists():
    chosen = _choose_postprocess(settings, inputs.regions, scores)
    files.write_json(path, chosen)
    progress.say(f'post-processing: sigma {chosen["sigma_px"]:.2f} px, threshold '
                 f'{chosen["threshold"]:.3f}')
  chosen = files.read_json(path)
  group = create_group(folder / 'segmentation.ome.zarr')
  return {name: segment_scores(volume, group / name, chosen['sigma_px'],
                               chosen['threshold'], settings, resources)
          for name, volume in scores.items()}


def _choose_postprocess(settings, regions: Regions, scores) -> dict:
  if not settings.tune:
    return {'sigma_px': settings.sigma_px, 'threshold': settings.threshold,
            'tuned': False}
  validation = select_regions(regions, split='val')
  margin = postprocess.margin_px(6.0, settings.kernel)
  crops = []
  for r, name in enumerate(validation.volume):
    mask_yx = region_mask(validation, r)
    score_yx, start_yx = evaluate.crop_region(scores[name], validation, r, margin)
    crops.append(postprocess.RegionScore(score_yx, mask_yx, start_yx))
  best = postprocess.tune(crops, kernel=settings.kernel)
  return {'sigma_px': best.sigma_px, 'threshold': best.threshold, 'tuned': True,
          'val_miou': best.miou, 'tried': best.table.tolist()}


def write_metrics(config, inputs: Inputs, scores, segmentations, folder: Path) -> dict:
  """metrics.json and porosities.csv of what is in the workdir."""
  truths = {name: collect.open_truth(name, folder) for name in scores}
  result, rows = evaluate.evaluate(inputs.prepared, inputs.regions, scores,
                                   segmentations, truths, config.data.seed)
  if not registry.is_classical(config):
    chosen = files.read_json(folder / 'postprocess.json')
    result['postprocess'] = {k: chosen[k] for k in ('sigma_px', 'threshold')}
  files.write_text(folder / 'porosities.csv', rows)
  files.write_json(folder / 'metrics.json', result)
  return result
