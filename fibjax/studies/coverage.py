"""How often the intervals of physical quantities hold, on simulated films.

Films of several materials are made with known truth, and scored by an ensemble that saw
none of them. Each has annotated regions as a user would have them: squares in a few
slices, from which the threshold is chosen, the error model learnt and the intervals
made, exactly as in a run. Counted is how often an interval holds the quantity of the
truth in the same box; and beside it the same for the naive interval, a t of the spread
between the members of the ensemble.

Finished films are kept in the result file: the same call resumes.
"""
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import stats

from fibjax.analysis import intervals, physics
from fibjax.analysis.plausible import ScoredRegion, fit_error_model
from fibjax.errors import InputError
from fibjax.inference import tuning
from fibjax.inference.postprocess import RegionScore
from fibjax.inference.score import Scorer, score_array
from fibjax.inference.segment import Postprocessing, clean_array, segment_array
from fibjax.preparation import scaling
from fibjax.simulation.artefacts import Artefacts
from fibjax.simulation.films import Film, FilmPreset, find_preset, simulate_film
from fibjax.system import cluster, files, progress
from fibjax.system.cluster import HERE, Resources

MakeFilm = Callable[[int], Film]  # seed -> film


class Experiment(NamedTuple):
  """Settings of the experiment.

  Attributes:
    presets: materials, names in films.PRESETS; films alternate between them.
    shape_zyx: slices, rows, columns of a film.
    n_films: number of films.
    seed: of the first film; the others have the seeds that follow.
    n_slices, n_squares, square_px: annotated slices, evenly spaced, squares in each,
      and their side.
    draws: plausible segmentations per film.
    confidence: nominal coverage.
    artefacts: strength of artefacts, as in `films.simulate_film`.
  """
  presets: tuple[str, ...] = ('HPC22', 'HPC30', 'HPC45')
  shape_zyx: tuple[int, int, int] = (32, 160, 160)
  n_films: int = 48
  seed: int = 1000
  n_slices: int = 8
  n_squares: int = 4
  square_px: int = 64
  draws: int = intervals.DRAWS
  confidence: float = 0.9
  artefacts: str = 'mild'


def free_films(preset: str | FilmPreset, shape_zyx: tuple[int, int, int], *,
               artefacts: str | Artefacts = 'mild', shine_through: float = 1.0,
               slow_amplitude: float | None = None) -> tuple[MakeFilm, float]:
  """Makes a simulator of films whose porosities scatter about that of the material.

  match_porosity and porosity_trend are switched off: a film must not be adjusted to the
  porosity of the material, and the two-point function assumes a stationary medium.

  Args:
    preset: a name in films.PRESETS or a FilmPreset.
    shape_zyx: slices, rows, columns.
    artefacts: as in `films.simulate_film`.
    shine_through: as in `films.simulate_film`.
    slow_amplitude: amplitude of the field that makes the porosity drift over some
      micrometres; None keeps that of the preset, 0 removes the field. A film that is
      not many times larger than the scale of the field (200 px, 2 micrometres) does not
      show how far its porosity is shifted: only `material_between` then covers the
      material.

  Returns:
    The simulator, seed -> film, and the porosity of the material.
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


def run_coverage(members: Sequence[Scorer], prepare, postprocess,
                 experiment: Experiment, out, resources: Resources = HERE) -> dict:
  """Runs the experiment, or resumes it.

  Args:
    members: scorers of the members of the ensemble.
    prepare: config.prepare of its run.
    postprocess: config.postprocess of its run.
    experiment: settings.
    out: path of the JSON file with the result.
    resources: where films are made and measured, one at a time by each worker.

  Returns:
    JSON-able dict: settings; summary {path: {covered, covered_low, covered_high (95 %
    Clopper-Pearson), width (median of the interval over its estimate), error and
    error_value (median absolute relative error of estimate and of the segmentation's
    value), naive_covered, naive_width, n}}; by_preset {preset: {path: covered}}; films,
    a row each.

  Raises:
    InputError: for fewer than two members or one film, squares that do not fit, or a
      result file of other settings.
  """
  _check(members, experiment)
  settings = experiment._asdict() | {'presets': list(experiment.presets),
                                     'shape_zyx': list(experiment.shape_zyx),
                                     'n_members': len(members)}
  result = {'settings': settings, 'films': []}
  if Path(out).exists():
    result = files.read_json_object(out)
    if result.get('settings') != settings:
      raise InputError(str(out), got='films of other settings', expected='the same',
                       remedy='choose another --out, or delete the file')
  done = {row['seed'] for row in result['films']}
  left = [k for k in range(experiment.n_films) if experiment.seed + k not in done]
  finished = cluster.run_units(
      _film, (members, prepare, postprocess, experiment, resources.memory_gb), left,
      resources)
  for _, row in progress.track(finished, 'coverage', 'film', len(left)):
    result['films'] = sorted([*result['films'], row], key=lambda row: row['seed'])
    files.write_json(out, result, checked=False)
  result |= {'summary': _summarise(result['films']), 'by_preset': {
      preset: {path: row['covered'] for path, row in _summarise(
          [row for row in result['films'] if row['preset'] == preset]).items()}
      for preset in experiment.presets}}
  files.write_json(out, result, checked=False)
  return result


def _check(members, experiment: Experiment) -> None:
  if len(members) < 2:
    raise InputError('members', got=len(members), expected='at least 2',
                     remedy='train more members')
  if experiment.n_films < 1:
    raise InputError('films', got=experiment.n_films, expected='at least 1',
                     remedy='48 is usual')
  depth, *plane = experiment.shape_zyx
  if min(plane) < experiment.square_px or depth < experiment.n_slices:
    raise InputError('shape', got=experiment.shape_zyx,
                     expected=f'at least {experiment.n_slices} slices of '
                     f'{experiment.square_px} px', remedy='make larger films')


def _film(shared, k: int) -> dict:
  """The row of one film."""
  members, prepare, postprocess, experiment, memory_gb = shared
  preset = experiment.presets[k % len(experiment.presets)]
  seed = experiment.seed + k
  make_film, _ = free_films(preset, experiment.shape_zyx,
                            artefacts=experiment.artefacts)
  film = make_film(seed)
  image_zyx = scaling.scale_image(film.image_zyx, scale=prepare.scale,
                                  gradient=prepare.gradient)
  scores_mzyx = [score_array(member.open(memory_gb), image_zyx) for member in members]
  score_zyx = np.mean(scores_mzyx, 0, dtype=np.float32)
  size = film.voxel_size_zyx_nm
  regions = _annotate(experiment, seed, score_zyx, film.truth_zyx)
  choice = tuning.choose(
      'porosity', [RegionScore(r.score_yx, r.mask_yx) for r in regions],
      ['film'] * len(regions), [r.start_zyx[0] for r in regions])
  how = Postprocessing(choice.sigma_px, choice.threshold, postprocess.kernel,
                       postprocess.min_size_vox, postprocess.ndim,
                       postprocess.connectivity)
  found = intervals.quantity_intervals(
      segment_array(score_zyx, how), score_zyx, size,
      clean=functools.partial(clean_array, how=how), regions=regions,
      model=fit_error_model(regions, size, seed), draws=experiment.draws,
      confidence=experiment.confidence, seed=seed)['quantities']
  truth = physics.key_numbers(film.truth_zyx, size)
  of_members = [physics.key_numbers(segment_array(scores_zyx, how), size)
                for scores_zyx in scores_mzyx]
  rows = {path: {'truth': truth[path], **{key: row[key] for key in (
              'value', 'estimate', 'low', 'high', 'sd')},
                 **_naive([numbers[path] for numbers in of_members],
                          experiment.confidence)}
          for path, row in found.items()}
  return {'preset': preset, 'seed': seed, 'quantities': rows}


def _annotate(experiment: Experiment, seed: int, score_zyx, truth_zyx
              ) -> list[ScoredRegion]:
  """Squares at random places of evenly spaced slices, labelled with the truth."""
  rng = np.random.default_rng((seed, 3))
  side = experiment.square_px
  slices = ((np.arange(experiment.n_slices) + 0.5) * len(truth_zyx)
            / experiment.n_slices).astype(int)
  regions = []
  for block, z in enumerate(slices.tolist()):
    for _ in range(experiment.n_squares):
      y, x = (int(rng.integers(0, n - side + 1)) for n in truth_zyx.shape[1:])
      box = np.s_[z, y:y + side, x:x + side]
      regions.append(ScoredRegion(score_zyx[box], truth_zyx[box], (z, y, x), block))
  return regions


def _naive(values_m, confidence: float) -> dict:
  """Interval of the mean of the members by their spread."""
  if None in values_m:
    return {'naive_low': None, 'naive_high': None}
  n = len(values_m)
  half = (stats.t.ppf((1 + confidence) / 2, n - 1) * np.std(values_m, ddof=1)
          / math.sqrt(n))
  return {'naive_low': float(np.mean(values_m) - half),
          'naive_high': float(np.mean(values_m) + half)}


def _summarise(rows) -> dict:
  """Coverage, widths and errors of each quantity over films."""
  summary = {}
  for path in rows[0]['quantities'] if rows else ():
    known = [row['quantities'][path] for row in rows if path in row['quantities']]
    known = [row for row in known if None not in (row['truth'], row['low'])]
    if not known:
      continue
    hits = sum(row['low'] <= row['truth'] <= row['high'] for row in known)
    limits = stats.binomtest(hits, len(known)).proportion_ci(0.95)
    naive = [row for row in known if row['naive_low'] is not None]
    summary[path] = {
        'covered': hits / len(known), 'covered_low': float(limits.low),
        'covered_high': float(limits.high),
        'width': _median((row['high'] - row['low'], row['estimate']) for row in known),
        'error': _median((row['estimate'] - row['truth'], row['truth'])
                         for row in known),
        'error_value': _median((row['value'] - row['truth'], row['truth'])
                               for row in known),
        'naive_covered': (sum(row['naive_low'] <= row['truth'] <= row['naive_high']
                              for row in naive) / len(naive)) if naive else None,
        'naive_width': _median((row['naive_high'] - row['naive_low'], row['estimate'])
                               for row in naive),
        'n': len(known)}
  return summary


def _median(pairs) -> float | None:
  """Median of |part / whole|, of those with a whole."""
  ratios = [abs(part / whole) for part, whole in pairs if whole]
  return float(np.median(ratios)) if ratios else None
