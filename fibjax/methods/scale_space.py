"""Gaussian scale-space features of voxels, the input of the random forest (§2).

The basic feature of a voxel is the grey value at its position, in its own slice or in
one up to three slices away, smoothed in the plane by a Gaussian of sigma_px. The sets:
* F1: slices -3 to 3 x sigma 0 (raw), 1, 2, 4, 8, 16, 32, 64 px: 56 features;
* F2: F1 and, in the voxel's slice at sigma 1 to 16 px, the scale-normalised gradient
  magnitude, Laplacian and the two ordered eigenvalues of the Hessian: 76 features;
* F3: F1 and the differences from the voxel's slice at sigma 1, 2, 4 px, which follow
  how the image changes as material is milled away: 74 features.
The sets are fibjax's choice: Roding et al. 2021 used scale-space features and a random
forest, but their list of features is not public.

A block is float32 [z, y, x] of a prepared volume with `margin_px` voxels around the
inner ones in y and x and `n_slices // 2` slices in z, mirrored at the faces of the
volume without repeating the edge ('reflect' of numpy.pad, 'mirror' of scipy). Kernels
are cut off at 4 sigma. Derivatives are central differences of the smoothed image, exact
for polynomials of degree 2.

Each slice is smoothed once per scale, by products with banded matrices. The products
are exact: grey values are rounded to multiples of 2^-22 and weights to multiples of
2^-27 with sum 1, so all sums fit into the 53 bits of a float64 and the order of
summation does not matter. A feature of F1 or F3 therefore has the same bits in every
block and tile and on every device; it differs from scipy.ndimage by less than 1e-6 for
grey values in [0, 1]. This matters because a tree compares features with thresholds,
where any difference could flip a voxel.
"""
import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fibjax.annotation.regions import Regions
from fibjax.errors import InputError, unknown
from fibjax.system import devices, progress
from fibjax.volumes.volume import Volume, read_mirrored

FEATURE_SETS = ('F1', 'F2', 'F3')
SIGMAS_PX = (0, 1, 2, 4, 8, 16, 32, 64)
GREY_LIMIT = 8.  # sums are exact below it; prepared volumes are in about [0, 1]
_HALF_SLICES = 3
_DERIVATIVES = ('gradient', 'laplacian', 'hessian1', 'hessian2')
_DERIVATIVE_SIGMAS_PX = (1, 2, 4, 8, 16)
_DIFFERENCE_SIGMAS_PX = (1, 2, 4)
_TRUNCATE = 4  # radius of a kernel in units of sigma
# A grey value below 8 has 3 + 22 bits, a weight 27: 52 of the 53 bits of a float64.
_GREY_STEP, _WEIGHT_STEP = 2.**-22, 2.**-27


class Levels(NamedTuple):
  """The slices of a tile at all scales; n runs over its inner voxels, y then x.

  Attributes:
    smooth_zsn: [z, scale, n] float32 smoothed grey values of all slices.
    derived_zen: [z, 20, n] float32 derivatives of F2 of all slices; [z, 0, n] for the
      other sets.
  """
  smooth_zsn: jax.Array
  derived_zen: jax.Array


def feature_names(feature_set: str) -> tuple[str, ...]:
  """Names of the features in order, e.g. 'smooth s4 z-1', 'laplacian s4'.

  Raises:
    InputError: for an unknown set.
  """
  _check_set(feature_set)
  offsets = range(-_HALF_SLICES, _HALF_SLICES + 1)
  names = [f'smooth s{sigma} z{dz:+d}' for dz in offsets for sigma in SIGMAS_PX]
  if feature_set == 'F2':
    names += [f'{derivative} s{sigma}' for sigma in _DERIVATIVE_SIGMAS_PX
              for derivative in _DERIVATIVES]
  if feature_set == 'F3':
    names += [f'difference s{sigma} z{dz:+d}' for dz in offsets if dz
              for sigma in _DIFFERENCE_SIGMAS_PX]
  return tuple(names)


def margin_px(feature_set: str) -> int:
  """Margin of a block in y and x on each side, voxels.

  Raises:
    InputError: for an unknown set.
  """
  _check_set(feature_set)
  return _TRUNCATE * max(SIGMAS_PX)


def n_slices(feature_set: str) -> int:
  """Number of slices that contribute to a voxel's features, its own in the middle.

  Raises:
    InputError: for an unknown set.
  """
  _check_set(feature_set)
  return 2 * _HALF_SLICES + 1


def margin_zyx(feature_set: str) -> tuple[int, int, int]:
  """Margin of a block along z, y and x on each side, voxels.

  Raises:
    InputError: for an unknown set.
  """
  return n_slices(feature_set) // 2, *(margin_px(feature_set),) * 2


def compute_features(block_zyx: np.ndarray, feature_set: str) -> np.ndarray:
  """Computes the features of the inner voxels of a block.

  Args:
    block_zyx: [z, y, x] float32 grey values of a prepared volume, with the margin of
      `margin_zyx` on each side.
    feature_set: one of FEATURE_SETS.

  Returns:
    [z, y, x, f] float32, in the order of `feature_names`.

  Raises:
    InputError: for an unknown set, a block without inner voxels, or grey values that
      are not finite or not below GREY_LIMIT.
  """
  inner_zyx, tile_zyx = plan_tiles(block_zyx, feature_set)
  count = len(feature_names(feature_set))
  features_zyxf = np.empty((*inner_zyx, count), np.float32)
  starts = tile_starts(inner_zyx, tile_zyx)
  tile_features = _features_fn(feature_set, tile_zyx)(
      (), cut_tiles(block_zyx, feature_set, tile_zyx, starts))
  for start, features_zfn in zip(starts, tile_features, strict=True):
    box = tuple(slice(a, a + n) for a, n in zip(start, tile_zyx, strict=True))
    features_zyxf[box] = np.moveaxis(features_zfn, 1, -1).reshape(*tile_zyx, count)
  return features_zyxf


def sample_features(volumes: dict[str, Volume], regions: Regions, voxels_n3: np.ndarray,
                    feature_set: str, tile_px: int = 512) -> np.ndarray:
  """Computes the features of voxels in annotated regions.

  Args:
    volumes: prepared volumes by name.
    regions: the regions that the voxels lie in.
    voxels_n3: [n, 3] int rows (r, y, x), y and x inside region r, as drawn by
      `sampling.sample_voxels`.
    feature_set: one of FEATURE_SETS.
    tile_px: largest side of the tiles in which a region is read.

  Returns:
    [n, f] float32; the labels are regions.masks_ryx[tuple(voxels_n3.T)].

  Raises:
    InputError: for an unknown set, or as `compute_features`, naming the region.
  """
  count = len(feature_names(feature_set))
  margins = margin_zyx(feature_set)
  features_nf = np.empty((len(voxels_n3), count), np.float32)
  extents = np.array(regions.masks_ryx.shape[1:])
  sides = np.minimum(extents, tile_px)
  voxels_n3 = np.asarray(voxels_n3, int).reshape(-1, 3)
  # First voxel of the tile that each voxel lies in. All tiles have the same size, so
  # that one program serves: the last ones of a region start earlier, not smaller.
  starts_n3 = voxels_n3.copy()
  starts_n3[:, 1:] = np.minimum(voxels_n3[:, 1:] // sides * sides, extents - sides)
  tiles, tile_n = np.unique(starts_n3, axis=0, return_inverse=True)
  for k, (r, row, column) in enumerate(progress.track(
      tiles.tolist(), 'features', 'tile', len(tiles))):
    first = np.array((regions.z[r], regions.y[r] + row, regions.x[r] + column))
    block_zyx = read_mirrored(volumes[regions.volume[r]], first - margins,
                              first + (1, *sides) + margins)
    check_grey(f'region {r} of volume {regions.volume[r]}', block_zyx)
    rows = np.flatnonzero(tile_n == k)
    _, y, x = (voxels_n3[rows] - tiles[k]).T
    features_nf[rows] = compute_features(block_zyx, feature_set)[0, y, x]
  return features_nf


@functools.cache
def _features_fn(feature_set: str, tile_zyx):
  """Compiles ((), tiles with margins) -> features [z, f, n] of each tile.

  Cached by the size of the tiles, which the program depends on.
  """
  depth, *tile_yx = tile_zyx

  def compute(_, block_zyx):
    levels = make_levels(block_zyx, feature_set, tuple(tile_yx))
    return lax.map(lambda z: gather_features(
        levels, feature_set, z, 0, tile_yx[0] * tile_yx[1]), jnp.arange(depth))
  return devices.map_images(compute)


def plan_tiles(block_zyx: np.ndarray, feature_set: str
               ) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
  """Checks a block and chooses the size of tiles, which bounds the memory needed.

  Returns:
    Numbers of inner voxels of the block and of a tile along z, y and x.

  Raises:
    InputError: as `compute_features`.
  """
  margins = margin_zyx(feature_set)
  inner_zyx = tuple(n - 2 * m for n, m in zip(block_zyx.shape, margins, strict=False))
  if block_zyx.ndim != 3 or min(inner_zyx) < 1:
    raise InputError('block', got=f'shape {block_zyx.shape}',
                     expected=f'z, y, x with inner voxels between margins of {margins}',
                     remedy='read it with the margin of `scale_space.margin_zyx`')
  check_grey('block', block_zyx)
  side = 256 if jax.default_backend() == 'cpu' else 512  # memory and caches
  # As many tiles as tiles of the largest size would need, but of equal size: the last
  # ones overlap as little as possible.
  tile_zyx = tuple(-(-n // -(-n // largest)) for n, largest in
                   zip(inner_zyx, (8, side, side), strict=True))
  return inner_zyx, tile_zyx


def check_grey(name: str, grey: np.ndarray) -> None:
  """Raises InputError unless all grey values are finite and below GREY_LIMIT."""
  # A NaN anywhere makes min and max NaN, and then the comparisons fail as they should.
  low, high = float(grey.min()), float(grey.max())
  if not (low > -GREY_LIMIT and high < GREY_LIMIT):
    raise InputError(name, got=f'grey values from {low:g} to {high:g}',
                     expected=f'finite values between -{GREY_LIMIT:g} and '
                     f'{GREY_LIMIT:g}, as in a prepared volume',
                     remedy='prepare the volume, or repair the slice')


def tile_starts(inner_zyx, tile_zyx) -> list[tuple[int, int, int]]:
  """First inner voxels of equal tiles that cover a block; the last ones may overlap."""
  return list(itertools.product(*(
      [min(a, extent - tile) for a in range(0, extent, tile)]
      for extent, tile in zip(inner_zyx, tile_zyx, strict=True))))


def cut_tiles(block_zyx: np.ndarray, feature_set: str, tile_zyx, starts):
  """Yields the tiles of a block, float32 [z, y, x] with their margins."""
  sizes = [n + 2 * m for n, m in zip(tile_zyx, margin_zyx(feature_set), strict=True)]
  for start in starts:
    box = tuple(slice(a, a + n) for a, n in zip(start, sizes, strict=True))
    yield np.asarray(block_zyx[box], np.float32)


def make_levels(block_zyx: jax.Array, feature_set: str, tile_yx: tuple[int, int]
                ) -> Levels:
  """Smooths every slice of a tile at all scales; pure and compilable.

  Args:
    block_zyx: [z, y, x] float32 with `margin_px` around tile_yx.
    feature_set: static, one of FEATURE_SETS.
    tile_yx: static, inner voxels in y and x.

  Returns:
    Levels of all z slices.
  """
  derived_px = _DERIVATIVE_SIGMAS_PX if feature_set == 'F2' else ()
  margin = margin_px(feature_set)

  def smooth_slice(grey_yx):
    grey_yx = _round(grey_yx.astype(jnp.float64))
    smooth, derived = [], []
    for sigma in SIGMAS_PX:
      rim = int(sigma in derived_px)  # neighbours for the central differences
      level_yx = _smooth(grey_yx, sigma, tile_yx, margin, rim)
      if rim:
        derived += _derive(level_yx, sigma)
        level_yx = level_yx[1:-1, 1:-1]
      smooth.append(level_yx.astype(jnp.float32).reshape(-1))
    empty = jnp.zeros((0, smooth[0].size), jnp.float32)
    return jnp.stack(smooth), jnp.stack(derived) if derived else empty

  # Slice by slice (map, not vmap): float64 levels of one slice at a time.
  with jax.enable_x64(True):
    return Levels(*lax.map(smooth_slice, block_zyx))


def gather_features(levels: Levels, feature_set: str, z, start, count: int
                    ) -> jax.Array:
  """Gathers the features of consecutive voxels of a slice; pure and compilable.

  Args:
    levels: result of `make_levels`.
    feature_set: static, one of FEATURE_SETS.
    z: inner slice, from 0.
    start: first voxel in the slice, from 0, in the order y then x.
    count: static number of voxels; start + count must not exceed those of the slice.

  Returns:
    [f, count] float32, in the order of `feature_names`.
  """
  slices, scales = 2 * _HALF_SLICES + 1, len(SIGMAS_PX)
  zero = jnp.zeros_like(z)
  start = jnp.asarray(start, zero.dtype)
  smooth_zsn = lax.dynamic_slice(levels.smooth_zsn, (z, zero, start),
                                 (slices, scales, count))
  features = [smooth_zsn.reshape(slices * scales, count)]
  if feature_set == 'F2':
    features.append(lax.dynamic_slice(
        levels.derived_zen, (z + _HALF_SLICES, zero, start),
        (1, levels.derived_zen.shape[1], count))[0])
  if feature_set == 'F3':
    scale_indices = np.array([SIGMAS_PX.index(sigma)
                              for sigma in _DIFFERENCE_SIGMAS_PX])
    fine_zsn = smooth_zsn[:, scale_indices]
    others = np.delete(np.arange(slices), _HALF_SLICES)
    difference_zsn = fine_zsn[others] - fine_zsn[_HALF_SLICES:_HALF_SLICES + 1]
    features.append(difference_zsn.reshape(-1, count))
  return jnp.concatenate(features)


def gaussian_weights(sigma_px: float) -> np.ndarray:
  """Weights of a Gaussian cut off at 4 sigma: multiples of 2^-27 with sum 1.

  Returns:
    [2 r + 1] float64, r = round(4 sigma_px).
  """
  radius = int(_TRUNCATE * sigma_px + 0.5)
  weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma_px) ** 2)
  weights = np.rint(weights / weights.sum() / _WEIGHT_STEP)
  # The centre takes the rounding error of the sum, where it is smallest in relation.
  weights[radius] += 1 / _WEIGHT_STEP - weights.sum()
  return weights * _WEIGHT_STEP


def _check_set(feature_set: str) -> None:
  if feature_set not in FEATURE_SETS:
    raise unknown('feature set', feature_set, FEATURE_SETS)


def _round(grey):
  """Rounds to multiples of _GREY_STEP."""
  return jnp.round(grey * (1 / _GREY_STEP)) * _GREY_STEP


def _smooth(grey_yx, sigma_px: int, tile_yx, margin: int, rim: int):
  """Smooths a slice by sigma_px.

  Args:
    grey_yx: [tile + 2 margin] float64 rounded by `_round`.
    rim: voxels to keep around the tile.

  Returns:
    [tile + 2 rim] float64.
  """
  radius = _TRUNCATE * sigma_px
  cut = margin - radius - rim
  window_yx = grey_yx[cut:grey_yx.shape[0] - cut, cut:grey_yx.shape[1] - cut]
  if not sigma_px:
    return window_yx
  rows_yk, columns_xk = (jnp.asarray(_banded(sigma_px, n + 2 * rim)) for n in tile_yx)
  # Rounded again between the two products: each is exact on its own, and the second one
  # needs factors of few bits as well.
  return _round(rows_yk @ window_yx) @ columns_xk.T


@functools.cache
def _banded(sigma_px: int, length: int) -> np.ndarray:
  """Matrix [length, length + 2 r] whose rows are the shifted weights."""
  weights = gaussian_weights(sigma_px)
  band = np.zeros((length, length + len(weights) - 1))
  for row in range(length):
    band[row, row:row + len(weights)] = weights
  return band


def _derive(level_yx, sigma_px: int) -> list:
  """Computes the _DERIVATIVES of a level [y + 2, x + 2], each [n] float32.

  Multiplied by a power of sigma for each order of differentiation (Lindeberg's
  normalisation), so that a threshold means the same at every scale.
  """
  inner = level_yx[1:-1, 1:-1]
  up, down = level_yx[:-2, 1:-1], level_yx[2:, 1:-1]
  left, right = level_yx[1:-1, :-2], level_yx[1:-1, 2:]
  slope_y, slope_x = (down - up) / 2, (right - left) / 2
  curve_y, curve_x = up - 2 * inner + down, left - 2 * inner + right
  mixed = (level_yx[2:, 2:] - level_yx[2:, :-2] - level_yx[:-2, 2:]
           + level_yx[:-2, :-2]) / 4
  # Eigenvalues of a symmetric 2 x 2 matrix: half the trace plus or minus the radius.
  middle = (curve_y + curve_x) / 2
  spread = jnp.sqrt(((curve_y - curve_x) / 2) ** 2 + mixed ** 2)
  square = sigma_px ** 2
  derived = (sigma_px * jnp.sqrt(slope_y ** 2 + slope_x ** 2),
             square * (curve_y + curve_x), square * (middle + spread),
             square * (middle - spread))
  return [derivative_yx.astype(jnp.float32).reshape(-1) for derivative_yx in derived]
