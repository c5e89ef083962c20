"""The library: quick to import, documented, and arrays in, arrays out."""
import doctest
import inspect
import subprocess
import sys

import numpy as np
import pytest

import fibjax
from fibjax.annotation.regions import save_regions
from fibjax.config import load
from fibjax.pipeline import run
from fibjax.volumes.volume import open_volume, read_box
from tests.helpers import ROOT

SIZE_NM = (50., 10., 10.)


@pytest.fixture(scope='module')
def place(tmp_path_factory):
  """A folder with what the examples name: slices/, film.ome.zarr, workdirs/film."""
  folder = tmp_path_factory.mktemp('library')
  film = fibjax.simulate_film('HPC45', (36, 64, 64), seed=0)
  fibjax.write_stack(folder / 'film.tif', film.image_zyx, SIZE_NM)
  fibjax.write_stack(folder / 'film.ome.zarr', film.image_zyx, SIZE_NM)
  places = [(z, 8, 8) for z in (2, 4, 20, 33)]
  masks = [film.truth_zyx[z, 8:40, 8:40] for z, _, _ in places]
  regions = fibjax.make_regions('film', places, masks,
                                ['train', 'train', 'val', 'test'])
  save_regions(folder / 'film_regions', regions)
  settings = load(f'{ROOT}/configs/own.py', (
      'model.name=forest', 'forest.trees=5', 'forest.min_leaves=5,',
      'train.voxel_fraction=0.3', 'analyse.mvoxel=0',
      f'data.volumes={folder / "film.ome.zarr"}',
      f'data.regions={folder / "film_regions"}'))
  run.run(settings, folder / 'workdirs' / 'film')
  return folder, film


def test_importing_it_is_quick_and_loads_no_jax():
  code = ('import sys, fibjax; heavy = {"jax", "numpy", "tensorstore", "matplotlib"}; '
          'print(sorted(heavy & set(sys.modules)))')
  done = subprocess.run([sys.executable, '-c', code], text=True, capture_output=True,
                        check=True, cwd=ROOT)
  assert done.stdout.strip() == '[]'


def test_the_surface_is_what_it_says():
  assert set(fibjax.__all__) <= set(dir(fibjax))
  assert all(f'`{name}`' in fibjax.__doc__ for name in fibjax.__all__)
  with pytest.raises(AttributeError, match='segmentate'):
    fibjax.segmentate  # noqa: B018


@pytest.mark.parametrize('name', [
    pytest.param(name, marks=pytest.mark.long) if name.startswith('train') else name
    for name in fibjax.__all__])
def test_everything_public_has_a_docstring_with_an_example_that_runs(
    name, place, monkeypatch):
  folder, _ = place
  monkeypatch.chdir(folder)
  value = getattr(fibjax, name)
  text = inspect.getdoc(value)
  assert text and 'Example:' in text, f'{name} has no example'
  examples = doctest.DocTestParser().get_doctest(text, {}, name, name, 0)
  assert examples.examples
  report = []
  runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
  runner.run(examples, out=report.append)
  assert not runner.failures, ''.join(report)


def test_a_loaded_run_gives_arrays_the_labels_of_its_volume(place):
  folder, film = place
  segmenter = fibjax.load(folder / 'workdirs' / 'film')
  stored = [read_box(volume, (0, 0, 0), volume.shape) for volume in (
      open_volume(folder / 'workdirs' / 'film' / f'{kind}.ome.zarr' / 'film')
      for kind in ('scores', 'segmentation'))]
  np.testing.assert_array_equal(segmenter.score(film.image_zyx), stored[0])
  np.testing.assert_array_equal(segmenter.segment(film.image_zyx), stored[1])


def test_a_classical_run_has_labels_and_no_scores(tmp_path):
  folder = tmp_path / 'w'
  run.run(load(f'{ROOT}/configs/demo.py:tiny', (
      'model.name=otsu', 'data.shape_zyx=16,96,96', 'analyse.mvoxel=0')), folder)
  image_zyx, labels_zyx = (
      read_box(volume, (0, 0, 0), volume.shape) for volume in map(open_volume, (
          folder / 'data' / 'HPC30' / 'raw.ome.zarr',
          folder / 'segmentation.ome.zarr' / 'HPC30')))
  segmenter = fibjax.load(folder)
  np.testing.assert_array_equal(segmenter.segment(image_zyx), labels_zyx)
  with pytest.raises(fibjax.InputError, match='otsu.*segmenter.segment'):
    segmenter.score(image_zyx)


BAD_IMAGES = {
    'rank': (np.zeros((8, 8), np.uint8), 'shape'),
    'dtype': (np.zeros((9, 64, 64), complex), 'dtype'),
    'nan': (np.where(np.indices((9, 64, 64)).sum(0) == 9, np.nan, 0.5), 'NaN'),
    'constant': (np.full((9, 64, 64), 7, np.uint8), 'in every voxel'),
    'small': (np.arange(512, dtype=np.uint8).reshape(1, 8, 64) % 255, 'window')}


@pytest.mark.parametrize('kind', BAD_IMAGES)
def test_bad_images_are_named(place, kind):
  folder, _ = place
  image_zyx, message = BAD_IMAGES[kind]
  segmenter = fibjax.load(folder / 'workdirs' / 'film')
  for function in (segmenter.score, segmenter.segment):
    with pytest.raises(fibjax.InputError, match=message):
      function(image_zyx)


def annotated(film, splits=('train', 'train', 'val', 'val')):
  places = [(z, 8, 8) for z in (1, 3, 5, 7)]
  masks = [film.truth_zyx[z, 8:40, 8:40] for z, _, _ in places]
  return fibjax.make_regions('film', places, masks, splits)


@pytest.fixture(scope='module')
def wide():
  """A film that holds the window of a network, 92 x 92 pixels."""
  return fibjax.simulate_film('HPC45', (8, 104, 100), seed=0)


QUICK = {'epochs': 2, 'steps_per_epoch': 2, 'val_windows': 2, 'crop_px': 32}


@pytest.fixture(scope='module')
def ensemble(wide):
  return fibjax.train(wide.image_zyx, annotated(wide), settings=QUICK, seeds=(0, 1),
                      model=fibjax.make_model(n_xy=33, n_z=1))


@pytest.mark.long
def test_members_trained_together_are_those_trained_alone(wide, ensemble):
  alone = fibjax.train(wide.image_zyx, annotated(wide), settings=QUICK, seeds=(1,),
                       model=fibjax.make_model(n_xy=33, n_z=1))
  both, single = ensemble.trained[1], alone.trained[0]
  assert [row['val_bce'] for row in both.rows] == pytest.approx(
      [row['val_bce'] for row in single.rows], abs=1e-5)
  scores = ensemble.score(wide.image_zyx)
  assert scores.shape == wide.image_zyx.shape and scores.dtype == np.float32
  assert 0 <= scores.min() < scores.max() <= 1
  assert (scores != alone.score(wide.image_zyx)).any()


@pytest.mark.long
def test_a_trained_segmenter_segments_a_volume_as_the_array(wide, ensemble, tmp_path):
  fibjax.write_stack(tmp_path / 'film.ome.zarr', wide.image_zyx, SIZE_NM)
  path = ensemble.segment_volume(tmp_path / 'film.ome.zarr', tmp_path / 'out')
  volume = open_volume(path)
  np.testing.assert_array_equal(read_box(volume, (0, 0, 0), volume.shape),
                                ensemble.segment(wide.image_zyx))


@pytest.mark.parametrize('change, message', [
    ({'settings': {'epoch': 3}}, "did you mean 'epochs'"),
    ({'settings': {'epochs': 'many'}}, 'train.epochs: got'),
    ({'settings': {'epochs': 0}}, 'train.epochs=0'),
    ({'images': np.zeros((8, 104, 100), np.uint8)}, 'in every voxel'),
    ({'images': np.arange(4000, dtype=np.uint16).reshape(8, 20, 25)}, 'window'),
    ({'splits': ('train',) * 4}, 'none in split val'),
    ({'settings': {'crop_px': 64}}, 'crop_px')])
def test_bad_training_is_named(wide, change, message):
  regions = annotated(wide, change.get('splits', ('train', 'train', 'val', 'val')))
  with pytest.raises(fibjax.InputError, match=message):
    fibjax.train(change.get('images', wide.image_zyx), regions,
                 settings=QUICK | change.get('settings', {}),
                 model=fibjax.make_model(n_xy=33, n_z=1))


def test_physics_needs_a_voxel_size_and_both_phases(place):
  _, film = place
  for labels_zyx, size, message in (
      (film.truth_zyx, None, 'voxel size'), (film.truth_zyx[0], SIZE_NM, 'shape|axes'),
      (np.zeros((9, 9, 9), np.uint8), SIZE_NM, 'phase'),
      (film.truth_zyx.astype(float), SIZE_NM, 'dtype')):
    with pytest.raises(fibjax.InputError, match=message):
      fibjax.measure(labels_zyx, size)
