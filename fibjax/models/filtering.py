"""Minimal filtering (Winograd, Toom-Cook): valid convolutions with fewer products.

A filter of r taps gives m outputs by m + r - 1 products instead of m r: y = A ((G g) *
(B x)). In both axes, with m = 4, a 3 x 3 kernel needs 2.25 products per output instead
of 9, and a 7 x 7 kernel, cut into parts of 4 and 3 taps, 10.6 instead of 49. The
matrices come from polynomials at small points, so that single precision loses no more
than a digit (parts of at most 4 taps; one of 7 would lose two).

A dilated convolution is one per phase: with d pixels between taps, the pixels x, x + d,
x + 2 d ... belong together. `over_lines` works on all columns of 4 rows d apart at a
time, a *line*, and on as many neighbouring phases as fill the matrix products.
"""
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

BLOCK = 4  # outputs of a filter, m
# Where the polynomials are evaluated, beside infinity. The entries of A, G and B are
# powers of these, so that larger points lose digits; of those tried, these lose least.
_POINTS = (0., 1., -1., 0.5, -2., 2.)
_ROWS = 512  # of a matrix product, about
# XLA's products on CPU work on blocks of 2048 columns and sum a smaller remainder in
# another order. In multiples of so many rows, of 32 channels or more, there is no
# remainder, and a voxel's bits do not depend on how many others are computed with it.
_ROWS_MULTIPLE = 128


def minimal_filter(outputs: int, taps: int = 3):
  """Matrices (A, G, B) of a filter with outputs + taps - 1 products.

  y = A ((G g) * (B x)) is y_i = sum_k g_k x_{i + k} for all i < outputs. A and G
  evaluate polynomials at 0, 1, -1, ... and infinity (Toom-Cook). B follows from them:
  for unit vectors g and x the products of A and G are known, and y is wanted.

  Returns:
    A [outputs, p], G [p, taps], B [p, p] with p = outputs + taps - 1.
  """
  count = outputs + taps - 1
  points = np.array(_POINTS[:count - 1])
  A = np.concatenate([np.vander(points, outputs, increasing=True),
                      np.eye(outputs)[-1:]]).T
  G = np.concatenate([np.vander(points, taps, increasing=True), np.eye(taps)[-1:]])
  # sum_p A[i, p] G[p, k] B[p, j] must be 1 where j = i + k and 0 elsewhere: a linear
  # system for each column of B, solvable exactly, hence a residual of rounding only.
  wanted = np.zeros((outputs, taps, count))
  for i in range(outputs):
    wanted[i, range(taps), range(i, i + taps)] = 1
  products = (A[:, None, :] * G.T[None]).reshape(outputs * taps, count)
  B = np.linalg.lstsq(products, wanted.reshape(outputs * taps, -1), rcond=None)[0]
  return A, G, B


def _parts(size: int) -> tuple[tuple[int, int], ...]:
  """(first tap, taps) of the parts a kernel is cut into.

  Equal parts of at most four taps, the longer ones first: the filter of a longer part
  would need larger points.
  """
  count = -(-size // BLOCK)
  lengths = [size // count + (k < size % count) for k in range(count)]
  return tuple((sum(lengths[:k]), length) for k, length in enumerate(lengths))


def prepare_kernels(kernel_yxio: jax.Array) -> dict:
  """Transformed kernels G_y g G_x': {((y0, ry), (x0, rx)): [p_y p_x, i, o]}.

  Keys are the first tap and the number of taps of a part, along y and x.
  """
  size, _, channels, features = kernel_yxio.shape
  kernels = {}
  for part_y in _parts(size):
    for part_x in _parts(size):
      taps = kernel_yxio[part_y[0]:sum(part_y), part_x[0]:sum(part_x)]
      G_y, G_x = (jnp.asarray(minimal_filter(BLOCK, taps_along)[1], kernel_yxio.dtype)
                  for taps_along in (part_y[1], part_x[1]))
      kernels[part_y, part_x] = jnp.einsum(
          'ty,ux,yxio->tuio', G_y, G_x, taps, precision='highest').reshape(
              -1, channels, features)
  return kernels


def multiply(left, right, batch: int = 0):
  """Matrix product over the last axis of left, after leading batch axes of both.

  In full float32 on all platforms: the filter's matrices magnify rounding errors, and
  products in TF32 or bfloat16 would lose what they add up to.
  """
  axes = tuple(range(batch))
  return lax.dot_general(left, right, (((left.ndim - 1,), (batch,)), (axes, axes)),
                         precision=lax.Precision.HIGHEST)


def mix(matrices, arrays):
  """Applies one matrix to each leading axis, by their Kronecker product.

  One product for all axes, so that nothing is transposed in between. Returns
  [rows, elements of the other axes].
  """
  whole = jnp.asarray(functools.reduce(np.kron, matrices), arrays.dtype)
  return multiply(whole, arrays.reshape(whole.shape[1], -1))


def over_lines(after, kernels: dict, dilation: int, pooled: int, out_yx, maps_yxc):
  """Computes after(conv(max over rows)) of maps [y, x, c], line by line.

  Args:
    after: [rows, out_x, o] -> [rows, x', o'].
    kernels: of `prepare_kernels`.
    dilation: pixels between two taps, d.
    pooled: rows y and y + pooled are replaced by their maximum; 0: none.
    out_yx: extent of the convolution's result, multiples of 4 d.
    maps_yxc: [y, x, c] maps, large enough.

  Returns:
    [out_y, x', o'] maps.
  """
  blocks_y, blocks_x = (out // (BLOCK * dilation) for out in out_yx)
  phases = min((p for p in range(1, dilation + 1) if dilation % p == 0),
               key=lambda p: abs(p * blocks_x * dilation - _ROWS))

  def line(block, phase):
    start = BLOCK * dilation * block + phase
    maps = _filter(kernels, dilation, pooled, blocks_x, phases, start, maps_yxc)
    maps = after(maps.reshape(BLOCK * phases, out_yx[1], -1))
    return maps.reshape(1, BLOCK, phases, *maps.shape[1:])

  line_shape = jax.eval_shape(line, 0, 0)
  # All of it is overwritten. A value of the maps, not zero: XLA may allocate a constant
  # at the start of the program, and the buffers of all layers would exist together.
  out = jnp.broadcast_to(maps_yxc[0, 0, 0].astype(line_shape.dtype),
                         (blocks_y, BLOCK, dilation, *line_shape.shape[3:]))
  per_block = dilation // phases

  def step(i, out):
    block, phase = i // per_block, i % per_block * phases
    return lax.dynamic_update_slice(out, line(block, phase),
                                    (block, 0, phase, 0, 0))

  out = lax.fori_loop(0, blocks_y * per_block, step, out)
  return out.reshape(out_yx[0], *out.shape[3:])


def _filter(kernels, dilation: int, pooled: int, blocks_x: int, phases: int, start,
            maps_yxc):
  """Convolves the lines that begin in rows start .. start + phases: [4, phases, x, o].

  A line of one phase reads 4 + k - 1 rows, dilation apart. Along x, the pixels of a
  block of 4 outputs are strided slices of each row, one per tap, so that all blocks of
  all phases form the rows of one matrix product per pair (tap y, tap x).
  """
  width, channels = maps_yxc.shape[1:]
  size = max(sum(part) for part, _ in kernels)
  used_px = (BLOCK * blocks_x + size - 1) * dilation

  def read(row):
    rows = lax.dynamic_slice(maps_yxc, (row, 0, 0), (phases, width, channels))
    return rows[:, :used_px]

  rows = []
  for tap in range(BLOCK + size - 1):
    row = read(start + tap * dilation)
    if pooled:
      row = jnp.maximum(row, read(start + tap * dilation + pooled))
    rows.append(row.reshape(phases, -1, dilation * channels))

  count = phases * blocks_x * dilation
  fill = -count % _ROWS_MULTIPLE
  total = None
  for ((first_y, taps_y), (first_x, taps_x)), kernel in kernels.items():
    A_y, _, B_y = minimal_filter(BLOCK, taps_y)
    A_x, _, B_x = minimal_filter(BLOCK, taps_x)
    read_x = [slice(first_x + i, first_x + i + BLOCK * (blocks_x - 1) + 1, BLOCK)
              for i in range(BLOCK + taps_x - 1)]
    inputs = jnp.stack([rows[first_y + i][:, columns]
                        for i in range(BLOCK + taps_y - 1) for columns in read_x])
    inputs = inputs.reshape(len(inputs), count, channels)
    if fill:
      inputs = jnp.pad(inputs, ((0, 0), (0, fill), (0, 0)))
    mixed = mix((B_y, B_x), inputs).reshape(inputs.shape)
    products = mix((A_y, A_x), multiply(mixed, kernel, 1))
    total = products if total is None else total + products
  shape = (BLOCK, BLOCK, phases, blocks_x, dilation, -1)
  total = total.reshape(BLOCK ** 2, count + fill, -1)[:, :count]
  return total.reshape(shape).transpose(0, 2, 3, 1, 4, 5).reshape(
      BLOCK, phases, BLOCK * blocks_x * dilation, -1)
