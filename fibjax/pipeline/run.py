"""The main job: data, train, segment, post-process, evaluate, analyse, report.

Each stage finds its input in the workdir, and what it makes appears there under its
name only when it is whole. A stage whose output is there is skipped, so a second call
goes on where the first was stopped, and ends with the same numbers.
"""
from pathlib import Path

from fibjax.datasets import collect
from fibjax.errors import InputError
from fibjax.methods import registry
from fibjax.methods.network import fit
from fibjax.pipeline import measure
from fibjax.pipeline.segmenter import open_run
from fibjax.pipeline.stages import claim, prepare, segment_all, write_metrics
from fibjax.report import page
from fibjax.system import files, run_folder
from fibjax.system.cluster import HERE, Resources
from fibjax.system.run_folder import undo_on_mistake
from fibjax.training import members_table
from fibjax.volumes.volume import open_volume


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
  with undo_on_mistake(folder), run_folder.lock(folder):
    claim(config, folder)
    inputs = prepare(config, folder)
    fit(config, inputs, folder)
    scores, segmentations = segment_all(config, inputs, folder, resources)
    if not (folder / 'metrics.json').exists():
      write_metrics(config, inputs, scores, segmentations, folder)
    if config.analyse.mvoxel:
      measure.analyse_run(config.analyse.mvoxel, segmentations,
                          {name: collect.open_truth(name, folder)
                           for name in segmentations}, folder)
    page.write_report(folder)
    return files.read_json(folder / 'metrics.json')


def train_only(config, folder, resume: bool) -> dict:
  """Data and training; returns the metrics of the best epoch.

  Raises:
    InputError: when there are checkpoints already and resume is not asked for.
  """
  folder = Path(folder)
  with undo_on_mistake(folder), run_folder.lock(folder):
    claim(config, folder)
    if registry.is_classical(config):
      registry.open_predictor(config, folder)  # says that there is none
    if config.train.weights:
      raise InputError('config.train.weights', got=config.train.weights,
                       expected="'' to train", remedy='use fibjax run, or leave it out')
    begun = any((folder / name).exists() for name in ('checkpoints', 'forest.npz'))
    if begun and not resume:
      raise InputError(str(folder), got='a training that has begun',
                       expected='an empty workdir, or --resume',
                       remedy='add --resume to go on, or choose another --workdir')
    fit(config, prepare(config, folder), folder)
    if config.model.name == registry.FOREST:
      return max(files.read_json(folder / 'forest.json'),
                 key=lambda row: row['val_miou'])
    return members_table.best_row(members_table.read_rows(folder))


def evaluate_again(folder) -> dict:
  """Writes metrics.json of a run whose segmentation is there, and returns it."""
  config, folder = open_run(folder)
  scored = 'segmentation' if registry.is_classical(config) else 'scores'
  with run_folder.lock(folder):
    inputs = prepare(config, folder)
    opened = [{name: open_volume(folder / f'{kind}.ome.zarr' / name)
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
                 if path.is_dir() and not files.is_partial(path))
  if not names:
    raise InputError(str(folder), got='no segmentation', expected='a finished run',
                     remedy='run it to its end first')
  with run_folder.lock(folder):
    (folder / 'analysis.json').unlink(missing_ok=True)
    found = measure.analyse_run(
        mvoxel, {name: open_volume(group / name) for name in names},
        {name: collect.open_truth(name, folder) for name in names}, folder)
    page.write_report(folder)
  return found


