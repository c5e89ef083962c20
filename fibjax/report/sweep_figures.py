"""Figures of a sweep (Figures 3 to 5 of Skärberg et al. 2021) and of calibration.

There is one line per n_z, and the colour and marker of an n_z are the same in every
figure, so that sweeps can be compared side by side. Best members and the spread of all
members are drawn in two panels: hyper-parameters spread the scores far more than sizes
do, and on a common axis the lines of the best members would be indistinguishable.
Functions take arrays and return a new Figure.
"""
import math
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fibjax.errors import InputError
from fibjax.report.figures import COLOURS, MARKERS, styled
from fibjax.report.published import SIZES_Z
from fibjax.training.members_table import HYPERS

_BAR = {'capsize': 2, 'elinewidth': 0.8, 'capthick': 0.8, 'markersize': 4}
_RING = {'linestyle': 'none', 'marker': 'o', 'markersize': 11, 'color': 'black',
         'markerfacecolor': 'none', 'markeredgewidth': 1.1}
_CROSS = {'linestyle': 'none', 'marker': 'x', 'markersize': 4.5, 'color': COLOURS[1],
          'markeredgewidth': 1.0}


class SizeCurve(NamedTuple):
  """A quantity of the members of one n_z against n_xy.

  Attributes:
    n_xy: [s] sides of the neighbourhoods in pixels, ascending.
    best: [s] of the selected member of each size.
    mean: [s] over members.
    sd: [s] over members, NaN where there is only one.
  """
  n_xy: np.ndarray
  best: np.ndarray
  mean: np.ndarray
  sd: np.ndarray


def time_unit(longest_s: float) -> tuple[float, str]:
  """Returns a unit for times up to longest_s: its length in seconds and its name."""
  units = ((3600.0, 'h'), (60.0, 'min'))
  return next((u for u in units if longest_s >= 3 * u[0]), (1.0, 's'))


def _style(n_z):
  """Returns the colour and marker of an n_z; those of the paper's are distinct."""
  i = SIZES_Z.index(n_z) if n_z in SIZES_Z else 6 + n_z
  return {'color': COLOURS[i % 7], 'marker': MARKERS[i % 7]}


def _tidy(ax):
  ax.grid(color='0.92', linewidth=0.6)
  ax.set_axisbelow(True)
  ax.spines[['top', 'right']].set_visible(False)


def _size_axis(ax, curves):
  """Puts ticks at the sizes, with room around a single one; returns the least gap."""
  sizes = np.unique(np.concatenate([c.n_xy for c in curves.values()]))
  gap = np.diff(sizes).min() if len(sizes) > 1 else 16
  ax.set(xlabel='Side n_xy of the neighbourhood (pixels)', xticks=sizes,
         xlim=(sizes[0] - 0.6 * gap, sizes[-1] + 0.6 * gap))
  ax.xaxis.set_major_formatter('{x:g}')
  ax.yaxis.get_major_formatter().set_useOffset(False)
  _tidy(ax)
  return gap


def _draw_spread(ax, curves, shift):
  """Draws mean and sd, each line shifted along x from the one before by `shift`."""
  for i, (n_z, curve) in enumerate(curves.items()):
    x = curve.n_xy + (i - (len(curves) - 1) / 2) * shift
    ax.errorbar(x, curve.mean, np.nan_to_num(curve.sd), **_style(n_z), **_BAR,
                linewidth=0.9, alpha=0.85)


def _key(figure, curves, extra=()):
  """Puts the legend beside the panels, where it covers no line."""
  handles = [Line2D([], [], **_style(n_z), markersize=4, label=f'{n_z}')
             for n_z in curves]
  figure.legend(handles=handles + list(extra), loc='outside right center',
                title='Slices n_z', alignment='left', handlelength=1.8)


def _check_curves(curves):
  if not curves:
    raise InputError('curves', got='none', expected='one or more sizes',
                     remedy='draw only sweeps with finished members')


@styled
def size_figure(curves: dict[int, SizeCurve], name: str,
                selected: tuple[int, int] | None = None) -> Figure:
  """Draws a score against size: best members left, mean and sd right (Figures 3, 4).

  Args:
    curves: n_z -> scores of its sizes.
    name: of the score, with its unit if any.
    selected: (n_xy, n_z) to ring, or None.

  Raises:
    InputError: without curves.
  """
  _check_curves(curves)
  figure = Figure(figsize=(9.4, 3.6), layout='constrained')
  best, spread = figure.subplots(1, 2)
  for n_z, curve in curves.items():
    best.plot(curve.n_xy, curve.best, **_style(n_z), markersize=6,
              markeredgecolor='white', markeredgewidth=0.6)
  key = []
  if selected is not None:
    n_xy, n_z = selected
    best.plot([n_xy], curves[n_z].best[curves[n_z].n_xy == n_xy], **_RING)
    key = [Line2D([], [], **(_RING | {'markersize': 8}), label='selected')]
  # Error bars of one size are side by side, and apart from those of the next size.
  gap = _size_axis(best, curves)
  _draw_spread(spread, curves, min(0.7 / len(curves), 0.15) * gap)
  _size_axis(spread, curves)
  if spread.get_ylim()[0] < 0:
    spread.set_ylim(bottom=0)  # no score is negative, but mean - sd may be
  best.set(title='Best member of each size', ylabel=name)
  spread.set(title='Mean ± standard deviation of the members')
  _key(figure, curves, key)
  return figure


@styled
def time_figure(curves: dict[int, SizeCurve]) -> Figure:
  """Draws the mean training time against size (Figure 5 of the paper).

  Args:
    curves: n_z -> seconds per member of its sizes; best is not drawn.

  Raises:
    InputError: without curves.
  """
  _check_curves(curves)
  unit_s, unit = time_unit(max(c.mean.max() for c in curves.values()))
  scaled = {n_z: SizeCurve(c.n_xy, *(np.asarray(v) / unit_s for v in c[1:]))
            for n_z, c in curves.items()}
  figure = Figure(figsize=(6.2, 3.6), layout='constrained')
  ax = figure.subplots()
  _size_axis(ax, scaled)
  _draw_spread(ax, scaled, 0)  # not shifted: a rising line would look lower
  ax.set_ylabel(f'Training time per member ({unit})')
  ax.set_ylim(0, 1.08 * max(np.max(c.mean + np.nan_to_num(c.sd))
                            for c in scaled.values()) or 1.0)
  _key(figure, scaled)
  return figure


@styled
def hyper_figure(hypers: dict[str, np.ndarray], val_bce: np.ndarray,
                 state: np.ndarray, selected: int | None) -> Figure:
  """Draws validation cross-entropy against each hyper-parameter of one size's members.

  Diverged members have no meaningful score. They are drawn as crosses above the axes,
  since their hyper-parameters still show which values fail.

  Args:
    hypers: name in HYPERS -> [m] values.
    val_bce: [m] nats, NaN where missing.
    state: [m] 'finished', 'diverged' or 'stopped'.
    selected: index of the selected member, or None.
  """
  figure = Figure(figsize=(9.4, 4.6), layout='constrained')
  axes = figure.subplots(2, 4, sharey=True).ravel()
  diverged = state == 'diverged'
  styles = {'finished': {'color': COLOURS[0], 'alpha': 0.7},
            'stopped': {'facecolors': 'none', 'alpha': 0.8, 'edgecolors': '0.4'}}
  for ax, (name, values) in zip(axes, hypers.items(), strict=False):
    for name_of_state, style in styles.items():
      members = state == name_of_state
      ax.scatter(values[members], val_bce[members], s=15, linewidths=0.8, **style)
    if diverged.any():
      # `plot`, since `scatter` in this transform is ignored by the limits of x
      ax.plot(values[diverged], np.full(diverged.sum(), 1.04), **_CROSS, clip_on=False,
              transform=ax.get_xaxis_transform())
      ax.set_title(' ')  # leaves room for the crosses
    ax.axvline(HYPERS[name].paper, color='0.35', linestyle=':', linewidth=1.0)
    if selected is not None:
      ax.plot(values[selected], val_bce[selected], **_RING)
    ax.set_xlabel(HYPERS[name].label)
    ax.margins(0.07)
    ax.locator_params(axis='x', nbins=5)
    _tidy(ax)
  for ax in axes[::4]:
    ax.set_ylabel('Validation cross-entropy')
  _score_axis(axes[0], val_bce[~diverged])
  axes[3].tick_params(labelbottom=True)
  _hyper_key(axes[7], (state == 'stopped').any(), diverged.any(), selected is not None)
  return figure


def _score_axis(ax, scores):
  """Sets the shared y limits; logarithmic when bad members would flatten the others."""
  scores = scores[np.isfinite(scores)]
  if not len(scores):
    ax.set_ylim(0, 1)
    return
  low, high = scores.min(), scores.max()
  if low > 0 and high > 5 * low:
    ax.set_yscale('log')
    room = (high / low) ** 0.08
    ax.set_ylim(low / room, high * room)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    round_values = [m * 10.0 ** p for p in powers for m in (1, 2, 5)]
    shown = [v for v in round_values if low / room <= v <= high * room]
    ax.set_yticks(shown, [f'{v:g}' for v in shown])
    ax.minorticks_off()
    return
  room = 0.08 * max(high - low, 0.02 * high, 1e-6)
  ax.set_ylim(low - room, high + room)
  ax.yaxis.get_major_formatter().set_useOffset(False)


def _hyper_key(ax, has_stopped, has_diverged, has_selected):
  ax.set_axis_off()
  dot = {'linestyle': 'none', 'markersize': 4.5}
  handles = [Line2D([], [], marker='o', color=COLOURS[0], label='finished', **dot)]
  if has_stopped:
    handles.append(Line2D([], [], marker='o', color='0.4', markerfacecolor='none',
                          label='stopped early', **dot))
  if has_diverged:
    handles.append(Line2D([], [], **_CROSS, label='diverged'))
  if has_selected:
    handles.append(Line2D([], [], **(_RING | {'markersize': 8}), label='selected'))
  handles.append(Line2D([], [], color='0.35', linestyle=':', linewidth=1.0,
                        label="paper's winner"))
  ax.legend(handles=handles, loc='center left')


@styled
def loss_figure(names: list[str], differences: list[dict]) -> Figure:
  """Draws the differences of losses from the first one, a panel for each score.

  Args:
    names: of the losses, top to bottom.
    differences: for each, score -> {'difference', 'low', 'high'}.
  """
  panels = {'miou': 'mIoU', 'worst_miou': 'mIoU, worst 5 %',
            'boundary_f1': 'boundary F1', 'porosity_error': 'porosity error',
            'porosity_bias': 'porosity bias', 'ece': 'ECE'}
  height = 1.0 + 0.28 * max(len(names), 2)
  figure = Figure(figsize=(9.4, 2 * height), layout='constrained')
  rows = np.arange(len(names))
  axes = figure.subplots(2, 3, sharey=True).ravel()
  for ax, (key, label) in zip(axes, panels.items(), strict=True):
    ax.set_xlabel(label)
    if any(key not in d for d in differences):  # of an earlier version
      continue
    middle, low, high = (np.array([d[key][bound] for d in differences], float)
                         for bound in ('difference', 'low', 'high'))
    ax.axvline(0, color='0.35', linestyle=':', linewidth=1.0)
    ax.errorbar(middle, rows, xerr=[np.maximum(middle - low, 0),
                                    np.maximum(high - middle, 0)],
                fmt='o', color=COLOURS[0], **_BAR)
    ax.set_yticks(rows, names)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.locator_params(axis='x', nbins=5)
    _tidy(ax)
  return figure


def calibration_error(mean_score, observed, count) -> float:
  """Returns the expected calibration error: mean |observed - score| over voxels."""
  weight = np.asarray(count, float)
  full = weight > 0
  error = np.abs(np.asarray(observed, float) - np.asarray(mean_score, float))
  return float(np.sum(weight[full] * error[full]) / weight[full].sum())


def _check_bins(name, bins):
  mean_score, observed, count = (np.asarray(values, float) for values in bins)
  if not mean_score.shape == observed.shape == count.shape or mean_score.ndim != 1:
    raise InputError(f'reliability {name}', got=f'{mean_score.shape}, '
                     f'{observed.shape}, {count.shape}', remedy='check the bins',
                     expected='three vectors of equal length')
  full = count > 0
  fractions = np.concatenate([mean_score[full], observed[full]])
  inside = (fractions >= 0) & (fractions <= 1)
  if not full.any() or not np.isfinite(count).all() or not inside.all():
    raise InputError(f'reliability {name}', got='counts or fractions out of range',
                     expected='a bin with voxels; scores and frequencies in 0 to 1',
                     remedy='check the bins')
  return mean_score, observed, count


@styled
def reliability_figure(curves: dict) -> Figure:
  """Draws the observed fraction of solid against the score.

  Args:
    curves: name -> (mean score [b], observed fraction of solid [b], number of voxels
      [b]), one entry per bin; bins without voxels are skipped. At most two curves, such
      as before and after calibration.

  Raises:
    InputError: for unequal lengths, no voxels, or fractions outside 0 to 1.
  """
  figure = Figure(figsize=(4.4, 4.3), layout='constrained')
  ax = figure.subplots()
  ax.plot([0, 1], [0, 1], color='0.5', linewidth=0.8, zorder=1, label='calibrated')
  for i, (name, bins) in enumerate(curves.items()):
    mean_score, observed, count = _check_bins(name, bins)
    full = count > 0
    ece = calibration_error(mean_score, observed, count)
    ax.plot(mean_score[full], observed[full], color=COLOURS[1 - i], marker='so'[i],
            linestyle=('--', '-')[i], markersize=4, label=f'{name}, ECE {ece:.4f}')
  ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect='equal',
         xlabel='Mean score of the bin, P(solid)', ylabel='Observed fraction of solid')
  _tidy(ax)
  ax.legend(loc='upper left')
  return figure
