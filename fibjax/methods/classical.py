"""The classical methods by name, and as the segmentation of a run (methods, section 5).

Each is one function of a whole prepared volume, [z, y, x] float32 -> uint8 labels, with
its defaults; nothing is trained or tuned, and each cleans up for itself.
"""
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fibjax.errors import InputError
from fibjax.methods.level_set import level_set
from fibjax.methods.morphological_profile import (
  morphological_profile,
  threshold_backpropagation,
)
from fibjax.methods.optical_flow import optical_flow
from fibjax.methods.thresholds import otsu, sauvola, threshold_surface
from fibjax.methods.watershed import marker_watershed
from fibjax.system import devices, progress
from fibjax.volumes.volume import Volume, new_volume, open_volume, read_box, write_box

METHODS: dict[str, Callable] = {function.__name__: function for function in (
    otsu, sauvola, threshold_surface, level_set, morphological_profile,
    threshold_backpropagation, marker_watershed, optical_flow)}
_PHYSICAL = ('level_set', 'optical_flow')  # they take the size of a voxel
_COPIES = 12  # of the volume, float32, that a method holds at most
WINDOW_ZYX = 3, 1, 1  # what a volume has at least


def segment_volume(name: str, source: Volume, out) -> Volume:
  """Segments a prepared volume that fits the memory; once.

  Args:
    name: one of METHODS.
    source: prepared volume.
    out: path of the label volume; returned as it is when it is there.

  Raises:
    InputError: when the volume does not fit the memory, or as the method.
  """
  if Path(out).exists():
    return open_volume(out)
  needed, limit = 4 * _COPIES * math.prod(source.shape), devices.device_memory_bytes()
  if needed > limit:
    raise InputError(str(source.path), got=f'{needed / 2**30:.1f} GiB needed by {name}',
                     expected=f'at most the {limit / 2**30:.1f} GiB of this machine',
                     remedy='segment a part of it, or use a network')
  volume_zyx = read_box(source, (0, 0, 0), source.shape)
  settings = {}
  if name in _PHYSICAL and source.voxel_size_zyx_nm is not None:
    settings['voxel_size_zyx_nm'] = source.voxel_size_zyx_nm
  labels_zyx = METHODS[name](volume_zyx, **settings)
  with new_volume(out, source.shape, np.uint8, source.voxel_size_zyx_nm,
                          fill_value=None, attributes={'method': name}) as made:
    write_box(made, (0, 0, 0), labels_zyx)
  progress.say(f'{name}: segmented {source.path.name}')
  return open_volume(out)
