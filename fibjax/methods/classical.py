"""Classical methods (§5): segmentation of a whole volume without training.

Each is a function of a prepared volume in memory, [z, y, x] float32 -> uint8 labels,
with defaults of its own. Nothing is trained or tuned, and post-processing is part of
the method.
"""
import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from fibjax.methods.level_set import level_set
from fibjax.methods.method import Method, VoxelSize
from fibjax.methods.morphological_profile import (
  morphological_profile,
  threshold_backpropagation,
)
from fibjax.methods.optical_flow import optical_flow
from fibjax.methods.thresholds import otsu, sauvola, threshold_surface
from fibjax.methods.watershed import marker_watershed
from fibjax.models.facts import CLASSICAL as CLASSICAL_ROLE
from fibjax.models.facts import THRESHOLD, MethodFacts

WINDOW_ZYX = 3, 1, 1  # smallest volume, voxels


class Classical(NamedTuple):
  """A classical method.

  Attributes:
    label: [z, y, x] float32 -> [z, y, x] uint8.
    role: its role in tables and texts (`MethodFacts.role`).
    is_physical: whether it takes the voxel size, as voxel_size_zyx_nm.
  """
  label: Callable[..., np.ndarray]
  role: str = CLASSICAL_ROLE
  is_physical: bool = False


CLASSICAL: dict[str, Classical] = {
    'otsu': Classical(otsu, THRESHOLD),
    'sauvola': Classical(sauvola, THRESHOLD),
    'threshold_surface': Classical(threshold_surface, THRESHOLD),
    'level_set': Classical(level_set, is_physical=True),
    'morphological_profile': Classical(morphological_profile),
    'threshold_backpropagation': Classical(threshold_backpropagation),
    'marker_watershed': Classical(marker_watershed),
    'optical_flow': Classical(optical_flow, is_physical=True),
}


def make_method(config) -> Method:
  """Makes the classical method named by config.model.name."""
  name = config.model.name
  title = name.replace('_', ' ')

  def describe(settings: Mapping) -> str:
    del settings
    return f'Volumes were segmented without training by the method {title}.'

  return Method(
      facts=MethodFacts(title, describe, lambda settings: ('Method', name),
                        role=CLASSICAL[name].role),
      window_zyx=WINDOW_ZYX, check=None, fit=None, open=None,
      label=functools.partial(_label, CLASSICAL[name]))


def _label(classical: Classical, image_zyx: np.ndarray,
           voxel_size_zyx_nm: VoxelSize | None) -> np.ndarray:
  settings = {}
  if classical.is_physical and voxel_size_zyx_nm is not None:
    settings['voxel_size_zyx_nm'] = voxel_size_zyx_nm
  return classical.label(image_zyx, **settings)
