"""Score volume -> segmentation, shard by shard: threshold, then small pores and solids.

Scores are P(solid) float32, a segmentation is uint8, 0 pore and 1 solid, both
[z, y, x]. The result has the bits of `double_threshold` and `remove_small` on the whole
volume, while memory holds a few shards. The volumes in between stand in a hidden folder
beside the result, .NAME.stages, until that is complete; each is resumable.
"""
import functools
import shutil
from pathlib import Path

import numpy as np

from fibjax.inference import postprocess, small_objects
from fibjax.system import files
from fibjax.system.cluster import Resources
from fibjax.system.geometry import box_shape
from fibjax.volumes import blockwise
from fibjax.volumes.blockwise import Steps
from fibjax.volumes.volume import Volume, open_volume, read_box


def segment_scores(scores: Volume, out, sigma_px: float, threshold: float, settings,
                   resources: Resources) -> Volume:
  """Makes a segmentation, or goes on making it.

  Args:
    scores: [z, y, x] P(solid).
    out: path of the segmentation; returned as it is when it is complete.
    sigma_px: standard deviation of the Gaussian, in-plane voxels.
    threshold: solid where the smoothed score is greater.
    settings: config.postprocess, for kernel, min_size_vox, ndim and connectivity.
    resources: where to work.

  Raises:
    InputError: for bad settings, or as `shards.make_volume`.
  """
  postprocess.check_threshold(sigma_px, threshold, settings.kernel)
  out = Path(out)
  stages = out.with_name(f'.{out.name}.stages')
  fingerprint = {
      'scores': files.hash_files(scores.path), 'sigma_px': float(sigma_px),
      'threshold': float(threshold), 'kernel': settings.kernel,
      'min_size_vox': settings.min_size_vox, 'ndim': settings.ndim,
      'connectivity': settings.connectivity}
  clean = functools.partial(
      small_objects.remove_small_streamed, min_size_vox=settings.min_size_vox,
      ndim=settings.ndim, connectivity=settings.connectivity, fingerprint=fingerprint,
      resources=resources)
  labels = scores
  if not out.exists():  # else it is only compared with the fingerprint
    labels = blockwise.make_volume(
        stages / 'threshold', scores, np.uint8,
        functools.partial(_open_steps, scores.path, sigma_px, threshold,
                          settings.kernel),
        fingerprint, f'threshold {scores.path.name}', resources)
    labels = clean(labels, stages / 'pores', phase='pore')
  result = clean(labels, out, phase='solid')
  shutil.rmtree(stages, ignore_errors=True)
  return result


def _open_steps(path: Path, sigma_px: float, threshold: float, kernel: str) -> Steps:
  scores = open_volume(path)
  margin_px = postprocess.margin_px(sigma_px, kernel)

  def read(box):
    (z, *start), (z_stop, *stop) = box
    low = [max(a - margin_px, 0) for a in start]
    high = [min(b + margin_px, n) for b, n in zip(stop, scores.shape[1:], strict=True)]
    return read_box(scores, (z, *low), (z_stop, *high))

  def compute(box, block_zyx):
    (_, *start), _ = box
    top, left = (min(a, margin_px) for a in start)
    labels_zyx = np.empty(box_shape(box), np.uint8)
    rows, columns = labels_zyx.shape[1:]
    for z, score_yx in enumerate(block_zyx):  # what is in between stays small
      labels_yx = postprocess.double_threshold(score_yx, sigma_px, threshold, kernel)
      labels_zyx[z] = labels_yx[top:top + rows, left:left + columns]
    return labels_zyx

  return Steps(read, compute)
