"""Figures of the report, drawn from arrays in the colours of Skärberg et al. 2021.

Arrays are [y, x]: grey images, labels 0 pore, 1 solid, 255 unlabelled, scores P(solid)
in [0, 1]. Axes are in micrometres where the voxel size is known and in pixels
otherwise. Every function returns a new matplotlib Figure, without a display and without
global state. Names are drawn verbatim, never parsed as formulas.
"""
import io
import math
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib import patheffects
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from fibjax.metrics.labels import UNLABELLED

SCORE_COLOURS = LinearSegmentedColormap.from_list(
    'score', [(0.0, 'black'), (0.5, '#00ff00'), (1.0, 'white')])
PORE_RGB, SOLID_RGB = (0.0, 0.75, 0.0), (0.9, 0.0, 0.0)
COMPARISON_RGB = {  # (label, segmentation)
    (0, 0): (0.0, 0.0, 0.0), (1, 1): (1.0, 1.0, 1.0),
    (0, 1): (0.0, 0.75, 0.0), (1, 0): (1.0, 0.55, 0.0)}
COMPARISON_NAMES = {
    (0, 0): 'correct pore', (1, 1): 'correct solid',
    (0, 1): 'pore taken for solid', (1, 0): 'solid taken for pore'}
UNLABELLED_RGB = (0.62, 0.62, 0.66)
_OVERLAY_ALPHA = 0.32
# Okabe and Ito's colours, safe for colour-blind readers, and a marker for each.
COLOURS = ('#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9',
           '#000000')
MARKERS = 'os^Dv<>'
_BLUE, _RED, _GREEN = COLOURS[:3]
_STYLE = {
    'font.family': 'sans-serif', 'font.size': 9.0, 'axes.titlesize': 9.5,
    'axes.labelsize': 9.0, 'xtick.labelsize': 8.0, 'ytick.labelsize': 8.0,
    'legend.fontsize': 8.5, 'axes.linewidth': 0.6, 'lines.linewidth': 1.4,
    'xtick.major.width': 0.6, 'ytick.major.width': 0.6, 'xtick.major.size': 2.5,
    'ytick.major.size': 2.5, 'legend.frameon': False, 'savefig.dpi': 160,
    'figure.dpi': 100}
styled = matplotlib.rc_context(_STYLE)  # decorator of every function that draws


class RegionPanel(NamedTuple):
  """An annotated region as in Figure 8 of the paper.

  Attributes:
    name: the volume's name.
    image_yx: grey values.
    mask_yx: labels 0/1/255.
    score_yx: P(solid).
    segmentation_yx: 0/1.
    voxel_size_yx_nm: in-plane voxel size, or None when unknown.
  """
  name: str
  image_yx: np.ndarray
  mask_yx: np.ndarray
  score_yx: np.ndarray
  segmentation_yx: np.ndarray
  voxel_size_yx_nm: tuple[float, float] | None


def to_png(figure: Figure) -> bytes:
  """Renders a figure; the same figure gives the same bytes."""
  buffer = io.BytesIO()
  with matplotlib.rc_context(_STYLE):
    figure.savefig(buffer, format='png', metadata={'Software': None})
  return buffer.getvalue()


def stretch(image_yx: np.ndarray) -> np.ndarray:
  """Maps grey values to [0, 1] between their 0.5 and 99.5 percentiles, clipped."""
  image_yx = np.asarray(image_yx, np.float32)
  low, high = np.percentile(image_yx, [0.5, 99.5])
  if high <= low:
    return np.full(image_yx.shape, 0.5, np.float32)
  return np.clip((image_yx - low) / (high - low), 0, 1)


def overlay(image_yx: np.ndarray, labels_yx: np.ndarray) -> np.ndarray:
  """Tints a grey image: pore green, solid red; unlabelled voxels stay grey.

  Returns:
    [y, x, rgb] float32 in [0, 1].
  """
  rgb = np.repeat(stretch(image_yx)[..., None], 3, -1)
  for code, colour in ((0, PORE_RGB), (1, SOLID_RGB)):
    where = labels_yx == code
    rgb[where] += np.float32(_OVERLAY_ALPHA) * (np.float32(colour) - rgb[where])
  return rgb


def comparison(mask_yx: np.ndarray, segmentation_yx: np.ndarray) -> np.ndarray:
  """Colours each voxel by label and segmentation; unlabelled voxels are grey.

  Returns:
    [y, x, rgb] float32 in [0, 1].
  """
  rgb = np.empty((*mask_yx.shape, 3), np.float32)
  rgb[:] = UNLABELLED_RGB
  for (label, prediction), colour in COMPARISON_RGB.items():
    rgb[(mask_yx == label) & (segmentation_yx == prediction)] = colour
  return rgb


def unit(voxel_size_yx_nm) -> str:
  """Returns the unit of length of the axes."""
  return 'pixels' if voxel_size_yx_nm is None else '\N{MICRO SIGN}m'


def show(ax, picture, voxel_size_yx_nm, *, scale_bar=False, **kwargs):
  """Draws a picture with axes in micrometres or pixels, its origin at the top left."""
  h, w = picture.shape[:2]
  dy, dx = (v / 1000 for v in voxel_size_yx_nm) if voxel_size_yx_nm else (1, 1)
  kwargs = {'cmap': 'gray', 'vmin': 0, 'vmax': 1} | kwargs
  shown = ax.imshow(picture, extent=(0, w * dx, h * dy, 0), **kwargs)
  ax.locator_params(nbins=4)
  if scale_bar:
    draw_scale_bar(ax, w * dx, h * dy, known=voxel_size_yx_nm is not None)
  return shown


def scale_bar_length(width: float) -> float:
  """Returns the round length (1, 2 or 5 times a power of 10) up to 30 % of width."""
  limit = 0.3 * width
  power = 10.0 ** math.floor(math.log10(limit))
  return max(m for m in (1, 2, 5) if m * power <= limit * (1 + 1e-9)) * power


def draw_scale_bar(ax, width: float, height: float, known: bool):
  """Draws a bar of round length over a picture of a size in µm, or pixels."""
  length = scale_bar_length(width)
  if not known:
    text = f'{length:g} px'
  elif length >= 1:
    text = f'{length:g} \N{MICRO SIGN}m'
  else:
    text = f'{1000 * length:g} nm'
  x, y, thick = 0.04 * width, 0.945 * height, 0.018 * height
  ax.add_patch(Rectangle((x, y), length, thick, facecolor='white', edgecolor='black',
                         linewidth=0.6))
  ax.text(x, y - 0.01 * height, text, color='white', ha='left', va='bottom',
          fontsize=8.5, fontweight='bold',
          path_effects=[patheffects.withStroke(linewidth=1.8, foreground='black')])


def _legend(ax, entries, **kwargs):
  ax.set_axis_off()
  handles = [Patch(facecolor=colour, edgecolor='0.3', linewidth=0.5, label=name)
             for name, colour in entries]
  ax.legend(handles=handles, **({'loc': 'center', 'handlelength': 1.1,
                                 'handleheight': 1.1, 'borderpad': 0,
                                 'labelspacing': 0.35, 'columnspacing': 1.2} | kwargs))


@styled
def neighbourhood_figure(stack_zyx: np.ndarray, sizes_px, chosen_px: int | None,
                         voxel_size_yx_nm=None) -> Figure:
  """Draws the neighbourhood sizes around one voxel (Figure 1 of the paper).

  Args:
    stack_zyx: [n_z, y, x] grey, the slices of one neighbourhood; the voxel is in the
      middle of each axis.
    sizes_px: side lengths of the squares, odd.
    chosen_px: the side length that the run uses, whose slices are drawn on the right;
      None draws the squares only.
    voxel_size_yx_nm: in-plane voxel size or None.
  """
  stack_zyx = stretch(stack_zyx)
  n_z, h, w = stack_zyx.shape
  middle = stack_zyx[n_z // 2]
  dy, dx = (v / 1000 for v in voxel_size_yx_nm) if voxel_size_yx_nm else (1, 1)
  columns = 0 if chosen_px is None else math.ceil(n_z / 3)
  figure = Figure(figsize=(4.5 + 1.45 * columns, 4.3), layout='constrained')
  squares, slices = (figure.subfigures(1, 2, width_ratios=[4.5, 1.45 * columns])
                     if columns else (figure, None))
  ax = squares.subplots()
  show(ax, middle, voxel_size_yx_nm, scale_bar=True)
  # The centre of the middle voxel; a square covers whole voxels around it.
  cy, cx = (h // 2 + 0.5) * dy, (w // 2 + 0.5) * dx
  for size in sorted(sizes_px):
    chosen = size == chosen_px
    colour = '#ffd400' if chosen else 'white'
    x, y = cx - size * dx / 2, cy - size * dy / 2
    ax.add_patch(Rectangle((x, y), size * dx, size * dy, fill=False, edgecolor=colour,
                           linewidth=2.0 if chosen else 1.1, path_effects=[
                               patheffects.withStroke(linewidth=3.0 if chosen else 2.1,
                                                      foreground='black')]))
    # Labels follow the diagonal, each inside its square, so that none overlap.
    ax.text(x + size * dx - 0.006 * w * dx, y + 0.004 * h * dy, str(size),
            color=colour, fontsize=8, fontweight='bold', ha='right', va='top',
            path_effects=[patheffects.withStroke(linewidth=1.6, foreground='black')])
  ax.plot(cx, cy, '+', color='#ffd400', markersize=7, markeredgewidth=1.6)
  ax.set(**{f'{axis}label': f'{axis} ({unit(voxel_size_yx_nm)})' for axis in 'xy'})
  ax.set_title('Side of the neighbourhood in pixels')
  if columns:
    _draw_slices(slices, stack_zyx, chosen_px, columns)
  return figure


def _draw_slices(figure, stack_zyx, size_px, columns):
  n_z, h, w = stack_zyx.shape
  top, left = h // 2 - size_px // 2, w // 2 - size_px // 2
  axes = figure.subplots(min(n_z, 3), columns, squeeze=False).ravel()
  for ax in axes[n_z:]:
    ax.set_axis_off()
  for i, (ax, plane) in enumerate(zip(axes, stack_zyx, strict=False)):
    show(ax, plane[top:top + size_px, left:left + size_px], None)
    ax.set(xticks=[], yticks=[])
    offset = i - n_z // 2
    ax.set_ylabel(f'z {offset:+d}'.replace('-', '\N{MINUS SIGN}') if offset else 'z',
                  labelpad=2)
  figure.suptitle(f'{size_px} × {size_px} × {n_z}', fontsize=9.5)


@styled
def curves_figure(curves: dict) -> Figure:
  """Draws loss and accuracy against epoch (Figure 6 of the paper).

  Args:
    curves: columns of metrics.csv as float arrays of equal length, NaN where empty:
      epoch, and any of train_bce (or train_loss, with the weight penalty), val_bce,
      train_accuracy, val_accuracy, val_miou.
  """
  figure = Figure(figsize=(8.2, 3.1), layout='constrained')
  loss, score = figure.subplots(1, 2)
  epoch = curves['epoch']
  train, label = (('train_bce', 'training cross-entropy') if 'train_bce' in curves
                  else ('train_loss', 'training loss'))
  styles = {
      train: (loss, _BLUE, '-', label),
      'val_bce': (loss, _RED, '-', 'validation cross-entropy'),
      'train_accuracy': (score, _BLUE, '-', 'training accuracy'),
      'val_accuracy': (score, _RED, '-', 'validation accuracy'),
      'val_miou': (score, _GREEN, '--', 'validation mIoU')}
  marker = 'o' if len(epoch) < 15 else None
  for name, (ax, colour, line, label) in styles.items():
    if name in curves and np.isfinite(curves[name]).any():
      ax.plot(epoch, curves[name], line, color=colour, label=label, marker=marker,
              markersize=3)
  val_bce = curves.get('val_bce', np.array([]))
  if np.isfinite(val_bce).any():
    best = epoch[np.nanargmin(val_bce)]
    for ax, label in ((loss, f'selected epoch {best:g}'), (score, None)):
      ax.axvline(best, color='0.15', linewidth=0.9, linestyle=':', label=label)
  for ax, name in ((loss, 'Loss'), (score, 'Accuracy, mIoU')):
    ax.set(xlabel='Epoch', ylabel=name)
    ax.grid(color='0.9', linewidth=0.6)
    ax.spines[['top', 'right']].set_visible(False)
    ax.xaxis.get_major_locator().set_params(integer=True)
    if len(epoch) == 1:
      ax.set_xticks(epoch)
    if ax.get_legend_handles_labels()[0]:
      ax.legend(loc='best', frameon=True, edgecolor='none', framealpha=0.85)
  return figure


@styled
def regions_figure(panels: list[RegionPanel]) -> Figure:
  """Draws one region per volume, image to comparison (Figure 8 of the paper)."""
  titles = ('Image', 'Manual', 'Score', 'Automatic', 'Comparison')
  aspects = [_height_over_width(p.image_yx.shape, p.voxel_size_yx_nm) for p in panels]
  # Inches: a panel is 1.85 wide; ticks and titles take 0.2 per row, the legends 0.95.
  heights = [1.85 * a + 0.2 for a in aspects] + [0.95]
  figure = Figure(figsize=(10.2, sum(heights) + 0.45), layout='constrained')
  figure.get_layout_engine().set(w_pad=0.03, h_pad=0.04, wspace=0.01, hspace=0.01)
  axes = figure.subplots(len(panels) + 1, len(titles), squeeze=False,
                         height_ratios=heights)
  same_extent = len({(p.image_yx.shape, p.voxel_size_yx_nm) for p in panels}) == 1
  for row, panel in zip(axes, panels, strict=False):
    size = panel.voxel_size_yx_nm
    pictures = (stretch(panel.image_yx), overlay(panel.image_yx, panel.mask_yx),
                panel.score_yx, overlay(panel.image_yx, panel.segmentation_yx),
                comparison(panel.mask_yx, panel.segmentation_yx))
    for ax, title, picture in zip(row, titles, pictures, strict=True):
      cmap = SCORE_COLOURS if title == 'Score' else 'gray'
      shown = show(ax, picture, size, scale_bar=title == 'Image', cmap=cmap)
      if title == 'Score':
        score = shown
      if ax is not row[0]:
        ax.set_yticklabels([])
      if same_extent and panel is not panels[-1]:
        ax.set_xticklabels([])
    row[0].set_ylabel(f'{panel.name}\n{unit(size)}', parse_math=False,
                      linespacing=1.5)
  for ax, title in zip(axes[0], titles, strict=True):
    ax.set_title(title)
  for ax in axes[-2]:
    ax.set_xlabel(unit(panels[-1].voxel_size_yx_nm))
  _draw_legends(figure, axes[-1], score,
                has_unlabelled=any((p.mask_yx == UNLABELLED).any() for p in panels))
  return figure


def _height_over_width(shape, voxel_size_yx_nm):
  dy, dx = voxel_size_yx_nm or (1, 1)
  return shape[0] * dy / (shape[1] * dx)


def _draw_legends(figure, row, score, has_unlabelled):
  row[0].set_axis_off()
  for ax in (row[1], row[3]):
    tinted = [(name, 0.5 * np.array(rgb) + 0.5 * 0.6)
              for name, rgb in (('pore', PORE_RGB), ('solid', SOLID_RGB))]
    _legend(ax, tinted, ncols=2)
  row[2].set_axis_off()
  bar = figure.colorbar(score, cax=row[2].inset_axes([0.04, 0.6, 0.92, 0.16]),
                        orientation='horizontal', ticks=[0, 0.5, 1])
  bar.set_label('P(solid)', labelpad=1)
  entries = [(name, COMPARISON_RGB[k]) for k, name in COMPARISON_NAMES.items()]
  if has_unlabelled:
    entries.append(('unlabelled', UNLABELLED_RGB))
  _legend(row[4], entries)


@styled
def slice_figure(name: str, z: int, image_yx: np.ndarray, segmentation_yx: np.ndarray,
                 voxel_size_yx_nm=None) -> Figure:
  """Draws a full slice beside its segmentation (Figure 9 of the paper)."""
  aspect = _height_over_width(image_yx.shape, voxel_size_yx_nm)
  rows, columns = (2, 1) if aspect < 0.4 else (1, 2)
  width = 10.0 / columns - 0.4
  height = rows * (min(width * aspect, 7.5) + 0.75)
  figure = Figure(figsize=(10.0, height), layout='constrained')
  axes = figure.subplots(rows, columns).ravel()
  show(axes[0], stretch(image_yx), voxel_size_yx_nm, scale_bar=True)
  show(axes[1], segmentation_yx.astype(np.float32), voxel_size_yx_nm,
       interpolation_stage='data')
  axes[0].set_title(f'{name}, slice {z}', parse_math=False)
  axes[1].set_title('Segmentation: pore black, solid white')
  for ax in axes:
    ax.set_xlabel(f'x ({unit(voxel_size_yx_nm)})')
  for ax in axes[:1] if columns == 2 else axes:
    ax.set_ylabel(f'y ({unit(voxel_size_yx_nm)})')
  return figure


@styled
def porosity_figure(manual: dict, automatic: dict) -> Figure:
  """Draws automatic against manual porosity, one point per region.

  Args:
    manual: volume name -> [r] fractions of pore in the labels.
    automatic: volume name -> [r] fractions in the segmentation.
  """
  figure = Figure(figsize=(4.2, 4.1), layout='constrained')
  ax = figure.subplots()
  ax.axline((0, 0), slope=1, color='0.5', linewidth=0.8, zorder=1)
  for i, name in enumerate(manual):
    ax.scatter(100 * manual[name], 100 * automatic[name], s=16, alpha=0.75,
               color=COLOURS[i % 7], marker=MARKERS[i % 7],
               linewidths=0, label=name)
  values = 100 * np.concatenate([*manual.values(), *automatic.values()])
  pad = max(0.05 * np.ptp(values), 1.0)
  limits = (max(values.min() - pad, -1), min(values.max() + pad, 101))
  ax.set(xlim=limits, ylim=limits, aspect='equal', xlabel='Manual porosity (%)',
         ylabel='Automatic porosity (%)')
  ax.grid(color='0.92', linewidth=0.6)
  ax.spines[['top', 'right']].set_visible(False)
  legend = ax.legend(loc='upper left', handletextpad=0.2)
  for text in legend.get_texts():
    text.set_parse_math(False)
  return figure


@styled
def bars_figure(names: list[str], series: list[str], values_sn, label: str,
                errors_sn=None) -> Figure:
  """Draws a group of horizontal bars for each name, one bar per series.

  Args:
    names: n groups, top to bottom.
    series: s names of bars in a group.
    values_sn: [s, n] values from 0; None for none.
    label: of the axis of values.
    errors_sn: [s, n] half lengths of error bars, an entry None for none; None for
      no error bars.
  """
  count = len(series)
  figure = Figure(figsize=(8.0, 1.0 + 0.16 * (count + 1) * len(names)),
                  layout='constrained')
  ax = figure.subplots()
  rows = np.arange(len(names))
  for s, (name, values) in enumerate(zip(series, values_sn, strict=True)):
    places = rows + (s - (count - 1) / 2) * 0.8 / count
    lengths = [value or 0 for value in values]
    ax.barh(places, lengths, 0.8 / count, color=COLOURS[s % len(COLOURS)], label=name)
    if errors_sn is not None:
      ax.errorbar(lengths, places, xerr=[error or 0 for error in errors_sn[s]],
                  fmt='none', ecolor='0.2', elinewidth=1.0, capsize=2)
  ax.set_yticks(rows, names)
  ax.set_ylim(len(names) - 0.4, -0.6)
  ax.set_xlabel(label)
  ax.grid(axis='x', color='0.9', linewidth=0.6)
  ax.set_axisbelow(True)
  figure.legend(loc='outside upper center', ncols=count)
  return figure
