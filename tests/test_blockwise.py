"""Block-wise processing: complete, resumable, and honest about faults."""
import functools
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from fibjax.errors import InputError
from fibjax.system import files, geometry
from fibjax.system.cluster import HERE, Resources
from fibjax.volumes import blockwise, ome_zarr
from fibjax.volumes.blockwise import BlockFunction
from fibjax.volumes.volume import new_volume, open_volume, read_box, write_box


class _StoppedError(Exception):
  pass


def negate(log=None, wait_s=0., die_at=None, source=None):
  """Changes every sign of a volume; logs a line per computed shard."""
  def compute(box, block_zyx):
    time.sleep(wait_s)
    if die_at is not None and box[0] == tuple(die_at) and not os.path.exists(log):
      open(log, 'w').close()
      os.kill(os.getpid(), signal.SIGKILL)
    if log is not None:
      with open(log, 'a') as file:
        file.write(f'{box[0]}\n')
    return -block_zyx
  return BlockFunction(lambda box: box, compute)


def opener(log=None, wait_s=0., die_at=None):
  return functools.partial(negate, log, wait_s, die_at)


@pytest.fixture
def film(tmp_path, monkeypatch):
  monkeypatch.setattr(ome_zarr, 'SHARD_ZYX', (2, 8, 8))
  monkeypatch.setattr(ome_zarr, 'CHUNK_ZYX', (1, 4, 4))
  array = np.random.default_rng(0).random((5, 20, 13)).astype(np.float32)
  with new_volume(tmp_path / 'film', array.shape, np.float32,
                  (50., 10., 10.)) as volume:
    write_box(volume, (0, 0, 0), array)
  return open_volume(tmp_path / 'film'), array


def make(film, out, open_function=None, fingerprint=None, resources=HERE):
  source, _ = film
  volume = blockwise.map_blocks(
      open_function or opener(), source, out, np.float32,
      fingerprint=fingerprint or {'source': files.hash_files(source.path)},
      title='negate', resources=resources)
  return read_box(volume, (0, 0, 0), volume.shape)


def test_every_voxel_is_made_once_and_nothing_else_is_left(film, tmp_path):
  steps = opener(tmp_path / 'log')
  np.testing.assert_array_equal(make(film, tmp_path / 'out', steps), -film[1])
  volume = open_volume(tmp_path / 'out')
  boxes = blockwise.shard_boxes(volume)
  assert len(boxes) == 3 * 3 * 2
  assert sorted((tmp_path / 'log').read_text().splitlines()) == sorted(
      str(start) for start, _ in boxes)
  assert volume.voxel_size_zyx_nm == (50., 10., 10.)
  assert {p.name for p in tmp_path.iterdir()} == {'film', 'out', 'log'}


@pytest.mark.parametrize('stage', ['read', 'compute', 'write'])
def test_what_was_finished_before_a_fault_is_not_made_again(film, tmp_path, stage,
                                                            monkeypatch):
  stop_at = (2, 8, 0)

  def open_faulty(source):
    reads, compute = negate(source=source)

    def faulty(function, name):
      def call(box, *block):
        if name == stage and box[0] == stop_at:
          raise _StoppedError
        return function(box, *block)
      return call
    return BlockFunction(faulty(reads, 'read'), faulty(compute, 'compute'))

  write = blockwise.write_box

  def faulty_write(volume, start, array):
    if stage == 'write' and start == stop_at:
      raise _StoppedError
    write(volume, start, array)

  monkeypatch.setattr(blockwise, 'write_box', faulty_write)
  with pytest.raises(_StoppedError):
    make(film, tmp_path / 'out', open_faulty)
  assert not (tmp_path / 'out').exists()
  monkeypatch.setattr(blockwise, 'write_box', write)
  order = [start for start, _ in
           geometry.tile_boxes(film[0].shape, (2, 8, 8))]
  lines = (tmp_path / 'out.manifest.jsonl').read_text().splitlines()[1:]
  before = order[:order.index(stop_at)]
  assert [tuple(json.loads(line)) for line in lines] == before
  steps = opener(tmp_path / 'log')
  np.testing.assert_array_equal(make(film, tmp_path / 'out', steps), -film[1])
  assert (tmp_path / 'log').read_text().splitlines() == [
      str(start) for start in order[len(before):]]


SCRIPT = '''
import sys
from pathlib import Path
from fibjax.volumes import ome_zarr
from fibjax.volumes.volume import open_volume
from tests.test_blockwise import make, opener
ome_zarr.SHARD_ZYX, ome_zarr.CHUNK_ZYX = (2, 8, 8), (1, 4, 4)
folder = Path(sys.argv[1])
source = open_volume(folder / 'film')
make((source, None), folder / 'out', opener(folder / 'log', 0.1))
'''


@pytest.mark.long
def test_a_killed_process_loses_nothing_that_was_finished(film, tmp_path):
  for kills in range(3):
    with subprocess.Popen([sys.executable, '-c', SCRIPT, tmp_path]) as process:
      manifest, goal = tmp_path / 'out.manifest.jsonl', 4 * (kills + 1)
      while not manifest.exists() or manifest.read_text().count('\n') <= goal:
        assert process.poll() is None
        time.sleep(0.01)
      process.kill()
    assert not (tmp_path / 'out').exists()
  with open(manifest, 'a') as file:
    file.write('[2, 8')  # a line torn by the crash
  np.testing.assert_array_equal(make(film, tmp_path / 'out'), -film[1])
  computed = (tmp_path / 'log').read_text().splitlines()
  assert len(computed) <= 18 + 2 * 3  # at most the one in work and the one written


def test_a_finished_shard_that_is_damaged_is_made_again(film, tmp_path):
  def stop(box):
    raise _StoppedError

  reads, compute = negate()
  with pytest.raises(_StoppedError):
    make(film, tmp_path / 'out', lambda source: BlockFunction(
        lambda box: stop(box) if box[0] == (4, 0, 0) else reads(box), compute))
  shard = max((tmp_path / 'out.partial' / '0' / 'c').rglob('*/*/*'))
  shard.write_bytes(shard.read_bytes()[:-40])
  np.testing.assert_array_equal(make(film, tmp_path / 'out'), -film[1])


def test_parts_of_something_else_are_refused_with_the_difference(film, tmp_path):
  make(film, tmp_path / 'out', fingerprint={'weights': 'a', 'n': (1, 2)})
  make(film, tmp_path / 'out', fingerprint={'weights': 'a', 'n': (1, 2)})
  with pytest.raises(InputError, match="'weights': 'a'.*expected .'weights': 'b'"):
    make(film, tmp_path / 'out', fingerprint={'weights': 'b', 'n': (1, 2)})


def test_a_source_that_changes_under_the_work_stops_it(film, tmp_path):
  source, array = film
  reads, negated = negate()

  def compute(box, block_zyx):
    if box[0] == (2, 0, 0):
      write_box(source, (4, 0, 0), array[4:] + 1)
    return negated(box, block_zyx)

  with pytest.raises(InputError, match='film: got a volume that changed'):
    make(film, tmp_path / 'out', lambda source: BlockFunction(reads, compute))
  assert not (tmp_path / 'out').exists()
  with pytest.raises(InputError, match="manifest.*'source'"):
    make(film, tmp_path / 'out')


def test_a_truncated_shard_of_the_source_is_named(film, tmp_path):
  shard = max((tmp_path / 'film' / '0' / 'c').rglob('*/*/*'))
  shard.write_bytes(shard.read_bytes()[:-40])
  with pytest.raises(InputError, match='film: .*import or compute it again'):
    make(film, tmp_path / 'out')


FULL_DISK = '''
import resource, sys
from pathlib import Path
from fibjax.errors import InputError
from fibjax.volumes import ome_zarr
from fibjax.volumes.volume import open_volume
from tests.test_blockwise import make
ome_zarr.SHARD_ZYX = (4, 20, 13)  # a shard of 4 kB, then one of 1 kB
folder = Path(sys.argv[1])
source = open_volume(folder / 'film')
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
try:
  make((source, None), folder / 'out')
except InputError as error:
  print(error)
'''


def test_a_disk_that_takes_no_more_is_a_clear_error(film, tmp_path):
  # A limit on the size of files stands for the full disk: the write fails the same.
  done = subprocess.run([sys.executable, '-c', FULL_DISK, tmp_path, '3000'], text=True,
                        capture_output=True, check=True)
  assert 'free some space' in done.stdout
  assert not (tmp_path / 'out').exists()
  done = subprocess.run([sys.executable, '-c', FULL_DISK, tmp_path, '9999999'],
                        text=True, capture_output=True, check=True)
  assert not done.stdout
  found = open_volume(tmp_path / 'out')
  np.testing.assert_array_equal(
      read_box(found, (0, 0, 0), found.shape), -film[1])


@pytest.mark.long
def test_workers_make_the_same_and_one_may_die(film, tmp_path):
  steps = opener(tmp_path / 'log', 0., (2, 8, 0))
  found = make(film, tmp_path / 'out', steps, resources=Resources(workers=2))
  np.testing.assert_array_equal(found, -film[1])
  assert (tmp_path / 'log').exists()


def mirror(margin, source):
  """Sums each voxel's neighbours at a distance along z and y; mirrors at the faces."""
  grow = functools.partial(geometry.grow, margin=(margin, margin, 0))

  def compute(box, block_zyx):
    depth, height, _ = geometry.box_shape(box)
    return (block_zyx[:depth, :height] + block_zyx[2 * margin:, 2 * margin:]
            ).astype(np.float32)
  return BlockFunction(grow, compute)


def test_boxes_that_leave_the_source_are_mirrored(film, tmp_path):
  source, array = film
  got = make(film, tmp_path / 'out', functools.partial(mirror, 2))
  padded = np.pad(array, ((2, 2), (2, 2), (0, 0)), 'reflect')
  np.testing.assert_array_equal(got, padded[:-4, :-4] + padded[4:, 4:])
