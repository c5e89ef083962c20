"""What the system refuses, at every write: the rule of the command, then the same bits.

In the short part errors are injected into this process (faults.py), in the long one
into processes of their own, libraries in C++ included (strace), and disks are small.
"""
import contextlib
import csv
import errno
import gc
import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import fibjax
from fibjax.annotation import frame
from fibjax.annotation.sizes import Sizes
from fibjax.cli import main
from fibjax.formats import tiff
from fibjax.system import refusals
from fibjax.system.refusals import RefusedError
from fibjax.training import checkpoint
from tests.faults import injected

pytestmark = [
    pytest.mark.skipif(not os.path.isdir('/proc/self/fd'), reason='needs /proc'),
    # tifffile leaves a file that it cannot write, and its buffer, to the garbage
    # collector.
    pytest.mark.filterwarnings('ignore:unclosed file:ResourceWarning'),
    pytest.mark.filterwarnings('ignore:.*BytesIO object:'
                               'pytest.PytestUnraisableExceptionWarning')]
ROOT = Path(__file__).parents[1]
ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES)
SIZES = ('--region_px=32', '--context_px=64', '--context_slices=3')
# What differs between two calls: times, lines of checksums in another order, and
# Orbax's names of files; scores and validation losses show that weights are the same.
CHANGING = {'.checksums', '.lock', 'versions.json', 'events', 'report.html',
            'tables.md', 'checkpoints', 'weights', 'time.png'}


@pytest.fixture(autouse=True)
def _collected():
  yield
  gc.collect()


@pytest.fixture(scope='module')
def material(tmp_path_factory):
  """A film, the same as a TIFF, and annotated regions as a table and as a folder."""
  folder = tmp_path_factory.mktemp('material')
  film = folder / 'film' / 'raw.ome.zarr'
  for words in (
      ('simulate', '--preset=HPC30', '--shape=9,96,96', f'--out={folder / "film"}'),
      ('export', film, f'--out={folder / "film.tif"}'),
      ('regions', 'propose', film, f'--out={folder / "places.csv"}', '--count=3',
       *SIZES),
      ('regions', 'export', folder / 'places.csv', film,
       f'--out={folder / "exported"}')):
    assert main.main([str(word) for word in words]) == 0
  sizes = Sizes(32, 64, 3)
  for file in sorted((folder / 'exported' / 'labels' / 'expert1').iterdir()):
    label_zyx = frame.blank_label(sizes)
    z, y, x = sizes.core_zyx
    label_zyx[z, y:y + 32, x:x + 16] = 1
    label_zyx[z, y:y + 32, x + 16:x + 32] = 2
    file.unlink()
    tiff.write_tiff(file, [label_zyx], label_zyx.shape, label_zyx.dtype, None)
  masks_ryx = np.zeros((3, 32, 32), np.uint8)
  masks_ryx[:, :16] = 255
  np.save(folder / 'masks.npy', masks_ryx)
  return folder


def export(suffix, *more):
  return lambda m, w: ('export', m / 'film' / 'raw.ome.zarr',
                       f'--out={w / "out"}{suffix}', *more)


STAGES = {
    **{suffix: export(suffix) for suffix in (
        '.tif', '.h5', '.mat', '.mrc', '.npy', '.raw', '.ome.zarr')},
    'zarr 0.4': export('.zarr', '--ome_version=0.4'),
    'import': lambda m, w: ('import', m / 'film.tif', f'--out={w / "in.ome.zarr"}'),
    'prep': lambda m, w: ('prep', m / 'film' / 'raw.ome.zarr',
                          f'--out={w / "p.ome.zarr"}', '--steps=gradient,brightness'),
    'simulate': lambda m, w: ('simulate', '--preset=HPC30', '--shape=9,48,48',
                              '--annotator', f'--out={w / "film"}'),
    'propose': lambda m, w: ('regions', 'propose', m / 'film' / 'raw.ome.zarr',
                             f'--out={w / "p.csv"}', '--count=3', *SIZES),
    'regions export': lambda m, w: (
        'regions', 'export', m / 'places.csv', m / 'film' / 'raw.ome.zarr',
        f'--out={w / "e"}'),
    'regions import': lambda m, w: (
        'regions', 'import', m / 'exported', '--profile=napari', f'--out={w / "r"}'),
    'table': lambda m, w: (
        'regions', 'import', m / 'places.csv', m / 'masks.npy', '--profile=fiji',
        f'--out={w / "r"}')}

# Slower than the others.
FIGURES = {'inspect': lambda m, w: ('inspect', m / 'film.tif', '--quick',
                                    f'--png={w / "film.png"}')}


def content(folder: Path) -> dict:
  """Content of all files that two undisturbed calls write alike, without times."""
  return {str(path.relative_to(folder)): read(path)
          for path in sorted(folder.rglob('*')) if path.is_file()
          and not CHANGING & set(path.relative_to(folder).parts)}


def read(path: Path):
  """Content of a file without times."""
  if path.suffix == '.csv':
    with open(path, encoding='utf-8', newline='') as file:
      return [{name: value for name, value in row.items() if name != 'seconds'}
              for row in csv.DictReader(file)]
  if path.suffix == '.json':
    return json.loads(path.read_bytes(), object_hook=lambda entries: {
        name: value for name, value in entries.items() if name != 'seconds'})
  return path.read_bytes()[{'.mat': 128, '.mrc': 1024}.get(path.suffix, 0):]


def call(words, capsys) -> tuple[int, str]:
  """Exit status of a command and its stderr."""
  status = main.main([str(word) for word in words])
  return status, capsys.readouterr().err


def check_rule(words, status, err) -> None:
  """The rule for what the system refuses."""
  lines = [line for line in err.splitlines() if line.startswith('fibjax: ')]
  assert status == 2 and len(lines) == 1, (words, status, err)
  assert err.splitlines()[-1] == lines[0] and 'Traceback' not in err, err
  assert any(os.strerror(number) in lines[0]
             for number in (*ERRORS, errno.EMFILE)), err


def break_at(faults, at, number, words, work, whole, capsys) -> None:
  """Breaks one call at a write; the rule holds, and a second call ends the work."""
  gc.collect()  # a file that an earlier error left open writes when it is collected
  faults.arm(at, number)
  status, err = call(words, capsys)
  reached = faults.count >= at
  faults.arm(0, 0)
  if reached:
    check_rule(words, status, err)
    status, err = call(words, capsys)
  # Complete but refused: the error came after the last file had got its name.
  assert status == 0 or 'already exists' in err, err
  assert content(work) == whole, (at, number)


def spread(writes: int, most: int | None) -> list[int]:
  """Numbers of writes to fail: all, or at most so many, the first and last included."""
  points = np.arange(writes) if most is None or writes <= most else np.linspace(
      0, writes - 1, most).round()
  return [1 + int(point) for point in points]


@pytest.mark.parametrize('most', [8, pytest.param(None, marks=pytest.mark.long)])
@pytest.mark.parametrize('stage', [
    *STAGES, pytest.param('inspect', marks=pytest.mark.long)])
def test_an_error_at_any_write_ends_in_one_line_and_can_be_repeated(
    stage, most, material, tmp_path, capsys, monkeypatch):
  work = tmp_path / 'w'
  words = (STAGES | FIGURES)[stage](material, work)
  work.mkdir()
  with injected(work, monkeypatch) as faults:
    assert call(words, capsys)[0] == 0
    whole, writes = content(work), faults.count
    assert whole and writes > 3
    for k, at in enumerate(spread(writes, most)):
      faults.arm(0, 0)
      shutil.rmtree(work)
      work.mkdir()
      break_at(faults, at, ERRORS[k % 3], words, work, whole, capsys)


@pytest.fixture(scope='module')
def preloaded(tmp_path_factory):
  """The library of faults.c."""
  compiler = shutil.which('cc')
  if not compiler or sys.platform != 'linux':
    pytest.skip('needs Linux and a C compiler')
  library = tmp_path_factory.mktemp('preload') / 'faults.so'
  subprocess.run([compiler, '-shared', '-fPIC', '-O1', '-o', library,
                  ROOT / 'tests' / 'faults.c'], check=True)
  return library


@pytest.fixture(scope='module')
def compiled(tmp_path_factory):
  """Environment of processes that share what JAX compiled."""
  return {**os.environ, 'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu',
          'JAX_COMPILATION_CACHE_DIR': str(tmp_path_factory.mktemp('jax')),
          'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
          'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '0'}


TINY = (f'--config={ROOT / "configs" / "demo.py"}:tiny', *(
    f'--config.{setting}' for setting in (
        'data.shape_zyx=16,96,96', 'data.regions_per_volume=6', 'model.n_xy=33',
        'model.n_z=1', 'train.steps_per_epoch=1', 'train.val_windows=2',
        'train.epochs=2', 'analyse.mvoxel=0')))
# Words of a command, and where the result is; `segment` uses the result of `run`.
JOBS = {
    'run': lambda folder: (('run', *TINY, f'--workdir={folder / "run"}'),
                           folder / 'run'),
    'segment': lambda folder: (
        ('segment', f'--workdir={folder / "run"}', f'--out={folder / "out"}',
         f'--volume={folder / "run" / "data" / "HPC30" / "raw.ome.zarr"}'),
        folder / 'out'),
    'sweep': lambda folder: (
        ('sweep', *TINY, '--config.sweep.members=2', '--config.sweep.sizes=33x1',
         f'--workdir={folder / "sweep"}'), folder / 'sweep')}


class Process:
  """Commands in processes of their own, whose writes below a folder can fail."""

  def __init__(self, library, environment, folder, count):
    self._environment, self._count = environment | {
        'LD_PRELOAD': str(library), 'FAULT_FOLDER': str(folder),
        'FAULT_COUNT': str(count)}, count

  def __call__(self, words, at=0, number=0):
    """Exit status, stderr and number of writes."""
    self._count.write_bytes(bytes(8))
    done = subprocess.run(
        [sys.executable, '-m', 'fibjax', *map(str, words)], text=True, check=False,
        capture_output=True, cwd=ROOT, timeout=600,
        env=self._environment | {'FAULT_AT': str(at), 'FAULT_ERRNO': str(number)})
    return done.returncode, done.stderr, int.from_bytes(self._count.read_bytes(),
                                                        sys.byteorder)


@pytest.mark.long
@pytest.mark.parametrize('job', JOBS)
def test_an_error_at_any_write_of_a_job_loses_and_changes_nothing(
    job, preloaded, compiled, tmp_path):
  """FIBJAX_FAULTS is the number of writes to fail, each in two processes."""
  words, work = JOBS[job](tmp_path)
  start = Process(preloaded, compiled, work, tmp_path / 'count')
  if job == 'segment':
    assert start(JOBS['run'](tmp_path)[0])[0] == 0
  status, err, writes = start(words)
  assert status == 0 and writes > 50, err
  whole = content(work)
  for k, at in enumerate(spread(writes, int(os.environ.get('FIBJAX_FAULTS', 3)))):
    shutil.rmtree(work)
    status, err, reached = start(words, at, ERRORS[k % 3])
    if reached >= at:  # the number of writes differs a little between calls
      check_rule(words, status, err)
      status, err, _ = start(words)
    assert status == 0, err
    assert content(work) == whole, at


@contextlib.contextmanager
def small_disk(folder, size):
  """A disk of a size that the system allows for."""
  folder.mkdir()
  done = subprocess.run(['mount', '-t', 'tmpfs', '-o', f'size={size}', 'tmpfs', folder],
                        check=False, capture_output=True)
  if done.returncode:
    pytest.skip('needs the right to mount a disk in memory')
  try:
    yield folder
  finally:
    subprocess.run(['umount', folder], check=True)


@pytest.mark.skipif(sys.platform != 'linux', reason='needs tmpfs')
def test_a_checkpoint_that_fills_the_disk_leaves_nothing(tmp_path, capfd):
  state = {f'a{k}': np.random.default_rng(k).random(20000) for k in range(30)}
  with small_disk(tmp_path / 'disk', '2m') as disk, refusals.held_back() as drop:
    with pytest.raises(RefusedError, match='checkpoints/3: got No space left'):
      checkpoint.save(disk / 'checkpoints', 3, state, {'a': 1})
    drop()
    assert not list((disk / 'checkpoints').iterdir())
    subprocess.run(['mount', '-o', 'remount,size=20m', disk], check=True)
    checkpoint.save(disk / 'checkpoints', 3, state, {'a': 1})
    found, meta = checkpoint.restore(disk / 'checkpoints', 3, state)
  assert meta == {'a': 1}
  np.testing.assert_array_equal(found['a7'], state['a7'])
  assert capfd.readouterr().err == ''


@pytest.mark.skipif(sys.platform != 'linux', reason='needs tmpfs')
@pytest.mark.parametrize('suffix', ['.mrc', '.tif', '.h5', '.mat', '.npy', '.raw',
                                    '.ome.zarr'])
def test_an_export_that_fills_the_disk_ends_in_one_line(material, tmp_path, capsys,
                                                        suffix):
  words = export(suffix)(material, tmp_path / 'disk')
  with small_disk(tmp_path / 'disk', '64k') as disk:
    check_rule(words, *call(words, capsys))
    assert not list(disk.iterdir())


@pytest.mark.skipif(sys.platform != 'linux', reason='needs tmpfs')
def test_a_disk_that_is_read_only_ends_in_one_line(material, tmp_path, capsys):
  with small_disk(tmp_path / 'disk', '1m') as disk:
    subprocess.run(['mount', '-o', 'remount,ro', disk], check=True)
    for stage in ('.mrc', '.ome.zarr', 'import', 'regions import', 'simulate'):
      status, err = call(STAGES[stage](material, disk), capsys)
      assert status == 2 and err.count('\n') == 1, err
      assert os.strerror(errno.EROFS) in err


def run_limited(limit, words):
  """A command in a process with a limit of the shell."""
  return subprocess.run(
      ['bash', '-c', f'ulimit {limit}; exec "$@"', 'bash', sys.executable, '-m',
       'fibjax', *map(str, words)], text=True, check=False, capture_output=True,
      cwd=ROOT, env={**os.environ, 'PYTHONPATH': str(ROOT)}, timeout=120)


def test_too_small_an_address_space_is_reported_before_the_work(tmp_path):
  for words in (('run', *TINY, f'--workdir={tmp_path / "w"}'),
                ('export', 'film.ome.zarr', '--out=film.tif')):
    done = run_limited('-v 400000', words)
    assert done.returncode == 2
    assert done.stderr.startswith('fibjax: ulimit -v: got 0.41 GB of address space')
    assert done.stderr.count('\n') == 1
  assert not (tmp_path / 'w').exists()


def test_too_few_open_files_are_reported_in_one_line(material, tmp_path):
  done = run_limited('-n 6', ('import', material / 'film.tif',
                              f'--out={tmp_path / "x.ome.zarr"}'))
  check_rule('import', done.returncode, done.stderr)
  assert not (tmp_path / 'x.ome.zarr').exists()  # deleting folders needs files as well


def test_results_that_stdout_cannot_take_are_reported(material, tmp_path):
  words = ('inspect', material / 'film.tif', '--quick', '--json')
  with open('/dev/full', 'wb') as full:
    done = subprocess.run([sys.executable, '-m', 'fibjax', *map(str, words)],
                          stdout=full, stderr=subprocess.PIPE, text=True, check=False,
                          cwd=ROOT, env={**os.environ, 'PYTHONPATH': str(ROOT)})
  check_rule(words, done.returncode, done.stderr)


@pytest.mark.parametrize('error, word', [
    (MemoryError(), 'Cannot allocate memory'),
    (RuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes'),
     'Cannot allocate memory'),
    (RuntimeError("can't start new thread"), 'Cannot allocate memory'),
    (RecursionError('maximum recursion depth exceeded'), 'nested too deeply'),
    (OSError(errno.ESTALE, 'x'), os.strerror(errno.ESTALE)),
    (RuntimeError('Unable to flush (errno = 5, error message = ...)'),
     os.strerror(errno.EIO)),
    (ExceptionGroup('some', [ValueError(), OSError(errno.EDQUOT, 'x', 'a/b')]),
     'a/b: got ' + os.strerror(errno.EDQUOT))])
def test_every_way_to_report_a_refusal_is_understood(monkeypatch, capsys, error, word):
  def fail(*_):
    raise error
  monkeypatch.setattr('fibjax.cli.data_verbs._export', fail)
  assert main.main(['export', 'a', '--out=b']) == 2
  err = capsys.readouterr().err
  assert word in err and err.count('\n') == 1
  copy = pickle.loads(pickle.dumps(refusals.refused(error, 'x')))
  assert isinstance(copy, RefusedError)


@pytest.mark.parametrize('error', [
    KeyError('a'), RuntimeError('bad shape'), ValueError('5'), OSError('odd'),
    OSError(errno.EINVAL, 'x')])
def test_a_defect_keeps_its_traceback(monkeypatch, error):
  def fail(*_):
    raise error
  monkeypatch.setattr('fibjax.cli.data_verbs._export', fail)
  with pytest.raises(type(error)):
    main.main(['export', 'a', '--out=b'])


def test_what_threads_report_is_lost_only_with_a_refusal(capsys, monkeypatch):
  def in_a_thread(error):
    def fail(*_):
      thread = threading.Thread(target=lambda: 1 / 0)
      thread.start()
      thread.join()
      if error:
        raise error
    return fail
  printed = []
  monkeypatch.setattr(threading, 'excepthook', lambda report: printed.append(report))
  for error, expected in ((OSError(errno.ENOSPC, 'x'), 0), (None, 1)):
    monkeypatch.setattr('fibjax.cli.data_verbs._export', in_a_thread(error))
    assert main.main(['export', 'a', '--out=b']) == (2 if error else 0)
    assert len(printed) == expected


def test_the_library_raises_no_odd_errors(monkeypatch):
  segmenter = fibjax.Segmenter(None, 'a scorer', None, None)
  for raised, expected in (
      (RuntimeError('RESOURCE_EXHAUSTED: Out of memory'), RefusedError),
      (MemoryError(), MemoryError), (OSError(errno.EIO, 'x'), OSError),
      (RuntimeError('a defect'), RuntimeError)):
    def fail(*_, raised=raised):
      raise raised
    monkeypatch.setattr(segmenter, 'score', fail)
    with pytest.raises(expected) as caught:
      segmenter.segment(None)
    assert type(caught.value) is expected
