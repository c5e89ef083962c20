"""All methods on the same films: one table (section 5, the second half of section 2).

For each strength of the pore-backs the films are simulated once, with their annotated
regions; each method (networks, forest, classical ones) is a run of its own on them, in
a process of its own, so that its time and memory are its own. A workdir gets
films/<strength>/, runs/<strength>/<method>/ (workdirs of `run`) and compare.json, one
row for each method and strength.
"""
import concurrent.futures
import math
import multiprocessing
import os
import time
from pathlib import Path

from fibjax.analysis import two_point
from fibjax.config import from_dict, to_dict
from fibjax.datasets import collect
from fibjax.methods import registry
from fibjax.methods.network import fit
from fibjax.pipeline import run, stages
from fibjax.report import compare_page
from fibjax.system import files, memory, progress, run_folder
from fibjax.volumes.volume import read_box

_THRESHOLDS = ('otsu', 'sauvola', 'threshold_surface')
_NO_BACKS = 0.95  # mIoU that every method should have without pore-backs (section 5)


def run_compare(config, folder) -> dict:
  """Runs all methods, or goes on, and writes compare.json and the report.

  Args:
    config: the experiment; compare.methods are names for config.model.name.
    folder: workdir.

  Returns:
    The content of compare.json.

  Raises:
    InputError: as `run.run`, from any of the runs.
  """
  folder = Path(folder).resolve()
  for method in config.compare.methods:
    registry.check_name(method)
  with run_folder.undo_on_mistake(folder), run_folder.lock(folder):
    stages.claim(config, folder)
    strengths = (config.compare.shine_through if config.data.source == 'simulate'
                 else (config.data.shine_through,))
    rows = []
    for strength in strengths:
      films = folder / 'films' / f'{strength:g}'
      own = _of_method(config, 'patch_cnn', strength)  # its window, for all
      found, _ = collect.collect(
          own, registry.window_zyx(own, registry.make_network(own)), films)
      rows.append({'shine_through': strength, 'method': 'truth',
                   'z_anisotropy': _mean_anisotropy(
                       collect.open_truth(name, films) for name in found)})
      for method in config.compare.methods:
        home = folder / 'runs' / f'{strength:g}' / method
        if not (home / 'compare.json').exists():
          _in_process(_measure, to_dict(_of_method(config, method, strength)),
                      home, films)
        row = files.read_json(home / 'compare.json')
        progress.say(f'{method} at shine-through {strength:g}: test mIoU '
                     f'{row["miou"]:.4f}')
        rows.append({'shine_through': strength, 'method': method, **row})
    result = {'rows': rows, 'findings': find(rows)}
    files.write_json(folder / 'compare.json', result)
    compare_page.write_compare_report(folder)
    return result


def _of_method(config, method: str, strength: float):
  own = from_dict(to_dict(config))
  own.model.name = method
  own.data.shine_through = strength
  own.analyse.mvoxel = 0.0
  return own


def _in_process(function, *arguments) -> None:
  context = multiprocessing.get_context('spawn')
  with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
    pool.submit(function, *arguments).result()


def _measure(content: dict, home: Path, films: Path) -> None:
  """One run on the films, and its row, home/compare.json."""
  with memory.watch_peak() as peak_bytes:
    _measure_watched(content, home, films, peak_bytes)


def _measure_watched(content: dict, home: Path, films: Path, peak_bytes) -> None:
  config = from_dict(content)
  home.mkdir(parents=True, exist_ok=True)
  for name in ('data', 'regions'):
    if not (home / name).exists():
      (home / name).symlink_to(os.path.relpath(films / name, home))
  stages.claim(config, home)
  inputs = stages.prepare(config, home)
  start = time.monotonic()
  fit(config, inputs, home)
  trained = time.monotonic()
  _, segmentations = stages.segment_all(config, inputs, home)
  applied = time.monotonic()
  metrics = run.run(config, home)
  voxels = sum(math.prod(volume.shape) for volume in segmentations.values())
  pooled = metrics['test']['after']
  files.write_json(home / 'compare.json', {
      'miou': pooled['miou'], 'accuracy': pooled['accuracy'],
      'per_volume': {name: {
          'miou': found['test']['after']['miou'],
          'best_threshold': metrics['threshold_baseline'][name]['miou'],
          'porosity_manual': found['test']['after']['porosity_manual'],
          'porosity_automatic': found['test']['after']['porosity_automatic']}
                     for name, found in metrics['per_volume'].items()},
      'z_anisotropy': _mean_anisotropy(segmentations.values()),
      'seconds_training': trained - start,
      'seconds_per_mvoxel': 1e6 * (applied - trained) / voxels,
      'peak_gib': peak_bytes() / 2 ** 30})


def _mean_anisotropy(found) -> float | None:
  values = [two_point.z_anisotropy(
      read_box(volume, (0, 0, 0), volume.shape), volume.voxel_size_zyx_nm)
            for volume in found if volume is not None and volume.voxel_size_zyx_nm]
  return sum(values) / len(values) if values else None


def find(rows: list[dict]) -> dict:
  """What section 5 expects, and whether it came so.

  Args:
    rows: of compare.json.

  Returns:
    JSON-able: least mIoU without pore-backs and whether all reach 0.95; for each
    strength above 0 whether thresholds call too much solid in every volume, and in
    every volume whether the network is ahead of the forest (and by how much at least)
    and the forest of the best threshold. Only what the methods allow.
  """
  at = {}
  for row in rows:
    if row['method'] != 'truth':
      at.setdefault(row['shine_through'], {})[row['method']] = row
  found = {}
  for strength, by_name in at.items():
    key = f'{strength:g}'
    if strength == 0:
      least = min(row['miou'] for row in by_name.values())
      found['without_pore_backs'] = {'least_miou': least, 'all_near_1':
                                     least >= _NO_BACKS}
      continue
    part = found.setdefault(key, {})
    thresholds = [by_name[name] for name in _THRESHOLDS if name in by_name]
    if thresholds:
      part['thresholds_overestimate_solid'] = all(
          one['porosity_automatic'] < one['porosity_manual']
          for row in thresholds for one in row['per_volume'].values())
    if {'patch_cnn', 'forest'} <= set(by_name):
      network, forest = (by_name[name]['per_volume'] for name in ('patch_cnn',
                                                                  'forest'))
      part['network_ahead_of_forest_by'] = min(
          network[name]['miou'] - forest[name]['miou'] for name in network)
      part['forest_ahead_of_best_threshold'] = all(
          one['miou'] > one['best_threshold'] for one in forest.values())
  return found
