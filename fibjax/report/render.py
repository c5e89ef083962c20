"""Picture of a phase in three dimensions, by orthographic ray casting on the CPU.

The labels are sampled on a grid of cubes and blurred by about a cell, so that the
surface of the phase is where the field is 1/2 (an isosurface, not a staircase of
voxels). Each ray marches through the field to its first point inside the phase, which
bisection refines. Surfaces are lit by a distant lamp and by the sky: the open part of
the sky above a point (ambient occlusion) is estimated from the field blurred at two
scales, read a little above the surface. Where the box cuts the phase, the cut is drawn
flat and lighter.

The view is that of a block under the microscope: the first slice in front, x to the
right, y downwards, the milling direction z into the picture. Memory is bounded by the
number of cells and pixels, whatever the size of the volume.
"""
from typing import NamedTuple

import numpy as np
from scipy import ndimage

CELLS = 160               # along the longest edge of the box
_RAYS_PER_CELL = 5.0      # along each axis of the picture, before it is reduced
_SUPERSAMPLED = 2         # rays per pixel, along each axis
_STEP = 0.75              # of a ray, in cells
_NEAR = 0.25              # least value of a cell in which the field may reach 1/2
_BISECTIONS = 4
_MARGIN = 1.01            # of the picture around the box
_INTO_ZYX = (1.0, 0.50, -0.62)   # direction of view
_LAMP_UVD = (-0.45, -0.75, -0.80)   # towards the lamp: left, up, to the viewer
_SKY_CELLS = (2.5, 7.0)   # scales of the ambient occlusion
_AMBIENT = 0.42
_FACE_LIGHT = (1.10, 1.20, 0.96)   # of the first slice, the top, the right side
_TETRAHEDRON = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], np.float32)
_SURFACE_RGB = np.array((0.60, 0.70, 0.80), np.float32)
_CUT_RGB = np.array((0.80, 0.78, 0.74), np.float32)
_BAND = 1 << 18           # rays at once


class Rendering(NamedTuple):
  """A picture and what is needed to draw over it.

  Attributes:
    rgba_yx: [y, x, 4] float32 in [0, 1]; transparent where no ray meets the phase.
    corners_8: [8, 2] position (x, y) of the corners of the box in pixels; corner
      4 a + 2 b + c is at the end (1) or start (0) of z, y, x for a, b, c.
  """
  rgba_yx: np.ndarray
  corners_8: np.ndarray


class _Camera(NamedTuple):
  """Unit vectors (z, y, x) of the picture's axes and depth; its origin, in cells."""
  right: np.ndarray
  down: np.ndarray
  into: np.ndarray
  origin: np.ndarray


def render(phase_zyx: np.ndarray, spacing_zyx) -> Rendering:
  """Renders a phase seen from the first slice, the top and the right.

  Args:
    phase_zyx: [z, y, x] bool, True inside the phase.
    spacing_zyx: distance of the voxels along each axis, in any unit.
  """
  field = _resample(phase_zyx, spacing_zyx)
  size = np.array(field.shape, np.float32)
  camera, shape, corners = _frame(size)
  skies = [ndimage.gaussian_filter(field, cells, mode='constant')
           for cells in _SKY_CELLS]
  rgba = np.zeros((shape[0] * shape[1], 4), np.float32)
  for start in range(0, len(rgba), _BAND):
    rays = np.arange(start, min(start + _BAND, len(rgba)))
    rgba[rays] = _cast(field, skies, camera, size, *np.divmod(rays, shape[1]))
  blocks = rgba.reshape(shape[0] // _SUPERSAMPLED, _SUPERSAMPLED,
                        shape[1] // _SUPERSAMPLED, _SUPERSAMPLED, 4)
  picture = blocks.mean((1, 3))
  picture[..., :3] /= np.maximum(picture[..., 3:], 1e-6)
  return Rendering(picture, corners / _SUPERSAMPLED)


def _resample(phase_zyx, spacing_zyx) -> np.ndarray:
  """Samples a phase on cubes and blurs it to a field in [0, 1], 1/2 at its surface."""
  spacing = np.array(spacing_zyx, float)
  lengths = spacing * phase_zyx.shape
  cell = max(spacing.min(), lengths.max() / CELLS)
  counts = np.maximum(np.rint(lengths / cell), 1).astype(int)
  at = np.meshgrid(*((np.arange(n) + 0.5) * (k / n) - 0.5
                     for n, k in zip(counts, phase_zyx.shape, strict=True)),
                   indexing='ij', copy=False)
  field = ndimage.map_coordinates(phase_zyx.astype(np.float32), at, order=1,
                                  mode='nearest', output=np.float32)
  blur = np.maximum(0.8, 0.45 * spacing / cell)
  return ndimage.gaussian_filter(field, blur, mode='nearest')


def _frame(size):
  """Camera around a box of size cells, shape of the picture, corners of the box."""
  into = np.array(_INTO_ZYX) / np.linalg.norm(_INTO_ZYX)
  down = np.array([0., 1., 0.]) - into[1] * into
  down /= np.linalg.norm(down)
  right = np.cross(down, into)
  right *= np.sign(right[2])
  corners = np.array([[z, y, x] for z in (0, 1) for y in (0, 1) for x in (0, 1)]) * size
  flat = np.stack([corners @ right, corners @ down], 1)
  low, high = flat.min(0), flat.max(0)
  middle, half = (low + high) / 2, _MARGIN * (high - low) / 2
  shape = tuple(int(np.ceil(2 * n * _RAYS_PER_CELL / _SUPERSAMPLED)) * _SUPERSAMPLED
                for n in half[::-1])
  depth = corners @ into
  first = middle - np.array(shape[::-1]) / (2 * _RAYS_PER_CELL)
  origin = first[0] * right + first[1] * down + (depth.min() - 1) * into
  camera = _Camera(*(v.astype(np.float32) for v in (right, down, into, origin)))
  return camera, shape, (flat - first) * _RAYS_PER_CELL


def _cast(field, skies, camera, size, rows, columns) -> np.ndarray:
  """Returns [n, rgba] of the rays through pixels, alpha multiplied in."""
  across, below = ((k.astype(np.float32) + np.float32(0.5)) / np.float32(_RAYS_PER_CELL)
                   for k in (columns, rows))
  start = (camera.origin + across[:, None] * camera.right
           + below[:, None] * camera.down)
  with np.errstate(divide='ignore'):
    slabs = np.stack([-start / camera.into, (size - start) / camera.into])
  enter, leave = slabs.min(0), slabs.max(0)
  face = enter.argmax(1)
  enter, leave = enter.max(1), leave.min(1)
  rgba = np.zeros((len(rows), 4), np.float32)
  reach = _march(field, start, camera.into, enter, leave,
                 np.flatnonzero(leave > enter))
  hit = np.flatnonzero(np.isfinite(reach))
  rgba[hit, 3] = 1
  points = start[hit] + reach[hit, None] * camera.into
  rgba[hit, :3] = _shade(field, skies, camera, points)
  is_cut = reach[hit] <= enter[hit]
  light = np.array(_FACE_LIGHT, np.float32)[face[hit[is_cut]], None]
  rgba[hit[is_cut], :3] = np.clip(light * _CUT_RGB, 0, 1)
  return rgba


def _march(field, start, into, enter, leave, rays) -> np.ndarray:
  """Returns [n] distance to the first point inside the phase, infinite without one."""
  reach = np.full(len(start), np.inf, np.float32)
  at = enter[rays].copy()
  while rays.size:
    points = start[rays] + at[:, None] * into
    is_in = _nearest(field, points) > _NEAR  # cheap; interpolated where it may be in
    is_in[is_in] = _linear(field, points[is_in]) > 0.5
    reach[rays[is_in]] = at[is_in]
    at = at[~is_in] + np.float32(_STEP)
    rays = rays[~is_in]
    more = at < leave[rays]
    at, rays = at[more], rays[more]
  hit = np.flatnonzero(np.isfinite(reach) & (reach > enter))
  low, high = np.maximum(reach[hit] - _STEP, enter[hit]), reach[hit]
  for _ in range(_BISECTIONS):
    middle = (low + high) / 2
    is_in = _linear(field, start[hit] + middle[:, None] * into) > 0.5
    low, high = np.where(is_in, low, middle), np.where(is_in, middle, high)
  reach[hit] = high
  return reach


def _nearest(field, points) -> np.ndarray:
  index = points.astype(np.int32)
  np.clip(index, 0, np.array(field.shape, np.int32) - 1, out=index)
  flat = (index[:, 0] * field.shape[1] + index[:, 1]) * field.shape[2] + index[:, 2]
  return field.ravel()[flat]


def _linear(field, points) -> np.ndarray:
  return ndimage.map_coordinates(field, points.T - 0.5, order=1, mode='nearest',
                                 output=np.float32)


def _shade(field, skies, camera, points) -> np.ndarray:
  """Returns [n, rgb] of points on the surface of the phase."""
  normals = np.zeros_like(points)
  for corner in _TETRAHEDRON:  # gradient from four values
    normals -= corner * _linear(field, points + corner)[:, None]
  normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-6)
  lamp = sum(c * v for c, v in zip(_LAMP_UVD, camera[:3], strict=True))
  lamp /= np.linalg.norm(lamp)
  sky = np.ones(len(points), np.float32)
  for blurred, cells in zip(skies, _SKY_CELLS, strict=True):
    above = ndimage.map_coordinates(blurred, (points + cells * normals).T - 0.5,
                                    order=1, mode='constant', output=np.float32)
    sky *= np.clip(1.3 - 1.5 * above, 0.2, 1)
  light = sky * (_AMBIENT + (1.1 - _AMBIENT) * np.clip(normals @ lamp, 0, 1))
  return np.clip(_SURFACE_RGB * light[:, None], 0, 1)
