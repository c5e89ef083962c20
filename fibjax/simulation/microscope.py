"""Imaging model of a FIB-SEM: brightness of a structure, pore-backs included (§7.3).

Slice k exposes the fine plane planes[k]. The detector looks down at tilt_deg from the
slice normal, towards larger rows, so through an open pore it sees the wall behind:
the pore-back. Fine planes are visited once, from the deepest up, keeping one plane of
ray depths, so memory holds slices and never the fine volume. Brightness: solid flat
section = 1, before quantisation. Steps are numbered as in §7.3.

Ray depth is in fine planes; a ray leaves row r of plane z for row
r + s(z + m) - s(z), s(z) = round(z tan(tilt)), and NO_HIT or more than the maximal
depth means that nothing sends a signal back.
"""
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from fibjax.errors import InputError
from fibjax.simulation.fields import smooth_noise
from fibjax.simulation.structure import SLAB, Structure

NO_HIT = 60000  # uint16, with room to count on without wrapping


@dataclass(frozen=True)
class Imaging:
  """Parameters of the brightness of a slice (§7.3); nm unless the name says px."""
  tilt_deg: float = 35.0         # view from the slice normal, towards larger rows
  max_depth_nm: float = 2000.0   # rays that go deeper see nothing
  interaction_nm: float = 20.0   # depth that contributes to the solid's brightness
  thin_wall: float = 0.4         # share of the solid's brightness from that depth
  shading_nm: float = 60.0       # size of the opening that lets signal out
  shading_reference: float = 0.9
  shading_power: float = 0.4     # 0 = no lateral shading
  back_brightness: float = 1.1   # eps: brightness of a pore-back at depth 0
  back_length_nm: float = 400.0  # lambda_d: its decay with depth
  edge: float = 0.0              # edge brightening of SE-like contrast
  dark: float = 0.15             # brightness of an empty pore
  texture: float = 0.04          # relative, drawn per slice
  texture_length_px: float = 2.5  # within 15-30 nm; fits the published Otsu scores
  psf_px: float = 1.0
  electrons: float = 120.0       # Poisson electrons per pixel at brightness 1
  read_noise: float = 0.03
  trend: float = 0.0             # dark and back_brightness change +-trend over z
  shine_through: float = 1.0     # scales all pore-backs; 0 = a sample with none
  counts_per_unit: float = 40000.0  # uint16 grey value of brightness 1

  def __post_init__(self):
    if not (0 <= self.tilt_deg < 80 and self.back_length_nm > 0
            and self.max_depth_nm > 0 and self.counts_per_unit > 0):
      raise InputError('imaging', got=self, remedy='compare with a preset',
                       expected='tilt in [0, 80) degrees, positive lengths and gain')


class Exposure(NamedTuple):
  """Structure at and under one exposed plane."""
  index: int             # k
  solid_yx: np.ndarray   # bool
  depth_yx: np.ndarray   # uint16 fine planes to the first solid, 0 in the solid
  density_yx: np.ndarray  # float32 in [0, 1], solid within the interaction depth


def max_depth_planes(imaging: Imaging, pixel_nm: float) -> int:
  """Fine planes under the last slice that a ray may cross."""
  return math.ceil(imaging.max_depth_nm / pixel_nm)


def extra_rows(imaging: Imaging, pixel_nm: float) -> int:
  """Rows a structure needs beyond the image so that every ray stays inside."""
  tangent = math.tan(math.radians(imaging.tilt_deg))
  return math.ceil(max_depth_planes(imaging, pixel_nm) * tangent) + 1


def expose(structure: Structure, planes: Sequence[int], imaging: Imaging,
           pixel_nm: float) -> Iterator[Exposure]:
  """Visits the exposed planes from the deepest to the first (§7.3, step 1).

  Depths follow the recursion d(z) = 0 in the solid, else 1 + d(z + 1) one sheared
  step on; densities the recursion of exponential weights. Both are exact and cost
  one pass over the fine planes.

  Args:
    structure: reaches max_depth_planes below the last exposed plane; extra_rows more
      rows than the image, or the rays of the lowest rows leave it and see nothing.
    planes: increasing fine planes, slice k at planes[k].
    imaging: tilt and interaction depth are used.
    pixel_nm: size of a fine voxel.

  Yields:
    Exposures of all rows, k = len(planes) - 1 first.
  """
  nz, ny, nx = structure.shape_zyx
  where = {z: k for k, z in enumerate(planes)}
  tangent = math.tan(math.radians(imaging.tilt_deg))
  keep = np.float32(math.exp(-pixel_nm / imaging.interaction_nm))
  depth_yx = np.full((ny, nx), NO_HIT, np.uint16)
  density_yx = np.zeros((ny, nx), np.float32)
  for stop in range(nz, planes[0], -SLAB):
    start = max(stop - SLAB, planes[0])
    slab = structure.read_slab(start, stop)
    for z in range(stop - 1, start - 1, -1):
      solid_yx = slab[z - start]
      step = _shear(z + 1, tangent) - _shear(z, tangent)
      depth_yx = _one_plane_up(depth_yx, solid_yx, step)
      density_yx *= keep
      density_yx[solid_yx] += 1 - keep
      if z in where:
        yield Exposure(where[z], solid_yx, depth_yx, density_yx.copy())


def _shear(z: int, tangent: float) -> int:
  """Rows by which plane z is displaced along a ray."""
  return math.floor(z * tangent + 0.5)


def _one_plane_up(depth_yx, solid_yx, step):
  """Ray depths of the plane above: 0 in the solid, else one more than below."""
  above = np.full_like(depth_yx, NO_HIT)
  rows = depth_yx.shape[0] - step
  if rows > 0:
    np.minimum(depth_yx[step:] + np.uint16(1), NO_HIT, out=above[:rows])
  above[solid_yx] = 0
  return above


def ideal_slice(exposure: Exposure, imaging: Imaging, pixel_nm: float,
                rng: np.random.Generator, trend: float = 0.0) -> np.ndarray:
  """Brightness of a slice before noise (§7.3, steps 2-7).

  Args:
    exposure: cut to the rows and columns of the image.
    imaging: parameters.
    pixel_nm: size of a pixel.
    rng: draws the texture.
    trend: place in the stack, -1 first slice to 1 last, for imaging.trend.

  Returns:
    float32 [y, x].
  """
  solid_yx = exposure.solid_yx.astype(np.float32)
  drift = 1 + imaging.trend * trend
  dark = imaging.dark * drift
  back_yx = imaging.shine_through * drift * pore_backs(exposure, imaging, pixel_nm)
  surface_yx = 1 - imaging.thin_wall * (1 - exposure.density_yx)
  image_yx = dark + (1 - dark) * np.where(exposure.solid_yx, surface_yx, back_yx)
  if imaging.edge:
    image_yx += imaging.edge * ndimage.gaussian_gradient_magnitude(solid_yx, 1.0)
  if imaging.texture:
    image_yx *= 1 + imaging.texture * smooth_noise(
        image_yx.shape, imaging.texture_length_px, rng)
  if imaging.psf_px:
    image_yx = ndimage.gaussian_filter(image_yx, imaging.psf_px, mode='nearest')
  return image_yx.astype(np.float32)


def pore_backs(exposure: Exposure, imaging: Imaging, pixel_nm: float) -> np.ndarray:
  """Brightness of the pore-backs, 0 in the solid (§7.3, steps 3 and 4)."""
  open_yx = np.float32(1) - exposure.solid_yx
  visible_yx = 1.0
  if imaging.shading_power:
    visible_yx = ndimage.gaussian_filter(open_yx, imaging.shading_nm / pixel_nm,
                                         mode='nearest', truncate=3.0)
    visible_yx = np.clip(visible_yx / imaging.shading_reference, 0, 1)
    visible_yx **= imaging.shading_power
  reach = max_depth_planes(imaging, pixel_nm)
  decay = np.zeros(reach + 2, np.float32)  # by depth; the last entry: nothing there
  decay[:-1] = np.exp(-np.arange(reach + 1) * pixel_nm / imaging.back_length_nm)
  back_yx = decay[np.minimum(exposure.depth_yx, reach + 1)]
  return imaging.back_brightness * open_yx * back_yx * visible_yx


def add_noise(image_yx: np.ndarray, imaging: Imaging,
              rng: np.random.Generator) -> np.ndarray:
  """Adds counting and read noise (§7.3, step 8); electrons 0 = no counting noise."""
  if imaging.electrons:
    counts = rng.poisson(np.maximum(image_yx, 0) * imaging.electrons)
    image_yx = (counts / imaging.electrons).astype(np.float32)
  if imaging.read_noise:
    noise = rng.standard_normal(image_yx.shape, dtype=np.float32)
    image_yx = image_yx + np.float32(imaging.read_noise) * noise
  return image_yx


def quantise(image_yx: np.ndarray, counts_per_unit: float) -> np.ndarray:
  """Brightness to uint16 grey values, clipped to [0, 65535] (§7.3, step 10)."""
  return np.clip(np.rint(image_yx * counts_per_unit), 0, 65535).astype(np.uint16)
