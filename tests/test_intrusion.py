"""Intrusion of drawn bottles and channels; throats, pressures, break-through."""
import numpy as np
import pytest
from scipy import ndimage

from fibjax.analysis import intrusion, pore_size
from fibjax.errors import InputError
from fibjax.simulation import structure
from fibjax.simulation.fields import Spectrum

CUBES, SLICES = (10., 10., 10.), (50., 10., 10.)


def positions(shape, size):
  """Middles of the voxels, nm, to be broadcast."""
  return np.meshgrid(*[(np.arange(n) + 0.5) * s for n, s in
                       zip(shape, size, strict=True)], indexing='ij', sparse=True)


def bottle(size, throat_nm=60., body_nm=200., extent=(800., 610., 610.)):
  """A ball of pore in solid, and a cylinder along z to it from the first face."""
  shape = [round(e / s) for e, s in zip(extent, size, strict=True)]
  z, y, x = positions(shape, size)
  y, x = y - extent[1] / 2, x - extent[2] / 2
  ball = (z - 500) ** 2 + y * y + x * x < body_nm ** 2
  return (~(ball | ((y * y + x * x < throat_nm ** 2) & (z < 500)))).astype(np.uint8)


def brute_force(pore_zyx, size, radius, seeds_zyx):
  """Voxels that a ball covers which moves from the seeds, one step after the other."""
  distance = ndimage.distance_transform_edt(pore_zyx, sampling=size)
  free = distance >= radius - 1e-2
  reached = free & seeds_zyx
  while True:
    wider = ndimage.binary_dilation(reached) & free
    if (wider == reached).all():
      break
    reached = wider
  at = np.stack(np.indices(pore_zyx.shape), -1) * size
  apart = np.linalg.norm(at[..., None, :] - at[reached], axis=-1)
  return (apart < radius - 1e-2).any(-1)


def seeds(shape, faces):
  marked = np.zeros(shape, bool)
  for axis in range(3) if faces == 'all' else ('zyx'.index(faces),):
    lines = np.moveaxis(marked, axis, 0)
    lines[0] = True
    if faces == 'all':
      lines[-1] = True
  return marked


@pytest.mark.parametrize('faces', ['all', 'z', 'x'])
@pytest.mark.parametrize('size', [CUBES, (20., 10., 12.)])
def test_a_curve_is_that_of_brute_force(size, faces):
  solid = structure.whole(structure.level_cut((12, 13, 14), Spectrum(length_px=2.5),
                                              0.6, 2))
  curve = intrusion.intrusion(solid.astype(np.uint8), size, faces, steps=6)
  filled = np.zeros(solid.shape, bool)
  for diameter, share in zip(curve.diameter_k[::-1], curve.share_k[::-1], strict=True):
    filled |= brute_force(~solid, size, diameter / 2, seeds(solid.shape, faces))
    assert share == pytest.approx(filled.sum() / (~solid).sum())
  assert curve.share_k[0] > curve.share_k[-1]


@pytest.mark.parametrize('size', [CUBES, SLICES])
def test_an_ink_bottle_shows_its_throat(size):
  labels = bottle(size)
  curve = intrusion.intrusion(labels, size)
  sizes = pore_size.pore_sizes(labels, size)
  # The ball holds nine tenths of the pore: granulometry sees it, mercury its throat.
  # Balls are centred on voxels: 1.4 pixels for a cylinder, 1.7 spacings for a ball.
  body, throat = pore_size.diameter_quantile(sizes, 0.5), intrusion.median_diameter(
      curve)
  assert body == pytest.approx(400, abs=50)
  assert throat == pytest.approx(120, abs=15)
  assert intrusion.constrictivity(curve, sizes) == (throat / body) ** 2
  assert intrusion.constrictivity(curve, sizes) == pytest.approx((60 / 200) ** 2,
                                                                 rel=0.3)
  assert curve.share_k[0] == 1
  assert (np.diff(curve.share_k) <= 0).all()
  wide = curve.diameter_k > 140
  assert curve.share_k[wide].max() == 0


def test_faces_of_entry():
  labels = bottle(CUBES)[::-1]  # the throat leads to the last face of z
  assert intrusion.median_diameter(intrusion.intrusion(labels, CUBES)) > 100
  closed = intrusion.intrusion(labels, CUBES, 'z')
  assert closed.share_k.max() == 0 and intrusion.median_diameter(closed) is None
  sizes = pore_size.pore_sizes(labels, CUBES)
  assert intrusion.constrictivity(closed, sizes) is None
  turned = intrusion.intrusion(np.moveaxis(labels[::-1], 0, 2), CUBES, 'x')
  assert intrusion.median_diameter(turned) == pytest.approx(120, abs=15)


@pytest.mark.parametrize('axis', [0, 1, 2])
def test_between_plates_throats_are_as_wide_as_bodies(axis):
  labels = np.ones((14, 15, 16), np.uint8)
  np.moveaxis(labels, axis, 0)[4:9] = 0
  size = (30., 10., 20.)
  curve, sizes = intrusion.intrusion(labels, size), pore_size.pore_sizes(labels, size)
  # An odd number of voxels: one too thick, as local thickness is.
  assert intrusion.median_diameter(curve) == pytest.approx(6 * size[axis], rel=1e-5)
  assert intrusion.constrictivity(curve, sizes) == pytest.approx(1, rel=0.05)
  passes = intrusion.breakthrough_diameters(labels, size)
  for k, name in enumerate('zyx'):
    assert passes[name] == (None if k == axis else pytest.approx(6 * size[axis]))


def test_the_smallest_ball_fills_what_is_connected_to_the_faces():
  labels = (np.random.default_rng(5).random((9, 10, 11)) < 0.65).astype(np.uint8)
  components, _ = ndimage.label(labels == 0)
  outside = np.unique(components[seeds(labels.shape, 'all')])
  expected = np.isin(components, outside[outside > 0]).sum() / (labels == 0).sum()
  found = intrusion.intrusion(labels, CUBES)
  assert 0.3 < expected < 1 and found.share_k[0] == pytest.approx(expected)


def test_throats_are_never_wider_than_bodies():
  labels = structure.whole(structure.level_cut((60, 60, 60), Spectrum(length_px=6.),
                                               0.4, 3)).astype(np.uint8)
  curve = intrusion.intrusion(labels, CUBES)
  sizes = pore_size.pore_sizes(labels, CUBES)
  np.testing.assert_array_equal(curve.diameter_k, sizes.diameter_k)
  opened_k = np.cumsum(sizes.share_k[::-1])[::-1]
  assert (curve.share_k <= opened_k + 1e-12).all()
  assert 0.1 < intrusion.constrictivity(curve, sizes) < 0.9


def test_median_by_hand():
  curve = intrusion.Intrusion(np.array([10., 20., 40.]), np.array([0.9, 0.7, 0.2]))
  assert intrusion.median_diameter(curve) == pytest.approx(28)
  assert intrusion.median_diameter(curve._replace(share_k=np.array([.49, .3, 0]))
                                   ) is None
  sizes = pore_size.PoreSizes(np.array([20., 56., 80.]), np.array([0.5, 0.5, 0]))
  assert intrusion.constrictivity(curve, sizes) == pytest.approx(0.25)


def test_pressures_of_washburn():
  # 4 x 0.48 N/m x cos 40 deg / 10 nm = 147.08 MPa; 1 um of a usual table: 1.47 MPa
  found = intrusion.washburn_pressure([10., 1000.])
  assert found == pytest.approx([147.08, 1.4708], rel=1e-4)
  assert intrusion.washburn_pressure(10., 180., 0.5) == pytest.approx(200)
  for options in ({'diameter_nm': [1., 0.]}, {'contact_angle_deg': 90.},
                  {'contact_angle_deg': 181.}, {'surface_tension_n_per_m': 0.},
                  {'diameter_nm': np.nan}):
    with pytest.raises(InputError):
      intrusion.washburn_pressure(**{'diameter_nm': 1., **options})


@pytest.mark.parametrize('size', [CUBES, SLICES])
def test_breakthrough_of_a_channel_with_a_neck(size):
  extent = (800., 410., 410.)
  z, y, x = positions([round(e / s) for e, s in zip(extent, size, strict=True)], size)
  radius = np.where(abs(z - 400) < 60, 55., 150.)
  labels = ((y - 205) ** 2 + (x - 205) ** 2 >= radius ** 2).astype(np.uint8)
  found = intrusion.breakthrough_diameters(labels, size)
  assert found['z'] == pytest.approx(110, abs=15)
  assert found['y'] is found['x'] is None
  turned = intrusion.breakthrough_diameters(
      np.moveaxis(labels, 0, 2), (size[1], size[2], size[0]))
  assert turned['x'] == pytest.approx(found['z']) and turned['z'] is None


def test_breakthrough_is_the_largest_radius_that_spans():
  labels = structure.whole(structure.level_cut((20, 22, 24), Spectrum(length_px=3.),
                                               0.6, 1)).astype(np.uint8)
  size = (20., 10., 12.)
  distance = ndimage.distance_transform_edt(labels == 0, sampling=size)
  found = intrusion.breakthrough_diameters(labels, size)
  for k, axis in enumerate('zyx'):
    spanning = []
    for radius in np.unique(distance)[1:]:
      components = np.moveaxis(ndimage.label(distance >= radius)[0], k, 0)
      if set(components[0].ravel()) & set(components[-1].ravel()) - {0}:
        spanning.append(radius)
    assert found[axis] == pytest.approx(2 * max(spanning))


@pytest.mark.parametrize(('labels', 'options', 'match'), [
    (np.zeros((3, 3, 3), int), {}, 'one phase'),
    (np.eye(3, dtype=int)[None], {'faces': 'xy'}, 'all, z, y or x'),
    (np.eye(3, dtype=int)[None], {'voxel_size_zyx_nm': None}, 'no voxel size')])
def test_what_cannot_be_intruded_is_refused(labels, options, match):
  with pytest.raises(InputError, match=match):
    intrusion.intrusion(labels, **{'voxel_size_zyx_nm': CUBES, **options})


def test_one_phase_has_no_breakthrough():
  with pytest.raises(InputError, match='one phase'):
    intrusion.breakthrough_diameters(np.zeros((3, 3, 3), int), CUBES)
