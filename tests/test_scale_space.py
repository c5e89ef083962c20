"""Scale-space features: scipy as oracle, closed forms, same bits in any block."""
import jax
import numpy as np
import pytest
from scipy import ndimage

from fibjax.errors import InputError
from fibjax.methods import scale_space

SIGMAS = scale_space.SIGMAS_PX
HALF, MARGIN = 3, 256


def with_margin(volume_zyx):
  return np.pad(volume_zyx, ((HALF,) * 2, (MARGIN,) * 2, (MARGIN,) * 2), 'reflect')


def named(features_zyxf, feature_set):
  names = scale_space.feature_names(feature_set)
  assert len(names) == features_zyxf.shape[-1]
  return dict(zip(names, np.moveaxis(features_zyxf, -1, 0), strict=True))


def analytic(function, shape_yx):
  """Features of a block cut out of an unbounded image, the same in all slices."""
  y, x = (np.arange(-MARGIN, n + MARGIN) - n // 2 for n in shape_yx)
  grey_yx = function(y[:, None], x).astype(np.float32)
  block_zyx = np.broadcast_to(grey_yx, (2 * HALF + 1, *grey_yx.shape))
  inner_yx = grey_yx[MARGIN:-MARGIN, MARGIN:-MARGIN]
  return inner_yx, named(scale_space.compute_features(block_zyx, 'F2'), 'F2')


@pytest.fixture(scope='module')
def volume_zyx():
  return np.random.default_rng(0).random((5, 40, 50)).astype(np.float32)


@pytest.fixture(scope='module')
def levels_szyx(volume_zyx):
  """scipy's smoothed slices, in float64."""
  exact = volume_zyx.astype(np.float64)
  return np.stack([exact if not sigma else ndimage.gaussian_filter(
      exact, (0, sigma, sigma), mode='mirror', truncate=4) for sigma in SIGMAS])


def test_names_count_and_margins():
  for feature_set, count in (('F1', 56), ('F2', 76), ('F3', 74)):
    names = scale_space.feature_names(feature_set)
    assert len(names) == len(set(names)) == count
    assert scale_space.margin_px(feature_set) == MARGIN == 4 * max(SIGMAS)
    assert scale_space.n_slices(feature_set) == 7
    assert scale_space.margin_zyx(feature_set) == (3, 256, 256)
  assert scale_space.feature_names('F1')[:2] == ('smooth s0 z-3', 'smooth s1 z-3')


def test_smoothed_slices_are_scipys_up_to_the_faces(volume_zyx, levels_szyx):
  found = named(scale_space.compute_features(with_margin(volume_zyx), 'F1'), 'F1')
  depth = len(volume_zyx)
  for dz in range(-HALF, HALF + 1):
    z = np.arange(dz, depth + dz) % (2 * depth - 2)  # mirrored at both faces
    z = np.minimum(z, 2 * depth - 2 - z)
    for sigma, level_zyx in zip(SIGMAS, levels_szyx, strict=True):
      got = found[f'smooth s{sigma} z{dz:+d}']
      np.testing.assert_allclose(got, level_zyx[z], rtol=0, atol=1e-6)


def test_derivatives_are_differences_of_scipys_slices(volume_zyx, levels_szyx):
  found = named(scale_space.compute_features(with_margin(volume_zyx), 'F2'), 'F2')
  for sigma in (1, 2, 4, 8, 16):
    level = np.pad(levels_szyx[SIGMAS.index(sigma)], ((0, 0), (1, 1), (1, 1)),
                   'reflect')
    mid, y0, y1 = level[:, 1:-1], level[:, :-2], level[:, 2:]
    gradient = np.hypot((y1 - y0)[..., 1:-1], mid[..., 2:] - mid[..., :-2]) / 2
    curve_y = (y0 - 2 * mid + y1)[..., 1:-1]
    curve_x = mid[..., :-2] - 2 * mid[..., 1:-1] + mid[..., 2:]
    mixed = ((y1 - y0)[..., 2:] - (y1 - y0)[..., :-2]) / 4
    hessian = np.stack([curve_y, mixed, mixed, curve_x], -1)
    low, high = np.moveaxis(
        np.linalg.eigvalsh(hessian.reshape(*mixed.shape, 2, 2)), -1, 0)
    for kind, expected in (
        ('gradient', sigma * gradient), ('laplacian', sigma**2 * (curve_y + curve_x)),
        ('hessian1', sigma**2 * high), ('hessian2', sigma**2 * low)):
      np.testing.assert_allclose(found[f'{kind} s{sigma}'], expected, rtol=0,
                                 atol=1e-6 * sigma**2)


def test_milling_differences_are_differences_to_the_own_slice(volume_zyx):
  found = named(scale_space.compute_features(with_margin(volume_zyx), 'F3'), 'F3')
  differences = [name for name in found if name.startswith('difference')]
  assert len(differences) == 18
  for name in differences:
    scale, dz = name.split()[1:]
    expected = found[f'smooth {scale} {dz}'] - found[f'smooth {scale} z+0']
    np.testing.assert_array_equal(found[name], expected)
    assert np.abs(expected).max() > 0.01


def test_sets_share_the_smoothed_slices(volume_zyx):
  block_zyx = with_margin(volume_zyx[:2])
  first, *others = (scale_space.compute_features(block_zyx, feature_set)[..., :56]
                    for feature_set in scale_space.FEATURE_SETS)
  for other in others:
    np.testing.assert_array_equal(first, other)


def test_a_ramp_stays_and_has_its_slope():
  inner_yx, found = analytic(lambda y, x: (3 * y - 4 * x) / 2**10, (20, 30))
  for name, value in found.items():
    if name.startswith('smooth'):
      np.testing.assert_allclose(value[0], inner_yx, rtol=0, atol=1e-6)
  for sigma in (1, 2, 4, 8, 16):
    np.testing.assert_allclose(found[f'gradient s{sigma}'], sigma * 5 / 2**10,
                               rtol=1e-6)
    for kind in ('laplacian', 'hessian1', 'hessian2'):
      assert np.abs(found[f'{kind} s{sigma}']).max() < 1e-9


def test_a_quadratic_has_its_hessian():
  a, b, c = 1 / 2**15, 1 / 2**16, -3 / 2**17
  _, found = analytic(lambda y, x: a * y**2 + b * y * x + c * x**2, (20, 30))
  low, high = np.linalg.eigvalsh([[2 * a, b], [b, 2 * c]])
  for sigma in (1, 2, 4, 8, 16):
    for kind, expected in (('hessian1', high), ('hessian2', low),
                           ('laplacian', 2 * (a + c))):
      np.testing.assert_allclose(found[f'{kind} s{sigma}'], sigma**2 * expected,
                                 rtol=1e-6)


@pytest.mark.parametrize('width', [2, 4, 8])
def test_a_blob_is_strongest_at_its_own_scale(width):
  _, found = analytic(
      lambda y, x: np.exp(-(y**2 + x**2) / (2 * width**2)), (3, 3))
  strength = {sigma: -found[f'laplacian s{sigma}'][0, 1, 1]
              for sigma in (1, 2, 4, 8, 16)}
  assert max(strength, key=strength.get) == width
  for sigma, value in strength.items():  # 2 sigma^2 w^2 / (w^2 + sigma^2)^2
    expected = 2 * sigma**2 * width**2 / (width**2 + sigma**2) ** 2
    assert abs(value / expected - 1) < 0.1  # differences of 1 px, kernels cut off


def test_weights_are_exact():
  for sigma in SIGMAS[1:]:
    weights = scale_space.gaussian_weights(sigma)
    assert len(weights) == 8 * sigma + 1 and weights.sum() == 1
    np.testing.assert_array_equal(weights, weights[::-1])
    np.testing.assert_array_equal(weights * 2**27 % 1, 0)


@pytest.mark.parametrize('feature_set', scale_space.FEATURE_SETS)
def test_a_voxel_has_the_same_bits_in_any_block(feature_set):
  random = np.random.default_rng(1)
  block_zyx = random.normal(0.5, 0.3, (10 + 6, 270 + 512, 30 + 512)).astype(np.float32)
  whole = scale_space.compute_features(block_zyx, feature_set)  # four tiles
  assert whole.shape[:3] == (10, 270, 30)
  for (z, y, x), (depth, height, width) in (((2, 31, 7), (3, 33, 17)),
                                            ((9, 260, 0), (1, 10, 1)),
                                            ((0, 130, 3), (1, 9, 27))):
    part = block_zyx[z:z + depth + 6, y:y + height + 512, x:x + width + 512]
    np.testing.assert_array_equal(
        scale_space.compute_features(part, feature_set),
        whole[z:z + depth, y:y + height, x:x + width])


def test_compiled_equals_not_compiled(volume_zyx):
  block_zyx = with_margin(volume_zyx[:1, :8, :9])[:1]
  with jax.disable_jit():
    plain = scale_space.make_levels(jax.numpy.asarray(block_zyx), 'F2', (8, 9))
  compiled = jax.jit(scale_space.make_levels, static_argnums=(1, 2))(
      block_zyx, 'F2', (8, 9))
  np.testing.assert_array_equal(plain.smooth_zsn, compiled.smooth_zsn)
  np.testing.assert_allclose(plain.derived_zen, compiled.derived_zen, rtol=1e-6,
                             atol=1e-9)


def test_mistakes_are_named():
  good = np.zeros((7, 513, 514), np.float32)
  for function in (scale_space.feature_names, scale_space.margin_px,
                   scale_space.n_slices, scale_space.margin_zyx):
    with pytest.raises(InputError, match="feature set: got 'F4', expected one of F1"):
      function('F4')
  for block in (good[:6], good[:, :512], good[0], good[None]):
    with pytest.raises(InputError, match=r'block: got shape .* margins of \(3, 256'):
      scale_space.compute_features(block, 'F1')
  for value in (np.nan, np.inf, -8.5, 2000):
    bad = good.copy()
    bad[3, 100, 100] = value
    with pytest.raises(InputError, match='block: got grey values from'):
      scale_space.compute_features(bad, 'F1')
