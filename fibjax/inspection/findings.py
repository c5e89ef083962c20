"""Findings about a stack: rules on its statistics, each with a remedy.

A finding is {what, where, z, measured, severity, remedy}. `what` is one of a few fixed
phrases; `z` lists the slices concerned, from 0, and is empty when all are; `severity`
is 'error' (the stack cannot be used as it is), 'warning' (it costs quality) or 'note'
(good to know).

A slice is compared with the other slices: a value is unusual when it differs from those
around it by six robust standard deviations and also by more than a limit listed below.
So neither noise nor a very even stack raises a finding. Grey values are compared with
the contrast, the range of the grey values from 5 to 95 %.
"""
import math
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from fibjax.inspection.statistics import Statistics
from fibjax.metrics.labels import LABEL_CODES, PORE, SOLID

_SIGMAS = 6.0
_AROUND = 11              # number of slices that a slice is compared with
_SATURATED = 1e-3         # share of voxels at an extreme value
_OUTLIER = 3.0            # ranges (0.1 to 99.9 %) beyond the range
_SMALL_RANGE = 0.1        # of the dtype's range in use
_JUMP = 0.1               # of the contrast, from one slice to the next
_FLICKER = 0.02           # of the contrast, sd
_TREND = 0.2              # of the contrast, over the stack
_GRADIENT = 0.05          # of the contrast, over the image
_STRIPES = 0.01           # of the contrast, rms
# Structures change from slice to slice, which changes the statistics, less so in larger
# images: each limit is the larger of the first number and the second over the side of
# the image in px.
_UNLIKE = (0.25, 64.0)     # of atanh(correlation), below the usual
_ALIKE = (0.5, 128.0)      # above it
_SHIFT_PX = (4.0, 1000.0)  # px, of a single slice
_JITTER_PX = (0.5, 800.0)  # px, sd from slice to slice
_STEADY_PX = (0.5, 400.0)  # px per slice
_ERRORS = 5.0             # standard errors by which gradients or stripes differ from 0
_PIXELS_NM = (0.5, 2000.0)  # plausible voxel sizes


class Facts(NamedTuple):
  """Properties of a stack that do not depend on its pixels.

  Attributes:
    shape: z, y, x.
    dtype: of its values.
    voxel_size_zyx_nm: None per unknown axis.
    names: of the slices.
  """
  shape: tuple[int, int, int]
  dtype: np.dtype
  voxel_size_zyx_nm: tuple[float | None, ...]
  names: list[str]


def judge(stack: Statistics, facts: Facts, needs: dict | None) -> list[dict]:
  """Applies all rules; a label volume is not judged as an image.

  Args:
    stack: statistics of the stack.
    facts: properties of the same stack.
    needs: result of `inspect.estimate_needs`, or None.

  Returns:
    Findings, those of the whole stack first.
  """
  findings = [*_voxel_size(facts), *_needs(needs)]
  if read_labels(stack.codes):
    findings += _labels(stack)
  elif stack.grey_n.size and contrast_of(stack) > 0:
    findings += [*_range(stack, facts), *_brightness(stack, facts),
                 *_gradients(stack), *_stripes(stack)]
  if facts.shape[0] == 1:
    findings.append(_finding(
        'single slice', 'note', '1 slice',
        'train with --config.model.n_z=1: there are no other slices to see'))
  return findings + [*_pixels(stack, facts), *_order(stack, facts),
                     *_shifts(stack, facts)]


def read_labels(codes: dict | None) -> dict | None:
  """The codes of a label volume and the tables they fit; None for an image.

  Args:
    codes: value -> share, as in Statistics.

  Returns:
    None, or {codes: {code: share}, profiles: keys of LABEL_CODES}; a table fits when it
    has all codes and they include both pore and solid.
  """
  if not codes or len(codes) < 2:
    return None
  programs = [name for name, known in LABEL_CODES.items() if set(codes) <= set(known)
              and {PORE, SOLID} <= {known[code] for code in codes}]
  return {'codes': {f'{code:g}': share for code, share in codes.items()},
          'profiles': programs}


def contrast_of(stack: Statistics) -> float:
  """Range of the grey values from 5 to 95 %."""
  if not stack.grey_n.size:
    return 0.0
  low, high = np.percentile(stack.grey_n, (5, 95))
  return float(high) - float(low)


def shares_at_ends(stack: Statistics, dtype) -> tuple[float | None, float | None]:
  """Shares of the voxels at both ends of an integer type's range; None for floats."""
  if dtype.kind not in 'ui':
    return None, None
  ends = np.iinfo(dtype)
  return (stack.share_low if stack.low == ends.min else 0.0,
          stack.share_high if stack.high == ends.max else 0.0)


def gradients(stack: Statistics) -> tuple[tuple[float, float], tuple[float, float]]:
  """Change of brightness over the image along y and x, and its error, in grey values.

  A straight line is fitted in each of eight bands of the coarse image; the error comes
  from the scatter of their slopes. NaN where the image is too small.
  """
  return tuple(_change(coarse) for coarse in (stack.coarse_yx, stack.coarse_yx.T))


def _change(coarse_ab) -> tuple[float, float]:
  n, bands = coarse_ab.shape[0], coarse_ab.shape[1] // 2
  if n < 4 or bands < 4 or not np.isfinite(coarse_ab).all():
    return math.nan, math.nan
  mean_ab = coarse_ab[:, :2 * bands].reshape(n, bands, 2).mean(2)
  rows = np.arange(n) - (n - 1) / 2
  change_b = n * (rows @ mean_ab) / (rows @ rows)
  return float(change_b.mean()), float(change_b.std(ddof=1) / math.sqrt(bands))


def _finding(what, severity, measured, remedy, where='the whole stack', z=()) -> dict:
  return {'what': what, 'where': where, 'z': [int(k) for k in z], 'measured': measured,
          'severity': severity, 'remedy': remedy}


def _at_slices(what, severity, measured, remedy, z, facts) -> list[dict]:
  """One finding for the slices z; none where z is empty."""
  if not len(z):
    return []
  shown = ', '.join(map(str, z[:6])) + (', ...' if len(z) > 6 else '')
  return [_finding(what, severity, measured, remedy,
                   f'z = {shown} ({facts.names[z[0]]})', z)]


def _percent(share: float) -> str:
  return f'{100 * share:.3g} %'


def _unusual(values_n, limit: float, sign: int = 0) -> np.ndarray:
  """Indices of values far from the median of those around them.

  Args:
    values_n: NaN where unknown.
    limit: smallest difference that counts.
    sign: 1 for values above only, -1 for below, 0 for both.
  """
  known = np.flatnonzero(np.isfinite(values_n))
  if not known.size:
    return known
  values = values_n[known]
  around = ndimage.median_filter(values, min(_AROUND, len(values)), mode='nearest')
  away = values - around
  sd = 1.4826 * np.median(np.abs(away - np.median(away)))
  far = sign * away if sign else np.abs(away)
  return known[far > max(_SIGMAS * sd, limit)]


def _limit(limits, stack: Statistics) -> float:
  """The larger of the first limit and the second over the side of the image."""
  return max(limits[0], limits[1] / stack.field_px)


def _voxel_size(facts: Facts):
  size = facts.voxel_size_zyx_nm
  if None in size:
    yield _finding('unknown voxel size', 'warning', f'z, y, x: {size} nm',
                   'give --voxel_size_nm=Z,Y,X to fibjax import')
    return
  if min(size) < _PIXELS_NM[0] or max(size) > _PIXELS_NM[1]:
    yield _finding('implausible voxel size', 'warning', f'z, y, x: {size} nm',
                   'check the unit and give --voxel_size_nm=Z,Y,X to fibjax import')
  if abs(size[1] - size[2]) > 0.01 * size[2]:
    yield _finding('pixels not square', 'note', f'{size[1]:g} x {size[2]:g} nm',
                   'check the tilt correction; resample the slices, or give the right '
                   '--voxel_size_nm to fibjax import')


def _needs(needs):
  if needs is None:
    return
  if needs['disk_total_bytes'] > needs['disk_free_bytes']:
    yield _finding('not enough disk', 'warning',
                   f'{needs["disk_total_bytes"] / 1e9:.1f} GB needed, '
                   f'{needs["disk_free_bytes"] / 1e9:.1f} GB free',
                   'free some, choose another --workdir, or crop the stack')
  if needs['memory_here_gb'] and needs['memory_gb'] > needs['memory_here_gb']:
    yield _finding('not enough memory', 'warning',
                   f'{needs["memory_gb"]:.1f} GB needed, '
                   f'{needs["memory_here_gb"]:.1f} GB here', 'lower --memory_gb')


def _labels(stack: Statistics):
  labels = read_labels(stack.codes)
  profiles = labels['profiles']
  codes = ', '.join(f'{code} ({_percent(share)})'
                    for code, share in labels['codes'].items())
  fits = (f'fits --profile={" or ".join(profiles)}' if profiles else 'fits no known '
          'label codes: recode it, e.g. to 0 pore, 1 solid')
  yield _finding('label volume', 'note', f'codes {codes}',
                 f'use it as labels, not as an image; it {fits}')


def _range(stack: Statistics, facts: Facts):
  for side, value, share in (('dark', stack.low, stack.share_low),
                             ('bright', stack.high, stack.share_high)):
    if share > _SATURATED:
      yield _finding(f'saturated {side}', 'warning', f'{_percent(share)} of the voxels '
                     f'at {value:g}', 'clipped values are lost: keep annotated regions '
                     'away from them, and lower the contrast at the microscope next '
                     'time')
  low, high = (float(v) for v in np.percentile(stack.grey_n, (0.1, 99.9)))
  beyond = max(low - stack.low, stack.high - high)
  if beyond > _OUTLIER * (high - low):
    yield _finding('outliers', 'warning', f'{stack.low:g} to {stack.high:g}, but 99.8 '
                   f'% within {low:g} to {high:g}', 'remove them (Fiji: Process > '
                   'Noise > Remove Outliers): they would set --config.prepare.scale='
                   'minmax_volume')
  if facts.dtype.kind == 'f' and (low < -0.5 or high > 1.5):
    yield _finding('grey values outside 0 to 1', 'note', f'{low:g} to {high:g}',
                   'run with --config.prepare.scale=minmax_volume')
  elif (facts.dtype.kind in 'ui'
        and high - low < _SMALL_RANGE * np.iinfo(facts.dtype).max):
    yield _finding('small range', 'note', f'{low:g} to {high:g} of {facts.dtype}',
                   'run with --config.prepare.scale=minmax_volume')


def _brightness(stack: Statistics, facts: Facts):
  """Jumps, flicker and trend of the slices' brightness."""
  contrast = contrast_of(stack)
  seen = np.flatnonzero(~stack.constant_z & np.isfinite(stack.brightness_z))
  values = stack.brightness_z[seen]
  if len(values) < 2:
    return
  steps = np.diff(values)
  jumps = seen[1:][_unusual(steps, _JUMP * contrast)]
  largest = max(abs(steps), default=0) / contrast
  yield from _at_slices(
      'brightness jump', 'warning', f'up to {_percent(largest)} of the contrast from '
      'one slice to the next', 'match the brightness of the slices: fibjax prep, step '
      'brightness', jumps, facts)
  sd = 1.4826 * float(np.median(np.abs(steps - np.median(steps)))) / math.sqrt(2)
  if sd > _FLICKER * contrast:
    yield _finding('flickering brightness', 'note', f'{_percent(sd / contrast)} of the '
                   'contrast (sd)', 'match the brightness of the slices: fibjax prep, '
                   'step brightness')
  if len(values) >= 4:
    smooth = np.poly1d(np.polyfit(seen, values, 1))(seen[[0, -1]])
    change = abs(smooth[1] - smooth[0]) / contrast
    if change > _TREND and not len(jumps):
      yield _finding('brightness changes along z', 'note', f'{_percent(change)} of the '
                     'contrast over the stack', 'match the brightness of the slices: '
                     'fibjax prep, step brightness; annotate regions at all depths')


def _gradients(stack: Statistics):
  contrast = contrast_of(stack)
  for axis, (change, error) in zip('yx', gradients(stack), strict=True):
    if abs(change) > max(_GRADIENT * contrast, _ERRORS * error):
      remedy = ('fibjax run takes it out (config.prepare.gradient, on by default)'
                if axis == 'y' else 'normalise locally: fibjax prep, step normalise')
      yield _finding(f'gradient along {axis}', 'note', f'{_percent(change / contrast)} '
                     'of the contrast over the image', remedy)


def _stripes(stack: Statistics):
  contrast = contrast_of(stack)
  for what, (square, error), remedy in (
      ('stripes along y', stack.stripes, 'remove curtains: fibjax prep, step destripe'),
      ('lines along x', stack.lines, 'destriping works along y: turn the slices by 90 '
       'degrees for fibjax prep, step destripe, and back; or scan slower next time')):
    if square > max((_STRIPES * contrast) ** 2, _ERRORS * error):
      yield _finding(what, 'warning', f'{_percent(math.sqrt(square) / contrast)} of '
                     'the contrast (rms)', remedy)


def _pixels(stack: Statistics, facts: Facts):
  """Slices without an image, and borders of slices without one."""
  bad = np.flatnonzero(stack.not_finite_z)
  yield from _at_slices(
      'values not finite', 'error', f'{stack.not_finite_z.sum()} voxels are NaN or inf',
      'repair them or leave the slices out; fibjax import refuses them', bad, facts)
  blank = np.flatnonzero(stack.constant_z & (stack.not_finite_z == 0))
  yield from _at_slices(
      'constant slice', 'error', f'{len(blank)} slices of one value',
      'restore the lost slices, or cut the stack there', blank, facts)
  border = stack.border_zk[~stack.constant_z].max(0, initial=0)
  if border.any() and read_labels(stack.codes) is None:
    sides = ', '.join(f'{n} px {side}' for n, side in zip(
        border.tolist(), ('top', 'bottom', 'left', 'right'), strict=True) if n)
    yield _finding('constant border', 'warning', sides,
                   'crop the slices to the area that all of them show')


def _order(stack: Statistics, facts: Facts):
  """Slices that occur twice, and gaps where slices are missing."""
  same, alike, unlike = _order_of(stack)
  of = ', '.join(f'{z} is {stack.repeats_z[z]}' for z in same[:6])
  yield from _at_slices('repeated slice', 'error', f'the same pixels: {of}',
                        'put the right slices there, or delete the copies and renumber',
                        same, facts)
  yield from _at_slices(
      'nearly repeated slice', 'warning', 'correlation with the slice before '
      f'{_shown(stack.correlation_z, alike)}, usually {_usual(stack)}',
      'nothing was cut between them: delete one and renumber', alike, facts)
  yield from _at_slices(
      'jump between slices', 'warning', 'correlation with the slice before '
      f'{_shown(stack.correlation_z, unlike)}, usually {_usual(stack)}',
      'slices are missing or a cut was thicker: look for them in the raw data, or cut '
      'the stack there', unlike, facts)


def _order_of(stack: Statistics):
  """Slices that repeat another, are too similar to the one before, or too different."""
  same = np.flatnonzero((stack.repeats_z >= 0) & ~stack.constant_z)
  likeness = np.arctanh(np.clip(stack.correlation_z, -0.9999, 0.9999))
  likeness[same] = np.nan
  alike = _unusual(likeness, _limit(_ALIKE, stack), 1)
  unlike = np.setdiff1d(_unusual(likeness, _limit(_UNLIKE, stack), -1),
                        _after(same, alike))
  return same, alike, unlike


def _after(same, alike):
  """Slices after a repeated one: if that replaced another, two cuts lie between."""
  return np.union1d(same, alike) + 1


def _shown(values_z, z) -> str:
  return ', '.join(f'{values_z[k]:.2f}' for k in z[:6])


def _usual(stack: Statistics) -> str:
  known = stack.correlation_z[np.isfinite(stack.correlation_z)]
  return f'{np.median(known):.2f}' if known.size else 'unknown'


def _shifts(stack: Statistics, facts: Facts):
  """Slices that are shifted against the others, jitter, and steady drift."""
  moved = np.flatnonzero(np.isfinite(stack.shift_zk).all(1))
  if not moved.size:
    return
  shift_nk = stack.shift_zk[moved]
  same, alike, unlike = _order_of(stack)
  jumps = np.unique(np.concatenate(
      [moved[_unusual(shift_nk[:, k], _limit(_SHIFT_PX, stack))] for k in range(2)]))
  jumps = np.setdiff1d(jumps, np.union1d(_after(same, alike), unlike))
  align = 'align the slices: fibjax prep, step align'
  largest = float(np.abs(shift_nk).max())
  yield from _at_slices('shifted slice', 'warning', f'by up to {largest:.1f} px '
                        'against the slice before', align, jumps, facts)
  if len(moved) < 4:
    return
  steady_nk = shift_nk[~np.isin(moved, jumps)]
  middle_k = np.median(steady_nk, 0)
  sd_k = 1.4826 * np.median(np.abs(steady_nk - middle_k), 0)
  if sd_k.max() > _limit(_JITTER_PX, stack):
    yield _finding('slices not aligned', 'warning', f'{sd_k[0]:.1f} px along y and '
                   f'{sd_k[1]:.1f} px along x from slice to slice (sd)', align)
  if np.abs(middle_k).max() > _limit(_STEADY_PX, stack):
    yield _finding('steady drift', 'note', f'{middle_k[0]:.1f} px along y and '
                   f'{middle_k[1]:.1f} px along x per slice', 'the backs of pores move '
                   'like this without any drift, too: look at the cuts, and if '
                   f'straight edges lean, {align}')
