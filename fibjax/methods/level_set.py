"""Two-phase Chan-Vese segmentation of a volume by threshold dynamics.

The region-based segmentation that Jorgensen et al. 2010 (Ultramicroscopy 110:216)
apply to FIB-SEM, with these choices of ours: one function for two phases, Esedoglu &
Tsai's 2006 (J. Comput. Phys. 211:367) threshold dynamics instead of a differential
equation, and Li et al.'s 2008 (IEEE Trans. Image Process. 17:1940) means of a moving
window instead of a bias field. With the solid chi(y) in {0, 1}, windows w(x, y), means
c1(x), c0(x) of solid and pore in the window at x, and a narrow kernel G:

  E = sum_y chi(y) e1(y) + (1 - chi(y)) e0(y) + mu sum_y chi(y) (G * (1 - chi))(y)
      + eps sum_x |c(x) - C|^2,    e(y) = sum_x w(x, y) (I(y) - c(x))^2.

The second sum is a multiple of the interface's area. The last keeps the means of a
window that has one phase only close to C, the means at the start. Each step takes the
best c for chi, then the best chi for the linear bound of E, so E never rises. Windows
stand on a grid coarser than the pixels, which makes their width free of cost. Slices
are denoised beforehand by total variation, in place of the paper's diffusion filter.
"""
from typing import NamedTuple

import numpy as np
from scipy import ndimage
from skimage import measure, restoration

from fibjax.methods.classical_common import (
  VoxelSize,
  check_range,
  check_volume,
  check_voxel_size,
  contrast,
  otsu_threshold,
)

_BLOCKS_PER_SIGMA = 5
_EPSILON = 0.02  # share of a phase in its window below which its mean tends to C


class _Model(NamedTuple):
  """Fixed parts of the energy; grey values are in units of their deviation."""
  image_zyx: np.ndarray
  block_px: int
  window: tuple[float, float, float]   # sigma on the grid of blocks, slices and blocks
  kernel: tuple[float, float, float]   # sigma of G, voxels
  mu: float
  means: tuple[float, float]           # C of pore and solid


def level_set(volume_zyx: np.ndarray, *,
              voxel_size_zyx_nm: VoxelSize = (50.0, 10.0, 10.0),
              denoise: float = 0.2, mu: float = 0.2, kernel_px: float = 3.0,
              window_px: float = 40.0, iterations: int = 60) -> np.ndarray:
  """Segments by minimising a Chan-Vese energy with local means from Otsu's start.

  Lengths in pixels are along x; along y and z they are converted by the voxel size,
  so that an interface costs the same in every direction.

  Args:
    volume_zyx: [z, y, x] grey values, solid brighter than pore.
    voxel_size_zyx_nm: voxel size.
    denoise: weight of the total variation, share of the contrast P95 - P5; 0: none.
    mu: weight of the interface term, in variances of the denoised volume.
    kernel_px: standard deviation of the kernel that measures the interface.
    window_px: standard deviation of the window of the local means.
    iterations: at most; stops when no voxel changes.

  Returns:
    [z, y, x] uint8, 1 solid and 0 pore.

  Raises:
    InputError: for a bad volume, voxel size or parameter.
  """
  volume_zyx = check_volume(volume_zyx)
  check_voxel_size(voxel_size_zyx_nm)
  check_range('denoise', denoise, 0)
  check_range('mu', mu, 0)
  check_range('kernel_px', kernel_px, 0.1)
  check_range('window_px', window_px, 1)
  check_range('iterations', iterations, 1)
  solid_zyx, _ = _minimise(
      _model(_denoised(volume_zyx, denoise), voxel_size_zyx_nm, mu, kernel_px,
             window_px), int(iterations))
  return solid_zyx.astype(np.uint8)


def _denoised(volume_zyx, denoise):
  if not denoise:
    return volume_zyx
  weight = denoise * contrast(volume_zyx)
  return np.stack([restoration.denoise_tv_chambolle(image_yx, weight)
                   for image_yx in volume_zyx])


def _model(smooth_zyx, voxel_size_zyx_nm, mu, kernel_px, window_px):
  image_zyx = (smooth_zyx - smooth_zyx.mean()) / smooth_zyx.std()
  solid_zyx = image_zyx > otsu_threshold(image_zyx)
  means = tuple(float(image_zyx[solid_zyx == k].mean()) for k in (0, 1))
  block_px = max(1, int(window_px / _BLOCKS_PER_SIGMA))
  z, y, x = (voxel_size_zyx_nm[2] / s for s in voxel_size_zyx_nm)
  return _Model(image_zyx, block_px,
                (window_px * z, window_px * y / block_px, window_px * x / block_px),
                (kernel_px * z, kernel_px * y, kernel_px * x), mu, means)


def _minimise(model, iterations):
  """Descends; returns the solid (bool [z, y, x]) and the energy before each step."""
  solid_zyx = model.image_zyx > sum(model.means) / 2
  energies = []
  for _ in range(iterations):
    excess_zyx, energy = _linear_bound(model, solid_zyx)
    energies.append(energy)
    better_zyx = excess_zyx < 0
    if np.array_equal(better_zyx, solid_zyx):
      break
    solid_zyx = better_zyx
  return solid_zyx, energies


def _linear_bound(model, solid_zyx):
  """What a voxel adds to the energy as solid rather than pore, and the energy."""
  excess_zyx = np.zeros_like(model.image_zyx)
  energy = 0.0
  for phase in (0, 1):
    member_zyx = (solid_zyx == phase).astype(np.float32)
    cost_zyx, penalty = _data_cost(model, member_zyx, model.means[phase])
    energy += float(np.sum(member_zyx * cost_zyx, dtype=np.float64)) + penalty
    excess_zyx += cost_zyx if phase else -cost_zyx
  chi_zyx = solid_zyx.astype(np.float32)
  near_zyx = ndimage.gaussian_filter(chi_zyx, model.kernel, mode='reflect')
  energy += model.mu * float(np.sum(chi_zyx * (1 - near_zyx), dtype=np.float64))
  excess_zyx += model.mu * (1 - 2 * near_zyx)
  return excess_zyx, energy


def _data_cost(model, member_zyx, mean):
  """e(y) of one phase with its best local means, and their pull towards C."""
  image_zyx = model.image_zyx
  weight = _windows(model, _blocks(model, member_zyx))
  total = _windows(model, _blocks(model, member_zyx * image_zyx))
  # A window's weights sum to about 1 when all windows are counted; so does eps.
  means = (total + _EPSILON * mean) / (weight + _EPSILON)
  linear_zyx = _voxels(model, _windows(model, means))
  constant_zyx = _voxels(model, _windows(model, means ** 2))
  cost_zyx = image_zyx ** 2 - 2 * image_zyx * linear_zyx + constant_zyx
  per_window = model.block_px ** 2
  penalty = _EPSILON * per_window * np.sum((means - mean) ** 2, dtype=np.float64)
  return cost_zyx, float(penalty)


def _blocks(model, array_zyx):
  """Sums over blocks of pixels, what lies outside is 0, by the pixels of a block."""
  block = (1, model.block_px, model.block_px)
  return measure.block_reduce(array_zyx, block, np.sum) / model.block_px ** 2


def _windows(model, array):
  return ndimage.gaussian_filter(array, model.window, mode='reflect')


def _voxels(model, array):
  """Value of the block that each voxel lies in."""
  wide = array.repeat(model.block_px, axis=1).repeat(model.block_px, axis=2)
  return wide[:, :model.image_zyx.shape[1], :model.image_zyx.shape[2]]
