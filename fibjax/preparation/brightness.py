"""Brightness correction between slices and within a slice (§6.3).

Two separate corrections of grey values [y, x]:
* From slice to slice, detectors drift in gain and offset. Each slice is mapped so that
  the median and the interquartile range of its solid become those of the volume. The
  mean of all pixels would not do: it follows the porosity, which may change with depth.
* Within a slice, charging and shadows change brightness over many pores. The local
  normalisation (I - mean) / (sd + epsilon) over a window larger than the pores removes
  that, together with real differences at that scale.

This is the only module of the package that knows scikit-image.
"""
from typing import NamedTuple

import numpy as np
from scipy import ndimage
from skimage import filters

from fibjax.errors import InputError

_SMOOTHING_PX = 2.0  # against noise, before a threshold
_MARGIN_PX = 3       # from the edge of the solid, where pixels are mixed
_FEWEST_PIXELS = 64  # for quartiles


class SolidLevel(NamedTuple):
  """Grey values of the solid in a slice: its median and interquartile range."""
  median: float
  iqr: float


def smooth_and_split(image_yx: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Smooths a slice against noise and splits it at Otsu's threshold.

  Returns:
    [y, x] float32 smoothed grey values, and the bright phase as bool.

  Raises:
    InputError: for one grey value in the whole slice.
  """
  smooth_yx = ndimage.gaussian_filter(np.asarray(image_yx, np.float32), _SMOOTHING_PX)
  if np.ptp(smooth_yx) == 0:
    raise InputError('slice', got=f'{float(smooth_yx[0, 0]):g} in every pixel',
                     expected='an image with contrast',
                     remedy='repair or leave out the slice')
  return smooth_yx, smooth_yx >= filters.threshold_otsu(smooth_yx)


def solid_level(image_yx: np.ndarray) -> SolidLevel:
  """Measures the grey values inside the solid, away from its edges.

  Pixels at edges mix both phases, and there are more of them where there are more
  pores; without them the level does not follow the porosity. Pore-backs as bright as
  the solid are few there, and medians and quartiles are robust against them.

  Args:
    image_yx: grey values, solid brighter than pores.

  Raises:
    InputError: when there is hardly any solid 3 px from its edge.
  """
  _, bright_yx = smooth_and_split(image_yx)
  inside_yx = ndimage.binary_erosion(bright_yx, iterations=_MARGIN_PX, border_value=1)
  values = np.asarray(image_yx)[inside_yx]
  if len(values) < _FEWEST_PIXELS:
    raise InputError('slice', got=f'{len(values)} px inside the bright phase',
                     expected=f'at least {_FEWEST_PIXELS}',
                     remedy='leave out the step brightness')
  low, median, high = np.percentile(values, (25, 50, 75))
  if high == low:
    raise InputError('slice', got='one grey value inside the bright phase',
                     expected='noise or texture there, which tells the gain',
                     remedy='the slice is saturated: leave out the step brightness')
  return SolidLevel(float(median), float(high - low))


def reference_level(levels_z: list[SolidLevel]) -> SolidLevel:
  """Computes the volume's level: the medians over its slices."""
  return SolidLevel(*(float(v) for v in np.median(np.asarray(levels_z), axis=0)))


def match_level(image_yx: np.ndarray, level: SolidLevel, reference: SolidLevel
                ) -> np.ndarray:
  """Maps a slice so that a solid of `level` becomes one of `reference`.

  Returns:
    float32 [y, x]: (I - median) iqr' / iqr + median'.
  """
  gain = reference.iqr / level.iqr
  mapped_yx = (np.asarray(image_yx, np.float64) - level.median) * gain
  return (mapped_yx + reference.median).astype(np.float32)


def normalise_locally(image_yx: np.ndarray, window_px: int, epsilon: float
                      ) -> np.ndarray:
  """Computes (I - mean) / (sd + epsilon) over a square window around each pixel.

  The image is mirrored at its edges.

  Args:
    image_yx: grey values.
    window_px: side of the window, odd; 101 to 201, several pores wide.
    epsilon: grey values, > 0; keeps the noise in featureless places small.

  Returns:
    float32 [y, x], about 0 on average.
  """
  # Squares of values around 0 lose the fewest digits in the difference below.
  centred_yx = image_yx - np.mean(image_yx, dtype=np.float64)
  mean_yx = ndimage.uniform_filter(centred_yx, window_px, mode='mirror')
  square_yx = ndimage.uniform_filter(centred_yx ** 2, window_px, mode='mirror')
  sd_yx = np.sqrt(np.maximum(square_yx - mean_yx ** 2, 0))
  return ((centred_yx - mean_yx) / (sd_yx + epsilon)).astype(np.float32)
