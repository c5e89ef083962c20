"""Training from start to end: of a run in a workdir, or from arrays in memory.

The regions come from `sampling.put_regions`, which takes arrays. `loop.train_members`
below these functions yields after every epoch.
"""
import contextlib
import time
from typing import Any, NamedTuple

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.summary import scalar

from fibjax.models import Model
from fibjax.system import refusals
from fibjax.system.progress import say
from fibjax.system.run_folder import RunFolder
from fibjax.training import loop, metrics_log
from fibjax.training.loop import Member, Progress
from fibjax.training.members_table import EPOCH_COLUMNS, best_row, write_rows
from fibjax.training.sampling import DeviceRegions, RegionStream


class Trained(NamedTuple):
  """A trained network.

  Attributes:
    params: weights of the epoch of lowest validation BCE, host arrays.
    average: mean of the weights at the ends of the last quarter of the epochs (SWA).
    rows: one dict of members_table.EPOCH_COLUMNS per epoch.
    ended: None, or why training ended before its last epoch (loop.DIVERGED, STOPPED or
      CONVERGED).
  """
  params: Any
  average: Any
  rows: tuple[dict, ...]
  ended: str | None


@refusals.translated
def train_network(model: Model, train: DeviceRegions, val: DeviceRegions, *, settings,
                  seed: int = 0, folder=None, data_seed: int = 0,
                  standardise: bool = True, start=None) -> Trained:
  """Trains one network on regions.

  Args:
    model: network of `make_model`.
    train: training regions, from `sampling.put_regions`; their contexts have
      model.before_px pixels on each side.
    val: validation regions, which choose the best epoch.
    settings: all settings of config.train, e.g. `fibjax.config.base().train`.
    seed: of initialisation, order, augmentation and dropout.
    folder: gets checkpoints, from which the same call resumes; None: only memory.
    data_seed: of the voxels that 'patch' sampling draws and of what validates.
    standardise: whether images are standardised by mean and sd of those of `train`.
    start: weights to begin with, of the same network; None draws them.

  Returns:
    weights and a row of metrics per epoch.

  Raises:
    InputError: when a class is missing, a window does not fit the regions, or a loss
      is not finite.

  Example:
    >>> import fibjax
    >>> film = fibjax.simulate_film('HPC30', (9, 96, 96), seed=0)
    >>> model = fibjax.make_model(n_xy=33, n_z=1)
    >>> image_zyx = fibjax.scale_image(film.image_zyx)
    >>> splits = []
    >>> for z in (3, 6):
    ...   mask_yx = film.truth_zyx[z, 16:64, 16:64]
    ...   regions = fibjax.make_regions('film', [(z, 16, 16)], [mask_yx])
    ...   context_ryxc = fibjax.cut_contexts(image_zyx, regions, model)
    ...   splits.append(fibjax.put_regions(context_ryxc, regions.masks_ryx,
    ...                                    balanced=True))
    >>> settings = fibjax.train_settings(epochs=1, steps_per_epoch=2, val_windows=2,
    ...                                  crop_px=32)
    >>> trained = fibjax.train_network(model, *splits, settings=settings)
    >>> len(trained.rows), 0 < trained.rows[0]['val_bce'] < 2
    (1, True)
  """
  return _train([loop.make_member(settings, seed)], model, train, val, folder,
                settings=settings, data_seed=data_seed, standardise=standardise,
                may_diverge=False, start=start)[0]


@refusals.translated
def train_networks(model: Model, train: DeviceRegions, val: DeviceRegions,
                   members: list[Member], *, settings, folder=None, data_seed: int = 0,
                   standardise: bool = True, halving: tuple[int, ...] = (), start=None,
                   unlabelled: RegionStream | None = None) -> list[Trained]:
  """Trains several networks side by side; each is what it would be alone.

  A member whose loss is not finite ends there, and the others continue.

  Args:
    model, train, val, settings, folder, data_seed, standardise, start: as for
      `train_network`.
    members: seeds and settings, e.g. [make_member(settings, seed) for seed in ...].
    halving: epochs after which the worse half of the members stops.
    unlabelled: windows without labels, where settings.unlabelled is above 0.

  Returns:
    one result per member.

  Raises:
    InputError: when a class is missing or a window does not fit the regions.

  Example:
    >>> import fibjax
    >>> film = fibjax.simulate_film('HPC30', (9, 96, 96), seed=0)
    >>> model = fibjax.make_model(n_xy=33, n_z=1)
    >>> image_zyx = fibjax.scale_image(film.image_zyx)
    >>> splits = []
    >>> for z in (3, 6):
    ...   mask_yx = film.truth_zyx[z, 16:64, 16:64]
    ...   regions = fibjax.make_regions('film', [(z, 16, 16)], [mask_yx])
    ...   context_ryxc = fibjax.cut_contexts(image_zyx, regions, model)
    ...   splits.append(fibjax.put_regions(context_ryxc, regions.masks_ryx,
    ...                                    balanced=True))
    >>> settings = fibjax.train_settings(epochs=1, steps_per_epoch=2, val_windows=2,
    ...                                  crop_px=32)
    >>> members = [fibjax.make_member(settings, seed) for seed in (0, 1)]
    >>> trained = fibjax.train_networks(model, *splits, members, settings=settings)
    >>> len(trained), trained[0].rows[0]['val_bce'] != trained[1].rows[0]['val_bce']
    (2, True)
  """
  return _train(members, model, train, val, folder, settings=settings,
                data_seed=data_seed, standardise=standardise, halving=halving,
                start=start, unlabelled=unlabelled)


def _train(members, model, train, val, folder, *, settings, **options) -> list[Trained]:
  for reached in loop.train_members(settings, model, members, train, val, folder,
                                    **options):
    _say_epoch(reached, settings.epochs)
  return [Trained(state.best, state.average, rows, ended) for state, rows, ended in
          zip(reached.states, reached.rows, reached.ended, strict=True)]


def _say_epoch(reached: Progress, epochs: int) -> None:
  """One line about the newest epoch, the mean over members."""
  rows = [rows[-1] for rows in reached.rows if rows]
  if rows:
    epoch = 1 + max(row['epoch'] for row in rows)
    bce = sum(row['val_bce'] for row in rows) / len(rows)
    say(f'epoch {epoch}/{epochs}: validation BCE {bce:.4f}')


def train_run(settings, model: Model, train: DeviceRegions | RegionStream,
              val: DeviceRegions, folder, *, seed: int, data_seed: int,
              standardise: bool, start=None,
              unlabelled: RegionStream | None = None) -> dict:
  """Trains a single run to its last epoch, resuming from the newest checkpoint.

  Args:
    settings: config.train.
    model: network of config.model.
    train: training regions on the device, or a stream of them.
    val: validation regions.
    folder: workdir; gets checkpoints/, metrics.csv and TensorBoard events.
    seed, data_seed, standardise, start: as for `train_network`.
    unlabelled: windows without labels, or None.

  Returns:
    row of metrics.csv of the best epoch (lowest validation BCE).

  Raises:
    InputError: when the loss is not finite, naming epoch and step.
  """
  run = RunFolder(folder)
  snapshots = loop.train_members(
      settings, model, [loop.make_member(settings, seed)], train, val, run,
      data_seed=data_seed, standardise=standardise, may_diverge=False, start=start,
      unlabelled=unlabelled)
  name = run.path.resolve().name
  with (_open_events(run.events) as add_event,
        metrics_log.open_log(name, settings) as log):
    for i, reached in enumerate(snapshots):
      rows = reached.rows[0]
      write_rows(run, rows)
      if i == 0:  # what was there before, reported by an earlier call
        continue
      row = rows[-1]
      say(f'epoch {len(rows)}/{settings.epochs}: training BCE '
          f'{row["train_bce"]:.4f}, validation BCE {row["val_bce"]:.4f}, '
          f'mIoU {row["val_miou"]:.4f}, {row["seconds"]:.0f} s')
      add_event(row)
      log(f'seed {seed}', row)
  return best_row(rows)


@contextlib.contextmanager
def _open_events(folder):
  """Yields a function that writes a row of EPOCH_COLUMNS for TensorBoard.

  It writes in this thread: the thread of SummaryWriter ends when the disk is full, and
  the caller then waits for it forever.
  """
  with refusals.naming(folder):
    folder.mkdir(parents=True, exist_ok=True)
    writer = EventsWriter(str(folder / 'events'))

  def add(row):
    values = [scalar(name, row[name]).value[0] for name in EPOCH_COLUMNS
              if name != 'epoch']
    event = Event(wall_time=time.time(), step=row['epoch'])
    event.summary.value.extend(values)
    with refusals.naming(folder):
      writer.write_event(event)
      writer.flush()
  try:
    yield add
  finally:
    with refusals.naming(folder):
      writer.close()
