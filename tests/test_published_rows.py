"""A run beside the paper: the paper's own numbers, and differences from them."""
import json
from pathlib import Path

import numpy as np
import pytest

from fibjax.report import published, tables

FOLDER = Path(__file__).parents[1] / 'third_party' / 'skarberg2021'
TABLES = json.loads((FOLDER / 'tables.json').read_text(encoding='utf-8'))
STAGES = {'before': 'table2_before_postprocessing',
          'after': 'table3_after_postprocessing'}
MINUS = '\N{MINUS SIGN}'


def metrics_of_the_paper():
  """metrics.json of a run that measured exactly what the paper prints."""
  content = {name: {split: {stage: dict(TABLES[key][name][split])
                            for stage, key in STAGES.items()}
                    for split in tables.SPLITS} for name in published.SAMPLES}
  unprinted = {'porosity_manual': 0.31, 'porosity_automatic': 0.32}
  pooled = {split: {stage: TABLES[key]['combined'][split] | unprinted
                    for stage, key in STAGES.items()} for split in tables.SPLITS}
  return {**pooled, 'per_volume': content,
          'postprocess': {'sigma_px': 2.63, 'threshold': 0.402},
          'porosity_tests': {name: {'unpaired_p': TABLES['porosity_t_test_p'][name]}
                             for name in published.SAMPLES}}


def value(cell):
  return None if cell == tables.DASH else float(cell.replace(MINUS, '-'))


def test_the_numbers_are_those_of_third_party():
  for stage, key in STAGES.items():
    for split in tables.SPLITS:
      rows = [TABLES[key][name][split] for name in (*published.SAMPLES, 'combined')]
      keys = ('miou', 'accuracy', 'porosity_manual', 'porosity_automatic')
      assert published.SCORES[stage][split] == tuple(
          tuple(row[k] for k in keys if k in row) for row in rows)
  counts = TABLES['table1_weights']['counts']
  assert {str(n_xy): dict(zip(map(str, published.SIZES_Z), row, strict=True))
          for n_xy, row in published.WEIGHTS.items()} == counts
  assert published.POSTPROCESSING.items() <= TABLES['postprocessing'].items()
  assert published.P_VALUES.items() <= TABLES['porosity_t_test_p'].items()


@pytest.mark.parametrize('stage', STAGES)
def test_the_papers_own_numbers_differ_by_nothing(stage):
  table = published.scores_table(metrics_of_the_paper(), stage)
  assert [row[:2] for row in table.rows] == [
      (name, heading) for name in (*published.SAMPLES, 'Combined')
      for heading in ('Training', 'Validation', 'Test')]
  for row in table.rows:
    for ours, paper, difference in zip(row[2::3], row[3::3], row[4::3], strict=True):
      if paper == tables.DASH:
        assert row[0] == 'Combined' and ours in ('31.00', '32.00')
        assert difference == tables.DASH
      else:
        assert ours == paper and value(difference) == 0
  printed = table.rows[2]
  assert printed[2] == {'before': '0.7530', 'after': '0.7757'}[stage]
  assert printed[9] == '20.42'


@pytest.mark.parametrize('stage', STAGES)
def test_differences_are_this_run_minus_the_paper(stage):
  metrics = metrics_of_the_paper()
  rng = np.random.default_rng(0)
  where = [metrics, *metrics['per_volume'].values()]
  moved = {}
  for name, block in zip(('Combined', *published.SAMPLES), where, strict=True):
    for split, heading in tables.SPLITS.items():
      for k, key in enumerate(('miou', 'accuracy', 'porosity_manual',
                               'porosity_automatic')):
        if name != 'Combined' or k < 2:
          moved[name, heading, k] = step = round(rng.uniform(-0.05, 0.05), 4)
          block[split][stage][key] += step
  table = published.scores_table(metrics, stage)
  for row in table.rows:
    for k in range(4):
      cells = [value(cell) for cell in row[2 + 3 * k:5 + 3 * k]]
      step = moved.get((row[0], row[1], k))
      if step is None:
        assert cells[0] is not None and cells[1:] == [None, None]
      else:
        assert cells[2] == pytest.approx(step * (100 if k > 1 else 1), abs=1e-9)
        assert cells[0] - cells[1] == pytest.approx(cells[2], abs=1e-9)
  assert any(MINUS in row[4] for row in table.rows)
  assert all(row[4][0] in f'+{MINUS}' for row in table.rows)


def test_what_is_not_measured_is_a_dash():
  metrics = metrics_of_the_paper()
  del metrics['per_volume']['HPC30']
  metrics['per_volume']['HPC22']['val'] = {}
  rows = {row[:2]: row[2:] for row in published.scores_table(metrics, 'after').rows}
  dash = tables.DASH
  assert rows['HPC30', 'Test'][:3] == (dash, '0.8204', dash)
  assert rows['HPC22', 'Validation'][:3] == (dash, '0.7723', dash)
  assert rows['HPC22', 'Test'][:3] == ('0.7757', '0.7757', '+0.0000')
  # Two samples pooled are not the three of the paper.
  assert rows['Combined', 'Test'][:3] == (dash, '0.7980', dash)
  for table in published.published_tables({}, {}):
    assert all(len(row) == len(table.columns) for row in table.rows)
    assert sum(span for _, span in table.groups) in (0, len(table.columns))
    assert dash in table.rows[0]


def test_a_volume_of_another_name_stays_out_of_the_combined_row():
  metrics = metrics_of_the_paper()
  metrics['per_volume']['film'] = metrics['per_volume']['HPC22']
  rows = published.scores_table(metrics, 'after').rows
  assert len(rows) == 12 and rows[-1][2] == tables.DASH


def test_weights_beside_table_1():
  counts = {(n_xy, n_z): n for n_xy, row in published.WEIGHTS.items()
            for n_z, n in zip(published.SIZES_Z, row, strict=True)}
  counts[49, 5] += 7
  counts.pop((113, 11))
  table = published.weights_table(counts)
  assert table.rows[5][3:5] == ('686129', '+0')  # 113 x 113 x 3, the selected network
  assert table.rows[1][5:7] == ('276824', '+7')
  assert table.rows[5][11:] == (tables.DASH, tables.DASH)
  assert table.groups[1:3] == (('1 slice', 2), ('3 slices', 2))


def test_our_networks_have_the_published_weights():
  table = published.weights_table(published.count_networks())
  assert all(row[2::2] == ('+0',) * 6 for row in table.rows)


def test_post_processing_and_p_values():
  metrics = metrics_of_the_paper()
  metrics['postprocess'] = {'sigma_px': 2.0, 'threshold': 0.45}
  metrics['porosity_tests']['HPC45'] = {'unpaired_p': None}
  rows = published.findings_table(metrics).rows
  assert [row[1:] for row in rows] == [
      ('2.00', '2.63', f'{MINUS}0.63'), ('0.450', '0.402', '+0.048'),
      ('0.98', '0.98', '+0.00'), ('0.77', '0.77', '+0.00'),
      (tables.DASH, '0.14', tables.DASH)]
