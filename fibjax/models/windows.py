"""Square windows of images on the device: cutting them and their eight symmetries."""
import jax
import jax.numpy as jnp
from jax import lax


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
  """Inverts `dihedral` of the same transform."""
  image_yxc = jnp.where(transform & 4, jnp.swapaxes(image_yxc, 0, 1), image_yxc)
  image_yxc = jnp.where(transform & 2, image_yxc[:, ::-1], image_yxc)
  return jnp.where(transform & 1, image_yxc[::-1], image_yxc)



def gather_windows(context_ryxc: jax.Array, corners_b3: jax.Array,
                   side_px: int) -> jax.Array:
  """Cuts square windows out of contexts, on the device.

  Args:
    context_ryxc: [r, y, x, c] contexts on the device.
    corners_b3: [b, 3] int32 rows (r, y, x), y and x of the window's first pixel in the
      context, which for a voxel's neighbourhood is (y, x) of the voxel in its region.
      The window must lie inside: dynamic_slice would shift it silently.
    side_px: static width of the windows.

  Returns:
    [b, side_px, side_px, c] windows.
  """
  shape = (1, side_px, side_px, context_ryxc.shape[3])

  def gather_window(corner_3):
    return lax.dynamic_slice(context_ryxc, (*corner_3, 0), shape)[0]

  return jax.vmap(gather_window)(corners_b3)


def gather_labels(masks_ryx: jax.Array, corners_b3: jax.Array,
                  side_px: int) -> jax.Array:
  """Cuts [b, side_px, side_px] label windows; corners are (r, y, x) of the region."""
  return gather_windows(masks_ryx[..., None], corners_b3, side_px)[..., 0]
