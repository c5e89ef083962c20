"""TODO fibjax.methods.network."""
from pathlib import Path

from fibjax import models
from fibjax.annotation import contexts, experts
from fibjax.annotation.regions import Regions, select_regions
from fibjax.datasets import keras_weights, skarberg2021
from fibjax.methods import forest_method, registry
from fibjax.methods.method import Inputs
from fibjax.training import loop, sampling
from fibjax.training.sampling import DeviceRegions


def _trained_regions(config, regions: Regions) -> list[Regions]:
  """Training and validation regions, one per place."""
  return [experts.merge_regions(select_regions(regions, split=split),
                                config.train.consensus)[0]
          for split in ('train', 'val')]


def fit(config, inputs: Inputs, folder: Path) -> None:
  """Trains, goes on training, or takes the weights of train.weights.

  A classical method has nothing to train.
  """
  if config.model.name == registry.FOREST:
    forest_method.train(config, inputs.prepared, *_trained_regions(config, inputs.regions),
                     folder)
  elif not registry.is_network(config) or loop.is_finished(config, folder):
    return
  elif config.train.weights:
    path = config.train.weights
    if path == 'archive':
      path = skarberg2021.find_weights(config.data.root, config.model.n_xy, config.model.n_z)
    params = keras_weights.read_weights(path, models.empty_params(inputs.model))
    loop.save_single(inputs.model, config, folder, params, params, [])
  else:
    loop.train_and_evaluate(config, inputs.model, *put_sides(config, inputs), folder)


def put_sides(config, inputs: Inputs) -> list[DeviceRegions]:
  """Training and validation regions on the device, with the config's weights."""
  sides, settings = [], config.train
  for split in ('train', 'val'):
    regions, targets_ryx = experts.merge_regions(
        select_regions(inputs.regions, split=split), settings.consensus)
    context_ryxc = contexts.cut_contexts(inputs.prepared, regions,
                                        inputs.model.before_px, inputs.model.n_z)
    sides.append(sampling.put_regions(
        context_ryxc, regions.masks_ryx, targets_ryx=targets_ryx,
        balanced=settings.sampling == 'dense' and settings.balance == 'classes',
        border_weight=settings.border_weight,
        border_sigma_px=settings.border_sigma_px))
  return sides
