"""Dilation by balls: that of distance maps, and its rows."""
import numpy as np
import pytest
from scipy import ndimage

from fibjax.analysis import balls, pore_size


def brute_force(mask_zyx, size, square):
  at = np.stack(np.indices(mask_zyx.shape), -1) * size
  marked = at[mask_zyx]
  apart = ((at[..., None, :] - marked) ** 2).sum(-1)
  return (apart < square).any(-1)


@pytest.mark.parametrize('size', [(10., 10., 10.), (50., 10., 10.), (8.3, 12., 7.)])
@pytest.mark.parametrize('radius', [5., 11., 33., 75., 400.])
def test_a_dilation_is_that_of_brute_force(size, radius):
  mask = np.random.default_rng(0).random((5, 8, 70)) < 0.003
  np.testing.assert_array_equal(balls.dilate(mask, size, radius ** 2),
                                brute_force(mask, size, radius ** 2))


@pytest.mark.parametrize('n_x', [1, 63, 64, 65, 128, 130])
def test_rows_cross_the_words(n_x):
  for x in {0, n_x // 2, n_x - 1}:
    mask = np.zeros((1, 1, n_x), bool)
    mask[0, 0, x] = True
    for reach in (0, 1, 2, 70, 200):
      wide = balls.dilate(mask, (1., 1., 1.), (reach + 0.5) ** 2)
      np.testing.assert_array_equal(wide[0, 0], abs(np.arange(n_x) - x) <= reach)


def test_nothing_marks_nothing():
  assert not balls.dilate(np.zeros((3, 4, 5), bool), (1., 1., 1.), 9.).any()


def test_rows_are_the_cross_section_of_a_ball():
  assert balls.rows((1., 1., 1.), 1.0) == 1
  assert balls.rows((1., 1., 1.), 1.01) == 5
  found = balls.rows((5., 1., 1.), 100. ** 2)
  assert found == pytest.approx(np.pi * 100 * 20, rel=0.01)


@pytest.mark.parametrize('radius', [120., 180.])
def test_large_balls_by_distance_maps_cover_the_same(radius, monkeypatch):
  size = (10., 10., 10.)
  mask = np.random.default_rng(1).random((20, 30, 40)) < 0.001
  found = pore_size.cover(mask, size, radius)
  monkeypatch.setattr(pore_size, '_MAX_ROWS', 0)
  np.testing.assert_array_equal(found, pore_size.cover(mask, size, radius))
  np.testing.assert_array_equal(found, ndimage.distance_transform_edt(
      ~mask, sampling=size) < radius - 0.01)
