"""Evaluation of a run on annotated regions, and on the truth where it is known.

Confusion counts are pooled over the voxels of a split, never averaged over regions
(§1.8), both before (score > 0.5) and after post-processing. Porosities are compared
region by region (§1.11).
"""
import numpy as np

from fibjax.analysis import porosity
from fibjax.annotation.regions import SPLITS, Regions, region_mask, select_regions
from fibjax.metrics import calibration, comparison, confusion
from fibjax.metrics.labels import UNLABELLED
from fibjax.system import csv_files
from fibjax.volumes import blockwise
from fibjax.volumes.volume import Volume, read_box


def crop_region(volume: Volume, regions: Regions, r: int, margin_px: int):
  """Reads region r of a volume with a margin that is cut at the volume's faces.

  Args:
    volume: the volume that the region lies in.
    regions: annotated regions.
    r: index of the region.
    margin_px: margin in y and x on each side, voxels.

  Returns:
    [y, x] array, and the position (y, x) of the region's first voxel in it.
  """
  z, y, x = (int(axis[r]) for axis in (regions.z, regions.y, regions.x))
  start = (z, max(y - margin_px, 0), max(x - margin_px, 0))
  stop = (z + 1, min(y + int(regions.heights[r]) + margin_px, volume.shape[1]),
          min(x + int(regions.widths[r]) + margin_px, volume.shape[2]))
  return read_box(volume, start, stop)[0], (y - start[1], x - start[2])


def evaluate(prepared: dict[str, Volume], regions: Regions, scores: dict[str, Volume],
             segmentations: dict[str, Volume], truths: dict[str, Volume | None],
             seed: int) -> tuple[dict, str]:
  """Computes all metrics of a run.

  Args:
    prepared: grey volumes by name.
    regions: annotated regions of all splits.
    scores: volumes of P(solid) by name, or of labels from a classical method.
    segmentations: post-processed labels by name.
    truths: labels of every voxel by name, None where only regions are known.
    seed: seed of the bootstrap over regions.

  Returns:
    The content of metrics.json without 'postprocess', and that of porosities.csv, one
    row per region.
  """
  rows = [_region_row(regions, r, scores, segmentations)
          for r in range(len(regions.volume))]
  names = sorted(scores)
  result = {split: _pooled(rows, split, None) for split in SPLITS}
  result['per_volume'] = {name: {split: _pooled(rows, split, name) for split in SPLITS}
                          for name in names}
  labelled = [row for row in rows if row['manual'] is not None]
  tested = [row for row in labelled if row['split'] == 'test']
  result['test_intervals'] = _intervals(tested, seed) | {'per_volume': {
      name: _intervals([row for row in tested if row['volume'] == name], seed)
      for name in names}}
  if all(volume.dtype == np.float32 for volume in scores.values()):
    result['reliability'] = _reliability(regions, scores)
  result['porosity_tests'] = {
      name: porosity.compare_porosities(
          *([row[which] for row in labelled if row['volume'] == name]
            for which in ('manual', 'automatic')), seed)
      for name in names if name in {row['volume'] for row in labelled}}
  result['threshold_baseline'] = {
      name: _threshold_baseline(prepared[name], regions, name) for name in names}
  result['whole_volume'] = {
      name: whole_volume(segmentations[name], truths[name]) for name in names}
  table = [{k: v for k, v in row.items() if k not in ('before', 'after')}
           for row in rows]
  return result, csv_files.to_csv(table, table[0])


def _region_row(regions: Regions, r: int, scores, segmentations) -> dict:
  """Porosities and confusion counts of a region."""
  name, mask_yx = regions.volume[r], region_mask(regions, r)
  score_yx, _ = crop_region(scores[name], regions, r, 0)
  label_yx, _ = crop_region(segmentations[name], regions, r, 0)
  after = confusion.confusion(mask_yx, label_yx)
  total = after.sum()
  return {'volume': name, 'split': regions.split[r], 'z': int(regions.z[r]),
          'y': int(regions.y[r]), 'x': int(regions.x[r]),
          'manual': float(after[0].sum() / total) if total else None,
          'automatic': float(after[:, 0].sum() / total) if total else None,
          'before': confusion.confusion(mask_yx, (score_yx > 0.5).astype(np.uint8)),
          'after': after}


def _intervals(rows, seed: int, level: float = 0.95, samples: int = 10_000) -> dict:
  """Bootstrap intervals over regions, after post-processing: name -> [low, high].

  Regions are resampled within their volume. Empty for fewer than two regions.
  """
  if len(rows) < 2:
    return {}
  weights_dr = comparison.resample([row['volume'] for row in rows], seed, samples)
  # Weighted sums of the counts first, scores afterwards: pooled, as in the point value.
  scores = comparison.overlap_scores(np.tensordot(
      weights_dr, np.stack([row['after'] for row in rows]), 1))
  return {name: np.nanquantile(values, [(1 - level) / 2, (1 + level) / 2]).tolist()
          for name, values in scores.items()}


def _reliability(regions: Regions, scores: dict[str, Volume]) -> dict:
  """Calibration of the scores of the test regions as probabilities."""
  tested = select_regions(regions, split='test')
  indices = range(len(tested.volume))
  scores_n, labels_n = (
      np.concatenate([image_yx.ravel() for image_yx in images]) for images in (
          [crop_region(scores[tested.volume[r]], tested, r, 0)[0] for r in indices],
          [region_mask(tested, r) for r in indices]))
  table = calibration.reliability(scores_n, labels_n)
  return {**calibration.summarise(scores_n, labels_n),
          **{name: values.tolist() for name, values in table._asdict().items()}}


def _pooled(rows, split: str, name: str | None) -> dict:
  """Metrics of a split before and after post-processing, of a volume or (None) all."""
  chosen = [row for row in rows if row['split'] == split
            and name in (None, row['volume'])]
  empty = np.zeros((2, 2), np.int64)
  return {when: confusion.summarise(sum((row[when] for row in chosen), empty))
          for when in ('before', 'after')}


def _threshold_baseline(image: Volume, regions: Regions, name: str) -> dict:
  """The single grey threshold that is best on the test regions themselves.

  Chosen with knowledge of the labels, so an upper bound for global thresholds.
  """
  regions = select_regions(regions, split='test', volume=name)
  indices = range(len(regions.volume))
  if (regions.masks_ryx == UNLABELLED).all():
    return {'miou': None, 'threshold': None}
  return confusion.best_global_threshold(
      [crop_region(image, regions, r, 0)[0] for r in indices],
      [region_mask(regions, r) for r in indices])


def whole_volume(segmentation: Volume, truth: Volume | None) -> dict:
  """Porosity of a volume, and metrics over all voxels where the truth is known.

  Args:
    segmentation: labels, 0 pore and 1 solid.
    truth: true labels of the same shape, or None.

  Returns:
    JSON-able: porosity_automatic, and with a truth also truth (metrics).
  """
  counts, pores, total = np.zeros((2, 2), np.int64), 0, 0
  for start, stop in blockwise.shard_boxes(segmentation):
    labels_zyx = read_box(segmentation, start, stop)
    pores, total = pores + int((labels_zyx == 0).sum()), total + labels_zyx.size
    if truth is not None:
      counts = counts + confusion.confusion(read_box(truth, start, stop), labels_zyx)
  result = {'porosity_automatic': pores / total}
  return result if truth is None else result | {'truth': confusion.summarise(counts)}
