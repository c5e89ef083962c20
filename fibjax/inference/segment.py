"""Segmentation of scores: double threshold, then removal of small pores and solids.

Scores are P(solid) float32, a segmentation is uint8, 0 pore and 1 solid, both
[z, y, x]. `segment_scores` works on volumes shard by shard, with the bits of
`segment_array`, while memory holds a few shards. Intermediate volumes are kept in a
hidden folder beside the result, .NAME.stages, until that is complete; each is
resumable.
"""
import functools
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fibjax.inference import postprocess, small_objects
from fibjax.system import files
from fibjax.system.cluster import HERE, Resources
from fibjax.system.geometry import box_shape
from fibjax.volumes.blockwise import BlockFunction, map_blocks
from fibjax.volumes.volume import Volume


class Postprocessing(NamedTuple):
  """How scores become labels (§1.10).

  Attributes:
    sigma_px: standard deviation of the Gaussian, in-plane voxels.
    threshold: solid where the smoothed score is greater.
    kernel: 'matlab' or 'scipy4sigma', where the Gaussian is cut off.
    min_size_vox: smaller objects of either phase are removed; 0: none.
    ndim: 3 for objects in the volume, 2 for objects in each slice.
    connectivity: 26, 18 or 6 for ndim=3; 8 or 4 for ndim=2.
  """
  sigma_px: float
  threshold: float
  kernel: str = 'matlab'
  min_size_vox: int = 100
  ndim: int = 3
  connectivity: int = 26


def segment_array(score_zyx: np.ndarray, how: Postprocessing) -> np.ndarray:
  """Segments scores in memory.

  Args:
    score_zyx: [z, y, x] P(solid).
    how: post-processing.

  Returns:
    [z, y, x] uint8 labels, 0 pore and 1 solid.

  Raises:
    InputError: for bad settings.
  """
  postprocess.check_threshold(how.sigma_px, how.threshold, how.kernel)
  labels_zyx = np.stack([
      postprocess.double_threshold(score_yx, how.sigma_px, how.threshold, how.kernel)
      for score_yx in score_zyx])
  return clean_array(labels_zyx, how)


def clean_array(labels_zyx: np.ndarray, how) -> np.ndarray:
  """Removes small objects: what follows the threshold.

  Args:
    labels_zyx: [z, y, x] uint8, 0 pore and 1 solid.
    how: Postprocessing, or config.postprocess.
  """
  return small_objects.remove_small(labels_zyx, how.min_size_vox, ndim=how.ndim,
                                    connectivity=how.connectivity)


def segment_scores(scores: Volume, out, how: Postprocessing, *,
                   resources: Resources = HERE) -> Volume:
  """Segments a score volume, or resumes doing so.

  Args:
    scores: [z, y, x] P(solid).
    out: path of the segmentation; a complete one is verified and returned.
    how: post-processing.
    resources: where to work.

  Raises:
    InputError: for bad settings, or as `blockwise.map_blocks`.
  """
  postprocess.check_threshold(how.sigma_px, how.threshold, how.kernel)
  out = Path(out)
  stages = out.with_name(f'.{out.name}.stages')
  fingerprint = {'scores': files.hash_files(scores.path)} | how._asdict()
  clean = functools.partial(
      small_objects.remove_small_streamed, min_size_vox=how.min_size_vox,
      ndim=how.ndim, connectivity=how.connectivity, fingerprint=fingerprint,
      resources=resources)
  labels = scores
  if not out.exists():  # a complete one is only compared with the fingerprint
    labels = map_blocks(
        functools.partial(_open_threshold, how.sigma_px, how.threshold, how.kernel),
        scores, stages / 'threshold', np.uint8, fingerprint=fingerprint,
        title=f'threshold {scores.path.name}', resources=resources)
    labels = clean(labels, stages / 'pores', phase='pore')
  result = clean(labels, out, phase='solid')
  shutil.rmtree(stages, ignore_errors=True)
  return result


def _open_threshold(sigma_px: float, threshold: float, kernel: str,
                    scores: Volume) -> BlockFunction:
  margin_px = postprocess.margin_px(sigma_px, kernel)

  def reads(box):
    # Cut off at the faces: there the Gaussian repeats the edge (§1.10), it does not
    # mirror the volume.
    (z, *start), (z_stop, *stop) = box
    low = (max(a - margin_px, 0) for a in start)
    high = (min(b + margin_px, n) for b, n in zip(stop, scores.shape[1:], strict=True))
    return (z, *low), (z_stop, *high)

  def compute(box, block_zyx):
    (_, *start), _ = box
    top, left = (min(a, margin_px) for a in start)
    labels_zyx = np.empty(box_shape(box), np.uint8)
    rows, columns = labels_zyx.shape[1:]
    for z, score_yx in enumerate(block_zyx):  # slice by slice: floats stay small
      labels_yx = postprocess.double_threshold(score_yx, sigma_px, threshold, kernel)
      labels_zyx[z] = labels_yx[top:top + rows, left:left + columns]
    return labels_zyx

  return BlockFunction(reads, compute)
