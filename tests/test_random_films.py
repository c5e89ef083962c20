"""Films of random materials: determinism, ranges, the stream of training regions."""
import os
import signal
import zlib

import numpy as np
import pytest

from fibjax.datasets import random_films
from fibjax.errors import InputError
from fibjax.preparation import scaling
from fibjax.simulation import films, structure
from fibjax.simulation.random_films import (
  FAMILIES,
  NAME,
  PLANES,
  POROSITY,
  simulate_random_film,
)
from fibjax.system.background import Background

SHAPE = (4, 40, 48)


def test_a_film_depends_on_its_seed_alone():
  film, again, other = (simulate_random_film(SHAPE, seed) for seed in (5, 5, 6))
  np.testing.assert_array_equal(film.image_zyx, again.image_zyx)
  np.testing.assert_array_equal(film.truth_zyx, again.truth_zyx)
  assert (film.image_zyx != other.image_zyx).any()
  assert film.meta['preset'] not in films.PRESETS  # its noise is no preset's


def test_films_keep_to_their_ranges():
  seen = set()
  for seed in range(30):
    film = simulate_random_film(SHAPE, seed)
    seen.add(film.meta['family'])
    planes = film.voxel_size_zyx_nm[0] / film.voxel_size_zyx_nm[1]
    assert planes == round(planes) and PLANES[0] <= planes <= PLANES[1]
    assert POROSITY[0] <= film.meta['wanted_porosity'] <= POROSITY[1]
    imaging = film.meta['imaging']
    assert 0 <= imaging['tilt_deg'] <= 54
    assert imaging['dark'] + imaging['thin_wall'] * (1 - imaging['dark']) < 1
    if 0 < film.truth_zyx.mean() < 1:  # never inverted, however strong the pore-backs
      solid = film.truth_zyx == 1
      assert film.image_zyx[solid].mean() > film.image_zyx[~solid].mean()
  assert len(seen) > len(FAMILIES) / 2 and seen <= set(FAMILIES)


@pytest.mark.parametrize('porosity', [0.2, 0.5, 0.7])
def test_a_packing_has_its_porosity(porosity):
  found = [structure.whole(structure.packing((80, 80, 80), porosity, 7.0, seed)).mean()
           for seed in range(4)]
  assert 1 - np.mean(found) == pytest.approx(porosity, abs=0.02)


def test_balls_of_a_packing_stay_apart():
  # At a high porosity balls shrink: none touches another, so each is a body of its own.
  solid = structure.whole(structure.packing((70, 70, 70), 0.85, 8.0, 1, radius_cv=0.0,
                                            overlap=1.0))
  from skimage.measure import label, regionprops
  inner = [body for body in regionprops(label(solid, connectivity=1))
           if min(body.bbox[:3]) > 0 and max(body.bbox[3:]) < 70]
  volumes = np.array([body.area for body in inner])
  assert len(volumes) > 5 and volumes.std() < 0.05 * volumes.mean()


def test_the_inverse_swaps_the_phases():
  balls = structure.boolean((20, 30, 30), 1e-4, 8.0, 1)
  np.testing.assert_array_equal(structure.whole(structure.inverse(balls)),
                                ~structure.whole(balls))


def test_regions_are_those_of_the_film():
  context_ryxc, masks_ryx = random_films.film_regions(16, 8, 3, {'scale': 'standard',
                                                           'gradient': False}, 11)
  film = simulate_random_film((12, 32, 32), 11)
  image_zyx = scaling.scale_image(film.image_zyx, scale='standard', gradient=False)
  assert context_ryxc.shape == (4, 32, 32, 3) and masks_ryx.shape == (4, 16, 16)
  np.testing.assert_array_equal(context_ryxc[2], np.moveaxis(image_zyx[6:9], 0, -1))
  np.testing.assert_array_equal(masks_ryx[2], film.truth_zyx[7, 8:24, 8:24])


def test_no_film_is_shared_between_training_and_evaluation():
  """Not a seed, and no random stream with the films of presets, whatever the seeds."""
  trained = [seed for data_seed in range(3) for epoch in range(50)
             for seed in random_films.training_seeds(data_seed, epoch, 24)]
  tested = [random_films.evaluation_seed(data_seed, index)
            for data_seed in range(3) for index in range(100)]
  assert len(set(trained + tested)) == len(trained) + len(tested)
  names = [zlib.crc32(preset.name.encode()) for preset in films.PRESETS.values()]
  names += [zlib.crc32(NAME.encode())]
  assert len(set(names)) == len(names)
  # films.py starts its streams with (seed, name): as long as names differ, none meets.
  draws = [np.random.default_rng((7, name, 2, 0)).random() for name in names]
  assert len(set(draws)) == len(draws)
  noise = [film.image_zyx.astype(float) for film in (
      simulate_random_film(SHAPE, 7), films.simulate_film('HPC30', SHAPE, 7))]
  assert abs(np.corrcoef(*(image_zyx.ravel() for image_zyx in noise))[0, 1]) < 0.2


@pytest.mark.long
def test_the_stream_has_new_films_in_every_epoch_and_repeats_itself():
  prepare = {'scale': 'standard', 'gradient': False}
  with random_films.film_stream(2, 16, 8, 1, prepare, 3, epochs=3) as read:
    first, second = read(0), read(1)
  with random_films.film_stream(2, 16, 8, 1, prepare, 3, epochs=2) as read:
    again = read(1)  # as after a resume
  for part, other in zip(second, again, strict=True):
    np.testing.assert_array_equal(part, other)
  assert (first[0] != second[0]).any()
  alone = random_films.film_regions(16, 8, 1, prepare, 2 * (3 * 10 ** 9 + 2) + 1)
  np.testing.assert_array_equal(second[0][:4], alone[0])


def die(unit):
  os.kill(os.getpid(), signal.SIGKILL) if unit == 1 else None
  return unit


@pytest.mark.long
def test_background_keeps_order_and_tells_of_a_killed_worker():
  with Background(abs, workers=2) as background:
    assert background.map([-3, -2, -1], ahead=[-9]) == [3, 2, 1]
    assert background.map([-9, -4]) == [9, 4]
  with Background(die, workers=1) as background, pytest.raises(
      InputError, match='worker process'):
    background.map([0, 1])
