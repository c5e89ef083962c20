"""The main job: data -> train -> segment -> post-process -> evaluate -> report.

Each stage finds its input in the workdir, and what it makes appears there under its
name only when it is whole. A stage whose output is there is skipped, so a second call
goes on where the first was stopped, and ends with the same numbers.
"""
import csv
import io
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fibjax import config as configs
from fibjax import (
  datasets,
  infer,
  metrics,
  models,
  patches,
  postprocess,
  progress,
  sampling,
  train,
  workdir,
)
from fibjax.analysis import porosity
from fibjax.checks import InputError
from fibjax.config import SPLITS
from fibjax.data import regions as region_tables
from fibjax.data import volume as volumes
from fibjax.data.regions import Regions
from fibjax.data.volume import Volume
from fibjax.prep import intensity
from fibjax.report import page


class Inputs(NamedTuple):
  """What the stages after the data work on.

  Attributes:
    prepared: volumes by name, float32 in about [0, 1].
    regions: annotated regions with splits.
    model: network of the config.
  """
  prepared: dict[str, Volume]
  regions: Regions
  model: models.Model


def run(config, folder) -> dict:
  """Does the whole job; finished stages are skipped.

  Returns:
    The content of metrics.json.

  Raises:
    InputError: when the workdir is in use or belongs to another config.
  """
  folder = Path(folder)
  with workdir.lock(folder):
    claim(config, folder)
    inputs = prepare(config, folder)
    params = fit(config, inputs, folder)
    scores = score(config, inputs, params, folder)
    segmentations = segment(config, inputs, scores, folder)
    if not (folder / 'metrics.json').exists():
      evaluate(config, inputs, scores, segmentations, folder)
    page.write_report(folder)
    return workdir.read_json(folder / 'metrics.json')


def train_only(config, folder, resume: bool) -> dict:
  """Data and training; returns the metrics of the best epoch.

  Raises:
    InputError: when there are checkpoints already and resume is not asked for.
  """
  folder = Path(folder)
  with workdir.lock(folder):
    claim(config, folder)
    if (folder / 'checkpoints').exists() and not resume:
      raise InputError(str(folder), got='a training that has begun',
                       expected='an empty workdir, or --resume',
                       remedy='add --resume to go on, or choose another --workdir')
    fit(config, prepare(config, folder), folder)
    return train.best_row(folder)


def open_run(folder) -> tuple:
  """The config and workdir of a run that exists.

  Raises:
    InputError: when folder is not a workdir.
  """
  folder = Path(folder)
  return configs.from_dict(workdir.read_json(folder / 'config.json')), folder


def segment_other(folder, source, out, mode: str) -> Path:
  """Applies a finished run to another volume of the same kind of material.

  Args:
    folder: workdir of the run.
    source: raw volume.
    out: folder for prepared.ome.zarr, scores.ome.zarr and segmentation.ome.zarr.
    mode: 'auto', 'dense' or 'patch'.

  Returns:
    Path of the segmentation.
  """
  config, folder = open_run(folder)
  chosen = workdir.read_json(folder / 'postprocess.json')
  model = models.make_model(config.model)
  params = train.load_best(model, config, folder)
  with workdir.lock(out) as out:
    prepared = out / 'prepared.ome.zarr'
    if not prepared.exists():
      workdir.write_json(out / 'preprocessing.json', intensity.prepare_volume(
          volumes.open_volume(source), prepared, scale=config.prepare.scale,
          gradient=config.prepare.gradient))
    scores = infer.score_volume(
        model, params, volumes.open_volume(prepared), out / 'scores.ome.zarr',
        mode=mode, tile_px=config.segment.tile_px, batch=config.segment.batch)
    result = out / 'segmentation.ome.zarr'
    if not result.exists():
      segment_scores(scores, result, chosen['sigma_px'], chosen['threshold'],
                     config.postprocess)
  return result


def evaluate_again(folder) -> dict:
  """Writes metrics.json of a run whose segmentation is there, and returns it."""
  config, folder = open_run(folder)
  with workdir.lock(folder):
    inputs = prepare(config, folder)
    opened = [{name: volumes.open_volume(folder / f'{kind}.ome.zarr' / name)
               for name in inputs.prepared} for kind in ('scores', 'segmentation')]
    return evaluate(config, inputs, *opened, folder)


def claim(config, folder: Path) -> None:
  """Writes config.json and versions.json, or checks that the workdir is this config's.

  Raises:
    InputError: when the workdir was made with other settings; names them.
  """
  path, content = folder / 'config.json', configs.to_dict(config)
  if path.exists():
    differing = sorted(_differences(workdir.read_json(path), content, ''))
    if differing:
      raise InputError(str(folder), got=f'other settings: {"; ".join(differing)}',
                       expected='the settings the workdir was made with',
                       remedy='choose another --workdir, or the same settings')
    return
  workdir.write_versions(folder)
  workdir.write_json(path, content)


def _differences(found: dict, wanted: dict, prefix: str):
  for key in set(found) | set(wanted):
    old, new = (side.get(key) for side in (found, wanted))
    if isinstance(old, dict) and isinstance(new, dict):
      yield from _differences(old, new, f'{prefix}{key}.')
    elif old != new:
      yield f'{prefix}{key} was {old!r}, now {new!r}'


def prepare(config, folder: Path) -> Inputs:
  """Data and pre-processing (§1.2): prepared.ome.zarr, preprocessing.json."""
  model = models.make_model(config.model)
  raw, regions = datasets.collect(
      config, (model.n_z, model.window_px, model.window_px), folder)
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
  prepared = {name: volumes.open_volume(group / name) for name in raw}
  return Inputs(prepared, regions, model)


def fit(config, inputs: Inputs, folder: Path):
  """Trains, or goes on training, and returns the best weights."""
  if not train.is_finished(config, folder):
    sides = []
    for split in ('train', 'val'):
      regions = region_tables.select(inputs.regions, split=split)
      context_ryxc = patches.cut_contexts(inputs.prepared, regions,
                                          inputs.model.before_px, inputs.model.n_z)
      sides.append(sampling.put_regions(
          context_ryxc, regions.masks_ryx,
          balanced=config.train.sampling == 'dense'
          and config.train.balance == 'classes'))
    train.train_and_evaluate(config, inputs.model, *sides, folder)
  return train.load_best(inputs.model, config, folder)


def score(config, inputs: Inputs, params, folder: Path) -> dict[str, Volume]:
  """Scores every voxel of every volume: scores.ome.zarr/<name>."""
  group = volumes.create_group(folder / 'scores.ome.zarr')
  settings = config.segment
  return {name: infer.score_volume(inputs.model, params, volume, group / name,
                                   mode=settings.mode, tile_px=settings.tile_px,
                                   batch=settings.batch)
          for name, volume in inputs.prepared.items()}


def segment(config, inputs: Inputs, scores, folder: Path) -> dict[str, Volume]:
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
  made = {}
  for name, volume in scores.items():
    if not (group / name).exists():
      segment_scores(volume, group / name, chosen['sigma_px'], chosen['threshold'],
                     settings)
      progress.say(f'segmented {name}')
    made[name] = volumes.open_volume(group / name)
  return made


def _choose_postprocess(settings, regions: Regions, scores) -> dict:
  if not settings.tune:
    return {'sigma_px': settings.sigma_px, 'threshold': settings.threshold,
            'tuned': False}
  validation = region_tables.select(regions, split='val')
  margin = postprocess.margin_px(6.0, settings.kernel)
  crops = []
  for r, name in enumerate(validation.volume):
    mask_yx = region_tables.mask_of(validation, r)
    score_yx, start_yx = _crop(scores[name], validation, r, margin)
    crops.append(postprocess.RegionScore(score_yx, mask_yx, start_yx))
  best = postprocess.tune(crops, kernel=settings.kernel)
  return {'sigma_px': best.sigma_px, 'threshold': best.threshold, 'tuned': True,
          'val_miou': best.miou, 'tried': best.table.tolist()}


def _crop(volume: Volume, regions: Regions, r: int, margin_px: int):
  """A region with a margin, cut at the volume's faces: [y, x] and its offset."""
  z, y, x = (int(axis[r]) for axis in (regions.z, regions.y, regions.x))
  start = (z, max(y - margin_px, 0), max(x - margin_px, 0))
  stop = (z + 1, min(y + int(regions.heights[r]) + margin_px, volume.shape[1]),
          min(x + int(regions.widths[r]) + margin_px, volume.shape[2]))
  return volumes.read_box(volume, start, stop)[0], (y - start[1], x - start[2])


def segment_scores(scores: Volume, out: Path, sigma_px: float, threshold: float,
                   settings) -> None:
  """Post-processes a score volume: 0 pore, 1 solid."""
  labels_zyx = np.empty(scores.shape, np.uint8)
  for start, stop in volumes.slab_boxes(scores):
    labels_zyx[start[0]:stop[0]] = postprocess.double_threshold(
        volumes.read_box(scores, start, stop), sigma_px, threshold, settings.kernel)
  labels_zyx = postprocess.remove_small(
      labels_zyx, settings.min_size_vox, ndim=settings.ndim,
      connectivity=settings.connectivity)
  with volumes.new_volume(out, scores.shape, np.uint8, scores.voxel_size_zyx_nm,
                          fill_value=None) as volume:
    for start, stop in volumes.slab_boxes(volume):
      volumes.write_box(volume, start, labels_zyx[start[0]:stop[0]])


def evaluate(config, inputs: Inputs, scores, segmentations, folder: Path) -> dict:
  """Computes metrics.json and porosities.csv from what is in the workdir (§1.8)."""
  regions = inputs.regions
  rows = [_region_row(regions, r, scores, segmentations)
          for r in range(len(regions.volume))]
  names = sorted(scores)
  result = {split: _pooled(rows, split, None) for split in SPLITS}
  result['per_volume'] = {name: {split: _pooled(rows, split, name) for split in SPLITS}
                          for name in names}
  chosen = workdir.read_json(folder / 'postprocess.json')
  result['postprocess'] = {k: chosen[k] for k in ('sigma_px', 'threshold')}
  labelled = [row for row in rows if row['manual'] is not None]
  result['porosity_tests'] = {
      name: porosity.compare_porosities(
          *([row[which] for row in labelled if row['volume'] == name]
            for which in ('manual', 'automatic')), config.seed)
      for name in names if name in {row['volume'] for row in labelled}}
  result['threshold_baseline'] = {
      name: _threshold_baseline(inputs, name) for name in names}
  result['whole_volume'] = {
      name: _whole_volume(segmentations[name], datasets.open_truth(name, folder))
      for name in names}
  workdir.write_text(folder / 'porosities.csv', _to_csv(
      [{k: v for k, v in row.items() if k not in ('before', 'after')}
       for row in rows]))
  workdir.write_json(folder / 'metrics.json', result)
  return result


def _region_row(regions: Regions, r: int, scores, segmentations) -> dict:
  name, mask_yx = regions.volume[r], region_tables.mask_of(regions, r)
  score_yx, _ = _crop(scores[name], regions, r, 0)
  label_yx, _ = _crop(segmentations[name], regions, r, 0)
  after = metrics.confusion(mask_yx, label_yx)
  total = after.sum()
  return {'volume': name, 'split': regions.split[r], 'z': int(regions.z[r]),
          'y': int(regions.y[r]), 'x': int(regions.x[r]),
          'manual': float(after[0].sum() / total) if total else None,
          'automatic': float(after[:, 0].sum() / total) if total else None,
          'before': metrics.confusion(mask_yx, (score_yx > 0.5).astype(np.uint8)),
          'after': after}


def _pooled(rows, split: str, name: str | None) -> dict:
  chosen = [row for row in rows if row['split'] == split
            and name in (None, row['volume'])]
  empty = np.zeros((2, 2), np.int64)
  return {when: metrics.summarise(sum((row[when] for row in chosen), empty))
          for when in ('before', 'after')}


def _threshold_baseline(inputs: Inputs, name: str) -> dict:
  """The best single grey threshold on the test regions, the answer in hand."""
  regions = region_tables.select(inputs.regions, split='test', volume=name)
  count = range(len(regions.volume))
  if not count:
    return {'miou': None, 'threshold': None}
  return metrics.best_global_threshold(
      [_crop(inputs.prepared[name], regions, r, 0)[0] for r in count],
      [region_tables.mask_of(regions, r) for r in count])


def _whole_volume(segmentation: Volume, truth: Volume | None) -> dict:
  """Metrics over all voxels where the truth is known, else the porosity alone."""
  counts, pores, total = np.zeros((2, 2), np.int64), 0, 0
  for start, stop in volumes.slab_boxes(segmentation):
    labels_zyx = volumes.read_box(segmentation, start, stop)
    pores, total = pores + int((labels_zyx == 0).sum()), total + labels_zyx.size
    if truth is not None:
      counts = counts + metrics.confusion(volumes.read_box(truth, start, stop),
                                          labels_zyx)
  result = {'porosity_automatic': pores / total}
  return result if truth is None else result | {'truth': metrics.summarise(counts)}


def _to_csv(rows: list[dict]) -> str:
  text = io.StringIO()
  writer = csv.DictWriter(text, list(rows[0]), lineterminator='\n')
  writer.writeheader()
  writer.writerows(rows)
  return text.getvalue()
