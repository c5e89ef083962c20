"""Slices of a volume for the page: image, score and segmentation as small JPEGs.

A few dozen slices are embedded, so that a reader can step through the volume without a
network. The pictures of a volume fill at most a given number of bytes: first their
quality is lowered, then every other pixel is left out. Large slices show their middle.
"""
import base64
import io
from typing import NamedTuple

import matplotlib.image
import numpy as np

from fibjax.report.cuts import central_box
from fibjax.report.figures import SCORE_COLOURS, scale_bar_length
from fibjax.report.sources import Film
from fibjax.volumes.volume import Volume, read_box

FRAMES = 32               # at most
VOLUME_BYTES = 1_800_000  # of all pictures of a volume, as text on the page
PAGE_BYTES = 16_000_000   # of all volumes
_WINDOW_PX = 1536         # longest edge of what is shown of a slice
SIDE_PX = 512            # longest edge of a picture
# (every k-th pixel, JPEG quality), the first that is small enough is taken.
_LEVELS = ((1, 88), (1, 75), (1, 60), (2, 85), (2, 65), (4, 75), (4, 50), (8, 50))
_NOTE = ('Score: from black (pore) through green (undecided) to white (solid). '
         'Segmentation: pore black, solid white.')
_BLURRED_PX = 200         # smaller pictures are enlarged without blur


class Frame(NamedTuple):
  """One slice: what a reader is told of it, and its pictures as base64 of JPEGs."""
  text: str
  pictures: tuple[str, ...]


class Slider(NamedTuple):
  """Slices of a volume.

  Attributes:
    name: of the volume.
    titles: of the pictures of a frame.
    frames: slices in milling direction.
    middle: index of the frame that is shown first.
    aspect: width / height of a picture as it is drawn.
    bar_percent, bar_text: length of the scale bar, in percent of the width.
    is_coarse: whether a picture has so few pixels that they are to be seen.
    note: how to read it.
  """
  name: str
  titles: tuple[str, ...]
  frames: tuple[Frame, ...]
  middle: int
  aspect: float
  bar_percent: float
  bar_text: str
  is_coarse: bool
  note: str


def make_slider(film: Film, limit_bytes: int = VOLUME_BYTES) -> Slider | None:
  """Reads slices of a film; None without an image and a segmentation.

  Args:
    film: with volumes of the same shape.
    limit_bytes: of all pictures.
  """
  if film.image is None or film.segmentation is None:
    return None
  kinds = {title: volume for title, volume in (
      ('Image', film.image), ('Score', film.score), ('Segmentation', film.segmentation))
      if volume is not None}
  z_f = slice_numbers(film.image.shape[0])
  window = _window(film.image)
  stacks = [_read(volume, z_f, *window) for volume in kinds.values()]
  low, high = np.percentile(stacks[0], (0.5, 99.5))
  drawn = [_Drawn(stacks[0], 'gray', low, max(high, low + 1e-9))]
  drawn += [_Drawn(stack, SCORE_COLOURS if title == 'Score' else 'gray', 0, 1)
            for title, stack in zip(list(kinds)[1:], stacks[1:], strict=True)]
  pictures_fk = _encode(drawn, limit_bytes)
  frames = tuple(Frame(_place(z, film.image), tuple(pictures))
                 for z, pictures in zip(z_f, pictures_fk, strict=True))
  return Slider(film.name, tuple(kinds), frames, len(frames) // 2,
                **_scale(film.image, window, stacks[0].shape[1:]))


def slice_numbers(count: int) -> list[int]:
  """Lists at most FRAMES evenly spaced slices, with the first and the last."""
  return np.unique(np.linspace(0, count - 1, min(count, FRAMES)).round()).astype(
      int).tolist()


class _Drawn(NamedTuple):
  """A stack [f, y, x] and its colours."""
  stack: np.ndarray
  cmap: object
  low: float
  high: float


def _pixel_yx(volume: Volume) -> tuple[float, float]:
  return tuple((volume.voxel_size_zyx_nm or (1., 1., 1.))[1:])


def _window(volume: Volume):
  """Returns start and stop (y, x) of the middle of a slice, and the steps."""
  box = central_box(volume, _WINDOW_PX)
  longest = max(box.lengths_zyx[1:])
  steps = [max(1, round(longest / SIDE_PX / s)) for s in box.spacing_zyx[1:]]
  return box.start_zyx[1:], box.stop_zyx[1:], steps


def _read(volume: Volume, z_f, start_yx, stop_yx, steps_yx) -> np.ndarray:
  return np.concatenate([
      read_box(volume, (z, *start_yx), (z + 1, *stop_yx), steps_zyx=(1, *steps_yx))
      for z in z_f])


def _encode(drawn: list[_Drawn], limit_bytes: int) -> list[list[str]]:
  """Returns the pictures of each frame, all together within the limit."""
  count = len(drawn[0].stack)
  for step, quality in _LEVELS:
    frames = []
    size = 0
    for f in range(count):
      frames.append([_jpeg(one, f, step, quality) for one in drawn])
      size += sum(map(len, frames[-1]))
      if size > limit_bytes * (f + 1) / count * (1.3 if f + 1 < count else 1):
        break
    else:
      break
  return frames


def _jpeg(drawn: _Drawn, f: int, step: int, quality: int) -> str:
  buffer = io.BytesIO()
  matplotlib.image.imsave(
      buffer, drawn.stack[f, ::step, ::step], format='jpeg', cmap=drawn.cmap,
      vmin=drawn.low, vmax=drawn.high, pil_kwargs={'quality': quality})
  return base64.b64encode(buffer.getvalue()).decode('ascii')


def _place(z: int, volume: Volume) -> str:
  text = f'slice {z} of 0 to {volume.shape[0] - 1}'
  if volume.voxel_size_zyx_nm is None:
    return text
  return f'{text}, {z * volume.voxel_size_zyx_nm[0] / 1000:.2f} µm deep'


def _scale(volume: Volume, window, shape_yx) -> dict:
  """Returns the entries of a Slider about the size of its pictures."""
  start, stop, _ = window
  height, width = ((b - a) * s for a, b, s in zip(start, stop, _pixel_yx(volume),
                                                  strict=True))
  bar = scale_bar_length(width)
  unit = 'nm' if volume.voxel_size_zyx_nm else 'px'
  text = f'{bar / 1000:g} µm' if unit == 'nm' and bar >= 1000 else f'{bar:g} {unit}'
  part = ''
  if tuple(b - a for a, b in zip(start, stop, strict=True)) != volume.shape[1:]:
    part = (f' Of each slice the middle is shown, {stop[0] - start[0]} × '
            f'{stop[1] - start[1]} pixels.')
  return {'aspect': width / height, 'bar_percent': 100 * bar / width, 'bar_text': text,
          'is_coarse': max(shape_yx) < _BLURRED_PX,
          'note': _NOTE + part}
