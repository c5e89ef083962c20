"""The stage of physical quantities: its box, its files, its place on the page."""
import numpy as np
import pytest

from fibjax.analysis.physics import analyse, central_box, compare
from fibjax.pipeline import measure
from fibjax.report import figures, page
from fibjax.report.physics import physics_figure, physics_table
from fibjax.system import files
from fibjax.system.run_folder import RunFolder
from fibjax.volumes.volume import create_volume, open_volume, write_box
from tests.helpers import NETWORK_FACTS, film, make_run, visible_text

SIZE = (50., 10., 10.)


def store(path, array, size=SIZE):
  volume = create_volume(path, array.shape, array.dtype, size)
  write_box(volume, (0, 0, 0), array)
  return volume


@pytest.mark.parametrize(('shape', 'voxels', 'expected'), [
    ((10, 50, 50), 1e6, ((0, 0, 0), (10, 50, 50))),
    ((100, 500, 500), 25_000, ((45, 225, 225), (55, 275, 275))),  # 500 nm each
    ((4, 500, 500), 4 * 900, ((0, 235, 235), (4, 265, 265)))])  # z is shorter than that
def test_the_box_has_equal_edges_and_at_most_so_many_voxels(shape, voxels, expected):
  assert central_box(shape, SIZE, voxels) == expected


def test_a_volume_is_measured_in_its_box_beside_the_truth(tmp_path):
  truth = film(1, (8, 60, 70))[1]
  said = truth.copy()
  said[:, :20] = 1 - said[:, :20]
  labels, known = store(tmp_path / 'a', said), store(tmp_path / 'b', truth)
  found = measure.analyse_volume(labels, 0.008, known)
  (z, y, x), (zz, yy, xx) = found['start_zyx'], found['stop_zyx']
  assert (zz - z) * (yy - y) * (xx - x) <= 8000
  box = np.s_[z:zz, y:yy, x:xx]
  assert found['found'] == analyse(said[box], SIZE)
  assert found['truth'] == analyse(truth[box], SIZE)
  assert found['comparison'] == compare(found['found'], found['truth'])
  assert 'truth' not in measure.analyse_volume(labels, 0.008)


def test_what_cannot_be_measured_says_why(tmp_path):
  labels = film(1)[1]
  assert 'voxel size' in measure.analyse_volume(
      store(tmp_path / 'a', labels, None), 1.)['undefined']
  assert 'one phase' in measure.analyse_volume(
      store(tmp_path / 'b', np.ones_like(labels)), 1.)['undefined']
  assert 'truth has one phase' in measure.analyse_volume(
      store(tmp_path / 'c', labels), 1., store(tmp_path / 'd', labels * 0))['undefined']
  assert 'thinner' in measure.analyse_volume(
      store(tmp_path / 'e', labels[:2]), 1.)['undefined']


@pytest.mark.long
def test_a_run_is_analysed_once_and_shown(tmp_path):
  folder = make_run(tmp_path / 'w')
  segmentations = {name: open_volume(folder / 'segmentation.ome.zarr' / name)
                   for name in ('HPC22', 'HPC30')}
  truth = store(tmp_path / 'truth', film(0)[1])
  truths = {'HPC22': truth, 'HPC30': None}
  path = RunFolder(folder).analysis
  found = measure.analyse_run(1., segmentations, truths, path)
  marked = found | {'HPC22': found['HPC22'] | {'start_zyx': [1, 1, 1]}}
  files.write_json(path, marked)
  again = measure.analyse_run(1., segmentations, dict.fromkeys(segmentations), path)
  assert again['HPC22']['start_zyx'] == [1, 1, 1]  # a finished volume is kept
  files.write_json(path, found)
  report = page.write_report(folder, NETWORK_FACTS)
  text = visible_text(report.read_text(encoding='utf-8'))
  assert 'Physical quantities of HPC22' in text and 'Pore sizes and S2 of HPC30' in text
  assert (folder / 'figures' / 'physics_2.png').exists()


@pytest.mark.long
def test_the_table_has_the_numbers_and_their_errors(tmp_path):
  truth = film(1, (8, 60, 70))[1]
  content = measure.analyse_volume(store(tmp_path / 'a', 1 - truth), 1.,
                                   store(tmp_path / 'b', truth))
  table = physics_table('A', content)
  rows = {row[0]: row[1:] for row in table.rows}
  phi = float((truth == 0).mean())
  assert rows['porosity'] == (f'{1 - phi:.3f}', f'{phi:.3f}',
                              f'{100 * ((1 - phi) / phi - 1):+.1f}')
  pore, solid = (content['found']['chords'][phase]['z']['corrected_nm']
                 for phase in ('pore', 'solid'))
  assert rows['pore chord along z, nm'][:2] == (f'{pore:.0f}', f'{solid:.0f}')
  assert rows['constrictivity'][0] == f'{content["found"]["constrictivity"]:.2f}'
  assert rows['break-through diameter along x, nm'][1] == (
      f'{content["truth"]["breakthrough_nm"]["x"]:.0f}')
  assert f'{content["truth"]["formation_factor"]["y"]:.2f}' == (
      rows['formation factor along y'][1])
  content['found']['transport']['y']['converged'] = False
  assert 'along y' in physics_table('A', content).note
  for quantities in (content['found'], content['truth']):  # of an earlier version
    del quantities['intrusion'], quantities['geodesic_tortuosity']
  fewer = {row[0] for row in physics_table('A', content).rows}
  assert set(rows) - fewer == {
      'throat size, median, nm',
      *(f'geodesic tortuosity along {axis}' for axis in 'zyx')}
  assert figures.to_png(physics_figure('a$b_$', content))
