"""The forest through the whole run: same regions, resumed stages, another volume."""
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from fibjax.config import load
from fibjax.errors import InputError
from fibjax.methods import forest_method, registry
from fibjax.pipeline import run, segmenter
from fibjax.system.run_folder import RunFolder
from fibjax.volumes.volume import open_volume, read_box

ROOT = Path(__file__).parents[1]
SMALL = ('model.name=forest', 'data.shape_zyx=36,96,96', 'forest.trees=10',
         'forest.min_leaves=5,50', 'train.voxel_fraction=0.3')


@pytest.fixture(scope='module')
def done(tmp_path_factory):
  settings = load(f'{ROOT}/configs/demo.py:tiny', SMALL)
  folder = tmp_path_factory.mktemp('forest') / 'w'
  return settings, folder, run.run(settings, folder)


def read(path):
  volume = open_volume(path)
  return read_box(volume, (0, 0, 0), volume.shape)


@pytest.mark.long
def test_a_forest_does_the_whole_job(done):
  settings, folder, metrics = done
  assert metrics['test']['after']['miou'] > 0.6
  rows = json.loads((folder / 'forest.json').read_text())
  assert [row['min_leaf'] for row in rows] == [5, 50]
  scores = read(folder / 'scores.ome.zarr' / 'HPC30')
  assert scores.shape == (36, 96, 96) and 0 <= scores.min() < scores.max() <= 1
  text = (folder / 'report.html').read_text(encoding='utf-8')
  assert '10 trees, features F1' in text and 'Smallest leaf' in text
  assert 'Neighbourhood sizes' not in text


@pytest.mark.long
def test_what_is_finished_is_not_made_again(done, tmp_path, monkeypatch):
  settings, folder, metrics = done
  again = tmp_path / 'w'
  shutil.copytree(folder, again)
  for name in ('scores.ome.zarr', 'segmentation.ome.zarr', 'metrics.json',
               'postprocess.json'):
    path = again / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
  monkeypatch.setattr(forest_method, 'fit_forest', None)
  assert run.run(settings, again) == metrics
  np.testing.assert_array_equal(*(read(w / 'scores.ome.zarr' / 'HPC30')
                                  for w in (folder, again)))
  with pytest.raises(InputError, match='--resume'):
    run.train_only(settings, again, False)


@pytest.mark.long
def test_another_volume_is_segmented_alike(done, tmp_path):
  settings, folder, _ = done
  out = segmenter.segment_other(folder, folder / 'data' / 'HPC30' / 'raw.ome.zarr',
                                tmp_path / 'out', 'auto')
  np.testing.assert_array_equal(read(out), read(folder / 'segmentation.ome.zarr'
                                                / 'HPC30'))


def test_a_workdir_without_a_forest_is_named(tmp_path):
  settings = load(f'{ROOT}/configs/demo.py:tiny', SMALL)
  with pytest.raises(InputError, match='no forest'):
    registry.make_method(settings).open(RunFolder(tmp_path), 'auto')


@pytest.mark.parametrize('override', ['forest.features=F4', 'forest.trees=0',
                                      'forest.min_leaves=0,5'])
def test_settings_of_a_forest_are_checked(override):
  with pytest.raises(InputError, match=override.split('=')[0]):
    load(f'{ROOT}/configs/demo.py:tiny', (override,))
