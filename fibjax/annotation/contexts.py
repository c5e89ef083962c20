"""Images around annotated regions, as training needs them on the device.

For every region r: `context_ryxc`, float32 [r, H + 2 m, W + 2 m, n_z], the n_z slices
around the region as channels and a margin of m pixels on each side, mirrored where it
leaves the volume. Voxel (y, x) of the region is at (y + m, x + m), so its
neighbourhood, 2 m + 1 pixels wide, starts at (y, x) of the context (models/windows.py
cuts it). Training needs no other part of the volume: device memory grows with the
annotated area, not with the size of the film.
"""
import numpy as np

from fibjax.annotation.regions import Regions
from fibjax.errors import InputError
from fibjax.system.devices import device_memory_bytes
from fibjax.volumes.volume import Volume, read_mirrored


def check_memory(regions: Regions, margin_px: int, n_z: int) -> None:
  """Checks that the images around all regions fit into device memory.

  Args:
    regions: all regions on the device at the same time, of training and validation.
    margin_px: m, pixels around a region in y and x.
    n_z: number of slices.

  Raises:
    InputError: naming the size needed.
  """
  count, height, width = regions.masks_ryx.shape
  needed = 4 * n_z * count * (height + 2 * margin_px) * (width + 2 * margin_px)
  limit = device_memory_bytes()
  if needed > 0.4 * limit:  # a copy (on a CPU, the host's) and the network need room
    raise InputError(
        'annotated regions', got=f'{needed / 2**30:.2f} GiB of image around '
        f'{count} regions', expected=f'at most 40 % of the {limit / 2**30:.2f} GiB of '
        'the device', remedy='use fewer regions, a smaller config.model.n_z or a '
        'device with more memory')


def cut_contexts(volumes: dict[str, Volume], regions: Regions, margin_px: int,
                 n_z: int) -> np.ndarray:
  """Reads the contexts of all regions from disk.

  Args:
    volumes: prepared volumes by name.
    regions: r regions of masks [H, W].
    margin_px: m, pixels around a region in y and x.
    n_z: odd number of slices, centred on the slice of the region.

  Returns:
    [r, H + 2 m, W + 2 m, n_z] float32 context_ryxc.
  """
  count, height, width = regions.masks_ryx.shape
  shape = (count, height + 2 * margin_px, width + 2 * margin_px, n_z)
  context_ryxc = np.empty(shape, np.float32)
  half = n_z // 2
  for r in range(count):
    z, y, x = (int(axis[r]) for axis in (regions.z, regions.y, regions.x))
    block_zyx = read_mirrored(
        volumes[regions.volume[r]], (z - half, y - margin_px, x - margin_px),
        (z + half + 1, y + height + margin_px, x + width + margin_px))
    context_ryxc[r] = np.moveaxis(block_zyx, 0, -1)
  return context_ryxc
