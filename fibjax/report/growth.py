"""Table and figure of ensembles against their cost: content of growth.json."""
import math

import numpy as np
from matplotlib.figure import Figure

from fibjax.report import tables
from fibjax.report.figures import COLOURS, MARKERS, styled
from fibjax.report.sweep_tables import spread

_SCORES = {  # key of growth.json -> heading, factor, digits
    'miou_after': ('mIoU', 1, 4), 'worst_miou': ('mIoU, worst 5 %', 1, 4),
    'boundary_f1': ('boundary F1', 1, 4),
    'porosity_error': ('porosity error, %', 100, 2),
    'ece': ('ECE', 1, 4), 'brier': ('Brier', 1, 4), 'nll': ('NLL', 1, 4)}
_PANELS = ('miou_after', 'brier', 'ece')


def growth_table(rows: list[dict]) -> tables.Table:
  """Builds the table of quality against kind and number of members.

  Args:
    rows: content of growth.json.
  """
  body = tuple((
      row['kind'], str(row['members']), str(row['passes']), str(row['draws']),
      *(spread(factor * row[key][0], math.nan if row[key][1] is None
               else factor * row[key][1], digits)
        for key, (_, factor, digits) in _SCORES.items())) for row in rows)
  return tables.Table(
      title='Ensembles by kind and number of members', groups=(),
      columns=('Kind', 'Members', 'Passes', 'Draws',
               *(heading for heading, _, _ in _SCORES.values())),
      rows=body,
      note='Test regions, after post-processing tuned for each ensemble; mean ± sample '
           'standard deviation over draws of the members. Passes: of a network over '
           'the volume, the cost of inference. Seeds: best epochs. Averaged weights: '
           'of the last epochs (SWA). Dihedral: each member over the 8 symmetries of '
           'the square. Snapshots: of all cosine cycles of a member. Greedy: chosen '
           'one by one on the validation regions, with replacement.')


@styled
def growth_figure(rows: list[dict]) -> Figure:
  """Draws quality against passes, a line for each kind.

  Args:
    rows: content of growth.json.
  """
  figure = Figure(figsize=(9.4, 3.4), layout='constrained')
  kinds = list(dict.fromkeys(row['kind'] for row in rows))
  axes = figure.subplots(1, len(_PANELS))
  for ax, key in zip(axes, _PANELS, strict=True):
    for k, kind in enumerate(kinds):
      of_kind = sorted((row for row in rows if row['kind'] == kind),
                       key=lambda row: row['passes'])
      ax.errorbar([row['passes'] for row in of_kind],
                  [row[key][0] for row in of_kind],
                  yerr=np.array([row[key][1] or 0. for row in of_kind]),
                  color=COLOURS[k % len(COLOURS)], marker=MARKERS[k % len(MARKERS)],
                  markersize=4, linewidth=0.9, capsize=2, label=kind)
    passes = sorted({row['passes'] for row in rows})
    ax.set_xscale('log', base=2)
    ax.set_xticks(passes, map(str, passes))
    ax.minorticks_off()
    ax.set(xlabel='Passes over the volume', ylabel=_SCORES[key][0])
    ax.yaxis.get_major_formatter().set_useOffset(False)
    ax.grid(color='0.92', linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[['top', 'right']].set_visible(False)
  axes[0].legend(fontsize='small')
  return figure
