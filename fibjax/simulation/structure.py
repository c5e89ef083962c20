"""Random and real two-phase structures on a fine isotropic grid, read in z slabs.

A Structure is a shape and a function: read_slab(start, stop) returns the planes
[start, stop) as bool [z, y, x], True = solid. At no time is more than a slab of fine
voxels needed: level-cut fields and scaled-up real volumes are stored as splines on a
coarse grid, Boolean models as lists of grains. Lengths are in fine voxels (px, 10 nm
in the presets); z points into the sample.
"""
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree
from scipy.special import ndtr, ndtri

from fibjax.errors import InputError
from fibjax.simulation.fields import (
  Field,
  Shape,
  Spectrum,
  field_slab,
  gaussian_field,
  slow_values,
)
from fibjax.system.geometry import mirror_indices

_PACKING_ROUNDS = 6
SLAB = 16  # planes read at a time; a slab of 2400 x 3400 px is 0.5 GB of float32


class Structure(NamedTuple):
  """Solid and pore on the fine grid.

  Attributes:
    shape_zyx: fine voxels.
    read_slab: (start, stop) -> bool [stop - start, y, x], True = solid.
  """
  shape_zyx: Shape
  read_slab: Callable[[int, int], np.ndarray]


class Match(NamedTuple):
  """A porosity that a structure must have in some planes.

  Attributes:
    porosity: fraction of pore.
    planes: fine z of the planes.
    shape_yx: the rectangle [0, shape_yx) of them that counts.
    extra_solid: another structure whose solid counts as well.
  """
  porosity: float
  planes: tuple[int, ...]
  shape_yx: tuple[int, int]
  extra_solid: Structure | None = None


def whole(structure: Structure) -> np.ndarray:
  """Reads all planes: bool [z, y, x], True = solid."""
  slabs = [structure.read_slab(z, min(z + SLAB, structure.shape_zyx[0]))
           for z in range(0, structure.shape_zyx[0], SLAB)]
  return np.concatenate(slabs)


def from_array(solid_zyx: np.ndarray) -> Structure:
  """Structure of an array on the fine grid, [z, y, x], True or 1 = solid."""
  solid_zyx = np.asarray(solid_zyx, bool)
  return Structure(solid_zyx.shape, lambda start, stop: solid_zyx[start:stop])


def union(first: Structure, second: Structure) -> Structure:
  """Solid where either is solid."""
  return Structure(first.shape_zyx, lambda start, stop: (
      first.read_slab(start, stop) | second.read_slab(start, stop)))


def level_cut(shape_zyx: Shape, spectrum: Spectrum, porosity, seed, *,
              slow_length_px: float = 200.0, slow_amplitude: float = 0.0,
              sheets: bool = False, match: Match | None = None) -> Structure:
  """Cuts a Gaussian random field into pore and solid (§7.2 G1; sheets: G6).

  Solid where (g + tau h) / sqrt(1 + tau^2) > Phi^-1(porosity), with h a slow field
  that makes the porosity differ from place to place. With sheets the cut is two-sided,
  |g| < w, which gives thin walls; h and the porosity profile then vary w.

  Args:
    shape_zyx: fine voxels per axis.
    spectrum: spectrum of g.
    porosity: pore fraction in (0, 1), one number or [z] one per fine plane.
    seed: anything numpy.random.default_rng takes.
    slow_length_px: covariance length of h.
    slow_amplitude: tau.
    sheets: two-sided cut.
    match: shifts the level so that this pore fraction is met there (a small box then
      stands for a large film); None leaves the fraction random.

  Raises:
    InputError: for a porosity outside (0, 1).
  """
  profile = np.broadcast_to(np.asarray(porosity, float), shape_zyx[:1])
  if not (profile.min() > 0 and profile.max() < 1):
    raise InputError('porosity', got=f'{profile.min():g} to {profile.max():g}',
                     expected='values between 0 and 1', remedy='give a pore fraction')
  rng = np.random.default_rng(seed)
  g = gaussian_field(shape_zyx, spectrum, rng)
  tau = slow_amplitude
  # Mixed on the coarse grid: the cut then costs one evaluation of splines per voxel.
  slow = slow_values(g, slow_length_px, rng) if tau else np.float32(0)
  if sheets:
    z_coarse = g.factor * (np.arange(g.coefficients_zyx.shape[0]) - 1)
    solid = np.interp(z_coarse, np.arange(shape_zyx[0]), 1 - profile)[:, None, None]
    cut = ndtr(ndtri(solid) * math.sqrt(1 + tau ** 2) - tau * slow)
    width = ndtri((1 + cut) / 2) * np.ones_like(g.coefficients_zyx)
    wall = Field(width.astype(np.float32), g.factor, g.shape_zyx)

    def margin(start, stop):
      return field_slab(wall, start, stop) - np.abs(field_slab(g, start, stop))
  else:
    mixed = (g.coefficients_zyx + tau * slow) / np.float32(math.sqrt(1 + tau ** 2))
    both = Field(mixed, g.factor, g.shape_zyx)
    level = ndtri(profile).astype(np.float32)[:, None, None]

    def margin(start, stop):
      return field_slab(both, start, stop) - level[start:stop]

  offset = 0.0
  if match is not None:
    offset = _matching_offset(margin, match)
  return Structure(tuple(shape_zyx),
                   lambda start, stop: margin(start, stop) > offset)


def _matching_offset(margin, match: Match) -> float:
  """Offset of a margin function (> offset: solid) that meets match.porosity."""
  # Every step-th row and column: about 4 million voxels are enough for a quantile.
  ny, nx = match.shape_yx
  step = math.ceil(math.sqrt(len(match.planes) * ny * nx / 4e6))
  samples = []
  for z in match.planes:
    values = margin(z, z + 1)[0, :ny:step, :nx:step]
    if match.extra_solid is not None:
      values[match.extra_solid.read_slab(z, z + 1)[0, :ny:step, :nx:step]] = np.inf
    samples.append(values.ravel())
  return float(np.quantile(np.concatenate(samples), match.porosity, method='lower'))


# --- Boolean models ----------------------------------------------------------------

def boolean(shape_zyx: Shape, intensity: float, radius_px: float, seed, *,
            length_px: float = 0.0, radius_cv: float = 0.0) -> Structure:
  """Draws a Boolean model of spheres or isotropic cylinders (§7.2 G2, G4).

  Args:
    shape_zyx: fine voxels per axis.
    intensity: grains per voxel; see `boolean_intensity`.
    radius_px: mean radius.
    seed: anything numpy.random.default_rng takes.
    length_px: length of flat-ended cylinders; 0 makes spheres.
    radius_cv: coefficient of variation of log-normal radii.

  Returns:
    Structure whose solid is the union of the grains.
  """
  rng = np.random.default_rng(seed)
  spread = math.sqrt(math.log1p(radius_cv ** 2))
  # Grains whose centre lies outside reach into the volume from this far away.
  margin = length_px / 2 + radius_px * math.exp(4 * spread)
  size = np.array(shape_zyx) + 2 * margin
  count = rng.poisson(intensity * np.prod(size))
  grains = _Grains(
      centre_n3=rng.uniform(-margin, size - margin, (count, 3)),
      axis_n3=rng.standard_normal((count, 3)),
      radius_n=radius_px * np.exp(spread * rng.standard_normal(count)
                                  - spread ** 2 / 2),
      length_px=length_px)
  grains.axis_n3[:] /= np.linalg.norm(grains.axis_n3, axis=1, keepdims=True)
  return _union_of_grains(shape_zyx, grains)


def packing(shape_zyx: Shape, porosity: float, radius_px: float, seed, *,
            radius_cv: float = 0.2, overlap: float = 0.9) -> Structure:
  """Draws a packing of balls that have grown together, as in a sintered powder.

  Balls are added at random where they stay apart (random sequential addition) until
  hardly one more fits. All radii are then multiplied by the one factor with which the
  balls leave the wanted fraction uncovered.

  Args:
    shape_zyx: fine voxels per axis.
    porosity: fraction of pore, in (0, 1).
    radius_px: mean radius before it is multiplied.
    seed: anything numpy.random.default_rng takes.
    radius_cv: coefficient of variation of log-normal radii.
    overlap: least distance of two centres over the sum of their radii.
  """
  rng = np.random.default_rng(seed)
  margin = 2 * radius_px
  size = np.array(shape_zyx) + 2 * margin
  spread = math.sqrt(math.log1p(radius_cv ** 2))
  centre_n3, radius_n = np.zeros((0, 3)), np.zeros(0)
  wanted = 0.45 * np.prod(size) / (4 / 3 * np.pi * radius_px ** 3)  # near jamming
  for _ in range(_PACKING_ROUNDS):
    count = max(1, math.ceil(wanted / 3))
    centres = np.concatenate([centre_n3, rng.uniform(-margin, size - margin,
                                                     (count, 3))])
    radii = np.concatenate([radius_n, radius_px * np.exp(
        spread * rng.standard_normal(count) - spread ** 2 / 2)])
    near = cKDTree(centres).query_pairs(2 * overlap * radii.max(),
                                        output_type='ndarray')
    distance = np.linalg.norm(centres[near[:, 0]] - centres[near[:, 1]], axis=1)
    near = near[distance < overlap * radii[near].sum(1)]
    # Of two balls that touch, the later one goes.
    keep = np.ones(len(centres), bool)
    for first, second in near[np.argsort(near.max(1), kind='stable')]:
      earlier, later = min(first, second), max(first, second)
      keep[later] &= not keep[earlier]
    centre_n3, radius_n = centres[keep], radii[keep]
  points = rng.uniform(0, shape_zyx, (20_000, 3))
  distance, which = cKDTree(centre_n3).query(points, min(12, len(centre_n3)))
  reach = (distance / radius_n[which]).reshape(len(points), -1).min(1)
  factor = float(np.quantile(reach, 1 - porosity))
  return _union_of_grains(shape_zyx, _Grains(
      centre_n3, np.zeros_like(centre_n3), factor * radius_n, 0.0))


def inverse(structure: Structure) -> Structure:
  """Pore where the structure is solid."""
  return Structure(structure.shape_zyx,
                   lambda start, stop: ~structure.read_slab(start, stop))


def _union_of_grains(shape_zyx: Shape, grains: '_Grains') -> Structure:
  """Structure whose solid is the union of the grains."""
  length_px, count = grains.length_px, len(grains.radius_n)
  # A long grain is cut into pieces about as long as wide, so that the boxes whose
  # voxels are tested stay small: the box of a slanted rod holds little of the rod.
  steps = max(1, math.ceil(length_px / (2 * grains.radius_n.mean()))) if count else 1
  at = ((np.arange(steps) + 0.5) / steps - 0.5) * length_px
  piece_p3 = (grains.centre_n3[:, None] + at[:, None] * grains.axis_n3[:, None])
  piece_p3 = piece_p3.reshape(-1, 3)
  grain_p = np.repeat(np.arange(count), steps)
  reach_p = np.hypot(grains.radius_n, length_px / steps / 2)[grain_p]
  low_p3 = np.maximum(np.ceil(piece_p3 - reach_p[:, None]).astype(int), 0)
  high_p3 = np.minimum(np.floor(piece_p3 + reach_p[:, None]).astype(int) + 1,
                       shape_zyx)
  inside = np.all(low_p3 < high_p3, axis=1)
  low_p3, high_p3, grain_p = low_p3[inside], high_p3[inside], grain_p[inside]

  def read_slab(start, stop):
    solid = np.zeros((stop - start, *shape_zyx[1:]), bool)
    for p in np.flatnonzero((low_p3[:, 0] < stop) & (high_p3[:, 0] > start)):
      z, y, x = (slice(a, b) for a, b in zip(low_p3[p], high_p3[p], strict=True))
      z = slice(max(z.start, start), min(z.stop, stop))
      hit = _inside_grain(grains, grain_p[p], (z, y, x))
      solid[z.start - start:z.stop - start, y, x] |= hit
    return solid

  return Structure(tuple(shape_zyx), read_slab)


def grain_moments(radius: float, length: float = 0.0,
                  radius_cv: float = 0.0) -> tuple[float, float, float]:
  """Mean volume, surface and integral of mean curvature of the grains of `boolean`.

  Args:
    radius: mean radius, any unit of length.
    length: length of flat-ended cylinders; 0 for spheres.
    radius_cv: coefficient of variation of log-normal radii.
  """
  square = radius ** 2 * (1 + radius_cv ** 2)
  if not length:
    cube = radius ** 3 * (1 + radius_cv ** 2) ** 3
    return 4 / 3 * np.pi * cube, 4 * np.pi * square, 4 * np.pi * radius
  return (np.pi * square * length, 2 * np.pi * (radius * length + square),
          np.pi * length + np.pi ** 2 * radius)


def boolean_intensity(porosity: float, mean_volume: float) -> float:
  """Grains per volume that leave a fraction porosity uncovered."""
  return -np.log(porosity) / mean_volume


class _Grains(NamedTuple):
  """Spheres (length_px 0) or flat-ended cylinders; lengths in px, vectors z, y, x."""
  centre_n3: np.ndarray
  axis_n3: np.ndarray
  radius_n: np.ndarray
  length_px: float


def _inside_grain(grains: _Grains, n: int, box: tuple[slice, ...]) -> np.ndarray:
  """Voxels of a box whose centres lie in grain n, bool."""
  dz, dy, dx = np.ogrid[box]
  dz, dy, dx = (d - c for d, c in zip((dz, dy, dx), grains.centre_n3[n], strict=True))
  square = dz ** 2 + dy ** 2 + dx ** 2
  if not grains.length_px:
    return square <= grains.radius_n[n] ** 2
  az, ay, ax = grains.axis_n3[n]
  along = dz * az + dy * ay + dx * ax
  return ((square - along ** 2 <= grains.radius_n[n] ** 2)
          & (np.abs(along) <= grains.length_px / 2))


# --- Real volumes ------------------------------------------------------------------

def from_volume(solid_zyx: np.ndarray, shape_zyx: Shape, factor: int) -> Structure:
  """Scales a real binary volume up and tiles it, mirrored, to a given size.

  The voxels serve as coefficients of a cubic spline, which rounds off their corners
  (much like a Gaussian of 0.58 source voxels), and the spline is cut at the level that
  keeps the porosity. Objects one or two voxels thick may vanish.

  Args:
    solid_zyx: bool or 0/1 [z, y, x], 1 = solid.
    shape_zyx: fine voxels wanted.
    factor: fine voxels per source voxel, >= 1.

  Raises:
    InputError: for another rank, other values, one phase only or a bad factor.
  """
  solid_zyx = np.asarray(solid_zyx)
  values = np.unique(solid_zyx)
  if solid_zyx.ndim != 3 or not np.array_equal(values, [0, 1]):
    raise InputError('geometry', remedy='pass a 3-D array such as volume == 1',
                     got=f'{solid_zyx.ndim}-D values {values[:5].tolist()}',
                     expected='a 3-D volume holding both 0 (pore) and 1 (solid)')
  if factor < 1 or factor != int(factor):
    raise InputError('geometry_scale', got=factor, expected='an integer >= 1',
                     remedy='real volumes are scaled up by whole factors')
  factor = int(factor)
  volume = _mirrored(solid_zyx, tuple(factor * n for n in solid_zyx.shape), factor)
  planes = np.unique(np.linspace(0, volume.shape_zyx[0] - 1, 12).astype(int))
  level = _matching_offset(
      lambda start, stop: field_slab(volume, start, stop),
      Match(1 - float(solid_zyx[planes // factor].mean()), tuple(planes.tolist()),
            volume.shape_zyx[1:]))
  field = _mirrored(solid_zyx, tuple(shape_zyx), factor)
  return Structure(field.shape_zyx,
                   lambda start, stop: field_slab(field, start, stop) > level)


def _mirrored(solid_zyx, shape_zyx, factor) -> Field:
  """The volume as spline coefficients, mirrored at its faces to a fine shape."""
  index = [mirror_indices(-1, (n - 1) // factor + 3, size)
           for n, size in zip(shape_zyx, solid_zyx.shape, strict=True)]
  return Field(solid_zyx[np.ix_(*index)].astype(np.float32), factor, shape_zyx)
