"""The training-set study on a tiny membrane: trials, correction by hand, the page."""
import csv
import shutil
from pathlib import Path

import numpy as np
import pytest

from fibjax.annotation.regions import load_regions
from fibjax.cli import main
from fibjax.config import load
from fibjax.errors import InputError
from fibjax.report import study_page
from fibjax.studies import sweep, training_slices
from fibjax.volumes.volume import new_volume, open_volume, read_box, write_box

ROOT = Path(__file__).parents[1]
CONFIG = f'{ROOT}/configs/membrane.py'


def read(path):
  volume = open_volume(path)
  return read_box(volume, (0, 0, 0), volume.shape)


def rows_of(home):
  with open(home / 'slices.csv', encoding='utf-8', newline='') as file:
    return list(csv.DictReader(file))


@pytest.fixture(scope='module')
def done(tmp_path_factory):
  folder = tmp_path_factory.mktemp('study') / 'w'
  settings = load(f'{CONFIG}:tiny', ('study.counts=2', 'train.epochs=1'))
  return settings, folder, training_slices.run_study(settings, folder)


@pytest.mark.long
def test_tested_slices_are_in_no_training_set(done):
  settings, folder, result = done
  assert {(row['count'], row['placement'], row['z'], row['against'])
          for row in result['table']} == {
      (2, placement, z, kind) for placement in ('initial', 'distributed')
      for z in (5, 25, 38) for kind in ('corrected', 'truth')}
  for placement, chosen in (('initial', {0, 1}), ('distributed', {0, 20})):
    home = folder / 'trials' / f'2-{placement}'
    regions = load_regions(home / 'slices')
    trained = {int(z) for z, split in zip(regions.z, regions.split, strict=True)
               if split != 'test'}
    assert trained == chosen
    rows = rows_of(home)
    assert len(rows) == 40 * 2 * 2  # slices, seeds, kinds of labels
    assert {int(row['z']) for row in rows if row['trained_on'] == '1'} == chosen


@pytest.mark.long
def test_the_table_is_what_the_members_say(done):
  settings, folder, result = done
  truth = read(folder / 'film' / 'truth.ome.zarr')
  home = folder / 'trials' / '2-initial'
  scores = {seed: read(home / 'scores' / str(seed)) for seed in (0, 1)}
  accuracy = [((scores[seed][25] > 0.5) == (truth[25] == 1)).mean() for seed in (0, 1)]
  (row,) = [row for row in result['table'] if (
      row['placement'], row['z'], row['against']) == ('initial', 25, 'truth')]
  assert row['accuracy'] == pytest.approx([np.mean(accuracy),
                                           np.std(accuracy, ddof=1)])
  assert row['all_pore'] == pytest.approx((truth[25] == 0).mean())
  labels = read(folder / 'labels.ome.zarr')
  segmented = read(folder / 'forest' / 'segmentation.ome.zarr' / 'raw')
  assert ((labels == 1) <= (segmented == 1)).all()  # correction only takes solid away
  text = (folder / 'report.html').read_text(encoding='utf-8')
  assert 'accuracy away from the top, ground truth' in text and 'Slice 38' in text


@pytest.mark.long
def test_a_second_call_trains_nothing_again(done, monkeypatch):
  settings, folder, result = done
  monkeypatch.setattr(sweep, 'run_sweep', None)
  assert training_slices.run_study(settings, folder) == result


@pytest.mark.long
def test_labels_corrected_by_hand_are_used_and_checked(done, tmp_path):
  settings, folder, _ = done
  exported, corrected = tmp_path / 'first.tif', tmp_path / 'corrected.ome.zarr'
  assert main.main(['export', str(folder / 'forest' / 'segmentation.ome.zarr' / 'raw'),
                    f'--out={exported}']) == 0
  assert main.main(['import', str(exported), f'--out={corrected}',
                    '--voxel_size_nm=30,10,10']) == 0
  segmentation = open_volume(folder / 'forest' / 'segmentation.ome.zarr'
                             / 'raw')
  labels = training_slices._correct(load(f'{CONFIG}:tiny', (
      f'study.labels={corrected}',)), segmentation, None, tmp_path / 'none')
  np.testing.assert_array_equal(
      read_box(labels, (0, 0, 0), labels.shape),
      read_box(segmentation, (0, 0, 0), segmentation.shape))
  for name, array, size in (('cut', np.zeros((39, 96, 96), np.uint8), (30., 10., 10.)),
                            ('scaled', np.zeros((40, 96, 96), np.uint8), (30., 5., 5.)),
                            ('codes', np.full((40, 96, 96), 7, np.uint8),
                             (30., 10., 10.))):
    with new_volume(tmp_path / name, array.shape, np.uint8, size) as made:
      write_box(made, (0, 0, 0), array)
    with pytest.raises(InputError, match='config.study.labels'):
      training_slices._correct(load(f'{CONFIG}:tiny', (
          f'study.labels={tmp_path / name}',)), segmentation, None, tmp_path / 'none')


@pytest.mark.long
def test_the_chain_without_a_person_ends_with_a_report(done, tmp_path):
  _, folder, _ = done
  shutil.copytree(folder / 'film', tmp_path / 'w' / 'film')
  (tmp_path / 'w' / '.lock').touch()  # as in a workdir whose call was killed
  settings = load(f'{CONFIG}:auto_tiny', ('train.epochs=1',))
  result = training_slices.run_study(settings, tmp_path / 'w')
  assert {row['placement'] for row in result['table']} == {'uncertain'}
  np.testing.assert_array_equal(
      read(tmp_path / 'w' / 'labels.ome.zarr'),
      read(tmp_path / 'w' / 'forest' / 'segmentation.ome.zarr' / 'raw'))
  assert (tmp_path / 'w' / 'report.html').exists()


@pytest.mark.parametrize('override, message', [
    ('study.test_slices=1,25,38', r'slices \[1\] in training'),
    ('study.test_slices=5,25,40', 'indices from 0 to 39'),
    ('study.counts=2,50', '1 to 40')])
def test_bad_slices_are_named_before_any_work(override, message, tmp_path):
  with pytest.raises(InputError, match=message):
    training_slices.run_study(load(f'{CONFIG}:tiny', (override,)), tmp_path / 'w')
  assert not (tmp_path / 'w').exists()


def made_tables(gains):
  """Rows whose distributed slices are better by gains[count] at seed 0 and 1."""
  tables = {}
  for count, by_seed in gains.items():
    for placement in ('initial', 'distributed'):
      tables[count, placement] = [
          {'seed': str(seed), 'z': str(z), 'against': 'truth',
           'accuracy': str(0.8 + (gain if placement == 'distributed' and z else 0))}
          for seed, gain in enumerate(by_seed) for z in (0, 10, 20)]
  return tables


def test_the_interaction_is_a_difference_of_differences():
  tables = made_tables({5: (-.02, .0, .02), 20: (.05, .06, .07)})
  found = training_slices.contrasts(tables, 'truth', (0, 10, 20))
  assert list(found) == ['distributed - initial, 5 slices',
                         'distributed - initial, 20 slices',
                         'distributed - initial, 20 - 5 slices']
  few, many, interaction = found.values()
  assert few['mean'] == pytest.approx(0, abs=1e-12)
  assert many['mean'] == pytest.approx(0.06)
  assert interaction['mean'] == pytest.approx(0.06)
  # Differences .07, .06, .05: sd .01, standard error .01 / sqrt(3), t of 2 df 4.3027.
  reach = 4.302653 * 0.01 / 3 ** 0.5
  assert interaction['low'] == pytest.approx(0.06 - reach, abs=1e-6)
  assert interaction['high'] == pytest.approx(0.06 + reach, abs=1e-6)
  tables = made_tables({5: (0., 0.)})
  assert list(training_slices.contrasts(tables, 'truth', (0, 10))) == [
      'distributed - initial, 5 slices']
  tables = made_tables({5: (0.,), 20: (0.,)})
  assert training_slices.contrasts(tables, 'truth', (0, 10)) == {}


def test_every_placement_is_compared_with_every_other():
  tables = made_tables({20: (.1, .1)})
  tables[20, 'uncertain'] = [dict(row, accuracy=str(float(row['accuracy']) - 0.04))
                             for row in tables[20, 'distributed']]
  found = training_slices.contrasts(tables, 'truth', (0, 10, 20))
  assert {name: pytest.approx(part['mean']) for name, part in found.items()} == {
      'distributed - initial, 20 slices': 0.1, 'uncertain - initial, 20 slices': 0.06,
      'uncertain - distributed, 20 slices': -0.04}


def test_published_numbers_are_those_of_their_source():
  path = ROOT / 'third_party' / 'membrane' / 'trials.csv'
  with open(path, encoding='utf-8', newline='') as file:
    expected = {(int(r['slices']), r['placement'], int(r['slice'])):
                (float(r['loss']), float(r['accuracy'])) for r in csv.DictReader(file)}
  assert expected == study_page.PUBLISHED
  row = {'count': 20, 'placement': 'distributed', 'against': 'truth', 'z': 434,
         'seeds': 5, 'all_pore': 0.8,
         **{name: [0.5, 0.1] for name in training_slices.SCORES}}
  table = study_page.study_table([row], 'truth')
  assert table.rows[0][:5] == ('20 distributed', '434', '5', '0.500 ± 0.100',
                               '0.500 ± 0.100')
  assert table.rows[0][-3:] == ('0.800', '0.300', '0.945')
  assert sum(width for _, width in table.groups) == len(table.columns)
