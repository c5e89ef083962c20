"""What was written is checked when it is read: flipped bits, damaged lists, caches."""
import json
import os
import subprocess

import numpy as np
import pytest

from fibjax.annotation.regions import load_regions, make_regions, save_regions
from fibjax.errors import InputError
from fibjax.system import checksums, csv_files, files
from fibjax.training import checkpoint
from fibjax.volumes.blockwise import open_finished
from fibjax.volumes.volume import new_volume, open_volume, read_box, write_box


def flip(path, bit: int) -> None:
  content = bytearray(path.read_bytes())
  content[bit // 8] ^= 1 << bit % 8
  path.write_bytes(content)


def test_every_flip_in_json_is_reported(tmp_path):
  path = tmp_path / 'a.json'
  files.write_json(path, {'sigma_px': 1.25, 'rows': [1, 2]})
  for bit in range(8 * path.stat().st_size):
    flip(path, bit)
    with pytest.raises(InputError, match=r'a\.json'):
      files.read_json(path)
    flip(path, bit)
  assert files.read_json(path) == {'sigma_px': 1.25, 'rows': [1, 2]}


def test_every_flip_in_a_table_is_reported(tmp_path):
  path = tmp_path / 'a.csv'
  csv_files.write_csv(path, [{'epoch': 0, 'val_bce': 0.5}], ('epoch', 'val_bce'))
  for bit in range(8 * path.stat().st_size):
    flip(path, bit)
    with pytest.raises(InputError, match=r'a\.csv'):
      csv_files.read_columns(path)
    flip(path, bit)
  assert csv_files.read_columns(path)['val_bce'] == 0.5


def test_the_list_is_one_of_b2sum(tmp_path):
  for k in range(3):
    files.write_json(tmp_path / f'{k}.json', k)
  command = ['b2sum', '--length=128', '--check', '--quiet', checksums.LIST]
  assert subprocess.run(command, cwd=tmp_path, check=False).returncode == 0
  flip(tmp_path / '1.json', 0)
  assert subprocess.run(command, cwd=tmp_path, check=False,
                        capture_output=True).returncode == 1


def test_a_crash_between_list_and_rename_keeps_the_old_file(tmp_path):
  path = tmp_path / 'a.json'
  files.write_json(path, 'old')
  checksums.record(path, checksums.hash_bytes(b'"new"\n'))  # and then the power fails
  assert files.read_json(path) == 'old'
  files.write_json(path, 'new')
  assert files.read_json(path) == 'new'


def test_files_of_the_user_may_change(tmp_path):
  path = tmp_path / 'a.json'
  files.write_json(path, 1, checked=False)
  path.write_text('2')
  assert files.read_json(path) == 2
  assert not (tmp_path / checksums.LIST).exists()


def test_regions_may_be_edited_until_a_run_has_them(tmp_path):
  regions = make_regions('film', [(0, 1, 2)], [np.zeros((4, 4), np.uint8)], ['train'])
  save_regions(tmp_path / 'r', regions)
  table = tmp_path / 'r' / 'regions.csv'
  table.write_text(table.read_text().replace('train', 'test'))
  assert load_regions(tmp_path / 'r').split == ('test',)
  checksums.seal(tmp_path / 'r')
  assert load_regions(tmp_path / 'r').split == ('test',)
  table.write_text(table.read_text().replace('test', 'val'))
  with pytest.raises(InputError, match=r'regions\.csv'):
    load_regions(tmp_path / 'r')


@pytest.mark.long
def test_every_flip_in_a_volume_is_reported(tmp_path):
  rng = np.random.default_rng(0)
  path = tmp_path / 'v'
  image_zyx = rng.integers(0, 2, (5, 6, 7)).astype(np.uint8)
  with new_volume(path, image_zyx.shape, np.uint8, (50, 10, 10), fill_value=None,
                  shard_zyx=(3, 6, 7), attributes={'sigma_px': 1.5}) as volume:
    write_box(volume, (0, 0, 0), image_zyx)
  content = [file for file in sorted(path.rglob('*')) if file.is_file()]
  assert len(content) == 4
  for file in content:
    bits = 8 * file.stat().st_size
    for bit in range(bits) if bits < 2000 else rng.choice(bits, 100, replace=False):
      flip(file, bit)
      try:
        volume = open_finished(path)
      except InputError as error:
        assert str(path) in str(error)
      else:  # a letter of the key that names the checksum: nothing was checked
        assert file == path / 'zarr.json' and 'checksum' in volume.attributes | {
            'checksum': ''}
        np.testing.assert_array_equal(read_box(volume, (0, 0, 0), volume.shape),
                                      image_zyx)
        assert volume.voxel_size_zyx_nm == (50, 10, 10)
      flip(file, bit)
  open_finished(path)


def test_a_flip_in_a_checkpoint_is_reported_or_harmless(tmp_path):
  rng = np.random.default_rng(1)
  state = {'kernel': rng.random((3, 3, 4, 8), np.float32), 'step': np.int32(7)}
  meta = {'rows': [[{'epoch': 0, 'val_bce': 0.125}]], 'ended': {}}
  checkpoint.save(tmp_path, 0, state, meta)
  content = [file for file in sorted(tmp_path.rglob('*')) if file.stat().st_size]
  reported = 0
  for _ in range(60):
    file = content[rng.integers(len(content))]
    if file.is_dir():
      continue
    bit = rng.integers(8 * file.stat().st_size)
    flip(file, bit)
    try:
      stored, stored_meta = checkpoint.restore(tmp_path, 0, state)
    except InputError as error:
      assert 'checkpoint' in str(error)
      reported += 1
    else:  # a letter of a name in the list: that file was not checked
      assert file.name == checksums.LIST
      for key in state:
        np.testing.assert_array_equal(stored[key], state[key])
      assert stored_meta == meta
    flip(file, bit)
  assert reported > 10
  assert checkpoint.restore(tmp_path, 0, state)[1] == meta


def test_the_cache_of_hashes(tmp_path, monkeypatch):
  folder, cache = tmp_path / 'v', tmp_path / 'cache'
  monkeypatch.setenv('XDG_CACHE_HOME', str(cache))
  folder.mkdir()
  file = folder / 'shard'
  file.write_bytes(b'grey')
  fresh = files.hash_files(folder)
  assert not cache.exists()  # it could change again within its time stamp
  before = os.stat(file).st_mtime_ns - 10 ** 10
  os.utime(file, ns=(before, before))
  assert files.hash_files(folder) == fresh
  kept, = (cache / 'fibjax').iterdir()
  for bit in range(8 * kept.stat().st_size):
    flip(kept, bit)
    assert files.hash_files(folder) == fresh, bit
  # The cache is used: content behind the same size and time is not read again.
  file.write_bytes(b'GREY')
  os.utime(file, ns=(before, before))
  assert files.hash_files(folder) == fresh
  os.utime(file)
  assert files.hash_files(folder) != fresh


def test_metadata_without_a_checksum_are_accepted(tmp_path):
  with new_volume(tmp_path / 'v', (2, 3, 4), np.uint8, None):
    pass
  path = tmp_path / 'v' / 'zarr.json'
  content = json.loads(path.read_text())
  assert content['attributes']['fibjax'].pop('checksum')
  path.write_text(json.dumps(content))
  assert open_volume(tmp_path / 'v').shape == (2, 3, 4)
