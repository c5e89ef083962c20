"""Report of a comparison of methods: a table, a figure, and the expected findings.

Input is compare.json of the workdir. The same file gives the same bytes.
"""
from pathlib import Path

from fibjax.report import figures, page, prose, sources, tables
from fibjax.report.page_figure import page_figure
from fibjax.system import files
from fibjax.system.run_folder import RunFolder

TRUTH = 'truth'  # row of the ground truth; all others are methods


def write_compare_report(folder, titles: dict[str, str]) -> Path:
  """Writes report.html, figures/ and tables.md of a comparison.

  Args:
    folder: workdir with compare.json.
    titles: name of each method -> its title in the table and the figure.

  Returns:
    path of report.html.

  Raises:
    InputError: when compare.json is missing or damaged.
  """
  run = RunFolder(folder)
  result = files.read_json_object(run.compare)
  notes: list[str] = []
  settings, versions = (sources.read_json_if_any(path, notes)
                        for path in (run.config, run.versions))
  names, strengths, miou_sn = _by_method(result['rows'])
  figure = page_figure(
      'methods', 'Test mIoU of all methods.',
      'One bar for each strength of the pore-backs; at 0 the same structure has none.',
      figures.bars_figure([titles[name] for name in names],
                          [f'pore-backs × {s:g}' for s in strengths], miou_sn,
                          'test mIoU'))
  return page.write_page(run, 'compare.html', [compare_table(result['rows'], titles)],
                         [figure], notes=notes,
                         highlights=_highlights(result['findings']), settings=settings,
                         versions=versions, citations=prose.citations(None, versions))


def compare_table(rows: list[dict], titles: dict[str, str]) -> tables.Table:
  """Builds the table of all methods.

  Args:
    rows: of compare.json.
    titles: name of each method -> its title.
  """
  volumes = next((list(row['per_volume']) for row in rows if 'per_volume' in row), [])
  body = []
  for row in rows:
    by_volume = row.get('per_volume', {})
    errors = [abs(scores['porosity_automatic'] - scores['porosity_manual'])
              for scores in by_volume.values()]
    body.append((
        TRUTH if row['method'] == TRUTH else titles[row['method']],
        f'{row["shine_through"]:g}',
        *(tables.number(by_volume.get(name, {}).get('miou'), 3) for name in volumes),
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
           'classical methods include a clean-up instead. Porosity error: mean over '
           'volumes of |automatic − manual|. z-anisotropy: excess of the two-point '
           'covariance along z over that in the plane, for whole volumes; the target '
           'is the value of the truth. s/Mvoxel: scoring and post-processing. Each '
           'method ran in a separate process.')


def _by_method(rows):
  """Returns method names, strengths, and test mIoU as [strength, method]."""
  strengths = list(dict.fromkeys(row['shine_through'] for row in rows))
  names = list(dict.fromkeys(row['method'] for row in rows if row['method'] != TRUTH))
  miou = {(row['method'], row['shine_through']): row.get('miou') for row in rows}
  return names, strengths, [[miou[name, strength] for name in names]
                            for strength in strengths]


def _highlights(findings: dict) -> list[tuple[str, str]]:
  """Writes the findings of compare.json as (question, answer)."""
  pairs = []
  for key, finding in findings.items():
    if key == 'without_pore_backs':
      pairs.append(('Without pore-backs: lowest mIoU of all methods',
                    tables.number(finding['least_miou'], 3)))
      continue
    strength = f'Pore-backs × {key}'
    if 'thresholds_overestimate_solid' in finding:
      pairs.append((f'{strength}: thresholds overestimate solid in all volumes',
                    _yes_or_no(finding['thresholds_overestimate_solid'])))
    if 'network_ahead_of_forest_by' in finding:
      pairs.append((f'{strength}: lead of the network over the forest, at least',
                    tables.number(finding['network_ahead_of_forest_by'], 3, sign=True)))
      pairs.append((f'{strength}: forest ahead of the best threshold in all volumes',
                    _yes_or_no(finding['forest_ahead_of_best_threshold'])))
  return pairs


def _yes_or_no(answer: bool) -> str:
  return 'yes' if answer else 'no'
