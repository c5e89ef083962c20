import json
from pathlib import Path

import jax
import numpy as np
import pytest
from scipy import ndimage

from fibjax import models
from fibjax.annotation.regions import make_regions
from fibjax.config import from_dict, load, to_dict
from fibjax.errors import InputError
from fibjax.evaluation import region_scores
from fibjax.inference.network_scorer import CHANNELS, network_scorer
from fibjax.inference.score import score_volume
from fibjax.metrics import calibration
from fibjax.pipeline import segmenter
from fibjax.studies import ensemble
from fibjax.volumes.volume import new_volume, open_volume, read_box, write_box

ROOT = Path(__file__).parents[1]


def make(n_xy, n_z, seed, padding='context'):
  model = models.make_model({'name': 'patch_cnn', 'n_xy': n_xy, 'n_z': n_z,
                             'padding': padding, 'standardise': True})
  params = model.init(jax.random.key(seed))
  keys = iter(jax.random.split(jax.random.key(seed + 100), 99))
  return model, jax.tree.map(
      lambda p: 1.5 * p + 0.02 * jax.random.normal(next(keys), p.shape), params)


@pytest.fixture(scope='module')
def film(tmp_path_factory):
  array = np.random.default_rng(0).random((3, 40, 28), np.float32)
  path = tmp_path_factory.mktemp('film') / 'v'
  with new_volume(path, array.shape, np.float32, (50., 10., 10.)) as made:
    write_box(made, (0, 0, 0), array)
  return array, open_volume(path)


def score(pairs, film, out, dihedral=False, **options):
  scorer = network_scorer(*zip(*pairs, strict=True), dihedral=dihedral, **options)
  found = score_volume(scorer, film, out)
  return read_box(found, (0, 0, 0), found.shape, channel=None)


@pytest.mark.long
def test_channels_are_those_of_the_members_alone(film, tmp_path):
  _, volume = film
  pairs = [make(33, 1, 0), make(49, 3, 1), make(33, 1, 2)]
  alone = [score([pair], volume, tmp_path / f's{k}') for k, pair in enumerate(pairs)]
  found = score(pairs, volume, tmp_path / 'all')
  assert open_volume(tmp_path / 'all').channels == CHANNELS
  expected = calibration.predictive(np.stack(alone))
  assert np.ptp(expected.mean) > 0.01 and expected.mutual_information.max() > 1e-4
  for channel, values in zip(found, expected, strict=True):
    np.testing.assert_allclose(channel, values, atol=2e-6)
  tiles = score(pairs, volume, tmp_path / 'tiles', tile_px=64)
  np.testing.assert_array_equal(tiles, found)


@pytest.mark.long
@pytest.mark.parametrize('padding, n_xy', [('context', 33), ('same', 33)])
def test_dihedral_scores_do_not_know_the_orientation(film, tmp_path, padding, n_xy):
  array, volume = film
  pair = [make(n_xy, 1, 0, padding)]
  found = score(pair, volume, tmp_path / 'as_it_is', dihedral=True)
  plain = score(pair, volume, tmp_path / 'plain')
  assert abs(found - plain).max() > 1e-4
  for name, turn in (('flip', lambda a: a[:, ::-1]), ('mirror', lambda a: a[..., ::-1]),
                     ('turn', lambda a: a.swapaxes(1, 2))):
    turned = np.ascontiguousarray(turn(array))
    with new_volume(tmp_path / name, turned.shape, np.float32, None) as made:
      write_box(made, (0, 0, 0), turned)
    again = score(pair, open_volume(tmp_path / name), tmp_path / f'{name}.s',
                  dihedral=True)
    np.testing.assert_allclose(again, turn(found), atol=1e-5)


@pytest.mark.long
def test_a_mean_of_turned_patches_voxel_by_voxel(film, tmp_path):
  array, volume = film
  model, params = make(33, 1, 0)
  found = score([(model, params)], volume, tmp_path / 's', dihedral=True)
  margin = model.before_px
  padded = np.pad(array, ((0, 0), (margin, margin), (margin, margin)), 'reflect')
  for z, y, x in ((0, 0, 0), (1, 20, 27), (2, 39, 5)):
    square = padded[z, y:y + 2 * margin + 1, x:x + 2 * margin + 1]
    turned = [np.rot90(s, k) for s in (square, square.T) for k in range(4)]
    windows = np.stack(turned)[:, :model.window_px, :model.window_px, None]
    expected = jax.nn.sigmoid(model.apply(params, windows)).mean()
    assert found[z, y, x] == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.long
@pytest.mark.parametrize('dihedral', [False, True])
def test_region_scores_are_those_of_the_volume(film, tmp_path, dihedral):
  _, volume = film
  pairs = [make(33, 1, 0), make(33, 3, 1, 'same')]
  alone = [score([pair], volume, tmp_path / f's{k}', dihedral)
           for k, pair in enumerate(pairs)]
  regions = make_regions(
      ('v', 'v'), [(1, 5, 4), (2, 9, 3)], [np.zeros((16, 12), np.uint8)] * 2,
      ['val', 'val'])
  found = region_scores.score_regions(
      [network_scorer([model], [params], dihedral=dihedral)
       for model, params in pairs], {'v': volume}, regions, 3)
  for k, scores_zyx in enumerate(alone):
    np.testing.assert_allclose(found[k, 0], scores_zyx[1, 2:24, 1:19], atol=1e-5)
    np.testing.assert_allclose(found[k, 1], scores_zyx[2, 6:28, 0:18], atol=1e-5)


@pytest.fixture(scope='module')
def done(tmp_path_factory):
  folder = tmp_path_factory.mktemp('ensemble') / 'w'
  settings = load(f'{ROOT}/configs/demo.py:ensemble_tiny')
  return settings, folder, ensemble.run_ensemble(settings, folder)


@pytest.mark.long
def test_an_ensemble_does_the_whole_job(done):
  settings, folder, results = done
  assert len(results['members']) == settings.ensemble.top == 2
  for key in ('miou_after', 'ece', 'brier', 'temperature'):
    values = [member[key] for member in results['members']]
    assert results['mean_member'][key] == pytest.approx(np.mean(values))
  # Of mean probabilities, the Brier score is never above the members' mean (Jensen).
  assert results['ensemble']['brier'] <= results['mean_member']['brier'] + 1e-9
  metrics = json.loads((folder / 'metrics.json').read_text())
  # Post-processing of whole slices and of regions with their margin: nearly the same.
  assert metrics['test']['before']['miou'] == pytest.approx(
      results['ensemble']['miou_before'], abs=1e-3)
  scores = open_volume(folder / 'scores.ome.zarr' / 'HPC30')
  assert scores.channels == CHANNELS
  porosity = json.loads((folder / 'porosity.json').read_text())['HPC30']
  assert porosity['volume']['low'] <= porosity['estimate'] <= porosity['volume']['high']
  assert porosity['material']['sd'] > porosity['volume']['sd']
  assert 'Reliability' in (folder / 'report.html').read_text()


@pytest.mark.long
def test_a_second_call_makes_nothing_anew(done):
  settings, folder, results = done
  stamps = {p: p.stat().st_mtime_ns for p in folder.rglob('*.json')
            if 'report' not in p.name}
  assert ensemble.run_ensemble(settings, folder) == results
  assert {p: p.stat().st_mtime_ns for p in stamps} == stamps


@pytest.mark.long
def test_an_ensemble_segments_another_volume_as_its_own(done, tmp_path):
  _, folder, _ = done
  out = segmenter.segment_other(folder, folder / 'data' / 'HPC30' / 'raw.ome.zarr',
                                tmp_path / 'out', 'auto')
  found, own = (open_volume(path) for path in
                (out, folder / 'segmentation.ome.zarr' / 'HPC30'))
  np.testing.assert_array_equal(*(read_box(v, (0, 0, 0), v.shape)
                                  for v in (found, own)))


@pytest.mark.long
def test_more_members_than_there_are_is_an_error(done, tmp_path):
  settings, _, _ = done
  few = from_dict(to_dict(settings))
  few.ensemble.top = 3
  with pytest.raises(InputError, match='config.ensemble.top: got 3, expected at most'):
    ensemble.run_ensemble(few, tmp_path / 'w')
  # A mistake that shows late costs no training.
  assert len(list((tmp_path / 'w').glob('sweep/groups/*/*/members.json'))) == 1


@pytest.mark.long
def test_the_coverage_of_its_intervals_is_counted(done, tmp_path, capsys):
  from fibjax.cli import main
  _, folder, _ = done
  out = tmp_path / 'coverage.json'
  command = ['coverage', f'--workdir={folder}', '--shape=8,80,80', '--films=2',
             '--presets=HPC30,HPC45', '--draws=8', f'--out={out}']
  assert main.main(command) == 0
  printed = json.loads(capsys.readouterr().out)
  found = json.loads(out.read_text())
  assert [row['preset'] for row in found['films']] == ['HPC30', 'HPC45']
  assert 0 <= printed['porosity']['covered'] <= 1
  assert main.main(['coverage', f'--workdir={tmp_path}', f'--out={out}']) == 2


def test_sampling_of_a_part_is_scaled_to_the_whole(tmp_path):
  noise = np.random.default_rng(0).normal(size=(16, 160, 160))
  labels = (ndimage.gaussian_filter(noise, 1.5) > 0).astype(np.uint8)
  with new_volume(tmp_path / 'v', labels.shape, np.uint8, None) as made:
    write_box(made, (0, 0, 0), labels)
  volume = open_volume(tmp_path / 'v')
  whole = ensemble.sampling_error(volume).sd
  part = ensemble.sampling_error(volume, labels.size // 4).sd
  assert part != whole and part == pytest.approx(whole, rel=0.25)
