"""Segmentation by z-profiles (§5.4, §5.5): sharp ends and gradual beginnings.

With z along the milling direction, a wall behind an open pore is seen before it is
reached and brightens as it comes closer, so its beginning gives no edge along z. Its
end does: the next slice shows what lies behind it. Two published methods build on that.
Their exact operators were not available: the sequences below are fibjax's variants, not
the algorithms of the papers.

`morphological_profile`, after Prill et al. 2013 (J. Microsc. 250:77), who detect along
z where a structure shows and segment by reconstruction and constrained watershed:
1. Median 3 x 3 and Gaussian in each slice; D(z) = I(z + 1) - I(z).
2. End of a structure: D <= -drop and I >= local mean + high_sd deviations.
3. Pore: I <= local mean - low_sd deviations, which finds nothing where pores prevail;
   or I <= dark * local solid level; or below the local solid level while rising in each
   of the next rise_slices steps by more than rise + rise_noise * (noise of D).
4. From the last slice upwards: reconstruction by dilation, from the ends and the solid
   of the slice below, in the mask I >= kappa * local solid level less the pore markers.
5. Watershed of each slice's gradient from both kinds of markers.

`threshold_backpropagation`, after Salzer et al. 2012 (Mater. Charact. 69:115) and 2014
(95:36), who allocate structures by their last occurrence in z and improve the result
by local thresholds, directly or iteratively:
1. Last occurrence in a column: I(z) - min(I(z + 1), I(z + 2)) >= drop, with I(z) no
   less than in both neighbours; I(z) is the grey value g of the structure. Two slices
   are looked at, since a wall that ends within a slice falls over two steps.
2. From there towards smaller z, solid as long as I >= theta * g.
3. Local solid level T: Gaussian mean of g over the voxels labelled in 2. Solid is
   I >= theta_local * T, or less within the noise: I >= T - noise_margin * sd.
4. Iterations: the threshold becomes the midpoint of the local means of solid and of
   pore. A fraction of T alone would erode solid beside dark pores, where the edge in
   the image lies at half the step; half a step alone would miss pore-backs in 3.
5. Single slices missing in a column are filled; small objects change phase.

Grey values are in units of the volume's contrast P95 - P5. Slices must be aligned,
since drift looks like change along z. In the last slice, which has no next one,
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
_MIN_SOLID = 0.5    # least local solid level, fraction of the global one
_FEW = 0.01         # fraction of a phase in its window below which the mean tends to
                    # that of the volume


class _Levels(NamedTuple):
  """Local statistics of a slice over a square window.

  Attributes:
    mean_yx: [y, x] mean.
    deviation_yx: [y, x] standard deviation.
    solid_yx: [y, x] local solid level: mean of the pixels at least as bright as the
      mean, limited from below.
  """
  mean_yx: np.ndarray
  deviation_yx: np.ndarray
  solid_yx: np.ndarray


def morphological_profile(volume_zyx: np.ndarray, *, sigma_px: float = 1.5,
                          window_px: int = 101, drop: float = 0.25,
                          high_sd: float = 0.5, low_sd: float = 1.5,
                          dark: float = 0.3, rise_slices: int = 3, rise: float = 0.01,
                          rise_noise: float = 0.3, kappa: float = 0.9) -> np.ndarray:
  """Segments by markers at the ends of structures, propagated back, and a watershed.

  A variant after Prill et al. 2013, not their algorithm; the module has the steps.

  Args:
    volume_zyx: [z, y, x] grey values, at least two slices, solid brighter than pore.
    sigma_px: Gaussian in each slice, pixels.
    window_px: odd width of the window of local statistics, pixels.
    drop: fall to the next slice that ends a structure, fraction of the contrast.
    high_sd: least brightness of an end above the local mean, in local deviations.
    low_sd: darkness of a pore below the local mean, in local deviations.
    dark: brightness up to which a voxel is surely pore; 0 is the volume's P5, 1 the
      local solid level.
    rise_slices: number of steps along z over which a pore-back must brighten.
    rise: least rise per step, fraction of the contrast.
    rise_noise: added to rise, in standard deviations of D over the volume.
    kappa: least brightness of solid, on the scale of dark.

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
  smooth_zyx, threshold = _in_contrasts(volume_zyx, sigma_px, low_percentile=5)
  min_solid = _MIN_SOLID * float(smooth_zyx[smooth_zyx > threshold].mean())
  least_rise = rise + rise_noise * slice_noise(smooth_zyx)
  labels_zyx = np.empty(volume_zyx.shape, np.uint8)
  below_yx = np.zeros(volume_zyx.shape[1:], bool)
  unmarked = []
  # Upwards from the last slice: an end is known only from the slice after it, and all
  # of the structure before it takes its label from there.
  for z in range(len(smooth_zyx) - 1, -1, -1):
    image_yx, levels = smooth_zyx[z], _levels(smooth_zyx[z], window_px, min_solid)
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
        'brightness alone is used there')
  return labels_zyx


def _in_contrasts(volume_zyx, sigma_px, low_percentile):
  """Denoised volume in units of its contrast, and Otsu's threshold of it.

  0 is the low percentile: thresholds that are fractions of a solid level need an origin
  at the darkest pores, whatever the offset of the grey values.
  """
  denoised_zyx = ndimage.median_filter(volume_zyx, (1, 3, 3), mode='nearest')
  smooth_zyx = smooth_slices(denoised_zyx, sigma_px)
  low = np.float32(np.percentile(smooth_zyx, low_percentile))
  smooth_zyx = (smooth_zyx - low) / np.float32(contrast(smooth_zyx))
  return smooth_zyx, otsu_threshold(smooth_zyx)


def _levels(image_yx, window_px, min_solid):
  """Local statistics of a slice, as `_Levels`."""
  def mean(values_yx):
    return ndimage.uniform_filter(values_yx, window_px, mode='reflect')

  image_yx = image_yx.astype(np.float64)  # a running sum loses digits in float32
  mean_yx = mean(image_yx)
  variance_yx = mean(image_yx ** 2) - mean_yx ** 2
  bright_yx = (image_yx >= mean_yx).astype(np.float64)
  weight_yx = mean(bright_yx)
  # A window around a pixel without a bright one, possible only beside a step, keeps its
  # mean. 1e-9 is the rounding of the running sums.
  solid_yx = np.where(weight_yx > 1e-9, mean(image_yx * bright_yx), mean_yx)
  solid_yx /= np.where(weight_yx > 1e-9, weight_yx, 1)
  return _Levels(mean_yx, np.sqrt(np.maximum(variance_yx, 0)),
                 np.maximum(solid_yx, min_solid))


def _rising(following_zyx, steps, least_rise):
  """Pixels that brighten by more than least_rise in each of `steps` steps, bool [y, x].

  Args:
    following_zyx: [z, y, x] a slice and up to `steps` following ones; with fewer, near
      the end of the volume, no pixel counts as rising.
  """
  if len(following_zyx) <= steps:
    return np.zeros(following_zyx.shape[1:], bool)
  return (np.diff(following_zyx, axis=0) > least_rise).all(axis=0)


def _flood(image_yx, solid_yx, pore_yx):
  """Watershed of the gradient from markers of both phases: solid, bool [y, x]."""
  gradient_yx = ndimage.gaussian_gradient_magnitude(image_yx, _GRADIENT_PX)
  markers_yx = _SOLID * solid_yx + _PORE * pore_yx  # disjoint
  return segmentation.watershed(gradient_yx, markers_yx) == _SOLID


def threshold_backpropagation(volume_zyx: np.ndarray, *, sigma_px: float = 1.5,
                              drop: float = 0.25, theta: float = 0.9,
                              theta_local: float = 0.93, noise_margin: float = 2.0,
                              tau_px: float = 15.0, tau_slices: float = 2.0,
                              pore_px: float = 6.0, iterations: int = 2,
                              min_size_vox: int = 100) -> np.ndarray:
  """Segments by last occurrences along z, propagated back, and local thresholds.

  A variant after Salzer et al. 2012 and 2014, not their algorithm; the module has the
  steps.

  Args:
    volume_zyx: [z, y, x] grey values, at least two slices, solid brighter than pore.
    sigma_px: Gaussian in each slice, after a median of 3 x 3 pixels, pixels.
    drop: fall that ends a structure, fraction of the contrast.
    theta: least brightness of step 2, fraction of g; brightness 0 is the volume's P1.
    theta_local: least brightness of solid, fraction of T on the same scale.
    noise_margin: margin of step 3, in standard deviations of a slice's noise.
    tau_px: Gaussian of the local solid level within slices, pixels.
    tau_slices: Gaussian of the local solid level along z, slices.
    pore_px: Gaussian of the local pore level within a slice, pixels; narrow, since dark
      pores and pore-backs lie side by side.
    iterations: number of iterations of step 4; 0 is the direct version.
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
  smooth_zyx, threshold = _in_contrasts(volume_zyx, sigma_px, low_percentile=1)
  last_zyx = _last_occurrences(smooth_zyx, drop, threshold)
  grey_zyx = _propagate_back(smooth_zyx, last_zyx, theta)
  solid_sigma = (tau_slices, tau_px, tau_px)
  level_zyx = _local_mean(grey_zyx, grey_zyx > 0, solid_sigma)
  noise = slice_noise(smooth_zyx) / 2 ** 0.5  # of a slice, not of a difference of two
  solid_zyx = smooth_zyx >= np.minimum(theta_local * level_zyx,
                                       level_zyx - noise_margin * noise)
  for _ in range(int(iterations)):
    if solid_zyx.all() or not solid_zyx.any():
      break  # a phase without voxels has no mean
    high_zyx = _local_mean(smooth_zyx, solid_zyx, solid_sigma)
    low_zyx = _local_mean(smooth_zyx, ~solid_zyx, (0, pore_px, pore_px))
    solid_zyx = smooth_zyx >= (high_zyx + low_zyx) / 2
  solid_zyx[1:-1] |= solid_zyx[:-2] & solid_zyx[2:]
  return remove_small(solid_zyx.astype(np.uint8), min_size_vox)


def _last_occurrences(smooth_zyx, drop, threshold):
  """Voxels at which a column falls sharply, bool [z, y, x].

  In the last slice, which has no next one, the voxels above threshold.
  """
  next_zyx = np.full_like(smooth_zyx, np.inf)
  next_zyx[:-1] = smooth_zyx[1:]
  next_zyx[:-2] = np.minimum(next_zyx[:-2], smooth_zyx[2:])
  last_zyx = smooth_zyx - next_zyx >= drop
  last_zyx &= smooth_zyx >= ndimage.maximum_filter1d(smooth_zyx, 3, 0, mode='nearest')
  last_zyx[-1] = smooth_zyx[-1] > threshold
  return last_zyx


def _propagate_back(smooth_zyx, last_zyx, theta):
  """Grey value of the structure that a voxel belongs to, 0 for none, [z, y, x]."""
  grey_zyx = np.zeros_like(smooth_zyx)
  grey_yx = grey_zyx[-1].copy()
  for z in range(len(smooth_zyx) - 1, -1, -1):
    # The order matters: a structure that ends in this slice replaces one that, further
    # along z, the column belongs to.
    grey_yx[smooth_zyx[z] < theta * grey_yx] = 0
    np.copyto(grey_yx, smooth_zyx[z], where=last_zyx[z])
    grey_zyx[z] = grey_yx
  return grey_zyx


def _local_mean(values_zyx, mask_zyx, sigma):
  """Gaussian mean of the values in a mask, [z, y, x].

  Far from the mask it tends to the mean of the whole mask.
  """
  weight_zyx = mask_zyx.astype(np.float32)
  overall = np.float32(values_zyx[mask_zyx].mean()) if mask_zyx.any() else np.float32(0)
  total_zyx = ndimage.gaussian_filter(values_zyx * weight_zyx, sigma, mode='reflect')
  weight_zyx = ndimage.gaussian_filter(weight_zyx, sigma, mode='reflect')
  return (total_zyx + _FEW * overall) / (weight_zyx + _FEW)
