"""Frame of exported label images: detects masks that were moved, cropped or turned.

A label image has the shape of the context of a region, [z, y, x]. Outside the core, the
region to paint, it holds FRAME, which no label profile uses, and a bar of MARK in the
upper left of the slices up to that of the core. The bar is not symmetric, so an image
that was shifted, cropped, rescaled, turned or mirrored is recognised. A brush that
crosses the edge of the core does no harm: it leaves labels on the frame, but no frame
in the core.

Tools that paint into a new label image lose the frame. Such a mask is accepted if its
profile has a code for unlabelled voxels, its shape is that of the context and its
labels reach exactly the four edges of the core; only a turn then goes unnoticed.
"""
import numpy as np

from fibjax.annotation.sizes import Sizes
from fibjax.errors import InputError
from fibjax.metrics.labels import LABEL_CODES, UNLABELLED

BLANK, FRAME, MARK = 0, 128, 192
LEAST_MARGIN_PX = 8  # around the core
_IN_PLANE = {
    'mirrored along y': lambda a: a[:, ::-1],
    'mirrored along x': lambda a: a[:, :, ::-1],
    'turned by 180 degrees': lambda a: a[:, ::-1, ::-1],
    'transposed (y and x exchanged)': lambda a: a.transpose(0, 2, 1),
    'turned by 90 degrees': lambda a: np.rot90(a, axes=(1, 2)),
    'turned by 270 degrees': lambda a: np.rot90(a, -1, axes=(1, 2)),
    'transposed along the other diagonal':
        lambda a: a[:, ::-1, ::-1].transpose(0, 2, 1),
    'reversed along z': lambda a: a[::-1]}


def core_box(sizes: Sizes) -> tuple[slice, slice, slice]:
  """Slices of the core in a context."""
  return tuple(slice(start, start + n) for start, n in zip(
      sizes.core_zyx, (1, sizes.region_px, sizes.region_px), strict=True))


def blank_label(sizes: Sizes) -> np.ndarray:
  """Label image to paint, [z, y, x] uint8: frame, mark, and 0 in the core."""
  label_zyx = np.full(sizes.context_zyx, FRAME, np.uint8)
  z, y, x = sizes.core_zyx
  label_zyx[:z + 1, y // 4:max(y // 2, y // 4 + 1), x // 4:sizes.context_px // 2] = MARK
  label_zyx[core_box(sizes)] = BLANK
  return label_zyx


def cut_core(mask_zyx: np.ndarray, sizes: Sizes, profile: str,
             name: str) -> tuple[np.ndarray, int]:
  """Checks the geometry of a painted mask and cuts out the core.

  Args:
    mask_zyx: codes as saved by the tool.
    sizes: sizes of the export.
    profile: key of LABEL_CODES.
    name: name of the file, for messages.

  Returns:
    [y, x] codes of the core and the number of voxels painted outside of it.

  Raises:
    InputError: unless the core is in its place; names the change of the mask where it
      can be recognised.
  """
  _check_shape(mask_zyx, sizes, name)
  core_yx = mask_zyx[core_box(sizes)][0]
  expected_zyx = blank_label(sizes)
  framed = np.isin(mask_zyx, (FRAME, MARK))
  if not framed.any():
    return _without_frame(mask_zyx, sizes, profile, name), 0
  outside = expected_zyx != BLANK
  moved = framed & (mask_zyx != expected_zyx)
  if moved.any():
    raise InputError(name, got=_changed(mask_zyx, expected_zyx),
                     expected='the frame of the exported label image in its place',
                     remedy='paint into the exported file, and save it as it is: not '
                     'moved, cropped, rescaled or turned')
  painted = outside & ~framed
  if painted.any() and (core_yx == BLANK).all():
    raise InputError(name, got=f'paint outside of the core only, first at '
                     f'{_first(painted)}', expected='paint in the core, slice '
                     f'{sizes.core_zyx[0]} from 0', remedy='paint where the frame has '
                     'its hole')
  return core_yx, int(np.count_nonzero(painted))


def _check_shape(mask_zyx, sizes: Sizes, name: str) -> None:
  got, expected = mask_zyx.shape, sizes.context_zyx
  if got == expected:
    return
  if got[-2:] == (sizes.region_px, sizes.region_px):
    change = 'cropped to the core'
  elif len(got) == 2 and got == expected[1:]:
    change = 'a single slice'
  elif len(got) == 3 and sorted(got) == sorted(expected):
    change = 'axes exchanged'
  elif got[-1] / expected[-1] == got[-2] / expected[-2]:
    change = f'rescaled {got[-1] / expected[-1]:g} times'
  else:
    change = 'cropped or padded'
  raise InputError(name, got=f'shape {got}, {change}',
                   expected=f'shape {expected} of the exported label image',
                   remedy='paint into the exported file and save it whole')


def _without_frame(mask_zyx, sizes: Sizes, profile: str, name: str) -> np.ndarray:
  unlabelled = [code for code, label in LABEL_CODES[profile].items()
                if label == UNLABELLED]
  remedy = 'paint into the exported label image, whose frame shows the place'
  if not unlabelled:
    raise InputError(name, got='no frame', expected='the frame of the exported label '
                     f'image, as profile {profile} has no unlabelled code',
                     remedy=remedy)
  labelled = ~np.isin(mask_zyx, unlabelled)
  core = [(s.start, s.stop) for s in core_box(sizes)]
  painted = _bounds(labelled)
  if painted is None or painted == core:
    return mask_zyx[core_box(sizes)][0]
  if _edges(painted) == _edges(core):
    got = _shift(painted, core)
  else:
    got = f'no frame, and labels in {_range(painted)}'
  raise InputError(name, got=got, remedy=remedy, expected='labels that reach the edges '
                   f'of the core, {_range(core)} (z, y, x)')


def _changed(mask_zyx, expected_zyx) -> str:
  """Names the change of a frame that is not in its place, as far as recognisable."""
  for name, change in _IN_PLANE.items():
    changed_zyx = change(expected_zyx)
    if changed_zyx.shape == mask_zyx.shape and (
        (mask_zyx == MARK) == (changed_zyx == MARK)).all():
      return f'a mask {name}'
  bar, expected_bar = (_bounds(a == MARK) for a in (mask_zyx, expected_zyx))
  if bar is None:
    return 'a frame without its mark'
  if _edges(bar) == _edges(expected_bar):
    return _shift(bar, expected_bar)
  ratio = _edges(bar)[2] / _edges(expected_bar)[2]
  cut = any(a == 0 or b == n for (a, b), n in zip(bar[1:], mask_zyx.shape[1:],
                                                  strict=True))
  return 'a mask shifted out of its image' if cut else (
      f'a frame that was changed, perhaps rescaled {ratio:.2f} times')


def _edges(bounds) -> list[int]:
  return [b - a for a, b in bounds]


def _shift(bounds, expected) -> str:
  """Names the shift between two boxes of one size."""
  if bounds == expected:
    return 'a mask with some slices replaced by others'
  z, y, x = (a - b for (a, _), (b, _) in zip(bounds, expected, strict=True))
  return f'a mask shifted by {z}, {y}, {x} voxels (z, y, x)'


def _range(bounds) -> str:
  return f'{[a for a, _ in bounds]} to {[b for _, b in bounds]}'


def _bounds(inside_zyx) -> list[tuple[int, int]] | None:
  """Half-open bounds of the True voxels along each axis, or None."""
  if not inside_zyx.any():
    return None
  bounds = []
  for axis in range(3):
    line = np.flatnonzero(inside_zyx.any(tuple(k for k in range(3) if k != axis)))
    bounds.append((int(line[0]), int(line[-1]) + 1))
  return bounds


def _first(where_zyx) -> str:
  return 'z, y, x = ' + ', '.join(str(k[0]) for k in np.nonzero(where_zyx))
