"""Do the intervals of a porosity hold what they promise? An experiment on films.

Films of one material are made with known truth. Each is segmented by every member of
an ensemble; its systematic error is learnt from regions of other films, never from
itself; and its interval is compared with the film's own porosity and with that of the
material, which no film has exactly.
"""
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from scipy import stats

from fibjax.analysis import two_point, uncertainty
from fibjax.errors import InputError
from fibjax.simulation.artefacts import Artefacts
from fibjax.simulation.films import Film, FilmPreset, find_preset, simulate_film
from fibjax.system import progress

# image uint16 [z, y, x] -> scores [m, z, y, x] of the members, P(solid) or labels.
Segment = Callable[[np.ndarray], np.ndarray]
# seed -> film
MakeFilm = Callable[[int], Film]


def free_films(preset: str | FilmPreset, shape_zyx: tuple[int, int, int], *,
               artefacts: str | Artefacts = 'mild', shine_through: float = 1.0,
               slow_amplitude: float | None = None) -> tuple[MakeFilm, float]:
  """Makes a maker of films whose porosities scatter about that of the material.

  match_porosity is off, and porosity_trend too: the two-point function knows only
  stationary media.

  Args:
    preset: a name of films.PRESETS or a FilmPreset.
    shape_zyx: slices, rows, columns.
    artefacts: as `films.simulate_film`.
    shine_through: as `films.simulate_film`.
    slow_amplitude: of the field that makes porosity drift over some micrometres;
      None keeps the preset's. A film that does not span that field (200 px, 2
      micrometres) many times cannot see how much it is moved: only
      `material_between` then covers the material. 0 removes it.

  Returns:
    The maker, and the porosity of the material.
  """
  preset = find_preset(preset)
  geometry = replace(preset.geometry, match_porosity=False, porosity_trend=0.0)
  if slow_amplitude is not None:
    geometry = replace(geometry, slow_amplitude=slow_amplitude)
  free = replace(preset, geometry=geometry)

  def make_film(seed: int) -> Film:
    return simulate_film(free, shape_zyx, seed, artefacts=artefacts,
                         shine_through=shine_through)

  return make_film, geometry.porosity


def coverage_experiment(segment: Segment, make_film: MakeFilm, porosity: float, *,
                        seed: int, n_films: int = 40, n_validation: int = 8,
                        n_regions: int = 6, region_px: int = 64,
                        threshold: float | None = 0.5, confidence: float = 0.9,
                        n_resamples: int = 2000) -> dict:
  """Counts how often the intervals cover the film's and the material's porosity.

  Every film is segmented once. For its interval the bias is taken from the regions
  of n_validation films drawn for it at random from the others (one set for all would
  make all films fail together). They still share films, so that the Clopper-Pearson
  limits are somewhat too narrow, most so for the material: compare true_mean.

  Args:
    segment: image [z, y, x] -> [m, z, y, x] P(solid) of each member. Post-processing
      belongs in there: it may return 0/1 labels.
    make_film: seed -> film; is called with seed, seed + 1, ...
    porosity: of the material.
    seed: of the films, regions and choices.
    n_films: number of films.
    n_validation: films whose regions give the bias, 2 to n_films - 1.
    n_regions: square regions per film, each in a random slice; may overlap.
    region_px: their side, cut to the slice.
    threshold: pore where the score is not greater; None takes mean(1 - p).
    confidence: nominal coverage.
    n_resamples: of the bootstrap over films.

  Returns:
    JSON-able dict: the settings; volume, material (sampling from the film's own
      two-point function) and material_between (from the spread of the validation
      films), each {covered, low, high (95 % Clopper-Pearson), mean_width}; rms_error
      of the estimates from the films' truth, and rms_error_automatic without the
      bias correction; true_mean and true_sd (of the films' porosities), and
      sampling_sd (root mean square of its estimates); resolved (fraction of films);
      films, one row each: seed, truth, automatic, estimate, bias, <target>_low,
      <target>_high, sd_members, sd_bias, sd_sampling, sd_between, resolved.

  Raises:
    InputError: for too few films.
  """
  if not 2 <= n_validation < n_films:
    raise InputError('n_validation', got=f'{n_validation} of {n_films} films',
                     expected='at least 2, and fewer than the films',
                     remedy='make more films')
  names = [seed + k for k in range(n_films)]
  found = [measure_film(segment, make_film(name), (name, 1), n_regions=n_regions,
                        region_px=region_px, threshold=threshold)
           for name in progress.track(names, 'coverage', 'film', n_films)]
  rows = []
  for k, name in enumerate(names):
    others = np.delete(np.arange(n_films), k)
    chosen = np.random.default_rng((name, 2)).choice(others, n_validation, False)
    bias = uncertainty.region_bias(
        np.concatenate([found[j]['manual_r'] for j in chosen]),
        np.concatenate([found[j]['automatic_mr'] for j in chosen], 1), name,
        groups_r=np.repeat(chosen, n_regions), n_resamples=n_resamples)
    between = two_point.sampling_between(
        [found[j]['members_m'].mean() for j in chosen])
    alone = uncertainty.porosity_interval(
        found[k]['members_m'], bias, found[k]['sampling'], new_volume=True,
        confidence=confidence)
    # The spread between films holds that of their biases and members: of the bias
    # only the error of its mean is left.
    among = uncertainty.porosity_interval(
        [found[k]['members_m'].mean()], bias._replace(members_m=np.array([bias.mean])),
        between, confidence=confidence)
    rows.append(_row(name, found[k]['truth'], alone, among))
  return {'porosity': porosity, 'confidence': confidence, 'seed': seed,
          'n_films': n_films, 'n_validation': n_validation, 'n_regions': n_regions,
          'region_px': region_px, 'threshold': threshold,
          'n_members': int(found[0]['members_m'].size), **_summary(rows, porosity)}


def measure_film(segment: Segment, film: Film, seed, *, n_regions: int, region_px: int,
                 threshold: float | None) -> dict:
  """Segments a film and measures what its interval, and those of others, need.

  Args:
    segment: see `coverage_experiment`.
    film: image and truth.
    seed: of the regions.
    n_regions: number of square regions.
    region_px: their side, cut to the slice.
    threshold: see `uncertainty.member_porosities`.

  Returns:
    truth, members_m, sampling (of the mean member's segmentation, as a user has no
    truth), manual_r and automatic_mr of the regions.
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


def _row(seed: int, truth: float, interval: dict, among: dict) -> dict:
  targets = {'volume': interval['volume'], 'material': interval['material'],
             'material_between': among['material']}
  ends = {f'{target}_{end}': found[end]
          for target, found in targets.items() for end in ('low', 'high')}
  return {'seed': seed, 'truth': truth,
          **{name: interval[name] for name in ('automatic', 'estimate', 'bias')},
          **ends, **{f'sd_{name}': sd for name, sd in interval['sd'].items()},
          'sd_between': among['sd']['sampling'], 'resolved': interval['resolved']}


def _summary(rows: list[dict], porosity: float) -> dict:
  column = {name: np.array([row[name] if row[name] is not None else math.nan
                            for row in rows], float) for name in rows[0]}
  truth = column['truth']

  def target(name, true):
    low, high = column[f'{name}_low'], column[f'{name}_high']
    hits = int(((low <= true) & (true <= high)).sum())
    ends = stats.binomtest(hits, len(rows)).proportion_ci(0.95)
    return {'covered': hits / len(rows), 'low': float(ends.low),
            'high': float(ends.high), 'mean_width': float((high - low).mean())}

  return {'volume': target('volume', truth), 'material': target('material', porosity),
          'material_between': target('material_between', porosity),
          'rms_error': _rms(column['estimate'] - truth),
          'rms_error_automatic': _rms(column['automatic'] - truth),
          'true_mean': float(truth.mean()), 'true_sd': float(truth.std(ddof=1)),
          'sampling_sd': _rms(column['sd_sampling']),
          'resolved': float(column['resolved'].mean()), 'films': rows}


def _rms(values) -> float:
  return float(np.sqrt(np.mean(np.square(values))))
