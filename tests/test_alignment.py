"""Alignment recovers known drift, and is not led astray by what pores show."""
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from fibjax.errors import InputError
from fibjax.preparation import alignment
from fibjax.simulation import films
from fibjax.simulation.fields import smooth_noise


def rotation(angle_deg):
  c, s = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
  return np.array([[c, -s], [s, c]])


def acquire(truth_yx, rigid_3, side):
  """The middle of a slice as a microscope shows it that has drifted by rigid_3."""
  inverse = rotation(rigid_3[0]).T
  centre, middle = (np.array(truth_yx.shape) - 1) / 2, (side - 1) / 2
  return ndimage.affine_transform(
      truth_yx.astype(float), inverse, centre - inverse @ (middle + rigid_3[1:]),
      (side, side), order=3, mode='mirror')


def walk(n, seed=0, px=0.7, deg=0.02):
  """A random walk of angle and shift from the first slice: [z, 3]."""
  rigid_z3 = np.cumsum(np.random.default_rng(seed).normal(0, (deg, px, px), (n, 3)), 0)
  return rigid_z3 - rigid_z3[0]


def neighbours(rigid_z3):
  """Transforms from each slice to the next that concatenate to rigid_z3: [z - 1, 3]."""
  angles = np.diff(rigid_z3[:, 0])
  shifts = [b - rotation(angle) @ a
            for angle, a, b in zip(angles, rigid_z3[:-1, 1:], rigid_z3[1:, 1:],
                                   strict=True)]
  return np.column_stack([angles, shifts])


def rms(errors_z3):
  return np.sqrt(np.mean(np.square(errors_z3), axis=0))


def film(preset, shape, slice_nm=50.0, **options):
  """A film without artefacts or noise, as brightness."""
  base = films.PRESETS[preset]
  clear = replace(base, voxel_size_zyx_nm=(slice_nm, 10.0, 10.0), imaging=replace(
      base.imaging, electrons=0.0, read_noise=0.0))
  made = films.simulate_film(clear, shape, 3, artefacts='none', **options)
  return made.image_zyx / 40000


def noisy(images, seed=0):
  """Counting and read noise of the preset HPC30."""
  rng = np.random.default_rng(seed)
  return [rng.poisson(np.maximum(image_yx, 0) * 120) / 120
          + rng.normal(0, 0.03, image_yx.shape) for image_yx in images]


@pytest.mark.parametrize('prepare', [np.asarray, alignment.clip_pores])
def test_drift_of_one_structure_is_found(prepare):
  """Slices of one structure, 400 x 400 px: only noise stands before the truth.

  Angle, y and x, rms over the slices: against the one before, and accumulated.
  """
  (truth_yx,) = film('HPC30', (1, 424, 424), shine_through=0.0)
  rigid_z3 = walk(6)
  images = noisy(acquire(truth_yx, rigid_3, 400) for rigid_3 in rigid_z3)
  pairs = alignment.register_pairs(map(prepare, images))
  assert (rms(pairs.rigid_z3[1:] - neighbours(rigid_z3)) < (0.007, 0.04, 0.04)).all()
  found_z3 = alignment.accumulate(pairs.rigid_z3)
  assert (rms(found_z3 - rigid_z3) < (0.01, 0.1, 0.1)).all()
  assert pairs.limited == [] and not found_z3[0].any()


@pytest.mark.long
@pytest.mark.parametrize('prepare', [np.asarray, alignment.clip_pores])
def test_drift_of_a_simulated_stack_is_found(prepare):
  """Slices of 10 nm of a changing structure without pore-backs, 768 x 768 px.

  Angle, y and x of each slice against the one before, rms over the slices. The
  structure itself moves from slice to slice: on slices of 50 nm the errors are five
  times as large, on half the side twice (angle: four times).
  """
  truth_zyx = film('HPC45', (5, 792, 792), slice_nm=10.0, shine_through=0.0)
  rigid_z3 = walk(5)
  images = noisy(acquire(truth_yx, rigid_3, 768)
                 for truth_yx, rigid_3 in zip(truth_zyx, rigid_z3, strict=True))
  found_z3 = alignment.register_pairs(map(prepare, images)).rigid_z3[1:]
  assert (rms(found_z3 - neighbours(rigid_z3)) < (0.01, 0.1, 0.1)).all()


@pytest.fixture(scope='module')
def sheared():
  """Pairs of a still stack of porosity 0.45 with pore-backs at 35 degrees.

  raw, clipped: as is, and with clipped pores; plain: a stack without pore-backs. Walls
  move by 50 nm tan(35) = 3.5 px along y from slice to slice.
  """
  shape = 9, 320, 320
  images = {'raw': film('HPC45', shape), 'plain': film('HPC45', shape,
                                                       shine_through=0.0)}
  images['clipped'] = [alignment.clip_pores(image_yx) for image_yx in images['raw']]
  return {name: alignment.register_pairs(stack).rigid_z3
          for name, stack in images.items()}


def test_pore_backs_shear_a_stack_and_clipping_halves_it(sheared):
  bias = {name: pairs_z3[1:, 1:].mean(0) - sheared['plain'][1:, 1:].mean(0)
          for name, pairs_z3 in sheared.items()}
  assert bias['raw'][0] > 1.2
  assert abs(bias['raw'][1]) < 0.3
  assert abs(bias['clipped'][0]) < 0.55 * bias['raw'][0]


@pytest.mark.parametrize('trend', ['linear', 'highpass'])
def test_detrending_removes_the_rest_of_the_shear(sheared, trend):
  for pairs_z3, worst in ((sheared['raw'], 8.0), (sheared['clipped'], 3.0)):
    kept_z3 = alignment.accumulate(pairs_z3)
    assert abs(kept_z3[-1, 1]) > worst
    flat_z3 = alignment.detrend(kept_z3, trend, 15.0)
    assert rms(flat_z3)[1] < 0.25 * rms(kept_z3)[1]


def test_detrending_of_known_drift():
  z = np.arange(60)
  line_z3 = np.column_stack([0.01 * z, 3.5 * z - 7, -0.2 * z])
  for trend in ('linear', 'highpass'):
    np.testing.assert_allclose(alignment.detrend(line_z3, trend), 0, atol=1e-9)
  np.testing.assert_array_equal(alignment.detrend(line_z3, 'keep'), line_z3)
  jumps_z3 = line_z3.copy()
  jumps_z3[30, 1] += 2.0
  for trend, share in (('linear', 1 / 60), ('highpass', 1 / (5 * np.sqrt(2 * np.pi)))):
    flat_z3 = alignment.detrend(jumps_z3, trend, sigma_z=5.0)
    assert flat_z3[30, 1] == pytest.approx(2 * (1 - share), rel=0.02)
  # Errors of angles add up to a walk; what is left of it does not grow with the stack.
  steps_z = np.random.default_rng(0).normal(0, 0.08, 400)
  walk_z3 = np.cumsum(np.outer(steps_z, (1., 0., 0.)), 0)
  left_z = alignment.detrend(walk_z3, 'highpass')[:, 0]
  assert np.abs(walk_z3[:, 0]).max() > 1 and np.abs(left_z).max() < 0.6
  assert left_z.std() < 2.2 * 0.08
  with pytest.raises(InputError, match="align trend: got 'cubic'"):
    alignment.detrend(line_z3, 'cubic')


def test_gain_and_offset_do_not_matter():
  truth_yx = smooth_noise((90, 100), 3.0, np.random.default_rng(0))
  moved_yx = np.roll(truth_yx, (1, -2), (0, 1))
  first, _ = alignment.register(truth_yx, moved_yx)
  second, _ = alignment.register(truth_yx * 500 + 3000, moved_yx * 650 - 90)
  np.testing.assert_allclose(first, second, atol=1e-3)
  np.testing.assert_allclose(first[1:], (1, -2), atol=0.1)


def test_a_rotation_beyond_the_limit_becomes_a_translation_and_is_named():
  truth_yx = smooth_noise((140, 150), 3.0, np.random.default_rng(0))
  images = [acquire(truth_yx, rigid_3, 110)
            for rigid_3 in np.array([(0, 0, 0), (0.1, 0.5, 0), (0.5, 1.5, 0)])]
  pairs = alignment.register_pairs(images)
  assert pairs.limited == [2] and pairs.rigid_z3[2, 0] == 0
  assert pairs.rigid_z3[1, 0] == pytest.approx(0.1, abs=0.01)
  assert pairs.rigid_z3[2, 1] == pytest.approx(1.0, abs=0.1)
  free = alignment.register_pairs(images, 1.0)
  assert free.limited == [] and free.rigid_z3[2, 0] == pytest.approx(0.4, abs=0.01)
  still = alignment.register_pairs(images, 0)
  assert still.limited == [] and not still.rigid_z3[:, 0].any()


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_the_common_box_lies_in_every_slice(seed, deg):
  rng = np.random.default_rng(seed)
  shape = tuple(rng.integers(30, 90, 2))
  rigid_z3 = rng.normal(0, (deg, 2, 2), (5, 3))
  (y0, x0), (y1, x1) = alignment.common_box(rigid_z3, shape)
  centre = (np.array(shape) - 1) / 2
  yx = np.stack(np.meshgrid(range(y0, y1), range(x0, x1), indexing='ij'), -1)
  for rigid_3 in rigid_z3:
    raw = (yx - centre) @ rotation(rigid_3[0]).T + centre + rigid_3[1:]
    assert raw.min() >= -1e-6 and (raw <= np.array(shape) - 1 + 1e-6).all()
  still_z3 = rigid_z3 * (0, 1, 1)
  start, stop = alignment.common_box(still_z3, shape)
  low, high = still_z3[:, 1:].min(0), still_z3[:, 1:].max(0)
  np.testing.assert_array_equal(start, np.maximum(np.ceil(-low), 0))
  np.testing.assert_array_equal(stop, np.minimum(np.floor(shape - high), shape))


def test_the_common_box_of_parts_of_a_pixel():
  parts = alignment.common_box(np.array([(0, 0.4, -0.4)]), (30, 40))
  assert parts == ((0, 1), (29, 40))
  assert alignment.common_box(np.zeros((3, 3)), (30, 40)) == ((0, 0), (30, 40))


def test_resampling_undoes_the_drift():
  truth_yx = smooth_noise((120, 130), 4.0, np.random.default_rng(0))
  rigid_3 = np.array([0.4, 2.3, -1.6])
  acquired_yx = acquire(truth_yx, rigid_3, 110)
  start, stop = alignment.common_box(np.array([rigid_3]), (110, 110))
  aligned_yx = alignment.resample(acquired_yx, rigid_3, start, stop)
  inside_yx = truth_yx[5:115, 10:120][start[0]:stop[0], start[1]:stop[1]]
  assert aligned_yx.shape == inside_yx.shape and aligned_yx.dtype == np.float32
  np.testing.assert_allclose(aligned_yx[6:-6, 6:-6], inside_yx[6:-6, 6:-6], atol=2e-3)
  still_yx = alignment.resample(acquired_yx, np.array([0, 3, -2]), (2, 4), (100, 104))
  np.testing.assert_allclose(still_yx, acquired_yx[5:103, 2:102], atol=1e-5)


def test_clipping_makes_pores_alike_and_keeps_the_solid():
  rng = np.random.default_rng(0)
  solid_yx = smooth_noise((150, 160), 8.0, rng) > -0.2
  inside_yx = ndimage.binary_erosion(~solid_yx, iterations=6)
  ramp = np.linspace(0, 300, 150)[:, None]  # brightness may vary over the slice
  backs_yx = 300 + 150 * smooth_noise(solid_yx.shape, 4.0, rng)
  image_yx = np.where(solid_yx, 1000.0, backs_yx) + ramp
  clipped_yx = alignment.clip_pores(image_yx)
  bare_yx = clipped_yx - ramp
  assert bare_yx[inside_yx].std() < image_yx[inside_yx].std() / 2
  assert bare_yx[inside_yx].mean() == pytest.approx(300 + 0.75 * 700, abs=30)
  core_yx = ndimage.binary_erosion(solid_yx, iterations=9)
  np.testing.assert_allclose(bare_yx[core_yx], 1000, atol=5)


def test_slices_that_cannot_be_registered_are_named():
  image_yx = np.random.default_rng(0).random((40, 50))
  with pytest.raises(InputError, match='slice z=2: got one grey value'):
    alignment.register_pairs([image_yx, image_yx, np.ones((40, 50))])
  with pytest.raises(InputError, match='slice: got 1 in every pixel'):
    alignment.clip_pores(np.ones((40, 50)))
  with pytest.raises(InputError, match=r'no rectangle .*60 px, is at slice z=2'):
    alignment.common_box(np.array([(0, 0, 0), (0, 1, 0), (0, 61, 0)]), (50, 50))
