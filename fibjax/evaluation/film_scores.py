"""Scores of a network on whole films whose truth is known, in memory.

Slices stand for regions (`comparison.Counts`), so that a film has the scores of the
test regions: mIoU, that of the worst windows, boundary F1, porosity, calibration. The
effective diffusivity is that of its central box. Arrays are [z, y, x].
"""
from typing import NamedTuple

import numpy as np

from fibjax.analysis import physics, transport
from fibjax.analysis.phases import AXES
from fibjax.evaluation import region_scores
from fibjax.inference.segment import Postprocessing, segment_array
from fibjax.metrics import calibration, comparison


class Film(NamedTuple):
  """A film whose truth is known.

  Attributes:
    name: of the film.
    image_zyx: prepared grey values.
    truth_zyx: labels of every voxel.
    voxel_size_zyx_nm: nm, or None: no diffusivity.
    diffusivity: of the truth, by axis; {} leaves it out.
  """
  name: str
  image_zyx: np.ndarray
  truth_zyx: np.ndarray
  voxel_size_zyx_nm: tuple[float, float, float] | None
  diffusivity: dict[str, float]


def diffusivity(labels_zyx: np.ndarray, voxel_size_zyx_nm, mvoxel: float
                ) -> dict[str, float]:
  """Relative effective diffusivity of the pore along z, y and x.

  Args:
    labels_zyx: 0 pore, 1 solid; one phase may be missing.
    voxel_size_zyx_nm: nm; None gives {}.
    mvoxel: size of the central box, million voxels; 0 gives {}.
  """
  if not mvoxel or voxel_size_zyx_nm is None:
    return {}
  start, stop = physics.central_box(labels_zyx.shape, voxel_size_zyx_nm, 1e6 * mvoxel)
  box_zyx = labels_zyx[tuple(map(slice, start, stop))]
  if box_zyx.min() == box_zyx.max():  # a network that calls everything one phase
    return dict.fromkeys(AXES, 1. - float(box_zyx.flat[0]))
  return {axis: transport.effective_diffusivity(
      box_zyx, voxel_size_zyx_nm, axis).relative_diffusivity for axis in AXES}


def measure(films: list[Film], score, how: Postprocessing, temperature: float,
            prior_offset: float, mvoxel: float) -> dict:
  """Scores a network on films.

  Args:
    films: at least one.
    score: [z, y, x] grey values -> P(solid).
    how: post-processing.
    temperature, prior_offset: of `calibration.calibrate`.
    mvoxel: as for `diffusivity`.

  Returns:
    JSON-able: the scores of `comparison.SCORES`, pooled over films as over regions;
    diffusivity_error, the mean over films and axes of |D - D_true| / D_true, None where
    it is not known; and per_volume: porosity and diffusivity of each film.
  """
  names, slices, errors, per_volume = [], [], [], {}
  for film in films:
    scores_zyx = score(film.image_zyx)
    labels_zyx = segment_array(scores_zyx, how)
    calibrated_zyx = calibration.calibrate(calibration.to_logits(scores_zyx),
                                           temperature, prior_offset)
    names += [film.name] * len(labels_zyx)
    slices += zip(film.truth_zyx, scores_zyx, labels_zyx, calibrated_zyx, strict=True)
    found = diffusivity(labels_zyx, film.voxel_size_zyx_nm,
                        mvoxel) if film.diffusivity else {}
    errors += [abs(found[axis] - true) / true
               for axis, true in film.diffusivity.items() if true > 0]
    per_volume[film.name] = {'porosity': float((labels_zyx == 0).mean()),
                             'true_porosity': float((film.truth_zyx == 0).mean()),
                             'diffusivity': found}
  scores = comparison.scores_of(region_scores.count(names, *zip(*slices, strict=True)))
  return {**{name: float(value[0]) for name, value in scores.items()},
          'diffusivity_error': float(np.mean(errors)) if errors else None,
          'per_volume': per_volume}
