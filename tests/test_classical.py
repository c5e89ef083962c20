"""Classical methods against constructed images and simulated films of known truth."""
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage
from skimage import filters

from fibjax.errors import InputError
from fibjax.methods import (
  classical_common,
  level_set,
  optical_flow,
  thresholds,
  watershed,
)
from fibjax.methods.morphological_profile import (
  _last_occurrences,
  _propagate_back,
  morphological_profile,
  threshold_backpropagation,
)
from fibjax.metrics import confusion
from fibjax.simulation import films, microscope

METHODS = {
  'otsu': thresholds.otsu,
  'sauvola': thresholds.sauvola,
  'threshold_surface': thresholds.threshold_surface,
  'level_set': level_set.level_set,
  'morphological_profile': morphological_profile,
  'threshold_backpropagation': threshold_backpropagation,
  'marker_watershed': watershed.marker_watershed,
  'optical_flow': optical_flow.optical_flow,
}
ALONG_Z = ('morphological_profile', 'threshold_backpropagation', 'optical_flow')
SHAPE = (12, 128, 128)
ALL = pytest.mark.parametrize('name', METHODS)


def scores(truth_zyx, labels_zyx):
  assert labels_zyx.dtype == np.uint8
  return confusion.summarise(confusion.confusion(truth_zyx, labels_zyx))


def points_too_porous(s):
  return 100 * (s['porosity_automatic'] - s['porosity_manual'])


@pytest.fixture(scope='module')
def bright():
  """Pore-backs as in the preset."""
  return films.simulate_film('HPC30', SHAPE, 7, artefacts='none')


@pytest.fixture(scope='module')
def dark():
  """The same sample without pore-backs."""
  return films.simulate_film('HPC30', SHAPE, 7, artefacts='none', shine_through=0.0)


@pytest.fixture(scope='module')
def noise_free():
  """A film with eps 0.9 and lambda 400 nm (§7.3), neither noise nor texture."""
  preset = films.PRESETS['HPC30']
  imaging = replace(preset.imaging, back_brightness=0.9, back_length_nm=400.0,
                    electrons=0.0, read_noise=0.0, texture=0.0)
  return films.simulate_film(replace(preset, imaging=imaging), SHAPE, 7,
                             artefacts='none')


def discs(shape_yx=(256, 256), radius_px=9.0, spacing_px=32):
  """Dark discs in solid: [y, x] uint8, 1 = solid."""
  y, x = np.indices(shape_yx)
  y, x = ((a + 0.5) % spacing_px - spacing_px / 2 for a in (y, x))
  return (np.hypot(y, x) > radius_px).astype(np.uint8)


# --- common behaviour ---


@ALL
def test_without_shine_through_every_method_is_right(name, dark):
  assert scores(dark.truth_zyx, METHODS[name](dark.image_zyx))['miou'] >= 0.95


@ALL
def test_scale_and_offset_of_grey_values_do_not_matter(name, bright):
  image_zyx = bright.image_zyx[:4, :64, :64].astype(np.float32)
  given_zyx = METHODS[name](image_zyx)
  other_zyx = METHODS[name](image_zyx / 40000 + 3)
  assert given_zyx.any() and not given_zyx.all()
  assert np.mean(given_zyx != other_zyx) < 2e-3


@ALL
def test_input_is_left_alone_and_the_result_repeats(name, bright):
  image_zyx = bright.image_zyx[:4, :48, :56].astype(np.float32)
  before_zyx = image_zyx.copy()
  first_zyx = METHODS[name](image_zyx)
  np.testing.assert_array_equal(image_zyx, before_zyx)
  np.testing.assert_array_equal(METHODS[name](image_zyx), first_zyx)
  assert first_zyx.shape == image_zyx.shape


@ALL
@pytest.mark.parametrize(('volume', 'got'), [
  (np.zeros((8, 8)), r'shape \(8, 8\)'), (np.zeros((0, 8, 8)), 'shape'),
  (np.full((3, 8, 8), np.nan), 'NaN'), (np.full((3, 8, 8), 5.0), '5 in every voxel'),
  (np.zeros((3, 8, 8), complex), 'dtype')])
def test_bad_volumes_are_named(name, volume, got):
  with pytest.raises(InputError, match=f'^volume_zyx: got .*{got}'):
    METHODS[name](volume)


@pytest.mark.parametrize('name', ALONG_Z)
def test_methods_along_z_need_two_slices(name, bright):
  with pytest.raises(InputError, match='got 1 slices, expected at least 2'):
    METHODS[name](bright.image_zyx[:1])
  assert METHODS[name](bright.image_zyx[:2, :40, :40]).shape == (2, 40, 40)


@pytest.mark.parametrize(('name', 'change', 'at_fault'), [
  ('otsu', {'sigma_px': -1}, 'sigma_px'), ('otsu', {'bins': 1}, 'bins'),
  ('sauvola', {'window_px': 50}, 'window_px'), ('sauvola', {'k': 2}, 'k'),
  ('sauvola', {'range_share': 0}, 'range_share'),
  ('threshold_surface', {'percentile': 101}, 'percentile'),
  ('threshold_surface', {'min_edge': -1}, 'min_edge'),
  ('level_set', {'mu': -1}, 'mu'), ('level_set', {'denoise': np.nan}, 'denoise'),
  ('level_set', {'iterations': 0}, 'iterations'),
  ('level_set', {'voxel_size_zyx_nm': (50, 10)}, 'voxel_size_zyx_nm'),
  ('level_set', {'voxel_size_zyx_nm': (50, 0, 10)}, 'voxel_size_zyx_nm'),
  ('morphological_profile', {'kappa': -1}, 'kappa'),
  ('morphological_profile', {'window_px': 4}, 'window_px'),
  ('morphological_profile', {'rise_slices': 0}, 'rise_slices'),
  ('threshold_backpropagation', {'drop': -1}, 'drop'),
  ('threshold_backpropagation', {'tau_px': np.inf}, 'tau_px'),
  ('marker_watershed', {'pore_percentile': 90}, 'pore_percentile, solid_percentile'),
  ('marker_watershed', {'search_px': 4}, 'search_px'),
  ('optical_flow', {'tilt_deg': 0}, 'shift_px'),
  ('optical_flow', {'tilt_deg': 85}, 'tilt_deg'),
  ('optical_flow', {'shift_px': np.nan}, 'shift_px'),
  ('optical_flow', {'attachment': 0}, 'attachment')])
def test_bad_parameters_are_named(name, change, at_fault, bright):
  with pytest.raises(InputError, match=f'^{at_fault}: got'):
    METHODS[name](bright.image_zyx[:3, :24, :24], **change)


def test_brightness_alone_takes_pore_backs_for_solid(bright):
  for name in ('otsu', 'sauvola', 'threshold_surface', 'level_set', 'marker_watershed'):
    result = scores(bright.truth_zyx, METHODS[name](bright.image_zyx))
    assert points_too_porous(result) < -2.5, name


def test_profile_methods_see_more_pore_backs_than_otsu(bright):
  reference = scores(bright.truth_zyx, thresholds.otsu(bright.image_zyx))
  for name, gain in (('morphological_profile', 0.06),
                     ('threshold_backpropagation', 0.08)):
    result = scores(bright.truth_zyx, METHODS[name](bright.image_zyx))
    assert result['miou'] > reference['miou'] + gain, name
    assert points_too_porous(result) > points_too_porous(reference), name


# --- thresholds ---


def test_otsu_is_that_of_the_smoothed_histogram(bright):
  image_zyx = bright.image_zyx.astype(np.float32)
  smooth_zyx = np.stack([ndimage.gaussian_filter(i, 1.0, mode='nearest')
                         for i in image_zyx])
  expected_zyx = smooth_zyx > filters.threshold_otsu(smooth_zyx, 256)
  np.testing.assert_array_equal(thresholds.otsu(image_zyx), expected_zyx)


def test_otsu_per_slice_follows_the_slices():
  truth_yx = discs((64, 64))
  image_zyx = np.stack([truth_yx, truth_yx + 10.0])
  whole = thresholds.otsu(image_zyx, sigma_px=0)
  assert not whole[0].any() and whole[1].all()
  each = thresholds.otsu(image_zyx, sigma_px=0, per_slice=True)
  np.testing.assert_array_equal(each, np.stack([truth_yx] * 2))
  image_zyx[1] = 10
  with pytest.raises(InputError, match='^volume_zyx slice z=1: got one grey value'):
    thresholds.otsu(image_zyx, per_slice=True)


def test_sauvola_is_the_published_formula():
  rng = np.random.default_rng(0)
  image_zyx = rng.random((1, 40, 50)).astype(np.float32)
  low, high = np.percentile(image_zyx, (5, 95))
  unit_yx = (image_zyx[0].astype(np.float64) - low) / (high - low)
  y, x, half, k, share = 20, 17, 7, 0.3, 0.4
  window = unit_yx[y - half:y + half + 1, x - half:x + half + 1]
  cut = window.mean() * (1 + k * (window.std() / share - 1))
  for change in (-1e-3, 1e-3):
    image_zyx[0, y, x] = low + (cut + change) * (high - low)
    found = thresholds.sauvola(image_zyx, sigma_px=0, window_px=15, k=k,
                               range_share=share)[0, y, x]
    # One changed pixel of 225 moves the window's own cut by far less than `change`.
    window = window.copy()
    window[half, half] = cut + change
    own = window.mean() * (1 + k * (window.std() / share - 1))
    assert found == (cut + change > own)


def test_threshold_surface_follows_a_ramp_of_illumination():
  truth_yx = discs(radius_px=36, spacing_px=128)
  ramp_yx = np.linspace(0.3, 1.0, 256)[:, None] * np.ones(256)
  image_yx = ndimage.gaussian_filter((0.3 + 0.7 * truth_yx) * ramp_yx, 1.0)
  image_zyx = image_yx[None].astype(np.float32)
  surface = scores(truth_yx[None], thresholds.threshold_surface(image_zyx))
  validated = scores(truth_yx[None],
                     thresholds.threshold_surface(image_zyx, min_edge=0.2))
  assert surface['accuracy'] > 0.995 and validated['accuracy'] > 0.995
  assert scores(truth_yx[None], thresholds.otsu(image_zyx))['accuracy'] < 0.90


def test_threshold_surface_validation_drops_weak_objects():
  truth_yx = discs((128, 128))
  image_yx = ndimage.gaussian_filter(truth_yx.astype(float), 1.0)
  ripple_yx = 0.05 * np.sin(np.arange(128) / 4.0)
  wide_yx = np.concatenate([image_yx, np.tile(0.52 + ripple_yx, (128, 1))], axis=1)
  plain = thresholds.threshold_surface(wide_yx[None])[0, :, 150:]
  clean = thresholds.threshold_surface(wide_yx[None], min_edge=0.3)[0, :, 150:]
  assert min(plain.mean(), 1 - plain.mean()) > 0.2
  assert min(clean.mean(), 1 - clean.mean()) < 0.05


@pytest.mark.parametrize('shape', [(30, 40), (300, 310)])  # direct, and multilevel
def test_laplace_surface_is_harmonic(shape):
  y, x = np.indices(shape) / 10.0
  image_yx = 5 + y - 2 * x + (x ** 2 - y ** 2) / 10  # discretely harmonic as well
  support_yx = np.zeros(shape, bool)
  support_yx[[0, -1]] = support_yx[:, [0, -1]] = True
  found_yx = thresholds.laplace_surface(np.where(support_yx, image_yx, -99), support_yx)
  np.testing.assert_array_equal(found_yx[support_yx], image_yx[support_yx])
  assert np.abs(found_yx - image_yx).max() < 0.01 * np.ptp(image_yx)
  one_yx = np.zeros(shape, bool)
  one_yx[3, 4] = True
  flat_yx = thresholds.laplace_surface(image_yx, one_yx)
  np.testing.assert_allclose(flat_yx, image_yx[3, 4], rtol=1e-6)
  with pytest.raises(InputError, match='^support_yx: got no support point'):
    thresholds.laplace_surface(image_yx, ~np.ones(shape, bool))


def test_laplace_surface_by_iteration_is_the_direct_one():
  rng = np.random.default_rng(0)
  image_yx = rng.random((230, 210))
  support_yx = rng.random(image_yx.shape) < 0.01
  found_yx = thresholds.laplace_surface(image_yx, support_yx)
  direct_yx = thresholds.laplace_surface(image_yx, support_yx, direct_px=10 ** 6)
  assert np.abs(found_yx - direct_yx).max() < 0.01


def test_a_slice_without_edges_takes_otsu_and_says_so(capsys):
  truth_yx = discs((64, 64))
  image_zyx = np.stack([ndimage.gaussian_filter(truth_yx.astype(float), 1.0),
                        np.full((64, 64), 0.9)])
  labels_zyx = thresholds.threshold_surface(image_zyx)
  assert labels_zyx[1].all()
  assert 'no edges in slices [1]' in capsys.readouterr().err


# --- level set ---


def noisy_disc(radius_px, noise, seed=0, shape=(6, 128, 128)):
  y, x = np.indices(shape[1:]) - 63.5
  inside_yx = np.hypot(y, x) < radius_px
  rng = np.random.default_rng(seed)
  image_zyx = np.where(inside_yx, 0.3, 1.0) + noise * rng.standard_normal(shape)
  return image_zyx.astype(np.float32), inside_yx


@pytest.mark.parametrize('radius_px', [12.3, 30.0])
def test_level_set_finds_the_radius_of_a_noisy_disc(radius_px):
  image_zyx, inside_yx = noisy_disc(radius_px, 0.25)
  solid_zyx = level_set.level_set(image_zyx)
  radii = np.sqrt((solid_zyx == 0).sum(axis=(1, 2)) / np.pi)
  assert np.abs(radii - np.sqrt(inside_yx.sum() / np.pi)).max() < 0.5
  assert np.mean(solid_zyx == inside_yx) < 0.01


@pytest.mark.parametrize('shape', [(6, 128, 128), (5, 61, 83)])  # blocks may not fit
def test_level_set_energy_never_rises(bright, shape):
  image_zyx = bright.image_zyx[:shape[0], :shape[1], :shape[2]].astype(np.float32)
  model = level_set._model(image_zyx, (50.0, 10.0, 10.0), 0.5, 3.0, 20.0)
  _, energies = level_set._minimise(model, 40)
  assert len(energies) > 3
  assert np.diff(energies).max() <= 1e-6 * energies[0]
  assert energies[-1] < 0.999 * energies[0]


def test_level_set_energy_is_the_one_of_the_module():
  rng = np.random.default_rng(1)
  image_zyx = rng.random((3, 10, 12)).astype(np.float32)
  model = level_set._model(image_zyx, (20.0, 10.0, 10.0), 0.3, 1.5, 10.0)
  solid_zyx = rng.random(image_zyx.shape) > 0.4
  assert model.block_px == 2
  n_blocks = (3, 5, 6)
  # The window's weights w(x, y) by brute force: response to one pixel at a time.
  blocks = np.eye(90).reshape(90, *n_blocks)
  kernel = np.stack([ndimage.gaussian_filter(b, model.window, mode='reflect')
                     for b in blocks]).reshape(90, 90)
  z, y, x = np.indices(image_zyx.shape)
  block_of = np.ravel_multi_index((z, y // 2, x // 2), n_blocks).ravel()
  weights = kernel[:, block_of] / 4
  values, energy = model.image_zyx.ravel().astype(np.float64), 0.0
  for phase in (0, 1):
    member = (solid_zyx == phase).ravel()
    eps = level_set._EPSILON
    means = ((weights @ (member * values) + eps * model.means[phase])
             / (weights @ member + eps))
    cost = np.sum(weights * (values - means[:, None]) ** 2, axis=0)
    energy += 4 * (cost @ member + eps * np.sum((means - model.means[phase]) ** 2))
  near_zyx = ndimage.gaussian_filter(solid_zyx.astype(float), model.kernel)
  energy += 0.3 * np.sum(solid_zyx * (1 - near_zyx))
  _, found = level_set._linear_bound(model, solid_zyx)
  assert found == pytest.approx(energy, rel=1e-4)


def test_level_set_absorbs_slow_brightness():
  truth_yx = discs()
  ramp_yx = np.linspace(0.45, 1.0, 256)[:, None] * np.ones(256)
  image_zyx = ((0.3 + 0.7 * truth_yx) * ramp_yx)[None].astype(np.float32)
  local = scores(truth_yx[None], level_set.level_set(image_zyx, window_px=20))
  assert local['accuracy'] > 0.98
  assert scores(truth_yx[None], thresholds.otsu(image_zyx))['accuracy'] < 0.95


def test_level_set_smooths_along_z_by_the_voxel_size():
  image_zyx = np.ones((7, 48, 48), np.float32)
  image_zyx[3, 14:34, 14:34] = 0.0  # a pore of one slice
  thick = level_set.level_set(image_zyx, denoise=0, mu=80.0)
  thin = level_set.level_set(image_zyx, denoise=0, mu=80.0,
                             voxel_size_zyx_nm=(5.0, 10.0, 10.0))
  assert (thick[3, 18:30, 18:30] == 0).all()
  assert (thin[3] == 1).all()


# --- profiles along z ---


@pytest.mark.parametrize('method', [morphological_profile, threshold_backpropagation])
def test_profile_methods_on_a_noise_free_film(method, noise_free):
  result = scores(noise_free.truth_zyx, method(noise_free.image_zyx))
  assert result['accuracy'] > 0.95
  assert abs(points_too_porous(result)) < 2


def shaft(begin=8, end=13, n=16):
  """A dark shaft in solid, with a wall in it from slice begin to end, seen before.

  Returns:
    image [z, y, x] float32 and truth uint8.
  """
  truth_zyx = np.ones((n, 96, 96), np.uint8)
  image_zyx = np.ones((n, 96, 96), np.float32)
  hole = np.s_[30:66, 30:66]
  for z in range(n):
    solid = begin <= z < end
    seen = 0.9 * np.exp(-(begin - z) / 8) if z < begin else 0.1
    truth_zyx[z][hole] = solid
    image_zyx[z][hole] = 1.0 if solid else seen
  image_zyx = ndimage.gaussian_filter(image_zyx, (0, 1, 1))
  noise_zyx = np.random.default_rng(0).standard_normal(image_zyx.shape)
  return image_zyx + 0.02 * noise_zyx.astype(np.float32), truth_zyx


@pytest.mark.parametrize('method', [morphological_profile, threshold_backpropagation])
def test_profile_methods_find_where_a_wall_begins_and_ends(method):
  image_zyx, truth_zyx = shaft()
  share_z = method(image_zyx)[:, 34:62, 34:62].mean(axis=(1, 2))
  truth_z = truth_zyx[:, 48, 48]
  np.testing.assert_array_equal(np.round(share_z), truth_z)
  otsu_z = thresholds.otsu(image_zyx)[:, 34:62, 34:62].mean(axis=(1, 2))
  assert (otsu_z[6:8] > 0.9).all()  # brightness alone: two slices too early


def test_occurrences_are_carried_back_to_the_first_failure():
  column_z = np.array([0.2, 1.0, 0.5, 0.95, 0.93, 1.0, 0.1, 0.1], np.float32)
  smooth_zyx = column_z[:, None, None]
  last_zyx = _last_occurrences(smooth_zyx, 0.25, 0.5)
  assert np.flatnonzero(last_zyx).tolist() == [1, 5]
  grey_zyx = _propagate_back(smooth_zyx, last_zyx, 0.9)
  np.testing.assert_allclose(grey_zyx.ravel(), [0, 1, 0, 1, 1, 1, 0, 0])
  # A fall over two slices counts, one over three does not; the last slice is bright.
  column_z = np.array([1.0, 0.8, 0.6, 0.6, 1.0, 0.9, 0.8, 0.7], np.float32)
  last_zyx = _last_occurrences(column_z[:, None, None], 0.25, 0.5)
  assert np.flatnonzero(last_zyx).tolist() == [0, 7]


@pytest.mark.parametrize('method', [morphological_profile, threshold_backpropagation])
def test_an_island_is_found_by_its_end(method):
  truth_zyx = np.ones((12, 96, 96), np.uint8)
  truth_zyx[:, 20:76, 20:76] = 0
  truth_zyx[:7, 40:56, 40:56] = 1  # joined to nothing, and gone in the last slice
  noise_zyx = np.random.default_rng(0).standard_normal(truth_zyx.shape)
  image_zyx = ndimage.gaussian_filter(0.1 + 0.9 * truth_zyx, (0, 1, 1))
  labels_zyx = method(image_zyx + 0.02 * noise_zyx)
  assert labels_zyx[:7, 42:54, 42:54].all()
  assert not labels_zyx[7:, 24:72, 24:72].any()


def test_what_fades_slowly_has_no_end_and_is_no_solid():
  truth_zyx = np.ones((12, 96, 96), np.uint8)
  truth_zyx[:, 20:76, 20:76] = 0
  bright_zyx = truth_zyx.astype(float)
  bright_zyx[:, 40:56, 40:56] = np.maximum(0.95 - 0.1 * np.arange(12), 0)[:, None, None]
  noise_zyx = np.random.default_rng(0).standard_normal(truth_zyx.shape)
  image_zyx = ndimage.gaussian_filter(0.1 + 0.9 * bright_zyx, (0, 1, 1))
  labels_zyx = morphological_profile(image_zyx + 0.02 * noise_zyx)
  assert not labels_zyx[:, 42:54, 42:54].any()
  assert thresholds.otsu(image_zyx)[0, 42:54, 42:54].all()


def test_backpropagation_leaves_room_for_noise():
  film = films.simulate_film('HPC22', SHAPE, 7, artefacts='none')
  with_margin = scores(film.truth_zyx, threshold_backpropagation(film.image_zyx))
  without = scores(film.truth_zyx,
                   threshold_backpropagation(film.image_zyx, noise_margin=0))
  assert with_margin['miou'] > without['miou'] + 0.05


@pytest.mark.parametrize('method', [morphological_profile, threshold_backpropagation])
def test_a_dark_pore_wider_than_every_window_stays_pore(method):
  truth_zyx = np.ones((4, 260, 260), np.uint8)
  truth_zyx[:, 20:240, 20:240] = 0
  noise_zyx = np.random.default_rng(0).standard_normal(truth_zyx.shape)
  image_zyx = 0.1 + 0.9 * truth_zyx + 0.1 * noise_zyx
  assert np.mean(method(image_zyx) != truth_zyx) < 0.02


# --- watershed ---


def test_noise_is_measured_beside_structure():
  rng = np.random.default_rng(0)
  image_zyx = np.stack([discs()] * 2) * 3.0 + np.linspace(0, 5, 256)
  noisy_zyx = (image_zyx + 0.2 * rng.standard_normal(image_zyx.shape))
  assert watershed.noise_sd(noisy_zyx) == pytest.approx(0.2, rel=0.35)
  flat_zyx = 0.2 * rng.standard_normal((2, 200, 200))
  assert watershed.noise_sd(flat_zyx) == pytest.approx(0.2, rel=0.02)


def test_watershed_puts_the_boundary_on_the_edge():
  truth_yx = discs(radius_px=12)  # two fifths pore, so that both percentiles are pure
  rng = np.random.default_rng(0)
  image_yx = ndimage.gaussian_filter(truth_yx.astype(float), 1.5)
  image_zyx = (image_yx + 0.05 * rng.standard_normal((2, 256, 256))).astype(np.float32)
  truth_zyx = np.stack([truth_yx] * 2)
  assert scores(truth_zyx, watershed.marker_watershed(image_zyx))['miou'] > 0.96
  shaded_zyx = image_zyx + 2 * np.linspace(0, 1, 256, dtype=np.float32)
  shaded = scores(truth_zyx, watershed.marker_watershed(shaded_zyx, shading_px=30))
  assert shaded['miou'] > 0.8
  assert scores(truth_zyx, watershed.marker_watershed(shaded_zyx))['miou'] < 0.7


def test_watershed_without_denoising_leaves_its_input_alone(bright):
  image_zyx = bright.image_zyx[:2, :48, :48].astype(np.float32)
  before_zyx = image_zyx.copy()
  watershed.marker_watershed(image_zyx, denoise=0, shading_px=10)
  np.testing.assert_array_equal(image_zyx, before_zyx)


# --- optical flow ---


def texture(shape_yx, seed=0, length_px=2.5):
  noise_yx = np.random.default_rng(seed).standard_normal(shape_yx)
  smooth_yx = ndimage.gaussian_filter(noise_yx, length_px, mode='wrap')
  return (smooth_yx / smooth_yx.std()).astype(np.float32)


@pytest.mark.parametrize('shift_px', [3.5, -1.3])
def test_flow_of_a_translated_texture(shift_px):
  first_yx = texture((128, 128))
  second_yx = ndimage.shift(first_yx, (shift_px, 0), order=3, mode='grid-wrap')
  rows_yx, columns_yx = optical_flow.slice_flow(first_yx, second_yx)
  assert np.median(np.abs(rows_yx - shift_px)) < 0.1
  assert np.median(np.abs(columns_yx)) < 0.1


def test_expected_shift():
  assert optical_flow.expected_shift((50.0, 10.0, 10.0), 35.0) == pytest.approx(3.501,
                                                                                abs=1e-3)
  assert optical_flow.expected_shift((20.0, 5.0, 9.0), 45.0) == pytest.approx(4.0)


def textured_film(tilt_deg, shape=(6, 128, 128), seed=3, strength=0.15):
  """A film whose walls have a texture of the material, here seen through the pores.

  The films of fibjax draw their texture per slice; flow needs one that moves with the
  wall. Rays and brightness are the simulator's.
  """
  preset = films.PRESETS['HPC45']
  imaging = replace(preset.imaging, tilt_deg=tilt_deg, texture=0.0, psf_px=0.0)
  needed = films.structure_shape(replace(preset, imaging=imaging), shape)
  planes = tuple(range(0, 5 * shape[0], 5))
  source = films.random_structure(preset.geometry, needed, planes, shape[1:], (seed,))
  rng = np.random.default_rng(seed)
  wall_zyx = ndimage.gaussian_filter(rng.standard_normal(needed, np.float32), 2.5)
  wall_zyx *= strength / wall_zyx.std()
  row, column = np.ogrid[:shape[1], :shape[2]]
  image_zyx, truth_zyx = np.empty(shape, np.float32), np.empty(shape, np.uint8)
  tangent = np.tan(np.radians(tilt_deg))
  for exposed in microscope.expose(source, planes, imaging, 10.0):
    view = microscope.Exposure(exposed.index,
                               *(a[:shape[1], :shape[2]] for a in exposed[1:]))
    z = planes[view.index]
    hit = np.minimum(z + view.depth_yx.astype(int), needed[0] - 1)
    moved = np.floor(hit * tangent + 0.5) - np.floor(z * tangent + 0.5)
    seen_yx = wall_zyx[hit, np.minimum(row + moved.astype(int), needed[1] - 1), column]
    image_yx = microscope.ideal_slice(view, imaging, 10.0, rng) * (1 + seen_yx)
    image_yx = ndimage.gaussian_filter(image_yx, 1.0)
    image_zyx[view.index] = microscope.add_noise(image_yx, imaging, rng)
    truth_zyx[view.index] = view.solid_yx
  return image_zyx, truth_zyx


def test_flow_needs_the_tilt_and_uses_it():
  gains = {}
  for tilt_deg in (35.0, 0.0):
    image_zyx, truth_zyx = textured_film(tilt_deg)
    with_flow = scores(truth_zyx, optical_flow.optical_flow(image_zyx))['miou']
    without_zyx = optical_flow.optical_flow(image_zyx, motion_weight=0)
    without = scores(truth_zyx, without_zyx)['miou']
    gains[tilt_deg] = with_flow - without
    found = optical_flow.estimate_shift(image_zyx)
    assert found == pytest.approx(3.5 * (tilt_deg > 0), abs=0.4)
  assert gains[35.0] > 0.04
  assert gains[0.0] < 0.01


def test_flow_against_the_direction_of_view():
  image_zyx, truth_zyx = textured_film(35.0)
  flipped_zyx = image_zyx[:, ::-1].copy()
  labels_zyx = optical_flow.optical_flow(flipped_zyx, shift_px=-3.5)[:, ::-1]
  straight_zyx = optical_flow.optical_flow(image_zyx, shift_px=3.5)
  assert np.mean(labels_zyx != straight_zyx) < 0.02
  wrong_zyx = optical_flow.optical_flow(flipped_zyx, shift_px=3.5)[:, ::-1]
  assert (scores(truth_zyx, labels_zyx)['miou']
          > scores(truth_zyx, wrong_zyx)['miou'] + 0.03)


def test_no_motion_in_textureless_pores_is_said():
  image_zyx = np.stack([discs((64, 64)).astype(np.float32)] * 3)
  with pytest.raises(InputError, match='^max_shift_px'):
    optical_flow.estimate_shift(image_zyx, max_shift_px=0)
  still = optical_flow.estimate_shift(image_zyx)
  assert abs(still) < 0.1


def test_noise_between_slices_is_that_of_the_difference():
  rng = np.random.default_rng(0)
  volume_zyx = np.stack([discs((64, 64))] * 8) + 0.1 * rng.standard_normal((8, 64, 64))
  noise = classical_common.slice_noise(volume_zyx)
  assert noise == pytest.approx(0.1 * 2 ** 0.5, rel=0.03)
