"""Curtains go, and the structure stays."""
import numpy as np
import pytest

from fibjax.analysis.two_point import two_point_covariance
from fibjax.errors import InputError
from fibjax.preparation import destripe
from fibjax.simulation import films
from fibjax.simulation.fields import smooth_noise

SHAPE = 512, 1024


@pytest.fixture(scope='module')
def clean():
  """A slice of porosity 0.3 with pore-backs and noise, brightness of the solid 1."""
  made = films.simulate_film('HPC30', (1, *SHAPE), 3, artefacts='none')
  return made.image_zyx[0] / 40000


def curtains(seed, sd=0.05):
  """Stripes of about 3 to 30 px, which fade and come back down the rows."""
  rng = np.random.default_rng(seed)
  profile_x = sum(smooth_noise((SHAPE[1],), width, rng) for width in (1.3, 4.0, 12.0))
  strength_y = 1 + 0.3 * smooth_noise((SHAPE[0],), SHAPE[0] / 4, rng)
  stripes_yx = np.outer(strength_y, profile_x - profile_x.mean())
  return stripes_yx * (sd / stripes_yx.std())


def energy(image_yx):
  return image_yx.mean(0).var()


def test_known_stripes_are_removed(clean):
  """80 % of the variance of column means, pooled over draws; the error halves."""
  before = after = 0
  for seed in (1, 2, 3, 4):
    stripes_yx = curtains(seed)
    striped_yx = clean + stripes_yx
    result_yx = destripe.remove_stripes(striped_yx)
    before += energy(stripes_yx)
    after += energy(result_yx - clean)
    assert (result_yx - clean).std() < 0.55 * stripes_yx.std()
    assert result_yx.mean() == pytest.approx(striped_yx.mean(), abs=1e-6)
  assert after < 0.2 * before


def phase_function(image_yx, threshold):
  """S2 of the bright phase at lags up to 40 px along y and x."""
  phase_yx = image_yx > threshold
  covariance_zyx, _ = two_point_covariance(phase_yx[None])
  s2_yx = covariance_zyx[0] + phase_yx.mean() ** 2
  y, x = SHAPE[0] - 1, SHAPE[1] - 1
  return np.concatenate([s2_yx[y:y + 41, x], s2_yx[y, x:x + 41]])


@pytest.mark.parametrize('seed', [None, 1, 2])
def test_the_two_point_function_of_the_clean_phase_stays(clean, seed):
  striped_yx = clean if seed is None else clean + curtains(seed)
  expected = phase_function(clean, 0.7)
  result = phase_function(destripe.remove_stripes(striped_yx), 0.7)
  np.testing.assert_allclose(result, expected, rtol=0.02)


def test_filling_pores_spares_the_structure(clean):
  """The filter of the paper alone takes columns with many pores for stripes."""
  spared = (destripe.remove_stripes(clean) - clean).std()
  plain = (destripe.damp_stripes(clean, 'db15', 9, 2.0) - clean).std()
  assert spared < 0.5 * plain


def test_the_filter_removes_stripes_of_its_widths_and_nothing_across():
  rows, columns = np.mgrid[:256, :256]
  upright_yx = np.sin(2 * np.pi * columns / 8)
  left_yx = destripe.damp_stripes(upright_yx, 'db15', 5, 3.0)
  assert left_yx.std() < 0.1 * upright_yx.std()
  for other_yx in (np.sin(2 * np.pi * rows / 32), np.ones((256, 256))):
    np.testing.assert_allclose(destripe.damp_stripes(other_yx, 'db15', 5, 2.0),
                               other_yx, atol=1e-9)
  checks_yx = upright_yx * np.sin(2 * np.pi * rows / 8)
  changed_yx = destripe.damp_stripes(checks_yx, 'db15', 5, 2.0) - checks_yx
  assert changed_yx.std() < 0.05 * checks_yx.std()
  wide_yx = np.sin(2 * np.pi * columns / 128)
  kept_yx = destripe.damp_stripes(wide_yx, 'db15', 3, 3.0)
  np.testing.assert_allclose(kept_yx, wide_yx, atol=0.05)
  left_yx = destripe.damp_stripes(wide_yx, 'db15', 8, 3.0)
  assert left_yx.std() < 0.35 * wide_yx.std()


@pytest.mark.parametrize('shape', [(63, 130), (64, 41), (200, 33)])
def test_any_shape_and_scale(shape):
  rng = np.random.default_rng(0)
  image_yx = np.where(rng.random(shape) > 0.1, 30000, 5000).astype(np.uint16)
  image_yx = np.kron(image_yx[::8, ::8], np.ones((8, 8), np.uint16))[:shape[0],
                                                                     :shape[1]]
  result_yx = destripe.remove_stripes(image_yx)
  assert result_yx.shape == shape and result_yx.dtype == np.float32
  small_yx = destripe.remove_stripes(image_yx / 65535)
  np.testing.assert_allclose(result_yx / 65535, small_yx, atol=1e-5)


def test_bad_arguments_are_named(clean):
  with pytest.raises(InputError, match="destripe wavelet: got 'morl'"):
    destripe.remove_stripes(clean, wavelet='morl')
  with pytest.raises(InputError, match='destripe: got levels=0'):
    destripe.remove_stripes(clean, levels=0)
  with pytest.raises(InputError, match='sigma=0'):
    destripe.remove_stripes(clean, sigma=0)
  with pytest.raises(InputError, match='slice: got 7 in every pixel'):
    destripe.remove_stripes(np.full((40, 50), 7))
