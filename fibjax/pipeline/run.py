"""The main job: data, training, segmentation, post-processing, metrics, report.

`stages` holds the stages; here they are put together, as a whole and one by one for
workdirs that exist.
"""
from pathlib import Path

from fibjax.annotation.regions import load_regions
from fibjax.config import from_dict
from fibjax.datasets import collect
from fibjax.errors import InputError
from fibjax.methods.registry import make_method
from fibjax.pipeline import measure, stages
from fibjax.report import page, sweep_page, sweep_status
from fibjax.system import files, progress
from fibjax.system.cluster import HERE, Resources
from fibjax.system.run_folder import RunFolder, lock
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
  workdir, method = RunFolder(folder), make_method(config)
  with lock(workdir):
    stages.record_settings(config, workdir)
    inputs = stages.collect_inputs(config, method, workdir)
    if method.fit is not None:
      method.fit(inputs, workdir)
    scores, segmentations = stages.segment_all(config, method, inputs, workdir,
                                               resources)
    if not workdir.metrics.exists():
      stages.write_metrics(config, inputs, scores, segmentations, workdir)
    if config.analyse.mvoxel:
      _measure(config, config.analyse.mvoxel, segmentations, workdir)
    write_report(config, workdir)
    return files.read_json(workdir.metrics)


def train_only(config, folder, resume: bool) -> dict:
  """Collects the data and trains.

  Args:
    config: the experiment.
    folder: workdir.
    resume: whether to resume training that has begun.

  Returns:
    The metrics of the best epoch or setting.

  Raises:
    InputError: when the method has nothing to train, or when training has begun and
      resume is not set.
  """
  workdir, method = RunFolder(folder), make_method(config)
  with lock(workdir):
    stages.record_settings(config, workdir)
    check_trained(method, config.model.name)
    if config.train.weights:
      raise InputError('config.train.weights', got=config.train.weights,
                       expected="'' to train", remedy='use fibjax run, or leave it out')
    begun = workdir.checkpoints.exists() or workdir.forest.exists()
    if begun and not resume:
      raise InputError(str(workdir.path), got='an unfinished training run',
                       expected='an empty workdir, or --resume',
                       remedy='add --resume, or choose another --workdir')
    return method.fit(stages.collect_inputs(config, method, workdir), workdir)


def check_trained(method, name: str) -> None:
  """Raises InputError for a method without training and scores."""
  if method.fit is None:
    raise InputError('config.model.name', got=repr(name),
                     expected='a method that is trained',
                     remedy='`fibjax run` segments with it as it is')


def open_run(folder) -> tuple:
  """Opens the workdir of a run that exists.

  Returns:
    Its config and its RunFolder.

  Raises:
    InputError: when folder is not a workdir.
  """
  workdir = RunFolder(folder)
  return from_dict(files.read_json(workdir.config)), workdir


def evaluate_again(folder) -> dict:
  """Writes metrics.json of a run whose segmentation exists, and returns its content."""
  config, workdir = open_run(folder)
  method = make_method(config)
  scored = workdir.scores if method.label is None else workdir.segmentation
  with lock(workdir):
    inputs = stages.collect_inputs(config, method, workdir)
    scores, segmentations = ({name: open_volume(group / name)
                              for name in inputs.prepared}
                             for group in (scored, workdir.segmentation))
    return stages.write_metrics(config, inputs, scores, segmentations, workdir)


def analyse_again(folder, mvoxel: float | None = None) -> dict:
  """Measures the segmentations of a run again: analysis.json and the report.

  Args:
    folder: workdir.
    mvoxel: largest box, million voxels; None: that of the config.

  Raises:
    InputError: when folder is no workdir, nothing is segmented, or mvoxel is 0.
  """
  config, workdir = open_run(folder)
  mvoxel = config.analyse.mvoxel if mvoxel is None else mvoxel
  if not mvoxel:
    raise InputError('config.analyse.mvoxel', got=0, expected='a size to measure',
                     remedy='give --mvoxel')
  names = sorted(path.name for path in workdir.segmentation.glob('*')
                 if path.is_dir() and not files.is_partial(path))
  if not names:
    raise InputError(str(workdir.path), got='no segmentation',
                     expected='a finished run', remedy='run it to its end first')
  with lock(workdir):
    workdir.analysis.unlink(missing_ok=True)
    segmentations = {name: open_volume(workdir.segmentation / name) for name in names}
    quantities = _measure(config, mvoxel, segmentations, workdir)
    write_report(config, workdir)
  return quantities


def report_again(folder) -> Path:
  """Writes report.html of a run again, and returns its path.

  For a sweep, running or finished, it is the page in its folder sweep/. For an ensemble
  both pages are written, and the path is that of the ensemble.
  """
  config, workdir = open_run(folder)
  if workdir.sweep.groups.exists():
    facts = make_method(config).facts
    path = sweep_page.write_sweep_report(workdir, facts)
    for name, text in sweep_status.describe(sweep_status.read_status(workdir)):
      progress.say(f'{name}: {text}')
    if not workdir.ensemble.exists():
      return path
  return write_report(config, workdir)


def write_report(config, workdir: RunFolder) -> Path:
  """Writes the report of a workdir, finished or not, and returns its path."""
  source = collect.find_source(config.data)
  return page.write_report(workdir, make_method(config).facts,
                           source_inputs=source.describe(config.data),
                           is_published=source.is_published)


def _measure(config, mvoxel: float, segmentations, workdir: RunFolder) -> dict:
  truths = {name: collect.open_truth(name, workdir) for name in segmentations}

  def find_evidence():
    if not (workdir.scores.exists() and workdir.regions.exists()):
      return {}  # a classical method has no scores
    return measure.find_evidence(load_regions(workdir.regions), {
        name: open_volume(workdir.scores / name) for name in segmentations})

  return measure.analyse_run(mvoxel, segmentations, truths, workdir.analysis,
                             find_evidence,
                             measure.make_draws(config.analyse, config.postprocess),
                             config.analyse.stokes_axes)
