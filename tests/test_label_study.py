"""The study of label budgets: draws of regions, means, and resuming."""
import concurrent.futures
import json
from pathlib import Path

import numpy as np
import pytest

from fibjax.annotation.regions import make_regions
from fibjax.config import change, load
from fibjax.errors import InputError
from fibjax.report import labels_page
from fibjax.studies import label_study

ROOT = Path(__file__).parents[1]


def regions(per_volume=20):
  names, places, splits = [], [], []
  for name in ('a', 'b'):
    for k in range(per_volume):
      names.append(name)
      places.append((k, 0, 0))
      splits.append(('train', 'train', 'train', 'val', 'test')[k % 5])
  return make_regions(names, places, [np.zeros((4, 4), np.uint8)] * len(names), splits)


def places_of(table, split):
  return {(name, int(z)) for name, z, of in zip(table.volume, table.z, table.split,
                                                strict=True) if of == split}


def test_larger_draws_contain_the_smaller_and_all_test_regions():
  whole = regions()
  draws = {budget: label_study.choose_regions(whole, budget, 3) for budget in (2, 4, 8)}
  for budget, draw in draws.items():
    n_val = {2: 1, 4: 1, 8: 2}[budget]
    assert len(places_of(draw, 'train')) == 2 * (budget - n_val)
    assert len(places_of(draw, 'val')) == 2 * n_val
    assert places_of(draw, 'test') == places_of(whole, 'test')
  for split in ('train', 'val'):
    assert (places_of(draws[2], split) <= places_of(draws[4], split)
            <= places_of(draws[8], split) <= places_of(whole, split))
  other = label_study.choose_regions(whole, 4, 4)
  assert places_of(other, 'train') != places_of(draws[4], 'train')
  with pytest.raises(InputError, match='those of volume a'):
    label_study.choose_regions(whole, 17, 0)


def test_ways_are_names_and_settings():
  ways = label_study.read_ways(('a: model.name=forest', 'b c: train.epochs=2 seed=4'))
  assert ways == [('a', ('model.name=forest',)), ('b c', ('train.epochs=2', 'seed=4'))]
  for texts in (('model.name=forest',), ('a: x=1', 'a: y=2'), (': x=1',),
                ('a/b: x=1',)):
    with pytest.raises(InputError, match='ways'):
      label_study.read_ways(texts)


def test_a_way_without_labels_runs_once():
  settings = load(f'{ROOT}/configs/labels.py', ('study.seeds=2', 'study.budgets=2,8'))
  zero = ('train.start=cnn_33x7', 'train.epochs=0', 'postprocess.tune=none')
  configs = {'a': settings, 'b': change(settings, zero),
             'c': change(settings, zero[2:])}
  assert label_study.plan_units(configs, settings.study) == [
      (0, 0, 'b'), (0, 2, 'a'), (0, 2, 'c'), (0, 8, 'a'), (0, 8, 'c'),
      (1, 2, 'a'), (1, 2, 'c'), (1, 8, 'a'), (1, 8, 'c')]


def row(way, budget, seed, miou, volume_miou=None):
  return {'way': way, 'budget': budget, 'seed': seed, 'miou': miou, 'seconds': 10.0,
          'porosity_error': 0.02, 'volume_miou': volume_miou,
          'volume_porosity_error': volume_miou and 0.01}


def test_means_are_over_seeds():
  rows = [row('a', 2, 0, 0.6), row('b', 2, 0, 0.5, 0.4), row('a', 2, 1, 0.8),
          row('a', 4, 0, 0.9)]
  table = label_study.summarise(rows)
  assert [(entry['way'], entry['budget'], entry['seeds']) for entry in table] == [
      ('a', 2, 2), ('b', 2, 1), ('a', 4, 1)]
  assert table[0]['miou'] == pytest.approx([0.7, np.std([0.6, 0.8], ddof=1)])
  assert table[2]['miou'] == [0.9, None] and table[0]['volume_miou'] is None
  shown = labels_page.labels_table(table, ['miou', 'porosity_error'])
  figure = labels_page.budgets_figure(
      [*table, {**table[0], 'way': 'no label', 'budget': 0}], ['miou'])
  assert list(figure.axes[0].lines[-1].get_ydata()) == [0.7, 0.7]
  assert shown.rows[0] == ('a', '2', '2', '0.700 ± 0.141', '2.00 ± 0.00', '10')


@pytest.mark.long
def test_a_second_call_runs_nothing_again(tmp_path, monkeypatch):
  settings = load(f'{ROOT}/configs/labels.py:tiny', (
      'study.ways=forest: model.name=forest,trees: model.name=forest forest.trees=2',
      'study.budgets=2', 'study.seeds=2'))
  result = label_study.run_label_study(settings, tmp_path / 'w')
  assert [(r['way'], r['seed']) for r in result['rows']] == [
      ('forest', 0), ('trees', 0), ('forest', 1), ('trees', 1)]
  assert all(0.3 < r['miou'] < 1 and 0.3 < r['volume_miou'] < 1 for r in result['rows'])
  assert result['rows'][0]['miou'] != result['rows'][2]['miou']
  assert not list((tmp_path / 'w' / 'runs').iterdir())
  kept = tmp_path / 'w' / 'trials' / 'trees-2-1.json'
  first = json.loads(kept.read_text())
  kept.unlink()
  again = label_study.run_label_study(settings, tmp_path / 'w')
  assert {**json.loads(kept.read_text()), 'seconds': 0} == {**first, 'seconds': 0}
  monkeypatch.setattr(concurrent.futures, 'ProcessPoolExecutor', None)
  assert label_study.run_label_study(settings, tmp_path / 'w') == again
  assert 'trees' in (tmp_path / 'w' / 'report.html').read_text(encoding='utf-8')
