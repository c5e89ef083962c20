"""Figure of `fibjax inspect`: three orthogonal cuts and curves along z.

The cuts share their axes and are drawn to scale: in micrometres where the voxel size is
known, otherwise in voxels assumed to be cubes. Slices with a finding are marked in the
curves; findings about the whole stack have a square in the legend.
"""
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fibjax.inspection.inspect import Cuts
from fibjax.report.figures import COLOURS, styled

_WIDTH_IN = 9.0
_CUTS_IN = (2.6, 7.5)     # least and greatest height of the cuts
_CURVE_IN = 1.2           # height of a curve
_LABELS_IN = 0.75         # beside and below the cuts
_SLIVER = 0.06            # least share of the width, for stacks of few slices
_LINE = COLOURS[4]
_SEVERITY = {'error': '#c00000', 'warning': COLOURS[1], 'note': '0.5'}
_DASHES = ('-', '--', ':', '-.')


@styled
def inspect_figure(report: dict, cuts: Cuts) -> Figure:
  """Draws the cuts and curves of an inspected stack.

  Args:
    report: of `inspect.inspect_stack`.
    cuts: of `inspect.cuts`, of the same stack.
  """
  extents, unit = _extents(report)
  z, y, x = (max(e, _SLIVER * max(extents)) for e in extents)
  height = (_WIDTH_IN - 2 * _LABELS_IN) * (y + z) / (x + z) + 2 * _LABELS_IN
  height = float(np.clip(height, *_CUTS_IN))
  figure = Figure(figsize=(_WIDTH_IN, height + 3 * _CURVE_IN + 0.6),
                  layout='constrained')
  upper, lower = figure.subfigures(
      2, 1, height_ratios=[height, 3 * _CURVE_IN + 0.6])
  upper.suptitle(_title(report), fontsize=9.5, parse_math=False)
  axes = upper.subplots(2, 2, width_ratios=[x, z], height_ratios=[y, z])
  _draw_cuts(axes, cuts, extents, unit)
  _draw_curves(lower.subplots(3, 1, sharex=True), report)
  return figure


def _extents(report):
  """Returns the lengths of the stack along z, y, x and their unit."""
  if report['size_zyx_um'] is not None:
    return tuple(report['size_zyx_um']), '\N{MICRO SIGN}m'
  return tuple(float(n) for n in report['shape_zyx']), 'voxels'


def _title(report) -> str:
  size = report['voxel_size_zyx_nm']
  size = ('voxel size unknown' if None in size else
          ' x '.join(f'{s:g}' for s in size) + ' nm')
  shape = ' x '.join(str(n) for n in report['shape_zyx'])
  return f'{Path(report["source"]).name}: {shape} (z, y, x), {report["dtype"]}, {size}'


def _draw_cuts(axes, cuts: Cuts, extents, unit):
  height, width = cuts.xy.shape
  finite = cuts.xy[np.isfinite(cuts.xy)]
  low, high = np.percentile(finite, (0.5, 99.5)) if finite.size else (0, 1)
  counts = (len(cuts.xz), height, width)
  at = [(place + 0.5) * extent / n for place, extent, n in
        zip(cuts.at_zyx, extents, counts, strict=True)]
  for ax, picture, across, down in ((axes[0, 0], cuts.xy, 2, 1),
                                    (axes[1, 0], cuts.xz, 2, 0),
                                    (axes[0, 1], cuts.yz.T, 0, 1)):
    ax.imshow(picture, cmap='gray', vmin=low, vmax=high if high > low else low + 1,
              extent=(0, extents[across], extents[down], 0), interpolation='auto',
              aspect='equal')
    ax.axvline(at[across], color=_LINE, linewidth=0.7)
    ax.axhline(at[down], color=_LINE, linewidth=0.7)
    ax.set(xlabel=f'{"zyx"[across]} ({unit})', ylabel=f'{"zyx"[down]} ({unit})')
    longest = max(extents)
    for axis, k in ((ax.xaxis, across), (ax.yaxis, down)):
      axis.get_major_locator().set_params(
          nbins=max(1, round(6 * extents[k] / longest)))
  axes[0, 0].set(xlabel='', xticklabels=[])
  axes[0, 1].set(ylabel='', yticklabels=[])
  axes[0, 0].set_anchor('SE')
  axes[1, 0].set_anchor('NE')
  axes[0, 1].set_anchor('SW')
  axes[1, 1].set_axis_off()


def _draw_curves(axes, report):
  slices = {name: np.array(values, float) for name, values in report['slices'].items()}
  z = np.arange(len(slices['brightness']))
  marker = '.' if len(z) < 60 else None
  brightness, drift, likeness = axes
  brightness.fill_between(z, slices['brightness'] - slices['spread'],
                          slices['brightness'], color='0.85', linewidth=0)
  brightness.plot(z, slices['brightness'], color=COLOURS[0], marker=marker)
  brightness.set_ylabel('grey value,\n25 to 75 %')
  for k, name in enumerate('yx'):
    drift.plot(z, slices['drift_yx_px'][:, k], color=COLOURS[k], marker=marker,
               label=name)
  drift.set_ylabel('drift (px)')
  drift.legend(loc='upper left', ncols=2, handlelength=1.2)
  likeness.plot(z, slices['correlation'], color=COLOURS[2], marker=marker)
  likeness.set(ylabel='correlation with\nthe slice before', xlabel='slice z')
  likeness.set_xlim(-0.5, len(z) - 0.5)
  likeness.xaxis.get_major_locator().set_params(integer=True)
  handles = []
  for k, finding in enumerate(report['findings']):
    style = {'color': _SEVERITY[finding['severity']],
             'linestyle': _DASHES[k % 4] if finding['z'] else '', 'linewidth': 0.9}
    for ax in axes:
      for at in finding['z']:
        ax.axvline(at, zorder=1, **style)
    handles.append(Line2D([], [], label=finding['what'],
                          marker=None if finding['z'] else 's', **style))
  for ax in axes:
    ax.grid(color='0.93', linewidth=0.5)
    ax.spines[['top', 'right']].set_visible(False)
  if handles:
    axes[0].figure.legend(handles=handles, loc='outside upper center', ncols=4)
