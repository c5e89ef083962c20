"""Physical quantities of a segmented volume with their error bars.

Three errors, independent of each other:

* segmentation: the quantities of plausible segmentations (plausible.py) scatter;
* bias: so do those whose calibration is drawn within its own error. And where a
  quantity has a counterpart in the plane (specific surface, pore size, chords), draws
  are compared with the labels of the annotated regions: their ratio corrects the
  quantity of the volume, and its jackknife over blocks of slices is part of this error.
  Diffusivity, connectivity and the Euler number have no such counterpart; their bias
  is what the draws carry over;
* sampling: a volume is a piece of a material. From boxes of an eighth and of a 27th of
  it, whose scatter falls with a power of the volume; for the porosity from its integral
  range (two_point.py).

The first two give the interval of this volume, all three that of the material.
Errors are added as in error_sums.py, those of the logarithm for quantities that are
above 0 in all draws. What is the same in all labels, an annotator's habit for example,
is in no interval.
"""
import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np

from fibjax.analysis import chords, physics, pore_size, two_point
from fibjax.analysis.error_sums import (
  add_errors,
  check_confidence,
  interval,
  jackknife_covariance,
)
from fibjax.analysis.phases import AXES, Size
from fibjax.analysis.plausible import (
  ErrorModel,
  ScoredRegion,
  draw_calibration,
  draw_labels,
)
from fibjax.analysis.specific_surface import surface_per_nm
from fibjax.errors import InputError

DRAWS = 24
MIN_DRAWS = 8
_PLANE_DRAWS = 6
_PLANE_STEPS = 20             # of the radii of the local thickness
_APART_NM = 1e6               # between regions, beyond all structures
_LEVELS = (2, 3)              # parts along each axis of the boxes
_EXPONENTS = (1 / 3, 1 / 2)   # of the decay of the scatter with the volume
_FRACTIONS = ('porosity', 'percolation.', 's2.')
_UNBOUNDED = ('euler_per_um3',)
_CLOSE = 1e-12

Numbers = dict[str, float | None]


def quantity_intervals(labels_zyx: np.ndarray, score_zyx: np.ndarray | None,
                       voxel_size_zyx_nm: Size, *, measured: dict | None = None,
                       model: ErrorModel | None = None,
                       regions: Sequence[ScoredRegion] = (),
                       clean: Callable[[np.ndarray], np.ndarray] = lambda zyx: zyx,
                       draws: int = DRAWS, confidence: float = 0.9, seed: int = 0,
                       flow_axes: str = AXES) -> dict:
  """Measures a box with the intervals of its quantities.

  Args:
    labels_zyx: [z, y, x] segmentation, 0 pore and 1 solid.
    score_zyx: [z, y, x] P(solid) of the same box, None for labels alone.
    voxel_size_zyx_nm: voxel size along z, y, x, nm.
    measured: result of `physics.analyse` for the labels; None measures what intervals
      are made for.
    model: how the scores err; None, as without scores, leaves the sampling part alone.
    regions: annotated regions of this volume, for the correction in the plane.
    clean: what follows the threshold in the segmentation: removal of small objects.
    draws: number of plausible segmentations, at least 8.
    confidence: coverage of the intervals, in (0, 1).
    seed: of the draws.
    flow_axes: axes along which diffusion is solved.

  Returns:
    JSON-able dict: confidence, draws (0 without a model), caveats (sentences), and
    quantities {path: {value, estimate, bias, low, high, material_low, material_high,
    sd: {segmentation, bias, sampling}, representative_nm}}, None where undefined.
    Paths are those of `physics.key_numbers`; representative_nm is the edge of a box
    whose sampling error is 5 %.

  Raises:
    InputError: for too few draws, another confidence, or as `physics.analyse`.
  """
  if draws < MIN_DRAWS:
    raise InputError('draws', got=draws, expected=f'at least {MIN_DRAWS}',
                     remedy=f'{DRAWS} is usual')
  check_confidence(confidence)
  values = (physics.numbers(measured) if measured is not None else
            physics.key_numbers(labels_zyx, voxel_size_zyx_nm, flow_axes))
  sampling = sampling_errors(labels_zyx, voxel_size_zyx_nm, values, flow_axes)
  drawn, corrections, caveats = [], {}, []
  if model is None or score_zyx is None:
    caveats.append('Labels alone: intervals hold the finite volume only, not the '
                   'errors of the segmentation.')
  else:
    rng = np.random.default_rng(seed)
    for _ in range(draws):
      calibration = draw_calibration(model, rng)
      plausible_zyx = clean(draw_labels(score_zyx, model, voxel_size_zyx_nm, rng,
                                        calibration))
      if 0 < plausible_zyx.mean() < 1:
        drawn.append((calibration, physics.key_numbers(
            plausible_zyx, voxel_size_zyx_nm, flow_axes)))
    corrections = plane_corrections(regions, model, voxel_size_zyx_nm, seed)
    caveats += _caveats(model, corrections)
  return {'confidence': confidence, 'draws': len(drawn), 'caveats': caveats,
          'quantities': {
              path: _interval(path, value, drawn, corrections, sampling.get(path),
                              model, confidence)
              for path, value in values.items() if path in sampling or drawn
              and path in drawn[0][1]}}


def _caveats(model: ErrorModel, corrections) -> list[str]:
  caveats = ['The Euler number and the connectivity have no counterpart in the plane '
             'of the regions: draws, rougher than a material, may shift them.']
  if model.df < 3:
    caveats.append(f'The annotated regions lie in {model.n_blocks} blocks of slices: '
                   'the error of the bias is hardly known.')
  if not model.z_measured:
    caveats.append('Errors are taken to be as long along z as in the plane (in nm): no '
                   'regions of near slices overlap.')
  if not corrections:
    caveats.append('No completely labelled region in this volume: only the porosity '
                   'was checked against labels.')
  return caveats


def _interval(path: str, value, drawn, corrections, sampling, model, confidence
              ) -> dict:
  """The entry of one quantity."""
  row = dict.fromkeys(('value', 'estimate', 'bias', 'low', 'high', 'material_low',
                       'material_high', 'representative_nm'))
  row |= {'value': value, 'sd': dict.fromkeys(('segmentation', 'bias', 'sampling'))}
  if value is None:
    return row
  defined = [(c, numbers[path]) for c, numbers in drawn
             if numbers.get(path) is not None]
  is_log = (not path.startswith(_FRACTIONS) and path not in _UNBOUNDED and value > 0
            and all(number > 0 for _, number in defined))
  scale = math.log if is_log else float
  errors, centre = [], scale(value)
  if len(defined) >= MIN_DRAWS:
    centre, segmentation, bias = _spread(
        np.array([c for c, _ in defined]), np.array([scale(n) for _, n in defined]),
        model.df)
    factor = corrections.get(path)
    if factor is not None and is_log:
      centre += factor[0]
      bias = add_errors([bias, factor[1:]])
    errors = [segmentation, bias]
    unit = math.exp(centre) if is_log else 1.0
    row['sd'] |= {'segmentation': segmentation[0] * unit, 'bias': bias[0] * unit}
    row['estimate'] = _inverse(centre, path, is_log)
    row['bias'] = value - row['estimate']
    row['low'], row['high'] = (
        _inverse(end, path, is_log)
        for end in interval(centre, add_errors(errors), confidence))
  if sampling is not None:
    sd, df, row['representative_nm'] = sampling
    row['sd']['sampling'] = sd
    own = sd / abs(value) if is_log else sd
    of_material = add_errors([*errors, (own, df)])
    row['material_low'], row['material_high'] = (
        _inverse(end, path, is_log)
        for end in interval(centre, of_material, confidence))
  return row


def _spread(calibrations_d2, values_d, df: int):
  """Mean of the draws, and (sd, df) of the parts of segmentation and bias.

  What a line through slope and offset explains is the error of the bias.
  """
  n = len(values_d)
  design_d3 = np.column_stack([np.ones(n), calibrations_d2 - calibrations_d2.mean(0)])
  fit, _, rank, _ = np.linalg.lstsq(design_d3, values_d, rcond=1e-10)
  fitted_d = design_d3 @ fit
  free = max(n - rank, 1)
  rest = ((values_d - fitted_d) ** 2).sum() / free
  explained = max(((fitted_d - fitted_d.mean()) ** 2).sum() - (rank - 1) * rest, 0) / (
      n - 1)
  # The mean of n draws has an error itself, sqrt(rest / n); it is added.
  return (float(values_d.mean()), (math.sqrt(rest * (1 + 1 / n)), free),
          (math.sqrt(explained), max(df, 1)))


def _inverse(number: float, path: str, is_log: bool) -> float:
  if is_log:
    return math.exp(min(number, 700))
  return float(np.clip(number, 0, 1)) if path.startswith(_FRACTIONS) else number


# --- Regions ------------------------------------------------------------------------

def plane_corrections(regions: Sequence[ScoredRegion], model: ErrorModel,
                      voxel_size_zyx_nm: Size, seed: int = 0
                      ) -> dict[str, tuple[float, float, float]]:
  """Compares draws with labels in the plane of the annotated regions.

  Args:
    regions: of one volume; those with unlabelled voxels are left out.
    model: how the scores err.
    voxel_size_zyx_nm: voxel size along z, y, x, nm.
    seed: of the draws.

  Returns:
    path of a quantity -> (log of labels / draws, its sd, df), by the ratio of pooled
    regions. Empty for regions in fewer than two blocks.
  """
  regions = [r for r in regions if (r.mask_yx <= 1).all()
             and min(r.mask_yx.shape) >= 3]
  if len({r.block for r in regions}) < 2:
    return {}
  # Regions of one shape are slices of a stack so thick that they know nothing of each
  # other: one distance map and one field serve all of them.
  apart = (_APART_NM, *voxel_size_zyx_nm[1:])
  regions = sorted(regions, key=lambda r: r.mask_yx.shape)
  blocks = np.array([r.block for r in regions])
  stacks = []
  for _, group in itertools.groupby(regions, lambda r: r.mask_yx.shape):
    masks, scores = zip(*((r.mask_yx, r.score_yx) for r in group), strict=True)
    stacks.append((np.stack(masks), np.stack(scores)))
  rng = np.random.default_rng((seed, 1))
  versions = [[mask_ryx for mask_ryx, _ in stacks]]
  for _ in range(_PLANE_DRAWS):
    versions.append([draw_labels(score_ryx, model, apart, rng)
                     for _, score_ryx in stacks])
  # Nothing bounds the pores of a region that lacks solid: it has no pore sizes.
  bounded = [np.all([labels_ryx.any((1, 2)) for labels_ryx in of_stack], 0)
             for of_stack in zip(*versions, strict=True)]
  labels, *drawn = [
      [row for labels_ryx, bounded_r in zip(version, bounded, strict=True)
       for row in _plane_sums(labels_ryx, apart, bounded_r)] for version in versions]

  def log_ratios(use):
    ours = _plane_numbers([row for row, keep in zip(labels, use, strict=True) if keep])
    theirs = [_plane_numbers([row for row, keep in zip(rows, use, strict=True) if keep])
              for rows in drawn]
    return {path: math.log(number) - float(np.mean([math.log(other[path])
                                                    for other in theirs]))
            for path, number in ours.items()
            if number and all(other.get(path) for other in theirs)}

  result = {}
  whole = log_ratios(np.ones(len(regions), bool))
  parts = [log_ratios(blocks != block) for block in np.unique(blocks)]
  for path, ratio in whole.items():
    left_out = [part[path] for part in parts if path in part]
    if len(left_out) > 1:
      sd = math.sqrt(jackknife_covariance(left_out).item())
      result[path] = ratio, sd, len(left_out) - 1
  return result


def _plane_sums(labels_ryx: np.ndarray, apart: Size, bounded_r) -> list[dict]:
  """What is summed over regions before it is divided, per region.

  Pore sizes are those of bounded regions alone.
  """
  thickness_ryx, step = np.zeros(labels_ryx.shape, np.float32), 0.0
  if bounded_r.any() and not labels_ryx[bounded_r].all():
    thickness_ryx[bounded_r], diameter_k = pore_size.local_thickness(
        labels_ryx[bounded_r], apart, _PLANE_STEPS)
    # Middles of the classes, as in `pore_size.mean_diameter`.
    step = diameter_k[1] - diameter_k[0] if len(diameter_k) > 1 else 0.0
  rows = []
  for labels_yx, thickness_yx in zip(labels_ryx, thickness_ryx, strict=True):
    sums = {'spacing': apart[1:],
            'thickness': thickness_yx[thickness_yx > 0] + step / 2}
    for axis, name in enumerate('yx'):
      lines = np.moveaxis(labels_yx, axis, 0)
      sums[f'differ_{name}'] = np.array([(lines[lag:] != lines[:-lag]).sum()
                                         for lag in (1, 2)])
      sums[f'pairs_{name}'] = np.array([lines[lag:].size for lag in (1, 2)])
    for phase in chords.PHASES:
      of_axis = chords.find_chords(labels_yx[None], apart, phase)
      sums |= {f'{phase}.{axis}': of_axis[axis] for axis in 'yx'}
    rows.append(sums)
  return rows


def _plane_numbers(rows) -> dict[str, float | None]:
  """Quantities of all regions together, by the path of their counterpart."""
  numbers = {}
  surfaces = []
  for axis, spacing in zip('yx', rows[0]['spacing'], strict=True):
    differ, pairs = (sum(row[f'{name}_{axis}'] for row in rows)
                     for name in ('differ', 'pairs'))
    surfaces.append(surface_per_nm(*differ / (2 * pairs), spacing))
    numbers[f'specific_surface.{axis}_per_um'] = surfaces[-1]
  # z has no lines in the plane: its correction is that of the plane.
  numbers['specific_surface.z_per_um'] = numbers['specific_surface.per_um'] = float(
      np.mean(surfaces))
  thickness = np.concatenate([row['thickness'] for row in rows])
  if thickness.size:
    quantiles = np.quantile(thickness, list(physics.QUANTILES.values()))
    numbers |= {f'pore_size.{name}': float(value) for name, value
                in zip(physics.QUANTILES, quantiles, strict=True)}
    numbers['pore_size.mean_nm'] = float(thickness.mean())
  for phase in chords.PHASES:
    for axis in 'yx':
      counts = [row[f'{phase}.{axis}'] for row in rows]
      numbers[f'chords.{phase}.{axis}'] = chords.mean_corrected(
          chords.pooled(counts))[0]
    both = [numbers[f'chords.{phase}.{axis}'] for axis in 'yx']
    numbers[f'chords.{phase}.z'] = math.sqrt(math.prod(both)) if all(both) else None
  return numbers


# --- The finite volume --------------------------------------------------------------

def sampling_errors(labels_zyx: np.ndarray, voxel_size_zyx_nm: Size, values: Numbers,
                    flow_axes: str = AXES
                    ) -> dict[str, tuple[float, float, float | None]]:
  """Estimates the scatter of volumes of this size, from boxes inside.

  The scatter of 8 and of 27 boxes is extrapolated to the whole volume by a power of the
  volume between 1/3 and 1/2 (1/2 without correlations over the size of the boxes), each
  level weighted by its number of boxes. That of the porosity is by its integral range
  (`two_point.sampling_sd`).

  Args:
    labels_zyx: [z, y, x] 0 pore and 1 solid.
    voxel_size_zyx_nm: voxel size along z, y, x, nm.
    values: `physics.numbers` of the whole volume.
    flow_axes: axes along which diffusion is solved.

  Returns:
    path -> (sd, df, edge in nm of a box with a relative error of 5 %, None without
    a value). Quantities that are undefined in some boxes are left out.
  """
  by_level = []
  for parts in _LEVELS:
    boxes = [labels_zyx[box] for box in _boxes(labels_zyx.shape, parts)]
    if min(boxes[0].shape) < 3 or any(np.ptp(box) == 0 for box in boxes):
      break
    by_level.append([physics.key_numbers(box, voxel_size_zyx_nm, flow_axes)
                     for box in boxes])
  edge = float(np.cbrt(labels_zyx.size * math.prod(voxel_size_zyx_nm)))
  result = {}
  for path, value in values.items():
    spread = [[row.get(path) for row in rows] for rows in by_level]
    spread = [np.array(row) for row in spread if None not in row]
    if path == 'porosity':
      porosity = two_point.sampling_sd(labels_zyx)
      sd, df, exponent = porosity.sd, porosity.df, 0.5
    elif value is None or not spread:
      continue
    else:
      sd, df, exponent = _extrapolate([len(row) for row in spread],
                                      [float(row.std(ddof=1)) for row in spread])
    needed = None
    if value and sd > 0:
      needed = edge * (sd / (0.05 * abs(value))) ** (1 / (3 * exponent))
    result[path] = sd, df, needed
  return result


def _boxes(shape, parts: int):
  """Boxes of one shape, so that the solver is compiled once; the rest is left out."""
  edges = [n // parts for n in shape]
  for i in np.ndindex(parts, parts, parts):
    yield tuple(slice(k * edge, (k + 1) * edge)
                for k, edge in zip(i, edges, strict=True))


def _extrapolate(counts, spreads) -> tuple[float, float, float]:
  """Scatter, df and exponent at the whole volume, from levels of `counts` boxes."""
  exponent = _EXPONENTS[1]
  if len(counts) > 1 and min(spreads) > _CLOSE:
    slope = math.log(spreads[1] / spreads[0]) / math.log(counts[1] / counts[0])
    exponent = float(np.clip(slope, *_EXPONENTS))
  weights = np.array(counts) - 1.0
  whole = [spread / count ** exponent
           for count, spread in zip(counts, spreads, strict=True)]
  return (math.sqrt(float(np.average(np.square(whole), weights=weights))),
          float(counts[0] - 1), exponent)
