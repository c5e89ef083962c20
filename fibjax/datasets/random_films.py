"""The data source 'random': films of random materials, to train on before any label.

The films of a run validate and test. Films of odd seeds train (`film_stream`), new ones
in every epoch, made by worker processes and never stored; those of even seeds stand in
the workdir.
"""
import functools
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from fibjax.datasets import simulated
from fibjax.datasets.source import Request, Source
from fibjax.preparation import scaling
from fibjax.simulation.random_films import simulate_random_film
from fibjax.system import progress
from fibjax.system.background import Background
from fibjax.volumes.volume import Volume, open_volume

REGIONS_PER_FILM = 4
_APART = 3               # slices between the regions of a film
_SEEDS = 10 ** 9         # films of one config.data.seed


def evaluation_seed(data_seed: int, index: int) -> int:
  """Seed of a film that a run validates and tests with; even."""
  return 2 * (data_seed * _SEEDS + index)


def training_seeds(data_seed: int, epoch: int, films: int) -> list[int]:
  """Seeds of the films that are trained on in an epoch; odd, all different."""
  return [2 * (data_seed * _SEEDS + epoch * films + i) + 1 for i in range(films)]


def _open_films(request: Request) -> dict[str, Volume]:
  """Opens the films of a run, simulated first where they are missing."""
  data, volumes = request.data, {}
  for index in range(data.films):
    name = f'film_{index + 1:02d}'
    raw = request.run.raw(name)
    if not raw.exists():
      film = simulate_random_film(tuple(data.shape_zyx),
                                  evaluation_seed(data.seed, index))
      simulated.write_film(film, raw.parent)
      progress.say(f'simulated {name}: {film.meta["family"]}')
    volumes[name] = open_volume(raw)
  return volumes


def _describe(data) -> list[tuple[str, str]]:
  return [('random films', f'{data["films"]}, seed {data["seed"]}')]


SOURCE = Source(_open_films, simulated.annotate_films, _describe)


def film_regions(side_px: int, margin_px: int, n_z: int, prepare: dict, seed: int
                 ) -> tuple[np.ndarray, np.ndarray]:
  """Simulates a film and cuts regions from its slices.

  Args:
    side_px: side of a region.
    margin_px: m, pixels that the network sees around it.
    n_z: slices that the network sees.
    prepare: config.prepare, how grey values are scaled.
    seed: of the film.

  Returns:
    Images [r, side + 2 m, side + 2 m, n_z] float32 and labels [r, side, side] uint8 of
    REGIONS_PER_FILM regions.
  """
  full = side_px + 2 * margin_px
  film = simulate_random_film((n_z + _APART * (REGIONS_PER_FILM - 1), full, full), seed)
  image_zyx = scaling.scale_image(film.image_zyx, **prepare)
  starts = range(0, _APART * REGIONS_PER_FILM, _APART)
  inner = slice(margin_px, margin_px + side_px)
  return (np.stack([np.moveaxis(image_zyx[z:z + n_z], 0, -1) for z in starts]),
          np.stack([film.truth_zyx[z + n_z // 2, inner, inner] for z in starts]))


@contextmanager
def film_stream(films: int, side_px: int, margin_px: int, n_z: int, prepare: dict,
                seed: int, epochs: int) -> Iterator:
  """Makes the training regions of every epoch in worker processes, an epoch ahead.

  Args:
    films: per epoch.
    side_px, margin_px, n_z, prepare: as for `film_regions`.
    seed: config.data.seed.
    epochs: of the training; no film is made for a later one.

  Yields:
    epoch -> images and labels of its films * REGIONS_PER_FILM regions.
  """
  make = functools.partial(film_regions, side_px, margin_px, n_z, prepare)

  with Background(make) as background:
    def read(epoch):
      ahead = training_seeds(seed, epoch + 1, films) if epoch + 1 < epochs else ()
      results = background.map(training_seeds(seed, epoch, films), ahead)
      return tuple(np.concatenate(part) for part in zip(*results, strict=True))
    yield read
