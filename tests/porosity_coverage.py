"""Coverage experiment for the porosity intervals of uncertainty.py (§8.8).

Films of one material are simulated with known truth. Each is segmented by every member
of an ensemble. Its systematic error is estimated from regions of other films, never
from itself, and its interval is compared with the porosity of the film and with that of
the material, about which the porosities of films scatter.
"""
import math
from collections.abc import Callable

import numpy as np
from scipy import stats

from fibjax.analysis import two_point, uncertainty
from fibjax.errors import InputError
from fibjax.simulation.films import Film
from fibjax.system import progress

# Image uint16 [z, y, x] -> scores [m, z, y, x] of the members, P(solid) or labels.
Segment = Callable[[np.ndarray], np.ndarray]
# Seed -> film.
MakeFilm = Callable[[int], Film]


def coverage_experiment(segment: Segment, make_film: MakeFilm, porosity: float, *,
                        seed: int, n_films: int = 40, n_validation: int = 8,
                        n_regions: int = 6, region_px: int = 64,
                        threshold: float | None = 0.5, confidence: float = 0.9,
                        n_resamples: int = 2000) -> dict:
  """Counts how often the intervals cover the film's and the material's porosity.

  Every film is segmented once. The bias for its interval is estimated from the regions
  of n_validation films drawn at random from the others. A single set for all films
  would make all of them fail together; as drawn, the sets still have films in common,
  so that the Clopper-Pearson limits are somewhat too narrow, most of all for the
  material (compare true_mean with porosity).

  Args:
    segment: image [z, y, x] -> [m, z, y, x] P(solid) of each member, or 0/1 labels if
      it includes post-processing.
    make_film: seed -> film; called with seed, seed + 1, ...
    porosity: porosity of the material.
    seed: seed of the films, of the regions and of the validation films drawn.
    n_films: number of films.
    n_validation: number of films whose regions give the bias, 2 to n_films - 1.
    n_regions: square regions per film, each in a random slice; may overlap.
    region_px: side of a region, limited by the slice.
    threshold: pore where the score is not greater; None takes mean(1 - p).
    confidence: nominal coverage.
    n_resamples: number of resamples of the bootstrap over films.

  Returns:
    JSON-able dict: the settings; volume, material (sampling error from the two-point
      function of the film itself) and material_between (from the spread of the
      validation films), each {covered, low, high (95 % Clopper-Pearson), mean_width};
      rms_error of the estimates relative to the truth of the films, and
      rms_error_automatic without the bias correction; true_mean and true_sd (of the
      porosities of the films), and sampling_sd (root mean square of its estimates);
      resolved (fraction of films); films, one row each: seed, truth, automatic,
      estimate, bias, <target>_low, <target>_high, sd_members, sd_bias, sd_sampling,
      sd_between, resolved.

  Raises:
    InputError: for too few films.
  """
  if not 2 <= n_validation < n_films:
    raise InputError('n_validation', got=f'{n_validation} of {n_films} films',
                     expected='at least 2, and fewer than the films',
                     remedy='simulate more films')
  film_seeds = [seed + k for k in range(n_films)]
  measured = [measure_film(segment, make_film(film_seed), (film_seed, 1),
                           n_regions=n_regions, region_px=region_px,
                           threshold=threshold)
              for film_seed in progress.track(film_seeds, 'coverage', 'film', n_films)]
  rows = []
  for k, film_seed in enumerate(film_seeds):
    others = np.delete(np.arange(n_films), k)
    chosen = np.random.default_rng((film_seed, 2)).choice(others, n_validation, False)
    bias = uncertainty.region_bias(
        np.concatenate([measured[j]['manual_r'] for j in chosen]),
        np.concatenate([measured[j]['automatic_mr'] for j in chosen], 1), film_seed,
        groups_r=np.repeat(chosen, n_regions), n_resamples=n_resamples)
    intervals = _intervals(measured[k], [measured[j] for j in chosen], bias, confidence)
    rows.append(_row(film_seed, measured[k]['truth'], *intervals))
  return {'porosity': porosity, 'confidence': confidence, 'seed': seed,
          'n_films': n_films, 'n_validation': n_validation, 'n_regions': n_regions,
          'region_px': region_px, 'threshold': threshold,
          'n_members': int(measured[0]['members_m'].size), **_summary(rows, porosity)}


def measure_film(segment: Segment, film: Film, seed, *, n_regions: int, region_px: int,
                 threshold: float | None) -> dict:
  """Segments a film and measures what its interval and those of other films need.

  Args:
    segment: see `coverage_experiment`.
    film: image and truth.
    seed: seed of the regions.
    n_regions: number of square regions.
    region_px: side of a region, limited by the slice.
    threshold: see `uncertainty.member_porosities`.

  Returns:
    dict: truth, the porosity of the film; members_m, that of each member; sampling, the
    sampling error (from the segmentation by the mean score, since a user has no truth);
    manual_r and automatic_mr, the porosities of the regions.

  Raises:
    InputError: when segment returns scores of another shape.
  """
  scores_mzyx = np.asarray(segment(film.image_zyx))
  if scores_mzyx.ndim != 4 or scores_mzyx.shape[1:] != film.truth_zyx.shape:
    raise InputError('segment', got=f'scores of shape {scores_mzyx.shape}',
                     expected=f'(members, {film.truth_zyx.shape})',
                     remedy='return one score per voxel and member')
  rng = np.random.default_rng(seed)
  size = [min(region_px, n) for n in film.truth_zyx.shape[1:]]
  corners_r3 = rng.integers(0, [film.truth_zyx.shape[0], *(
      n - s + 1 for n, s in zip(film.truth_zyx.shape[1:], size, strict=True))],
      (n_regions, 3))
  boxes = [np.s_[z, y:y + size[0], x:x + size[1]] for z, y, x in corners_r3]
  labels_zyx = scores_mzyx.mean(0) > (0.5 if threshold is None else threshold)
  return {
      'truth': float(np.mean(film.truth_zyx == 0)),
      'members_m': uncertainty.member_porosities(scores_mzyx, threshold),
      'sampling': two_point.sampling_sd(labels_zyx),
      'manual_r': np.array([np.mean(film.truth_zyx[box] == 0) for box in boxes]),
      'automatic_mr': np.stack([uncertainty.member_porosities(
          scores_mzyx[(slice(None), *box)], threshold) for box in boxes], 1)}


def _intervals(film: dict, validation_films: list[dict], bias,
               confidence: float) -> tuple[dict, dict]:
  """Intervals of a film with the sampling error by itself and by the other films."""
  interval = uncertainty.porosity_interval(
      film['members_m'], bias, film['sampling'], new_volume=True,
      confidence=confidence)
  # The spread between films includes those of their biases and of their members. These
  # must not be counted twice: only the error of the mean bias is added.
  between_films = two_point.sampling_between(
      [other['members_m'].mean() for other in validation_films])
  interval_between = uncertainty.porosity_interval(
      [film['members_m'].mean()], bias._replace(members_m=np.array([bias.mean])),
      between_films, confidence=confidence)
  return interval, interval_between


def _row(seed: int, truth: float, interval: dict, interval_between: dict) -> dict:
  """The row of a film in the result."""
  targets = {'volume': interval['volume'], 'material': interval['material'],
             'material_between': interval_between['material']}
  ends = {f'{target}_{end}': limits[end]
          for target, limits in targets.items() for end in ('low', 'high')}
  return {'seed': seed, 'truth': truth,
          **{name: interval[name] for name in ('automatic', 'estimate', 'bias')},
          **ends, **{f'sd_{name}': sd for name, sd in interval['sd'].items()},
          'sd_between': interval_between['sd']['sampling'],
          'resolved': interval['resolved']}


def _summary(rows: list[dict], porosity: float) -> dict:
  """Coverage of the targets, errors, and the rows."""
  column = {name: np.array([row[name] if row[name] is not None else math.nan
                            for row in rows], float) for name in rows[0]}
  truth = column['truth']

  def coverage(target, true):
    low, high = column[f'{target}_low'], column[f'{target}_high']
    hits = int(((low <= true) & (true <= high)).sum())
    limits = stats.binomtest(hits, len(rows)).proportion_ci(0.95)
    return {'covered': hits / len(rows), 'low': float(limits.low),
            'high': float(limits.high), 'mean_width': float((high - low).mean())}

  return {'volume': coverage('volume', truth),
          'material': coverage('material', porosity),
          'material_between': coverage('material_between', porosity),
          'rms_error': _rms(column['estimate'] - truth),
          'rms_error_automatic': _rms(column['automatic'] - truth),
          'true_mean': float(truth.mean()), 'true_sd': float(truth.std(ddof=1)),
          'sampling_sd': _rms(column['sd_sampling']),
          'resolved': float(column['resolved'].mean()), 'films': rows}


def _rms(values) -> float:
  return float(np.sqrt(np.mean(np.square(values))))
