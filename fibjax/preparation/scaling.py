"""Pre-processing of grey values: a common scale, and no gradient along image rows.

In: a volume [z, y, x] uint8, uint16 or float32 as acquired. Out: float32 in about
[0, 1], the scale of all volumes the networks see. Both steps are one affine map,
V' = scale * V + offset - beta * (row - row_mean), recorded in full, so that it can be
replayed on other slices of the same acquisition. Values are not clipped: they may
leave [0, 1] slightly (Skarberg et al. 2021; §1.2).

The gradient is that of the detector's shadow, along y (the milling trench's depth).
It is a straight line through the row means of the whole volume; least squares on the
means equals least squares on all voxels, since every row has as many.
"""
import numpy as np

from fibjax.errors import InputError, unknown
from fibjax.system import geometry
from fibjax.volumes.volume import Volume, new_volume, read_box, shard_shape, write_box

SCALES = ('dtype', 'minmax_volume')
_DTYPE_RANGE = {'uint8': 255.0, 'uint16': 65535.0, 'float32': 1.0, 'float64': 1.0}
# A float volume further from [0, 1] than this was surely never scaled.
_FLOAT_LIMITS = (-0.5, 1.5)


def fit_row_gradient(row_means_y: np.ndarray) -> float:
  """Slope of the least-squares line through the mean of each image row.

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
    row_mean: row where the correction is 0; None: the middle of grey_zyx, which then
      has all rows of the volume.

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
    record: what `prepare_volume` returned.
    first_row: row of the volume that grey_zyx starts with.

  Returns:
    float32 array of the same shape.
  """
  scaled = np.asarray(grey_zyx, np.float64) * record['scale'] + record['offset']
  return subtract_row_gradient(scaled, record['beta_per_px'], first_row=first_row,
                               row_mean=record['row_mean']).astype(np.float32)


def prepare_volume(source: Volume, out_path, *, scale: str = 'dtype',
                   gradient: bool = True) -> dict:
  """Writes the prepared float32 volume, in two passes shard by shard.

  Args:
    source: volume as acquired.
    out_path: volume to make; must not exist.
    scale: 'dtype' divides by the range of the dtype (255, 65535; floats stay as they
      are); 'minmax_volume' maps the volume's minimum and maximum to 0 and 1.
    gradient: whether to remove the gradient along image rows.

  Returns:
    JSON-able record: source, dtype, shape, earlier_steps (what `fibjax prep` did
      before, see chain.py), scale and offset (V * scale + offset),
    beta_per_px (on the scaled values), row_mean (the row where the correction is 0),
    minimum, maximum and mean as acquired, method.

  Raises:
    InputError: for NaN or infinite values (names the slice), a constant volume, a
      float volume far outside [0, 1], another dtype, or an unknown scale.
  """
  if scale not in SCALES:
    raise unknown('prep scale', scale, SCALES)
  if source.dtype.name not in _DTYPE_RANGE:
    raise InputError(str(source.path), got=f'dtype {source.dtype}',
                     expected=f'one of {", ".join(_DTYPE_RANGE)}',
                     remedy='convert the stack')
  row_means_y, low, high = _statistics(source)
  factor, offset = _scaling(source, scale, low, high)
  record = {
      'source': str(source.path), 'dtype': source.dtype.name,
      'shape': list(source.shape), 'earlier_steps': [
          step['name'] for step in source.attributes.get('preparation', {}).get(
              'steps', ())],
      'method': scale, 'gradient_removed': gradient,
      'scale': factor, 'offset': offset,
      'beta_per_px': fit_row_gradient(row_means_y * factor) if gradient else 0.0,
      'row_mean': (source.shape[1] - 1) / 2,
      'minimum': low, 'maximum': high, 'mean': float(row_means_y.mean())}
  with new_volume(out_path, source.shape, np.float32, source.voxel_size_zyx_nm,
                          fill_value=None,
                          attributes={'preprocessing': record}) as prepared:
    for start, stop in _shard_boxes(prepared):
      grey_zyx = read_box(source, start, stop)
      out_zyx = np.empty(grey_zyx.shape, np.float32)
      for z, grey_yx in enumerate(grey_zyx):  # keeps the float64 in between small
        out_zyx[z] = apply_record(grey_yx, record, first_row=start[1])
      write_box(prepared, start, out_zyx)
  return record


def _statistics(source):
  """Mean of each row [y], minimum and maximum of a volume, in one pass."""
  row_sums_y, low, high = np.zeros(source.shape[1]), np.inf, -np.inf
  for start, stop in _shard_boxes(source):
    sums_y = row_sums_y[start[1]:stop[1]]
    for z, grey_yx in enumerate(read_box(source, start, stop), start[0]):
      ends = float(grey_yx.min()), float(grey_yx.max())
      if not np.isfinite(ends).all():  # min and max carry NaN on
        raise InputError(f'{source.path} slice z={z}', got='NaN or infinite values',
                         expected='finite grey values',
                         remedy='repair or leave out the slice')
      sums_y += grey_yx.sum(1, dtype=np.float64)
      low, high = min(low, ends[0]), max(high, ends[1])
  if low == high:
    raise InputError(str(source.path), got=f'{low:g} in every voxel',
                     expected='an image with contrast',
                     remedy='check the stack that was imported')
  return row_sums_y / (source.shape[0] * source.shape[2]), low, high


def _scaling(source, scale, low, high) -> tuple[float, float]:
  """(factor, offset) of V * factor + offset."""
  if scale == 'minmax_volume':
    return 1 / (high - low), -low / (high - low)
  unscaled = low < _FLOAT_LIMITS[0] or high > _FLOAT_LIMITS[1]
  if source.dtype.kind == 'f' and unscaled:
    raise InputError(str(source.path), got=f'float values from {low:g} to {high:g}',
                     expected='about [0, 1], which the dtype scale leaves as they are',
                     remedy="use the scale 'minmax_volume'")
  return 1 / _DTYPE_RANGE[source.dtype.name], 0.0


def _shard_boxes(volume):
  return geometry.tile_boxes(volume.shape, shard_shape(volume))
