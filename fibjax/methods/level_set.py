"""Two-phase Chan-Vese segmentation of a volume by threshold dynamics (§5.3).

The region-based segmentation that Jorgensen et al. 2010 (Ultramicroscopy 110:216)
apply to FIB-SEM, with fibjax's choices: a single function for the two phases, the
threshold dynamics of Esedoglu & Tsai 2006 (J. Comput. Phys. 211:367) instead of a
differential equation, and the local means of Li et al. 2008 (IEEE Trans. Image Process.
17:1940) instead of a bias field. With the solid chi(y) in {0, 1}, windows w(x, y),
means c1(x), c0(x) of solid and pore in the window at x, and a narrow kernel G:

  E = sum_y chi(y) e1(y) + (1 - chi(y)) e0(y) + mu sum_y chi(y) (G * (1 - chi))(y)
      + eps sum_x |c(x) - C|^2,    e(y) = sum_x w(x, y) (I(y) - c(x))^2.

The second sum is proportional to the area of the interface. The last one keeps the
means of a window that contains a single phase close to C, the initial means.

Each step takes the best c for chi, then the best chi for a linear upper bound of E: the
interface term is concave in chi (its kernel G is positive definite), so it lies below
its tangent, and minimising the tangent thresholds each voxel by itself. Hence E never
rises, and no step size has to be chosen. Windows are centred on the blocks of a grid
coarser than the pixels, so that a wide window costs no more than a narrow one. Slices
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

_BLOCKS_PER_SIGMA = 5  # blocks this fine sample the Gaussian window well
_EPSILON = 0.02  # fraction of a phase in its window below which its mean tends to C


class _Model(NamedTuple):
  """The constants of the energy.

  Attributes:
    image_zyx: [z, y, x] grey values, mean 0 and standard deviation 1.
    block_px: side of a block in y and x, pixels.
    window: sigma of the windows along z (slices), y and x (blocks).
    kernel: sigma of G along z, y and x, voxels.
    mu: weight of the interface term.
    means: C, the initial means of pore and solid.
  """
  image_zyx: np.ndarray
  block_px: int
  window: tuple[float, float, float]
  kernel: tuple[float, float, float]
  mu: float
  means: tuple[float, float]


def level_set(volume_zyx: np.ndarray, *,
              voxel_size_zyx_nm: VoxelSize = (50.0, 10.0, 10.0),
              denoise: float = 0.2, mu: float = 0.2, kernel_px: float = 3.0,
              window_px: float = 40.0, iterations: int = 60) -> np.ndarray:
  """Segments by minimising a Chan-Vese energy with local means, starting from Otsu.

  Lengths in pixels refer to x and are converted to y and z by the voxel size, so that
  an interface costs the same in every direction.

  Args:
    volume_zyx: [z, y, x] grey values, solid brighter than pore.
    voxel_size_zyx_nm: voxel size along z, y, x, nm.
    denoise: weight of the total variation, fraction of the contrast P95 - P5; 0 turns
      denoising off.
    mu: weight of the interface term, in variances of the denoised volume.
    kernel_px: standard deviation of the kernel that measures the interface, pixels.
    window_px: standard deviation of the window of the local means, pixels.
    iterations: upper limit; iteration stops when no voxel changes.

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
  """Minimises the energy from the initial threshold.

  Returns:
    The solid, bool [z, y, x], and the energy before each step.
  """
  solid_zyx = model.image_zyx > sum(model.means) / 2
  energies = []
  for _ in range(iterations):
    excess_zyx, energy = _linear_bound(model, solid_zyx)
    energies.append(energy)
    # The bound is a sum over voxels, so each voxel takes its cheaper phase by itself.
    next_zyx = excess_zyx < 0
    if np.array_equal(next_zyx, solid_zyx):
      break
    solid_zyx = next_zyx
  return solid_zyx, energies


def _linear_bound(model, solid_zyx):
  """Linearises the energy at a segmentation.

  Returns:
    [z, y, x] energy of a voxel as solid less that as pore, to first order, and the
    energy itself.
  """
  excess_zyx = np.zeros_like(model.image_zyx)
  energy = 0.0
  for phase in (0, 1):
    phase_zyx = (solid_zyx == phase).astype(np.float32)
    cost_zyx, penalty = _data_cost(model, phase_zyx, model.means[phase])
    # Summed in float64: steps near the minimum change the energy by less than the
    # rounding of a float32 sum over a whole volume.
    energy += float(np.sum(phase_zyx * cost_zyx, dtype=np.float64)) + penalty
    excess_zyx += cost_zyx if phase else -cost_zyx
  chi_zyx = solid_zyx.astype(np.float32)
  near_zyx = ndimage.gaussian_filter(chi_zyx, model.kernel, mode='reflect')
  energy += model.mu * float(np.sum(chi_zyx * (1 - near_zyx), dtype=np.float64))
  # The derivative of chi * (G * (1 - chi)): chi appears twice and G is symmetric.
  excess_zyx += model.mu * (1 - 2 * near_zyx)
  return excess_zyx, energy


def _data_cost(model, phase_zyx, mean):
  """Cost e(y) of a phase with its best local means, and the penalty eps |c - C|^2."""
  image_zyx = model.image_zyx
  weight = _windows(model, _blocks(model, phase_zyx))
  total = _windows(model, _blocks(model, phase_zyx * image_zyx))
  # weight is the fraction of the phase in a window, so eps compares with fractions.
  means = (total + _EPSILON * mean) / (weight + _EPSILON)
  # w sums to 1 over the windows, so e(y) = I^2 - 2 I (w * c) + w * c^2: two filters.
  linear_zyx = _voxels(model, _windows(model, means))
  constant_zyx = _voxels(model, _windows(model, means ** 2))
  cost_zyx = image_zyx ** 2 - 2 * image_zyx * linear_zyx + constant_zyx
  per_window = model.block_px ** 2  # a block stands for the windows of its pixels
  penalty = _EPSILON * per_window * np.sum((means - mean) ** 2, dtype=np.float64)
  return cost_zyx, float(penalty)


def _blocks(model, array_zyx):
  """Sums over blocks divided by the pixels of a block; pixels outside count as 0."""
  block = (1, model.block_px, model.block_px)
  return measure.block_reduce(array_zyx, block, np.sum) / model.block_px ** 2


def _windows(model, array):
  """Weighted sums over the window centred on each block."""
  return ndimage.gaussian_filter(array, model.window, mode='reflect')


def _voxels(model, array):
  """Gives each voxel the value of its block."""
  padded_zyx = array.repeat(model.block_px, axis=1).repeat(model.block_px, axis=2)
  return padded_zyx[:, :model.image_zyx.shape[1], :model.image_zyx.shape[2]]
