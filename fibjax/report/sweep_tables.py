"""Tables of sweeps and of ensembles; those of compared losses: loss_tables.py.

Input is members.csv, one row per trained member. Selection is always by validation
cross-entropy, never by mIoU (Skärberg et al. 2021), and only among finished members;
means are over finished members, too. Diverged and stopped members are counted.
"""
import math

from fibjax.errors import InputError
from fibjax.report import sweep_figures, tables
from fibjax.training.members_table import HYPERS, STATES, Size, best_member

PAPER_SIZE = {'n_xy': 113, 'n_z': 3}  # of the paper's winner


def size_label(n_xy, n_z, has_neighbourhood: bool) -> str:
  """Writes the input size of a network.

  Args:
    n_xy: side of the neighbourhood in pixels.
    n_z: number of slices.
    has_neighbourhood: whether the network has one; others read whole slices.

  Returns:
    '113 × 113 × 3', or '3 slices' without a neighbourhood.
  """
  if has_neighbourhood:
    return f'{n_xy:g} × {n_xy:g} × {n_z:g}'
  return f'{n_z:g} slice' if n_z == 1 else f'{n_z:g} slices'


def spread(mean, sd, digits=4):
  """Writes mean ± sd; a deviation that is not finite is left out."""
  text = tables.number(mean, digits)
  return text if not math.isfinite(sd) else f'{text} ± {tables.number(sd, digits)}'


def sizes_table(members: dict, sizes: list[Size],
                has_neighbourhood: bool) -> tables.Table:
  """Builds the table of all sizes: members, scores of the best and of all, time.

  Args:
    members: columns of members.csv.
    sizes: of summarise_sizes.
    has_neighbourhood: as in `size_label`.
  """
  winner = best_member(members)
  several = len({s.loss for s in sizes}) > 1
  longest = max((s.mean['seconds'] for s in sizes if s.best is not None), default=0.0)
  unit_s, unit = sweep_figures.time_unit(longest)
  rows = []
  for s in sizes:
    bce, miou = (math.nan if s.best is None else members[name][s.best]
                 for name in ('val_bce', 'val_miou'))
    mark = ' (selected)' if s.best is not None and s.best == winner else ''
    loss = f', {s.loss}' * several
    rows.append((
        size_label(s.n_xy, s.n_z, has_neighbourhood) + loss + mark,
        *(str(s.counts[state]) for state in STATES),
        tables.number(bce), spread(s.mean['val_bce'], s.sd['val_bce']),
        tables.number(miou), spread(s.mean['val_miou'], s.sd['val_miou']),
        spread(s.mean['seconds'] / unit_s, s.sd['seconds'] / unit_s, 1)))
  return tables.Table(
      title='Neighbourhood sizes' if has_neighbourhood else 'Input sizes',
      groups=(('', 1), ('Members', 3), ('Validation cross-entropy', 2),
              ('Validation mIoU', 2), ('Time', 1)),
      columns=('Size', *STATES, 'best', 'mean ± sd', 'of best', 'mean ± sd',
               f'mean ± sd, {unit}'),
      rows=tuple(rows),
      note='Best: the finished member of lowest validation cross-entropy. Selection is '
           'always by cross-entropy, and "of best" is the mIoU of that member, not the '
           'highest mIoU. Mean and sample standard deviation are over finished '
           'members. Time: training time per finished member.')


def halving_table(rows: list[dict], has_neighbourhood: bool) -> tables.Table:
  """Builds the table of replayed successive halving.

  Args:
    rows: content of halving.json.
    has_neighbourhood: as in `size_label`.
  """
  several = len({row['loss'] for row in rows}) > 1
  body = tuple((
      size_label(row['n_xy'], row['n_z'], has_neighbourhood)
      + f', {row["loss"]}' * several, row['form'], str(row['repetition'] + 1),
      ', '.join(map(str, row['rungs'])), tables.percent(row['share']),
      tables.number(row['found']), tables.number(row['best']),
      tables.number(row['regret']), f'{row["rank"]} of {row["draws"]}')
               for row in rows)
  return tables.Table(
      title='Successive halving, replayed', groups=(),
      columns=('Size', 'Form', 'Repetition', 'Rungs, epochs', 'Compute, %', 'Found',
               'Best', 'Regret', 'Rank'),
      rows=body,
      note='All members were trained to the end; shown is what halving would have '
           'found. Found, best: lowest validation cross-entropy of the search and of '
           'all members. Rank of the member found among all. Asynchronous: a single '
           'worker that waits for no other member.')


def winner_table(members: dict, winner: int, has_neighbourhood: bool) -> tables.Table:
  """Builds the selected member's settings, with those of the paper's winner.

  Args:
    members: columns of members.csv.
    winner: row of the selected member.
    has_neighbourhood: whether n_xy means anything.
  """
  labels = {'n_xy': 'n_xy, pixels'} if has_neighbourhood else {}
  rows = [(label, f'{members[column][winner]:g}', str(PAPER_SIZE[column]))
          for column, label in (labels | {'n_z': 'n_z, slices'}).items()]
  for name, axis in HYPERS.items():
    pair = members[name][winner], axis.paper
    if name == 'log10_l2':
      rows.append(('weight penalty c', *(f'{10 ** v:.3g}' for v in pair)))
    else:
      rows.append((axis.label, *(tables.number(v, axis.digits) for v in pair)))
  return tables.Table(
      title='Hyper-parameters of the selected member',
      groups=(), columns=('Hyper-parameter', 'this sweep', 'paper'), rows=tuple(rows),
      note='Paper: the best of 36 sizes with 100 members each (Skärberg et al. 2021). '
           'a, b: standard deviations of the random factors that augmentation applies '
           'to the mean and standard deviation of the grey values. The learning rate '
           'falls by a factor 10^0.25 every k epochs.')


def ensemble_table(rows: list[dict]) -> tables.Table:
  """Builds the comparison of single networks and ensembles.

  Args:
    rows: one dict per network or ensemble: name, and any of miou_before, miou_after,
      ece, brier, nll (nats), porosity_manual, porosity_automatic and other
      porosity_* (fractions). Missing values, None and NaN give a dash; other keys are
      not shown.

  Raises:
    InputError: without rows, or for a row without a name.
  """
  if not rows or any(not row.get('name') for row in rows):
    raise InputError('ensemble table', got='no rows' if not rows else 'no name',
                     expected='rows with a name', remedy='name each row')
  porosities = list(dict.fromkeys(
      key for row in rows for key in row if key.startswith('porosity')))
  headings = [key.removeprefix('porosity').strip('_').replace('_', ' ') or 'all'
              for key in porosities]
  scores = ('miou_before', 'miou_after', 'ece', 'brier', 'nll')
  body = []
  for row in rows:
    body.append((str(row['name']), *(tables.number(row.get(key)) for key in scores),
                 *(tables.percent(row.get(key)) for key in porosities)))
  groups = (('', 1), ('mIoU', 2), ('Calibration', 3))
  return tables.Table(
      title='Single networks and ensembles',
      groups=groups + ((('Porosity, %', len(headings)),) if headings else ()),
      columns=('Network', 'before', 'after', 'ECE', 'Brier', 'NLL', *headings),
      rows=tuple(body),
      note='mIoU before and after post-processing. ECE: expected calibration error, '
           'the mean distance between score and observed fraction of solid. Brier: '
           'mean squared error of the score. NLL: mean negative log-likelihood in '
           'nats. All three: lower is better.')
