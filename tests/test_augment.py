import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fibjax.models import windows
from fibjax.training import augment

IMAGE = jnp.asarray(np.random.default_rng(0).normal(3, 1, (5, 5, 2)), jnp.float32)


def test_dihedral_gives_the_eight_symmetries_of_the_square():
  found = {np.asarray(windows.dihedral(IMAGE, t)).tobytes() for t in range(8)}
  expected = set()
  for k in range(4):
    turned = np.rot90(np.asarray(IMAGE), k)
    expected |= {np.ascontiguousarray(turned).tobytes(),
                 np.ascontiguousarray(turned[::-1]).tobytes()}
  assert found == expected and len(found) == 8


@pytest.mark.parametrize('transform', range(8))
def test_dihedral_keeps_the_centre_and_moves_labels_alike(transform):
  ramp = jnp.arange(25).reshape(5, 5)
  image = jnp.stack([ramp, 2 * ramp], -1)
  turned = windows.dihedral(image, transform)
  np.testing.assert_array_equal(turned[2, 2], image[2, 2])
  np.testing.assert_array_equal(turned[..., 0], windows.dihedral(ramp, transform))
  np.testing.assert_array_equal(turned[..., 1], 2 * turned[..., 0])


def test_intensity_attains_the_drawn_moments_for_half_of_the_samples():
  keys = jax.random.split(jax.random.key(1), 4000)
  changed = jax.vmap(augment.intensity, (None, 0, None, None))(IMAGE, keys, 0.05, 0.08)
  mean_factor = np.asarray(changed.mean((1, 2, 3)) / IMAGE.mean(), float)
  deviation_factor = np.asarray(changed.std((1, 2, 3)) / IMAGE.std(), float)
  same = np.all(np.asarray(changed) == np.asarray(IMAGE), (1, 2, 3))
  assert abs(same.mean() - 0.5) < 4 * 0.5 / np.sqrt(4000)
  for factor, sd in ((mean_factor[~same], 0.05), (deviation_factor[~same], 0.08)):
    assert abs(factor.mean() - 1) < 4 * sd / np.sqrt(2000)
    assert abs(factor.std() / sd - 1) < 4 / np.sqrt(2 * 2000)
  assert abs(np.corrcoef(mean_factor[~same], deviation_factor[~same])[0, 1]) < 0.1


def test_intensity_of_a_flat_image_is_finite_and_moments_survive_the_flips():
  flat = jnp.full((3, 3, 1), 0.4)
  out = augment.intensity(flat, jax.random.key(3), 0.1, 0.1)
  assert np.isfinite(out).all()
  key = jax.random.key(5)
  a = windows.dihedral(augment.intensity(IMAGE, key, 0.1, 0.1), 6)
  b = augment.intensity(windows.dihedral(IMAGE, 6), key, 0.1, 0.1)
  np.testing.assert_allclose(a, b, atol=1e-5)
