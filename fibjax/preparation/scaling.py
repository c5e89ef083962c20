"""Grey values on a common scale, without the gradient along image rows (§1.2).

Input: a volume or array [z, y, x] uint8, uint16 or float32 as acquired. Output: float32
in about [0, 1], the scale that all methods expect. Both steps are one affine map,
V' = scale * V + offset - beta * (row - row_mean), recorded completely, so that it can
be replayed on other slices of the same acquisition. Values are not clipped: they may
leave [0, 1] slightly (Skarberg et al. 2021, section 2.2).

The gradient is the shadow on the detector, along y (the depth of the milling trench):
a straight line through the row means of the whole volume. Least squares on the means
equals least squares on all voxels, since all rows have the same number of them.
"""
import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from fibjax.errors import InputError
from fibjax.system import geometry
from fibjax.volumes import ome_zarr
from fibjax.volumes.volume import (
  Volume,
  check_image,
  new_volume,
  read_box,
  shard_shape,
  write_box,
)

SCALES = ('dtype', 'minmax_volume', 'standard')
_DEVIATIONS = 4  # that 'standard' maps to [0, 1], two on either side of the mean
_DTYPE_RANGE = {'uint8': 255.0, 'uint16': 65535.0, 'float32': 1.0, 'float64': 1.0}
# A float volume with values outside these limits was certainly never scaled.
_FLOAT_LIMITS = (-0.5, 1.5)


class _Source(NamedTuple):
  """Grey values on disk or in memory; read: (start_zyx, stop_zyx) -> [z, y, x].

  Statistics are summed box by box: the order of the sums, and so their last bits,
  depends on shard_zyx.
  """
  name: str
  shape: tuple[int, int, int]
  dtype: np.dtype
  shard_zyx: tuple[int, int, int]
  read: Callable[[tuple, tuple], np.ndarray]


def fit_row_gradient(row_means_y: np.ndarray) -> float:
  """Fits the slope of the least-squares line through the mean of each image row.

  Args:
    row_means_y: [y] mean over z and x of each row.

  Returns:
    Slope per pixel; 0 for a single row.
  """
  row_means_y = np.asarray(row_means_y, np.float64)
  if len(row_means_y) < 2:
    return 0.0
  rows = np.arange(len(row_means_y)) - (len(row_means_y) - 1) / 2
  return float(rows @ (row_means_y - row_means_y.mean()) / (rows @ rows))


def subtract_row_gradient(grey_zyx: np.ndarray, beta_per_px: float, *,
                          first_row: int = 0,
                          row_mean: float | None = None) -> np.ndarray:
  """Removes a gradient along rows and keeps the mean: V - beta * (row - row_mean).

  Args:
    grey_zyx: [..., y, x] values.
    beta_per_px: slope per pixel along y.
    first_row: row of the volume that grey_zyx starts with.
    row_mean: row where the correction is 0; None: the middle of grey_zyx, which must
      then have all rows of the volume.

  Returns:
    float64 array of the same shape.
  """
  rows = np.shape(grey_zyx)[-2]
  if row_mean is None:
    row_mean = (rows - 1) / 2
  from_mean = np.arange(first_row, first_row + rows) - row_mean
  return np.asarray(grey_zyx, np.float64) - beta_per_px * from_mean[:, None]


def apply_record(grey_zyx: np.ndarray, record: dict, first_row: int = 0) -> np.ndarray:
  """Replays a record of `prepare_volume` on any part of the volume.

  Args:
    grey_zyx: [..., y, x] values as acquired.
    record: as `prepare_volume` returns it.
    first_row: row of the volume that grey_zyx starts with.

  Returns:
    float32 array of the same shape.
  """
  scaled = np.asarray(grey_zyx, np.float64) * record['scale'] + record['offset']
  return subtract_row_gradient(scaled, record['beta_per_px'], first_row=first_row,
                               row_mean=record['row_mean']).astype(np.float32)


def scale_image(image_zyx: np.ndarray, *, scale: str = 'dtype',
                gradient: bool = True) -> np.ndarray:
  """Scales grey values to about [0, 1] and removes their gradient along rows.

  Equal to the last bit to `prepare_volume` of the imported volume.

  Args:
    image_zyx: [z, y, x] grey values as acquired, uint8, uint16, float32 or float64.
    scale: 'dtype' divides by the range of the dtype (255, 65535; floats stay as they
      are); 'minmax_volume' maps the minimum and maximum to 0 and 1; 'standard' maps
      mean - 2 sd and mean + 2 sd to 0 and 1, so that volumes of another brightness and
      contrast look alike.
    gradient: whether to remove the gradient along image rows.

  Returns:
    float32 [z, y, x]; values may leave [0, 1] slightly.

  Raises:
    InputError: as `prepare_volume`; for an array of another rank.

  Example:
    >>> import fibjax
    >>> image_zyx = fibjax.scale_image(fibjax.read_stack('film.tif').image_zyx)
    >>> str(image_zyx.dtype), 0 < float(image_zyx.mean()) < 1
    ('float32', True)
  """
  image_zyx = check_image('image_zyx', image_zyx)
  # Sums over slices of another memory layout would round differently.
  image_zyx = np.ascontiguousarray(image_zyx, image_zyx.dtype.newbyteorder('='))

  def read(start, stop):
    return image_zyx[tuple(map(slice, start, stop))]
  _, shard = ome_zarr.choose_grid(image_zyx.shape)
  record = _fit(_Source('image_zyx', image_zyx.shape, image_zyx.dtype, tuple(shard),
                        read), scale, gradient)
  return _apply_to_slices(image_zyx, record)


def prepare_volume(source: Volume, out_path, *, scale: str = 'dtype',
                   gradient: bool = True) -> dict:
  """Writes the scaled float32 volume, in two passes shard by shard.

  Args:
    source: volume as acquired.
    out_path: volume to make; must not exist.
    scale, gradient: as for `scale_image`.

  Returns:
    JSON-able record, also in the attributes of the volume: source, dtype, shape,
    earlier_steps (names of the steps of `fibjax prep` before, see chain.py), scale and
    offset (V * scale + offset), beta_per_px (on the scaled values), row_mean (the row
    where the correction is 0), minimum, maximum and mean as acquired, method.

  Raises:
    InputError: for NaN or infinite values (names the slice), a constant volume, a
      float volume far outside [0, 1], another dtype, or an unknown scale.
  """
  record = _fit(_Source(str(source.path), source.shape, source.dtype,
                        shard_shape(source), partial(read_box, source)),
                scale, gradient,
                source.attributes.get('preparation', {}).get('steps', ()))
  with new_volume(out_path, source.shape, np.float32, source.voxel_size_zyx_nm,
                  fill_value=None, attributes={'preprocessing': record}) as prepared:
    for start, stop in geometry.tile_boxes(source.shape, shard_shape(prepared)):
      grey_zyx = read_box(source, start, stop)
      write_box(prepared, start, _apply_to_slices(grey_zyx, record, start[1]))
  return record


def _apply_to_slices(grey_zyx, record: dict, first_row: int = 0) -> np.ndarray:
  """`apply_record` slice by slice, which keeps the float64 values in between small."""
  out_zyx = np.empty(grey_zyx.shape, np.float32)
  for z, grey_yx in enumerate(grey_zyx):
    out_zyx[z] = apply_record(grey_yx, record, first_row)
  return out_zyx


def _fit(source: _Source, scale: str, gradient: bool, earlier_steps=()) -> dict:
  """Fits scale and gradient to all grey values: the record of `prepare_volume`."""
  if scale not in SCALES:
    raise InputError('config.prepare.scale', got=repr(scale),
                     expected=f'one of {SCALES}', remedy='correct it')
  if source.dtype.name not in _DTYPE_RANGE:
    raise InputError(source.name, got=f'dtype {source.dtype}',
                     expected=f'one of {", ".join(_DTYPE_RANGE)}',
                     remedy='convert the stack')
  grey = _statistics(source, with_sd=scale == 'standard')
  factor, offset = _scaling(source, scale, grey)
  return {
      'source': source.name, 'dtype': source.dtype.name, 'shape': list(source.shape),
      'earlier_steps': [step['name'] for step in earlier_steps],
      'method': scale, 'gradient_removed': gradient,
      'scale': factor, 'offset': offset,
      'beta_per_px': fit_row_gradient(grey.row_means_y * factor) if gradient else 0.0,
      'row_mean': (source.shape[1] - 1) / 2,
      'minimum': grey.low, 'maximum': grey.high, 'mean': float(grey.row_means_y.mean())}


class _Grey(NamedTuple):
  """Statistics of grey values; row_means_y: [y] mean over z and x of each row."""
  row_means_y: np.ndarray
  sd: float
  low: float
  high: float


def _statistics(source: _Source, with_sd: bool) -> _Grey:
  """Statistics of all grey values, in one pass; the sd on request, else 0."""
  row_sums_y, low, high = np.zeros(source.shape[1]), np.inf, -np.inf
  centre, squares = None, 0.0  # of deviations from the first value: no digits are lost
  for start, stop in geometry.tile_boxes(source.shape, source.shard_zyx):
    sums_y = row_sums_y[start[1]:stop[1]]
    for z, grey_yx in enumerate(source.read(start, stop), start[0]):
      extremes = float(grey_yx.min()), float(grey_yx.max())
      if not np.isfinite(extremes).all():  # min and max propagate NaN
        raise InputError(f'{source.name} slice z={z}', got='NaN or infinite values',
                         expected='finite grey values',
                         remedy='repair or leave out the slice')
      sums_y += grey_yx.sum(1, dtype=np.float64)
      if with_sd:
        centre = float(grey_yx[0, 0]) if centre is None else centre
        deviations = grey_yx.ravel() - np.float64(centre)
        squares += float(deviations @ deviations)
      low, high = min(low, extremes[0]), max(high, extremes[1])
  if low == high:
    raise InputError(source.name, got=f'{low:g} in every voxel',
                     expected='an image with contrast',
                     remedy='check the stack that was imported')
  row_means_y = row_sums_y / (source.shape[0] * source.shape[2])
  variance = 0.0
  if with_sd:
    variance = squares / math.prod(source.shape) - (row_means_y.mean() - centre) ** 2
  return _Grey(row_means_y, math.sqrt(max(variance, 0)), low, high)


def _scaling(source: _Source, scale: str, grey: _Grey) -> tuple[float, float]:
  """(factor, offset) of V * factor + offset."""
  low, high = grey.low, grey.high
  if scale == 'minmax_volume':
    return 1 / (high - low), -low / (high - low)
  if scale == 'standard':
    factor = 1 / (_DEVIATIONS * grey.sd)
    return factor, 0.5 - float(grey.row_means_y.mean()) * factor
  unscaled = low < _FLOAT_LIMITS[0] or high > _FLOAT_LIMITS[1]
  if source.dtype.kind == 'f' and unscaled:
    raise InputError(source.name, got=f'float values from {low:g} to {high:g}',
                     expected='about [0, 1], which the dtype scale leaves as they are',
                     remedy="use the scale 'minmax_volume'")
  return 1 / _DTYPE_RANGE[source.dtype.name], 0.0
