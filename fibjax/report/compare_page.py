"""The report of a comparison of methods: one table, one figure, what was expected.

Input is compare.json in the workdir (compare.py). Same file, same bytes.
"""
from pathlib import Path

from fibjax.report import figures, page, sources, tables
from fibjax.system import files

_SHOWN = {'patch_cnn': 'sliding-window CNN', 'resunet': 'residual U-Net',
          'unet': 'U-Net', 'forest': 'random forest'}


def write_compare_report(folder) -> Path:
  """Writes report.html, figures/ and tables.md of a comparison.

  Args:
    folder: workdir with compare.json.

  Returns:
    path of report.html.

  Raises:
    InputError: when compare.json is missing or damaged.
  """
  folder = Path(folder)
  result = files.read_json(folder / 'compare.json')
  notes: list[str] = []
  settings, versions = (sources.read_json_if_any(folder / name, notes)
                        for name in ('config.json', 'versions.json'))
  names, strengths, scores = _by_method(result['rows'])
  figure = page.page_figure(
      'methods', 'Test mIoU of all methods.',
      'A bar for each strength of the pore-backs; 0: the same structure without.',
      figures.bars_figure(names, [f'pore-backs x {s:g}' for s in strengths], scores,
                          'test mIoU'))
  return page.write_page(folder, 'compare.html', [compare_table(result['rows'])],
                         [figure], notes=notes, facts=_facts(result['findings']),
                         settings=settings, versions=versions)


def compare_table(rows: list[dict]) -> tables.Table:
  """Builds the table of all methods.

  Args:
    rows: of compare.json.
  """
  volumes = next((list(row['per_volume']) for row in rows if 'per_volume' in row), [])
  body = []
  for row in rows:
    found = row.get('per_volume', {})
    errors = [abs(one['porosity_automatic'] - one['porosity_manual'])
              for one in found.values()]
    body.append((
        _SHOWN.get(row['method'], row['method'].replace('_', ' ')),
        f'{row["shine_through"]:g}',
        *(tables.number(found.get(name, {}).get('miou'), 3) for name in volumes),
        tables.number(row.get('miou'), 3), tables.number(row.get('accuracy'), 3),
        tables.percent(sum(errors) / len(errors) if errors else None),
        tables.number(row['z_anisotropy'], 3, sign=True),
        *(tables.number(row.get(key), digits) for key, digits in (
            ('seconds_training', 0), ('seconds_per_mvoxel', 2), ('peak_gib', 2)))))
  return tables.Table(
      title='Methods', groups=(('', 2), ('Test mIoU', len(volumes) + 1), ('Test', 2),
                               ('', 1), ('Cost', 3)),
      columns=('Method', 'pore-backs', *volumes, 'all', 'accuracy',
               'porosity error, points', 'z-anisotropy', 'training, s', 's/Mvoxel',
               'peak GiB'),
      rows=tuple(body),
      note='Test regions, after post-processing tuned on the validation regions; '
           'classical methods clean up for themselves. Porosity error: mean over '
           'volumes of |automatic − manual|. z-anisotropy: excess of the two-point '
           'covariance along z over that in the plane, whole volumes; that of the '
           'truth is the target. s/Mvoxel: scoring and post-processing. Each method '
           'in a process of its own.')


def _by_method(rows):
  strengths = list(dict.fromkeys(row['shine_through'] for row in rows))
  names = list(dict.fromkeys(row['method'] for row in rows if row['method'] != 'truth'))
  at = {(row['method'], row['shine_through']): row.get('miou') for row in rows}
  shown = [_SHOWN.get(name, name.replace('_', ' ')) for name in names]
  return shown, strengths, [[at[name, strength] for name in names]
                            for strength in strengths]


def _facts(findings: dict) -> list[tuple[str, str]]:
  facts = []
  for key, part in findings.items():
    if key == 'without_pore_backs':
      facts.append(('Without pore-backs, least mIoU', tables.number(part['least_miou'],
                                                                    3)))
      continue
    place = f'With pore-backs x {key}'
    if 'thresholds_overestimate_solid' in part:
      facts.append((f'{place}, thresholds call too much solid everywhere',
                    'yes' if part['thresholds_overestimate_solid'] else 'no'))
    if 'network_ahead_of_forest_by' in part:
      facts.append((f'{place}, network ahead of the forest by at least',
                    tables.number(part['network_ahead_of_forest_by'], 3, sign=True)))
      facts.append((f'{place}, forest ahead of the best threshold everywhere',
                    'yes' if part['forest_ahead_of_best_threshold'] else 'no'))
  return facts
