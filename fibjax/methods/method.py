"""The record of a method: what `config.model.name` stands for.

A method is fitted to annotated regions and then scores volumes (networks, the random
forest), or it labels volumes without training (classical methods). The pipeline, the
studies and the library know methods by this record alone.
"""
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from fibjax.annotation.regions import Regions
from fibjax.inference.score import Scorer
from fibjax.models.facts import MethodFacts
from fibjax.system.run_folder import RunFolder
from fibjax.volumes.volume import Volume

VoxelSize = tuple[float, float, float]


class Inputs(NamedTuple):
  """The data of a run.

  Attributes:
    prepared: volumes by name, float32 in about [0, 1].
    regions: annotated regions with splits.
  """
  prepared: dict[str, Volume]
  regions: Regions


class Method(NamedTuple):
  """A method with its settings.

  Attributes:
    facts: its name in tables and texts, and more.
    window_zyx: voxels that a volume must have at least.
    check: regions -> None; raises InputError when it cannot be trained on them.
    fit: trains, resumes training, or does nothing where a run is trained already;
      returns the row of the best epoch or setting. None: nothing to train.
    open: (what was trained, scoring mode) -> scorer; None for a classical method.
    label: ([z, y, x] float32 grey values, voxel size in nm or None) -> [z, y, x] uint8
      labels; None for a trained method.
  """
  facts: MethodFacts
  window_zyx: tuple[int, int, int]
  check: Callable[[Regions], None] | None
  fit: Callable[[Inputs, RunFolder], dict] | None
  open: Callable[[RunFolder, str], Scorer] | None
  label: Callable[[np.ndarray, VoxelSize | None], np.ndarray] | None
