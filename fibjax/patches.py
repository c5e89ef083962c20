"""Neighbourhoods of voxels, cut on the device.

The device holds, for every annotated region r, the image around it: `context_ryxc`,
float32 [r, H + 2 m, W + 2 m, n_z], the region's slices as channels and a margin of m
pixels on each side, mirrored where it leaves the volume. Voxel (y, x) of the region is
at (y + m, x + m). That is all of the volume the regions need, so a run's device memory
follows the annotated area and not the size of the film.

A voxel is a row (r, y, x) of int32. Its neighbourhood, 2 m + 1 pixels wide, starts at
(y, x) of the context: cutting it is one dynamic slice, vmapped over voxels.
"""
import os

import jax
import numpy as np
from jax import lax

from fibjax.checks import InputError
from fibjax.data.regions import Regions
from fibjax.data.volume import Volume, read_mirrored


def check_memory(regions: Regions, margin_px: int, n_z: int) -> None:
  """Checks that the images around all regions fit the device.

  Args:
    regions: all that will be on the device together, of training and validation.
    margin_px: m, pixels around a region in y and x.
    n_z: number of slices.

  Raises:
    InputError: naming the size needed.
  """
  count, height, width = regions.masks_ryx.shape
  needed = 4 * n_z * count * (height + 2 * margin_px) * (width + 2 * margin_px)
  limit = device_memory_bytes()
  if needed > 0.4 * limit:  # the copy on the host and the network need room as well
    raise InputError(
        'the annotated regions', got=f'{needed / 2**30:.2f} GiB of image around '
        f'{count} regions', expected=f'at most 40 % of the {limit / 2**30:.2f} GiB of '
        'the device', remedy='use fewer regions, a smaller config.model.n_z or a '
        'device with more memory')


def cut_contexts(volumes: dict[str, Volume], regions: Regions, margin_px: int,
                 n_z: int) -> np.ndarray:
  """Reads the surroundings of all regions from disk.

  Args:
    volumes: prepared volumes by name.
    regions: r regions of masks [H, W].
    margin_px: m, pixels around a region in y and x.
    n_z: odd number of slices, centred on the region's own.

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


def device_memory_bytes() -> int:
  """Memory of the first device; on CPU the machine's."""
  statistics = jax.local_devices()[0].memory_stats()
  if statistics and 'bytes_limit' in statistics:
    return statistics['bytes_limit']
  return os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')


def sample_voxels(masks_ryx: np.ndarray, fraction: float, seed: int) -> np.ndarray:
  """Draws a class-balanced share of the labelled voxels, without replacement.

  Per class floor(fraction N / 2) voxels, N the labelled voxels of all regions pooled
  (§1.4: 58 982 per class in the paper's training set, 19 660 in its validation set).

  Args:
    masks_ryx: [r, y, x] labels 0, 1, 255.
    fraction: share of the labelled voxels, in (0, 1].
    seed: of the draw.

  Returns:
    [2 floor(fraction N / 2), 3] int32 rows (r, y, x), classes mixed.

  Raises:
    InputError: when a class has too few voxels.
  """
  random = np.random.default_rng(seed)
  labelled = np.count_nonzero(masks_ryx != 255)
  per_class = int(0.5 * fraction * labelled)
  if per_class < 1:
    raise InputError('config.train.voxel_fraction', got=f'{fraction} of {labelled} '
                     'labelled voxels', expected='at least one voxel of each class',
                     remedy='raise it or annotate more')
  drawn = []
  for code, name in ((0, 'pore'), (1, 'solid')):
    found = np.flatnonzero(masks_ryx == code)
    if found.size < per_class:
      raise InputError(f'annotated voxels of class {name}', got=found.size,
                       expected=f'at least {per_class}',
                       remedy='annotate more of it or lower '
                       'config.train.voxel_fraction')
    drawn.append(random.choice(found, per_class, replace=False))
  chosen = random.permutation(np.concatenate(drawn))
  return np.stack(np.unravel_index(chosen, masks_ryx.shape), 1).astype(np.int32)


def gather_windows(context_ryxc: jax.Array, corners_b3: jax.Array,
                   side_px: int) -> jax.Array:
  """Cuts square windows out of the contexts.

  Args:
    context_ryxc: [r, y, x, c] contexts on the device.
    corners_b3: [b, 3] int32 rows (r, y, x), y and x of the window's first pixel in the
      context, which for a voxel's neighbourhood is (y, x) of the voxel in its region.
      The window must lie inside: dynamic_slice would shift it silently.
    side_px: static width of the windows.

  Returns:
    [b, side_px, side_px, c] windows.
  """
  shape = (1, side_px, side_px, context_ryxc.shape[3])

  def gather_window(corner_3):
    return lax.dynamic_slice(context_ryxc, (*corner_3, 0), shape)[0]

  return jax.vmap(gather_window)(corners_b3)


def gather_labels(masks_ryx: jax.Array, corners_b3: jax.Array,
                  side_px: int) -> jax.Array:
  """Cuts [b, side_px, side_px] label windows; corners are (r, y, x) of the region."""
  return gather_windows(masks_ryx[..., None], corners_b3, side_px)[..., 0]
