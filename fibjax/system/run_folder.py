"""The layout of workdirs: the only place that knows their file names.

A file appears under its name only when it is complete, so a stage whose last file
exists is finished. Everything a run wrote can be found from its `RunFolder`.
"""
import contextlib
import os
from pathlib import Path

import filelock

from fibjax.errors import InputError
from fibjax.system import files
from fibjax.system.refusals import RefusedError

_LOCK = '.lock'
# Results that take long to compute again, finished or partial.
_EXPENSIVE = ('checkpoints', 'forest.npz', 'sweep/groups', 'runs/*', 'forest/*',
              '*scores.ome.zarr*', '*segmentation.ome.zarr*')


class RunFolder(os.PathLike):
  """Paths of everything in the workdir of a run.

  Volumes stand in groups, GROUP.ome.zarr/NAME for the volume called NAME. Creating a
  RunFolder touches no file.

  Attributes:
    path: the workdir.
    config, inputs, versions: settings, fingerprints of the user's files, package
      versions (.json).
    data: volumes made for the run, one folder each; see `raw` and `truth`.
    regions: table and masks of the annotated regions.
    prepared, scores, segmentation: groups of volumes.
    preprocessing: record of each prepared volume (.json).
    checkpoints, snapshots, events: of training.
    epochs: a row per epoch (metrics.csv).
    forest, forest_rows: trained random forest, and a row per smallest leaf tried.
    postprocess: tuned sigma and threshold (.json).
    metrics, porosities: scores on the regions, porosity per region.
    analysis: physical quantities (.json).
    report, figures, tables: the page, its images, its tables as Markdown.
    ensemble, ensemble_weights, results, porosity, growth: of an ensemble.
    sweep: of a sweep, a `SweepFolder`.
    compare, times: row of a method in a comparison, or all rows; its time and memory
      (.json).
    study, labels, slices: of a study of training slices.
    seed_scores: of a trial of such a study, a score volume for each seed.
    label_study: of a study of label budgets.
  """

  def __init__(self, path):
    path = Path(path)
    self.path = path
    self.config = path / 'config.json'
    self.inputs = path / 'inputs.json'
    self.versions = path / 'versions.json'
    self.data = path / 'data'
    self.regions = path / 'regions'
    self.prepared = path / 'prepared.ome.zarr'
    self.preprocessing = path / 'preprocessing.json'
    self.checkpoints = path / 'checkpoints'
    self.snapshots = path / 'snapshots'
    self.events = path / 'events'
    self.epochs = path / 'metrics.csv'
    self.forest = path / 'forest.npz'
    self.forest_rows = path / 'forest.json'
    self.scores = path / 'scores.ome.zarr'
    self.postprocess = path / 'postprocess.json'
    self.segmentation = path / 'segmentation.ome.zarr'
    self.metrics = path / 'metrics.json'
    self.porosities = path / 'porosities.csv'
    self.analysis = path / 'analysis.json'
    self.report = path / 'report.html'
    self.figures = path / 'figures'
    self.tables = path / 'tables.md'
    self.ensemble = path / 'ensemble.json'
    self.ensemble_weights = path / 'ensemble'
    self.results = path / 'results.json'
    self.porosity = path / 'porosity.json'
    self.growth = path / 'growth.json'
    self.sweep = SweepFolder(path / 'sweep')
    self.compare = path / 'compare.json'
    self.times = path / 'times.json'
    self.study = path / 'study.json'
    self.label_study = path / 'labels.json'
    self.labels = path / 'labels.ome.zarr'
    self.slices = path / 'slices.csv'
    self.seed_scores = path / 'scores'

  def __fspath__(self) -> str:
    return str(self.path)

  __str__ = __fspath__

  def raw(self, name: str) -> Path:
    """Raw volume that was made for the run."""
    return film_path(self.data / name, 'raw')

  def truth(self, name: str) -> Path:
    """Ground truth of every voxel of a volume that was made for the run."""
    return film_path(self.data / name, 'truth')

  def films(self, strength: float) -> 'RunFolder':
    """Films and regions that all methods of a comparison share at one strength."""
    return RunFolder(self.path / 'films' / f'{strength:g}')

  def method_run(self, strength: float, method: str) -> 'RunFolder':
    """Workdir of one method of a comparison."""
    return RunFolder(self.path / 'runs' / f'{strength:g}' / method)

  def film(self) -> Path:
    """Simulated stack of a study of training slices."""
    return self.path / 'film'

  def forest_run(self) -> 'RunFolder':
    """The forest's part of a study of training slices."""
    return RunFolder(self.path / 'forest')

  def trial(self, count: int, placement: str) -> 'RunFolder':
    """Workdir of one trial of a study of training slices."""
    return RunFolder(self.path / 'trials' / f'{count}-{placement}')

  def budget_run(self, way: str, budget: int, seed: int) -> 'RunFolder':
    """Workdir of one run of a study of label budgets."""
    return RunFolder(self.path / 'runs' / f'{way}-{budget}-{seed}')

  def budget_row(self, way: str, budget: int, seed: int) -> Path:
    """Scores of that run."""
    return self.path / 'trials' / f'{way}-{budget}-{seed}.json'


class SweepFolder(os.PathLike):
  """Paths of everything in the sweep/ folder of a workdir.

  Attributes:
    path: the folder.
    groups: list of the groups of members (.json); `group` is the folder of one.
    members: a row per member (members.csv).
    curves: epochs of the best member (.csv).
    loss_start, losses: how losses start, and how they compare (.json); `network_scores`
      has the scores of one network.
    halving: replay of successive halving (.json).
    best: which member won (.json); `winner` is the workdir of the best of a size.
    report: the page.
  """

  def __init__(self, path):
    path = Path(path)
    self.path = path
    self.groups = path / 'groups.json'
    self.members = path / 'members.csv'
    self.curves = path / 'curves.csv'
    self.loss_start = path / 'loss_start.json'
    self.losses = path / 'losses.json'
    self.halving = path / 'halving.json'
    self.best = path / 'winners' / 'best.json'
    self.report = path / 'report.html'

  def __fspath__(self) -> str:
    return str(self.path)

  def group(self, name: str, first: int, last: int) -> 'GroupFolder':
    """Folder of the members first to last of a size and loss."""
    return GroupFolder(self.path / 'groups' / name / f'{first:04}-{last:04}')

  def begun_groups(self) -> 'list[GroupFolder]':
    """Groups whose members are in training."""
    return [GroupFolder(path.parent) for path in sorted(
        (self.path / 'groups').glob('*/*/checkpoints'))]

  def network_scores(self, name: str, seed: int) -> Path:
    """Scores of the member of a size and loss with a seed (.json)."""
    return self.path / 'scores' / name / f'{seed}.json'

  def winner(self, name: str) -> RunFolder:
    """Workdir of the best member of a size and loss."""
    return RunFolder(self.path / 'winners' / name)


class GroupFolder(RunFolder):
  """A group of members that are trained together: checkpoints/, then their result.

  Attributes:
    weights: best and average weights of all members.
    records: seed, settings, rows and state of each member (members.json).
  """

  def __init__(self, path):
    super().__init__(path)
    self.weights = self.path / 'weights'
    self.records = self.path / 'members.json'


@contextlib.contextmanager
def lock(workdir):
  """Reserves a workdir for this process and yields its path; creates it if missing.

  The operating system releases the lock when the process ends, however it ends, so a
  killed run does not block its workdir. When an InputError ends the block, a workdir
  that was new is emptied again, so that the corrected command can use it; one that
  already has results that take long to compute is kept as it is.

  Raises:
    InputError: when another process, or another caller in this one, has the workdir,
      or the folder has files but is no workdir.
  """
  workdir = Path(workdir)
  existed = workdir.exists()
  was_workdir = any((workdir / name).exists() for name in (_LOCK, 'config.json'))
  try:
    if existed and not was_workdir and any(workdir.iterdir()):
      raise InputError(str(workdir), got='a folder with other files',
                       expected='a new folder, an empty one, or a workdir',
                       remedy='choose another path')
    files.make_folders(workdir)
    acquired = filelock.FileLock(workdir / _LOCK, timeout=0).acquire()
  except filelock.Timeout:
    raise InputError(str(workdir), got='a workdir in use by another process',
                     expected='one run per workdir',
                     remedy='wait for it or choose another --workdir') from None
  except (FileExistsError, NotADirectoryError) as error:
    raise InputError(str(workdir), got=str(error), expected='a folder to write to',
                     remedy='choose another --workdir') from None
  with acquired:
    is_new = {path.name for path in workdir.iterdir()} == {_LOCK}
    try:
      yield workdir
    except RefusedError:  # no mistake: what is finished is kept
      raise
    except InputError:
      if is_new and not any(any(workdir.glob(name)) for name in _EXPENSIVE):
        _empty(workdir, existed)
      raise


def _empty(workdir: Path, existed: bool) -> None:
  """Removes the content of a workdir, and itself unless it existed before."""
  for child in workdir.iterdir():
    if child.name != _LOCK:
      files.remove(child)
  # Suppressed: Windows keeps a file that is open; the next process may have the folder.
  with contextlib.suppress(OSError):
    (workdir / _LOCK).unlink()
    if not existed:
      workdir.rmdir()


def film_path(folder, kind: str) -> Path:
  """A volume of a film's folder: 'raw', 'truth' or 'annotated'."""
  return Path(folder) / f'{kind}.ome.zarr'


def volume_name(path) -> str:
  """Name of a volume: its file name without '.ome.zarr'."""
  return Path(path).name.removesuffix('.ome.zarr')
