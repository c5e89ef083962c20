"""Local thickness against brute force, slabs, cylinders, balls; distances of sizes."""
import numpy as np
import pytest
from scipy import ndimage

from fibjax.analysis import pore_size
from fibjax.analysis.pore_size import PoreSizes
from fibjax.errors import InputError
from fibjax.simulation import structure
from fibjax.simulation.fields import Spectrum

ANISOTROPIC = (50., 10., 10.)


def labels_of(pore_zyx):
  return 1 - pore_zyx.astype(np.uint8)


def grid_nm(shape, size, offset=(0., 0., 0.)):
  """Positions of the voxels from the middle of the volume, nm."""
  return [((np.arange(n) - (n - 1) / 2) * s - o).reshape(np.roll([-1, 1, 1], k))
          for k, (n, s, o) in enumerate(zip(shape, size, offset, strict=True))]


def brute_force(pore_zyx, size, radii=None):
  """Diameter of the largest ball that covers each voxel, with these radii or any."""
  distance = ndimage.distance_transform_edt(pore_zyx, sampling=size)
  at = np.argwhere(pore_zyx)
  apart = np.linalg.norm((at[:, None] - at) * size, axis=-1)  # [voxel, centre]
  free = distance[tuple(at.T)]
  found = np.zeros(pore_zyx.shape)
  if radii is None:
    found[tuple(at.T)] = 2 * np.where(apart < free, free, 0).max(1)
  else:
    for r in radii:
      covered = (apart[:, free >= r - 1e-3] < r - 1e-3).any(1)
      found[tuple(at[covered].T)] = 2 * r
  return found


@pytest.mark.parametrize('size', [(10., 10., 10.), ANISOTROPIC, (8.3, 12., 7.)])
@pytest.mark.parametrize('share', [0.5, 0.9, 0.97])
def test_local_thickness_is_that_of_brute_force(size, share):
  pore = np.random.default_rng(0).random((7, 8, 9)) < share
  found, diameters = pore_size.local_thickness(labels_of(pore), size, steps=12)
  np.testing.assert_allclose(found, brute_force(pore, size, diameters / 2), rtol=1e-5)
  assert len(diameters) <= 13 and np.all(np.diff(diameters) > 0)
  # Balls of any radius, not those of the grid alone, cover more.
  assert (found <= brute_force(pore, size) + 1e-3).all()


@pytest.mark.parametrize(('step', 'size'), [(1, (10.,) * 3), (5, ANISOTROPIC)])
def test_the_grid_of_radii_hardly_moves_the_sizes(step, size):
  solid = structure.whole(structure.level_cut((16 * step, 17, 16),
                                              Spectrum(length_px=5.), 0.5, 1))[::step]
  exact = brute_force(~solid, size)[~solid]
  sizes = pore_size.pore_sizes(solid.astype(np.uint8), size)
  assert pore_size.mean_diameter(sizes) == pytest.approx(exact.mean(), rel=0.02)
  for share in (0.1, 0.5, 0.9):
    assert pore_size.diameter_quantile(sizes, share) == pytest.approx(
        np.quantile(exact, share), abs=10)


@pytest.mark.parametrize('axis', [0, 1, 2])
@pytest.mark.parametrize('voxels', [1, 4, 7])
def test_slab(axis, voxels):
  shape, size = [12, 12, 12], (30., 10., 20.)
  solid = np.ones(shape, np.uint8)
  np.moveaxis(solid, axis, 0)[3:3 + voxels] = 0
  sizes = pore_size.pore_sizes(solid, size)
  # Centres are voxels: an odd slab comes out one voxel too thick.
  expected = (voxels + voxels % 2) * size[axis]
  assert pore_size.mean_diameter(sizes) == pytest.approx(expected, rel=1e-5)
  assert pore_size.diameter_quantile(sizes, 0.5) == pytest.approx(expected, rel=0.06)


@pytest.mark.parametrize('offset', [(0., 0., 0.), (5., 5., 5.), (1., 4., 3.)])
@pytest.mark.parametrize('flat', [0, 1])
def test_ball_and_cylinder(offset, flat):
  size = (10., 10., 10.)
  z, y, x = grid_nm((31, 31, 31), size, offset)
  body = (z * z * (1 - flat) + y * y + x * x + 0 * z) < 110 ** 2
  sizes = pore_size.pore_sizes(labels_of(body), size)
  # The middle is a corner of voxels at worst: sqrt(3) voxels from ball to ball.
  assert 220 - 17.4 < pore_size.mean_diameter(sizes) < 220 + 10


def test_coarse_slices_give_the_same_sizes():
  # Balls of 500 nm, fine and in slices of 50 nm.
  means = []
  for shape, size in (((61,) * 3, (10.,) * 3), ((13, 61, 61), ANISOTROPIC)):
    z, y, x = grid_nm(shape, size)
    sizes = pore_size.pore_sizes(labels_of(z * z + y * y + x * x < 250 ** 2), size)
    means.append(pore_size.mean_diameter(sizes))
  assert means == pytest.approx([500, 500], rel=0.04)


def test_coarse_slices_of_a_random_medium():
  solid = structure.whole(structure.level_cut((100, 100, 100), Spectrum(length_px=10.),
                                              0.5, 3)).astype(np.uint8)
  fine = pore_size.pore_sizes(solid, (10.,) * 3)
  coarse = pore_size.pore_sizes(solid[2::5], ANISOTROPIC)
  mean = pore_size.mean_diameter(fine)
  assert pore_size.mean_diameter(coarse) == pytest.approx(mean, rel=0.02)
  assert pore_size.size_distance(fine, coarse) < 0.03 * mean
  # Taken for cubes, the slices give something else altogether.
  wrong = pore_size.pore_sizes(solid[2::5], (10.,) * 3)
  assert pore_size.mean_diameter(wrong) < 0.6 * mean


def test_sizes_by_hand():
  sizes = PoreSizes(np.array([10., 20., 40.]), np.array([0.25, 0.25, 0.5]))
  assert pore_size.mean_diameter(sizes) == 0.25 * 15 + 0.25 * 30 + 0.5 * 40
  quantiles = [pore_size.diameter_quantile(sizes, q)
               for q in (0, 0.125, 0.25, 0.4, 0.9)]
  assert quantiles == pytest.approx([10, 15, 20, 32, 40])
  moved = PoreSizes(sizes.diameter_k + 7, sizes.share_k)
  assert pore_size.size_distance(sizes, moved) == pytest.approx(7)
  assert pore_size.size_distance(sizes, sizes) == 0
  # Half of the volume from 40 down to 15 (the middle of 10 to 20).
  shrunk = PoreSizes(sizes.diameter_k, np.array([0.75, 0.25, 0.]))
  assert pore_size.size_distance(sizes, shrunk) == pytest.approx(12.5)


def test_counts_of_a_map():
  thickness = np.array([[[0, 20, 20], [33.3, 0, 33.3]]], np.float32)
  sizes = pore_size.count_sizes(thickness, np.array([20, 33.3, 50]))
  assert sizes.share_k.tolist() == [0.5, 0.5, 0]


@pytest.mark.parametrize(('labels', 'size'), [
    (np.zeros((3, 3, 3), int), (10, 10, 10)), (np.ones((3, 3, 3), int), (10, 10, 10)),
    (np.array([[[0, 1, 255]]]), (10, 10, 10)), (np.zeros((3, 3), int), (10, 10, 10)),
    (np.zeros((0, 3, 3), int), (10, 10, 10)), (np.eye(3, dtype=int)[None], None),
    (np.eye(3)[None], (10, 10)), (np.eye(3)[None], (10, 0, 10))])
def test_what_has_no_pore_size_is_refused(labels, size):
  with pytest.raises(InputError):
    pore_size.local_thickness(labels, size)
