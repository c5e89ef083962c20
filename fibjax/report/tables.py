"""Tables of the report as rows of text, and their Markdown.

Input is the content of metrics.json: split -> stage -> scores, with stages `before`
and `after` post-processing, and the same per volume. mIoU and accuracy are shown as
fractions and porosities in percent, as in Tables 2 and 3 of Skärberg et al. 2021.
Missing values are shown as a dash.
"""
from typing import NamedTuple

from fibjax.annotation import regions

SPLITS = dict(zip(regions.SPLITS, ('Training', 'Validation', 'Test'), strict=True))
DASH = '\N{EN DASH}'
COMBINED = 'Combined'


class Table(NamedTuple):
  """A table of text.

  Attributes:
    title: one line above the table.
    groups: (heading, number of columns) over the columns, or () for none.
    columns: one heading per column.
    rows: one tuple of cells per row, as long as columns; the first cell is its name.
    note: what the columns mean.
  """
  title: str
  groups: tuple[tuple[str, int], ...]
  columns: tuple[str, ...]
  rows: tuple[tuple[str, ...], ...]
  note: str


def number(value, digits=4, sign=False) -> str:
  """Writes a number; None and NaN (not measured) give a dash."""
  if value is None or value != value:
    return DASH
  text = f'{value:+.{digits}f}' if sign else f'{value:.{digits}f}'
  return text.replace('-', '\N{MINUS SIGN}')


def percent(value, sign=False) -> str:
  """Writes a fraction in percent with two decimals; None gives a dash."""
  return number(None if value is None else 100 * value, 2, sign)


def difference(value, low, high, digits: int) -> str:
  """Writes a signed difference with its interval, -0.010 [-0.020, +0.001]."""
  return (f'{number(value, digits, sign=True)} '
          f'[{number(low, digits, sign=True)}, {number(high, digits, sign=True)}]')


def _interval(low, high):
  if low is None or high is None:
    return ''
  return f' [{percent(low)}, {percent(high)}]'


def _p_value(value):
  if value is None:
    return DASH
  return '< 0.0001' if value < 1e-4 else f'{value:.4f}' if value < 0.01 else (
      f'{value:.2f}')


def _scores(metrics, volume, split, stage):
  """Returns one block of scores, {} where there is none; volume None: combined."""
  by_split = (metrics if volume is None
              else metrics.get('per_volume', {}).get(volume, {}))
  return (by_split.get(split) or {}).get(stage) or {}


def split_rows(metrics: dict, stage: str) -> list[dict]:
  """Lists the scores of a stage as plain data, one row per volume and split.

  Args:
    metrics: content of metrics.json.
    stage: 'before' or 'after' post-processing.

  Returns:
    dicts of volume, split, miou, accuracy, porosity_manual, porosity_automatic,
    n_voxels; volumes in their order in metrics, then the combined set where there
    is more than one volume.
  """
  names = list(metrics.get('per_volume', {}))
  groups = names + ([None] if len(names) != 1 else [])
  keys = ('miou', 'accuracy', 'porosity_manual', 'porosity_automatic', 'n_voxels')
  return [{'volume': COMBINED if name is None else name, 'split': split,
           **{k: _scores(metrics, name, split, stage).get(k) for k in keys}}
          for name in groups for split in SPLITS]


def split_table(metrics: dict, stage: str) -> Table:
  """Builds the form of Table 2 (stage 'before') or Table 3 (stage 'after')."""
  rows = {}
  for row in split_rows(metrics, stage):
    rows.setdefault(row['volume'], []).extend((
        number(row['miou']), number(row['accuracy']),
        percent(row['porosity_manual']), percent(row['porosity_automatic'])))
  return Table(
      title={'before': 'Before post-processing (score > 0.5)',
             'after': 'After post-processing'}[stage],
      groups=(('', 1), *((heading, 4) for heading in SPLITS.values())),
      columns=('Volume', *('mIoU', 'Acc.', 'Manual', 'Autom.') * len(SPLITS)),
      rows=tuple((name, *cells) for name, cells in rows.items()),
      note='Pooled over the labelled voxels of complete regions. Acc.: accuracy. '
           'Manual, Autom.: porosity, the percentage of pore voxels in the labels and '
           'in the segmentation. The combined row pools the voxels of all volumes.')


def summary_table(metrics: dict) -> Table:
  """Builds the overview: test mIoU per volume against the best grey threshold."""
  names = list(metrics.get('per_volume', {}))
  start, rows = metrics.get('start'), []
  for name in names + ([None] if len(names) != 1 else []):
    after = _scores(metrics, name, 'test', 'after')
    before = _scores(metrics, name, 'test', 'before')
    baseline = (metrics.get('threshold_baseline', {}).get(name) or {}).get('miou')
    miou = after.get('miou')
    gain = None if None in (miou, baseline) else miou - baseline
    manual, automatic = after.get('porosity_manual'), after.get('porosity_automatic')
    error = None if None in (manual, automatic) else automatic - manual
    intervals = metrics.get('test_intervals') or {}
    if name is not None:
      intervals = intervals.get('per_volume', {}).get(name, {})
    spread = '' if 'miou' not in intervals else ' [{}, {}]'.format(
        *map(number, intervals['miou']))
    untrained = () if start is None else (number(
        start['miou'] if name is None else start['per_volume'].get(name)),)
    rows.append((COMBINED if name is None else name, *untrained,
                 number(before.get('miou')), number(miou) + spread, number(baseline),
                 number(gain, sign=True), percent(manual), percent(automatic),
                 percent(error, sign=True)))
  return Table(
      title='Test regions at a glance',
      groups=(('', 1), ('mIoU', 4 if start is None else 5), ('Porosity, %', 3)),
      columns=('Volume', *(() if start is None else ('no label',)), 'before', 'after',
               'best threshold', 'gain', 'manual', 'automatic', 'difference'),
      rows=tuple(rows),
      note='Best threshold: the highest mIoU that any single grey threshold can reach '
           'on these regions, chosen with their labels. Gain: mIoU after '
           'post-processing minus that. In brackets: 95 % bootstrap interval over '
           'regions.' + ('' if start is None else
                         ' No label: the network that training started from.'))


def porosity_table(metrics: dict) -> Table:
  """Builds the comparison of region porosities, with tests and intervals."""
  tests = metrics.get('porosity_tests', {})
  coverage = next((t['confidence'] for t in tests.values() if 'confidence' in t), 0.95)
  rows = []
  for name, test in tests.items():
    rows.append((
        name, str(test.get('n_regions', DASH)), percent(test.get('manual')),
        percent(test.get('automatic'))
        + _interval(test.get('automatic_low'), test.get('automatic_high')),
        percent(test.get('difference'), sign=True)
        + _interval(test.get('difference_low'), test.get('difference_high')),
        _p_value(test.get('unpaired_p')), _p_value(test.get('paired_p'))))
  return Table(
      title='Porosity of the annotated regions, manual against automatic',
      groups=(),
      columns=('Volume', 'Regions', 'Manual %', 'Automatic %', 'Difference, points',
               'p unpaired', 'p paired'),
      rows=tuple(rows),
      note=f'Means over regions of all splits; in brackets: {100 * coverage:g} % '
           'bootstrap interval over regions. The paper used the unpaired t-test. Both '
           'sets come from the same regions, so base conclusions on the paired t-test '
           'and on the interval of the difference.')


def volume_table(metrics: dict) -> Table:
  """Builds the porosity of whole volumes, with scores where the truth is known."""
  volumes = metrics.get('whole_volume', {})
  has_truth = any(v.get('truth') for v in volumes.values())
  rows = []
  for name, volume in volumes.items():
    row = [name, percent(volume.get('porosity_automatic'))]
    if has_truth:
      truth = volume.get('truth') or {}
      both = truth.get('porosity_manual'), truth.get('porosity_automatic')
      error = None if None in both else both[1] - both[0]
      row += [percent(both[0]), percent(error, sign=True),
              number(truth.get('miou')), number(truth.get('accuracy'))]
    rows.append(tuple(row))
  columns = ('Volume', 'Porosity %')
  note = 'Over all voxels of the segmentation.'
  if has_truth:
    columns += ('True porosity %', 'Difference, points', 'mIoU', 'Accuracy')
    note += (' The ground truth is known because the volume is simulated or completely '
             'labelled.')
  return Table('Whole volumes', (), columns, tuple(rows), note)


def to_markdown(table: Table) -> str:
  """Writes a table as Markdown, with the column groups merged into the headings."""
  groups = [heading for heading, span in table.groups for _ in range(span)]
  groups = groups or [''] * len(table.columns)
  headings = [f'{group} {column}'.strip()
              for group, column in zip(groups, table.columns, strict=True)]
  align = ['---'] + ['---:'] * (len(headings) - 1)
  lines = [' | '.join(_cell(c) for c in row) for row in (headings, align, *table.rows)]
  body = '\n'.join(f'| {line} |' for line in lines)
  return f'**{_cell(table.title)}**\n\n{body}\n\n{table.note}\n'


def _cell(text):
  escaped = text.replace('\\', '\\\\').replace('|', '\\|').replace('<', '&lt;')
  return ' '.join(escaped.split())


def leaf_table(title: str, rows: list[dict]) -> Table:
  """Builds the table of the leaf sizes tried for a method that grows trees.

  Args:
    title: of the method.
    rows: one per smallest leaf: min_leaf, nodes, train_miou, val_miou, train_accuracy,
      val_accuracy.
  """
  best = max(row['val_miou'] for row in rows)
  return Table(
      title=title[:1].upper() + title[1:],
      groups=(('', 2), ('mIoU', 2), ('Accuracy', 2)),
      columns=('Smallest leaf', 'nodes', 'training', 'validation', 'training',
               'validation'),
      rows=tuple((f'{row["min_leaf"]}' + ' (kept)' * (row['val_miou'] == best),
                  str(row['nodes']),
                  *(number(row[key]) for key in ('train_miou', 'val_miou',
                                                 'train_accuracy', 'val_accuracy')))
                 for row in rows),
      note='Measured before post-processing on voxels drawn in equal numbers from both '
           'classes. Kept: the leaf size of highest validation mIoU.')
