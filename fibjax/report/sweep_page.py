"""Report of a sweep: a page like that of a run, with tables and figures of its members.

Input is the workdir of a sweep: members.csv with one row per trained member and, where
they exist, the curves of the selected member and losses.json. An unfinished sweep is
reported as far as it is, with the members that ended, those in training and the time
left; missing results are listed on the page. The same files give
the same bytes.
"""
import math
from pathlib import Path

import numpy as np

from fibjax.errors import InputError
from fibjax.models.facts import MethodFacts
from fibjax.report import (
  figures,
  loss_tables,
  page,
  prose,
  published,
  sources,
  sweep_figures,
  sweep_status,
  sweep_tables,
  tables,
)
from fibjax.report.page_figure import page_figure
from fibjax.report.sweep_tables import size_label
from fibjax.system import csv_files, files
from fibjax.system.run_folder import RunFolder
from fibjax.training import members_table
from fibjax.training.members_table import HYPERS

_MOST_LISTED = 6  # sizes that a note lists by name


def write_sweep_report(folder, facts: MethodFacts) -> Path:
  """Writes report.html, figures/ and tables.md into the sweep/ folder of a workdir.

  Args:
    folder: workdir of a sweep; of a running one too.
    facts: of the method that was trained.

  Returns:
    path of report.html.

  Raises:
    InputError: when the folder is missing, or members.csv though no sweep is running,
      or a file is damaged.
  """
  run = RunFolder(folder)
  sweep = run.sweep
  if not sweep.path.is_dir():
    raise InputError(str(sweep), got='no such folder',
                     expected='a sweep in the workdir',
                     remedy='check --workdir, or run the sweep first')
  status = sweep_status.read_status(run)
  progress = sweep_status.describe(status) if status else []
  settings, versions = (sources.read_json_if_any(path, [])
                        for path in (run.config, run.versions))
  if status and not status.ended and not sweep.members.is_file():
    page_tables = ([loss_tables.start_table(files.read_json(sweep.loss_start))]
                   if sweep.loss_start.is_file() else [])
    return page.write_page(
        sweep, 'sweep.html', page_tables, [], notes=['No member has finished yet.'],
        highlights=progress, settings=settings, versions=versions,
        citations=prose.citations(facts, versions), workdir=run.path.resolve().name)
  members = members_table.read_members(sweep.members)
  sizes = members_table.summarise_sizes(members)
  winner = members_table.best_member(members)
  has_neighbourhood = facts.has_neighbourhood
  notes = _size_notes(sizes, has_neighbourhood)
  page_tables = [sweep_tables.sizes_table(members, sizes, has_neighbourhood)]
  page_figures = []
  if winner is not None:
    page_tables.insert(0, sweep_tables.winner_table(members, winner, has_neighbourhood))
    if has_neighbourhood and len({size.loss for size in sizes}) == 1:
      page_figures = _size_figures(members, sizes, winner)
    page_figures += _curves(sweep.curves, members, winner, notes)
  page_figures.append(_hypers(members, sizes, winner, has_neighbourhood))
  if sweep.halving.is_file():
    page_tables.append(sweep_tables.halving_table(files.read_json(sweep.halving),
                                                  has_neighbourhood))
  if sweep.loss_start.is_file():
    page_tables.insert(0, loss_tables.start_table(files.read_json(sweep.loss_start)))
  if sweep.losses.is_file():
    losses = files.read_json(sweep.losses)
    if any(member.get('films') for row in losses for member in row['members']):
      page_tables.insert(0, loss_tables.film_table(losses, has_neighbourhood))
    page_tables.insert(0, loss_tables.loss_table(losses, has_neighbourhood))
    if len({row['loss'] for row in losses}) > 1:
      page_figures.insert(0, _losses(losses, has_neighbourhood))
  return page.write_page(
      sweep, 'sweep.html', page_tables, page_figures, notes=notes,
      highlights=progress + _highlights(members, sizes, winner, has_neighbourhood),
      settings=settings, versions=versions, citations=prose.citations(facts, versions),
      workdir=run.path.resolve().name)


def _losses(rows, has_neighbourhood):
  first = rows[0]['loss']
  compared = [row for row in rows
              if row['against_first'] is not None and row['loss'] != first]
  several_sizes = len({(row['n_xy'], row['n_z']) for row in rows}) > 1
  names = []
  for row in compared:
    size = size_label(row['n_xy'], row['n_z'], has_neighbourhood)
    names.append(row['loss'] + f', {size}' * several_sizes)
  return page_figure(
      'losses', f'Losses compared with {first}.',
      'Difference of test scores, mean over pairs with the same seed, with the 95 % '
      'interval of a bootstrap over test regions and seeds. Values above 0 are better '
      'for mIoU and boundary F1, values below 0 for porosity error and ECE.',
      sweep_figures.loss_figure(names, [row['against_first'] for row in compared]))


def _size_notes(sizes, has_neighbourhood) -> list[str]:
  """Lists the sizes that are missing, unless losses are compared."""
  notes = []
  if len({size.loss for size in sizes}) > 1:
    return notes
  paper = {(n_xy, n_z) for n_xy in published.SIZES_XY for n_z in published.SIZES_Z}
  missing = sorted(paper - {(size.n_xy, size.n_z) for size in sizes})
  if has_neighbourhood and missing:
    names = ', '.join(size_label(*size, has_neighbourhood) for size in missing)
    listed = f': {names}' if len(missing) <= _MOST_LISTED else ''
    notes.append(f"{len(missing)} of the paper's {len(paper)} sizes{listed}.")
  unscored = [size_label(size.n_xy, size.n_z, has_neighbourhood)
              for size in sizes if size.best is None]
  if unscored:
    notes.append(f'Scores of {", ".join(unscored)}: no member has finished.')
  return notes


def _highlights(members, sizes, winner, has_neighbourhood) -> list[tuple[str, str]]:
  """Lists what a reader of a sweep looks for first."""
  counts = {state: int((members['state'] == state).sum())
            for state in members_table.STATES}
  total = float(np.nansum(members['seconds']))
  unit_s, unit = sweep_figures.time_unit(total)
  pairs = [('Sizes', str(len({(size.n_xy, size.n_z) for size in sizes}))),
           ('Members', ', '.join(f'{n} {state}' for state, n in counts.items() if n)),
           ('Training time, all members', f'{total / unit_s:.1f} {unit}')]
  if winner is None:
    return pairs
  selected = {name: values[winner] for name, values in members.items()}
  size = size_label(selected['n_xy'], selected['n_z'], has_neighbourhood)
  return pairs + [
      ('Selected', f'{size}, member {selected["member"]:g}, epoch '
                   f'{selected["best_epoch"]:g}'),
      ('Seed', str(selected['seed'])),
      ('Validation cross-entropy', tables.number(selected['val_bce'])),
      ('Validation mIoU', tables.number(selected['val_miou'])),
      ('Validation accuracy', tables.number(selected['val_accuracy']))]


def size_curves(members: dict, sizes: list[members_table.Size],
                name: str) -> dict[int, sweep_figures.SizeCurve]:
  """Arranges a score by n_z for the figures, without sizes that have no score.

  Args:
    members: columns of members.csv.
    sizes: of summarise_sizes.
    name: 'val_bce', 'val_miou' or 'seconds'.
  """
  points = {}
  for size in sizes:
    if size.best is not None:
      points.setdefault(size.n_z, []).append(
          (size.n_xy, members[name][size.best], size.mean[name], size.sd[name]))
  return {n_z: sweep_figures.SizeCurve(*np.array(rows, float).T)
          for n_z, rows in points.items()}


def _size_figures(members, sizes, winner):
  selected = int(members['n_xy'][winner]), int(members['n_z'][winner])
  bce, miou, seconds = (size_curves(members, sizes, name)
                        for name in ('val_bce', 'val_miou', 'seconds'))
  spread = ('Right: mean and standard deviation over the finished members of each '
            'size, shifted sideways to keep them apart.')
  return [
      page_figure(
          'val_bce', 'Validation cross-entropy against size.',
          'Left: the best member of each size, the one of lowest validation '
          f'cross-entropy (Figure 3 of the paper). {spread}',
          sweep_figures.size_figure(bce, 'Validation cross-entropy', selected)),
      page_figure(
          'val_miou', 'Validation mIoU against size.',
          'Left: mIoU of the same members, selected by cross-entropy and not by mIoU '
          f'(Figure 4 of the paper). {spread}',
          sweep_figures.size_figure(miou, 'Validation mIoU', selected)),
      page_figure(
          'time', 'Training time against size.',
          'Mean and standard deviation over the finished members of each size (Figure '
          '5 of the paper).', sweep_figures.time_figure(seconds))]


def _curves(path, members, winner, notes):
  columns = csv_files.read_columns(path)
  if not columns:
    notes.append(f'Curves of the selected member: {path.name} is missing or empty.')
    return []
  members_table.check_columns(path, columns, members_table.CURVE_COLUMNS)
  bce, expected = columns['val_bce'], members['val_bce'][winner]
  lowest = np.nanmin(bce) if np.isfinite(bce).any() else math.nan
  if not math.isclose(lowest, expected, rel_tol=1e-3):
    notes.append('Verified curves of the selected member: the lowest cross-entropy is '
                 f'{tables.number(lowest)} in {path.name} and '
                 f'{tables.number(expected)} in members.csv, so the curves may be of '
                 'another member.')
  return [page_figure('curves', 'Training of the selected member.',
                           f'Loss and accuracy {page.CURVES_CAPTION}',
                           figures.curves_figure(columns))]


def _hypers(members, sizes, winner, has_neighbourhood):
  """Draws the members of the selected size; without one, of the largest group."""
  if winner is None:
    largest = max(sizes, key=lambda size: sum(size.counts.values()))
    n_xy, n_z, loss = largest.n_xy, largest.n_z, largest.loss
  else:
    n_xy, n_z, loss = (members[name][winner] for name in ('n_xy', 'n_z', 'loss'))
  rows = np.flatnonzero((members['n_xy'] == n_xy) & (members['n_z'] == n_z)
                        & (members['loss'] == loss))
  figure = sweep_figures.hyper_figure(
      {name: members[name][rows] for name in HYPERS}, members['val_bce'][rows],
      members['state'][rows],
      None if winner is None else int(np.flatnonzero(rows == winner)[0]))
  return page_figure(
      'hyper_parameters',
      f'Hyper-parameters of the members ({size_label(n_xy, n_z, has_neighbourhood)}).',
      'One point per member. Where several hyper-parameters vary, a trend in one panel '
      'may be due to another. Crosses above the axes: members that diverged.',
      figure)
