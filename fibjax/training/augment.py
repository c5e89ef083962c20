"""Augmentations: key + image -> image, the paper's two (§1.6) and those of §3.5.

An image is one sample, [y, x, slice] float32; `jax.vmap` makes batches. The slices are
never reversed: pores show what lies behind them, so the milling direction matters.
"""
import functools
import math

import jax
import jax.numpy as jnp


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


def deform(image_yxc: jax.Array, target_yx: jax.Array, weight_yx: jax.Array, key,
           physical: bool):
  """Deforms an image and its labels, and changes its brightness, contrast and noise.

  Flips, rotation up to 180 degrees, scale 0.9 to 1.1, shear up to 2 degrees,
  brightness up to 0.1 sd, contrast 0.9 to 1.1, noise up to 0.05 sd, all uniform; sd is
  that of the image (§3.5, our choices). Images are interpolated linearly and mirrored
  at their faces; labels are those of the nearest voxel and have weight 0 outside the
  crop.

  Args:
    image_yxc: [s, s, n_z] image.
    target_yx, weight_yx: [t, t] in its middle, t <= s.
    key: typed PRNG key.
    physical: whether to keep the direction of the tilted view, along which pore-backs
      shift: flips along x only, and rotations up to 5 degrees.
  """
  keys = jax.random.split(key, 8)
  flips = jax.random.bernoulli(keys[0], 0.5, (2,)) & jnp.array([not physical, True])
  largest = (5 if physical else 180) * math.pi / 180

  def between(key, low, high):
    return jax.random.uniform(key, (), minval=low, maxval=high)

  angle, shear = between(keys[1], -largest, largest), between(
      keys[2], -math.pi / 90, math.pi / 90)
  turn = jnp.array([[jnp.cos(angle), -jnp.sin(angle)],
                    [jnp.sin(angle), jnp.cos(angle)]])
  matrix = (turn @ jnp.array([[1., 0.], [jnp.tan(shear), 1.]])
            @ jnp.diag(jnp.where(flips, -1., 1.)) / between(keys[3], 0.9, 1.1))
  sample = functools.partial(_sample, matrix=matrix)
  image_yxc = jax.vmap(functools.partial(sample, order=1, mode='mirror'), 2, 2)(
      image_yxc)
  target_yx, weight_yx = (sample(maps, order=0, mode='constant')
                          for maps in (target_yx, weight_yx))
  mean, sd = jnp.mean(image_yxc), jnp.std(image_yxc)
  image_yxc = ((image_yxc - mean) * between(keys[4], 0.9, 1.1) + mean
               + sd * between(keys[5], -0.1, 0.1))
  noise = sd * between(keys[6], 0., 0.05)
  return (image_yxc + noise * jax.random.normal(keys[7], image_yxc.shape), target_yx,
          weight_yx)


def _sample(image_yx, matrix, order: int, mode: str):
  """Samples the image at matrix times the position of each pixel from the middle."""
  middle = (image_yx.shape[0] - 1) / 2
  positions = jnp.mgrid[:image_yx.shape[0], :image_yx.shape[1]] - middle
  return jax.scipy.ndimage.map_coordinates(
      image_yx, jnp.tensordot(matrix, positions, 1) + middle, order, mode)
