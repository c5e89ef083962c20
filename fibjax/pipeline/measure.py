"""Physical quantities of a run's segmentations, and of the truth where it is known.

A volume is measured in a central box of at most config.analyse.mvoxel million voxels,
of the same length in nm along all axes where the volume is long enough
(`physics.central_box`; analysis/physics.py has the quantities). The result is the run's
analysis.json.
"""
from pathlib import Path

import numpy as np

from fibjax.analysis import physics
from fibjax.system import files, progress
from fibjax.volumes.volume import Volume, read_box


def analyse_volume(labels: Volume, mvoxel: float, truth: Volume | None = None) -> dict:
  """Measures the central box of a volume.

  Args:
    labels: volume of labels, 0 pore and 1 solid.
    mvoxel: largest box, million voxels.
    truth: true labels, measured in the same box; None where they are unknown.

  Returns:
    JSON-able dict: start_zyx and stop_zyx of the box; found, the quantities of labels
    (`physics.analyse`); with a truth also truth, its quantities, and comparison
    (`physics.compare`). Instead, `undefined` with the reason, for an unknown voxel
    size, or a box that is too thin or contains one phase only.
  """
  size = labels.voxel_size_zyx_nm
  if size is None:
    return {'undefined': 'the voxel size is unknown'}
  start, stop = physics.central_box(labels.shape, size, mvoxel * 1e6)
  if min(b - a for a, b in zip(start, stop, strict=True)) < 3:
    return {'undefined': f'the box {start} to {stop} is thinner than 3 voxels'}
  result = {'start_zyx': start, 'stop_zyx': stop}
  for name, volume in (('found', labels), ('truth', truth)):
    if volume is None:
      return result
    box_zyx = read_box(volume, start, stop)
    if np.ptp(box_zyx) == 0:
      return {'undefined': f'the box {start} to {stop} of the '
              f'{"segmentation" if name == "found" else name} has one phase only'}
    result[name] = physics.analyse(box_zyx, size)
  return result | {'comparison': physics.compare(result['found'], result['truth'])}


def analyse_run(mvoxel: float, segmentations: dict[str, Volume],
                truths: dict[str, Volume | None], out: Path) -> dict:
  """Measures all volumes of a run, resuming from those in analysis.json.

  Args:
    mvoxel: largest box, million voxels.
    segmentations: volumes of labels by name.
    truths: true labels by name, None where only regions are known.
    out: the run's analysis.json, written after each volume.

  Returns:
    The content of analysis.json: name -> result of `analyse_volume`.
  """
  quantities = files.read_json(out) if out.exists() else {}
  for name, labels in segmentations.items():
    if name not in quantities:
      quantities[name] = analyse_volume(labels, mvoxel, truths[name])
      files.write_json(out, quantities)
      progress.say(f'analysed {name}')
  return quantities
