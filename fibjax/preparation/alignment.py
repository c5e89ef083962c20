"""Rigid alignment of a series of slices, each to the one before (§6.1).

A slice's rigid transform is (angle_deg, y_px, x_px). It maps the aligned pixel
p = (y, x) to its place q in the slice as acquired, about the image centre
c = (size - 1) / 2:

  q = R(angle) (p - c) + c + (y_px, x_px),  R = [[cos, -sin], [sin, cos]] on (y, x).

A stack's transforms are an array [z, 3]. Pairs are registered by StackReg (Thevenaz,
Ruttimann and Unser, IEEE Trans. Image Process. 7, 1998, 27), then concatenated, and
each slice is resampled once, from the raw data.

Limits of registration:
* Walls seen through open pores move from slice to slice by (slice step) tan(tilt), and
  registration follows them in part: the stack is sheared, more at higher porosity.
  `clip_pores` hides most of what is seen through pores, and `detrend` removes the slow
  drift that remains; neither alone removes the bias.
* The structure itself changes from slice to slice. On simulated films of 50 nm slices
  and 10 nm pixels registration errs by 0.2 to 0.4 px and 0.06 to 0.1 degrees per pair
  on 512 x 512 px, 0.1 to 0.2 px and 0.011 to 0.017 degrees on 1024 x 1024; on slices of
  10 nm by 0.02 to 0.04 px and 0.005 to 0.007 degrees on 768 x 768. These errors add up
  along the stack.
  `detrend` with 'highpass' keeps them from growing, but then slow drift of the
  microscope remains.

This is the only module that knows pystackreg.
"""
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from pystackreg import StackReg
from scipy import ndimage

from fibjax.errors import InputError, unknown
from fibjax.preparation import brightness

TRENDS = ('keep', 'linear', 'highpass')
# Pixels below this share of the way from the local pores to the local solid are
# clipped. Measured on simulated films (tilt 35 degrees, 50 nm slices): at 0.75 a third
# to a half of the shear remains, at 0.5 half; from 0.9 on, noise grows.
_CLIP_SHARE = 0.75
_CLIP_WINDOW_PX = 151   # side of the window for local levels
_GREY_SCALE = 1000.0    # standard deviation of the images given to StackReg


class Pairs(NamedTuple):
  """Transforms of each slice to the one before.

  Attributes:
    rigid_z3: float64 [z, 3], the first row 0.
    limited: slices whose rotation exceeded the limit, so that they were registered by
      a translation instead.
  """
  rigid_z3: np.ndarray
  limited: list[int]


def clip_pores(image_yx: np.ndarray) -> np.ndarray:
  """Raises pixels below a local threshold to it, so that all pores look alike.

  The back of a pore moves against the section and misleads the registration; after
  clipping only the outline of the pore remains. The threshold lies at 0.75 of the way
  from the local level of the dark phase to that of the bright one.

  Args:
    image_yx: grey values, solid brighter than pores.

  Returns:
    float32 [y, x], smoothed against noise.

  Raises:
    InputError: for one grey value in the whole slice.
  """
  smooth_yx, bright_yx = brightness.smooth_and_split(image_yx)
  bright_yx = bright_yx.astype(np.float32)

  def level(weight_yx):
    """Weighted mean around each pixel; a trace of the slice's mean avoids 0 / 0."""
    trace = np.float32(1e-3)
    mean = np.average(smooth_yx, weights=weight_yx)
    total_yx = _around(smooth_yx * weight_yx) + trace * np.float32(mean)
    return total_yx / (_around(weight_yx) + trace)

  solid_yx, pore_yx = level(bright_yx), level(1 - bright_yx)
  return np.maximum(smooth_yx, pore_yx + _CLIP_SHARE * (solid_yx - pore_yx))


def _around(image_yx):
  return ndimage.uniform_filter(image_yx, _CLIP_WINDOW_PX, mode='nearest')


def register(reference_yx: np.ndarray, moving_yx: np.ndarray,
             max_angle_deg: float = 0.2, name: str = 'slice'
             ) -> tuple[np.ndarray, bool]:
  """Registers a slice to another one: the rigid transform between them.

  Grey values are standardised first, so that gain and offset do not matter.

  Args:
    reference_yx, moving_yx: grey values of one shape.
    max_angle_deg: a larger rotation is regarded as an error and replaced by a
      translation; 0 for translations only.
    name: of the moving slice, for messages.

  Returns:
    [3] transform of the moving slice, and whether the limit was exceeded.

  Raises:
    InputError: for a slice without contrast.
  """
  pair = [_standardise(reference_yx, 'slice'), _standardise(moving_yx, name)]
  limited = False
  if max_angle_deg > 0:
    rigid_3 = _stackreg(*pair, StackReg.RIGID_BODY)
    if abs(rigid_3[0]) <= max_angle_deg:
      return rigid_3, False
    limited = True
  return _stackreg(*pair, StackReg.TRANSLATION), limited


def _standardise(image_yx, name):
  image_yx = np.asarray(image_yx, np.float64)
  spread = image_yx.std()
  if spread == 0:
    raise InputError(name, got='one grey value in every pixel',
                     expected='an image with contrast',
                     remedy='repair or leave out the slice')
  return (image_yx - image_yx.mean()) * (_GREY_SCALE / spread)


def _stackreg(reference_yx, moving_yx, model):
  """Converts StackReg's matrix on (x, y) about pixel (0, 0) to our transform."""
  matrix = StackReg(model).register(reference_yx, moving_yx)
  rotation, offset = matrix[1::-1, 1::-1], matrix[1::-1, 2]
  centre = _centre(reference_yx.shape)
  angle = np.degrees(np.arctan2(rotation[1, 0], rotation[0, 0]))
  return np.array([angle, *(rotation @ centre + offset - centre)])


def register_pairs(slices: Iterable[np.ndarray], max_angle_deg: float = 0.2) -> Pairs:
  """Registers each slice to the one before, with two slices in memory.

  Args:
    slices: [y, x] images in the order of z, from `clip_pores` or as acquired.
    max_angle_deg: as for `register`.

  Raises:
    InputError: as `register`; names the slice.
  """
  rigid_z3, limited, before_yx = [], [], None
  for z, image_yx in enumerate(slices):
    rigid_3 = np.zeros(3)
    if before_yx is not None:
      rigid_3, too_far = register(before_yx, image_yx, max_angle_deg, f'slice z={z}')
      limited += [z] * too_far
    rigid_z3.append(rigid_3)
    before_yx = image_yx
  return Pairs(np.array(rigid_z3), limited)


def accumulate(pairs_z3: np.ndarray) -> np.ndarray:
  """Concatenates transforms of neighbours to those from the first slice, [z, 3]."""
  pairs_z3 = np.asarray(pairs_z3, np.float64)
  rigid_z3 = np.zeros_like(pairs_z3)
  for z in range(1, len(pairs_z3)):
    rigid_z3[z, 0] = rigid_z3[z - 1, 0] + pairs_z3[z, 0]
    rigid_z3[z, 1:] = _rotation(pairs_z3[z, 0]) @ rigid_z3[z - 1, 1:] + pairs_z3[z, 1:]
  return rigid_z3


def detrend(rigid_z3: np.ndarray, trend: str, sigma_z: float = 15.0) -> np.ndarray:
  """Removes slow drift from accumulated transforms, shifts and angles.

  Pore-backs shift a stack and do not rotate it, but the errors of the pairs' angles add
  up: to one degree in 36 slices of 250 x 250 px that were not rotated at all.

  Args:
    rigid_z3: from `accumulate`.
    trend: 'keep' changes nothing; 'linear' subtracts a least-squares line;
      'highpass' subtracts that line and then a Gaussian mean along z.
    sigma_z: of that Gaussian, in slices.

  Raises:
    InputError: for another trend.
  """
  if trend not in TRENDS:
    raise unknown('align trend', trend, TRENDS)
  rigid_z3 = np.array(rigid_z3, np.float64)
  if trend == 'keep' or len(rigid_z3) < 2:
    return rigid_z3
  z = np.arange(len(rigid_z3)) - (len(rigid_z3) - 1) / 2
  rigid_z3 -= rigid_z3.mean(0) + np.outer(z, z @ rigid_z3 / (z @ z))
  if trend == 'highpass':
    rigid_z3 -= ndimage.gaussian_filter1d(rigid_z3, sigma_z, axis=0, mode='nearest')
  return rigid_z3


def common_box(rigid_z3: np.ndarray, shape_yx: tuple[int, int]
               ) -> tuple[tuple[int, int], tuple[int, int]]:
  """Finds a rectangle of aligned pixels that lies inside every acquired slice.

  The full image is shrunk until its corners lie inside all slices. For shifts alone
  the result is the largest rectangle, for small rotations within pixels of it.

  Returns:
    (start_yx, stop_yx), half-open.

  Raises:
    InputError: when nothing is common to all slices; names the largest jump.
  """
  low, high = np.zeros(2, int), np.array(shape_yx) - 1
  last = np.array(shape_yx) - 1
  matrices = np.array([_rotation(angle) for angle in rigid_z3[:, 0]])
  offsets = np.array([_offset(rigid_3, shape_yx) for rigid_3 in rigid_z3])
  while True:
    corners = np.array([(y, x) for y in (low[0], high[0]) for x in (low[1], high[1])])
    raw = np.einsum('zij,kj->zki', matrices, corners) + offsets[:, None]
    raw = np.round(raw, 9).reshape(-1, 2, 2, 2)  # [z, top or bottom, left or right]
    under = -np.array([raw[:, 0, :, 0].min(), raw[:, :, 0, 1].min()])
    over = np.array([raw[:, 1, :, 0].max(), raw[:, :, 1, 1].max()]) - last
    if max(under.max(), over.max()) <= 0:
      return tuple(low.tolist()), tuple((high + 1).tolist())
    low = low + np.maximum(np.ceil(under), 0).astype(int)
    high = high - np.maximum(np.ceil(over), 0).astype(int)
    if (low > high).any():
      steps = np.abs(np.diff(rigid_z3[:, 1:], axis=0)).max(1)
      z = int(np.argmax(steps)) + 1 if len(steps) else 0
      raise InputError('alignment', got='no rectangle common to all slices',
                       expected=f'smaller shifts (the largest, {steps.max(initial=0):g}'
                       f' px, is at slice z={z})', remedy='repair or leave out slices '
                       'that show something else')


def resample(image_yx: np.ndarray, rigid_3, start_yx, stop_yx) -> np.ndarray:
  """Interpolates a slice as acquired at the aligned pixels of a box (cubic spline).

  Args:
    image_yx: the whole slice.
    rigid_3: its transform.
    start_yx, stop_yx: box of `common_box`.

  Returns:
    float32 of the box's shape.
  """
  matrix = _rotation(rigid_3[0])
  offset = _offset(rigid_3, image_yx.shape) + matrix @ np.array(start_yx)
  shape = tuple(int(b - a) for a, b in zip(start_yx, stop_yx, strict=True))
  return ndimage.affine_transform(image_yx, matrix, offset, shape, np.float32, order=3,
                                  mode='mirror')


def _centre(shape_yx):
  return (np.array(shape_yx) - 1) / 2


def _rotation(angle_deg):
  angle = np.radians(angle_deg)
  return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _offset(rigid_3, shape_yx):
  """b of q = R p + b."""
  centre = _centre(shape_yx)
  return centre + np.asarray(rigid_3[1:]) - _rotation(rigid_3[0]) @ centre
