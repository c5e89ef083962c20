"""Report of the study of label budgets: scores against the number of regions.

Input is labels.json of its workdir. The same file gives the same bytes.
"""
from pathlib import Path

from matplotlib.figure import Figure

from fibjax.report import figures, page, prose, sources, tables
from fibjax.report.page_figure import page_figure
from fibjax.system import files
from fibjax.system.run_folder import RunFolder

# Measure -> heading, factor to what is shown, decimals.
_SHOWN = {'miou': ('test mIoU', 1, 3),
          'porosity_error': ('test porosity error, points', 100, 2),
          'volume_miou': ('mIoU, whole volumes', 1, 3),
          'volume_porosity_error': ('porosity error, whole volumes, points', 100, 2)}


def write_labels_report(folder) -> Path:
  """Writes report.html, figures/ and tables.md of a study of label budgets.

  Args:
    folder: its workdir.

  Returns:
    path of report.html.

  Raises:
    InputError: when labels.json is missing or damaged.
  """
  run = RunFolder(folder)
  rows = files.read_json_object(run.label_study)['table']
  notes: list[str] = []
  settings, versions = (sources.read_json_if_any(path, notes)
                        for path in (run.config, run.versions))
  known = [name for name in _SHOWN if any(row[name] for row in rows)]
  return page.write_page(
      run, 'labels.html', [labels_table(rows, known)],
      [page_figure('budgets', 'Scores against annotated regions.',
                   'Mean ± standard deviation over seeds; each seed draws its regions.',
                   budgets_figure(rows, known))],
      notes=notes, highlights=[], settings=settings, versions=versions,
      citations=prose.citations(None, versions))


def labels_table(rows: list[dict], known: list[str]) -> tables.Table:
  """Builds the table of all ways and budgets.

  Args:
    rows: 'table' of labels.json.
    known: measures that the rows have.
  """
  body = []
  for row in rows:
    cells = []
    for name in known:
      _, factor, digits = _SHOWN[name]
      mean, sd = row[name] or (None, None)
      cells.append(tables.number(None if mean is None else factor * mean, digits) + (
          '' if sd is None else f' ± {tables.number(factor * sd, digits)}'))
    body.append((row['way'], str(row['budget']), str(row['seeds']), *cells,
                 tables.number(row['seconds'], 0)))
  return tables.Table(
      title='Label budgets', groups=(),
      columns=('Way to train', 'regions per volume', 'seeds',
               *(_SHOWN[name][0] for name in known), 'seconds'),
      rows=tuple(body),
      note='Mean ± sample standard deviation over seeds. A porosity error is the '
           'absolute difference of porosities. Seconds of the whole run: preparation, '
           'training, segmentation, scores.')


@figures.styled
def budgets_figure(rows: list[dict], known: list[str]) -> Figure:
  """Draws each measure against the number of regions, a line per way.

  Args:
    rows: 'table' of labels.json.
    known: measures that the rows have.
  """
  figure = Figure(figsize=(4.2 * min(len(known), 2), 3.3 * -(-len(known) // 2)),
                  layout='constrained')
  axes = figure.subplots(-(-len(known) // 2), min(len(known), 2), squeeze=False).ravel()
  ways = list(dict.fromkeys(row['way'] for row in rows))
  for ax, name in zip(axes, known, strict=False):
    heading, factor, _ = _SHOWN[name]
    for k, way in enumerate(ways):
      of_way = [row for row in rows if row['way'] == way and row[name]]
      colour = figures.COLOURS[k % len(figures.COLOURS)]
      if [row['budget'] for row in of_way] == [0]:  # has no place on the axis
        ax.axhline(factor * of_way[0][name][0], label=way, color=colour, linestyle='--')
        continue
      # Lines side by side, so that their bars do not hide each other.
      shift = 1.03 ** (k - (len(ways) - 1) / 2)
      ax.errorbar([shift * row['budget'] for row in of_way],
                  [factor * row[name][0] for row in of_way],
                  yerr=[factor * (row[name][1] or 0) for row in of_way], label=way,
                  color=colour, capsize=2,
                  marker=figures.MARKERS[k % len(figures.MARKERS)], markersize=4)
    ticks = sorted({row['budget'] for row in rows} - {0})
    ax.set_xscale('log')
    ax.set_xticks(ticks, [str(tick) for tick in ticks], minor=False)
    ax.minorticks_off()
    ax.set(xlabel='annotated regions per volume', ylabel=heading)
    ax.grid(color='0.9', linewidth=0.6)
  for ax in axes[len(known):]:
    ax.set_axis_off()
  handles, labels = axes[0].get_legend_handles_labels()
  figure.legend(handles, labels, loc='outside upper center', ncols=3)
  return figure
