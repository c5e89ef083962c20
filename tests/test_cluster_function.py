"""C2 against brute force, S2 and drawn pieces of pore."""
import numpy as np
import pytest
from scipy import ndimage

from fibjax.analysis import specific_surface
from fibjax.analysis.cluster_function import c2_curves

SIZE = (50., 10., 12.)


def brute_force(labels, axis, lag):
  components = np.moveaxis(ndimage.label(labels == 0)[0], axis, 0)
  n = len(components)
  pairs = [(a, b) for k in range(n - lag) for a, b in
           zip(components[k].ravel(), components[k + lag].ravel(), strict=True)]
  return sum(a == b and a > 0 for a, b in pairs) / len(pairs)


@pytest.mark.parametrize('porosity', [0.25, 0.4])
def test_curves_are_those_of_brute_force(porosity):
  labels = (np.random.default_rng(0).random((6, 7, 8)) > porosity).astype(np.uint8)
  found = c2_curves(labels, SIZE)
  pairs = specific_surface.s2_curves(labels, SIZE)
  for k, axis in enumerate('zyx'):
    np.testing.assert_array_equal(found[axis].lag_nm, pairs[axis].lag_nm)
    np.testing.assert_allclose(found[axis].c2, [
        brute_force(labels, k, lag) for lag in range(len(found[axis].c2))])
    assert found[axis].c2[0] == pytest.approx((labels == 0).mean())
    assert (found[axis].c2 <= pairs[axis].s2 + 1e-12).all()
    # Neighbouring pore voxels are connected; further apart some are not.
    assert found[axis].c2[1] == pytest.approx(pairs[axis].s2[1])
    assert found[axis].c2[2:].sum() < pairs[axis].s2[2:].sum()


def test_one_piece_has_the_c2_of_its_s2():
  labels = np.ones((8, 9, 10), np.uint8)
  labels[3], labels[:, 4], labels[..., 5] = 0, 0, 0
  found, pairs = c2_curves(labels, SIZE), specific_surface.s2_curves(labels, SIZE)
  for axis in 'zyx':
    np.testing.assert_allclose(found[axis].c2, pairs[axis].s2)


def test_two_plates_are_connected_along_themselves_alone():
  labels = np.ones((10, 12, 12), np.uint8)
  labels[2], labels[4] = 0, 0
  found = c2_curves(labels, SIZE)
  assert found['z'].c2.tolist() == [0.2, 0, 0, 0, 0, 0]
  np.testing.assert_allclose(found['y'].c2, 0.2)
  assert specific_surface.s2_curves(labels, SIZE)['z'].s2[2] == 1 / 8


def test_many_pieces_and_none():
  labels = np.indices((40, 41, 42)).sum(0) % 2  # more than 2^15 pieces of one voxel
  assert ndimage.label(labels == 0)[1] > 2 ** 15
  found = c2_curves(labels, SIZE)
  for axis in 'zyx':
    assert found[axis].c2[0] == 0.5 and not found[axis].c2[1:].any()
  short = c2_curves(labels, SIZE, max_lag_nm=25.)
  assert [len(short[axis].c2) for axis in 'zyx'] == [1, 3, 3]
  assert not c2_curves(np.ones((3, 3, 3), int), SIZE)['x'].c2.any()
