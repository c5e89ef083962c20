"""3 x 3 and n x n convolutions as sums of shifted matrix products.

All maps are [batch, y, x, channel] float32, kernels [y, x, in, out], stride 1, no
padding ('valid'). On CPU `lax.conv_general_dilated` is fast for few input channels and
slow otherwise, where k x k shifted `dot_general`s, added up, run near the speed of a
matrix product, forward, backward and under vmap over kernels. On other platforms
cuDNN is the better choice. The choice is made here and nowhere else.
"""
import jax
import jax.numpy as jnp
from jax import lax

_FEW_CHANNELS = 16  # measured on 2 CPU cores, jaxlib 0.10: up to here lax.conv wins


def conv_lax(maps_byxc: jax.Array, kernel_yxio: jax.Array,
             padding: str = 'VALID') -> jax.Array:
  """Convolution by XLA's own operator; padding 'VALID' or 'SAME' (zeros)."""
  return lax.conv_general_dilated(
      maps_byxc, kernel_yxio, (1, 1), padding,
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'))


def conv_shifted(maps_byxc: jax.Array, kernel_yxio: jax.Array) -> jax.Array:
  """Valid convolution as one matrix product per kernel element, added up."""
  size_y, size_x = kernel_yxio.shape[:2]
  height = maps_byxc.shape[1] - size_y + 1
  width = maps_byxc.shape[2] - size_x + 1
  out = None
  for dy in range(size_y):
    for dx in range(size_x):
      term = lax.dot_general(maps_byxc[:, dy:dy + height, dx:dx + width],
                             kernel_yxio[dy, dx], (((3,), (0,)), ((), ())))
      out = term if out is None else out + term
  return out


def conv_valid(maps_byxc: jax.Array, kernel_yxio: jax.Array) -> jax.Array:
  """Valid convolution, stride 1, by the faster way for this shape and platform.

  Args:
    maps_byxc: [b, y, x, c] maps.
    kernel_yxio: [ky, kx, c, o] kernel.

  Returns:
    [b, y - ky + 1, x - kx + 1, o] maps.
  """
  if jax.default_backend() != 'cpu' or kernel_yxio.shape[2] <= _FEW_CHANNELS:
    return conv_lax(maps_byxc, kernel_yxio)
  return conv_shifted(maps_byxc, kernel_yxio)


def max_pool(maps_byxc: jax.Array) -> jax.Array:
  """2 x 2 max-pooling, stride 2; an odd last row or column is dropped (§1.5)."""
  height, width = maps_byxc.shape[1] // 2 * 2, maps_byxc.shape[2] // 2 * 2
  corners = [maps_byxc[:, dy:height:2, dx:width:2] for dy in (0, 1) for dx in (0, 1)]
  return jnp.maximum(jnp.maximum(corners[0], corners[1]),
                     jnp.maximum(corners[2], corners[3]))
