"""Methods side by side: the table, what it finds, classical methods as runs."""
import concurrent.futures
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from fibjax.analysis import two_point
from fibjax.cli import main
from fibjax.config import load
from fibjax.errors import InputError
from fibjax.methods import classical, registry
from fibjax.models import facts
from fibjax.pipeline import run, stages
from fibjax.report import compare_page
from fibjax.studies import compare_methods
from fibjax.volumes.volume import new_volume, open_volume, read_box, write_box

ROOT = Path(__file__).parents[1]


def read(path):
  volume = open_volume(path)
  return read_box(volume, (0, 0, 0), volume.shape)


@pytest.fixture(scope='module')
def compared(tmp_path_factory):
  folder = tmp_path_factory.mktemp('compare') / 'w'
  settings = load(f'{ROOT}/configs/compare.py:tiny', (
      'compare.methods=forest,otsu,morphological_profile',))
  return settings, folder, compare_methods.run_compare(settings, folder)


@pytest.mark.long
def test_every_method_is_measured_on_the_same_regions(compared):
  _, folder, result = compared
  rows = {(row['method'], row['shine_through']): row for row in result['rows']}
  methods = ('truth', 'forest', 'otsu', 'morphological_profile')
  assert set(rows) == {(m, s) for m in methods for s in (0., 1.)}
  # Without pore-backs a threshold is enough; with them it is not, and errs to solid.
  assert rows['otsu', 0.]['miou'] > 0.95 > rows['otsu', 1.]['miou'] + 0.2
  assert rows['forest', 0.]['miou'] > 0.95
  assert result['findings']['1']['thresholds_overestimate_solid']
  for strength in ('0', '1'):
    tables = {(folder / 'runs' / strength / method / 'regions' / 'regions.csv'
               ).read_bytes() for method in methods[1:]}
    assert len(tables) == 1
  truth = read(folder / 'films' / '1' / 'data' / 'HPC30' / 'truth.ome.zarr')
  np.testing.assert_array_equal(
      truth, read(folder / 'films' / '0' / 'data' / 'HPC30' / 'truth.ome.zarr'))
  assert rows['truth', 0.]['z_anisotropy'] == two_point.z_anisotropy(
      truth, (50, 10, 10))
  text = (folder / 'report.html').read_text(encoding='utf-8')
  assert 'random forest' in text and 'morphological profile' in text


@pytest.mark.long
def test_a_second_call_runs_nothing_again(compared, monkeypatch):
  settings, folder, result = compared
  monkeypatch.setattr(concurrent.futures, 'ProcessPoolExecutor', None)
  assert compare_methods.run_compare(settings, folder) == result


ROLES = {'otsu': facts.THRESHOLD, 'forest': facts.FOREST,
         'patch_cnn': facts.NETWORK}


def row(method, strength, miou, manual=0.3, automatic=0.25, best=0.7):
  return {'method': method, 'shine_through': strength, 'miou': miou,
          'per_volume': {'a': {'miou': miou, 'best_threshold': best,
                               'porosity_manual': manual,
                               'porosity_automatic': automatic}}}


def test_findings_are_read_off_the_rows():
  rows = [row('otsu', 0., 0.97), row('forest', 0., 0.96),
          row('otsu', 1., 0.6), row('forest', 1., 0.75), row('patch_cnn', 1., 0.85)]
  found = compare_methods.check_expectations(rows, ROLES)
  assert found['without_pore_backs'] == {'least_miou': 0.96, 'all_near_1': True}
  assert found['1'] == {'thresholds_overestimate_solid': True,
                        'network_ahead_of_forest_by': pytest.approx(0.10),
                        'forest_ahead_of_best_threshold': True}
  worse = compare_methods.check_expectations([
      row('otsu', 0., 0.9), row('otsu', 1., 0.6, automatic=0.4),
      row('forest', 1., 0.69), row('patch_cnn', 1., 0.6)], ROLES)
  assert not worse['without_pore_backs']['all_near_1']
  assert worse['1'] == {'thresholds_overestimate_solid': False,
                        'network_ahead_of_forest_by': pytest.approx(-0.09),
                        'forest_ahead_of_best_threshold': False}


def test_the_table_shows_what_there_is():
  full = row('forest', 1., 0.75) | {
      'accuracy': 0.9, 'z_anisotropy': 0.123, 'seconds_training': 12.3,
      'seconds_per_mvoxel': 3.456, 'peak_gib': 1.2}
  truth = {'method': 'truth', 'shine_through': 1., 'z_anisotropy': -0.01}
  table = compare_page.compare_table([truth, full], {'forest': 'random forest'})
  assert table.rows[0][:4] == ('truth', '1', '–', '–')
  assert table.rows[1] == ('random forest', '1', '0.750', '0.750', '0.900', '5.00',
                           '+0.123', '12', '3.46', '1.20')
  assert sum(width for _, width in table.groups) == len(table.columns)


@pytest.mark.parametrize('scale', [1, 2])
def test_anisotropy_is_that_of_the_material(scale):
  random = np.random.default_rng(0)
  noise = random.normal(size=(100, 160, 160))
  phase = ndimage.gaussian_filter(noise, (1.2 * scale, 6, 6)) > 0
  found = two_point.z_anisotropy(phase, (50., 10., 10.), lags=2)
  # Covariances (2 / pi) asin(rho) / 4 with rho = exp(-r^2 / 4 l^2), r and l in px.
  def covariance(lengths):
    lags = 5 * np.arange(1, 3)
    return np.arcsin(np.exp(-(lags / lengths) ** 2 / 4)).sum()
  expected = covariance(6 * scale) / covariance(6) - 1
  assert found == pytest.approx(expected, abs=0.06)


def test_anisotropy_of_columns_is_a_closed_formula():
  plane = np.random.default_rng(1).random((64, 64)) < 0.3
  columns = np.broadcast_to(plane, (9, 64, 64))
  mean = plane.mean()
  in_plane = np.mean([(plane[k:] & plane[:-k]).mean() - mean ** 2 for k in (2, 4)]
                     + [(plane[:, k:] & plane[:, :-k]).mean() - mean ** 2
                        for k in (2, 4)])
  expected = (mean - mean ** 2 - in_plane) / in_plane
  assert two_point.z_anisotropy(columns, (20, 10, 10), lags=2) == pytest.approx(
      expected, rel=1e-4)
  with pytest.raises(InputError, match='lags'):
    two_point.z_anisotropy(columns, (200, 10, 10))
  with pytest.raises(InputError, match='one phase'):
    two_point.z_anisotropy(np.ones((9, 64, 64)), (20, 10, 10))


@pytest.mark.long
@pytest.mark.parametrize('name', ['otsu', 'level_set'])
def test_a_classical_method_is_a_run(name, tmp_path):
  overrides = (f'model.name={name}', 'data.shape_zyx=16,96,96')
  settings = load(f'{ROOT}/configs/demo.py:tiny', overrides)
  metrics = run.run(settings, tmp_path / 'w')
  labels = read(tmp_path / 'w' / 'segmentation.ome.zarr' / 'HPC30')
  image = read(tmp_path / 'w' / 'prepared.ome.zarr' / 'HPC30')
  np.testing.assert_array_equal(labels, classical.CLASSICAL[name].label(image))
  assert metrics['test']['before'] == metrics['test']['after']
  assert run.evaluate_again(tmp_path / 'w') == metrics
  text = (tmp_path / 'w' / 'report.html').read_text(encoding='utf-8')
  assert 'Neighbourhood sizes' not in text and 'metrics.csv' not in text
  with pytest.raises(InputError, match='a method that is trained'):
    run.train_only(settings, tmp_path / 'w', True)


def test_a_volume_too_large_for_the_memory_is_named(tmp_path, monkeypatch):
  with new_volume(tmp_path / 'v', (3, 8, 8), np.float32, None) as made:
    write_box(made, (0, 0, 0), np.zeros((3, 8, 8), np.float32))
  monkeypatch.setattr(stages, 'device_memory_bytes', lambda: 1000)
  method = registry.make_method(load(f'{ROOT}/configs/demo.py:tiny',
                                     ('model.name=otsu',)))
  with pytest.raises(InputError, match='needed by otsu'):
    stages.label_volume(method, open_volume(tmp_path / 'v'), tmp_path / 'out')


def test_unknown_methods_are_named_before_any_work(tmp_path, capsys):
  status = main.main(['compare', f'--config={ROOT}/configs/compare.py:tiny',
                      '--config.compare.methods=otsu,kmeans',
                      f'--workdir={tmp_path / "w"}'])
  assert status == 2 and 'kmeans' in capsys.readouterr().err
  assert not (tmp_path / 'w').exists()
