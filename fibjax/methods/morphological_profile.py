"""Segmentation by grey values along z: a structure ends sharply and begins slowly.

With z along milling, a wall behind an open pore is seen before it is reached and
brightens as it comes closer, so its beginning gives no edge along z; its end does: the
next slice shows what lies behind. Two published methods build on that. Their abstracts
and descriptions are open to us, the exact operators are not: the sequences below are
variants of ours, as in §5.4 and §5.5, and not the papers' algorithms.

`morphological_profile`, after Prill et al. 2013 (J. Microsc. 250:77), who detect in z
where a structure shows and segment by reconstruction and constrained watershed:
1. Median 3 x 3 and Gaussian in each slice; D(z) = I(z + 1) - I(z).
2. End of a structure: D <= -drop and I >= local mean + high_sd deviations.
3. Pore: I <= local mean - low_sd deviations, which no pixel is where pores prevail; or
   I <= dark * local solid level; or below the local solid level while rising over each
   of the next rise_slices steps by more than rise + rise_noise * (noise of D).
4. From the last slice up: reconstruction by dilation of the ends, and of the solid one
   slice below, in I >= kappa * local solid level without the pore markers.
5. Watershed of each slice's gradient from both kinds of markers.

`threshold_backpropagation`, after Salzer et al. 2012 (Mater. Charact. 69:115) and 2014
(95:36), who allocate structures by their last occurrence in z and improve the result
by local thresholds, directly or iteratively:
1. Last occurrence in a column: I(z) - min(I(z + 1), I(z + 2)) >= drop, with I(z) no
   less than in both neighbours; I(z) is the structure's grey value g.
2. Back from there towards smaller z, solid while I >= theta * g.
3. Local solid level T: Gaussian mean of g over the voxels so labelled. Solid is
   I >= theta_local * T, or lower by noise: I >= T - noise_margin * sd.
4. Iterations: the threshold becomes the middle between the local means of solid and of
   pore. A share of T alone would eat into solid beside dark pores, where the image's
   edge lies at half the step; half a step alone would miss pore-backs in 3.
5. Single slices missing in a column are filled, small objects change phase.

Grey values are handled as shares of the volume's contrast P95 - P5. Slices must be
aligned: drift looks like change along z. In the last slice, which has no next one,
brightness decides alone.
"""
from typing import NamedTuple

import numpy as np
from scipy import ndimage
from skimage import segmentation

from fibjax.inference.small_objects import remove_small
from fibjax.methods.classical_common import (
  check_not_negative,
  check_range,
  check_volume,
  check_window,
  contrast,
  otsu_threshold,
  slice_noise,
  smooth_slices,
)
from fibjax.system.progress import say

_SOLID, _PORE = 2, 1
_GRADIENT_PX = 1.0  # Gaussian of the gradient that the watershed floods
_FLOOR = 0.5        # a local solid level is at least this share of the global one
_FEW = 0.01         # share of a phase in its window below which the global mean counts


class _Levels(NamedTuple):
  """Local statistics of a slice over a square window, [y, x] each."""
  mean_yx: np.ndarray
  deviation_yx: np.ndarray
  solid_yx: np.ndarray     # mean of the pixels at least as bright as the mean, floored


def morphological_profile(volume_zyx: np.ndarray, *, sigma_px: float = 1.5,
                          window_px: int = 101, drop: float = 0.25,
                          high_sd: float = 0.5, low_sd: float = 1.5,
                          dark: float = 0.3, rise_slices: int = 3, rise: float = 0.01,
                          rise_noise: float = 0.3, kappa: float = 0.9) -> np.ndarray:
  """Segments by markers at the ends of structures, carried back, then a watershed.

  A variant of ours after Prill et al. 2013, not their algorithm: see the module.

  Args:
    volume_zyx: [z, y, x] grey values, at least two slices, solid brighter than pore.
    sigma_px: Gaussian in each slice, pixels.
    window_px: odd width of the window of local statistics, pixels.
    drop: fall from a slice to the next that ends a structure, share of the contrast.
    high_sd: brightness of an end above the local mean, in local deviations.
    low_sd: darkness of a pore below the local mean, in local deviations.
    dark: surely pore up to here; 0 is the volume's P5, 1 the local solid level.
    rise_slices: steps along z that a pore-back has to rise.
    rise: least rise per step, share of the contrast.
    rise_noise: its addition, in standard deviations of D over the volume.
    kappa: least brightness of solid, on the same scale as dark.

  Returns:
    [z, y, x] uint8, 1 solid and 0 pore.

  Raises:
    InputError: for a bad volume or parameter, or a single slice.
  """
  volume_zyx = check_volume(volume_zyx, min_slices=2)
  check_window('window_px', window_px)
  check_range('rise_slices', rise_slices, 1)
  check_not_negative(drop=drop, high_sd=high_sd, low_sd=low_sd, dark=dark, rise=rise,
                     rise_noise=rise_noise, kappa=kappa)
  smooth_zyx, middle = _shares(volume_zyx, sigma_px, low_percentile=5)
  floor = _FLOOR * float(smooth_zyx[smooth_zyx > middle].mean())
  least_rise = rise + rise_noise * slice_noise(smooth_zyx)
  labels_zyx = np.empty(volume_zyx.shape, np.uint8)
  below_yx = np.zeros(volume_zyx.shape[1:], bool)
  unmarked = []
  for z in range(len(smooth_zyx) - 1, -1, -1):
    image_yx, levels = smooth_zyx[z], _levels(smooth_zyx[z], window_px, floor)
    end_yx = image_yx >= levels.mean_yx + high_sd * levels.deviation_yx
    if z + 1 < len(smooth_zyx):
      end_yx &= smooth_zyx[z + 1] - image_yx <= -drop
    pore_yx = image_yx <= levels.mean_yx - low_sd * levels.deviation_yx
    pore_yx |= image_yx <= dark * levels.solid_yx
    pore_yx |= (_rising(smooth_zyx[z:z + rise_slices + 1], rise_slices, least_rise)
                & (image_yx < levels.solid_yx))
    mask_yx = (image_yx >= kappa * levels.solid_yx) & ~pore_yx
    below_yx = ndimage.binary_propagation((end_yx | below_yx) & mask_yx, mask=mask_yx)
    if pore_yx.any() or below_yx.any():
      labels_zyx[z] = _flood(image_yx, below_yx, pore_yx)
    else:
      labels_zyx[z] = mask_yx
      unmarked.append(z)
  if unmarked:
    say(f'morphological profile: no markers in slices {unmarked[::-1]}; local '
        'brightness alone decides there')
  return labels_zyx


def _shares(volume_zyx, sigma_px, low_percentile):
  """Denoised volume in contrasts above a low percentile, and Otsu's threshold."""
  denoised_zyx = ndimage.median_filter(volume_zyx, (1, 3, 3), mode='nearest')
  smooth_zyx = smooth_slices(denoised_zyx, sigma_px)
  low = np.float32(np.percentile(smooth_zyx, low_percentile))
  smooth_zyx = (smooth_zyx - low) / np.float32(contrast(smooth_zyx))
  return smooth_zyx, otsu_threshold(smooth_zyx)


def _levels(image_yx, window_px, floor):
  def mean(values_yx):
    return ndimage.uniform_filter(values_yx, window_px, mode='reflect')

  image_yx = image_yx.astype(np.float64)  # a running sum loses digits in float32
  mean_yx = mean(image_yx)
  variance_yx = mean(image_yx ** 2) - mean_yx ** 2
  bright_yx = (image_yx >= mean_yx).astype(np.float64)
  weight_yx = mean(bright_yx)
  # A window without a bright pixel, possible beside a step only, keeps its mean.
  solid_yx = np.where(weight_yx > 1e-9, mean(image_yx * bright_yx), mean_yx)
  solid_yx /= np.where(weight_yx > 1e-9, weight_yx, 1)
  return _Levels(mean_yx, np.sqrt(np.maximum(variance_yx, 0)),
                 np.maximum(solid_yx, floor))


def _rising(part_zyx, steps, least_rise):
  """Where each of `steps` differences is above least_rise; nowhere near the end."""
  if len(part_zyx) <= steps:
    return np.zeros(part_zyx.shape[1:], bool)
  return (np.diff(part_zyx, axis=0) > least_rise).all(axis=0)


def _flood(image_yx, solid_yx, pore_yx):
  gradient_yx = ndimage.gaussian_gradient_magnitude(image_yx, _GRADIENT_PX)
  markers_yx = _SOLID * solid_yx + _PORE * pore_yx  # disjoint
  return segmentation.watershed(gradient_yx, markers_yx) == _SOLID


def threshold_backpropagation(volume_zyx: np.ndarray, *, sigma_px: float = 1.5,
                              drop: float = 0.25, theta: float = 0.9,
                              theta_local: float = 0.93, noise_margin: float = 2.0,
                              tau_px: float = 15.0, tau_slices: float = 2.0,
                              pore_px: float = 6.0, iterations: int = 2,
                              min_size_vox: int = 100) -> np.ndarray:
  """Segments by last occurrences along z, carried back, then by local thresholds.

  A variant of ours after Salzer et al. 2012 and 2014, not their algorithm: see the
  module.

  Args:
    volume_zyx: [z, y, x] grey values, at least two slices, solid brighter than pore.
    sigma_px: Gaussian in each slice, after a median of 3 x 3 pixels.
    drop: fall that ends a structure, share of the contrast.
    theta: least brightness on the way back, share of g; 0 is the volume's P1.
    theta_local: least brightness of solid, share of T; 0 is the volume's P1.
    noise_margin: of step 3, in standard deviations of a slice's noise.
    tau_px: Gaussian of the local solid level within slices.
    tau_slices: the same along z.
    pore_px: Gaussian of the local pore level, within a slice; narrow, since dark pores
      and pore-backs lie side by side.
    iterations: of step 4; 0 is the direct version.
    min_size_vox: smallest object kept, voxels.

  Returns:
    [z, y, x] uint8, 1 solid and 0 pore.

  Raises:
    InputError: for a bad volume or parameter, or a single slice.
  """
  volume_zyx = check_volume(volume_zyx, min_slices=2)
  check_not_negative(drop=drop, theta=theta, theta_local=theta_local,
                     noise_margin=noise_margin, tau_px=tau_px, tau_slices=tau_slices,
                     pore_px=pore_px, iterations=iterations, min_size_vox=min_size_vox)
  smooth_zyx, middle = _shares(volume_zyx, sigma_px, low_percentile=1)
  grey_zyx = _carry_back(smooth_zyx, _last_occurrences(smooth_zyx, drop, middle), theta)
  wide = (tau_slices, tau_px, tau_px)
  level_zyx = _local_mean(grey_zyx, grey_zyx > 0, wide)
  noise = slice_noise(smooth_zyx) / 2 ** 0.5
  solid_zyx = smooth_zyx >= np.minimum(theta_local * level_zyx,
                                       level_zyx - noise_margin * noise)
  for _ in range(int(iterations)):
    if solid_zyx.all() or not solid_zyx.any():
      break
    high_zyx = _local_mean(smooth_zyx, solid_zyx, wide)
    low_zyx = _local_mean(smooth_zyx, ~solid_zyx, (0, pore_px, pore_px))
    solid_zyx = smooth_zyx >= (high_zyx + low_zyx) / 2
  solid_zyx[1:-1] |= solid_zyx[:-2] & solid_zyx[2:]
  return remove_small(solid_zyx.astype(np.uint8), min_size_vox)


def _last_occurrences(smooth_zyx, drop, middle):
  """Where a column falls sharply; in the last slice, where it is above middle."""
  next_zyx = np.full_like(smooth_zyx, np.inf)
  next_zyx[:-1] = smooth_zyx[1:]
  next_zyx[:-2] = np.minimum(next_zyx[:-2], smooth_zyx[2:])
  last_zyx = smooth_zyx - next_zyx >= drop
  last_zyx &= smooth_zyx >= ndimage.maximum_filter1d(smooth_zyx, 3, 0, mode='nearest')
  last_zyx[-1] = smooth_zyx[-1] > middle
  return last_zyx


def _carry_back(smooth_zyx, last_zyx, theta):
  """Grey value of the structure a voxel was allocated to, 0 for none: [z, y, x]."""
  grey_zyx = np.zeros_like(smooth_zyx)
  grey_yx = grey_zyx[-1].copy()
  for z in range(len(smooth_zyx) - 1, -1, -1):
    grey_yx[smooth_zyx[z] < theta * grey_yx] = 0
    np.copyto(grey_yx, smooth_zyx[z], where=last_zyx[z])
    grey_zyx[z] = grey_yx
  return grey_zyx


def _local_mean(values_zyx, mask_zyx, sigma):
  """Gaussian mean over a mask; far from it, the mean of all of it."""
  weight_zyx = mask_zyx.astype(np.float32)
  overall = np.float32(values_zyx[mask_zyx].mean()) if mask_zyx.any() else np.float32(0)
  total_zyx = ndimage.gaussian_filter(values_zyx * weight_zyx, sigma, mode='reflect')
  weight_zyx = ndimage.gaussian_filter(weight_zyx, sigma, mode='reflect')
  return (total_zyx + _FEW * overall) / (weight_zyx + _FEW)
