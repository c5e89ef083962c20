"""Networks as methods: training on regions, scorers of trained runs and ensembles."""
import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from fibjax import models
from fibjax.annotation import contexts, experts
from fibjax.annotation.regions import Regions, concatenate_regions, select_regions
from fibjax.datasets import collect, keras_weights, random_films, skarberg2021
from fibjax.errors import InputError
from fibjax.inference.network_scorer import network_scorer
from fibjax.inference.score import Scorer
from fibjax.methods import shared
from fibjax.methods.method import Inputs, Method
from fibjax.methods.unlabelled import unlabelled_stream
from fibjax.models import Model
from fibjax.system import files, progress
from fibjax.system.run_folder import RunFolder
from fibjax.training import (
  checkpoint,
  loss_expression,
  members_table,
  metrics_log,
  sampling,
  single,
  stored,
)
from fibjax.training.sampling import DeviceRegions, RegionStream

_ARCHIVE = 'archive'  # value of config.train.weights: take those of the archive


def make_method(config) -> Method:
  """Makes the network of config.model, with the config checked.

  Raises:
    InputError: for a bad loss, or weights of the published archive with other data.
  """
  model = models.make_model(config.model)
  if (config.train.weights == _ARCHIVE
      and not collect.find_source(config.data).is_published):
    raise InputError('config.train.weights', got=_ARCHIVE,
                     expected='the published archive as data source',
                     remedy="give the name of a weight file, or train with ''")
  loss_expression.make_loss(config.train.loss)  # reports a mistake before any work
  metrics_log.check_log(config.train)
  return Method(
      facts=models.NETWORKS[config.model.name].facts,
      window_zyx=(model.n_z, model.window_px, model.window_px),
      check=functools.partial(_check, model, config),
      fit=functools.partial(_fit, model, config),
      open=functools.partial(_open, config),
      label=None)


def open_networks(run: RunFolder) -> tuple[list[Model], list, bool]:
  """Loads a finished ensemble.

  Returns:
    Networks and weights of its members, and whether their scores are averaged over the
    symmetries of the square.
  """
  content = files.read_json(run.ensemble)
  networks = [models.make_model(member['model']) for member in content['members']]
  params = [checkpoint.load_weights(run.ensemble_weights / str(k),
                                    models.empty_params(network))
            for k, network in enumerate(networks)]
  return networks, params, content['dihedral']


def member_scorers(networks: Sequence[Model], params: Sequence,
                   dihedral: bool) -> list[Scorer]:
  """Makes a scorer for each member of an ensemble alone."""
  return [network_scorer([network], [weights], dihedral=dihedral)
          for network, weights in zip(networks, params, strict=True)]


def put_regions(settings, model: Model, inputs: Inputs) -> list[DeviceRegions]:
  """Puts training and validation regions on the device.

  Args:
    settings: config.train.
    model: the network to train, which determines the context of a region.
    inputs: prepared volumes and annotated regions.

  Returns:
    Training regions, validation regions.
  """
  splits = []
  for split in ('train', 'val'):
    regions, targets_ryx = experts.merge_regions(
        select_regions(inputs.regions, split=split), settings.consensus)
    context_ryxc = contexts.cut_contexts(inputs.prepared, regions, model.before_px,
                                         model.n_z)
    splits.append(sampling.put_regions(
        context_ryxc, regions.masks_ryx, targets_ryx=targets_ryx,
        balanced=settings.sampling == 'dense' and settings.balance == 'classes',
        border_weight=settings.border_weight,
        border_sigma_px=settings.border_sigma_px,
        label_smoothing_px=settings.label_smoothing_px if split == 'train' else 0.))
  return splits


class TrainingData(NamedTuple):
  """What a network learns from, for `loop.train_members`."""
  train: DeviceRegions | RegionStream
  val: DeviceRegions
  unlabelled: RegionStream | None


@contextlib.contextmanager
def training_data(config, model: Model, inputs: Inputs) -> Iterator[TrainingData]:
  """Yields what a training run learns from; its streams stop when the block ends.

  With config.train.films the training regions are those of random films, new ones in
  every epoch; with config.train.unlabelled windows of all volumes stand beside them.
  """
  train, val = put_regions(config.train, model, inputs)
  with contextlib.ExitStack() as stack:
    if config.train.films:
      train = stack.enter_context(_film_regions(config, model))
    unlabelled = stack.enter_context(unlabelled_stream(
        config.train, config.prepare, model, inputs.prepared, config.data.seed))
    yield TrainingData(train, val, unlabelled)


@contextlib.contextmanager
def _film_regions(config, model: Model) -> Iterator[RegionStream]:
  """Yields the regions of random films."""
  settings, data = config.train, config.data
  with random_films.film_stream(
      settings.films, data.region_px, model.before_px, model.n_z,
      config.prepare.to_dict(), data.seed, settings.epochs) as read:
    def make(epoch):
      context_ryxc, masks_ryx = read(epoch)
      return sampling.put_regions(context_ryxc, masks_ryx,
                                  balanced=settings.balance == 'classes',
                                  label_smoothing_px=settings.label_smoothing_px)
    yield RegionStream((settings.films * random_films.REGIONS_PER_FILM,
                        data.region_px, data.region_px), make)


def trained_method(network: Model, scorer: Scorer) -> Method:
  """The record of a network that is trained already and has no workdir."""
  return Method(models.NETWORKS[network.settings['name']].facts, scorer.window_zyx,
                None, None, None, None)


def is_balanced(settings) -> bool:
  """Whether training with config.train weights both classes equally."""
  return settings.sampling == 'patch' or settings.balance == 'classes'


def merged_regions(regions: Regions, consensus: str) -> list[Regions]:
  """Training and validation regions, with the labels of several experts merged."""
  return [experts.merge_regions(select_regions(regions, split=split), consensus)[0]
          for split in ('train', 'val')]


def _check(model: Model, config, regions: Regions) -> None:
  """Raises InputError for regions or weights that do not fit, before any work."""
  merged = merged_regions(regions, config.train.consensus)
  contexts.check_memory(concatenate_regions(merged), model.before_px, model.n_z)
  sampling.make_plan(config.train, config.data.seed,
                     *(split.masks_ryx for split in merged))
  if config.train.weights:
    _read_weights(model, config)
  start = start_params(config.train, config.prepare, model)
  if start is None and not (config.train.epochs or config.train.weights):
    raise InputError('config.train.epochs', got=0,
                     expected='at least 1 without weights to start from',
                     remedy='name a model in config.train.start')


def start_params(settings, prepare, model: Model) -> dict | None:
  """Weights that training begins with; None for random ones.

  Args:
    settings: config.train.
    prepare: config.prepare.
    model: the network that is trained.

  Raises:
    InputError: when settings.start is no model, or one of another architecture or for
      other grey values.
  """
  start = shared.resolve_start(settings.start, model.settings)
  if start:
    return shared.start_weights(start, model, prepare.scale)
  if settings.start:
    progress.say('fibjax comes with no weights for this network: random ones')
  return None


def _fit(model: Model, config, inputs: Inputs, run: RunFolder) -> dict:
  """Trains, resumes training, or takes weights as they are."""
  if not stored.is_finished(config.train, run):
    if config.train.weights or not config.train.epochs:
      params = (_read_weights(model, config) if config.train.weights
                else start_params(config.train, config.prepare, model))
      stored.save_single(model, config.train, run, params, params, [])
    else:
      with training_data(config, model, inputs) as data:
        single.train_run(config.train, model, data.train, data.val, run,
                         seed=config.seed, data_seed=config.data.seed,
                         standardise=config.model.standardise,
                         start=start_params(config.train, config.prepare, model),
                         unlabelled=data.unlabelled)
  rows = members_table.read_rows(run)
  return members_table.best_row(rows) if rows else {}


def _read_weights(model: Model, config) -> dict:
  """Weights of the file that config.train.weights names."""
  path = config.train.weights
  if path == _ARCHIVE:
    path = skarberg2021.find_weights(config.data.root, config.model.n_xy,
                                     config.model.n_z)
  return keras_weights.read_weights(path, models.empty_params(model))


def _open(config, run: RunFolder, mode: str) -> Scorer:
  networks, params, dihedral = open_trained(config, run)
  return network_scorer(networks, params, dihedral=dihedral, mode=mode)


def open_trained(config, run: RunFolder) -> tuple[list[Model], list, bool]:
  """Loads the ensemble of a workdir if there is one, else its best weights.

  Returns:
    As `open_networks`.
  """
  if run.ensemble.exists():
    return open_networks(run)
  model = models.make_model(config.model)
  return [model], [stored.load_kept(model, config.train, run)], False
