"""Pictures that open the report of a volume: three orthogonal cuts, and a view in 3-D.

The cuts show the image in grey with the outline of the solid, to scale; the view shows
the solid as `render` sees it. Both show a central box of the volume and read every k-th
voxel of it, so memory and time are bounded for any volume. Lengths are in micrometres,
or in voxels, taken for cubes, where the voxel size is unknown.
"""
from typing import NamedTuple

import numpy as np
from matplotlib import patheffects
from matplotlib.figure import Figure

from fibjax.report import figures, render
from fibjax.report.figures import COLOURS, styled
from fibjax.volumes.volume import Volume, read_box

_CUTS_PX = 1536        # longest edge of the box of the cuts, in pixels of a slice
_CUT_SAMPLES = 560     # along that edge
_VIEW_PX = 400         # longest edge of the box of the view
_OUTLINE, _CROSS = COLOURS[4], COLOURS[5]
_EDGE = '#5b6570'
_WIDTH_IN = 4.4
_GAP_IN = 0.05
_SLIVER = 0.08         # least share of the width, for stacks of few slices
_TALLEST = 1.25        # of the cuts, as a multiple of the width
_CUTS = (('xy', 0, 1, 2), ('zy', 2, 1, 0), ('xz', 1, 0, 2))  # name, axis, down, across
# Edges of the view that carry a length: axis, and the corners at their ends.
_RULED = ((2, 2, 3), (1, 0, 2), (0, 3, 7))
_HIDDEN = 6            # corner of the view behind all others


class Box(NamedTuple):
  """Central box of a volume.

  Attributes:
    start_zyx, stop_zyx: first voxel, and voxel after the last.
    spacing_zyx: edges of a voxel in µm, or 1 where they are unknown.
    is_known: whether the voxel size is known.
    is_whole: whether the box is the volume.
  """
  start_zyx: tuple[int, ...]
  stop_zyx: tuple[int, ...]
  spacing_zyx: tuple[float, ...]
  is_known: bool
  is_whole: bool

  @property
  def lengths_zyx(self) -> tuple[float, ...]:
    """Edges of the box in µm or voxels."""
    return tuple((b - a) * s for a, b, s in zip(
        self.start_zyx, self.stop_zyx, self.spacing_zyx, strict=True))

  def steps(self, samples: int) -> tuple[int, ...]:
    """Steps along z, y, x that leave about `samples` along the longest edge."""
    distance = max(self.lengths_zyx) / samples
    return tuple(max(1, round(distance / s)) for s in self.spacing_zyx)

  def describe(self) -> str:
    """What the box is and how long its edges are, for a caption."""
    lengths = ' × '.join(f'{length:.3g}' for length in self.lengths_zyx)
    return (f'{"the whole volume" if self.is_whole else "the middle of the volume"}, '
            f'{lengths} {"µm" if self.is_known else "voxels"} (z, y, x)')


def central_box(volume: Volume, most_px: int) -> Box:
  """Central box whose edges are at most `most_px` pixels of a slice long."""
  size = volume.voxel_size_zyx_nm
  spacing = tuple(s / 1000 for s in size) if size else (1., 1., 1.)
  limit = most_px * min(spacing[1:])
  edges = [min(n, max(1, round(limit / s)))
           for n, s in zip(volume.shape, spacing, strict=True)]
  start = tuple((n - edge) // 2 for n, edge in zip(volume.shape, edges, strict=True))
  stop = tuple(a + edge for a, edge in zip(start, edges, strict=True))
  return Box(start, stop, spacing, size is not None, stop == tuple(volume.shape))


def cuts_box(volume: Volume) -> Box:
  """The box that `cuts_figure` shows."""
  return central_box(volume, _CUTS_PX)


def view_box(volume: Volume) -> Box:
  """The box that `view_figure` shows."""
  return central_box(volume, _VIEW_PX)


def read_cut(volume: Volume, box: Box, axis: int) -> np.ndarray:
  """Reads samples of the plane across an axis in the middle of a box."""
  start, stop = list(box.start_zyx), list(box.stop_zyx)
  start[axis] = (start[axis] + stop[axis]) // 2
  stop[axis] = start[axis] + 1
  samples_zyx = read_box(volume, start, stop, steps_zyx=box.steps(_CUT_SAMPLES))
  return samples_zyx.squeeze(axis)


@styled
def cuts_figure(image: Volume, segmentation: Volume | None) -> Figure:
  """Draws the cuts xy, yz and xz through the middle, with the solid outlined.

  Args:
    image: grey values.
    segmentation: 0 pore, 1 solid, of the same shape; None draws the image alone.
  """
  box = cuts_box(image)
  z, y, x = (max(e, _SLIVER * max(box.lengths_zyx)) for e in box.lengths_zyx)
  height = min((y + z) / (x + z), _TALLEST) * _WIDTH_IN
  figure = Figure(figsize=(_WIDTH_IN, height))
  axes = figure.subplots(2, 2, width_ratios=[x, z], height_ratios=[y, z])
  figure.subplots_adjust(0, 0, 1, 1, 2 * _GAP_IN / _WIDTH_IN, 2 * _GAP_IN / height)
  pictures = [read_cut(image, box, axis) for axis in range(3)]
  low, high = np.percentile(pictures[0], (0.5, 99.5))
  places = (axes[0, 0], 'SE'), (axes[0, 1], 'SW'), (axes[1, 0], 'NE')
  for (ax, anchor), (name, axis, down, across) in zip(places, _CUTS, strict=True):
    labels = None if segmentation is None else read_cut(segmentation, box, axis)
    _draw_cut(ax, pictures[axis], labels, [box.lengths_zyx[k] for k in (down, across)],
              low, max(high, low + 1e-9), is_turned=down > across)
    ax.set_anchor(anchor)
    _write(ax, 0.03, 0.97, name, va='top', transform=ax.transAxes)
  figures.draw_scale_bar(axes[0, 0], box.lengths_zyx[2], box.lengths_zyx[1],
                         box.is_known)
  axes[1, 1].set_axis_off()
  return figure


def _draw_cut(ax, picture, labels, lengths, low, high, is_turned) -> None:
  """Draws one cut; a turned one is stored with the rows across."""
  if is_turned:
    picture, labels = picture.T, None if labels is None else labels.T
  height, width = lengths
  ax.imshow(picture, cmap='gray', vmin=low, vmax=high, extent=(0, width, height, 0))
  if labels is not None and min(labels.shape) > 1 and np.ptp(labels):
    at = [(np.arange(n) + 0.5) / n * length
          for n, length in zip(labels.shape, lengths, strict=True)]
    ax.contour(at[1], at[0], labels, [0.5], colors=[_OUTLINE], linewidths=0.9)
  ax.axvline(width / 2, color=_CROSS, linewidth=0.7, linestyle=(0, (6, 4)))
  ax.axhline(height / 2, color=_CROSS, linewidth=0.7, linestyle=(0, (6, 4)))
  ax.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
  ax.spines[:].set_visible(False)


def _write(ax, x, y, text, **kwargs) -> None:
  ax.text(x, y, text, color='white', fontsize=9.5, fontweight='bold', **kwargs,
          path_effects=[patheffects.withStroke(linewidth=1.8, foreground='black')])


@styled
def view_figure(segmentation: Volume) -> Figure:
  """Draws the solid of the central box in three dimensions.

  Args:
    segmentation: 0 pore, 1 solid.
  """
  box = view_box(segmentation)
  steps = box.steps(render.CELLS)
  labels_zyx = read_box(segmentation, box.start_zyx, box.stop_zyx, steps_zyx=steps)
  spacing = np.divide(box.lengths_zyx, labels_zyx.shape)
  view = render.render(labels_zyx == 1, spacing)
  height, width = view.rgba_yx.shape[:2]
  figure = Figure(figsize=(_WIDTH_IN, _WIDTH_IN * height / width))
  ax = figure.add_axes((0.07, 0.05, 0.9, 0.93))
  ax.imshow(view.rgba_yx, zorder=2)
  for first in range(8):
    for bit in (1, 2, 4):
      if not first & bit:
        ends = view.corners_8[[first, first | bit]]
        is_hidden = _HIDDEN in (first, first | bit)
        ax.plot(*ends.T, color=_EDGE, linewidth=0.8, zorder=1 if is_hidden else 3,
                alpha=0.5 if is_hidden else 1, solid_capstyle='round')
  middle = np.array([width, height]) / 2
  for axis, *ends in _RULED:
    _write_length(ax, view.corners_8[ends], middle,
                  f'{"zyx"[axis]}  {box.lengths_zyx[axis]:.3g} '
                  + ('µm' if box.is_known else 'px'))
  ax.set(xlim=(0, width), ylim=(height, 0))
  ax.set_axis_off()
  return figure


def _write_length(ax, ends_2, middle, text) -> None:
  """Writes a length along an edge, on the side away from the middle."""
  (x0, y0), (x1, y1) = ends_2
  along = np.array([x1 - x0, y1 - y0])
  across = np.array([-along[1], along[0]]) / max(np.hypot(*along), 1e-9)
  at = ends_2.mean(0)
  across *= np.sign(across @ (at - middle))
  angle = np.degrees(np.arctan2(-along[1], along[0]))
  ax.annotate(text, at, across * (1, -1) * 9, textcoords='offset points', ha='center',
              va='center', rotation=90 - (90 - angle) % 180, fontsize=9, color=_EDGE,
              rotation_mode='anchor', annotation_clip=False)
