"""The report of the training-set study: its table, bars, curves and one slice.

Input is the study's workdir: study.json and trials/*/slices.csv, beside the numbers
that the document printed (third_party/membrane). Same files, same bytes.
"""
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from scipy import ndimage

from fibjax.report import figures, page, sources, tables
from fibjax.system import csv_files, files, run_folder
from fibjax.volumes.volume import open_volume, read_box

# Loss and accuracy that the document printed, (count, placement, slice); section 3.1.
PUBLISHED = {
    (20, 'initial', 47): (0.442, 0.912), (20, 'distributed', 47): (0.425, 0.914),
    (5, 'initial', 47): (0.786, 0.832), (5, 'distributed', 47): (1.18, 0.738),
    (20, 'initial', 434): (0.649, 0.881), (20, 'distributed', 434): (0.300, 0.945),
    (5, 'initial', 434): (0.771, 0.837), (5, 'distributed', 434): (1.038, 0.758),
    (20, 'initial', 598): (0.764, 0.863), (20, 'distributed', 598): (0.613, 0.892),
    (5, 'initial', 598): (0.908, 0.793), (5, 'distributed', 598): (1.246, 0.731)}
_SHOWN = {'loss': ('loss, nats', 3), 'accuracy': ('accuracy', 3), 'miou': ('mIoU', 3),
          'iou_solid': ('IoU of solid', 3), 'dice_solid': ('Dice of solid', 3),
          'porosity_error': ('porosity error', 3)}
_RUNNING = 25  # slices


def write_study_report(folder) -> Path:
  """Writes report.html, figures/ and tables.md of a study.

  Args:
    folder: its workdir, complete.

  Returns:
    path of report.html.
  """
  folder = Path(folder)
  result = files.read_json(folder / 'study.json')
  notes: list[str] = []
  settings, versions = (sources.read_json_if_any(folder / name, notes)
                        for name in ('config.json', 'versions.json'))
  kinds = list(dict.fromkeys(row['against'] for row in result['table']))
  shown = [study_table(result['table'], kind) for kind in kinds]
  trials = list(dict.fromkeys((row['count'], row['placement'])
                              for row in result['table']))
  homes = {'{} {}'.format(*trial): run_folder.RunFolder(folder).trial(*trial).path
           for trial in trials}
  columns = {name: csv_files.read_columns(home / 'slices.csv')
             for name, home in homes.items()}
  pictures = [_bars(result['table'], trials, kinds[0])]
  pictures += [_curves(columns, kind) for kind in kinds]
  pictures += _panels(folder, homes, settings, result['table'][-1]['z'])
  return page.write_page(folder, 'study.html', shown, pictures, notes=notes,
                         facts=_facts(result['contrasts']), settings=settings,
                         versions=versions)


def study_table(rows: list[dict], kind: str) -> tables.Table:
  """Builds the document's table, mean ± sd over seeds.

  Args:
    rows: 'table' of study.json.
    kind: which labels, 'corrected' or 'truth'.
  """
  body = []
  for row in rows:
    if row['against'] != kind:
      continue
    loss, accuracy = PUBLISHED.get((row['count'], row['placement'], row['z']),
                                   (None, None))
    cells = []
    for name, (_, digits) in _SHOWN.items():
      mean, sd = row[name]
      cells.append(tables.number(mean, digits, sign=name == 'porosity_error') + (
          '' if sd is None else f' ± {tables.number(sd, digits)}'))
    body.append((f'{row["count"]} {row["placement"]}', str(row['z']),
                 str(row['seeds']), *cells, tables.number(row['all_pore'], 3),
                 tables.number(loss, 3), tables.number(accuracy, 3)))
  against = {'corrected': 'the corrected labels', 'truth': 'the truth'}[kind]
  return tables.Table(
      title=f'Trials, against {against}',
      groups=(('', 3), ('This study', len(_SHOWN)), ('All pore', 1), ('Published', 2)),
      columns=('Training slices', 'slice', 'seeds',
               *(heading for heading, _ in _SHOWN.values()), 'accuracy', 'loss',
               'accuracy'),
      rows=tuple(body),
      note='Mean ± sample standard deviation over seeds, at slices that no trial is '
           'trained on. Porosity error: automatic − that of the labels. All pore: '
           'accuracy of calling every voxel pore. Published: one run on another, real '
           'membrane; only the pattern compares.')


def _bars(rows, trials, kind):
  rows = [row for row in rows if row['against'] == kind]
  places = list(dict.fromkeys(row['z'] for row in rows))
  at = {(row['count'], row['placement'], row['z']): row['accuracy'] for row in rows}
  means, deviations = ([[at[(*trial, z)][k] for trial in trials] for z in places]
                       for k in range(2))
  return page.page_figure(
      'accuracy', 'Accuracy of the trials.',
      "Mean ± sd over seeds, at the tested slices (the document's Figure 1).",
      figures.bars_figure([f'{count} {name}' for count, name in trials],
                          [f'slice {z}' for z in places], means, 'accuracy',
                          deviations))


def _curves(columns, kind):
  curves = {}
  for name, found in columns.items():
    rows = found['against'] == kind
    z = found['z'][rows].astype(int)
    curves[name] = np.bincount(z, found['miou'][rows]) / np.bincount(z)
  against = {'corrected': 'the corrected labels', 'truth': 'the truth'}[kind]
  return page.page_figure(
      f'slices_{kind}', f'mIoU of every slice, against {against}.',
      f'Mean over seeds, thin; running mean over {_RUNNING} slices, thick. Slices that '
      'a trial is trained on are among them.',
      _curves_figure(curves))


@figures.styled
def _curves_figure(curves: dict[str, np.ndarray]) -> Figure:
  figure = Figure(figsize=(8.0, 3.2), layout='constrained')
  ax = figure.subplots()
  for (name, values), colour in zip(curves.items(), figures.COLOURS, strict=False):
    z = np.arange(len(values))
    ax.plot(z, values, color=colour, linewidth=0.6, alpha=0.35)
    ax.plot(z, ndimage.uniform_filter1d(values, _RUNNING, mode='nearest'), color=colour,
            label=name, linewidth=1.6)
  ax.set(xlabel='slice', ylabel='mIoU')
  ax.grid(color='0.9', linewidth=0.6)
  figure.legend(loc='outside upper center', ncols=4)
  return figure


def _panels(folder, homes, settings, z):
  """A tested slice: image, labels and a prediction of each trial (Figure 2)."""

  def slice_of(path):
    volume = open_volume(path)
    _, height, width = volume.shape
    return read_box(volume, (z, 0, 0), (z + 1, height, width))[0]

  prepared = next(path for path in sorted((folder / 'prepared.ome.zarr').iterdir())
                  if path.is_dir())
  labels = (settings.get('study') or {}).get('labels') or folder / 'labels.ome.zarr'
  panels = {'image': figures.stretch(slice_of(prepared)),
            'corrected labels': slice_of(labels)}
  if (folder / 'film' / 'truth.ome.zarr').exists():
    panels['truth'] = slice_of(folder / 'film' / 'truth.ome.zarr')
  for name, home in homes.items():
    first = min((home / 'scores').iterdir(), key=lambda path: int(path.name))
    panels[name] = slice_of(first) > 0.5
  return [page.page_figure(
      'slice', f'Slice {z}.',
      "Image, labels and one seed of each trial; white is solid (the document's Figure "
      '2).', _panels_figure(panels))]


@figures.styled
def _panels_figure(panels: dict[str, np.ndarray]) -> Figure:
  columns = 4
  lines = -(-len(panels) // columns)
  figure = Figure(figsize=(9.4, 2.55 * lines), layout='constrained')
  axes = figure.subplots(lines, columns, squeeze=False).ravel()
  for ax, (name, image_yx) in zip(axes, panels.items(), strict=False):
    ax.imshow(image_yx, cmap='gray', vmin=0, vmax=1, interpolation='nearest')
    ax.set_title(name)
  for ax in axes:
    ax.set_axis_off()
  return figure


def _facts(contrasts: dict) -> list[tuple[str, str]]:
  return [(f'{name.replace(" - ", " − ")} (accuracy away from the top, {kind})',
           tables.difference(interval['mean'], interval['low'], interval['high'], 3))
          for kind, found in contrasts.items() for name, interval in found.items()]
