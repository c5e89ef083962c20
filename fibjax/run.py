"""The main job: data, train, segment, post-process, evaluate, analyse, report.

Each stage finds its input in the workdir, and what it makes appears there under its
name only when it is whole. A stage whose output is there is skipped, so a second call
goes on where the first was stopped, and ends with the same numbers.
"""
import contextlib
import shutil
from pathlib import Path
from typing import NamedTuple

from fibjax import (
  analyse,
  datasets,
  evaluate,
  experts,
  losses,
  members,
  methods,
  models,
  patches,
  postprocess,
  progress,
  sampling,
  workdir,
)
from fibjax import config as configs
from fibjax.baselines import classical, forest_run
from fibjax.checks import InputError
from fibjax.cluster import HERE, Resources
from fibjax.data import keras_weights, zenodo
from fibjax.data import regions as region_tables
from fibjax.data import volume as volumes
from fibjax.data.regions import Regions
from fibjax.data.volume import Volume
from fibjax.prep import intensity
from fibjax.report import page
from fibjax.sampling import DeviceRegions
from fibjax.segment import segment_scores

# What only work can make again: trainings, scores and segmentations, begun ones too.
_OF_WORTH = ('checkpoints', 'forest.npz', 'sweep/groups', 'runs/*', 'forest/*',
             '*scores.ome.zarr*', '*segmentation.ome.zarr*')


class Inputs(NamedTuple):
  """What the stages after the data work on.

  Attributes:
    prepared: volumes by name, float32 in about [0, 1].
    regions: annotated regions with splits.
    model: network of the config; None for other methods.
  """
  prepared: dict[str, Volume]
  regions: Regions
  model: models.Model | None


def run(config, folder, resources: Resources = HERE) -> dict:
  """Does the whole job; finished stages are skipped.

  Args:
    config: the experiment.
    folder: workdir.
    resources: where volumes are scored and segmented.

  Returns:
    The content of metrics.json.

  Raises:
    InputError: when the workdir is in use or belongs to another config.
  """
  folder = Path(folder)
  with no_trace_of_mistakes(folder), workdir.lock(folder):
    claim(config, folder)
    inputs = prepare(config, folder)
    fit(config, inputs, folder)
    scores, segmentations = segment_all(config, inputs, folder, resources)
    if not (folder / 'metrics.json').exists():
      write_metrics(config, inputs, scores, segmentations, folder)
    if config.analyse.mvoxel:
      analyse.analyse_run(config.analyse.mvoxel, segmentations,
                          {name: datasets.open_truth(name, folder)
                           for name in segmentations}, folder)
    page.write_report(folder)
    return workdir.read_json(folder / 'metrics.json')


def segment_all(config, inputs: Inputs, folder: Path,
                resources: Resources = HERE) -> tuple[dict, dict]:
  """Scores and segmentations of all volumes by name.

  A classical method has no scores: its labels stand for both.
  """
  if methods.is_classical(config):
    group = volumes.create_group(folder / 'segmentation.ome.zarr')
    labels = {name: classical.segment_volume(config.model.name, volume, group / name)
              for name, volume in inputs.prepared.items()}
    return labels, labels
  scores = score(config, inputs, methods.open_predictor(config, folder), folder,
                 resources)
  return scores, segment(config, inputs, scores, folder, resources)


@contextlib.contextmanager
def no_trace_of_mistakes(folder: Path):
  """Empties a new workdir again when a mistake ends the call before any training.

  The corrected command can then use the same workdir. What took work stays.
  """
  existed = folder.exists()
  new = not existed or (folder.is_dir() and not any(folder.iterdir()))
  try:
    yield
  except InputError:
    if new and folder.is_dir() and not any(any(folder.glob(k)) for k in _OF_WORTH):
      for child in folder.iterdir():
        shutil.rmtree(child) if child.is_dir() else child.unlink()
      if not existed:
        folder.rmdir()
    raise


def train_only(config, folder, resume: bool) -> dict:
  """Data and training; returns the metrics of the best epoch.

  Raises:
    InputError: when there are checkpoints already and resume is not asked for.
  """
  folder = Path(folder)
  with no_trace_of_mistakes(folder), workdir.lock(folder):
    claim(config, folder)
    if methods.is_classical(config):
      methods.open_predictor(config, folder)  # says that there is none
    if config.train.weights:
      raise InputError('config.train.weights', got=config.train.weights,
                       expected="'' to train", remedy='use fibjax run, or leave it out')
    begun = any((folder / name).exists() for name in ('checkpoints', 'forest.npz'))
    if begun and not resume:
      raise InputError(str(folder), got='a training that has begun',
                       expected='an empty workdir, or --resume',
                       remedy='add --resume to go on, or choose another --workdir')
    fit(config, prepare(config, folder), folder)
    if config.model.name == methods.FOREST:
      return max(workdir.read_json(folder / 'forest.json'),
                 key=lambda row: row['val_miou'])
    return members.best_row(members.read_rows(folder))


def open_run(folder) -> tuple:
  """The config and workdir of a run that exists.

  Raises:
    InputError: when folder is not a workdir.
  """
  folder = Path(folder)
  return configs.from_dict(workdir.read_json(folder / 'config.json')), folder


def segment_other(folder, source, out, mode: str,
                  resources: Resources = HERE) -> Path:
  """Applies a finished run to another volume of the same kind of material.

  Args:
    folder: workdir of the run.
    source: raw volume.
    out: folder for prepared.ome.zarr, scores.ome.zarr and segmentation.ome.zarr.
    mode: 'auto', 'dense' or 'patch'.
    resources: where to work.

  Returns:
    Path of the segmentation.
  """
  config, folder = open_run(folder)
  chosen = _postprocess_of(config, folder)
  predictor = methods.open_predictor(config, folder)
  raw = volumes.open_volume(Path(source).resolve())
  for network in predictor.models if methods.is_network(config) else (None,):
    datasets.check_window(str(source), raw.shape, methods.window_zyx(config, network))
  with no_trace_of_mistakes(Path(out)), workdir.lock(out) as out:
    prepared = out / 'prepared.ome.zarr'
    if not prepared.exists():
      intensity.prepare_volume(raw, prepared, scale=config.prepare.scale,
                               gradient=config.prepare.gradient)
    record = volumes.open_volume(prepared).attributes['preprocessing']
    if record['source'] != str(raw.path):
      raise InputError(str(out), got=f'results of {record["source"]}',
                       expected=f'none, or those of {raw.path}',
                       remedy='choose another --out')
    workdir.write_json(out / 'preprocessing.json', record)
    scores = methods.score_volume(predictor, volumes.open_volume(prepared),
                                  out / 'scores.ome.zarr', mode, resources)
    result = out / 'segmentation.ome.zarr'
    segment_scores(scores, result, chosen['sigma_px'], chosen['threshold'],
                   config.postprocess, resources)
  return result


def _postprocess_of(config, folder: Path) -> dict:
  """The tuned post-processing of a run; the config's where it was only trained."""
  if (folder / 'postprocess.json').exists():
    return workdir.read_json(folder / 'postprocess.json')
  settings = config.postprocess
  progress.say(f'post-processing is not tuned (`fibjax run` does that): sigma '
               f'{settings.sigma_px} px, threshold {settings.threshold}')
  return {'sigma_px': settings.sigma_px, 'threshold': settings.threshold}


def evaluate_again(folder) -> dict:
  """Writes metrics.json of a run whose segmentation is there, and returns it."""
  config, folder = open_run(folder)
  scored = 'segmentation' if methods.is_classical(config) else 'scores'
  with workdir.lock(folder):
    inputs = prepare(config, folder)
    opened = [{name: volumes.open_volume(folder / f'{kind}.ome.zarr' / name)
               for name in inputs.prepared} for kind in (scored, 'segmentation')]
    return write_metrics(config, inputs, *opened, folder)


def analyse_again(folder, mvoxel: float | None = None) -> dict:
  """Measures the segmentations of a run anew: analysis.json and the report.

  Args:
    folder: workdir.
    mvoxel: largest box, million voxels; None: that of the config.

  Raises:
    InputError: when folder is no workdir, nothing is segmented, or mvoxel is 0.
  """
  config, folder = open_run(folder)
  mvoxel = config.analyse.mvoxel if mvoxel is None else mvoxel
  if not mvoxel:
    raise InputError('config.analyse.mvoxel', got=0, expected='a size to measure',
                     remedy='give --mvoxel')
  group = folder / 'segmentation.ome.zarr'
  names = sorted(path.name for path in group.glob('*')
                 if path.is_dir() and path.suffix != '.partial')
  if not names:
    raise InputError(str(folder), got='no segmentation', expected='a finished run',
                     remedy='run it to its end first')
  with workdir.lock(folder):
    (folder / 'analysis.json').unlink(missing_ok=True)
    found = analyse.analyse_run(
        mvoxel, {name: volumes.open_volume(group / name) for name in names},
        {name: datasets.open_truth(name, folder) for name in names}, folder)
    page.write_report(folder)
  return found


def claim(config, folder: Path) -> None:
  """Writes config, inputs and versions .json, or checks that the workdir is theirs.

  Raises:
    InputError: when the workdir was made with other settings; names them.
  """
  path, content = folder / 'config.json', configs.to_dict(config)
  found, inputs = folder / 'inputs.json', datasets.fingerprint(config)
  if path.exists():
    differing = sorted(workdir.differences(workdir.read_json(path), content))
    differing += sorted(workdir.differences(workdir.read_json(found), inputs))
    if differing:
      raise InputError(str(folder), got=f'other settings: {"; ".join(differing)}',
                       expected='the settings and files the workdir was made with',
                       remedy='choose another --workdir, or the same settings')
    return
  workdir.write_versions(folder)
  workdir.write_json(found, inputs)
  workdir.write_json(path, content)


def prepare(config, folder: Path) -> Inputs:
  """Data and pre-processing (§1.2): prepared.ome.zarr, preprocessing.json."""
  losses.make_loss(config.train.loss)  # a mistake in it is told before any work
  model = methods.make_network(config)
  raw, regions = datasets.collect(config, methods.window_zyx(config, model), folder)
  if model is not None:
    trained = _trained_regions(config, regions)
    patches.check_memory(region_tables.concatenate(trained), model.before_px, model.n_z)
    sampling.make_plan(config.train, config.data.seed,
                       *(side.masks_ryx for side in trained))
  return Inputs(prepare_volumes(config, raw, folder), regions, model)


def prepare_volumes(config, raw: dict[str, Volume], folder: Path) -> dict[str, Volume]:
  """Pre-processes volumes, or goes on: prepared.ome.zarr, preprocessing.json (§1.2)."""
  group = volumes.create_group(folder / 'prepared.ome.zarr')
  record_path = folder / 'preprocessing.json'
  records = workdir.read_json(record_path) if record_path.exists() else {}
  for name, volume in raw.items():
    if name not in records or not (group / name).exists():
      shutil.rmtree(group / name, ignore_errors=True)  # made by a killed run
      records[name] = intensity.prepare_volume(
          volume, group / name, scale=config.prepare.scale,
          gradient=config.prepare.gradient)
      workdir.write_json(record_path, records)
      progress.say(f'prepared {name}')
  return {name: volumes.open_volume(group / name) for name in raw}


def _trained_regions(config, regions: Regions) -> list[Regions]:
  """Training and validation regions, one per place."""
  return [experts.merge_regions(region_tables.select(regions, split=split),
                                config.train.consensus)[0]
          for split in ('train', 'val')]


def fit(config, inputs: Inputs, folder: Path) -> None:
  """Trains, goes on training, or takes the weights of train.weights.

  A classical method has nothing to train.
  """
  if config.model.name == methods.FOREST:
    forest_run.train(config, inputs.prepared, *_trained_regions(config, inputs.regions),
                     folder)
  elif not methods.is_network(config) or members.is_finished(config, folder):
    return
  elif config.train.weights:
    path = config.train.weights
    if path == 'archive':
      path = zenodo.find_weights(config.data.root, config.model.n_xy, config.model.n_z)
    params = keras_weights.read_weights(path, models.empty_params(inputs.model))
    members.save_single(inputs.model, config, folder, params, params, [])
  else:
    members.train_and_evaluate(config, inputs.model, *put_sides(config, inputs), folder)


def put_sides(config, inputs: Inputs) -> list[DeviceRegions]:
  """Training and validation regions on the device, with the config's weights."""
  sides, settings = [], config.train
  for split in ('train', 'val'):
    regions, targets_ryx = experts.merge_regions(
        region_tables.select(inputs.regions, split=split), settings.consensus)
    context_ryxc = patches.cut_contexts(inputs.prepared, regions,
                                        inputs.model.before_px, inputs.model.n_z)
    sides.append(sampling.put_regions(
        context_ryxc, regions.masks_ryx, targets_ryx=targets_ryx,
        balanced=settings.sampling == 'dense' and settings.balance == 'classes',
        border_weight=settings.border_weight,
        border_sigma_px=settings.border_sigma_px))
  return sides


def score(config, inputs: Inputs, predictor, folder: Path,
          resources: Resources) -> dict[str, Volume]:
  """Scores every voxel of every volume by what `methods.open_predictor` gave:
  scores.ome.zarr/<name>."""
  group = volumes.create_group(folder / 'scores.ome.zarr')
  return {name: methods.score_volume(predictor, volume, group / name,
                                     config.segment.mode, resources)
          for name, volume in inputs.prepared.items()}


def segment(config, inputs: Inputs, scores, folder: Path,
            resources: Resources) -> dict[str, Volume]:
  """Tunes and applies the post-processing: segmentation.ome.zarr/<name> (§1.10)."""
  settings = config.postprocess
  path = folder / 'postprocess.json'
  if not path.exists():
    chosen = _choose_postprocess(settings, inputs.regions, scores)
    workdir.write_json(path, chosen)
    progress.say(f'post-processing: sigma {chosen["sigma_px"]:.2f} px, threshold '
                 f'{chosen["threshold"]:.3f}')
  chosen = workdir.read_json(path)
  group = volumes.create_group(folder / 'segmentation.ome.zarr')
  return {name: segment_scores(volume, group / name, chosen['sigma_px'],
                               chosen['threshold'], settings, resources)
          for name, volume in scores.items()}


def _choose_postprocess(settings, regions: Regions, scores) -> dict:
  if not settings.tune:
    return {'sigma_px': settings.sigma_px, 'threshold': settings.threshold,
            'tuned': False}
  validation = region_tables.select(regions, split='val')
  margin = postprocess.margin_px(6.0, settings.kernel)
  crops = []
  for r, name in enumerate(validation.volume):
    mask_yx = region_tables.mask_of(validation, r)
    score_yx, start_yx = evaluate.crop_region(scores[name], validation, r, margin)
    crops.append(postprocess.RegionScore(score_yx, mask_yx, start_yx))
  best = postprocess.tune(crops, kernel=settings.kernel)
  return {'sigma_px': best.sigma_px, 'threshold': best.threshold, 'tuned': True,
          'val_miou': best.miou, 'tried': best.table.tolist()}


def write_metrics(config, inputs: Inputs, scores, segmentations, folder: Path) -> dict:
  """metrics.json and porosities.csv of what is in the workdir."""
  truths = {name: datasets.open_truth(name, folder) for name in scores}
  result, rows = evaluate.evaluate(inputs.prepared, inputs.regions, scores,
                                   segmentations, truths, config.data.seed)
  if not methods.is_classical(config):
    chosen = workdir.read_json(folder / 'postprocess.json')
    result['postprocess'] = {k: chosen[k] for k in ('sigma_px', 'threshold')}
  workdir.write_text(folder / 'porosities.csv', rows)
  workdir.write_json(folder / 'metrics.json', result)
  return result
