"""The report of a sweep: a page like a run's, with its members' tables and figures.

Input is the sweep's workdir: members.csv, one row per trained member, and, where they
are there, curves.csv of the winner and losses.json. A sweep that is not through is
reported as it is: what is missing is named on the page. Same folder, same bytes.
"""
import math
from pathlib import Path

import numpy as np

from fibjax.errors import InputError
from fibjax.report import figures, page, sources, sweep_figures, sweep_tables, tables
from fibjax.report.sweep_figures import HYPERS
from fibjax.system import csv_files, files
from fibjax.training import members_table

CURVES = ('epoch', 'train_bce', 'val_bce', 'train_accuracy', 'val_accuracy')
_SCORES = ('val_bce', 'val_miou', 'seconds')


def write_sweep_report(folder, run_folder=None) -> Path:
  """Writes report.html, figures/ and tables.md of a sweep.

  Args:
    folder: the sweep's folder with members.csv; curves.csv is used where it is there.
    run_folder: its workdir, with config.json and versions.json; None: folder.

  Returns:
    path of report.html.

  Raises:
    InputError: when the folder or members.csv is missing, or a file is damaged.
  """
  folder = Path(folder)
  if not folder.is_dir():
    raise InputError(str(folder), got='no such folder', expected="a sweep's workdir",
                     remedy='check --workdir')
  members = members_table.read_members(folder / 'members.csv')
  sizes, winner = (members_table.summarise_sizes(members),
                   members_table.best_member(members))
  notes: list[str] = []
  settings, versions = (sources.read_json_if_any(Path(run_folder or folder) / name, [])
                        for name in ('config.json', 'versions.json'))
  shown = [sweep_tables.sizes_table(members, sizes)]
  shown_figures = []
  _note_sizes(sizes, notes)
  if winner is not None:
    shown.insert(0, sweep_tables.winner_table(members, winner))
    if len({s.loss for s in sizes}) == 1:
      shown_figures = _size_figures(members, sizes, winner)
    shown_figures += _curves(folder / 'curves.csv', members, winner, notes)
  shown_figures.append(_hypers(members, sizes, winner))
  if (folder / 'losses.json').is_file():
    compared = files.read_json(folder / 'losses.json')
    shown.insert(0, sweep_tables.loss_table(compared))
    shown_figures.insert(0, _losses(compared))
  return page.write_page(folder, 'sweep.html', shown, shown_figures, notes=notes,
                         facts=_facts(members, sizes, winner), settings=settings,
                         versions=versions)


def _losses(compared):
  against = [row for row in compared if row['against_first'] is not None
             and row['loss'] != compared[0]['loss']]
  several = len({(row['n_xy'], row['n_z']) for row in compared}) > 1
  names = [row['loss'] + f', {row["n_xy"]} × {row["n_z"]}' * several for row in against]
  return page.page_figure(
      'losses', f'Losses against {compared[0]["loss"]}.',
      'Difference of test scores, mean over pairs of one seed, with the 95 % interval '
      'of a bootstrap over test regions and seeds. Above 0 is better for mIoU and '
      'boundary F1, below 0 for the others.',
      sweep_figures.loss_figure(names, [row['against_first'] for row in against]))


def _note_sizes(sizes, notes):
  if len({s.loss for s in sizes}) > 1:
    return
  paper = {(x, z) for x in sources.SIZES_PX for z in sweep_figures.SIZES_Z}
  missing = sorted(paper - {(s.n_xy, s.n_z) for s in sizes})
  if missing:
    names = ', '.join(members_table.size_name(*size) for size in missing)
    few = f': {names}' if len(missing) < 7 else ''
    notes.append(f"{len(missing)} of the paper's 36 sizes{few}.")
  without = [members_table.size_name(s.n_xy, s.n_z) for s in sizes if s.best is None]
  if without:
    notes.append(f'Scores of {", ".join(without)}: no member finished.')


def _facts(members, sizes, winner):
  """Lists what a reader of a sweep asks for first."""
  counts = {s: int((members['state'] == s).sum()) for s in members_table.STATES}
  total = float(np.nansum(members['seconds']))
  unit_s, unit = sweep_figures.time_unit(total)
  facts = [('Sizes', str(len(sizes))),
           ('Members', ', '.join(f'{n} {s}' for s, n in counts.items() if n)),
           ('Training time, all members', f'{total / unit_s:.1f} {unit}')]
  if winner is None:
    return facts
  size = members_table.size_name(members['n_xy'][winner], members['n_z'][winner])
  return facts + [
      ('Selected', f'{size}, member {members["member"][winner]:g}, '
                   f'epoch {members["best_epoch"][winner]:g}'),
      ('Its seed', str(members['seed'][winner])),
      ('Its validation cross-entropy', tables.number(members['val_bce'][winner])),
      ('Its validation mIoU', tables.number(members['val_miou'][winner])),
      ('Its validation accuracy', tables.number(members['val_accuracy'][winner]))]


def size_curves(members: dict, sizes: list[members_table.Size],
                name: str) -> dict[int, sweep_figures.SizeCurve]:
  """Arranges a score by n_z for the figures; sizes without a finished member are left.

  Args:
    members: columns of members.csv.
    sizes: of summarise_sizes.
    name: 'val_bce', 'val_miou' or 'seconds'.
  """
  found = {}
  for s in sizes:
    if s.best is not None:
      found.setdefault(s.n_z, []).append(
          (s.n_xy, members[name][s.best], s.mean[name], s.sd[name]))
  return {n_z: sweep_figures.SizeCurve(*np.array(points, float).T)
          for n_z, points in found.items()}


def _size_figures(members, sizes, winner):
  selected = int(members['n_xy'][winner]), int(members['n_z'][winner])
  bce, miou, seconds = (size_curves(members, sizes, name) for name in _SCORES)
  spread = ('Right: mean and standard deviation over the finished members of each '
            'size, shifted sideways so that they can be told apart.')
  return [
      page.page_figure(
          'val_bce', 'Validation cross-entropy against size.',
          'Left: the best member of each size, the one of lowest validation '
          f'cross-entropy (Figure 3 of the paper). {spread}',
          sweep_figures.size_figure(bce, 'Validation cross-entropy', selected)),
      page.page_figure(
          'val_miou', 'Validation mIoU against size.',
          'Left: mIoU of the same members, selected by cross-entropy and not by mIoU '
          f'(Figure 4 of the paper). {spread}',
          sweep_figures.size_figure(miou, 'Validation mIoU', selected)),
      page.page_figure(
          'time', 'Training time against size.',
          'Mean and standard deviation over the finished members of each size (Figure '
          '5 of the paper).', sweep_figures.time_figure(seconds))]


def _curves(path, members, winner, notes):
  columns = csv_files.read_columns(path)
  if not columns:
    notes.append('Curves of the selected member: curves.csv is missing or empty.')
    return []
  members_table.check_columns(path, columns, CURVES)
  bce, expected = columns['val_bce'], members['val_bce'][winner]
  lowest = np.nanmin(bce) if np.isfinite(bce).any() else math.nan
  if not math.isclose(lowest, expected, rel_tol=1e-3):
    notes.append('Curves that surely are those of the selected member: the lowest '
                 f'cross-entropy is {tables.number(lowest)} in curves.csv and '
                 f'{tables.number(expected)} in members.csv.')
  return [page.page_figure(
      'curves', 'Training of the selected member.',
      'Loss and accuracy after each epoch, on the training and validation voxels '
      '(Figure 6 of the paper). The training values are means over the steps of the '
      'epoch, with dropout and augmentation, and so may lie below those of validation. '
      'The dotted line is the epoch of lowest validation cross-entropy.',
      figures.curves_figure(columns))]


def _hypers(members, sizes, winner):
  """Draws the members of the winning size; without a winner, of the largest group."""
  if winner is None:
    n_xy, n_z, loss = max(sizes, key=lambda s: sum(s.counts.values()))[:3]
  else:
    n_xy, n_z, loss = (members[name][winner] for name in ('n_xy', 'n_z', 'loss'))
  here = np.flatnonzero((members['n_xy'] == n_xy) & (members['n_z'] == n_z)
                        & (members['loss'] == loss))
  figure = sweep_figures.hyper_figure(
      {name: members[name][here] for name in HYPERS}, members['val_bce'][here],
      members['state'][here],
      None if winner is None else int(np.flatnonzero(here == winner)[0]))
  size = members_table.size_name(n_xy, n_z)
  return page.page_figure(
      'hyper_parameters', f'Hyper-parameters of the members of {size}.',
      'One point per member. All hyper-parameters vary at once, so a trend in one '
      'panel is one among others. Crosses above the axes: members that diverged.',
      figure)
