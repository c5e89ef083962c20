"""The whole analysis: plain JSON, two samplings of one body, errors by hand."""
import json

import numpy as np
import pytest

from fibjax.analysis import (
  chords,
  cluster_function,
  geodesic,
  intrusion,
  physics,
  pore_size,
  transport,
)
from fibjax.errors import InputError
from fibjax.pipeline import measure
from fibjax.simulation import structure
from fibjax.simulation.fields import Spectrum

FINE, COARSE = (10., 10., 10.), (50., 10., 10.)


@pytest.fixture(scope='module')
def body():
  return structure.whole(structure.level_cut(
      (100, 100, 100), Spectrum(length_px=10.), 0.6, 4)).astype(np.uint8)


@pytest.fixture(scope='module')
def fine(body):
  return physics.analyse(body, FINE)


def test_analysis_is_plain_json_of_what_the_parts_give(body, fine):
  assert json.loads(json.dumps(fine, allow_nan=False)) == fine
  assert fine['shape_zyx'] == [100, 100, 100] and fine['voxel_size_zyx_nm'] == [10] * 3
  assert fine['porosity'] == pytest.approx((body == 0).mean())
  sizes = pore_size.pore_sizes(body, FINE)
  assert fine['pore_size']['mean_nm'] == pore_size.mean_diameter(sizes)
  assert fine['pore_size']['p90_nm'] == pore_size.diameter_quantile(sizes, 0.9)
  solid = chords.find_chords(body, FINE, 'solid')['y']
  row = fine['chords']['solid']['y']
  assert (row['corrected_nm'], row['share_beyond']) == chords.mean_corrected(solid)
  assert row['mean_nm'] == chords.mean_inside(solid)
  flow = transport.effective_diffusivity(body, FINE, 'x')
  assert fine['transport']['x'] == flow._asdict()
  assert fine['formation_factor']['x'] == 1 / flow.relative_diffusivity
  throats = intrusion.intrusion(body, FINE)
  assert fine['intrusion'] == {
      'diameter_nm': throats.diameter_k.tolist(), 'share': throats.share_k.tolist(),
      'median_nm': intrusion.median_diameter(throats)}
  assert fine['constrictivity'] == intrusion.constrictivity(throats, sizes)
  assert fine['breakthrough_nm'] == intrusion.breakthrough_diameters(body, FINE)
  assert fine['geodesic_tortuosity'] == geodesic.geodesic_tortuosity(body, FINE)
  clusters = cluster_function.c2_curves(body, FINE)['y']
  assert fine['c2']['y'] == {'lag_nm': clusters.lag_nm.tolist(),
                             'c2': clusters.c2.tolist()}
  assert fine['s2']['z']['s2'][0] == pytest.approx(fine['porosity'])
  pore = body == 0
  assert physics.numbers(fine)['s2.y.100_nm'] == pytest.approx(
      (pore[:, 10:] & pore[:, :-10]).mean())
  assert np.mean(fine['profile']['x']['porosity']) == pytest.approx(fine['porosity'])


def test_two_samplings_of_one_body_agree(body, fine):
  coarse = physics.analyse(body[2::5], COARSE, flow_axes='z')
  found = physics.compare(coarse, fine)
  # Slices 50 nm apart, structures of 250 nm and more: within these of 10 nm ones.
  # Diffusivity is the first to suffer, as necks are cut by the steps; the widest ball
  # that passes hangs on a single neck.
  limits = {'porosity': 0.002, 'pore_size': 0.03, 'intrusion': 0.05,
            'constrictivity': 0.08, 'breakthrough_nm': 0.15, 'chords': 0.06,
            'specific_surface': 0.03, 'percolation': 0.001, 'euler_per_um3': 0.25,
            'geodesic_tortuosity': 0.02, 'transport': 0.1, 'formation_factor': 0.1,
            's2': 0.02}
  errors = {name: row['relative_error'] for name, row in found['quantities'].items()}
  for name, error in errors.items():
    assert abs(error) < limits[name.split('.')[0]], name
  assert {name.split('.')[0] for name in errors} == set(limits)
  assert 'transport.z.tortuosity' in errors and 'transport.x.tortuosity' not in errors
  assert found['pore_size_distance_nm'] < 0.03 * fine['pore_size']['mean_nm']
  json.dumps(found, allow_nan=False)


def test_thinner_solid_shows_in_every_number(body, fine):
  eaten = body & np.roll(body, 1, 2)
  found = physics.compare(physics.analyse(eaten, FINE, flow_axes=''), fine)
  for name in ('porosity', 'pore_size.mean_nm', 'chords.pore.x'):
    assert found['quantities'][name]['relative_error'] > 0.02
  assert found['quantities']['chords.solid.x']['relative_error'] < -0.02
  assert found['pore_size_distance_nm'] > 5


def test_errors_by_hand():
  row = physics.analyse(np.indices((6, 6, 6)).sum(0) % 2, FINE, flow_axes='z')
  # A chequerboard of single voxels: nothing spans it, no chord but of one voxel.
  assert row['transport']['z']['relative_diffusivity'] == 0
  assert row['transport']['z']['tortuosity'] is None
  assert row['formation_factor'] == {'z': None}
  nowhere = {'z': None, 'y': None, 'x': None}
  assert row['geodesic_tortuosity'] == row['breakthrough_nm'] == nowhere
  assert row['intrusion']['median_nm'] == pytest.approx(20)  # the outer layer is most
  assert row['pore_size']['mean_nm'] == pytest.approx(20)
  other = json.loads(json.dumps(row))
  other['porosity'], other['euler_per_um3'] = 0.4, -2 * row['euler_per_um3']
  other['pore_size']['diameter_nm'] = [25.]
  found = physics.compare(row, other)
  assert found['quantities']['porosity'] == {
      'found': 0.5, 'truth': 0.4, 'relative_error': pytest.approx(0.25)}
  sign = np.sign(row['euler_per_um3'])
  assert found['quantities']['euler_per_um3']['relative_error'] == sign * 1.5
  assert found['quantities']['transport.z.tortuosity']['relative_error'] is None
  assert found['quantities']['percolation.z']['relative_error'] is None
  assert found['pore_size_distance_nm'] == pytest.approx(5)


def test_permeability_is_measured_on_demand():
  slit = np.ones((4, 12, 4), np.uint8)
  slit[:, 2:10] = 0
  assert 'permeability' not in physics.analyse(slit, FINE, flow_axes='')
  found = physics.analyse(slit, FINE, flow_axes='', stokes_axes='x')
  width = 8 * FINE[1]
  assert found['permeability']['x']['permeability_nm2'] == pytest.approx(
      2 / 3 * width ** 2 / 12 * (1 + 2 / 8 ** 2), rel=1e-3)  # on 8 voxels
  assert physics.numbers(found)['permeability.x.permeability_nm2'] > 0
  with pytest.raises(InputError, match='z, y or x'):
    physics.analyse(slit, FINE, flow_axes='', stokes_axes='w')


def test_one_phase_is_refused():
  with pytest.raises(InputError, match='one phase'):
    physics.analyse(np.zeros((5, 5, 5), np.uint8), FINE)
  with pytest.raises(InputError, match='z, y or x'):
    physics.analyse(np.indices((4, 4, 4)).sum(0) % 2, FINE, flow_axes='w')


def test_measure_is_the_analysis_of_the_central_box(body):
  size = COARSE
  got = measure.measure(body, size, mvoxel=0.05, flow_axes='z', tolerance=0.1)
  start, stop = physics.central_box(body.shape, size, 0.05e6)
  assert got.pop('start_zyx') == list(start) and got.pop('stop_zyx') == list(stop)
  box_zyx = body[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
  assert box_zyx.size <= 0.05e6 < body.size
  assert got == physics.analyse(box_zyx, size, flow_axes='z', tolerance=0.1)
  small = body[:10, :12, :14]
  whole = measure.measure(small, size, mvoxel=None, flow_axes='')
  assert whole['shape_zyx'] == [10, 12, 14] and whole['stop_zyx'] == [10, 12, 14]
  assert measure.measure(small == 1, size, flow_axes='') == whole  # bool labels


@pytest.mark.parametrize(('labels', 'options', 'match'), [
    (np.eye(5, dtype=np.uint8), {}, 'shape'),
    (np.full((5, 5, 5), 0.5), {}, 'dtype float64'),
    (np.full((5, 5, 5), np.nan, np.float32), {}, 'dtype float32'),
    (np.full((5, 5, 5), 255, np.uint8), {}, 'codes other than 0 and 1'),
    (np.full((5, 5, 5), -1), {}, 'codes other than 0 and 1'),
    (np.zeros((0, 5, 5), int), {}, 'no voxel'),
    (np.zeros((5, 5, 5), int), {}, 'one phase only'),
    (np.ones((5, 5, 5), int), {}, 'one phase only'),
    (np.indices((2, 5, 5)).sum(0) % 2, {}, 'at least 3 voxels'),
    (np.indices((5, 5, 5)).sum(0) % 2, {'mvoxel': 0}, 'mvoxel: got 0'),
    (np.indices((5, 5, 5)).sum(0) % 2, {'mvoxel': -1.}, 'mvoxel'),
    (np.indices((5, 5, 5)).sum(0) % 2, {'flow_axes': 'zq'}, 'z, y or x'),
    (np.indices((5, 5, 5)).sum(0) % 2, {'voxel_size_zyx_nm': None}, 'no voxel size'),
    (np.indices((5, 5, 5)).sum(0) % 2, {'voxel_size_zyx_nm': (50, 10)}, 'voxel size'),
    (np.indices((5, 5, 5)).sum(0) % 2, {'voxel_size_zyx_nm': 10.}, 'voxel size')])
def test_measure_refuses_bad_arrays(labels, options, match):
  with pytest.raises(InputError, match=match):
    measure.measure(labels, **{'voxel_size_zyx_nm': FINE, **options})


def test_measure_refuses_a_box_of_one_phase_in_a_volume_of_two():
  labels = np.zeros((40, 40, 40), np.uint8)
  labels[0] = 1
  with pytest.raises(InputError, match='one phase only'):
    measure.measure(labels, FINE, mvoxel=0.001)
