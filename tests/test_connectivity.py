"""Percolation of drawn channels; Euler numbers of known bodies, media and pieces."""
import numpy as np
import pytest
from skimage.measure import euler_number

from fibjax.analysis import connectivity
from fibjax.errors import InputError
from fibjax.simulation import structure
from fibjax.simulation.fields import Spectrum
from tests import formulas

SIZE = (50., 10., 10.)
CUBES = (1000., 1000., 1000.)  # voxels of 1 um^3


def bodies():
  z, y, x = np.indices((21, 21, 21)) - 10
  square = z * z + y * y + x * x
  return {'ball': (square <= 49, 1), 'shell': ((square <= 49) & (square > 9), 2),
          'ring': ((np.hypot(y, x) - 7) ** 2 + z * z <= 4, 0),
          'two balls': ((np.abs(x) - 5) ** 2 + y * y + z * z <= 9, 2)}


@pytest.mark.parametrize('name', bodies())
def test_euler_number_of_known_bodies(name):
  body, number = bodies()[name]
  cells = np.prod([n - 1 for n in body.shape])
  for labels in (body, ~body):  # as the solid, and as the pore
    found = connectivity.euler_density(labels.astype(np.uint8), CUBES)
    assert found * cells == pytest.approx(number)
  assert connectivity.euler_density(body.astype(np.uint8), SIZE) == pytest.approx(
      number / (cells * 5000 * 1e-9))


@pytest.mark.parametrize('share', [0.1, 0.5, 0.9])
def test_euler_number_of_noise_is_that_of_skimage(share):
  solid = np.pad(np.random.default_rng(0).random((6, 7, 8)) < share, 1)
  cells = np.prod([n - 1 for n in solid.shape])
  found = connectivity.euler_density(solid.astype(np.uint8), CUBES) * cells
  assert found == pytest.approx(euler_number(solid, connectivity=3))
  pore = np.pad(~solid, 1)  # 6 neighbours, bounded by solid
  cells = np.prod([n - 1 for n in pore.shape])
  found = connectivity.euler_density(1 - pore.astype(np.uint8), CUBES) * cells
  assert found == pytest.approx(euler_number(pore, connectivity=1))


def test_euler_numbers_of_pieces_add_up():
  solid = (np.random.default_rng(3).random((9, 10, 11)) < 0.4).astype(np.uint8)
  whole = connectivity.euler_density(solid, CUBES) * 8 * 9 * 10
  parts = [connectivity.euler_density(part, CUBES) * 4 * 9 * 10
           for part in (solid[:5], solid[4:])]
  assert sum(parts) == pytest.approx(whole)


def test_euler_density_of_a_gaussian_field():
  spectrum, porosity = Spectrum(length_px=6.), 0.3
  found = [connectivity.euler_density(structure.whole(structure.level_cut(
      (96, 96, 96), spectrum, porosity, seed)).astype(np.uint8), CUBES)
      for seed in range(3)]
  expected = formulas.euler_density(porosity, formulas.second_spectral_moment(spectrum))
  assert np.mean(found) == pytest.approx(expected, rel=0.25)
  flipped = formulas.euler_density(0.9, formulas.second_spectral_moment(spectrum))
  assert flipped > 0 > expected  # the sign alone tells them apart


def test_percolation_of_drawn_channels():
  labels = np.ones((6, 7, 8), np.uint8)
  labels[:, 1, 1] = 0          # 6 voxels, from face to face along z
  labels[:4, 4, 4] = 0         # 4 voxels, a dead end
  labels[3, 4, 4:] = 0         # 3 more, to the last face of x: an elbow
  labels[5, :, 6] = 0          # 7 voxels along y
  found = connectivity.percolation(labels, SIZE)
  assert found == pytest.approx({'z': 6 / 20, 'y': 7 / 20, 'x': 0})
  spanning = connectivity.spanning_pore(labels == 0, 0)
  assert spanning.sum() == 6 and spanning[:, 1, 1].all()


def test_pores_do_not_connect_over_an_edge():
  labels = np.ones((2, 2, 2), np.uint8)
  labels[0, 0, 0] = labels[1, 1, 0] = 0
  assert connectivity.percolation(labels, SIZE) == {'z': 0, 'y': 0, 'x': 0}
  labels[1, 0, 0] = 0
  assert connectivity.percolation(labels, SIZE) == {'z': 1, 'y': 1, 'x': 0}


def test_one_phase_and_too_little():
  assert set(connectivity.percolation(np.zeros((2, 2, 2), int), SIZE).values()) == {1}
  assert set(connectivity.percolation(np.ones((2, 2, 2), int), SIZE).values()) == {0}
  assert connectivity.euler_density(np.ones((3, 3, 3), np.uint8), SIZE) == 0
  with pytest.raises(InputError, match='2 voxels'):
    connectivity.euler_density(np.ones((1, 3, 3), np.uint8), SIZE)
