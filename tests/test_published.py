"""The published tables: internal consistency, with our metrics as the arithmetic."""
import csv
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from fibjax.analysis import porosity
from fibjax.metrics import confusion

FOLDER = Path(__file__).parents[1] / 'third_party' / 'skarberg2021'
TABLES = json.loads((FOLDER / 'tables.json').read_text(encoding='utf-8'))
SAMPLES = ('HPC22', 'HPC30', 'HPC45')
SPLITS = ('train', 'val', 'test')
BOTH = ('table2_before_postprocessing', 'table3_after_postprocessing')
MERGED = {'train': 0.6, 'val': 0.2, 'test': 0.2}


def fractions(row):
  return confusion.confusion_from_published(
      row['accuracy'], row['porosity_manual'], row['porosity_automatic'])


def official_porosities():
  with open(FOLDER / 'official_test_squares.csv', encoding='utf-8') as file:
    rows = list(csv.DictReader(file))
  return {s: np.array([float(r['manual_porosity']) for r in rows if r['material'] == s])
          for s in SAMPLES}


@pytest.mark.parametrize('table', BOTH)
@pytest.mark.parametrize('split', SPLITS)
@pytest.mark.parametrize('sample', SAMPLES)
def test_miou_follows_from_accuracy_and_porosities(table, split, sample):
  row = TABLES[table][sample][split]
  scores = confusion.summarise(fractions(row))
  assert abs(round(scores['miou'], 4) - row['miou']) < 1.01e-4
  assert scores['porosity_automatic'] == pytest.approx(row['porosity_automatic'])


@pytest.mark.parametrize('table', BOTH)
@pytest.mark.parametrize('split', SPLITS)
def test_combined_is_pooled(table, split):
  rows = [TABLES[table][s][split] for s in SAMPLES]
  combined = TABLES[table]['combined'][split]
  scores = confusion.summarise(sum(fractions(r) for r in rows) / 3)
  assert round(scores['miou'], 4) == combined['miou']
  assert round(scores['accuracy'], 4) == combined['accuracy']
  assert np.mean([r['miou'] for r in rows]) < combined['miou'] - 0.006


def test_class_scores_implied_by_table_3():
  table = TABLES['table3_after_postprocessing']
  implied = {'HPC22': (0.654, 0.898), 'HPC30': (0.752, 0.889), 'HPC45': (0.749, 0.803)}
  for sample, expected in implied.items():
    scores = confusion.summarise(fractions(table[sample]['test']))
    got = scores['iou_pore'], scores['iou_solid']
    np.testing.assert_allclose(got, expected, atol=6e-4)


def test_weight_counts_follow_their_closed_form():
  counts = TABLES['table1_weights']['counts']
  assert sum(len(row) for row in counts.values()) == 36
  for n_xy, row in counts.items():
    for n_z, weights in row.items():
      n = (int(n_xy) - 1) // 16
      assert weights == 10240 * n * n + 144 * int(n_z) + 183937


def test_official_test_squares_have_the_published_porosity():
  for sample, values in official_porosities().items():
    assert values.size == 20
    row = TABLES['table3_after_postprocessing'][sample]['test']
    assert round(values.mean(), 4) == pytest.approx(row['porosity_manual'], abs=1e-9)


@pytest.mark.parametrize('sample', ['HPC30', 'HPC45'])
def test_published_p_values_fit_the_unpaired_test(sample):
  """Region scatter implied by p must be that of the official test regions.

  HPC22 is left out: its difference of 0.0002 is all rounding.
  """
  table = TABLES['table3_after_postprocessing'][sample]
  manual, automatic = (sum(w * table[s][f'porosity_{k}'] for s, w in MERGED.items())
                       for k in ('manual', 'automatic'))
  p = TABLES['porosity_t_test_p'][sample]
  implied_sd = abs(automatic - manual) / stats.t.isf(p / 2, 198) / np.sqrt(2 / 100)
  sd = official_porosities()[sample].std(ddof=1)
  assert 0.8 < implied_sd / sd < 1.25
  # Regions of exactly these moments give the printed p through our own test.
  z = stats.zscore(np.random.default_rng(0).normal(size=(2, 100)), axis=1, ddof=1)
  result = porosity.compare_porosities(manual + implied_sd * z[0],
                                       automatic + implied_sd * z[1], seed=0)
  assert result['unpaired_p'] == pytest.approx(p, abs=1e-9)
