"""Specific surface of balls, planes and media of known surface; S2 against the FFT."""
import numpy as np
import pytest

from fibjax.analysis import specific_surface, two_point
from fibjax.errors import InputError
from fibjax.simulation import structure
from fibjax.simulation.fields import Spectrum
from tests import formulas

ANISOTROPIC = (50., 10., 10.)


def test_curves_are_those_of_the_full_two_point_function():
  labels = (np.random.default_rng(0).random((9, 12, 13)) < 0.4).astype(np.uint8)
  curves = specific_surface.s2_curves(labels, ANISOTROPIC)
  pore = labels == 0
  covariance, _ = two_point.two_point_covariance(pore)
  centre = [n - 1 for n in labels.shape]
  padded = np.pad(pore, [(0, n - 1) for n in pore.shape]).astype(float)
  products = np.fft.irfftn(abs(np.fft.rfftn(padded)) ** 2, padded.shape,
                           axes=(0, 1, 2))
  for k, axis in enumerate('zyx'):
    lag = np.arange(labels.shape[k] // 2 + 1)
    np.testing.assert_allclose(curves[axis].lag_nm, lag * ANISOTROPIC[k])
    line = np.moveaxis(products, k, 0)[lag, 0, 0]
    pairs = pore.size // pore.shape[k] * (pore.shape[k] - lag)
    np.testing.assert_allclose(curves[axis].s2, line / pairs, atol=1e-12)
    assert curves[axis].s2[0] == pytest.approx(pore.mean())
    # The covariance takes the mean off first, which only differs by the borders.
    index = list(centre)
    index[k] = centre[k] + lag
    np.testing.assert_allclose(curves[axis].s2, covariance[tuple(index)]
                               + pore.mean() ** 2, atol=0.03)
  short = specific_surface.s2_curves(labels, ANISOTROPIC, max_lag_nm=25.)
  assert [len(short[axis].s2) for axis in 'zyx'] == [1, 3, 3]


def packing(shape, size, radius_nm, pitch_nm, seed=0):
  """Balls that do not touch, each moved a little off a cubic lattice."""
  rng = np.random.default_rng(seed)
  extent = [n * s for n, s in zip(shape, size, strict=True)]
  solid, count = np.zeros(shape, np.uint8), 0
  axes = [(np.arange(n) + 0.5) * s for n, s in zip(shape, size, strict=True)]
  for corner in np.ndindex(*[round(e / pitch_nm) for e in extent]):
    middle = (np.array(corner) + 0.5) * pitch_nm + rng.uniform(-1, 1, 3) * (
        pitch_nm / 2 - radius_nm)
    z, y, x = [a - m for a, m in zip(axes, middle, strict=True)]
    solid |= (z[:, None, None] ** 2 + y[:, None] ** 2 + x ** 2 < radius_nm ** 2)
    count += 1
  return solid, count * 4 * np.pi * radius_nm ** 2 / np.prod(extent) * 1e3


@pytest.mark.parametrize(('shape', 'size'), [
    ((120, 120, 120), (10.,) * 3), ((24, 120, 120), ANISOTROPIC)])
def test_surface_of_a_packing_of_balls(shape, size):
  solid, expected = packing(shape, size, radius_nm=130., pitch_nm=300.)
  found = specific_surface.specific_surface(solid, size)
  assert found.per_um == pytest.approx(expected, rel=0.015)
  assert found.zyx_per_um == pytest.approx([expected] * 3, rel=0.04)
  # What a surface of voxel faces would give is 1.5 times as much.
  assert specific_surface.specific_surface(1 - solid, size) == found


def test_surface_of_a_gaussian_field():
  spectrum = Spectrum(length_px=5.)  # chords of 140 nm: about three slices
  lambda2 = formulas.second_spectral_moment(spectrum)
  for seed in range(2):
    solid = structure.whole(structure.level_cut((128, 128, 128), spectrum, 0.3, seed))
    expected = 100 * formulas.specific_surface(1 - solid.mean(), lambda2)
    fine = specific_surface.specific_surface(solid.astype(np.uint8), (10.,) * 3)
    coarse = specific_surface.specific_surface(solid[::5].astype(np.uint8), ANISOTROPIC)
    assert fine.per_um == pytest.approx(expected, rel=0.03)
    assert coarse.per_um == pytest.approx(fine.per_um, rel=0.015)
    assert coarse.zyx_per_um[0] == pytest.approx(fine.zyx_per_um[0], rel=0.03)
    # The secant over one slice, which the estimator improves on, is out by more.
    secant = 2 * np.diff(solid[::5], axis=0).mean() / 50 * 1e3
    assert secant < 0.95 * fine.zyx_per_um[0]


def test_plane_counts_for_lines_across_it_alone():
  labels = np.zeros((40, 40, 40), np.uint8)
  labels[:20] = 1
  found = specific_surface.specific_surface(labels, ANISOTROPIC)
  # 1 / (40 * 50 nm) of true surface; one in 39 and two in 38 pairs differ.
  expected = 4 * (8 * 1 / 39 - 2 / 38) / (2 * 6 * 50) * 1e3
  assert found.zyx_per_um == pytest.approx((expected, 0, 0))
  assert found.per_um == pytest.approx(2 / 3 * 0.5, rel=0.03)


def test_short_axis_is_refused():
  with pytest.raises(InputError, match='3 voxels'):
    specific_surface.specific_surface(np.zeros((2, 9, 9), np.uint8), ANISOTROPIC)
