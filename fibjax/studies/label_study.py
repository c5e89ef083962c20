"""How good a segmentation is against the number of annotated regions, way by way.

A way to train is a few settings: a forest, a network from scratch, one that starts from
shared weights, one that learns from the unlabelled volume as well. For every number of
regions and every seed, each way is a run of its own in a process of its own, on a draw
of training and validation regions that depends on the seed alone; larger numbers
contain the smaller ones. Test regions and volumes are the same for all. A way that uses
no label, weights as they come without tuning, runs once; its number of regions is 0.

A workdir gets data/ and regions/, which all runs share; trials/, a row for each run
that is finished (its workdir goes when the row is there), and labels.json with all rows
and their means. The same call resumes.
"""
import concurrent.futures
import multiprocessing
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fibjax.annotation.regions import (
  Regions,
  load_regions,
  save_regions,
  take_regions,
)
from fibjax.config import change, from_dict, to_dict
from fibjax.datasets import collect
from fibjax.errors import InputError
from fibjax.methods import registry
from fibjax.pipeline import run, stages
from fibjax.report import labels_page
from fibjax.system import checksums, files, progress
from fibjax.system.run_folder import RunFolder, lock

_VAL_SHARE = 0.25  # of the regions that are not tested, at least one per volume
MEASURES = ('miou', 'porosity_error', 'volume_miou', 'volume_porosity_error')


class Way(NamedTuple):
  """A way to train: its name and the settings that make it."""
  name: str
  settings: tuple[str, ...]


def read_ways(texts: Sequence[str]) -> list[Way]:
  """Reads 'NAME: KEY=VALUE KEY=VALUE ...' texts, those of config.study.ways.

  Raises:
    InputError: for a text of another form, or two ways of one name.
  """
  ways = []
  for text in texts:
    name, colon, settings = text.partition(':')
    name = name.strip()
    if not colon or not name or '/' in name or name in [way.name for way in ways]:
      raise InputError('config.study.ways', got=repr(text),
                       expected="'NAME: KEY=VALUE ...' with names that differ",
                       remedy='look at configs/labels.py')
    ways.append(Way(name, tuple(settings.split())))
  return ways


def run_label_study(config, folder) -> dict:
  """Does the whole study, or resumes it.

  Args:
    config: the experiment; config.study.ways, budgets and seeds say which runs.
    folder: workdir.

  Returns:
    The content of labels.json: rows, one per run, and table, mean and sd over seeds.

  Raises:
    InputError: for a bad way, more regions than there are, or as `run.run`.
  """
  workdir = RunFolder(Path(folder).resolve())
  ways, study = read_ways(config.study.ways), config.study
  configs = {way.name: _config_of(config, way) for way in ways}  # checked before work
  with lock(workdir):
    stages.record_settings(config, workdir)
    volumes, regions = collect.collect(
        config.data, config.split, registry.make_method(config).window_zyx, workdir)
    for budget in study.budgets:
      choose_regions(regions, budget, 0)
    units = plan_units(configs, study)
    rows = []
    for seed, budget, way in progress.track(units, 'study', 'run', len(units)):
      path = workdir.budget_row(way, budget, seed)
      if not path.exists():
        _measure_apart(configs[way], workdir, way, budget, seed)
      rows.append(files.read_json_object(path))
    result = {'rows': rows, 'table': summarise(rows), 'volumes': list(volumes)}
    files.write_json(workdir.label_study, result)
    labels_page.write_labels_report(workdir)
  return result


def plan_units(configs: dict, study) -> list[tuple[int, int, str]]:
  """Lists seed, regions per volume and way of all runs.

  Args:
    configs: of each way, by its name.
    study: config.study, with budgets and seeds.
  """
  labelled = [way for way, config in configs.items()
              if config.train.epochs or config.postprocess.tune != 'none']
  return [*((0, 0, way) for way in configs if way not in labelled),
          *((seed, budget, way) for seed in range(study.seeds)
            for budget in study.budgets for way in labelled)]


def choose_regions(regions: Regions, budget: int, seed: int) -> Regions:
  """Draws training and validation regions of each volume, and takes all test regions.

  Args:
    regions: of all volumes, with splits.
    budget: training and validation regions per volume, at least 2; 0: as many, which
      the method must not use.
    seed: of the draw.

  Raises:
    InputError: when a volume has fewer.
  """
  budget = budget or 2
  n_val = max(1, round(_VAL_SHARE * budget))
  chosen = [r for r, split in enumerate(regions.split) if split == 'test']
  for name in sorted(set(regions.volume)):
    for split, count in (('train', budget - n_val), ('val', n_val)):
      rows = [r for r in range(len(regions.volume))
              if (regions.volume[r], regions.split[r]) == (name, split)]
      if not 1 <= count <= len(rows):
        raise InputError('config.study.budgets',
                         got=f'{budget}: {count} regions of split {split}',
                         expected=f'1 to {len(rows)}, those of volume {name}',
                         remedy='lower it, or annotate more')
      random = np.random.default_rng((seed, zlib.crc32(f'{name} {split}'.encode())))
      chosen += [rows[k] for k in random.permutation(len(rows))[:count]]
  return take_regions(regions, sorted(chosen))


def _config_of(config, way: Way):
  trial = from_dict(to_dict(config))
  trial.study.ways, trial.study.budgets = (), ()
  trial.analyse.mvoxel = 0.0
  trial = change(trial, way.settings)
  registry.make_method(trial)
  return trial


def _measure_apart(config, workdir: RunFolder, way: str, budget: int,
                   seed: int) -> None:
  """Runs a unit in a process of its own, and removes its workdir."""
  trial = from_dict(to_dict(config))
  trial.seed = seed
  context = multiprocessing.get_context('spawn')
  with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
    row = pool.submit(_measure, to_dict(trial), workdir, way, budget, seed).result()
  path = workdir.budget_row(way, budget, seed)
  files.make_folders(path.parent)
  files.write_json(path, row)
  files.remove(workdir.budget_run(way, budget, seed).path)


def _measure(content: dict, workdir: RunFolder, way: str, budget: int, seed: int
             ) -> dict:
  config, trial = from_dict(content), workdir.budget_run(way, budget, seed)
  stages.record_settings(config, trial)
  if workdir.data.exists():
    files.share_folder(workdir.data, trial.data)
  if not (trial.regions / 'regions.csv').exists():
    save_regions(trial.regions, choose_regions(
        load_regions(workdir.regions), budget, seed))
    checksums.seal(trial.regions)
  start = time.monotonic()
  metrics = run.run(config, trial)
  pooled = metrics['test']['after']
  row = {'way': way, 'budget': budget, 'seed': seed, 'miou': pooled['miou'],
         'porosity_error': abs(pooled['porosity_automatic']
                               - pooled['porosity_manual']),
         'per_volume': {name: scores['test']['after']['miou']
                        for name, scores in metrics['per_volume'].items()},
         'seconds': time.monotonic() - start}
  return row | _whole_volumes(metrics)


def _whole_volumes(metrics: dict) -> dict:
  """Scores of whole volumes whose truth is known: means over volumes, else None."""
  scores = [volume['truth'] for volume in metrics['whole_volume'].values()
            if 'truth' in volume]
  if not scores:
    return {'volume_miou': None, 'volume_porosity_error': None}
  return {'volume_miou': float(np.mean([score['miou'] for score in scores])),
          'volume_porosity_error': float(np.mean([
              abs(score['porosity_automatic'] - score['porosity_manual'])
              for score in scores]))}


def summarise(rows: Sequence[dict]) -> list[dict]:
  """Mean and sample sd over seeds, for each way and budget in the order of the rows."""
  table = []
  for way, budget in dict.fromkeys((row['way'], row['budget']) for row in rows):
    of_pair = [row for row in rows if (row['way'], row['budget']) == (way, budget)]
    entry = {'way': way, 'budget': budget, 'seeds': len(of_pair),
             'seconds': float(np.mean([row['seconds'] for row in of_pair]))}
    for name in MEASURES:
      values = [row[name] for row in of_pair if row[name] is not None]
      sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
      entry[name] = [float(np.mean(values)), sd] if values else None
    table.append(entry)
  return table
