"""The two augmentations of the paper (§1.6): key + image -> image.

Images are one sample, [y, x, slice] float32; batches come by vmap. The slices are
never flipped, since what lies below the surface has a direction.
"""
import jax
import jax.numpy as jnp


def dihedral(image_yxc: jax.Array, transform: jax.Array) -> jax.Array:
  """Applies one of the 8 symmetries of the square in the x-y plane.

  Args:
    image_yxc: [side, side, ...] image or label map; with an odd side the centre voxel
      stays in place.
    transform: int in 0..7: bit 0 flips y, bit 1 flips x, bit 2 then transposes.
  """
  image_yxc = jnp.where(transform & 1, image_yxc[::-1], image_yxc)
  image_yxc = jnp.where(transform & 2, image_yxc[:, ::-1], image_yxc)
  return jnp.where(transform & 4, jnp.swapaxes(image_yxc, 0, 1), image_yxc)


def undo_dihedral(image_yxc: jax.Array, transform: jax.Array) -> jax.Array:
  """Takes `dihedral` of the same transform back."""
  image_yxc = jnp.where(transform & 4, jnp.swapaxes(image_yxc, 0, 1), image_yxc)
  image_yxc = jnp.where(transform & 2, image_yxc[:, ::-1], image_yxc)
  return jnp.where(transform & 1, image_yxc[::-1], image_yxc)


def intensity(image_yxc: jax.Array, key, mean_sd, deviation_sd) -> jax.Array:
  """Changes mean and standard deviation of the image with probability one half.

  x' = (x - mean) r_s + mean r_m with r_m ~ N(1, mean_sd), r_s ~ N(1, deviation_sd) and
  moments over the whole image; r_s is kept >= 0 (§1.6, choices A1-A4).

  Args:
    image_yxc: [y, x, slice] float32.
    key: typed PRNG key.
    mean_sd: a of the paper.
    deviation_sd: b of the paper.
  """
  coin_key, mean_key, deviation_key = jax.random.split(key, 3)
  mean_factor = 1 + mean_sd * jax.random.normal(mean_key)
  deviation_factor = jnp.maximum(1 + deviation_sd * jax.random.normal(deviation_key), 0)
  mean = jnp.mean(image_yxc)
  changed = (image_yxc - mean) * deviation_factor + mean * mean_factor
  return jnp.where(jax.random.bernoulli(coin_key), changed, image_yxc)
