"""Exact dense evaluation of the published, zero-padded network (§9.2, §9.3).

Zeros around every map make a neighbourhood's features depend on where it begins, but
only near its ends (models/exact_plan.py). Every layer is kept in four forms, for y and
x each *shared* (the axis runs over pixels) or *run* (it runs over origins, and leading
axes give the index i in the run and the end e, 0 first, 1 last):

  shared-shared [y, x, c]          run-shared [i, e, y, x, c]
  shared-run    [i, e, y, x, c]    run-run    [iy, ix, ey, ex, y, x, c]

A run is convolved like a small map: what it reads (zeros beyond the map, values of the
runs before, shared values where those end) is put side by side. As runs are at most
four long, this is one step of Winograd's minimal filtering, with i leading: one matrix
mixes the inputs, each mixture is multiplied by its own kernel, another matrix mixes
the products. Along shared axes, kernel columns are applied together and the products
added with a shift. Bias and ELU grow monotonically and come after pooling.

The numbers are those of one patch per voxel, within rounding. The plain recursion
needs 11.9 instead of 142 MMAC per voxel at (113, 3); filtering halves that again, and
tiles of finite size add their rims. Work goes tile by tile and in small boxes of
origins, so that what is used repeatedly stays in the cache.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from fibjax.models.exact_plan import STRIDE, Layer, make_layers, plan_run
from fibjax.models.filtering import minimal_filter, mix, multiply

BOX_PX = 8


def _mix_runs(matrix, maps, runs: int):
  """Applies a matrix to each of the leading run axes at once."""
  return mix((matrix,) * runs, maps).reshape(
      (matrix.shape[0],) * runs + maps.shape[runs:])


def _prepare_kernels(params, layers):
  """Kernels as each form multiplies by them: {name: {(run_y, run_x): kernel}}."""
  kernels = {}
  for layer in layers:
    if layer.kind != 'conv':
      continue
    kernel = params[layer.name]['kernel']
    _, _, channels, features = kernel.shape
    G = jnp.asarray(minimal_filter(layer.runs[0][1])[1], kernel.dtype)
    in_y = jnp.einsum('ky,yxio->kixo', G, kernel, precision='highest')
    in_x = jnp.einsum('kx,yxio->kiyo', G, kernel, precision='highest')
    both = jnp.einsum('ly,kiyo->lkio', G, in_x, precision='highest')
    kernels[layer.name] = {
        (False, False): kernel.transpose(0, 2, 1, 3).reshape(3, channels, -1),
        (True, False): in_y.reshape(-1, channels, 3 * features),
        (False, True): in_x.reshape(-1, channels, 3 * features),
        (True, True): both.reshape(-1, channels, features)}
  return kernels


def _slice(array, axis: int, start: int, length: int, stride: int = 1):
  return lax.slice_in_dim(array, start, start + length * stride - stride + 1, stride,
                          axis % array.ndim)


def _sum_shifts(products, axis: int, step: int):
  """Adds three products per position, side by side in the last axis, step apart."""
  count, width = products.shape[axis] - 2 * step, products.shape[-1] // 3
  return sum(_slice(_slice(products, axis, k * step, count), -1, k * width, width)
             for k in range(3))


def _convolve(kernel, maps, outputs: int, run_y: bool, run_x: bool, step: int):
  """3 x 3 convolution without bias of maps in the form (run_y, run_x).

  Args:
    kernel: of _prepare_kernels.
    maps: what the layer reads.
    outputs: length of the layer's runs.
    run_y: y is a run; otherwise shared.
    run_x: x is a run; otherwise shared.
    step: pixels between values of a shared axis.
  """
  runs = run_y + run_x
  if not runs:
    height = maps.shape[0] - 2 * step
    return _sum_shifts(sum(multiply(_slice(maps, 0, dy * step, height), kernel[dy])
                           for dy in range(3)), 1, step)
  A, _, B = minimal_filter(outputs)
  mixed = _mix_runs(B, maps, runs)
  products = multiply(mixed.reshape(kernel.shape[0], -1, kernel.shape[1]), kernel, 1)
  products = products.reshape(*mixed.shape[:-1], -1)
  if runs == 1:
    products = _sum_shifts(products, -3 if run_x else -2, step)
  return _mix_runs(A, products, runs)


def _pool(maps, run_y: bool, run_x: bool, step: int):
  for run, axis in ((run_y, -3), (run_x, -2)):
    if not run:
      count = maps.shape[axis] - step
      maps = jnp.maximum(_slice(maps, axis, 0, count), _slice(maps, axis, step, count))
  for axis in range(run_y + run_x):
    count = maps.shape[axis] // 2
    maps = jnp.maximum(_slice(maps, axis, 0, count, 2), _slice(maps, axis, 1, count, 2))
  return maps


def _compute(weights, target: Layer, source: Layer, maps, run_y: bool, run_x: bool):
  """One layer in one form from what it reads; bias and ELU come after pooling."""
  params, kernels = weights
  if target.kind == 'cells':
    return maps
  if target.kind == 'conv':
    maps = _convolve(kernels[target.name][run_y, run_x], maps, target.runs[0][1],
                     run_y, run_x, source.step_px)
  else:
    maps = _pool(maps, run_y, run_x, source.step_px)
  if target.name.endswith('b'):
    return maps
  layer = source.name if target.kind == 'pool' else target.name
  return nn.elu(maps + params[layer]['bias'].reshape((1,) * (maps.ndim - 1) + (-1,)))


def _gather_runs(own, read, s_axis: int, e_axis: int, plans):
  """Puts what runs read side by side along s_axis, their ends along e_axis.

  Args:
    own: the source's runs, or None where it has none.
    read: index -> shared values, with one place on s_axis and e_axis.
    s_axis: axis of the index in a run.
    e_axis: axis of the end.
    plans: of plan_run.
  """
  ends = []
  for plan in plans:
    pieces = []
    for entry in plan:
      if entry[0] == 'run':
        _, end, start, stop = entry
        pieces.append(_slice(_slice(own, s_axis, start, stop - start), e_axis, end, 1))
      else:
        pieces.append(read(entry[1]) if entry[0] == 'shared' else None)
    like = next(piece for piece in pieces if piece is not None)
    zeros = jnp.zeros_like(_slice(like, s_axis, 0, 1))
    ends.append(lax.concatenate([zeros if p is None else p for p in pieces], s_axis))
  return lax.concatenate(ends, e_axis)


def _crop_shared(maps, axis: int, source: Layer, target: Layer, count: int):
  """Cuts of a shared axis what the next layer's shared values read."""
  start, stop = target.shared
  if target.kind == 'conv':
    start, stop = start - 1, stop + 1
  else:
    start, stop = 2 * start, 2 * stop
  first = source.step_px * (start - source.shared[0])
  return _slice(maps, axis, first, source.step_px * (stop - 1 - start) + count)


def _shared_maps(weights, layers, image_yxc, tile_yx):
  """Shared-shared form of all layers that need one."""
  maps = [image_yxc]
  for source, target in zip(layers, layers[1:], strict=False):
    if target.shared is None:
      break
    read = maps[-1]
    for axis in (0, 1):
      read = _crop_shared(read, axis, source, target, tile_yx[axis])
    maps.append(_compute(weights, target, source, read, False, False))
  return maps


def _edge_maps(weights, layers, shared, run_y: bool, origin, count: int, other: int):
  """Forms that are a run along one axis and shared along the other.

  Args:
    weights: parameters and prepared kernels.
    layers: of make_layers.
    shared: shared-shared maps.
    run_y: whether y is the run.
    origin: first origin along the run's axis.
    count: origins along the run's axis.
    other: origins of the tile along the shared axis.

  Returns:
    (gathered, maps): by layer, what the layer reads, and the layer, as far as the
    shared axis is needed.
  """
  gathered, maps = [None], [None]
  for i, (source, target) in enumerate(zip(layers, layers[1:], strict=False)):
    if source.shared is None:
      break

    def read_shared(index, i=i, source=source):
      start = origin + source.step_px * (index - source.shared[0])
      return lax.dynamic_slice_in_dim(shared[i], start, count,
                                      0 if run_y else 1)[None, None]

    read = _gather_runs(maps[i], read_shared, 0, 1, plan_run(source, target))
    gathered.append(read)
    if target.shared is None:
      break
    read = _crop_shared(read, -2 if run_y else -3, source, target, other)
    maps.append(_compute(weights, target, source, read, run_y, not run_y))
  return gathered, maps


def _box_cells(weights, layers, gathered, columns, origin_yx, band, box_yx):
  """Cells of a box of origins, [n, n, 1, 1, oy, ox, c].

  Args:
    weights: parameters and prepared kernels.
    layers: of make_layers.
    gathered: what run-shared layers read, for the box's rows.
    columns: shared-run maps of all bands, [band, ...].
    origin_yx: first origins.
    band: index of the box's column band.
    box_yx: origins.
  """
  own = None
  for i, (source, target) in enumerate(zip(layers, layers[1:], strict=False)):

    def read_column(index, i=i, source=source):
      array = columns[i]
      start = origin_yx[0] + source.step_px * (index - source.shared[0])
      starts = (band,) + (0,) * (array.ndim - 4) + (start, 0, 0)
      sizes = (1, *array.shape[1:-3], box_yx[0], *array.shape[-2:])
      return jnp.expand_dims(lax.dynamic_slice(array, starts, sizes)[0], (0, 2))

    def read_row(index, i=i, source=source):
      start = origin_yx[1] + source.step_px * (index - source.shared[0])
      return jnp.expand_dims(lax.dynamic_slice_in_dim(
          gathered[i + 1], start, box_yx[1], -2), (1, 3))

    plans = plan_run(source, target)
    if source.runs:
      own = _gather_runs(own, read_column, 0, 2, plans)
    own = _gather_runs(own, read_row, 1, 3, plans)
    own = _compute(weights, target, source, own, True, True)
  return own


def _head(params, cells):
  """Dense layers: [n, n, 1, 1, y, x, c] cells to [y, x] logits."""
  n, height, width, channels = cells.shape[0], *cells.shape[-3:]
  hidden = cells.reshape(n * n, height * width, channels).transpose(1, 0, 2)
  hidden = hidden.reshape(height * width, -1)
  for name in ('fc1', 'fc2', 'out'):
    hidden = multiply(hidden, params[name]['kernel']) + params[name]['bias'][None]
    if name != 'out':
      hidden = nn.elu(hidden)
  return hidden.reshape(height, width)


def _score_tile(weights, layers, image_yxc, tile_yx, box_yx):
  """Logits of one tile, a multiple of the box."""
  shared = _shared_maps(weights, layers, image_yxc, tile_yx)
  bands_y, bands_x = (jnp.arange(0, t, s) for t, s in zip(tile_yx, box_yx, strict=True))

  def column_band(origin):
    _, maps = _edge_maps(weights, layers, shared, False, origin, box_yx[1], tile_yx[0])
    return maps[1:]

  columns = [None, *lax.map(column_band, bands_x)]

  def row_band(origin_y):
    gathered, _ = _edge_maps(weights, layers, shared, True, origin_y, box_yx[0],
                             tile_yx[1])

    def box(item):
      origin_x, band = item
      return _head(weights[0], _box_cells(weights, layers, gathered, columns,
                                          (origin_y, origin_x), band, box_yx))

    logits_byx = lax.map(box, (bands_x, jnp.arange(len(bands_x))))
    return logits_byx.transpose(1, 0, 2).reshape(box_yx[0], tile_yx[1])

  return lax.map(row_band, bands_y).reshape(tile_yx)


def count_bytes(cells: int, window_px2: int) -> int:
  """Memory for a window of so many pixels: one tile's maps, measured, and the image."""
  return 25_000_000 * cells + 80 * window_px2


def apply_exact(params, window_byxc: jax.Array, cells: int,
                out_yx: tuple[int, int] | None = None, tile_px: int = 64,
                box_yx: tuple[int, int] = (BOX_PX, BOX_PX)) -> jax.Array:
  """Logits of all voxels of a window by the zero-padded network.

  Args:
    params: weights of a PatchCNN of padding 'same'.
    window_byxc: [b, y, x, n_z] images, y = 16 cells + ty, x likewise. Logit (0, 0)
      belongs to voxel (8 cells, 8 cells). Any ty and tx; multiples of the box, and of
      the tile where larger, are fastest, as the rest is filled up with zeros.
    cells: n of n_xy = 16 n + 1.
    out_yx: (ty, tx), if the window is larger than they need.
    tile_px: largest tile; the memory needed grows with its area, not the window's.
    box_yx: origins worked on at once.

  Returns:
    [b, ty, tx] logits.
  """
  rim = STRIDE * cells
  batch = window_byxc.shape[0]
  if out_yx is None:
    out_yx = [extent - rim for extent in window_byxc.shape[1:3]]
  window_byxc = window_byxc[:, :out_yx[0] + rim, :out_yx[1] + rim]
  counts, tile_yx = [], []
  for out, box in zip(out_yx, box_yx, strict=True):
    count = -(-out // tile_px)
    counts.append(count)
    tile_yx.append(-(-out // (count * box)) * box)
  fill = [(0, c * t - o) for c, t, o in zip(counts, tile_yx, out_yx, strict=True)]
  window_byxc = jnp.pad(window_byxc, ((0, 0), *fill, (0, 0)))
  layers = make_layers(cells)
  weights = params, _prepare_kernels(params, layers)

  def tile(corner):
    image = lax.dynamic_slice(
        window_byxc, (*corner, 0),
        (1, tile_yx[0] + rim, tile_yx[1] + rim, window_byxc.shape[3]))[0]
    return _score_tile(weights, layers, image, tuple(tile_yx), box_yx)

  corners = jnp.stack(jnp.meshgrid(
      jnp.arange(batch), jnp.arange(counts[0]) * tile_yx[0],
      jnp.arange(counts[1]) * tile_yx[1], indexing='ij'), -1).reshape(-1, 3)
  logits = lax.map(tile, corners).reshape(batch, *counts, *tile_yx)
  logits = logits.transpose(0, 1, 3, 2, 4).reshape(
      batch, counts[0] * tile_yx[0], counts[1] * tile_yx[1])
  return logits[:, :out_yx[0], :out_yx[1]]
