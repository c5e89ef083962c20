"""Files that are whole or absent, locks, errors, memory and versions."""
import json
import multiprocessing
import os
import shutil
import subprocess
import sys

import jax
import pytest

from fibjax.errors import InputError, check_shape, nearest, unknown
from fibjax.system import files, memory, provenance, run_folder


def test_write_json_leaves_the_old_file_when_it_fails(tmp_path):
  path = tmp_path / 'a.json'
  files.write_json(path, {'a': 1})
  with pytest.raises(ValueError, match='JSON'):
    files.write_json(path, {'a': float('nan')})
  assert json.loads(path.read_text()) == {'a': 1}
  assert {p.name for p in tmp_path.iterdir()} == {'a.json', '.checksums'}


def test_read_json_names_missing_and_damaged_files(tmp_path):
  with pytest.raises(InputError, match='no such file'):
    files.read_json(tmp_path / 'none.json')
  (tmp_path / 'bad.json').write_text('{')
  with pytest.raises(InputError, match=r'bad\.json.*damaged'):
    files.read_json(tmp_path / 'bad.json')


def _hold(path, locked, release):
  with run_folder.lock(path):
    locked.set()
    release.wait(30)


def test_a_second_process_is_refused_and_a_dead_one_releases(tmp_path):
  context = multiprocessing.get_context('spawn')
  locked, release = context.Event(), context.Event()
  process = context.Process(target=_hold, args=(tmp_path, locked, release))
  process.start()
  assert locked.wait(60)
  with pytest.raises(InputError, match='in use'), run_folder.lock(tmp_path):
    pass
  process.kill()
  process.join()
  with run_folder.lock(tmp_path):
    pass


def test_input_error_is_one_line_with_all_parts():
  error = InputError('file.tif', got='a\nb', expected='c', remedy='d')
  assert str(error) == 'file.tif: got a b, expected c; d'


def test_check_shape_accepts_none_as_any_length():
  class Array:
    shape = (3, 4)
  check_shape('a', Array, (3, None))
  with pytest.raises(InputError, match=r'a: got shape \(3, 4\)'):
    check_shape('a', Array, (3, 5))


def test_hashes_follow_content_and_stamps_follow_writing(tmp_path):
  (tmp_path / 'a' / 'b').mkdir(parents=True)
  (tmp_path / 'a' / 'b' / 'x').write_text('1')
  content = files.hash_files(tmp_path / 'a')
  stamp = files.stamp_files(tmp_path / 'a')
  shutil.copytree(tmp_path / 'a', tmp_path / 'copy')
  assert files.hash_files(tmp_path / 'copy') == content
  os.utime(tmp_path / 'a' / 'b' / 'x', (1, 1))
  assert files.hash_files(tmp_path / 'a') == content
  assert files.stamp_files(tmp_path / 'a') != stamp
  (tmp_path / 'a' / 'b' / 'x').write_text('2')
  assert files.hash_files(tmp_path / 'a') != content
  (tmp_path / 'copy' / 'b' / 'x').rename(tmp_path / 'copy' / 'y')
  assert files.hash_files(tmp_path / 'copy') != content


def test_versions_tell_the_command_that_can_be_repeated(tmp_path, monkeypatch):
  monkeypatch.setattr(sys, 'argv', ['/opt/bin/fibjax', 'run',
                                    '--config.train.loss=bce + dice'])
  provenance.write_versions(tmp_path)
  found = files.read_json(tmp_path / 'versions.json')
  assert found['command'] == "fibjax run '--config.train.loss=bce + dice'"
  assert found['jax'] == jax.__version__


def test_the_nearest_known_word_is_suggested():
  known = ('patch_cnn', 'resunet', 'unet', 'forest')
  assert nearest('resnet', known) == 'resunet'
  assert nearest('FORREST', known) == 'forest'
  assert nearest('zzz', known) == ''
  assert str(unknown('method', 'forrest', known)) == (
      "method: got 'forrest', expected one of patch_cnn, resunet, unet, forest; "
      "did you mean 'forest'?")
  assert str(unknown('n_z', 2, (1, 3), 'use 3')) == (
      "n_z: got 2, expected one of 1, 3; use 3")


def test_a_file_is_replaced_when_it_is_whole_and_never_before(tmp_path):
  path = tmp_path / 'folder' / 'a.npy'
  with files.whole_file(path) as partial:
    partial.write_bytes(b'old')
    assert partial.suffix == '.npy' and not path.exists()
    assert files.is_temporary(partial, path)
  with pytest.raises(OSError, match='full'), files.whole_file(path) as partial:
    partial.write_bytes(b'ne')
    raise OSError('full')
  assert path.read_bytes() == b'old'
  assert list(path.parent.iterdir()) == [path]
  files.write_bytes(path, b'new')
  assert path.read_bytes() == b'new' and list(path.parent.iterdir()) == [path]


def test_a_folder_appears_when_it_is_whole_and_never_before(tmp_path):
  (tmp_path / 'a.partial').mkdir()  # of a killed process
  with files.new_folder(tmp_path / 'a') as partial:
    assert files.is_partial(partial) and not partial.exists()
    assert files.final_name(partial) == 'a'
    partial.mkdir()
    (partial / 'x').write_text('1')
    assert not (tmp_path / 'a').exists()
  assert [p.name for p in tmp_path.rglob('*')] == ['a', 'x']
  with pytest.raises(KeyboardInterrupt), files.new_folder(tmp_path / 'b') as partial:
    partial.mkdir()
    raise KeyboardInterrupt
  assert not list(tmp_path.glob('b*'))
  with (pytest.raises(InputError, match='a: got a path that already exists'),
        files.new_folder(tmp_path / 'a')):
    pass


def test_memory_of_the_machine_and_peak_of_the_process():
  page, pages = os.sysconf('SC_PAGE_SIZE'), os.sysconf('SC_PHYS_PAGES')
  assert memory.total_bytes() == page * pages
  size = 200 * 2 ** 20
  with memory.watch_peak() as peak_bytes:
    before = peak_bytes()
    block = bytearray(os.urandom(2 ** 20) * 200)
    peak = peak_bytes()
    del block
    memory.trim()
    assert peak_bytes() == peak >= before + 0.9 * size
  with memory.watch_peak() as peak_bytes:  # counts from the start of its own block
    assert peak_bytes() < peak - 0.5 * size


def test_memory_is_not_trimmed_where_it_cannot_be(monkeypatch):
  def library(name):
    raise TypeError(f'not a name: {name}')
  monkeypatch.setattr(memory.ctypes, 'CDLL', library)
  memory._malloc_trim.cache_clear()
  memory.trim()
  memory._malloc_trim.cache_clear()


LIGHT = ('fibjax', 'fibjax.errors', 'fibjax.system.files', 'fibjax.system.progress',
         'fibjax.system.signals', 'fibjax.system.run_folder',
         'fibjax.system.provenance', 'fibjax.cli.main')


@pytest.mark.parametrize('name', LIGHT)
def test_what_answers_at_once_imports_no_jax(name):
  code = f'import sys, {name}; sys.exit("jax" in sys.modules)'
  assert subprocess.run([sys.executable, '-c', code], check=False).returncode == 0
