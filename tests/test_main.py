import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile

from fibjax.cli import main
from fibjax.config import load
from fibjax.errors import InputError
from fibjax.formats import registry
from fibjax.pipeline import stages
from fibjax.system.run_folder import RunFolder
from fibjax.volumes.volume import open_volume, read_box

ROOT = Path(__file__).parents[1]
DEMO = str(ROOT / 'configs' / 'demo.py')
SKARBERG = str(ROOT / 'configs' / 'skarberg2021.py')


@pytest.fixture
def stack(tmp_path):
  """A folder of 9 slices, noise, 96 x 96, 16 bit."""
  folder = tmp_path / 'slices'
  folder.mkdir()
  random = np.random.default_rng(0)
  for z in range(9):
    image = random.integers(1000, 60000, (96, 96)).astype(np.uint16)
    tifffile.imwrite(folder / f'film_{z + 1:04d}.tif', image)
  return folder


def fails(capsys, *words):
  """Runs a command that must end with status 2 and one line, and returns the line."""
  assert main.main([str(word) for word in words]) == 2
  captured = capsys.readouterr()
  assert captured.out == ''
  lines = captured.err.strip().splitlines()
  assert len(lines) == 1 and lines[0].startswith('fibjax: '), captured.err
  return lines[0]


def imported(stack, tmp_path):
  out = tmp_path / 'film.ome.zarr'
  assert main.main(['import', str(stack), f'--out={out}',
                    '--voxel_size_nm=50,10,10']) == 0
  return out


def annotated(tmp_path, rows=None, masks=None, profile='fiji'):
  """Writes a table and a mask stack; returns the words of `fibjax regions`."""
  rows = rows or [('film', z, 20, 20, s) for z, s in
                  ((2, 'train'), (4, 'val'), (6, 'test'))]
  lines = ['volume,z,y,x,split', *(','.join(map(str, row)) for row in rows)]
  (tmp_path / 'table.csv').write_text('\n'.join(lines) + '\n')
  if masks is None:
    masks = np.zeros((len(rows), 32, 32), np.uint8)
    masks[:, :16] = 255
  np.save(tmp_path / 'masks.npy', masks)
  shutil.rmtree(tmp_path / 'regions', ignore_errors=True)
  return ['regions', 'import', str(tmp_path / 'table.csv'), str(tmp_path / 'masks.npy'),
          f'--profile={profile}', f'--out={tmp_path / "regions"}']


def own_run(tmp_path, *more):
  return ['run', f'--config={SKARBERG}', f'--workdir={tmp_path / "w"}',
          '--config.data.source=volumes',
          f'--config.data.volumes={tmp_path / "film.ome.zarr"}',
          f'--config.data.regions={tmp_path / "regions"}', '--config.model.n_xy=33',
          '--config.model.n_z=1', '--config.train.voxel_fraction=0.2', *more]


def test_import_and_export_keep_values_and_voxel_size(stack, tmp_path, capsys):
  out = imported(stack, tmp_path)
  said = json.loads(capsys.readouterr().out)
  assert said['shape_zyx'] == [9, 96, 96]
  assert said['voxel_size_zyx_nm'] == [50, 10, 10]
  assert main.main(['export', str(out), f'--out={tmp_path / "back.tif"}']) == 0
  back = tmp_path / 'again.ome.zarr'
  assert main.main(['import', str(tmp_path / 'back.tif'), f'--out={back}']) == 0
  first, second = (open_volume(p) for p in (out, back))
  assert second.voxel_size_zyx_nm == pytest.approx((50, 10, 10))
  np.testing.assert_array_equal(*(read_box(v, (0, 0, 0), v.shape)
                                  for v in (first, second)))


def test_mistakes_in_the_command_line(capsys, tmp_path):
  for words, message in (
      ((), 'required: VERB'),
      (('walk',), "unknown verb 'walk', expected one of run, train"),
      (('rnu',), "unknown verb 'rnu'; did you mean 'run'?"),
      (('run', f'--config={DEMO}'), '--workdir'),
      (('import', 'x', '--out=y', '--voxel_size_nm=1,2'), '3 positive numbers'),
      (('import', 'x', '--out=y', '--voxel_size_nm=1,2,-3'), '3 positive numbers')):
    with pytest.raises(SystemExit) as caught:
      main.main(list(words))
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1
  assert 'unknown flag' in fails(capsys, 'report', f'--workdir={tmp_path}', '--fast')
  assert 'unknown flag' in fails(capsys, 'report', f'--workdir={tmp_path}',
                                 '--config.seed=1')
  assert "did you mean '--workdir'?" in fails(
      capsys, 'report', f'--workdir={tmp_path}', '--workdri=x')


@pytest.mark.parametrize('verb, config, right', [
    ('run', 'compare.py:tiny', 'compare'), ('run', 'membrane.py:tiny', 'study'),
    ('compare', 'demo.py:tiny', 'run'), ('study', 'compare.py:tiny', 'compare'),
    ('sweep', 'membrane.py:tiny', 'study')])
def test_a_config_for_another_verb_names_that_verb(capsys, tmp_path, verb, config,
                                                   right):
  line = fails(capsys, verb, f'--config={ROOT}/configs/{config}',
               f'--workdir={tmp_path / "w"}')
  assert f'use `fibjax {right}`' in line
  assert not (tmp_path / 'w').exists()


@pytest.mark.parametrize('override, message', [
    ('model.n_xy=34', 'config.model.n_xy'), ('train.epoch=1', 'unknown key'),
    ('train.epochs=lots', 'expected int'), ('model.name=vit', 'config.model.name')])
def test_bad_settings_leave_nothing(capsys, tmp_path, override, message):
  line = fails(capsys, 'run', f'--config={DEMO}', f'--workdir={tmp_path / "w"}',
               f'--config.{override}')
  assert message in line
  assert not (tmp_path / 'w').exists()


def test_bad_stacks_leave_nothing(capsys, tmp_path, stack):
  out = tmp_path / 'out.ome.zarr'
  empty = tmp_path / 'empty'
  empty.mkdir()
  corrupt = tmp_path / 'corrupt.tif'
  corrupt.write_bytes((stack / 'film_0001.tif').read_bytes()[:200])
  nan = np.ones((4, 8, 8), np.float32)
  nan[2, 3, 3] = np.nan
  tifffile.imwrite(tmp_path / 'nan.tif', nan, photometric='minisblack')
  (stack / 'film_0004.tif').unlink()
  for source, message in ((tmp_path / 'nothing', 'nothing'), (empty, 'empty'),
                          (corrupt, 'corrupt.tif'), (tmp_path / 'nan.tif', 'nan.tif'),
                          (stack, 'film_0003.tif|4|gap')):
    line = fails(capsys, 'import', source, f'--out={out}')
    assert any(part in line for part in message.split('|')), line
    assert not list(tmp_path.glob('out*'))


def imports(capsys, *words):
  assert main.main(list(words)) == 0
  assert json.loads(capsys.readouterr().out)['rows'] == 3


def test_bad_regions_are_named(capsys, tmp_path, stack):
  imported(stack, tmp_path)
  capsys.readouterr()
  masks = np.full((3, 32, 32), 7, np.uint8)
  assert 'codes 7' in fails(capsys, *annotated(tmp_path, masks=masks))
  assert 'profile' in fails(capsys, *annotated(tmp_path, profile='word'))
  rows = [('film', 2, 20, 20, 'train'), ('film', 4, 80, 20, 'val'),
          ('film', 6, 20, 20, 'test')]
  imports(capsys, *annotated(tmp_path, rows))
  assert 'film' in fails(capsys, *own_run(tmp_path))
  imports(capsys, *annotated(tmp_path, [('fim', *row[1:]) for row in rows]))
  assert 'fim' in fails(capsys, *own_run(tmp_path))
  imports(capsys, *annotated(tmp_path, [(*row[:4], 'train') for row in rows]))
  assert 'none in split val, test' in fails(capsys, *own_run(tmp_path))
  imports(capsys, *annotated(tmp_path, masks=np.zeros((3, 32, 32), np.uint8)))
  assert 'split train: got no voxel of class solid' in fails(capsys, *own_run(tmp_path))


def test_regions_never_overwrite_and_name_every_profile(capsys, tmp_path, stack):
  imported(stack, tmp_path)
  words = annotated(tmp_path)
  assert main.main(words) == 0
  capsys.readouterr()
  assert 'a path that already exists' in fails(capsys, *words)
  with pytest.raises(SystemExit):
    main.main(['regions', 'import', '--help'])
  said = capsys.readouterr().out
  assert all(name in said for name in ('fibjax', 'fiji', 'ilastik', 'napari', 'paper'))


def test_help_names_every_format(capsys):
  for verb, suffixes in (
      ('import', [s for form in registry.FORMATS if form.open for s in form.suffixes]),
      ('export', [form.suffixes[0] for form in registry.FORMATS if form.write])):
    with pytest.raises(SystemExit):
      main.main([verb, '--help'])
    text = capsys.readouterr().out
    assert len(suffixes) > 5 and all(suffix in text for suffix in suffixes)


def test_changed_annotations_and_half_given_splits_are_noticed(capsys, tmp_path, stack):
  imported(stack, tmp_path)
  folder = tmp_path / 'w'
  rows = [('film', z, 20, 20, s) for z, s in ((2, 'train'), (4, 'val'), (6, ''))]
  assert main.main(annotated(tmp_path, rows)) == 0
  capsys.readouterr()
  assert 'no split in rows [2]' in fails(capsys, *own_run(tmp_path))
  assert not folder.exists()
  settings = load(SKARBERG, [
      word.removeprefix('--config.') for word in own_run(tmp_path)
      if word.startswith('--config.')])
  folder.mkdir()
  stages.record_settings(settings, RunFolder(folder))
  stages.record_settings(settings, RunFolder(folder))
  masks = np.load(tmp_path / 'regions' / 'masks.npy')
  np.save(tmp_path / 'regions' / 'masks.npy', 1 - masks)
  with pytest.raises(InputError, match='regions was.*now.*another --workdir'):
    stages.record_settings(settings, RunFolder(folder))


def test_volumes_that_cannot_work_are_named(capsys, tmp_path, stack):
  for z in range(9):
    tifffile.imwrite(stack / f'film_{z + 1:04d}.tif', np.full((96, 96), 7, np.uint16))
  imported(stack, tmp_path)
  assert main.main(annotated(tmp_path)) == 0
  capsys.readouterr()
  assert 'in every voxel' in fails(capsys, *own_run(tmp_path))
  line = fails(capsys, *own_run(tmp_path, '--config.model.n_xy=113'))
  assert 'window (1, 113, 113)' in line
  assert not (tmp_path / 'w').exists()
  assert 'no volume' in fails(capsys, 'run', f'--config={SKARBERG}',
                              f'--workdir={tmp_path / "w3"}',
                              '--config.data.source=volumes')
  assert 'nowhere' in fails(capsys, 'run', f'--config={SKARBERG}',
                            f'--workdir={tmp_path / "w4"}',
                            '--config.data.volumes=nowhere.ome.zarr',
                            '--config.data.source=volumes')


def test_workdirs_that_are_no_runs_are_named(capsys, tmp_path):
  assert 'config.json' in fails(capsys, 'evaluate', f'--workdir={tmp_path}')
  assert 'config.json' in fails(capsys, 'segment', f'--workdir={tmp_path}',
                                '--volume=x', '--out=y')
  (tmp_path / 'file').write_text('')
  line = fails(capsys, 'run', f'--config={DEMO}', f'--workdir={tmp_path / "file"}')
  assert 'choose another --workdir' in line


@pytest.mark.long
@pytest.mark.parametrize('sent, status', [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_leave_a_workdir_that_goes_on(tmp_path, sent, status):
  # A shell's background jobs inherit an ignored SIGINT; a terminal's do not.
  program = ('import signal, sys; from fibjax.cli import main; '
             'signal.signal(signal.SIGINT, signal.default_int_handler); '
             'sys.exit(main.main(sys.argv[1:]))')
  command = [sys.executable, '-c', program, 'run', f'--config={DEMO}:tiny',
             f'--workdir={tmp_path}', '--config.data.shape_zyx=16,128,128']
  process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT)
  deadline = time.monotonic() + 120
  while not (tmp_path / 'preprocessing.json').exists():
    assert time.monotonic() < deadline and process.poll() is None
    time.sleep(0.1)
  time.sleep(1)  # XLA compiles and trains in threads of its own by now
  process.send_signal(sent)
  _, error = process.communicate(timeout=120)
  assert process.returncode == status
  assert 'run the same command again to resume' in error
  assert 'Traceback' not in error


def test_where_to_work_is_checked(capsys, tmp_path):
  words = ('segment', f'--workdir={tmp_path}', '--volume=v', f'--out={tmp_path / "o"}')
  assert '--workers' in fails(capsys, *words, '--workers=2', '--scheduler=tcp://a:1')
  assert '--insecure' in fails(capsys, *words, '--scheduler=tcp://a:1')
  assert '--workers: got -1' in fails(capsys, *words, '--workers=-1')
  with pytest.raises(SystemExit) as stop:
    main.main([*words, '--memory_gb=0'])
  assert stop.value.code == 2 and '--memory_gb' in capsys.readouterr().err


def test_what_the_system_refuses_is_one_line(stack, tmp_path, capsys):
  volume = imported(stack, tmp_path)
  capsys.readouterr()
  (tmp_path / 'file').write_text('no folder')
  line = fails(capsys, 'regions', 'propose', volume, f'--out={tmp_path}/file/p.csv',
               '--region_px=32', '--context_px=64', '--context_slices=3', '--count=2')
  assert f'{tmp_path}/file/p.csv: got Not a directory' in line
  line = fails(capsys, 'inspect', stack, '--quick', f'--png={tmp_path}/file/x.png')
  assert f'{tmp_path}/file' in line
