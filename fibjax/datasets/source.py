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


def _no_facts(data) -> list[tuple[str, str]]:
  del data
  return []


class Source(NamedTuple):
  """Where volumes and regions come from.

  Attributes:
    open_volumes: request -> raw volumes by name, made on the first call if need be.
    load_regions: (request, volumes) -> annotated regions; not called where the workdir
      has its table.
    describe: config.data -> (name, text) of what went in, for the report.
    is_users: whether it reads the files of config.data.volumes and .regions, in which
      several experts may have annotated a place.
    is_simulated: whether the strength of pore-backs, config.data.shine_through, can be
      chosen.
    is_published: whether it is the archive of Skärberg et al. 2021, with published
      tables to compare with and published weights.
  """
  open_volumes: Callable[[Request], dict[str, Volume]]
  load_regions: Callable[[Request, dict[str, Volume]], Regions]
  describe: Callable[[object], list[tuple[str, str]]] = _no_facts
  is_users: bool = False
  is_simulated: bool = False
  is_published: bool = False
