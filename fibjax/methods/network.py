"""Networks as methods: training on regions, scorers of trained runs and ensembles."""
import functools
from collections.abc import Sequence

from fibjax import models
from fibjax.annotation import contexts, experts
from fibjax.annotation.regions import Regions, concatenate_regions, select_regions
from fibjax.datasets import collect, keras_weights, skarberg2021
from fibjax.errors import InputError
from fibjax.inference.network_scorer import network_scorer
from fibjax.inference.score import Scorer
from fibjax.methods.method import Inputs, Method
from fibjax.models import Model
from fibjax.system import files
from fibjax.system.run_folder import RunFolder
from fibjax.training import (
  checkpoint,
  loss_expression,
  members_table,
  sampling,
  single,
  stored,
)
from fibjax.training.sampling import DeviceRegions

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
  return Method(
      facts=models.NETWORKS[config.model.name].facts,
      window_zyx=(model.n_z, model.window_px, model.window_px),
      check=functools.partial(_check, model, config),
      fit=functools.partial(_fit, model, config),
      open=functools.partial(_open, model, config),
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
        border_sigma_px=settings.border_sigma_px))
  return splits


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


def _fit(model: Model, config, inputs: Inputs, run: RunFolder) -> dict:
  """Trains, resumes training, or takes the weights of config.train.weights."""
  if not stored.is_finished(config.train, run):
    if config.train.weights:
      _take_weights(model, config, run)
    else:
      single.train_run(config.train, model, *put_regions(config.train, model, inputs),
                       run, seed=config.seed, data_seed=config.data.seed,
                       standardise=config.model.standardise)
  rows = members_table.read_rows(run)
  return members_table.best_row(rows) if rows else {}


def _take_weights(model: Model, config, run: RunFolder) -> None:
  params = _read_weights(model, config)
  stored.save_single(model, config.train, run, params, params, [])


def _read_weights(model: Model, config) -> dict:
  """Weights of the file that config.train.weights names."""
  path = config.train.weights
  if path == _ARCHIVE:
    path = skarberg2021.find_weights(config.data.root, config.model.n_xy,
                                     config.model.n_z)
  return keras_weights.read_weights(path, models.empty_params(model))


def _open(model: Model, config, run: RunFolder, mode: str) -> Scorer:
  """Opens the ensemble of a workdir if there is one, else its best weights."""
  if run.ensemble.exists():
    networks, params, dihedral = open_networks(run)
    return network_scorer(networks, params, dihedral=dihedral, mode=mode)
  return network_scorer([model], [stored.load_best(model, config.train, run)],
                        mode=mode)
