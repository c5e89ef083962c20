"""Physical quantities of segmentations with their intervals, and of the truth.

A volume is measured in a central box of at most so many million voxels, of the same
length in nm along all axes where the volume is long enough (`physics.central_box`;
analysis/physics.py has the quantities, analysis/intervals.py the intervals). For a run
the result is its analysis.json. What the scores are worth is learnt from the annotated
regions of all splits: the labels of test regions choose nothing here.
"""
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fibjax.analysis import intervals, physics
from fibjax.analysis.phases import AXES, check_two_phases, find_pore
from fibjax.analysis.plausible import (
  ErrorModel,
  ScoredRegion,
  fit_error_model,
  have_both_phases,
)
from fibjax.annotation.regions import (
  Regions,
  check_regions,
  region_mask,
  region_positions,
  region_sizes,
  select_regions,
)
from fibjax.errors import InputError, check_shape
from fibjax.evaluation.evaluate import crop_region
from fibjax.inference.segment import clean_array
from fibjax.inference.tuning import slice_blocks
from fibjax.metrics.labels import UNLABELLED
from fibjax.system import files, progress
from fibjax.volumes.volume import Volume, read_box

_MIN_BLOCKS = 3  # of slices with regions, for an error model of a volume's own
_BORROWED = ('Too few annotated regions in this volume: its errors are taken to be '
             'those of the other volumes, and its own bias is not known.')


class Evidence(NamedTuple):
  """What is known about the errors of a segmentation.

  Attributes:
    score: volume of P(solid).
    model: how the scores err.
    regions: annotated regions of the volume with their scores.
    caveats: sentences.
  """
  score: Volume
  model: ErrorModel
  regions: tuple[ScoredRegion, ...]
  caveats: tuple[str, ...]


class Draws(NamedTuple):
  """Settings of the intervals.

  Attributes:
    count: plausible segmentations; 0 leaves intervals out.
    confidence: of the intervals.
    clean: labels -> labels, what follows the threshold in a segmentation.
  """
  count: int
  confidence: float
  clean: Callable[[np.ndarray], np.ndarray]


def measure(labels_zyx, voxel_size_zyx_nm, *, scores_zyx=None,
            regions: Regions | None = None, mvoxel: float | None = 4.0,
            flow_axes: str = AXES, stokes_axes: str = '', max_lag_nm: float = 1000.0,
            tolerance: float = 0.05, draws: int = 0, confidence: float = 0.9) -> dict:
  """Measures the physical quantities of a segmented array.

  Time and memory grow with the number of voxels, mainly by the diffusivity along three
  axes, so at most `mvoxel` million voxels are measured: the central box of
  `central_box`, as in the analysis of a run.

  Args:
    labels_zyx: [z, y, x] bool or integers, 0 pore and 1 solid.
    voxel_size_zyx_nm: voxel size along z, y, x, nm.
    scores_zyx: [z, y, x] P(solid) that the labels are made of.
    regions: annotated regions of this volume (one name). Without them or the scores,
      intervals hold the error of the finite volume only.
    mvoxel: largest box, million voxels; None measures the whole array.
    flow_axes: axes along which diffusion is solved, some of 'zyx'.
    stokes_axes: axes along which slow flow is solved, for the permeability; takes many
      times as long.
    max_lag_nm: longest distance of the S2 and C2 curves, nm.
    tolerance: relative error of the porosity that defines the representative volume.
    draws: plausible segmentations for the intervals, 0 (no intervals) or at least 8;
      24 is usual. Each takes as long as the quantities themselves.
    confidence: of the intervals, in (0, 1).

  Returns:
    JSON-able dict of `physics.analyse`, with start_zyx and stop_zyx of the box:
    porosity, profile, representative, pore_size, intrusion, constrictivity,
    breakthrough_nm, chords, s2, c2, specific_surface, percolation, euler_per_um3,
    geodesic_tortuosity, transport, formation_factor, permeability; with draws also
    intervals (`intervals.quantity_intervals`). Undefined quantities are None.

  Raises:
    InputError: for another rank or dtype, other codes (255 unlabelled included), a
      missing or bad voxel size, a box of one phase only or of fewer than 3 voxels
      along an axis, mvoxel not above 0, an unknown axis, too few draws, scores of
      another shape, or regions of several volumes or outside the array.

  Example:
    >>> import fibjax
    >>> film = fibjax.simulate_film('HPC45', (8, 40, 40), seed=0)
    >>> result = fibjax.measure(film.truth_zyx, film.voxel_size_zyx_nm, flow_axes='')
    >>> result['stop_zyx'], result['transport']  # flow_axes='z' would solve diffusion
    ([8, 40, 40], {})
    >>> 0 < result['porosity'] < 1 and result['pore_size']['mean_nm'] > 10
    True
  """
  if mvoxel is not None and not 0 < mvoxel < math.inf:
    raise InputError('mvoxel', got=mvoxel, expected='million voxels, above 0',
                     remedy='4 is usual; None measures everything')
  pore_zyx, size = find_pore(labels_zyx, voxel_size_zyx_nm)
  model, scored = _learn(scores_zyx, regions, pore_zyx.shape, size)
  n_voxels = pore_zyx.size if mvoxel is None else mvoxel * 1e6
  start, stop = physics.central_box(pore_zyx.shape, size, n_voxels)
  box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
  check_two_phases(pore_zyx[box])
  labels_zyx = np.asarray(labels_zyx)[box]
  result = physics.analyse(labels_zyx, size, flow_axes=flow_axes,
                           stokes_axes=stokes_axes, max_lag_nm=max_lag_nm,
                           tolerance=tolerance)
  if draws:
    result['intervals'] = intervals.quantity_intervals(
        labels_zyx, None if model is None else np.asarray(scores_zyx)[box], size,
        measured=result, model=model, regions=scored, draws=draws,
        confidence=confidence, flow_axes=flow_axes)
  return {'start_zyx': list(start), 'stop_zyx': list(stop), **result}


def _learn(scores_zyx, regions: Regions | None, shape, size):
  """Error model and scored regions of an array; (None, ()) where one is missing."""
  if scores_zyx is None:
    return None, ()
  scores_zyx = np.asarray(scores_zyx)
  check_shape('scores', scores_zyx, shape)
  if regions is None:
    return None, ()
  names = sorted(set(regions.volume))
  if len(names) > 1:
    raise InputError('regions', got=f'those of the volumes {", ".join(names)}',
                     expected='regions of one volume',
                     remedy='leave out those of other volumes')
  check_regions(regions, dict.fromkeys(names, shape))

  def crop(r):
    (z, y, x), (_, height, width) = (
        get(regions)[r] for get in (region_positions, region_sizes))
    return scores_zyx[z, y:y + height, x:x + width]

  scored = _scored(regions, crop)
  return fit_error_model(scored, size), scored


def _scored(regions: Regions, crop: Callable[[int], np.ndarray]
            ) -> tuple[ScoredRegion, ...]:
  """Regions of one volume with their scores; those without a label are left out."""
  blocks = slice_blocks(regions.volume, regions.z)
  return tuple(
      ScoredRegion(crop(r), mask_yx, (int(regions.z[r]), int(regions.y[r]),
                                      int(regions.x[r])), int(blocks[r]),
                   regions.split[r] == 'train')
      for r in range(len(regions.volume))
      if ((mask_yx := region_mask(regions, r)) != UNLABELLED).any())


def find_evidence(regions: Regions, scores: dict[str, Volume]) -> dict[str, Evidence]:
  """Learns the errors of each volume's scores from its annotated regions.

  A volume with regions in fewer than three blocks of slices has the error model of all
  volumes together.

  Args:
    regions: annotated regions of all splits.
    scores: volumes of P(solid) by name.

  Returns:
    Evidence by name; empty where no region has both phases.
  """
  found = {}
  for name in scores:
    own = select_regions(regions, volume=name)
    found[name] = _scored(own, lambda r, name=name, own=own: crop_region(
        scores[name], own, r, 0)[0])
  together, first = [], 0
  for scored in found.values():
    together += [r._replace(block=r.block + first) for r in scored]
    first += 1 + max((r.block for r in scored), default=0)
  if not have_both_phases(together):
    return {}
  evidence, common = {}, None
  for name, scored in found.items():
    size = scores[name].voxel_size_zyx_nm
    if size is None:
      continue
    if len({r.block for r in scored}) >= _MIN_BLOCKS and have_both_phases(scored):
      evidence[name] = Evidence(scores[name], fit_error_model(scored, size), scored, ())
      continue
    common = common or fit_error_model(together, size)
    evidence[name] = Evidence(scores[name], common, scored, (_BORROWED,))
  return evidence


def analyse_volume(labels: Volume, mvoxel: float, truth: Volume | None = None,
                   evidence: Evidence | None = None, draws: Draws | None = None,
                   stokes_axes: str = '') -> dict:
  """Measures the central box of a volume.

  Args:
    labels: volume of labels, 0 pore and 1 solid.
    mvoxel: largest box, million voxels.
    truth: true labels, measured in the same box; None where they are unknown.
    evidence: what is known about the errors of the labels.
    draws: settings of the intervals; None leaves them out.
    stokes_axes: axes along which the permeability is measured.

  Returns:
    JSON-able dict: start_zyx and stop_zyx of the box; found, the quantities of labels
    (`physics.analyse`); intervals (`intervals.quantity_intervals`) with draws; with a
    truth also truth, its quantities, and comparison (`physics.compare`).
    Instead, `undefined` with the reason, for an unknown voxel size, or a box that is
    too thin or contains one phase only.
  """
  size = labels.voxel_size_zyx_nm
  if size is None:
    return {'undefined': 'the voxel size is unknown'}
  start, stop = physics.central_box(labels.shape, size, mvoxel * 1e6)
  if min(b - a for a, b in zip(start, stop, strict=True)) < 3:
    return {'undefined': f'the box {start} to {stop} is thinner than 3 voxels'}
  result = {'start_zyx': start, 'stop_zyx': stop}
  boxes = {}
  for name, volume in (('found', labels), ('truth', truth)):
    if volume is None:
      continue
    boxes[name] = read_box(volume, start, stop)
    if np.ptp(boxes[name]) == 0:
      return {'undefined': f'the box {start} to {stop} of the '
              f'{"segmentation" if name == "found" else name} has one phase only'}
    result[name] = physics.analyse(boxes[name], size, stokes_axes=stokes_axes)
  if draws is not None and draws.count:
    result['intervals'] = _intervals(boxes['found'], size, result['found'], evidence,
                                     draws, (start, stop))
  if truth is not None:
    result['comparison'] = physics.compare(result['found'], result['truth'])
  return result


def _intervals(labels_zyx, size, measured, evidence, draws: Draws, box) -> dict:
  known = {} if evidence is None else {
      'model': evidence.model, 'regions': evidence.regions, 'clean': draws.clean}
  score_zyx = None if evidence is None else read_box(evidence.score, *box)
  result = intervals.quantity_intervals(
      labels_zyx, score_zyx, size, measured=measured, draws=draws.count,
      confidence=draws.confidence, **known)
  if evidence is not None:
    result['caveats'] = [*evidence.caveats, *result['caveats']]
  return result


def analyse_run(mvoxel: float, segmentations: dict[str, Volume],
                truths: dict[str, Volume | None], out: Path,
                evidence: Callable[[], dict[str, Evidence]] = dict,
                draws: Draws | None = None, stokes_axes: str = '') -> dict:
  """Measures all volumes of a run, resuming from those in analysis.json.

  Args:
    mvoxel: largest box, million voxels.
    segmentations: volumes of labels by name.
    truths: true labels by name, None where only regions are known.
    out: the run's analysis.json, written after each volume.
    evidence: makes what `find_evidence` returns; called where a volume is not done.
    draws: settings of the intervals; None leaves them out.
    stokes_axes: axes along which the permeability is measured.

  Returns:
    The content of analysis.json: name -> result of `analyse_volume`.
  """
  quantities = files.read_json(out) if out.exists() else {}
  if set(segmentations) <= set(quantities):
    return quantities
  known = evidence() if draws is not None and draws.count else {}
  for name, labels in segmentations.items():
    if name not in quantities:
      quantities[name] = analyse_volume(labels, mvoxel, truths[name], known.get(name),
                                        draws, stokes_axes)
      files.write_json(out, quantities)
      progress.say(f'analysed {name}')
  return quantities


def make_draws(settings, postprocess) -> Draws:
  """The settings of a run's intervals.

  Args:
    settings: config.analyse.
    postprocess: config.postprocess, whose removal of small objects draws go through.
  """
  return Draws(settings.draws, settings.confidence,
               functools.partial(clean_array, how=postprocess))
