"""The record of a data source."""
from collections.abc import Callable
from typing import NamedTuple

from fibjax.annotation.regions import Regions
from fibjax.system.run_folder import RunFolder
from fibjax.volumes.volume import Volume


class Request(NamedTuple):
  """What a run asks of its data source.

  Attributes:
    data: config.data.
    fractions: shares of the regions for train, val and test.
    window_zyx: voxels that the method sees around a voxel.
    run: workdir; volumes that the source makes go to `run.raw(name)`.
    has_regions: whether the workdir has its table of regions already.
  """
  data: object
  fractions: tuple[float, float, float]
  window_zyx: tuple[int, int, int]
  run: RunFolder
  has_regions: bool


class Source(NamedTuple):
  """Where volumes and regions come from.

  Attributes:
    open_volumes: request -> raw volumes by name, made on the first call if need be.
    load_regions: (request, volumes) -> annotated regions; not called where the workdir
      has its table.
    has_experts: whether several experts may have annotated a place.
  """
  open_volumes: Callable[[Request], dict[str, Volume]]
  load_regions: Callable[[Request, dict[str, Volume]], Regions]
  has_experts: bool = False
