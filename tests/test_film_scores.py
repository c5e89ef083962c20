"""Scores of whole films against those of arrays, and what collapsed networks get."""
import numpy as np
import pytest

from fibjax.analysis import transport
from fibjax.evaluation import film_scores, region_scores
from fibjax.evaluation.film_scores import Film
from fibjax.inference.segment import Postprocessing, segment_array
from fibjax.metrics import calibration, confusion

SIZE = (20., 10., 10.)
HOW = Postprocessing(0.5, 0.4, min_size_vox=5)


def make_film(seed, name, shape=(6, 70, 80)):
  random = np.random.default_rng(seed)
  coarse = random.random((shape[0], 7, 8)) > 0.4
  truth = np.kron(coarse, np.ones((1, 10, 10))).astype(np.uint8)
  image = np.clip(truth * 0.6 + 0.2 + random.normal(0, 0.2, shape), 0, 1)
  return Film(name, image.astype(np.float32), truth, SIZE,
              film_scores.diffusivity(truth, SIZE, 1.))


@pytest.mark.long
def test_scores_are_those_of_all_voxels():
  films = [make_film(0, 'a'), make_film(1, 'b', (4, 70, 80))]
  found = film_scores.measure(films, lambda image: image, HOW, 1., 0., 1.)
  labels = [segment_array(film.image_zyx, HOW) for film in films]
  counts = sum(confusion.confusion(film.truth_zyx, part)
               for film, part in zip(films, labels, strict=True))
  assert found['miou'] == pytest.approx(confusion.summarise(counts)['miou'])
  biases = [float((part == 0).mean() - (film.truth_zyx == 0).mean())
            for film, part in zip(films, labels, strict=True)]
  assert found['porosity_bias'] == pytest.approx(np.mean(biases))
  assert found['porosity_error'] == pytest.approx(np.mean(np.abs(biases)))
  flat = [np.concatenate([part.ravel() for part in parts]) for parts in (
      [film.image_zyx for film in films], [film.truth_zyx for film in films])]
  assert found['ece'] == pytest.approx(calibration.summarise(*flat)['ece'], abs=1e-6)
  assert found['ece_calibrated'] == pytest.approx(found['ece'], abs=1e-6)
  errors = []
  for film, part in zip(films, labels, strict=True):
    for axis in 'zyx':
      true, own = (transport.effective_diffusivity(volume, SIZE, axis)
                   .relative_diffusivity for volume in (film.truth_zyx, part))
      if true:
        errors.append(abs(own - true) / true)
  assert errors and found['diffusivity_error'] == pytest.approx(np.mean(errors))
  assert found['per_volume']['b']['porosity'] == pytest.approx(
      float((labels[1] == 0).mean()))


@pytest.mark.long
def test_a_perfect_network_has_no_error():
  film = make_film(2, 'a')
  how = Postprocessing(0., 0.5, min_size_vox=0)
  found = film_scores.measure([film], lambda _: film.truth_zyx.astype(np.float32), how,
                              1., 0., 1.)
  assert found['miou'] == found['worst_miou'] == found['boundary_f1'] == 1
  assert found['porosity_bias'] == found['diffusivity_error'] == 0


@pytest.mark.parametrize('phase', [0, 1])
def test_a_network_of_one_phase_is_measured_too(phase):
  film = make_film(3, 'a')
  found = film_scores.measure(
      [film], lambda image: np.full(image.shape, phase, np.float32), HOW, 1., 0., 1.)
  assert found['per_volume']['a']['diffusivity'] == dict.fromkeys('zyx', 1. - phase)
  if phase == 1:  # nothing flows
    assert found['diffusivity_error'] == 1


def test_diffusivity_can_be_left_out():
  film = make_film(4, 'a')
  assert film_scores.diffusivity(film.truth_zyx, SIZE, 0.) == {}
  assert film_scores.diffusivity(film.truth_zyx, None, 1.) == {}
  found = film_scores.measure([film._replace(diffusivity={})], lambda image: image,
                              HOW, 1., 0., 1.)
  assert found['diffusivity_error'] is None


def test_windows_of_a_region_cover_it_evenly():
  mask = np.random.default_rng(5).choice([0, 1, 255], (128, 100)).astype(np.uint8)
  labels = np.random.default_rng(6).integers(0, 2, mask.shape).astype(np.uint8)
  found = region_scores.count_windows(mask, labels)
  assert found.shape == (4, 2, 2)
  np.testing.assert_array_equal(found.sum(0), confusion.confusion(mask, labels))
  np.testing.assert_array_equal(found[1], confusion.confusion(mask[:64, 50:],
                                                              labels[:64, 50:]))
  assert region_scores.count_windows(mask[:20, :20], labels[:20, :20]).shape[0] == 1
