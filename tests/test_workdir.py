import json
import multiprocessing
import os
import shutil
import sys

import jax
import pytest

from fibjax.errors import InputError, check_shape
from fibjax.system import files, provenance, run_folder


def test_write_json_leaves_the_old_file_when_it_fails(tmp_path):
  path = tmp_path / 'a.json'
  files.write_json(path, {'a': 1})
  with pytest.raises(ValueError, match='JSON'):
    files.write_json(path, {'a': float('nan')})
  assert json.loads(path.read_text()) == {'a': 1}
  assert [p.name for p in tmp_path.iterdir()] == ['a.json']


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
