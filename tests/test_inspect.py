"""A zoo of broken stacks, each caught by its finding alone, and a clean one."""
import json

import numpy as np
import pytest
import tifffile
from scipy import ndimage

from fibjax.bench import speed
from fibjax.errors import InputError
from fibjax.inspection import findings, inspect, statistics
from fibjax.report import figures
from fibjax.report.inspect_figure import inspect_figure
from fibjax.simulation import films
from fibjax.simulation.artefacts import Artefacts

SHAPE = (14, 256, 288)
KNOWN = {'imagej': True, 'resolution': (1 / 10, 1 / 10),
         'metadata': {'axes': 'ZYX', 'spacing': 50, 'unit': 'nm'}}


@pytest.fixture(scope='module')
def clean():
  """A film without artefacts and pore-backs, which only seem to drift."""
  return films.simulate_film('HPC30', SHAPE, 5, artefacts='none', shine_through=0.0)


@pytest.fixture
def look(tmp_path):
  """Inspects an array written as a TIFF; its report."""
  def inspect_array(array_zyx, options=KNOWN):
    tifffile.imwrite(tmp_path / 'a.tif', array_zyx, **options)
    report = inspect.inspect_stack(tmp_path / 'a.tif')
    json.dumps(report, allow_nan=False)
    assert all(finding['remedy'] and finding['measured'] and finding['where']
               and finding['severity'] in ('error', 'warning', 'note')
               for finding in report['findings'])
    return report
  return inspect_array


def whats(report):
  return [finding['what'] for finding in report['findings']]


def ruin(image_zyx, kind):
  """A copy of a stack with one fault, and the slices it is in (empty: all)."""
  a = 8000 + 0.75 * image_zyx  # room at both ends
  n, height, width = a.shape
  if kind == 'saturated bright':
    a *= 65535 / np.percentile(a, 95)
  elif kind == 'saturated dark':
    a -= np.percentile(a, 2)
  elif kind == 'brightness jump':
    a[8:] += 0.2 * np.ptp(np.percentile(a, (5, 95)))
  elif kind == 'repeated slice':
    a[6] = a[5]
  elif kind == 'nearly repeated slice':
    a[6] = a[5] + np.random.default_rng(1).normal(0, 1500, a[5].shape)
  elif kind == 'jump between slices':
    a = np.concatenate([a[:7], a[7:, ::-1]])  # as good as many slices later
  elif kind == 'shifted slice':
    a[9:] = np.roll(a[9:], (0, 16), (1, 2))
  elif kind == 'gradient along y':
    a += np.linspace(-8000, 8000, height)[:, None]
  elif kind == 'gradient along x':
    a += np.linspace(-8000, 8000, width)
  elif kind == 'stripes along y':
    a += 3000 * np.random.default_rng(2).normal(size=width)
  elif kind == 'lines along x':
    a += 3000 * np.random.default_rng(2).normal(size=height)[:, None]
  elif kind == 'constant slice':
    a[4] = 30000
  elif kind == 'constant border':
    a[:, :, -12:] = 5000
  elif kind == 'small range':
    a *= 0.1
  elif kind == 'flickering brightness':
    a *= 1 + 0.06 * np.random.default_rng(3).uniform(-1, 1, n)[:, None, None]
  elif kind == 'brightness changes along z':
    a += np.linspace(-6000, 6000, n)[:, None, None]
  elif kind == 'outliers':
    a = a / 20
    a[3, 100, 100] = 65000
  return np.clip(np.rint(a), 0, 65535).astype(np.uint16)


ZOO = {'saturated bright': [], 'saturated dark': [], 'brightness jump': [8],
       'repeated slice': [6], 'nearly repeated slice': [6], 'jump between slices': [7],
       'shifted slice': [9], 'gradient along y': [], 'gradient along x': [],
       'stripes along y': [], 'lines along x': [], 'constant slice': [4],
       'constant border': [], 'small range': [], 'flickering brightness': [],
       'brightness changes along z': []}


def test_a_clean_film_has_no_finding(clean, look):
  report = look(clean.image_zyx)
  assert report['findings'] == []
  assert report['shape_zyx'] == list(SHAPE) and report['dtype'] == 'uint16'
  assert report['voxel_size_zyx_nm'] == [50, 10, 10]
  assert report['voxel_size_from'] == 'ImageJ tags'
  np.testing.assert_allclose(report['size_zyx_um'], (0.7, 2.56, 2.88))
  assert report['labels'] is None and report['bytes'] == clean.image_zyx.nbytes


@pytest.mark.parametrize('kind', ZOO)
def test_each_fault_is_found_alone_and_in_its_place(clean, look, kind):
  report = look(ruin(clean.image_zyx, kind))
  assert whats(report) == [kind]
  assert report['findings'][0]['z'] == ZOO[kind]


@pytest.mark.parametrize('preset', ['HPC22', 'HPC30', 'HPC45', 'MEM80'])
@pytest.mark.parametrize('seed', [1, 2])
def test_a_film_without_artefacts_has_at_most_what_pore_backs_do(preset, seed, look):
  film = films.simulate_film(preset, (10, 192, 224), seed, artefacts='none')
  assert set(whats(look(film.image_zyx))) <= {'steady drift', 'saturated bright'}


def test_artefacts_of_the_simulator_are_measured_as_drawn(look):
  strong = Artefacts(gradient=0.3, curtain=0.1, gain=0.02)
  film, bare = (films.simulate_film('HPC30', (8, 320, 320), 2, artefacts=drawn,
                                    shine_through=0.0) for drawn in (strong, 'none'))
  report, without = look(film.image_zyx), look(bare.image_zyx)
  assert {'gradient along y', 'stripes along y', 'flickering brightness'} <= set(
      whats(report))
  counts = 0.3 * films.PRESETS['HPC30'].imaging.counts_per_unit
  change = report['gradient']['y']['change'] - without['gradient']['y']['change']
  np.testing.assert_allclose(change, counts, rtol=0.1)


def test_drift_of_the_simulator_is_recovered(look):
  film = films.simulate_film('HPC30', (14, 256, 256), 4, shine_through=0.0,
                             artefacts=Artefacts(drift_px=5.0))
  report = look(film.image_zyx)
  assert 'slices not aligned' in whats(report)
  # The frame moves one way, the content the other.
  drawn = -np.array(film.meta['drawn']['shift_yx_px'], float)
  found = np.array(report['slices']['drift_yx_px'], float)
  steps = np.diff(drawn, axis=0) - np.diff(found, axis=0)
  assert np.sqrt((steps ** 2).mean()) < 1.5


def test_pore_backs_move_against_the_slices(look):
  film = films.simulate_film('HPC45', (12, 256, 256), 5, artefacts='none')
  finding, = (f for f in look(film.image_zyx)['findings'])
  assert finding['what'] == 'steady drift' and finding['severity'] == 'note'


def test_unknown_voxel_size_and_one_that_cannot_be(clean, look):
  assert whats(look(clean.image_zyx, {})) == ['unknown voxel size']
  micrometres = KNOWN | {'metadata': {'axes': 'ZYX', 'spacing': 50, 'unit': 'um'}}
  assert whats(look(clean.image_zyx, micrometres)) == ['implausible voxel size']
  oblong = KNOWN | {'resolution': (1 / 10, 1 / 12)}
  assert whats(look(clean.image_zyx, oblong)) == ['pixels not square']


def test_one_slice(clean, look):
  report = look(clean.image_zyx[:1])
  assert whats(report) == ['single slice']
  assert report['slices']['correlation'] == [None]


@pytest.mark.parametrize('codes, profile', [((0, 255), 'fiji'), ((0, 1, 2), 'napari')])
def test_a_label_volume_is_no_image(clean, look, codes, profile):
  truth = clean.truth_zyx.copy()
  if len(codes) == 3:
    truth = truth + np.uint8(1)
    truth[:, :20] = 0
  else:
    truth = truth * np.uint8(255)
  report = look(truth)
  assert whats(report) == ['label volume']
  assert profile in report['labels']['profiles'] and report['needs'] is None
  shares = {str(c): float(np.mean(truth == c)) for c in codes}
  assert report['labels']['codes'] == pytest.approx(shares)
  assert f'--profile={profile}' in report['findings'][0]['remedy'] or len(codes) == 3


def test_unknown_label_codes_fit_no_profile(look):
  codes = np.random.default_rng(0).choice([3, 7], (3, 20, 30)).astype(np.uint8)
  report = look(codes)
  assert report['labels']['profiles'] == [] and 'label volume' in whats(report)


def test_floats_with_outliers_and_without_finite_values(clean, look):
  floats = (clean.image_zyx / 65535).astype(np.float32)
  assert whats(look(floats)) == []
  floats[3, 100, 100] = 1e4
  report = look(floats)
  assert whats(report) == ['outliers'] and report['grey']['high'] == 1e4
  floats[3, 100, 100] = 0.5
  floats[5, 10:12, 10:12] = np.nan
  floats[6, 0, 0] = np.inf
  finding, = look(floats)['findings']
  assert (finding['what'], finding['z']) == ('values not finite', [5, 6])
  assert finding['measured'].startswith('5 ')
  report = look(np.full((2, 8, 9), np.nan, np.float32))
  assert whats(report) == ['values not finite'] and report['grey'] is None
  assert whats(look(floats[:5] * 300)) == ['grey values outside 0 to 1']


def test_outliers_of_integers(clean, look):
  assert whats(look(ruin(clean.image_zyx, 'outliers'))) == ['outliers', 'small range']


@pytest.mark.parametrize('shape', [(1, 1, 1), (3, 1, 5), (2, 5, 1), (5, 7, 9)])
def test_tiny_and_constant_stacks_are_survived(look, shape):
  options = {'photometric': 'minisblack'}
  assert 'constant slice' in whats(look(np.full(shape, 7, np.uint8), options))
  noise = np.random.default_rng(0).integers(0, 255, shape)
  look(noise.astype(np.uint8), options)


def test_grey_values_are_those_of_numpy(clean, look):
  image = clean.image_zyx[:4].copy()
  image[:, :3] = 65535
  image[:, 3, :2] = 0
  grey = look(image)['grey']
  inner = image[:, 3:]  # the constant rows are a border, not grey values
  assert (grey['low'], grey['high']) == (0, inner.max())
  assert grey['share_dtype_low'] == pytest.approx(np.mean(inner == 0))
  assert grey['share_dtype_high'] == 0
  for q, value in grey['percentiles'].items():
    assert abs(np.mean(inner <= value) - float(q) / 100) < 0.01


@pytest.mark.parametrize('moved', [(0, 0), (6, -4), (-11, 9)])
def test_shifts_have_the_sign_and_size_of_the_content(moved):
  random = np.random.default_rng(0)
  large = ndimage.gaussian_filter(random.normal(size=(400, 430)), 4)
  y, x = moved
  first = large[50:250, 50:300]
  second = large[50 - y:250 - y, 50 - x:300 - x]  # its content lies y, x further
  found = statistics.measure((2, *first.shape), lambda z: (first, second)[z])
  np.testing.assert_allclose(found.shift_zk[1], moved, atol=0.3)
  assert found.correlation_z[1] > 0.95


def test_stripe_energy_is_that_of_the_stripes_added():
  random = np.random.default_rng(0)
  shape = (6, 512, 512)
  noise = ndimage.gaussian_filter(random.normal(size=shape), (0, 5, 5))
  noise /= noise.std()
  stripes = ndimage.gaussian_filter1d(random.normal(size=512), 2)
  stripes *= 0.2 / stripes.std()
  found = statistics.measure(shape, lambda z: noise[z] + stripes)
  without = statistics.measure(shape, lambda z: noise[z])
  np.testing.assert_allclose(np.sqrt(found.stripes[0]), 0.2, rtol=0.1)
  assert abs(without.stripes[0]) < 3 * without.stripes[1]
  assert found.stripes[0] > 3 * found.stripes[1]
  turned = statistics.measure(shape, lambda z: (noise[z] + stripes).T)
  assert turned.lines == pytest.approx(found.stripes)


def test_a_move_where_slices_are_lost_is_no_shift(clean):
  found = statistics.measure(SHAPE, clean.image_zyx.__getitem__)
  facts = findings.Facts(SHAPE, np.dtype(np.uint16), (50., 10., 10.), ['a'] * 14)
  found.shift_zk[7] = 30, 0
  assert [(f['what'], f['z']) for f in findings.judge(found, facts, None)] == [
      ('shifted slice', [7])]
  found.repeats_z[6] = 5
  assert [(f['what'], f['z']) for f in findings.judge(found, facts, None)] == [
      ('repeated slice', [6])]


def test_every_slice_is_read_once_and_few_are_held(clean):
  reads = []
  image = clean.image_zyx
  statistics.measure(image.shape, lambda z: reads.append(z) or image[z])
  assert reads == list(range(len(image)))
  found = statistics.measure(image.shape, image.__getitem__, sample_size=1400)
  assert found.grey_n.size <= 100 * len(image)


def test_needs_are_counted(clean, look, monkeypatch):
  needs = look(clean.image_zyx)['needs']
  voxels = clean.image_zyx.size
  assert needs['disk_total_bytes'] == voxels * (2 + 4 + 4 + 1 + 2)
  assert needs['time_s'] is None
  timed = inspect.estimate_needs(SHAPE, np.uint8, us_per_voxel=3.5)
  assert timed['time_s'] == pytest.approx(voxels * 3.5e-6)
  needs |= {'disk_free_bytes': 10, 'memory_here_gb': 1.0}
  facts = findings.Facts(SHAPE, np.dtype(np.uint16), (50., 10., 10.), ['a'] * 14)
  found = statistics.measure(SHAPE, clean.image_zyx.__getitem__)
  assert [f['what'] for f in findings.judge(found, facts, needs)] == [
      'not enough disk', 'not enough memory']


@pytest.mark.long
def test_speed_is_measured():
  assert 0 < speed.measure_us_per_voxel() < 1e3


def test_cuts_are_planes_of_the_stack(clean, tmp_path):
  tifffile.imwrite(tmp_path / 'a.tif', clean.image_zyx)
  cuts = inspect.cuts(tmp_path / 'a.tif')
  z, y, x = cuts.at_zyx
  assert (z, y, x) == (7, 128, 144)
  np.testing.assert_array_equal(cuts.xy, clean.image_zyx[z])
  np.testing.assert_array_equal(cuts.xz, clean.image_zyx[:, y])
  np.testing.assert_array_equal(cuts.yz, clean.image_zyx[:, :, x])


@pytest.mark.parametrize('options', [KNOWN, {}])
@pytest.mark.parametrize('depth', [1, 14])
def test_the_picture_is_to_scale(clean, look, tmp_path, options, depth):
  image = ruin(clean.image_zyx, 'brightness jump')[-depth:]
  report = look(image, options)
  figure = inspect_figure(report, inspect.cuts(tmp_path / 'a.tif'))
  assert figures.to_png(figure).startswith(b'\x89PNG')
  panels = [ax for part in figure.subfigs for ax in part.axes]
  assert len(panels) == 7
  size = (50, 10, 10) if options else (1000, 1000, 1000)  # voxels for micrometres
  for ax, axes in zip(panels[:3], ((2, 1), (0, 1), (2, 0)), strict=True):
    width, height = (image.shape[k] * size[k] / 1000 for k in axes)
    left, right, bottom, top = ax.images[0].get_extent()
    np.testing.assert_allclose((right - left, bottom - top), (width, height))
    assert ax.get_aspect() == 1
    box = ax.get_window_extent()
    np.testing.assert_allclose(box.width / box.height, width / height, rtol=0.02)


def test_a_source_that_is_not_there_is_named(tmp_path):
  with pytest.raises(InputError, match='nowhere'):
    inspect.inspect_stack(tmp_path / 'nowhere')
