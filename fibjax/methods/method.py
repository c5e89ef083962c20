"""TODO fibjax.methods.method."""
from typing import NamedTuple

from fibjax import models
from fibjax.annotation.regions import Regions
from fibjax.volumes.volume import Volume


class Inputs(NamedTuple):
  """What the stages after the data work on.

  Attributes:
    prepared: volumes by name, float32 in about [0, 1].
    regions: annotated regions with splits.
    model: network of the config; None for other methods.
  """
  prepared: dict[str, Volume]
  regions: Regions
  model: models.Model | None
