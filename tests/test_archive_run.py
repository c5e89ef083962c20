"""From the published archive's layout to the report, with a training and without."""
import numpy as np
import pytest

from fibjax import config, models
from fibjax.annotation.regions import load_regions
from fibjax.errors import InputError
from fibjax.methods.registry import make_method
from fibjax.pipeline import run
from fibjax.report import sources
from fibjax.system.run_folder import RunFolder
from fibjax.training import stored
from tests import tiny_archive
from tests.helpers import ROOT

NAMES = ['HPC22', 'HPC30', 'HPC45']


@pytest.fixture(scope='module')
def archive(tmp_path_factory):
  folder = tmp_path_factory.mktemp('archive')
  tiny_archive.build(folder, shape=(6, 64, 72), squares=10, side=24)
  return folder


def load(archive, *more):
  return config.load(f'{ROOT}/configs/skarberg2021.py:tiny', (
      'data.source=zenodo', f'data.root={archive}', 'split.mode=table', *more))


@pytest.mark.long
def test_the_archive_goes_to_every_table_and_figure_of_the_paper(archive, tmp_path):
  folder = tmp_path / 'w'
  metrics = run.run(load(archive, 'analyse.mvoxel=0'), folder)
  assert sorted(metrics['per_volume']) == NAMES
  regions = load_regions(folder / 'regions')
  assert [regions.split.count(s) for s in ('train', 'val', 'test')] == [18, 6, 6]
  text = (folder / 'tables.md').read_text(encoding='utf-8')
  for table in ('Table 1', 'Table 2', 'Table 3'):
    assert table in text, table
  assert '20.42' in text and '42.20' in text  # the published manual porosities
  drawn = {path.stem for path in (folder / 'figures').iterdir()}
  assert {'neighbourhoods', 'curves', 'regions', 'slice_1', 'porosities'} <= drawn
  assert (folder / 'report.html').exists()


@pytest.mark.long
def test_the_authors_weights_serve_without_a_training(archive, tmp_path):
  settings = load(archive, 'train.weights=archive', 'analyse.mvoxel=0')
  model = models.make_model(settings.model)
  random = np.random.default_rng(0)
  params = {layer: {name: random.normal(0, 0.1, value.shape).astype(np.float32)
                    for name, value in part.items()}
            for layer, part in models.empty_params(model).items() if 'kernel' in part}
  file = archive / 'model' / 'model_33_1' / 'model.h5'
  file.parent.mkdir(parents=True)
  tiny_archive.write_weights(file, params)
  folder = tmp_path / 'w'
  run.run(settings, folder)
  found = stored.load_kept(model, settings.train, folder)
  for layer, part in params.items():
    for name, value in part.items():
      np.testing.assert_array_equal(np.squeeze(found[layer][name]), np.squeeze(value))
  assert sources.open_films(RunFolder(folder))[0].segmentation is not None
  with pytest.raises(InputError, match='train.weights'):
    run.train_only(settings, tmp_path / 'other', False)


@pytest.mark.parametrize(('override', 'match'), [
    ('model.padding=context', 'train.weights'), ('data.source=simulate', 'archive'),
    ('data.volumes=a.ome.zarr', 'data.volumes')])
def test_settings_that_contradict_the_archive_are_named(archive, override, match):
  with pytest.raises(InputError, match=match):
    make_method(load(archive, 'train.weights=archive', override))
