"""Inspection of a stack: properties, curves along z, resources needed, problems.

`inspect_stack` reads a stack once, slice by slice, and returns JSON. statistics.py
measures and findings.py judges; they describe the methods.
"""
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fibjax.formats.stack_reader import MAX_SLICE_GB
from fibjax.formats.stacks import open_stack
from fibjax.inspection import findings
from fibjax.inspection.statistics import Statistics, measure
from fibjax.system import memory
from fibjax.system.cluster import HERE

_PERCENTILES = (0.1, 1, 5, 25, 50, 75, 95, 99, 99.9)
_BASE_MEMORY_GB = 1.0  # of a process besides its tiles; bench/RESULTS.md has figures


class Cuts(NamedTuple):
  """Three orthogonal cuts through the middle of a stack, in grey values as stored.

  Attributes:
    xy, xz, yz: [y, x], [z, x] and [z, y].
    at_zyx: the slice, row and column where they were taken.
  """
  xy: np.ndarray
  xz: np.ndarray
  yz: np.ndarray
  at_zyx: tuple[int, int, int]


def inspect_stack(source, *, us_per_voxel: float | None = None, folder='.',
                  max_slice_gb: float = MAX_SLICE_GB) -> dict:
  """Inspects a stack in one pass; at most a few slices are in memory.

  Args:
    source: anything that `stacks.open_stack` opens.
    us_per_voxel: time that a segmentation takes per voxel on this machine, microseconds
      (`speed.measure_us_per_voxel`); None leaves the time out.
    folder: where results would be written; its free space is reported.
    max_slice_gb: as for `stacks.open_stack`.

  Returns:
    JSON-able dict:
      source, shape_zyx, dtype, bytes; voxel_size_zyx_nm (None per unknown axis) and
      voxel_size_from (part of the file that states it, or None); size_zyx_um or None.
      grey: low, high, percentiles {'50': value}, contrast (95 - 5 %), share_low and
      share_high (of the voxels, at the smallest and largest value), share_dtype_low
      and share_dtype_high (at the ends of an integer type's range; None for floats),
      not_finite (voxels). None where no value is finite.
      labels: None, or {codes: {code: share}, profiles: [programs whose codes fit]}.
      slices: lists along z: brightness (upper quartile), spread (interquartile range),
      shift_yx_px (against the slice before), drift_yx_px (their sum), correlation.
      gradient: {'y', 'x'}: change of brightness over the image, grey values, and its
      error; stripes, lines: their rms and its error, grey values; None if unmeasured.
      needs: `estimate_needs`; None for labels.
      findings: list of {what, where, z, measured, severity, remedy}.

  Raises:
    InputError: when the stack cannot be opened or read; names the file.
  """
  with open_stack(source, max_slice_gb=max_slice_gb) as stack:
    measured = measure(stack.shape, stack.read)
    facts = findings.Facts(
        shape=tuple(int(n) for n in stack.shape), dtype=np.dtype(stack.dtype),
        voxel_size_zyx_nm=tuple(stack.voxel_size_zyx_nm or (None,) * 3),
        names=[Path(name).name for name in stack.names])
    origin = stack.origin
  labels = findings.read_labels(measured.codes)
  needs = None
  if labels is None:
    needs = estimate_needs(facts.shape, facts.dtype, us_per_voxel, folder)
  size_nm = facts.voxel_size_zyx_nm
  drift_zk = np.nancumsum(measured.shift_zk, axis=0)
  return {
      'source': str(source), 'shape_zyx': list(facts.shape), 'dtype': facts.dtype.name,
      'bytes': int(np.prod(facts.shape, dtype=np.int64)) * facts.dtype.itemsize,
      'voxel_size_zyx_nm': list(size_nm), 'voxel_size_from': origin,
      'size_zyx_um': None if None in size_nm else [
          n * size / 1000 for n, size in zip(facts.shape, size_nm, strict=True)],
      'grey': _grey(measured, facts.dtype), 'labels': labels,
      'slices': {'brightness': _plain(measured.brightness_z),
                 'spread': _plain(measured.spread_z),
                 'shift_yx_px': _plain(measured.shift_zk),
                 'drift_yx_px': _plain(drift_zk),
                 'correlation': _plain(measured.correlation_z)},
      'gradient': {axis: dict(zip(('change', 'error'), map(_plain, pair), strict=True))
                   for axis, pair in zip('yx', findings.gradients(measured),
                                         strict=True)},
      'stripes': _rms(measured.stripes), 'lines': _rms(measured.lines), 'needs': needs,
      'findings': findings.judge(measured, facts, needs)}


def estimate_needs(shape, dtype, us_per_voxel: float | None = None,
                   folder='.') -> dict:
  """Estimates the resources of `fibjax run` or `segment` on this machine.

  Disk is counted without compression, so that less is used: the imported volume, the
  prepared one and the scores (float32), the segmentation and, temporarily, two volumes
  of bytes. Memory is that of one process and does not grow with the stack: its tiles
  (--memory_gb) and 1 GB. Time is that of scoring, which dominates.

  Args:
    shape: z, y, x.
    dtype: of the stack.
    us_per_voxel: microseconds per voxel; None: no time.
    folder: where results would be written.

  Returns:
    JSON-able dict: voxels, disk_bytes by volume and disk_total_bytes, disk_free_bytes,
    memory_gb and memory_here_gb (10^9 bytes; None where the system does not report it),
    us_per_voxel and time_s (None when not given), and `counted`, the assumptions.
  """
  voxels = int(np.prod(shape, dtype=np.int64))
  bytes_per_voxel = {'volume': np.dtype(dtype).itemsize, 'prepared': 4, 'scores': 4,
                     'segmentation': 1, 'stages': 2}
  disk_bytes = {name: voxels * size for name, size in bytes_per_voxel.items()}
  return {
      'voxels': voxels, 'disk_bytes': disk_bytes,
      'disk_total_bytes': sum(disk_bytes.values()),
      'disk_free_bytes': shutil.disk_usage(folder).free,
      'memory_gb': HERE.memory_gb + _BASE_MEMORY_GB,
      'memory_here_gb': memory.total_bytes() / 1e9,
      'us_per_voxel': us_per_voxel,
      'time_s': None if us_per_voxel is None else voxels * us_per_voxel / 1e6,
      'counted': 'disk: uncompressed; memory: --memory_gb and 1 GB per process; time: '
                 'scoring by one network'}


def cuts(source, max_slice_gb: float = MAX_SLICE_GB) -> Cuts:
  """Extracts cuts through the middle of a stack in z, y and x; reads each slice once.

  Raises:
    InputError: as `inspect_stack`.
  """
  with open_stack(source, max_slice_gb=max_slice_gb) as stack:
    z_at, y_at, x_at = at_zyx = tuple(n // 2 for n in stack.shape)
    rows, columns, middle = [], [], None
    for z in range(stack.shape[0]):
      slice_yx = stack.read(z)
      rows.append(slice_yx[y_at].copy())
      columns.append(slice_yx[:, x_at].copy())
      if z == z_at:
        middle = slice_yx
  return Cuts(middle, np.stack(rows), np.stack(columns), at_zyx)


def _grey(measured: Statistics, dtype) -> dict | None:
  if not measured.grey_n.size:
    return None
  percentiles = np.percentile(measured.grey_n, _PERCENTILES)
  low_end, high_end = findings.shares_at_ends(measured, dtype)
  return {'low': measured.low, 'high': measured.high,
          'percentiles': {f'{q:g}': float(value) for q, value in
                          zip(_PERCENTILES, percentiles, strict=True)},
          'contrast': findings.contrast_of(measured),
          'share_low': measured.share_low, 'share_high': measured.share_high,
          'share_dtype_low': low_end, 'share_dtype_high': high_end,
          'not_finite': int(measured.not_finite_z.sum())}


def _rms(pair) -> dict | None:
  """Rms of stripes and its error, from the mean square and its error."""
  square, error = pair
  if not np.isfinite(square):
    return None
  rms = float(np.sqrt(max(square, 0)))
  return {'rms': rms, 'error': float(np.sqrt(max(square, 0) + error)) - rms}


def _plain(array):
  """Nested lists of numbers rounded for reading, None for NaN."""
  array = np.asarray(array, np.float64)
  if array.ndim:
    return [_plain(part) for part in array]
  return float(f'{float(array):.6g}') if np.isfinite(array) else None


def describe(report: dict) -> str:
  """Formats the result of `inspect_stack`: properties, resources, one line per finding.

  Args:
    report: as `inspect_stack` returns it.
  """
  size = report['voxel_size_zyx_nm']
  known = ('voxel size unknown' if None in size else
           'voxels of ' + ' x '.join(f'{nm:g}' for nm in size)
           + f' nm (from {report["voxel_size_from"]})')
  lines = [f'{report["source"]}: {" x ".join(map(str, report["shape_zyx"]))} voxels, '
           f'{report["dtype"]}, {report["bytes"] / 1e9:.3g} GB, {known}']
  if report['labels']:
    codes = ', '.join(f'{code} ({100 * share:.3g} %)'
                      for code, share in report['labels']['codes'].items())
    profiles = ', '.join(report['labels']['profiles']) or 'none'
    lines.append(f'labels: codes {codes}; fit --profile: {profiles}')
  elif report['grey']:
    grey = report['grey']
    lines.append(f'grey values {grey["low"]:g} to {grey["high"]:g}, median '
                 f'{grey["percentiles"]["50"]:g}, contrast {grey["contrast"]:g}')
  if report['needs']:
    needs = report['needs']
    time = '' if needs['time_s'] is None else f', {needs["time_s"] / 60:.3g} min'
    lines.append(f'a segmentation here: {needs["memory_gb"]:.3g} GB of memory, '
                 f'{needs["disk_total_bytes"] / 1e9:.3g} GB of disk{time}')
  for row in report['findings']:
    lines.append(f'{row["severity"]}: {row["what"]}, {row["where"]}: '
                 f'{row["measured"]}; {row["remedy"]}')
  return '\n'.join(lines if report['findings'] else [*lines, 'no problems found'])
