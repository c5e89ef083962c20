"""Slices are brought to one brightness whatever their porosity; local contrast."""
import numpy as np
import pytest
from scipy import ndimage

from fibjax.errors import InputError
from fibjax.preparation import brightness
from fibjax.preparation.brightness import SolidLevel
from fibjax.simulation.fields import smooth_noise

SHAPE = 200, 220


def section(porosity, seed, solid=30000.0, pore=9000.0, noise=1500.0):
  """A slice of known porosity: solid and dim, uneven pores, blurred, noisy."""
  rng = np.random.default_rng(seed)
  field_yx = smooth_noise(SHAPE, 6.0, rng)
  solid_yx = field_yx > np.quantile(field_yx, porosity)
  backs_yx = pore * (0.7 + 0.6 * rng.random(SHAPE))
  image_yx = ndimage.gaussian_filter(np.where(solid_yx, solid, backs_yx), 1.0)
  return image_yx + rng.normal(0, noise, SHAPE)


def test_the_level_is_that_of_the_solid():
  level = brightness.solid_level(section(0.3, 0))
  assert level.median == pytest.approx(30000, rel=0.002)
  assert level.iqr == pytest.approx(1.349 * 1500, rel=0.05)  # of a normal law


def test_porosity_does_not_change_the_map():
  """Porosity runs from 0.1 to 0.6 along z and the brightness stays: so do the maps.

  The mean of the slices falls by a third meanwhile.
  """
  stack = [section(porosity, z) for z, porosity in enumerate(np.linspace(0.1, 0.6, 6))]
  levels = [brightness.solid_level(image_yx) for image_yx in stack]
  reference = brightness.reference_level(levels)
  for image_yx, level in zip(stack, levels, strict=True):
    assert level.median == pytest.approx(reference.median, rel=0.004)
    assert level.iqr == pytest.approx(reference.iqr, rel=0.08)
    mapped_yx = brightness.match_level(image_yx, level, reference)
    assert mapped_yx.mean() == pytest.approx(image_yx.mean(), rel=0.015)
  assert stack[-1].mean() < 0.7 * stack[0].mean()


def test_known_gain_and_offset_are_undone():
  rng = np.random.default_rng(5)
  gains, offsets = rng.normal(1, 0.1, 7), rng.normal(0, 2000, 7)
  stack = [gain * section(0.3, 3) + offset  # the same slice seen seven times
           for gain, offset in zip(gains, offsets, strict=True)]
  levels = [brightness.solid_level(image_yx) for image_yx in stack]
  reference = brightness.reference_level(levels)
  matched = [brightness.match_level(*pair, reference)
             for pair in zip(stack, levels, strict=True)]
  assert np.ptp([m.mean() for m in stack]) > 2000
  for image_yx in matched[1:]:
    np.testing.assert_allclose(image_yx, matched[0], atol=40)
  again = brightness.solid_level(matched[0])
  np.testing.assert_allclose(again, reference, rtol=0.01)


def test_the_map_is_affine_and_meets_median_and_range():
  mapped = brightness.match_level(np.array([[10., 14., 18.]]), SolidLevel(10, 4),
                                  SolidLevel(100, 8))
  np.testing.assert_array_equal(mapped, [[100, 108, 116]])
  assert mapped.dtype == np.float32
  assert brightness.reference_level(
      [SolidLevel(1, 9), SolidLevel(5, 3), SolidLevel(2, 4)]) == SolidLevel(2, 4)


def test_slices_without_a_level_are_named():
  with pytest.raises(InputError, match='slice: got 5 in every pixel'):
    brightness.solid_level(np.full(SHAPE, 5.0))
  speck_yx = np.zeros(SHAPE)
  speck_yx[50:58, 60:68] = 100
  with pytest.raises(InputError, match=r'got \d+ px inside the bright phase'):
    brightness.solid_level(speck_yx)
  with pytest.raises(InputError, match='slice is saturated'):
    brightness.solid_level(np.minimum(section(0.3, 0), 20000))


def test_local_normalisation_is_its_formula():
  image_yx = np.random.default_rng(0).random((31, 40)) * 50 + 6e4
  got_yx = brightness.normalise_locally(image_yx, 9, 2.0)
  padded_yx = np.pad(image_yx, 4, mode='reflect')
  windows = np.lib.stride_tricks.sliding_window_view(padded_yx, (9, 9))
  expected_yx = ((image_yx - windows.mean((2, 3))) / (windows.std((2, 3)) + 2.0))
  np.testing.assert_allclose(got_yx, expected_yx, atol=1e-5)
  assert not brightness.normalise_locally(np.full((20, 20), 7.0), 5, 1.0).any()


def test_local_normalisation_recovers_a_charged_flat_field():
  """A flat field with noise and Gaussian blobs of charge: the blobs go to 1 %."""
  rng = np.random.default_rng(1)
  rows, columns = np.mgrid[:400, :420]
  blobs_yx = sum(level * np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / 2 / 150 ** 2)
                 for level, y, x in ((0.2, 120, 150), (-0.15, 300, 260)))
  flat_yx = rng.normal(1, 0.05, blobs_yx.shape)
  def smooth_part(image_yx):
    return ndimage.gaussian_filter(image_yx, 30)[60:-60, 60:-60]
  corrected_yx = 1 + 0.05 * brightness.normalise_locally(flat_yx + blobs_yx, 101, 1e-6)
  assert np.ptp(smooth_part(flat_yx + blobs_yx)) > 0.1
  assert abs(smooth_part(corrected_yx) - 1).max() < 0.01
