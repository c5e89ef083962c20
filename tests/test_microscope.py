"""The imaging model against brute force, limits and known motion."""
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from fibjax.errors import InputError
from fibjax.simulation import microscope, structure
from fibjax.simulation.fields import Spectrum
from fibjax.simulation.microscope import NO_HIT, Exposure, Imaging

QUIET = Imaging(texture=0.0, psf_px=0.0, electrons=0.0, read_noise=0.0)


def expose(solid_zyx, planes, imaging=QUIET):
  """Exposures by slice index."""
  exposures = list(microscope.expose(
      structure.from_array(solid_zyx), planes, imaging, 10.0))
  assert [e.index for e in exposures] == list(range(len(planes)))[::-1]
  return {e.index: e for e in exposures}


def brute_force_depth(solid_zyx, z0, tilt_deg):
  """Follows every ray voxel by voxel."""
  nz, ny, nx = solid_zyx.shape
  tangent = math.tan(math.radians(tilt_deg))
  start = math.floor(z0 * tangent + 0.5)
  depth = np.full((ny, nx), NO_HIT)
  for y in range(ny):
    for x in range(nx):
      for m in range(nz - z0):
        row = y + math.floor((z0 + m) * tangent + 0.5) - start
        if row >= ny:
          break
        if solid_zyx[z0 + m, row, x]:
          depth[y, x] = m
          break
  return depth


@pytest.mark.parametrize('tilt_deg', [0.0, 35.0, 60.0])
def test_ray_depth_equals_brute_force(tilt_deg):
  solid = np.random.default_rng(0).random((32, 32, 32)) < 0.05
  planes = (0, 3, 5, 17, 31)
  exposures = expose(solid, planes, replace(QUIET, tilt_deg=tilt_deg))
  for k, z in enumerate(planes):
    expected = brute_force_depth(solid, z, tilt_deg)
    np.testing.assert_array_equal(exposures[k].depth_yx, expected)
    np.testing.assert_array_equal(exposures[k].depth_yx == 0, solid[z])
    np.testing.assert_array_equal(exposures[k].solid_yx, solid[z])
  assert (exposures[0].depth_yx == NO_HIT).any()


def test_rays_never_leave_the_rows_asked_for():
  tangent = math.tan(math.radians(35))
  reach = microscope.max_depth_planes(QUIET, 10.0)
  assert reach == 200
  worst = max(math.floor((z + reach) * tangent + .5) - math.floor(z * tangent + .5)
              for z in range(2000))
  assert worst <= microscope.extra_rows(QUIET, 10.0) <= worst + 2


def test_density_is_the_exponential_mean_below():
  solid = np.random.default_rng(1).random((60, 5, 6)) < 0.5
  imaging = replace(QUIET, interaction_nm=30.0)
  weight = np.exp(-np.arange(60) * 10 / 30)
  weight /= weight.sum()
  exposures = expose(solid, (0, 4), imaging)
  for k, z in enumerate((0, 4)):
    expected = np.tensordot(weight[:60 - z], solid[z:].astype(float), 1)
    np.testing.assert_allclose(exposures[k].density_yx, expected, atol=1e-5)


def flat(solid, depth, size=9):
  """An exposure of one material and depth everywhere."""
  shape = (size, size)
  return Exposure(0, np.full(shape, solid), np.full(shape, depth, np.uint16),
                  np.ones(shape, np.float32))


def test_brightness_of_solid_pore_back_and_nothing():
  imaging = replace(QUIET, dark=0.2, back_brightness=0.8, back_length_nm=400.0,
                    shading_power=1.0)
  rng = np.random.default_rng(0)
  image = microscope.ideal_slice(flat(True, 0), imaging, 10.0, rng)
  np.testing.assert_allclose(image, 1.0, atol=1e-6)
  image = microscope.ideal_slice(flat(False, 30), imaging, 10.0, rng)
  np.testing.assert_allclose(image, 0.2 + 0.8 * 0.8 * math.exp(-300 / 400), atol=1e-5)
  image = microscope.ideal_slice(flat(False, 200), imaging, 10.0, rng)
  np.testing.assert_allclose(image, 0.2 + 0.64 * math.exp(-5), atol=1e-5)
  for depth in (201, NO_HIT):  # deeper than max_depth_nm
    image = microscope.ideal_slice(flat(False, depth), imaging, 10.0, rng)
    np.testing.assert_allclose(image, 0.2, atol=1e-6)
  dim = replace(imaging, shine_through=0.5)
  image = microscope.ideal_slice(flat(False, 30), dim, 10.0, rng)
  np.testing.assert_allclose(image, 0.2 + 0.32 * math.exp(-0.75), atol=1e-5)


def test_trend_changes_dark_and_backs_along_the_stack():
  imaging = replace(QUIET, dark=0.2, trend=0.1, shading_power=0.0)
  rng = np.random.default_rng(0)
  top, bottom = (microscope.ideal_slice(flat(False, NO_HIT), imaging, 10.0, rng, t)
                 for t in (-1.0, 1.0))
  np.testing.assert_allclose((top[0, 0], bottom[0, 0]), (0.18, 0.22), atol=1e-6)


def test_thin_walls_are_darker_and_narrow_pores_shaded():
  exposure = flat(True, 0)
  exposure.density_yx[:] = 0.5
  image = microscope.ideal_slice(exposure, replace(QUIET, dark=0.0), 10.0, None)
  np.testing.assert_allclose(image, 1 - 0.4 * 0.5, atol=1e-6)
  solid = np.ones((101, 101), bool)
  depth = np.zeros((101, 101), np.uint16)
  backs = []
  for radius in (5, 30):
    hole = np.hypot(*(np.indices(solid.shape) - 50)) <= radius
    exposure = Exposure(0, solid & ~hole, np.where(hole, 1, depth).astype(np.uint16),
                        solid.astype(np.float32))
    backs.append(microscope.pore_backs(exposure, QUIET, 10.0))
    assert (backs[-1][~hole] == 0).all()
  full = 1.1 * math.exp(-10 / 400)
  # At the centre of a disc a Gaussian of sigma s collects 1 - exp(-R^2 / 2 s^2);
  # the disc of 5 px has 81 pixels.
  opened = 1 - math.exp(-81 / math.pi / 2 / 36)
  assert backs[0][50, 50] == pytest.approx(full * (opened / 0.9) ** 0.4, rel=0.03)
  assert backs[1][50, 50] == pytest.approx(full, rel=1e-3)


def test_edges_texture_and_psf():
  rng = np.random.default_rng(0)
  solid = np.zeros((64, 64), bool)
  solid[:, 32:] = True
  exposure = Exposure(0, solid, np.where(solid, 0, NO_HIT).astype(np.uint16),
                      solid.astype(np.float32))
  plain = microscope.ideal_slice(exposure, QUIET, 10.0, rng)
  bright = microscope.ideal_slice(exposure, replace(QUIET, edge=0.3), 10.0, rng)
  assert (bright - plain)[32].argmax() in (31, 32)
  assert (bright - plain)[32, 31] > 0.05
  assert abs((bright - plain)[32, :20]).max() < 1e-6
  blurred = microscope.ideal_slice(exposure, replace(QUIET, psf_px=1.5), 10.0, rng)
  np.testing.assert_allclose(blurred, ndimage.gaussian_filter(plain, 1.5), atol=1e-6)
  large = flat(True, 0, 400)
  image = microscope.ideal_slice(large, replace(QUIET, texture=0.1), 10.0, rng)
  assert image.std() == pytest.approx(0.1, rel=0.05)
  pair = np.mean((image[:, 3:] - 1) * (image[:, :-3] - 1)) / image.var()
  assert pair == pytest.approx(math.exp(-9 / 2 / 2.5 ** 2), abs=0.03)


def test_noise_has_the_poisson_and_read_variance():
  imaging = replace(QUIET, electrons=50.0, read_noise=0.04)
  for level in (0.2, 1.0):
    image = microscope.add_noise(np.full((500, 500), level, np.float32), imaging,
                                 np.random.default_rng(2))
    assert image.mean() == pytest.approx(level, abs=0.002)
    assert image.var() == pytest.approx(level / 50 + 0.04 ** 2, rel=0.03)
  image = np.full((4, 4), 0.3, np.float32)
  np.testing.assert_array_equal(microscope.add_noise(image, QUIET, None), image)


def test_quantise_rounds_and_clips():
  grey = microscope.quantise(np.array([[-0.1, 0.0, 0.5, 1.0, 3.0]]), 40000.0)
  assert grey.dtype == np.uint16
  assert grey.tolist() == [[0, 0, 20000, 40000, 65535]]


def film(imaging, planes=(0, 5, 10), size=192, seed=0):
  """Images of a random structure with noise, and the truth."""
  shape = (planes[-1] + 201, size + 150, size)
  solid = structure.whole(structure.level_cut(shape, Spectrum(length_px=14.0), 0.35,
                                              seed))
  rng = np.random.default_rng(seed)
  images, truths = [], []
  for exposure in reversed(list(expose(solid, planes, imaging).values())):
    view = Exposure(exposure.index, *(a[:size] for a in exposure[1:]))
    image = microscope.ideal_slice(view, imaging, 10.0, rng)
    images.append(microscope.add_noise(image, imaging, rng))
    truths.append(view.solid_yx)
  return np.array(images), np.array(truths)


def otsu_threshold(values):
  """Otsu's threshold of a 256-bin histogram."""
  count, edge = np.histogram(values, 256)
  centre = (edge[1:] + edge[:-1]) / 2
  below, moment = np.cumsum(count), np.cumsum(count * centre)
  above = below[-1] - below
  gap = moment[:-1] / below[:-1] - (moment[-1] - moment[:-1]) / above[:-1]
  return centre[np.argmax(below[:-1] * above[:-1] * gap ** 2)]


def test_without_pore_backs_a_threshold_finds_the_truth():
  imaging = replace(Imaging(), shine_through=0.0, texture=0.0, electrons=200.0,
                    read_noise=0.02, psf_px=0.7)
  images, truths = film(imaging)
  smooth = np.array([ndimage.gaussian_filter(image, 1.0) for image in images])
  found = smooth > otsu_threshold(smooth)
  iou = [np.mean((found == v) & (truths == v)) / np.mean((found == v) | (truths == v))
         for v in (False, True)]
  assert np.mean(iou) > 0.98
  with_backs, _ = film(replace(imaging, shine_through=1.0))
  found = with_backs > otsu_threshold(with_backs)
  assert np.mean(found != truths) > 0.1


def test_a_perfectly_bright_pore_back_hides_the_pore():
  imaging = Imaging(back_length_nm=1e9, back_brightness=1.0, shading_power=0.0,
                    thin_wall=0.0, texture=0.0, max_depth_nm=2000.0)
  images, truths = film(imaging)
  pore, solid = images[~truths], images[truths]
  rank = np.searchsorted(np.sort(pore), solid)
  assert np.mean(rank / len(pore)) == pytest.approx(0.5, abs=0.01)
  # The same film with finite depth tells them apart.
  images, _ = film(replace(imaging, back_length_nm=400.0))
  rank = np.searchsorted(np.sort(images[~truths]), images[truths])
  assert np.mean(rank / len(pore)) > 0.8


def test_pore_backs_move_along_the_rows_from_slice_to_slice():
  rng = np.random.default_rng(3)
  floor = ndimage.gaussian_filter(rng.standard_normal((220, 64)), 3) > 0
  solid = np.zeros((140, 220, 64), bool)
  solid[90][floor] = True   # a pattern deep in an open pore
  solid[130] = True
  imaging = replace(QUIET, shading_power=0.0)
  planes = tuple(range(0, 55, 5))
  exposures = expose(solid, planes, imaging)
  images = [microscope.pore_backs(exposures[k], imaging, 10.0)[:100]
            for k in range(len(planes))]

  def row_shift(a, b):
    a, b = a - a.mean(), b - b.mean()
    wave = np.fft.rfft(b, 200, axis=0) * np.fft.rfft(a, 200, axis=0).conj()
    shift = int(np.fft.irfft(wave.sum(1), 200).argmax())
    return shift if shift < 100 else shift - 200

  expected = 50 * math.tan(math.radians(35)) / 10  # px per slice
  shifts = [row_shift(images[k], images[k + 1]) for k in range(10)]
  assert np.mean(shifts) == pytest.approx(expected, abs=0.1)
  assert set(shifts) <= {3, 4}


def test_impossible_imaging_is_refused():
  for change in ({'tilt_deg': 90.0}, {'back_length_nm': 0.0}):
    with pytest.raises(InputError, match='imaging'):
      Imaging(**change)
