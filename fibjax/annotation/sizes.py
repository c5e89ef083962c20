"""Size of an annotated region and of its context.

Imports nothing, so that the command line can name the defaults without delay.
"""
from typing import NamedTuple


class Sizes(NamedTuple):
  """Size of a region and of its context, voxels; by default those of the paper (§1.3).

  Attributes:
    region_px: height and width of a region.
    context_px: height and width of its context.
    context_slices: slices of its context.
  """
  region_px: int = 256
  context_px: int = 384
  context_slices: int = 7

  @property
  def context_zyx(self) -> tuple[int, int, int]:
    """Shape of a context."""
    return self.context_slices, self.context_px, self.context_px

  @property
  def core_zyx(self) -> tuple[int, int, int]:
    """First voxel of the region in its context, centred as in `regions`."""
    in_plane = -((self.region_px - self.context_px) // 2)
    return -((1 - self.context_slices) // 2), in_plane, in_plane


PAPER_SIZES = Sizes()
