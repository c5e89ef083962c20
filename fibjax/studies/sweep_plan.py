"""What a sweep trains: sizes, losses and members, in groups that fit a device."""
from typing import NamedTuple

import jax
import numpy as np

from fibjax import models
from fibjax.config import change, from_dict, to_dict
from fibjax.errors import InputError, unknown
from fibjax.models import Model
from fibjax.system import files
from fibjax.system.cluster import HERE, Resources
from fibjax.system.devices import device_memory_bytes
from fibjax.system.run_folder import SweepFolder
from fibjax.training import loop, loss_expression
from fibjax.training.loop import Member

_LOG10_STEPS = (-0.5, -0.25, 0.0)  # from config.train: -2.5, -2.25, -2 in the paper

_DECAY_EPOCHS = tuple(range(4, 21, 2))

_LARGEST_GROUP = 16  # per device; more gain nothing and lose more when interrupted

_MAP_BYTES = 8000  # of all maps and their gradients, per pixel of a window

# Settings of config.train that an entry of config.sweep.losses may change.
_LOSS_SETTINGS = ('batch', 'border_sigma_px', 'border_weight', 'label_smoothing_px',
                  'mixed_batches')

MEMORY_SHARE = 0.5  # of the device, for what a group needs beside the regions


class Choice(NamedTuple):
  """A size of the neighbourhood, and a loss: config.train.loss, or an entry of
  config.sweep.losses (`read_loss`)."""
  n_xy: int
  n_z: int
  loss: str


class Unit(NamedTuple):
  """Members first .. last of a choice: what is trained at once."""
  choice: Choice
  first: int
  last: int


def size_name(n_xy: int, n_z: int) -> str:
  """Name of a size in folders and settings, e.g. '33x3'."""
  return f'{n_xy}x{n_z}'


def sizes_of(config) -> list[tuple[int, int]]:
  """(n_xy, n_z) of config.sweep.sizes; the size of config.model where it is empty."""
  if not config.sweep.sizes:
    return [(config.model.n_xy, config.model.n_z)]
  return [tuple(map(int, name.split('x'))) for name in config.sweep.sizes]


def choices_of(config) -> list[Choice]:
  """All sizes with all losses; the loss of config.train where sweep.losses is empty."""
  return [Choice(*size, loss) for size in sizes_of(config)
          for loss in config.sweep.losses or (config.train.loss,)]


def read_loss(entry: str) -> tuple[str, tuple[str, ...]]:
  """Reads an entry of config.sweep.losses: an expression, then KEY=VALUE settings.

  Returns:
    The expression, and the settings of config.train that its members have.

  Raises:
    InputError: for another setting than of weights, labels and batches.

  Example: 'jaccard mixed_batches=True' -> ('jaccard', ('mixed_batches=True',)).
  """
  words = entry.split()
  settings = tuple(word for word in words if '=' in word)
  for setting in settings:
    key = setting.partition('=')[0]
    if key not in _LOSS_SETTINGS:
      raise unknown(f'config.sweep.losses: setting in {entry!r}', key, _LOSS_SETTINGS)
  return ' '.join(word for word in words if '=' not in word), settings


def choice_name(config, choice: Choice) -> str:
  """Name of a choice as a folder: '33x3', '33x3-bce+0.5xjaccard' or 'resunetx3'.

  Settings of a loss follow it: '33x3-jaccard-mixed_batches=True'.
  """
  facts = models.NETWORKS[config.model.name].facts
  name = (size_name(choice.n_xy, choice.n_z) if facts.has_neighbourhood
          else f'{config.model.name}x{choice.n_z}')
  if config.sweep.losses:
    loss, settings = read_loss(choice.loss)
    name += '-'.join(('', loss.replace(' ', '').replace('*', 'x'), *settings))
  return name


def draw_member(config, n_xy: int, n_z: int, number: int) -> Member:
  """Member number of a size; it does not depend on how many there are.

  With config.sweep.draw 'seeds', members differ by their seeds, config.seed + number.
  With 'random', a unique seed determines the hyper-parameters too (§1.7): a, b uniform
  in [0.025, 0.10], log10 of the learning rate that of config.train or 0.25 or 0.5 less
  (the paper's -2, -2.25 or -2.5 for -2), k in 4, 6, .. 20,
  log10 c uniform in [-7, -5], p_d and p_sd uniform in [0, 0.6].
  """
  single = loop.make_member(config.train, config.seed)
  if config.sweep.draw == 'seeds':
    return single._replace(seed=config.seed + number)
  seed = config.seed + 100_000 * (n_xy + n_z) + number  # n_xy + n_z identifies the size
  random = np.random.default_rng(seed)
  mean_sd, deviation_sd = random.uniform(0.025, 0.10, 2)
  drawn = {'intensity_mean_sd': mean_sd, 'intensity_deviation_sd': deviation_sd,
           'log10_learning_rate': (config.train.log10_learning_rate
                                   + random.choice(_LOG10_STEPS)),
           'decay_epochs': random.choice(_DECAY_EPOCHS),
           'l2': 10 ** random.uniform(-7, -5)}
  drawn['dropout_dense'], drawn['dropout_spatial'] = random.uniform(0, 0.6, 2)
  kinds = {name: type(value) for name, value in single.settings.items()}
  return Member(seed, {name: kinds[name](drawn[name]) for name in single.settings})


def plan_units(config, resources: Resources = HERE) -> list[Unit]:
  """Groups of members that fit the device, size by size.

  Raises:
    InputError: when not even one member fits.
  """
  units, devices = [], jax.local_devices()
  sharers = max(1, resources.workers)  # processes that share a device's memory
  if devices[0].platform == 'cpu':
    sharers *= len(devices)
  memory = MEMORY_SHARE * device_memory_bytes() / sharers
  for choice in choices_of(config):
    choice_config = config_of(config, choice)
    loss_expression.make_loss(choice_config.train.loss)  # told before any work
    needed = member_bytes(choice_config.train, models.make_model(choice_config.model))
    if needed > memory:
      raise InputError(
          f'a member of size {size_name(choice.n_xy, choice.n_z)}',
          got=f'about {needed / 2**30:.1f} GiB',
          expected=f'at most {memory / 2**30:.1f} GiB of the device',
          remedy='lower config.train.batch or crop_px')
    group = config.sweep.group or min(_LARGEST_GROUP, int(memory / needed))
    group *= len(devices)
    units += [Unit(choice, first, min(first + group, config.sweep.members) - 1)
              for first in range(0, config.sweep.members, group)]
  return units


def known_units(sweep: SweepFolder) -> list[Unit]:
  """The groups of a sweep that has begun, on whatever machine; none of a new one."""
  return [Unit(Choice(*choice), first, last) for choice, first, last in (
      files.read_json(sweep.groups) if sweep.groups.exists() else ())]


def member_bytes(settings, model: Model) -> int:
  """Estimates what one member needs on a device during a step.

  Args:
    settings: config.train.
    model: its network.
  """
  weights = models.count_weights(models.empty_params(model))
  side, map_bytes = model.window_px, _MAP_BYTES // 8
  if settings.sampling == 'dense':
    side, map_bytes = side + settings.crop_px - 1, _MAP_BYTES
  return 4 * 7 * weights + settings.batch * side ** 2 * map_bytes


def config_of(config, choice: Choice):
  """The config with the size and loss of a choice."""
  choice_config = from_dict(to_dict(config))
  choice_config.model.n_xy, choice_config.model.n_z = choice.n_xy, choice.n_z
  choice_config.train.loss, settings = read_loss(choice.loss)
  return change(choice_config, [f'train.{setting}' for setting in settings])


def largest(config):
  """The config whose windows hold those of all sizes, so that all share the regions."""
  return config_of(config, Choice(*map(max, zip(*sizes_of(config), strict=True)),
                                   config.train.loss))
