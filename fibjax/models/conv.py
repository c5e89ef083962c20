"""Convolutions for dense evaluation, one strip of rows at a time.

All maps are [batch, y, x, channel] float32, kernels [y, x, in, out], stride 1 and no
padding. Neighbouring taps may be `dilation` pixels apart, so that a network with
pooling is evaluated at full resolution (models/dense.py).

On CPU a k x k convolution is one matrix product: the maps shifted by 0 .. k - 1 rows
stand side by side, [positions, k in] x [k in, k out], and the k blocks of the result
are added with shifts along x. That is as fast as a plain product of these sizes, also
with a member axis over kernels, where `lax.conv` becomes a grouped convolution. It
holds only while the intermediate values stay in the cache, hence strips of rows. The
first block, of 16 channels and not dilated, is the exception: XLA's own convolution is
2 to 4 times as fast there, gradient included (2026-11). From 32 channels up, minimal
filtering (filtering.py) is faster still on large maps; training does not use it.

On other platforms maps are whole, and cuDNN evaluates what is not dilated, by
`lax.conv`. The dilated layers are one matrix product there too: in float32 the network
at (113, 3) is evaluated 30 times as fast as with `lax.conv` (0.050 against 1.52 us per
voxel on an H200, 2026-11), in TF32 at 0.7 times its speed (0.019 against 0.014).

All choices are made in `conv_valid` and `filtered_layer`; `fibjax bench --only=conv`
measures the first.
"""
import functools

import jax
import jax.numpy as jnp
from jax import lax

from fibjax.models import filtering
from fibjax.models.filtering import BLOCK

FILTERED_CHANNELS = 32  # with fewer, minimal filtering gains nothing
LAX_FEATURES = 16  # up to here XLA's own undilated convolution is faster
STRIP_PX = 4096  # positions of a strip; half or twice as many are as fast


def conv_lax(maps_byxc: jax.Array, kernel_yxio: jax.Array, dilation: int = 1,
             padding: str = 'VALID', stride: int = 1) -> jax.Array:
  """Convolution by XLA's own operator; padding 'VALID' or 'SAME' (zeros)."""
  return lax.conv_general_dilated(
      maps_byxc, kernel_yxio, (stride, stride), padding,
      rhs_dilation=(dilation, dilation), dimension_numbers=('NHWC', 'HWIO', 'NHWC'))


def conv_product(maps_byxc: jax.Array, kernel_yxio: jax.Array,
                 dilation: int = 1) -> jax.Array:
  """Valid convolution as one matrix product; shapes as for `conv_valid`."""
  # The operand is k times as large as the maps, not k^2 times as with im2col.
  size_y, size_x, channels, features = kernel_yxio.shape
  height = maps_byxc.shape[1] - (size_y - 1) * dilation
  width = maps_byxc.shape[2] - (size_x - 1) * dilation
  side_by_side = lax.concatenate(
      [maps_byxc[:, k * dilation:k * dilation + height] for k in range(size_y)], 3)
  kernel = kernel_yxio.transpose(0, 2, 1, 3).reshape(size_y * channels, -1)
  products = lax.dot_general(side_by_side, kernel, (((3,), (0,)), ((), ())))
  return sum(products[:, :, k * dilation:k * dilation + width,
                      k * features:(k + 1) * features] for k in range(size_x))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv_strips(maps_byxc: jax.Array, kernel_yxio: jax.Array,
                dilation: int = 1) -> jax.Array:
  """`conv_product` strip by strip, forward and backward.

  The gradient is written out, since a differentiated loop would keep the intermediate
  values of all strips.
  """
  return _over_strips(lambda rows: conv_product(rows, kernel_yxio, dilation),
                      (kernel_yxio.shape[0] - 1) * dilation, maps_byxc)


def _conv_strips_forward(maps_byxc, kernel_yxio, dilation):
  return conv_strips(maps_byxc, kernel_yxio, dilation), (maps_byxc, kernel_yxio)


def _conv_strips_backward(dilation, saved, gradient_byxo):
  maps_byxc, kernel_yxio = saved
  size_y, size_x, channels, features = kernel_yxio.shape
  edge_y, edge_x = ((size - 1) * dilation for size in (size_y, size_x))
  # The gradient by the maps is a convolution with the turned kernel, channels swapped.
  in_x = jnp.pad(gradient_byxo, ((0, 0), (0, 0), (edge_x, edge_x), (0, 0)))
  maps_gradient = conv_strips(
      jnp.pad(in_x, ((0, 0), (edge_y, edge_y), (0, 0), (0, 0))),
      jnp.swapaxes(kernel_yxio[::-1, ::-1], 2, 3), dilation)
  # The gradient by the kernel sums, over all positions, products of the shifted maps
  # with the shifted gradient: one matrix product per strip gives all taps at once.
  width = maps_byxc.shape[2]
  rows, starts = _strips(edge_y, maps_byxc)

  def step(i, total):
    start = jnp.asarray(starts)[i]
    strip = lax.dynamic_slice_in_dim(maps_byxc, start, rows + edge_y, 1)
    gradient = lax.dynamic_slice_in_dim(in_x, start, rows, 1)
    # The last strip may overlap the one before, whose rows must not count twice.
    is_new = start + jnp.arange(rows) >= i * rows
    gradient = jnp.where(is_new[None, :, None, None], gradient, 0.)
    left = lax.concatenate([strip[:, k * dilation:k * dilation + rows]
                            for k in range(size_y)], 3)
    right = lax.concatenate(
        [gradient[:, :, edge_x - k * dilation:edge_x - k * dilation + width]
         for k in range(size_x)], 3)
    return total + lax.dot_general(left, right, (((0, 1, 2), (0, 1, 2)), ((), ())))

  total = lax.fori_loop(0, len(starts), step, jnp.zeros(
      (size_y * channels, size_x * features), kernel_yxio.dtype))
  return maps_gradient, total.reshape(size_y, channels, size_x, features).transpose(
      0, 2, 1, 3)


conv_strips.defvjp(_conv_strips_forward, _conv_strips_backward)


def conv_valid(maps_byxc: jax.Array, kernel_yxio: jax.Array,
               dilation: int = 1) -> jax.Array:
  """Valid convolution, stride 1, the faster way for this platform.

  Args:
    maps_byxc: [b, y, x, c] maps.
    kernel_yxio: [ky, kx, c, o] kernel.
    dilation: pixels between two taps.

  Returns:
    [b, y - (ky - 1) dilation, x - (kx - 1) dilation, o] maps.
  """
  if dilation == 1 and (jax.default_backend() != 'cpu'
                        or kernel_yxio.shape[3] <= LAX_FEATURES):
    return conv_lax(maps_byxc, kernel_yxio)
  if jax.default_backend() == 'cpu':
    return conv_strips(maps_byxc, kernel_yxio, dilation)
  return conv_product(maps_byxc, kernel_yxio, dilation)


def conv_strided(maps_byxc: jax.Array, kernel_yxio: jax.Array,
                 stride: int) -> jax.Array:
  """Valid convolution at every stride-th pixel, as one matrix product on CPU.

  Args:
    maps_byxc: [b, y, x, c] maps.
    kernel_yxio: [ky, kx, c, o] kernel.
    stride: pixels between two results.

  Returns:
    [b, (y - ky) // stride + 1, (x - kx) // stride + 1, o] maps.
  """
  if jax.default_backend() != 'cpu':
    return conv_lax(maps_byxc, kernel_yxio, stride=stride)
  size_y, size_x, channels, features = kernel_yxio.shape
  height, width = ((n - size) // stride * stride + 1 for n, size in
                   zip(maps_byxc.shape[1:3], (size_y, size_x), strict=True))
  taps = [maps_byxc[:, y:y + height:stride, x:x + width:stride]
          for y in range(size_y) for x in range(size_x)]
  kernel = kernel_yxio.reshape(size_y * size_x * channels, features)
  return lax.dot_general(lax.concatenate(taps, 3), kernel, (((3,), (0,)), ((), ())))


def whole_layer(after, dilation: int, pooled: int, out_yx: tuple[int, int], weights,
                maps_byxc: jax.Array):
  """A layer around a convolution: after(weights, conv(max over rows)).

  Args:
    after: (weights, [b, rows, out_x, o]) -> [b, rows, x', o'], row by row, defined once
      per network (functions are compared by identity).
    dilation: pixels between two taps.
    pooled: rows y and y + pooled are replaced by their maximum before the convolution;
      0: none.
    out_yx: extent of the convolution's result.
    weights: pytree with 'kernel', [k, k, c, o].
    maps_byxc: [b, y, x, c] maps, y >= out_y + pooled + (k - 1) dilation, x >= out_x +
      (k - 1) dilation; further rows and columns are not read.

  Returns:
    [b, out_y, x', o'] maps.
  """
  reach = (weights['kernel'].shape[0] - 1) * dilation
  maps = maps_byxc[:, :out_yx[0] + reach + pooled, :out_yx[1] + reach]
  if pooled:
    maps = jnp.maximum(maps[:, :-pooled], maps[:, pooled:])
  return after(weights, conv_valid(maps, weights['kernel'], dilation))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def filtered_layer(after, dilation: int, pooled: int, out_yx: tuple[int, int], weights,
                   maps_byxc: jax.Array):
  """`whole_layer` for large maps, the same within rounding.

  On CPU by minimal filtering, line by line (filtering.py), which is fastest where
  out_yx are multiples of BLOCK dilation. On other platforms, and where a gradient is
  asked for, on whole maps. Small maps gain nothing.
  """
  kernel = weights['kernel']
  if jax.default_backend() != 'cpu' or kernel.shape[2] < FILTERED_CHANNELS:
    return whole_layer(after, dilation, pooled, out_yx, weights, maps_byxc)
  step = BLOCK * dilation
  filled_yx = [-(-out // step) * step for out in out_yx]
  reach = (kernel.shape[0] - 1) * dilation
  # A few zeros fill the last block up; results that read them are cut off below.
  missing = [max(0, filled + reach + more - have) for filled, more, have in
             zip(filled_yx, (pooled, 0), maps_byxc.shape[1:3], strict=True)]
  if any(missing):
    maps_byxc = jnp.pad(maps_byxc, ((0, 0), *((0, m) for m in missing), (0, 0)))
  kernels = filtering.prepare_kernels(kernel)

  def filter_image(maps_yxc):
    return filtering.over_lines(
        lambda strip: after(weights, strip[None, :, :out_yx[1]])[0], kernels, dilation,
        pooled, filled_yx, maps_yxc)[:out_yx[0]]

  if maps_byxc.shape[0] == 1:
    return filter_image(maps_byxc[0])[None]
  return lax.map(filter_image, maps_byxc)


# The gradient is that of `whole_layer`: filtering would have to keep its mixtures.
filtered_layer.defvjp(
    lambda after, dilation, pooled, out_yx, *arguments: jax.vjp(
        functools.partial(whole_layer, after, dilation, pooled, out_yx), *arguments),
    lambda _, __, ___, ____, pull, gradient: pull(gradient))


def _strips(reach: int, maps_byxc) -> tuple[int, list[int]]:
  """Rows of a strip and where strips start; the last one ends with the maps."""
  batch, height, width, _ = maps_byxc.shape
  height -= reach
  rows = max(1, min(height, round(STRIP_PX / (batch * width))))
  return rows, [min(start, height - rows) for start in range(0, height, rows)]


def _over_strips(function, reach: int, maps_byxc):
  """[b, y - reach, ...] of function(rows) -> [b, rows - reach, ...] by strips."""
  rows, starts = _strips(reach, maps_byxc)
  if len(starts) == 1:
    return function(maps_byxc)
  batch, height, width, channels = maps_byxc.shape
  strip = jax.eval_shape(function, jax.ShapeDtypeStruct(
      (batch, rows + reach, width, channels), maps_byxc.dtype))
  # All of it is overwritten. A value of the maps, not zero: XLA may allocate a constant
  # at the start of the program, and the buffers of all layers would exist together.
  out = jnp.broadcast_to(maps_byxc[0, 0, 0, 0].astype(strip.dtype),
                         (batch, height - reach, *strip.shape[2:]))

  def step(i, out):
    start = jnp.asarray(starts)[i]
    rows_byxc = lax.dynamic_slice_in_dim(maps_byxc, start, rows + reach, 1)
    return lax.dynamic_update_slice_in_dim(out, function(rows_byxc), start, 1)

  return lax.fori_loop(0, len(starts), step, out)


def max_pool(maps_byxc: jax.Array) -> jax.Array:
  """2 x 2 max-pooling, stride 2; an odd last row or column is dropped (§1.5)."""
  height, width = maps_byxc.shape[1] // 2 * 2, maps_byxc.shape[2] // 2 * 2
  corners = [maps_byxc[:, dy:height:2, dx:width:2] for dy in (0, 1) for dx in (0, 1)]
  return jnp.maximum(jnp.maximum(corners[0], corners[1]),
                     jnp.maximum(corners[2], corners[3]))
