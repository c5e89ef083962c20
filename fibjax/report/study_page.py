"""Report of the study of training slices: its table, bars, curves and one slice.

Input is the workdir of the study: study.json and slices.csv of each trial. They are
shown beside the numbers of the original study (third_party/membrane). The same files
give the same bytes.
"""
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from scipy import ndimage

from fibjax.models.facts import MethodFacts
from fibjax.report import figures, page, prose, sources, tables
from fibjax.report.page_figure import page_figure
from fibjax.system import csv_files, files
from fibjax.system.run_folder import RunFolder, film_path
from fibjax.volumes.volume import open_volume, read_box

# Loss and accuracy of the original study by (count, placement, slice), §3.1.
PUBLISHED = {
    (20, 'initial', 47): (0.442, 0.912), (20, 'distributed', 47): (0.425, 0.914),
    (5, 'initial', 47): (0.786, 0.832), (5, 'distributed', 47): (1.18, 0.738),
    (20, 'initial', 434): (0.649, 0.881), (20, 'distributed', 434): (0.300, 0.945),
    (5, 'initial', 434): (0.771, 0.837), (5, 'distributed', 434): (1.038, 0.758),
    (20, 'initial', 598): (0.764, 0.863), (20, 'distributed', 598): (0.613, 0.892),
    (5, 'initial', 598): (0.908, 0.793), (5, 'distributed', 598): (1.246, 0.731)}
_SCORES = {'loss': ('loss, nats', 3), 'accuracy': ('accuracy', 3), 'miou': ('mIoU', 3),
          'iou_solid': ('IoU of solid', 3), 'dice_solid': ('Dice of solid', 3),
          'porosity_error': ('porosity error', 3)}
_RUNNING_MEAN = 25  # slices
_AGAINST = {'corrected': 'the corrected labels', 'truth': 'the ground truth'}


def write_study_report(folder, facts: MethodFacts) -> Path:
  """Writes report.html, figures/ and tables.md of a finished study.

  Args:
    folder: its workdir.
    facts: of the method trained in the trials.

  Returns:
    path of report.html.

  Raises:
    InputError: when study.json is missing or a file is damaged.
  """
  run = RunFolder(folder)
  result = files.read_json_object(run.study)
  notes: list[str] = []
  settings, versions = (sources.read_json_if_any(path, notes)
                        for path in (run.config, run.versions))
  rows = result['table']
  label_kinds = list(dict.fromkeys(row['against'] for row in rows))
  trials = list(dict.fromkeys((row['count'], row['placement']) for row in rows))
  trial_runs = {'{} {}'.format(*trial): run.trial(*trial) for trial in trials}
  columns = {name: csv_files.read_columns(trial.slices, ('seed', 'against'))
             for name, trial in trial_runs.items()}
  page_figures = [_bars(rows, trials, label_kinds[0])]
  page_figures += [_curves(columns, kind) for kind in label_kinds]
  page_figures.append(_panels(run, trial_runs, settings, rows[-1]['z']))
  return page.write_page(
      run, 'study.html', [study_table(rows, kind) for kind in label_kinds],
      page_figures, notes=notes, highlights=_highlights(result['contrasts']),
      settings=settings, versions=versions, citations=prose.citations(facts, versions))


def study_table(rows: list[dict], label_kind: str) -> tables.Table:
  """Builds the table of the original study, mean ± sd over seeds.

  Args:
    rows: 'table' of study.json.
    label_kind: the labels compared with, 'corrected' or 'truth'.
  """
  body = []
  for row in rows:
    if row['against'] != label_kind:
      continue
    loss, accuracy = PUBLISHED.get((row['count'], row['placement'], row['z']),
                                   (None, None))
    cells = []
    for name, (_, digits) in _SCORES.items():
      mean, sd = row[name]
      cells.append(tables.number(mean, digits, sign=name == 'porosity_error') + (
          '' if sd is None else f' ± {tables.number(sd, digits)}'))
    body.append((f'{row["count"]} {row["placement"]}', str(row['z']),
                 str(row['seeds']), *cells, tables.number(row['all_pore'], 3),
                 tables.number(loss, 3), tables.number(accuracy, 3)))
  return tables.Table(
      title=f'Trials, compared with {_AGAINST[label_kind]}',
      groups=(('', 3), ('This study', len(_SCORES)), ('All pore', 1), ('Published', 2)),
      columns=('Training slices', 'slice', 'seeds',
               *(heading for heading, _ in _SCORES.values()), 'accuracy', 'loss',
               'accuracy'),
      rows=tuple(body),
      note='Mean ± sample standard deviation over seeds, on slices that no trial '
           'trains on. Porosity error: automatic porosity minus that of the labels. '
           'All pore: accuracy when every voxel is classified as pore. Published: one '
           'run on another, real membrane; only the pattern is comparable.')


def _bars(rows, trials, label_kind):
  rows = [row for row in rows if row['against'] == label_kind]
  slices = list(dict.fromkeys(row['z'] for row in rows))
  accuracy = {(row['count'], row['placement'], row['z']): row['accuracy']
              for row in rows}
  means_sn, deviations_sn = (
      [[accuracy[(*trial, z)][k] for trial in trials] for z in slices]
      for k in range(2))
  return page_figure(
      'accuracy', 'Accuracy of the trials.',
      'Mean ± standard deviation over seeds, on the test slices (Figure 1 of the '
      'original study).',
      figures.bars_figure([f'{count} {placement}' for count, placement in trials],
                          [f'slice {z}' for z in slices], means_sn, 'accuracy',
                          deviations_sn))


def _curves(columns, label_kind):
  curves = {}
  for name, table in columns.items():
    rows = table['against'] == label_kind
    z = table['z'][rows].astype(int)
    curves[name] = np.bincount(z, table['miou'][rows]) / np.bincount(z)
  return page_figure(
      f'slices_{label_kind}',
      f'mIoU of every slice, compared with {_AGAINST[label_kind]}.',
      f'Thin: mean over seeds. Thick: running mean over {_RUNNING_MEAN} slices. The '
      'slices that a trial trains on are included.',
      _curves_figure(curves))


@figures.styled
def _curves_figure(curves: dict[str, np.ndarray]) -> Figure:
  figure = Figure(figsize=(8.0, 3.2), layout='constrained')
  ax = figure.subplots()
  for (name, values), colour in zip(curves.items(), figures.COLOURS, strict=False):
    z = np.arange(len(values))
    ax.plot(z, values, color=colour, linewidth=0.6, alpha=0.35)
    ax.plot(z, ndimage.uniform_filter1d(values, _RUNNING_MEAN, mode='nearest'),
            color=colour, label=name, linewidth=1.6)
  ax.set(xlabel='slice', ylabel='mIoU')
  ax.grid(color='0.9', linewidth=0.6)
  figure.legend(loc='outside upper center', ncols=4)
  return figure


def _panels(run, trial_runs, settings, z):
  """Shows a test slice: image, labels and a prediction of each trial."""

  def read_slice(path):
    volume = open_volume(path)
    return read_box(volume, (z, 0, 0), (z + 1, *volume.shape[1:]))[0]

  prepared = next(path for path in sorted(run.prepared.iterdir()) if path.is_dir())
  labels = (settings.get('study') or {}).get('labels') or run.labels
  panels = {'image': figures.stretch(read_slice(prepared)),
            'corrected labels': read_slice(labels)}
  truth = film_path(run.film(), 'truth')
  if truth.exists():
    panels['truth'] = read_slice(truth)
  for name, trial in trial_runs.items():
    first_seed = min(trial.seed_scores.iterdir(), key=lambda path: int(path.name))
    panels[name] = read_slice(first_seed) > 0.5
  return page_figure(
      'slice', f'Slice {z}.',
      'Image, labels and the prediction of one seed of each trial; solid is white '
      '(Figure 2 of the original study).', _panels_figure(panels))


@figures.styled
def _panels_figure(panels: dict[str, np.ndarray]) -> Figure:
  columns = 4
  rows = -(-len(panels) // columns)
  figure = Figure(figsize=(9.4, 2.55 * rows), layout='constrained')
  axes = figure.subplots(rows, columns, squeeze=False).ravel()
  for ax, (name, image_yx) in zip(axes, panels.items(), strict=False):
    ax.imshow(image_yx, cmap='gray', vmin=0, vmax=1, interpolation='nearest')
    ax.set_title(name)
  for ax in axes:
    ax.set_axis_off()
  return figure


def _highlights(contrasts: dict) -> list[tuple[str, str]]:
  """Writes the contrasts of study.json as (name, difference with its interval)."""
  kinds = {'corrected': 'corrected labels', 'truth': 'ground truth'}
  return [(f'{name.replace(" - ", " − ")} (accuracy away from the top, {kinds[kind]})',
           tables.difference(interval['mean'], interval['low'], interval['high'], 3))
          for kind, by_name in contrasts.items() for name, interval in by_name.items()]
