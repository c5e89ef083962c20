"""The way of a new user: the commands and the Python code of the README, and a kill."""
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import tifffile

from fibjax.cli import main
from fibjax.metrics import confusion
from fibjax.simulation import films
from fibjax.volumes.volume import open_volume, read_box
from tests.helpers import ROOT, code_blocks, commands_of

SHAPE, SIDE = (8, 128, 128), 32

pytestmark = pytest.mark.long


def call(*words):
  assert main.main([str(word) for word in words]) == 0


def read(path):
  volume = open_volume(path)
  return read_box(volume, (0, 0, 0), volume.shape)


def run_words(folder, workdir):
  return ['run', f'--config={ROOT / "configs" / "own.py"}:tiny',
          f'--workdir={workdir}', f'--config.data.volumes={folder / "film.ome.zarr"}',
          f'--config.data.regions={folder / "regions"}', '--config.split.mode=paper',
          '--config.model.n_z=1', '--config.train.epochs=3']


def write_slices(folder, image_zyx):
  folder.mkdir()
  for z, image_yx in enumerate(image_zyx):
    tifffile.imwrite(folder / f'slice_{z:03d}.tif', image_yx)


@pytest.fixture(scope='module')
def compiled(tmp_path_factory):
  """Every program is compiled once for all processes, to save their time."""
  with pytest.MonkeyPatch.context() as patch:
    folder = str(tmp_path_factory.mktemp('compiled'))
    patch.setenv('JAX_COMPILATION_CACHE_DIR', folder)
    before = jax.config.jax_compilation_cache_dir
    jax.config.update('jax_compilation_cache_dir', folder)
    yield
    jax.config.update('jax_compilation_cache_dir', before)


@pytest.fixture(scope='module')
def finished(compiled, tmp_path_factory):
  """Slices, regions and a whole run in folder / 'w'; returns the folder."""
  folder = tmp_path_factory.mktemp('stranger')
  film = films.simulate_film('HPC30', SHAPE, 3)
  write_slices(folder / 'slices', film.image_zyx)
  call('import', folder / 'slices', f'--out={folder / "film.ome.zarr"}',
       '--voxel_size_nm=50,10,10')
  random = np.random.default_rng(0)
  corners = [(z, *random.integers(0, SHAPE[1] - SIDE, 2)) for z in range(8)]
  (folder / 'masks').mkdir()
  for r, (z, y, x) in enumerate(corners):  # Fiji's masks: 0 and 255
    tifffile.imwrite(folder / 'masks' / f'region_{r}.tif',
                     film.truth_zyx[z, y:y + SIDE, x:x + SIDE] * np.uint8(255))
  (folder / 'table.csv').write_text('volume,z,y,x\n' + ''.join(
      f'film,{z},{y},{x}\n' for z, y, x in corners))
  call('regions', 'import', folder / 'table.csv', folder / 'masks', '--profile=fiji',
       f'--out={folder / "regions"}')
  assert not kill_when(run_words(folder, folder / 'w'), folder / 'log', lambda: False)
  return folder


def test_own_slices_become_a_segmentation_in_a_tiff(finished, tmp_path):
  np.testing.assert_array_equal(read(finished / 'film.ome.zarr'), np.stack(
      [tifffile.imread(f) for f in sorted((finished / 'slices').iterdir())]))
  result = json.loads((finished / 'w' / 'metrics.json').read_text())
  assert sum(result[split]['after']['n_voxels'] for split in
             ('train', 'val', 'test')) == 8 * SIDE ** 2
  assert (finished / 'w' / 'report.html').exists()

  other = films.simulate_film('HPC45', (4, 96, 112), 4)
  write_slices(tmp_path / 'slices', other.image_zyx)
  call('import', tmp_path / 'slices', f'--out={tmp_path / "other.ome.zarr"}')
  for name, volume in (('again', finished / 'film.ome.zarr'),
                       ('new', tmp_path / 'other.ome.zarr')):
    call('segment', f'--workdir={finished / "w"}', f'--volume={volume}',
         f'--out={tmp_path / name}')
    call('export', tmp_path / name / 'segmentation.ome.zarr',
         f'--out={tmp_path / name}.tif')
    labels = read(tmp_path / name / 'segmentation.ome.zarr')
    assert labels.shape == read(volume).shape and set(np.unique(labels)) <= {0, 1}
    np.testing.assert_array_equal(tifffile.imread(tmp_path / f'{name}.tif'), labels)
  np.testing.assert_array_equal(
      read(tmp_path / 'again' / 'segmentation.ome.zarr'),
      read(finished / 'w' / 'segmentation.ome.zarr' / 'film'))


def kill_when(words, log, appeared):
  """Starts a run and kills it -9 once appeared() holds; whether it came to that."""
  with open(log, 'w', encoding='utf-8') as file:
    process = subprocess.Popen([sys.executable, '-m', 'fibjax', *words],
                               stdout=file, stderr=file, cwd=ROOT)
  try:
    deadline = time.monotonic() + 600
    while process.poll() is None and not appeared():
      assert time.monotonic() < deadline, log.read_text()
      time.sleep(0.002)
  finally:
    if process.poll() is None:
      os.kill(process.pid, signal.SIGKILL)
    status = process.wait()
  assert status in (0, -signal.SIGKILL), log.read_text()
  return status == -signal.SIGKILL


def test_a_run_killed_in_training_and_in_scoring_ends_with_the_same_metrics(
    finished, tmp_path):
  workdir = tmp_path / 'w'
  words = run_words(finished, workdir)
  checkpoints, scores = workdir / 'checkpoints', workdir / 'scores.ome.zarr'
  assert kill_when(words, tmp_path / 'log1', lambda: any(
      path.name.isdecimal() for path in checkpoints.glob('*')))
  assert not (workdir / 'metrics.json').exists()
  # Scoring so little takes a moment; the kill may come in it or just after.
  kill_when(words, tmp_path / 'log2', scores.exists)
  call(*words)
  for name in ('metrics.json', 'postprocess.json', 'porosities.csv'):
    assert (workdir / name).read_bytes() == (
        finished / 'w' / name).read_bytes(), name
  assert not list(workdir.rglob('*.partial'))


# What the commands of the README get beside, to be done in a minute.
TINY = {
    'inspect': ['--quick'],
    'prep': ['--steps=align:max_angle_deg=0,gradient,brightness'],
    'propose': ['--count=8', '--region_px=32', '--context_px=48', '--context_slices=3'],
    'run': [f'--config={ROOT}/configs/own.py:tiny', '--config.model.n_z=1',
            '--config.train.epochs=3', '--config.analyse.mvoxel=0']}


def tiny(words):
  """A command of the README with the settings of TINY; later flags win."""
  return [*words, *TINY.get(words[1] if words[0] == 'regions' else words[0], [])]


def paint_bright_as_solid(folder, image_zyx):
  """Paints the regions of `regions export` as an expert would, by brightness alone."""
  for row in json.loads((folder / 'manifest.json').read_text())['regions']:
    file = folder / 'labels' / 'expert1' / row['file']
    z, y, x = row['z'], row['y'], row['x']
    solid = image_zyx[z, y:y + SIDE, x:x + SIDE] > np.quantile(image_zyx, 0.3)
    label_zyx = tifffile.imread(file)
    label_zyx[1, 8:8 + SIDE, 8:8 + SIDE] = solid + np.uint8(1)
    tifffile.imwrite(file, label_zyx, photometric='minisblack')


def test_the_commands_of_the_readme_lead_from_slices_to_a_segmentation(
    finished, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  shutil.copytree(finished / 'slices', 'slices')
  other = films.simulate_film('HPC45', (4, 96, 112), 4)
  write_slices(tmp_path / 'others', other.image_zyx)
  call('import', 'others', '--out=other.ome.zarr')
  commands = [tiny(words) for words in commands_of(ROOT / 'README.md',
                                                   'Your own stack')]
  assert [words[:2] if words[0] == 'regions' else words[0] for words in commands] == [
      'inspect', 'import', 'prep', ['regions', 'propose'], ['regions', 'export'],
      ['regions', 'import'], 'run', 'segment', 'share']
  capsys.readouterr()
  for words in commands:
    if words[:2] == ['regions', 'import']:
      paint_bright_as_solid(tmp_path / 'to_paint', read('film.ome.zarr'))
    call(*words)
    printed = capsys.readouterr().out
    if words[0] == 'inspect':
      assert 'unknown voxel size' in printed
      assert (tmp_path / 'cuts.png').read_bytes().startswith(b'\x89PNG')
    if words[0] == 'prep':
      call('prep', 'raw.ome.zarr', '--out=again', '--replay=film.preparation.json')
      np.testing.assert_array_equal(read('film.ome.zarr'), read('again'))
    if words[:2] == ['regions', 'import']:
      assert json.loads(printed.splitlines()[-1])['rows'] == 8
  assert read('other/segmentation.ome.zarr').shape == (4, 96, 112)
  capsys.readouterr()
  call('analyse', '--workdir=workdirs/film', '--mvoxel=0.05')
  found = json.loads(capsys.readouterr().out.splitlines()[-1])
  labels_zyx = read('workdirs/film/segmentation.ome.zarr/film')
  box = tuple(slice(a, b) for a, b in zip(found['film']['start_zyx'],
                                          found['film']['stop_zyx'], strict=True))
  assert found['film']['found']['porosity'] == pytest.approx(
      (labels_zyx[box] == 0).mean())
  page = (tmp_path / 'workdirs' / 'film' / 'report.html').read_text(encoding='utf-8')
  for expected in ('Slices were aligned rigidly to each other', 'doi:10.1109/83.650848',
                   'Physical quantities of film', 'Preparation.'):
    assert expected in page, expected


def test_the_tour_of_the_readme_runs(compiled, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  tour = [[word.replace('=configs/', f'={ROOT}/configs/') for word in words]
          for words in commands_of(ROOT / 'README.md',
                                   'Two commands, and a 60-second tour')]
  assert [words[0] for words in tour] == ['run', 'analyse', 'simulate', 'segment']
  for words in tour:
    call(*words)
  folder = tmp_path / 'workdirs'
  assert (folder / 'tiny' / 'report.html').exists()
  assert (folder / 'tiny' / 'metrics.json').exists()
  found = confusion.confusion(read(tmp_path / 'film' / 'truth.ome.zarr'),
                              read(folder / 'film' / 'segmentation.ome.zarr'))
  assert confusion.summarise(found)['miou'] > 0.6  # the best grey threshold: 0.54


def test_the_python_code_of_the_readme_runs(finished):
  code, = code_blocks(ROOT / 'README.md', 'In a notebook', 'python')
  for word, value in {
      'slices/': finished / 'slices', 'workdirs/film': finished / 'w',
      'film.ome.zarr': finished / 'film.ome.zarr',
      'film_regions': finished / 'regions'}.items():
    assert f"('{word}')" in code
    code = code.replace(f"('{word}')", f"('{value}')")
  assert "settings={'epochs': 20}" in code
  code = code.replace("{'epochs': 20}", str({
      'epochs': 1, 'steps_per_epoch': 2, 'val_windows': 2, 'crop_px': 32}))
  names = {}
  exec(compile(code, 'README.md', 'exec'), names)
  assert names['scores'].dtype == np.float32 and names['scores'].shape == SHAPE
  np.testing.assert_array_equal(names['scores'],
                                read(finished / 'w' / 'scores.ome.zarr' / 'film'))
  np.testing.assert_array_equal(names['labels'],
                                read(finished / 'w' / 'segmentation.ome.zarr' / 'film'))
  assert names['model'].n_z == 7
  assert names['ensemble'].score(names['film'].image_zyx).shape[-3:] == SHAPE
