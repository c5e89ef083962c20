"""Statistics of a stack from one pass: grey values, and agreement of adjacent slices.

Slices are read once, in order; two are in memory at a time. Extremes and row and column
means use every pixel, quantiles a regular sub-sample, shifts the middle of the slices
at reduced resolution. findings.py judges the statistics. z counts from 0; a value of a
pair of slices is stored at the later one and is NaN elsewhere.

* Shift: the displacement of a slice's content against the slice before, from the peak
  of their cross-correlation (Guizar-Sicairos et al. 2008). Row and column means are
  subtracted first, since stripes and shadows stay in place while the content moves.
* Correlation: of the same two images after that shift.
* Stripes: column means are computed in bands of rows. Between bands that are not
  neighbours, column means of a random structure have no covariance, whereas stripes
  contribute their variance. Lines along x: the same with rows and columns exchanged.
"""
import hashlib
import math
from typing import NamedTuple

import numpy as np
import scipy.fft
from scipy import ndimage
from skimage.registration import phase_cross_correlation

_SAMPLE_PX = 2 ** 18      # pixels of a slice that grey values are taken from
_CODES = 16               # more distinct values are no labels
_VIEW_PX = 512            # side of the images that are compared
_FIELD_PX = 2048          # side of the central area that they show
_SMOOTH_VIEW_PX = 1.5     # without it, noise would hide the peak
_UPSAMPLE = 10            # shifts to a tenth of a pixel of these images
_GRID = 16                # cells of the coarse image along y and x
_CELL_PX = 32             # pixels of a cell along y and x that are sampled
_BANDS = 8                # of rows, for column means
_MIN_BAND_PX = 16         # about the width of a structure
_SMOOTH_PX = 61           # wider stripes count as shadow


class Statistics(NamedTuple):
  """Measurements of a stack.

  Attributes:
    grey_n: a sample of all finite grey values, in no border.
    low, high: the smallest and the largest finite grey value, borders left out.
    share_low, share_high: shares of the voxels that have these values.
    codes: value -> share, where at most 16 whole numbers occur; else None.
    brightness_z, spread_z: [z] upper quartile of each slice, which is solid mostly and
      so does not follow the porosity, and interquartile range.
    not_finite_z: [z] number of pixels of each slice that are NaN or infinite.
    constant_z: [z] bool, one value in the whole slice.
    repeats_z: [z] an earlier slice with the same pixels, or -1.
    border_zk: [z, 4] constant rows at the top and bottom, columns at left and right.
    shift_zk: [z, 2] displacement y, x against the slice before, px; NaN also where no
      displacement makes them more alike.
    correlation_z: [z] with the slice before, after that shift.
    field_px: shorter side of what shifts are measured on.
    coarse_yx: [16, 16] mean over z of the upper quartiles of cells of the image; less
      for small images.
    stripes: mean square of stripes along y (curtains), and the error of that; NaN
      where the stack is too small for it.
    lines: the same of lines along x.
  """
  grey_n: np.ndarray
  low: float
  high: float
  share_low: float
  share_high: float
  codes: dict[float, float] | None
  brightness_z: np.ndarray
  spread_z: np.ndarray
  not_finite_z: np.ndarray
  constant_z: np.ndarray
  repeats_z: np.ndarray
  border_zk: np.ndarray
  shift_zk: np.ndarray
  correlation_z: np.ndarray
  field_px: int
  coarse_yx: np.ndarray
  stripes: tuple[float, float]
  lines: tuple[float, float]


def measure(shape, read, sample_size: int = 2 ** 21) -> Statistics:
  """Measures a stack in one pass.

  Args:
    shape: z, y, x.
    read: z -> [y, x] grey values of any number type.
    sample_size: grey values to keep of the whole stack, at least 64 of each slice.

  Returns:
    Statistics.
  """
  n = shape[0]
  shift_zk, correlation_z = np.full((n, 2), np.nan), np.full(n, np.nan)
  repeats_z = np.full(n, -1)
  rows, hashes = [], {}
  coarse_yx, stripes, lines = [], [], []
  codes: dict | None = {}
  view, view_z = None, -1
  for z in range(n):
    slice_yx = np.ascontiguousarray(read(z))
    digest = hashlib.blake2b(slice_yx, digest_size=16).digest()
    repeats_z[z] = hashes.get(digest, -1)
    hashes[digest] = z
    codes = _count_codes(slice_yx, codes)
    row = _describe(slice_yx, max(64, sample_size // n))
    rows.append(row)
    if row.not_finite:
      slice_yx = np.where(np.isfinite(slice_yx), slice_yx, row.brightness)
    if row.is_constant:
      continue
    inner_yx = _without_border(slice_yx, row.border)
    coarse_yx.append(_cells(inner_yx))
    stripes.append(_gram(_bands(inner_yx)))
    lines.append(_gram(_bands(inner_yx.T)))
    latest = _view(np.clip(slice_yx, *row.limits))
    if view is not None:
      shift, correlation = _compare(view, latest)
      shift_zk[z] = np.multiply(shift, _step(shape))
      correlation_z[z] = correlation if view_z == z - 1 else np.nan
    view, view_z = latest, z
  return _collect(rows, codes, n * shape[1] * shape[2], repeats_z=repeats_z,
                  shift_zk=shift_zk, correlation_z=correlation_z,
                  field_px=min(*shape[1:], _FIELD_PX),
                  coarse_yx=_mean(coarse_yx), stripes=_covariance(stripes),
                  lines=_covariance(lines))


class _Row(NamedTuple):
  """Measurements of one slice; limits enclose 99 % of its grey values."""
  brightness: float
  spread: float
  limits: tuple[float, float]
  low: float
  high: float
  n_low: int
  n_high: int
  n: int
  not_finite: int
  is_constant: bool
  border: tuple[int, int, int, int]
  kept_n: np.ndarray


def _describe(slice_yx, keep: int) -> _Row:
  """Measures the grey values of one slice."""
  border = _border(slice_yx)
  inner_yx = _without_border(slice_yx, border)
  not_finite = 0
  if slice_yx.dtype.kind == 'f':
    not_finite = slice_yx.size - int(np.count_nonzero(np.isfinite(slice_yx)))
  finite = inner_yx[np.isfinite(inner_yx)] if not_finite else inner_yx
  if not finite.size:
    return _Row(math.nan, math.nan, (math.nan,) * 2, math.nan, math.nan, 0, 0, 0,
                not_finite, True, border, finite)
  low, high = finite.min(), finite.max()
  step = math.ceil(math.sqrt(inner_yx.size / _SAMPLE_PX))
  sample_n = inner_yx[step // 2::step, step // 2::step].ravel()
  if not_finite:
    sample_n = sample_n[np.isfinite(sample_n)]
  sample_n = sample_n if sample_n.size else finite
  least, quarter, three_quarters, most = np.percentile(sample_n, (0.5, 25, 75, 99.5))
  return _Row(
      three_quarters, three_quarters - quarter, (least, most), float(low), float(high),
      np.count_nonzero(finite == low), np.count_nonzero(finite == high), finite.size,
      not_finite, bool(low == high) and inner_yx.shape == slice_yx.shape, border,
      sample_n[::math.ceil(sample_n.size / keep)])


def _collect(rows, codes, n_voxels, **others) -> Statistics:
  low = np.fmin.reduce([row.low for row in rows], initial=np.inf)
  high = np.fmax.reduce([row.high for row in rows], initial=-np.inf)
  n = max(sum(row.n for row in rows), 1)
  column = {name: np.array([getattr(row, name) for row in rows])
            for name in ('brightness', 'spread', 'not_finite', 'is_constant', 'border')}
  return Statistics(
      grey_n=np.concatenate([row.kept_n for row in rows]),
      low=float(low), high=float(high),
      share_low=sum(row.n_low for row in rows if row.low == low) / n,
      share_high=sum(row.n_high for row in rows if row.high == high) / n,
      codes=codes and {code: codes[code] / n_voxels for code in sorted(codes)},
      brightness_z=column['brightness'], spread_z=column['spread'],
      not_finite_z=column['not_finite'], constant_z=column['is_constant'],
      border_zk=column['border'], **others)


def _count_codes(slice_yx, codes):
  """Adds the values of a slice to the counts; None once they cannot be label codes."""
  if codes is None:
    return None
  few_n = slice_yx.ravel()[:2 ** 12]
  if np.unique(few_n).size > _CODES or (few_n != np.round(few_n)).any():
    return None
  values, counts = np.unique(slice_yx, return_counts=True)
  if values.size > _CODES or (values != np.round(values)).any():
    return None
  for code, count in zip(values.tolist(), counts.tolist(), strict=True):
    codes[code] = codes.get(code, 0) + count
  return codes if len(codes) <= _CODES else None


def _border(slice_yx) -> tuple[int, int, int, int]:
  """Numbers of constant rows at top and bottom, and constant columns left and right."""
  first, last = slice_yx[0, 0], slice_yx[-1, -1]

  def count(lines, value):
    n = 0
    for line in lines:
      if (line != value).any():
        return n
      n += 1
    return n
  return (count(slice_yx, first), count(slice_yx[::-1], last),
          count(slice_yx.T, first), count(slice_yx.T[::-1], last))


def _without_border(slice_yx, border):
  """The slice inside its border; the whole slice where nothing is inside."""
  top, bottom, left, right = border
  inner_yx = slice_yx[top:slice_yx.shape[0] - bottom, left:slice_yx.shape[1] - right]
  return inner_yx if inner_yx.size else slice_yx


def _mean(arrays):
  """Mean of arrays; of those with the first one's shape where shapes differ."""
  same = [a for a in arrays if a.shape == arrays[0].shape]
  return np.mean(same, 0) if same else np.full((1, 1), math.nan)


def _cells(slice_yx):
  """[16, 16] upper quartiles of cells, from a sub-sample; fewer for a small slice."""
  counts = [min(_GRID, n) for n in slice_yx.shape]
  picked = []
  for n, cells in zip(slice_yx.shape, counts, strict=True):
    side = n // cells
    inside = np.arange(min(side, _CELL_PX)) * side // min(side, _CELL_PX)
    picked.append((np.arange(cells)[:, None] * side + inside).ravel())
  split = [size for cells, index in zip(counts, picked, strict=True)
           for size in (cells, index.size // cells)]
  return np.percentile(slice_yx[np.ix_(*picked)].reshape(split), 75, axis=(1, 3))


def _bands(slice_yx):
  """[bands, x] column means without their wide variation, or None."""
  bands = min(_BANDS, slice_yx.shape[0] // _MIN_BAND_PX)
  if bands < 4:
    return None
  height = slice_yx.shape[0] // bands
  means_bx = np.stack([slice_yx[b * height:(b + 1) * height].mean(0)
                       for b in range(bands)])
  means_bx -= ndimage.uniform_filter1d(means_bx, _SMOOTH_PX, axis=1, mode='reflect')
  # An edge of the sample through all bands must not count as a stripe.
  limit = 6 * np.median(np.abs(means_bx))
  return np.clip(means_bx, -limit, limit)


def _gram(means_bx):
  return None if means_bx is None else means_bx @ means_bx.T / means_bx.shape[1]


def _covariance(grams) -> tuple[float, float]:
  """Mean covariance of bands that are not neighbours, and its standard error."""
  grams = [gram for gram in grams if gram is not None]
  if not grams:
    return math.nan, math.nan
  gram_bb = _mean(grams)
  one, other = np.triu_indices(len(gram_bb), 2)
  far = gram_bb[one, other]
  return float(far.mean()), float(far.std(ddof=1) / math.sqrt(far.size))


def _step(shape) -> tuple[int, int]:
  """Pixels averaged into one of the images that are compared, along y and x."""
  return tuple(max(math.ceil(min(n, _FIELD_PX) / _VIEW_PX), 1 + (n >= 64))
               for n in shape[1:])


def _view(slice_yx):
  """The middle at reduced resolution, its rows and columns centred, and its FFT."""
  steps = _step((1, *slice_yx.shape))
  for axis, (n, step) in enumerate(zip(slice_yx.shape, steps, strict=True)):
    side = min(n, _FIELD_PX) // step * step
    first = (n - side) // 2
    inside = slice(first, first + side)
    if axis == 0:
      blocks = slice_yx[inside].reshape(side // step, step, -1)
    else:
      blocks = slice_yx[:, inside].reshape(len(slice_yx), -1, step)
    slice_yx = blocks.mean(1 + axis, dtype=np.float32)
  view_yx = ndimage.gaussian_filter(slice_yx, _SMOOTH_VIEW_PX)
  view_yx += view_yx.mean() - view_yx.mean(0) - view_yx.mean(1)[:, None]
  window = [np.hanning(n + 2)[1:-1].astype(np.float32) for n in view_yx.shape]
  return view_yx, scipy.fft.fft2(view_yx * np.outer(*window))


def _compare(before, after):
  """Displacement of the content from one image to the next, and their correlation."""
  if not (np.any(before[1]) and np.any(after[1])):
    return (math.nan, math.nan), math.nan
  shift, *_ = phase_cross_correlation(before[1], after[1], space='fourier',
                                      upsample_factor=_UPSAMPLE, normalization=None)
  moved, unmoved = -np.asarray(shift), np.zeros(2)
  correlation, in_place = (_correlate(before[0], after[0], d) for d in (moved, unmoved))
  if correlation < in_place:  # the peak was noise
    return (math.nan, math.nan), in_place
  return moved, correlation


def _correlate(before_yx, after_yx, moved) -> float:
  """Correlation of two images where they overlap after a displacement."""
  parts = []
  for image_yx, sign in ((before_yx, -1), (after_yx, 1)):
    cut = [slice(max(sign * d, 0), n + min(sign * d, 0)) for d, n in
           zip(np.rint(moved).astype(int).tolist(), image_yx.shape, strict=True)]
    part = image_yx[tuple(cut)]
    parts.append(part - part.mean())
  power = math.sqrt(float((parts[0] ** 2).sum()) * float((parts[1] ** 2).sum()))
  return float((parts[0] * parts[1]).sum()) / power if power > 0 else 0.0
