"""The physical quantities of segmented volumes, beside those of the truth if known.

A volume is measured in one central box of at most config.analyse.mvoxel million voxels
(analysis/physics.py says what is measured): all three axes are cut to the same length
in nm, where the volume is longer than that. The result is the run's analysis.json.
"""
from pathlib import Path

import numpy as np

from fibjax.analysis import physics
from fibjax.system import files, progress
from fibjax.volumes.volume import Volume, read_box


def analyse_volume(labels: Volume, mvoxel: float, truth: Volume | None = None) -> dict:
  """Measures the central box of a volume.

  Args:
    labels: 0 pore, 1 solid.
    mvoxel: largest box, million voxels.
    truth: the true labels, where they are known; measured in the same box.

  Returns:
    JSON-able: start_zyx and stop_zyx of the box, found (of `physics.analyse`), and
    with a truth truth and comparison (of `physics.compare`). Where the voxel size is
    unknown or the box holds one phase alone: undefined, the reason.
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
  """Measures all volumes of a run, or resumes doing so.

  Args:
    mvoxel: largest box, million voxels.
    segmentations: by name.
    truths: by name, None where only regions are known.
    out: the run's analysis.json.

  Returns:
    The content of analysis.json: name -> as `analyse_volume`.
  """
  quantities = files.read_json(out) if out.exists() else {}
  for name, labels in segmentations.items():
    if name not in quantities:
      quantities[name] = analyse_volume(labels, mvoxel, truths[name])
      files.write_json(out, quantities)
      progress.say(f'analysed {name}')
  return quantities
