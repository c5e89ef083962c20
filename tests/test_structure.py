"""Random structures against closed formulas; splines and tiling against oracles."""
import numpy as np
import pytest
from scipy import ndimage
from scipy.special import ndtr

from fibjax.errors import InputError
from fibjax.simulation import fields, structure
from fibjax.simulation.fields import Spectrum
from tests import formulas

GAUSS = Spectrum(length_px=10.0)
SPECTRA = {
  'gaussian': GAUSS,
  'shell': Spectrum('shell', length_px=60.0),
  'mixture': Spectrum('mixture', length_px=10.0, second_length_px=18.0),
}


def cut(seed, size=128, spectrum=GAUSS, porosity=0.3, **kwargs):
  """Solid of one realisation, bool [z, y, x]."""
  return structure.whole(structure.level_cut(
      (size,) * 3, spectrum, porosity, seed, **kwargs))


def two_point(phase, lag, axis):
  """S2 at a lag along an axis, from the pairs inside the box."""
  a = np.moveaxis(phase, axis, 0)
  return np.mean(a[lag:] & a[:len(a) - lag])


def variogram(phase, lag):
  """phi - S2(lag): half the share of differing pairs; it varies less than S2."""
  return np.mean([np.mean(a[lag:] ^ a[:len(a) - lag]) / 2
                  for a in (np.moveaxis(phase, axis, 0) for axis in range(3))])


def switches(solid, axes=(0, 1, 2)):
  """Phase changes per voxel step, averaged over axes."""
  return np.mean([np.mean(np.diff(solid, axis=a)) for a in axes])


def euler_density(solid):
  """Euler number per voxel of the union of closed cubes (26-connected)."""
  density = -solid.mean()
  for axes in ((0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)):
    cell = solid
    for axis in axes:
      a = np.moveaxis(cell, axis, 0)
      cell = np.moveaxis(a[1:] | a[:-1], 0, axis)
    density += (-1) ** (len(axes) + 1) * cell.mean()
  return density


def test_euler_helper_on_known_bodies():
  grid = np.indices((21, 21, 21)) - 10
  ball = (grid ** 2).sum(0) <= 49
  shell = ball & ((grid ** 2).sum(0) > 9)
  ring = (np.hypot(grid[1], grid[2]) - 7) ** 2 + grid[0] ** 2 <= 4
  for body, number in ((ball, 1), (shell, 2), (ring, 0)):
    # Every cell of the complex, by the inclusion of a border of pore.
    padded = np.pad(body, 1)
    counts = -padded.sum()
    for axes in ((0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)):
      cell = padded
      for axis in axes:
        a = np.moveaxis(cell, axis, 0)
        cell = np.moveaxis(a[1:] | a[:-1], 0, axis)
      counts += (-1) ** (len(axes) + 1) * cell.sum()
    assert counts == number


def test_porosity_within_three_sd():
  size, porosity = 160, 0.3
  r = np.linspace(0, 80, 801)
  excess = formulas.two_point_probability(
      formulas.covariance(GAUSS, r), porosity) - porosity ** 2
  integral_range = np.trapezoid(excess * 4 * np.pi * r ** 2, r)
  sd = np.sqrt(integral_range / size ** 3)
  for seed in range(3):
    assert abs(1 - cut(seed, size).mean() - porosity) < 3 * sd


@pytest.mark.parametrize('kind', SPECTRA)
def test_two_point_probability(kind):
  spectrum, lags = SPECTRA[kind], np.array([2, 5, 10, 15, 20, 30])
  measured = [[variogram(cut((7, seed), 144, spectrum), r) for r in lags]
              for seed in range(16)]
  s2 = formulas.two_point_probability(formulas.covariance(spectrum, lags), 0.3)
  error = np.std(measured, axis=0, ddof=1) / np.sqrt(len(measured))
  np.testing.assert_array_less(np.abs(np.mean(measured, 0) - (0.3 - s2)), 3.5 * error)
  np.testing.assert_array_less(error, 0.05 * (0.3 - s2))  # else the test is idle
  assert formulas.two_point_probability(1.0, 0.3) == pytest.approx(0.3)
  assert formulas.two_point_probability(0.0, 0.3) == pytest.approx(0.09)


def test_two_point_probability_of_one_realisation():
  pore = ~cut(1, 192)
  porosity = pore.mean()
  for lag in (2, 10, 20):
    expected = formulas.two_point_probability(formulas.covariance(GAUSS, lag), porosity)
    measured = np.mean([two_point(pore, lag, axis) for axis in range(3)])
    assert measured == pytest.approx(expected, abs=0.008)


@pytest.mark.parametrize('kind', SPECTRA)
def test_specific_surface_boundary_length_and_chord(kind):
  lambda2 = formulas.second_spectral_moment(SPECTRA[kind])
  for seed in range(2):
    solid = cut(seed, 160, SPECTRA[kind])
    porosity = 1 - solid.mean()  # the formulas hold per realisation to first order
    rate = switches(solid)
    surface = formulas.specific_surface(porosity, lambda2)
    assert 2 * rate == pytest.approx(surface, rel=0.07)
    assert 2 * porosity / rate == pytest.approx(
        formulas.mean_chord(porosity, lambda2), rel=0.07)
    in_plane = np.pi / 2 * switches(solid, axes=(1, 2))
    assert in_plane == pytest.approx(
        formulas.boundary_length(porosity, lambda2), rel=0.09)


@pytest.mark.parametrize('porosity, length, chord', [
  (0.217, 13.5, 25.0), (0.295, 14.0, 30.0), (0.449, 15.8, 45.0)])
def test_published_chords_of_the_films(porosity, length, chord):
  assert formulas.mean_chord(porosity, 1 / length ** 2) == pytest.approx(chord, abs=0.6)


@pytest.mark.parametrize('level', [-1.2, -0.5, 0.6])
def test_euler_density(level):
  porosity = ndtr(level)
  measured = [euler_density(cut((5, seed), 144, porosity=porosity))
              for seed in range(6)]
  error = np.std(measured, ddof=1) / np.sqrt(len(measured))
  expected = formulas.euler_density(porosity, 1 / 100)
  assert abs(np.mean(measured) - expected) < 3.5 * error
  assert error < 0.12 * abs(expected)


def test_stretch_z_scales_the_covariance():
  spectrum = Spectrum(length_px=8.0, stretch_z=2.0)
  ratio = []
  for seed in range(3):
    solid = cut(seed, 144, spectrum)
    ratio.append(switches(solid, (1, 2)) / switches(solid, (0,)))
  assert np.mean(ratio) == pytest.approx(2.0, rel=0.06)


def test_slow_field_adds_its_covariance():
  tau, slow, lags = 1.0, 24.0, np.array([5, 15, 30, 50])
  rho = (formulas.covariance(GAUSS, lags) + tau ** 2 * formulas.covariance(
      Spectrum(length_px=slow), lags)) / (1 + tau ** 2)
  expected = formulas.two_point_probability(rho, 0.3)
  measured = [[variogram(cut(seed, 96, slow_length_px=slow, slow_amplitude=tau), r)
               for r in lags] for seed in range(40)]
  error = np.std(measured, axis=0, ddof=1) / np.sqrt(len(measured))
  np.testing.assert_array_less(np.abs(np.mean(measured, 0) - (0.3 - expected)),
                               3.5 * error)
  without = formulas.two_point_probability(formulas.covariance(GAUSS, lags), 0.3)
  assert expected[2] - without[2] > 4 * error[2]  # the slow field is felt


def test_sheets_have_the_porosity_and_both_sides():
  porosities = [1 - cut(seed, 128, Spectrum('shell', length_px=50.0), 0.8,
                        sheets=True, slow_length_px=40.0, slow_amplitude=0.5).mean()
                for seed in range(32)]
  error = np.std(porosities, ddof=1) / np.sqrt(32)
  assert abs(np.mean(porosities) - 0.8) < 3.5 * error
  assert error < 0.015


def test_match_sets_the_porosity_of_the_planes():
  planes = (0, 5, 10)
  struts = structure.boolean((12, 80, 90), 1e-5, 5.0, 3, length_px=60.0)
  match = structure.Match(0.4, planes, (64, 70), struts)
  rest = structure.level_cut((12, 80, 90), GAUSS, 0.5, 1, match=match,
                             slow_amplitude=0.5)
  solid = structure.whole(structure.union(rest, struts))
  pore = 1 - solid[list(planes), :64, :70].mean()
  assert pore == pytest.approx(0.4, abs=2e-4)


def test_porosity_profile_along_z():
  profile = np.linspace(0.1, 0.9, 200)
  planes = [structure.whole(structure.level_cut(
      (200, 64, 64), Spectrum(length_px=6.0), profile, seed)).mean((1, 2))
      for seed in range(6)]
  assert np.abs(1 - np.mean(planes, 0) - profile).max() < 0.12
  assert np.abs(1 - np.mean(planes, 0) - profile).mean() < 0.03


def test_field_is_the_cubic_spline_of_its_coefficients():
  field = fields.gaussian_field((23, 30, 41), Spectrum(length_px=14.0),
                                np.random.default_rng(0))
  assert field.factor == 4
  points = np.meshgrid(*[np.arange(n) / 4 + 1 for n in field.shape_zyx], indexing='ij')
  oracle = ndimage.map_coordinates(field.coefficients_zyx.astype(float), points,
                                   order=3, prefilter=False)
  np.testing.assert_allclose(fields.field_slab(field, 0, 23), oracle, atol=1e-5)


def test_coarse_grid_carries_the_same_field_statistics():
  spectrum, lag = Spectrum(length_px=14.0), 14
  for factor in (1, 4):
    values = [fields.field_slab(fields.gaussian_field(
        (96,) * 3, spectrum, np.random.default_rng(seed), factor), 0, 96)
        for seed in range(8)]
    variance = [np.mean(v ** 2) for v in values]
    slope = [np.mean(np.diff(v, axis=a) ** 2) for v in values for a in range(3)]
    pair = [np.mean(v[lag:] * v[:-lag]) for v in values]
    assert np.mean(variance) == pytest.approx(1, abs=0.12)
    assert np.mean(slope) == pytest.approx(2 * (1 - np.exp(-0.5 / 14 ** 2)), rel=0.05)
    assert np.mean(pair) == pytest.approx(np.exp(-0.5), abs=0.1)


def test_opposite_faces_are_independent():
  product = [np.mean(v[0] * v[-1]) for v in (
      fields.field_slab(fields.gaussian_field(
          (64,) * 3, Spectrum(length_px=6.0), np.random.default_rng(seed)), 0, 64)
      for seed in range(12))]
  assert abs(np.mean(product)) < 0.1  # 1 for a periodic field


def sources():
  real = np.random.default_rng(0).random((9, 10, 11)) < 0.6
  shape = (40, 50, 60)
  return {
    'level_cut': structure.level_cut(shape, Spectrum(length_px=14.0), 0.3, 1,
                                     slow_amplitude=0.3),
    'sheets': structure.level_cut(shape, GAUSS, 0.7, 1, sheets=True),
    'spheres': structure.boolean(shape, 1e-4, 8.0, 1, radius_cv=0.3),
    'cylinders': structure.boolean(shape, 2e-5, 5.0, 1, length_px=80.0),
    'packing': structure.packing(shape, 0.5, 6.0, 1),
    'volume': structure.from_volume(real, shape, 5),
  }


@pytest.mark.parametrize('name', sources())
def test_slabs_agree_with_the_whole(name):
  source = sources()[name]
  full = structure.whole(source)
  assert full.shape == source.shape_zyx
  assert full.dtype == bool
  assert 0 < full.mean() < 1
  for start, stop in ((0, 1), (3, 9), (15, 34), (39, 40)):
    np.testing.assert_array_equal(source.read_slab(start, stop), full[start:stop])


def test_boolean_spheres_follow_the_formulas():
  radius, porosity, size = 10.0, 0.6, 144
  moments = structure.grain_moments(radius)
  intensity = structure.boolean_intensity(porosity, moments[0])
  assert formulas.boolean_porosity(intensity, moments[0]) == pytest.approx(porosity)
  lags, rows = np.array([0, 4, 10, 16, 30]), []
  for seed in range(8):
    solid = structure.whole(structure.boolean((size,) * 3, intensity, radius, seed))
    rate = switches(solid)
    rows.append([*[np.mean([two_point(~solid, r, a) for a in range(3)]) for r in lags],
                 2 * rate, 2 * (1 - solid.mean()) / rate])
  mean, error = np.mean(rows, 0), np.std(rows, 0, ddof=1) / np.sqrt(8)
  expected = [*formulas.boolean_two_point_probability(lags, intensity, radius),
              formulas.boolean_specific_surface(intensity, *moments[:2]),
              formulas.boolean_mean_chord(intensity, moments[1])]
  # Digitisation loses the shortest chords: 2 % of the surface is allowed for.
  slack = np.array([0.001] * 5 + [0.02 * expected[5], 0.025 * expected[6]])
  np.testing.assert_array_less(np.abs(mean - expected), 3.5 * error + slack)
  assert expected[0] == pytest.approx(porosity)
  assert error[0] < 0.01


@pytest.mark.parametrize('length, cv', [(0.0, 0.3), (60.0, 0.0), (60.0, 0.3)])
def test_boolean_porosity_of_other_grains(length, cv):
  moments = structure.grain_moments(6.0, length, cv)
  intensity = structure.boolean_intensity(0.7, moments[0])
  rows = []
  for seed in range(10):
    solid = structure.whole(structure.boolean(
        (80,) * 3, intensity, 6.0, seed, length_px=length, radius_cv=cv))
    rows.append((1 - solid.mean(), 2 * switches(solid)))
  mean, error = np.mean(rows, 0), np.std(rows, 0, ddof=1) / np.sqrt(10)
  surface = formulas.boolean_specific_surface(intensity, *moments[:2])
  assert abs(mean[0] - 0.7) < 3.5 * error[0]
  assert abs(mean[1] - surface) < 3.5 * error[1] + 0.03 * surface
  assert error[0] < 0.02


def test_boolean_euler_formula():
  moments = structure.grain_moments(16.0)
  intensity = structure.boolean_intensity(0.9, moments[0])
  # Published check of this case; voxel counts are too biased to serve as truth.
  assert formulas.boolean_euler_density(intensity, *moments) == pytest.approx(
      3.9e-6, rel=0.02)
  assert formulas.boolean_euler_density(1e-12, *moments) == pytest.approx(
      1e-12, rel=1e-3)  # far apart: one per grain


def test_real_volume_keeps_its_bodies_and_mirrors():
  real = ndimage.gaussian_filter(
      np.random.default_rng(1).standard_normal((30, 34, 36)), 2.0) > 0.3
  solid = structure.whole(structure.from_volume(real, (110, 150, 170), 3))
  pad = [(0, (n - 1) // 3 + 1 - size) if n > 3 * size else (0, 0)
         for n, size in zip(solid.shape, real.shape, strict=True)]
  tiled = np.pad(real, pad, 'reflect')
  nodes = solid[::3, ::3, ::3]
  tiled = tiled[tuple(slice(n) for n in nodes.shape)]
  # Voxels among their like stay as they are; only corners are rounded off.
  inner = ndimage.uniform_filter(tiled.astype(float), 3)
  np.testing.assert_array_equal(nodes[inner > 0.99], True)
  np.testing.assert_array_equal(nodes[inner < 0.01], False)
  assert np.mean(nodes != tiled) < 0.03
  assert solid[:90, :102, :108].mean() == pytest.approx(real.mean(), abs=0.01)


def test_real_volume_scales_up_smoothly():
  def ball(size, radius):
    return ((np.indices((size,) * 3) - (size - 1) / 2) ** 2).sum(0) <= radius ** 2

  source = ball(29, 10.0)
  scaled = structure.whole(structure.from_volume(source, (113,) * 3, 4))
  blocks = np.kron(source, np.ones((4, 4, 4), bool))
  wrong = np.sum(scaled != ball(113, 40.0)) / np.sum(blocks != ball(116, 40.0))
  assert wrong < 0.6


def test_real_volume_from_a_file(shared_data):
  tifffile = pytest.importorskip('tifffile')
  folder = shared_data / 'geom_openimpala_2phase'
  phase = tifffile.imread(folder / 'volB_from_raw_z100_y100_x100_u8.tif')
  source = structure.from_volume(phase == phase.max(), (60, 200, 300), 4)
  solid = structure.whole(source)
  assert solid.mean() == pytest.approx((phase == phase.max())[:15, :50, :75].mean(),
                                       abs=0.015)


@pytest.mark.parametrize('volume', [
  np.zeros((4, 4, 4)), np.ones((4, 4)), np.arange(64).reshape(4, 4, 4)])
def test_real_volume_refuses_what_is_not_binary(volume):
  with pytest.raises(InputError, match='geometry'):
    structure.from_volume(volume, (8, 8, 8), 2)


def test_bad_parameters_are_named():
  with pytest.raises(InputError, match='geometry_scale'):
    structure.from_volume(np.eye(4)[None] * [[[1]]], (8, 8, 8), 0)
  with pytest.raises(InputError, match='porosity'):
    cut(0, 8, porosity=1.0)
  with pytest.raises(InputError, match=r'spectrum\.kind'):
    Spectrum('pink')
  with pytest.raises(InputError, match='spectrum'):
    Spectrum(length_px=0)


def test_smooth_noise_has_unit_variance_to_the_edge():
  rng = np.random.default_rng(0)
  noise = np.stack([fields.smooth_noise((40, 50), 4.0, rng) for _ in range(400)])
  variance = noise.var(axis=0)
  assert variance.mean() == pytest.approx(1, abs=0.02)
  assert variance[0].mean() == pytest.approx(1, abs=0.08)
  assert np.mean(noise[:, 4:] * noise[:, :-4]) == pytest.approx(np.exp(-0.5), abs=0.03)


def test_same_seed_same_structure():
  np.testing.assert_array_equal(cut(3, 32), cut(3, 32))
  assert (cut(3, 32) != cut(4, 32)).any()
