"""Comparison of all methods on the same films, in one table (§5 and §2).

For each strength of the pore-backs the films are simulated once, with their annotated
regions. Each method is a run of its own on them, in a process of its own, so that time
and memory are measured for it alone. A workdir gets films/<strength>/,
runs/<strength>/<method>/ (workdirs of `run`) and compare.json, a row for each method
and strength.
"""
import concurrent.futures
import math
import multiprocessing
import time
from pathlib import Path

from fibjax.analysis import two_point
from fibjax.config import from_dict, to_dict
from fibjax.datasets import collect
from fibjax.methods import registry
from fibjax.models.facts import FOREST, NETWORK, THRESHOLD
from fibjax.pipeline import run, stages
from fibjax.report import compare_page
from fibjax.system import files, memory, progress
from fibjax.system.run_folder import RunFolder, lock
from fibjax.volumes.volume import read_box

_NO_BACKS = 0.95  # mIoU that every method should have without pore-backs (§5)


def run_compare(config, folder) -> dict:
  """Runs all methods, or resumes, and writes compare.json and the report.

  Args:
    config: the experiment; compare.methods are names for config.model.name.
    folder: workdir.

  Returns:
    The content of compare.json.

  Raises:
    InputError: as `run.run`, from any of the runs.
  """
  workdir = RunFolder(Path(folder).resolve())
  strengths = (config.data.shine_through,)
  if collect.find_source(config.data).is_simulated:
    strengths = config.compare.shine_through
  methods = {name: registry.make_method(_config_of(config, name, strengths[0]))
             for name in config.compare.methods}
  with lock(workdir):
    stages.record_settings(config, workdir)
    rows = []
    for strength in strengths:
      films = workdir.films(strength)
      # The windows of config.model place the regions of all methods.
      own_config = _config_of(config, config.model.name, strength)
      volumes, _ = collect.collect(own_config.data, own_config.split,
                                   registry.make_method(own_config).window_zyx, films)
      rows.append({'shine_through': strength, 'method': 'truth',
                   'z_anisotropy': _mean_anisotropy(
                       collect.open_truth(name, films) for name in volumes)})
      for name in config.compare.methods:
        row = _measure_once(_config_of(config, name, strength), films,
                            workdir.method_run(strength, name))
        progress.say(f'{name} at shine-through {strength:g}: test mIoU '
                     f'{row["miou"]:.4f}')
        rows.append({'shine_through': strength, 'method': name, **row})
    roles = {name: method.facts.role for name, method in methods.items()}
    result = {'rows': rows, 'findings': check_expectations(rows, roles)}
    files.write_json(workdir.compare, result)
    compare_page.write_compare_report(
        workdir, {name: method.facts.title for name, method in methods.items()})
    return result


def _config_of(config, name: str, strength: float):
  method_config = from_dict(to_dict(config))
  method_config.model.name = name
  method_config.data.shine_through = strength
  method_config.analyse.mvoxel = 0.0
  method_config.compare.methods = ()
  return method_config


def _measure_once(config, films: RunFolder, method_run: RunFolder) -> dict:
  """The row of one method, computed unless its workdir has it."""
  if not method_run.compare.exists():
    context = multiprocessing.get_context('spawn')
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
      pool.submit(_measure, to_dict(config), method_run, films).result()
  return files.read_json(method_run.compare)


def _measure(content: dict, method_run: RunFolder, films: RunFolder) -> None:
  """Runs one method on the films and writes its row.

  Training and segmentation are timed in full: where an earlier call was stopped in the
  middle, what it left is removed and they start again. Only finished stages are kept,
  with the times that were recorded for them.
  """
  config = from_dict(content)
  method = registry.make_method(config)
  stages.record_settings(config, method_run)
  inputs = _collect_shared(config, method, method_run, films)
  training = _timed(
      method_run, 'training', (method_run.checkpoints, method_run.forest),
      lambda: method.fit and method.fit(inputs, method_run))
  segmenting = _timed(
      method_run, 'segmentation',
      (method_run.scores, method_run.segmentation, method_run.postprocess),
      lambda: stages.segment_all(config, method, inputs, method_run))
  _, segmentations = stages.segment_all(config, method, inputs, method_run)
  metrics = run.run(config, method_run)
  voxels = sum(math.prod(volume.shape) for volume in segmentations.values())
  pooled = metrics['test']['after']
  files.write_json(method_run.compare, {
      'miou': pooled['miou'], 'accuracy': pooled['accuracy'],
      'per_volume': {name: {
          'miou': scores['test']['after']['miou'],
          'best_threshold': metrics['threshold_baseline'][name]['miou'],
          'porosity_manual': scores['test']['after']['porosity_manual'],
          'porosity_automatic': scores['test']['after']['porosity_automatic']}
                     for name, scores in metrics['per_volume'].items()},
      'z_anisotropy': _mean_anisotropy(segmentations.values()),
      'seconds_training': training['seconds'],
      'seconds_per_mvoxel': 1e6 * segmenting['seconds'] / voxels,
      'peak_gib': max(training['peak_gib'], segmenting['peak_gib'])})


def _collect_shared(config, method, method_run: RunFolder, films: RunFolder):
  """The inputs of a method, from the films and regions that all methods share."""
  files.share_folder(films.data, method_run.data)
  files.share_folder(films.regions, method_run.regions)
  return stages.collect_inputs(config, method, method_run)


def _timed(method_run: RunFolder, stage: str, outputs: tuple[Path, ...],
           function) -> dict:
  """Time and memory of a stage, run in one piece unless they are recorded."""
  times = files.read_json(method_run.times) if method_run.times.exists() else {}
  if stage not in times:
    for path in outputs:
      files.remove(path)
    start = time.monotonic()
    with memory.watch_peak() as peak_bytes:
      function()
      peak = peak_bytes()
    times[stage] = {'seconds': time.monotonic() - start,
                    'peak_gib': peak / 2 ** 30}
    files.write_json(method_run.times, times)
  return times[stage]


def _mean_anisotropy(volumes) -> float | None:
  values = [two_point.z_anisotropy(
      read_box(volume, (0, 0, 0), volume.shape), volume.voxel_size_zyx_nm)
            for volume in volumes if volume is not None and volume.voxel_size_zyx_nm]
  return sum(values) / len(values) if values else None


def check_expectations(rows: list[dict], roles: dict[str, str]) -> dict:
  """Compares the scores with what §5 expects of them.

  Args:
    rows: of compare.json.
    roles: method -> `MethodFacts.role`.

  Returns:
    JSON: least mIoU without pore-backs and whether all reach 0.95; for each strength
    above 0 whether thresholds call too much solid in every volume, and whether in
    every volume the first network is ahead of the forest (and by how much at least)
    and the forest of the best threshold. Only what the methods allow.
  """
  by_strength = {}
  for row in rows:
    if row['method'] != 'truth':
      by_strength.setdefault(row['shine_through'], {})[row['method']] = row
  findings = {}
  for strength, by_name in by_strength.items():
    if strength == 0:
      least = min(row['miou'] for row in by_name.values())
      findings['without_pore_backs'] = {'least_miou': least, 'all_near_1':
                                        least >= _NO_BACKS}
      continue
    findings[f'{strength:g}'] = _with_pore_backs({
        role: [row['per_volume'] for name, row in by_name.items()
               if roles[name] == role] for role in (NETWORK, FOREST, THRESHOLD)})
  return findings


def _with_pore_backs(scores: dict[str, list[dict]]) -> dict:
  """Findings at one strength; role -> scores per volume of each of its methods."""
  findings = {}
  if scores[THRESHOLD]:
    findings['thresholds_overestimate_solid'] = all(
        volume['porosity_automatic'] < volume['porosity_manual']
        for per_volume in scores[THRESHOLD] for volume in per_volume.values())
  if scores[NETWORK] and scores[FOREST]:
    network, forest = scores[NETWORK][0], scores[FOREST][0]
    findings['network_ahead_of_forest_by'] = min(
        network[name]['miou'] - forest[name]['miou'] for name in network)
    findings['forest_ahead_of_best_threshold'] = all(
        volume['miou'] > volume['best_threshold'] for volume in forest.values())
  return findings
