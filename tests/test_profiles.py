"""Profiles by hand; the scatter of boxes in media whose variance is known."""
import numpy as np
import pytest

from fibjax.analysis import profiles
from fibjax.errors import InputError

SIZE = (50., 10., 20.)


def test_profiles_by_hand():
  labels = np.zeros((2, 4, 5), np.uint8)
  labels[1] = 1
  labels[0, 3] = 1
  found = profiles.porosity_profiles(labels, SIZE)
  np.testing.assert_allclose(found['z'].porosity, [0.75, 0])
  np.testing.assert_allclose(found['z'].position_nm, [25, 75])
  np.testing.assert_allclose(found['y'].porosity, [0.5, 0.5, 0.5, 0])
  np.testing.assert_allclose(found['x'].porosity, [0.375] * 5)
  np.testing.assert_allclose(found['x'].position_nm, [10, 30, 50, 70, 90])


def noise(shape, porosity, seed=0):
  return (np.random.default_rng(seed).random(shape) > porosity).astype(np.uint8)


def test_boxes_of_noise_scatter_with_their_volume():
  labels = noise((20, 100, 100), 0.3)
  found = profiles.representative_volume(labels, (50., 10., 10.), tolerance=0.05)
  phi = (labels == 0).mean()
  voxels = found.edge_nm ** 3 / 5000
  np.testing.assert_allclose(found.sd, np.sqrt(phi * (1 - phi) / voxels),
                             rtol=1 / np.sqrt(2 * found.boxes.min()) * 2)
  assert found.edge_nm[0] == pytest.approx(100)  # 2 x 10 x 10 voxels
  assert found.boxes[0] == 10 * 10 * 10 and found.boxes.min() >= 8
  assert np.all(np.diff(found.edge_nm) > 0)
  assert found.exponent == pytest.approx(1.5, abs=0.15)
  needed = np.cbrt((1 - phi) / phi / 0.05 ** 2 * 5000)
  assert found.needed_nm == pytest.approx(needed, rel=0.05)
  assert not found.too_small


def test_coarser_grains_need_a_larger_box():
  grains = noise((20, 20, 20), 0.5, 1).repeat(4, 0).repeat(4, 1).repeat(4, 2)
  found = profiles.representative_volume(grains, (10.,) * 3, tolerance=0.1)
  # 4 voxels of 10 nm each way, 1 / (phi tolerance^2) of them.
  ratio = found.needed_nm / (40 * np.cbrt(1 / 0.1 ** 2))
  assert 0.95 < ratio < 1.25  # boxes that cut grains make it rather too long
  assert not found.too_small
  stricter = profiles.representative_volume(grains, (10.,) * 3, tolerance=0.01)
  assert stricter.needed_nm > 800 and stricter.too_small
  # With p = 3 / 2 a hundred times the volume for a tenth of the error.
  assert stricter.needed_nm == pytest.approx(
      found.needed_nm * 10 ** (1 / found.exponent), rel=0.02)


def test_says_when_there_is_no_decay():
  halves = np.zeros((16, 16, 16), np.uint8)
  halves[:8] = 1
  found = profiles.representative_volume(halves, (10.,) * 3)
  assert found.exponent is None and found.needed_nm is None and found.too_small
  tiny = profiles.representative_volume(noise((2, 2, 2), 0.5), (10.,) * 3)
  assert tiny.edge_nm.size == 0 and tiny.too_small


def test_a_loose_tolerance_needs_no_box():
  found = profiles.representative_volume(noise((32, 32, 32), 0.5), (10.,) * 3, 2.)
  assert found.needed_nm == 0 and not found.too_small


def test_bad_input_is_refused():
  with pytest.raises(InputError, match='one phase'):
    profiles.representative_volume(np.zeros((4, 4, 4), np.uint8), SIZE)
  with pytest.raises(InputError, match='tolerance'):
    profiles.representative_volume(noise((4, 4, 4), 0.5), SIZE, 0.)
  with pytest.raises(InputError, match='voxel size'):
    profiles.porosity_profiles(noise((4, 4, 4), 0.5), None)
