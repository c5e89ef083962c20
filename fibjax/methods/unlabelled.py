"""Unlabelled windows of whole volumes, read during training.

Places are drawn anew for every epoch, from all volumes in proportion to their voxels.
One thread reads the windows of the next epoch, so memory holds those of two epochs,
whatever the size of the volumes. Targets are those of a model that teaches
(distillation), or left to the moving average of the weights (§8.2).
"""
import contextlib
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np

from fibjax.errors import InputError
from fibjax.methods import shared
from fibjax.models import Model
from fibjax.training import step
from fibjax.training.sampling import DeviceRegions, RegionStream
from fibjax.volumes.volume import Volume, read_mirrored

_MOST = 256  # windows per epoch


@contextlib.contextmanager
def unlabelled_stream(settings, prepare, model: Model, volumes: dict[str, Volume],
                      seed: int) -> Iterator[RegionStream | None]:
  """Yields the windows of every epoch; None where config.train.unlabelled is 0.

  Args:
    settings: config.train.
    prepare: config.prepare, which a teacher must have been trained with.
    model: the network that is trained.
    volumes: prepared volumes by name.
    seed: of the places.

  Raises:
    InputError: for a volume smaller than a window, or a teacher for other grey values.
  """
  if not settings.unlabelled:
    yield None
    return
  teacher = shared.read_prepared(
      settings.teacher, prepare.to_dict(), 'config.train.teacher'
  ) if settings.teacher else None
  scorers = _scorers(teacher, settings.crop_px) if teacher else ()
  networks = (model, *(teacher.networks if teacher else ()))
  before = max(network.before_px for network in networks)
  n_z = max(network.n_z for network in networks)
  crop, side = settings.crop_px, settings.crop_px + 2 * before
  count = min(_MOST, settings.steps_per_epoch * settings.batch)
  for name, volume in volumes.items():
    if n_z > volume.shape[0] or crop > min(volume.shape[1:]):
      raise InputError(f'volume {name}', got=f'shape {volume.shape}',
                       expected=f'at least {n_z} slices of {crop} x {crop} px, an '
                       'unlabelled window',
                       remedy='lower config.train.crop_px, or train.unlabelled=0')

  def read(epoch):
    random = np.random.default_rng((seed, epoch, 2))
    sizes = np.array([math.prod(volume.shape) for volume in volumes.values()], float)
    windows = []
    for k in random.choice(len(sizes), count, p=sizes / sizes.sum()):
      volume = list(volumes.values())[k]
      z, y, x = (int(random.integers(0, n - extent + 1)) for n, extent in
                 zip(volume.shape, (1, crop, crop), strict=True))
      start = z - n_z // 2, y - before, x - before
      stop = z + n_z // 2 + 1, y - before + side, x - before + side
      windows.append(np.moveaxis(read_mirrored(volume, start, stop), 0, -1))
    return np.stack(windows)

  with ThreadPoolExecutor(1) as pool:
    ahead = {}

    def make(epoch):
      future = ahead.pop(epoch, None) or pool.submit(read, epoch)
      ahead.clear()
      if epoch + 1 < settings.epochs:
        ahead[epoch + 1] = pool.submit(read, epoch + 1)
      context_ryxc = future.result()
      def seen_by(network):
        return _seen_by(network, context_ryxc, before, n_z, crop)

      targets = np.zeros((count, crop, crop), np.float32)
      if teacher is not None:
        targets = np.mean([score(seen_by(network)) for network, score in
                           zip(teacher.networks, scorers, strict=True)], 0)
      own_ryxc = seen_by(model)
      return DeviceRegions(jnp.asarray(own_ryxc), jnp.asarray(targets),
                           jnp.ones((count, crop, crop), jnp.float32))
    yield RegionStream((count, crop, crop), make)


def _seen_by(model: Model, context_ryxc, before: int, n_z: int, crop: int):
  """The part of contexts with a margin `before` and n_z slices that a network sees."""
  cut, first = before - model.before_px, (n_z - model.n_z) // 2
  side = crop + 2 * model.before_px
  return context_ryxc[:, cut:cut + side, cut:cut + side, first:first + model.n_z]


def _scorers(teacher: shared.SharedModel, crop: int) -> list:
  """For each network of a teacher: contexts -> P(solid), [r, crop, crop]."""
  def make(network, params):
    score = jax.jit(lambda images: jax.nn.sigmoid(step.predict(network, params, images,
                                                               crop)))
    return lambda seen_ryxc: np.concatenate(
        [np.asarray(score(seen_ryxc[r:r + 1])) for r in range(len(seen_ryxc))])
  return [make(*member) for member in zip(teacher.networks, teacher.params,
                                          strict=True)]
