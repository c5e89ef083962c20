"""A crash of the machine: nothing that looks finished stands without its data.

What a crash may lose is what was written since the last fsync: the content of a file
until an fsync of it, a name in a folder until an fsync of the folder. The system calls
of a whole job, those of TensorStore and Orbax included, are recorded and replayed on a
model of the disk. Whenever a file or folder gets a name that says it is finished, its
content and every name below it must be on the disk; and everything that was finished
before must be as well, so that any crash leaves a state that a kill could have left.
"""
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import ROOT

CALLS = ('openat,creat,write,pwrite64,writev,pwritev,pwritev2,ftruncate,fallocate,'
         'copy_file_range,sendfile,fsync,fdatasync,rename,renameat,renameat2,link,'
         'linkat,unlink,unlinkat,rmdir,mkdir,mkdirat')
RENAMES = ('rename', 'renameat', 'renameat2')
PATH = re.compile(r'"((?:[^"\\]|\\.)*)"')
DESCRIPTOR = re.compile(r'^\(?(\d+)<([^>]*)>')
# Written for the user to look at, never read back, so a job does not wait for them.
NOT_READ_BACK = re.compile(r'/(report\.html|tables\.md|figures|events|\.lock|cache)\b')


class Disk:
  """Which files and names of a folder a crash would lose."""

  def __init__(self, root: Path):
    self.root = f'{root}/'
    self.contents = set()  # files with content that is not on the disk
    self.names = set()     # paths whose name is not on the disk

  def concerns(self, path: str) -> bool:
    return path.startswith(self.root) and not NOT_READ_BACK.search(path)

  def write(self, path):
    if self.concerns(path):
      self.contents.add(path)

  def create(self, path):
    if self.concerns(path):
      self.names.add(path)

  def sync(self, path):
    self.contents.discard(path)
    self.names = {name for name in self.names if os.path.dirname(name) != path}

  def remove(self, path):
    for lost in (self.contents, self.names):
      lost.difference_update([p for p in lost if p == path or p.startswith(path + '/')])

  def rename(self, old, new):
    """Moves a file or folder; returns what of it a crash would lose."""
    below = [p for p in self.contents | self.names if p.startswith(old + '/')]
    lost = sorted({p for p in self.contents if p == old} | set(below))
    for kind in (self.contents, self.names):
      for path in [p for p in kind if p == old or p.startswith(old + '/')]:
        kind.discard(path)
        kind.add(new + path[len(old):])
    self.create(new)
    return lost


def events(trace: Path):
  """Yields (call, paths, flags) in the order in which calls began; fsync: ended."""
  begun = {}
  for line in trace.read_text().splitlines():
    thread, _, text = line.partition(' ')
    text = text.strip()
    resumed = re.match(r'<\.\.\. (\w+) resumed>', text)
    if resumed:
      call, arguments = begun.pop(thread)
      if call in ('fsync', 'fdatasync') and ' = 0' in text:
        yield parse(call, arguments)
      continue
    match = re.match(r'(\w+)\((.*)', text)
    if not match:
      continue
    call, arguments = match.groups()
    if '<unfinished' in text:
      begun[thread] = call, arguments
      if call in ('fsync', 'fdatasync'):
        continue
    elif re.search(r' = -1 E', text):
      continue
    yield parse(call, arguments)


def parse(call, arguments):
  if call in ('write', 'pwrite64', 'writev', 'pwritev', 'pwritev2', 'ftruncate',
              'fallocate', 'fsync', 'fdatasync', 'copy_file_range', 'sendfile'):
    match = DESCRIPTOR.match(arguments)
    return call, [match[2]] if match else [], ''
  return call, PATH.findall(arguments), arguments


def replay(trace: Path, root: Path) -> tuple[list[str], int]:
  """What a crash would have left finished without its data, and how many names said
  that something is finished."""
  disk, faults, finished = Disk(root), [], 0
  for call, paths, arguments in events(trace):
    if not paths:
      continue
    if call in ('openat', 'creat'):
      if 'O_TRUNC' in arguments:
        disk.write(paths[0])
      if 'O_CREAT' in arguments:
        disk.create(paths[0])
    elif call in ('mkdir', 'mkdirat'):
      disk.create(paths[0])
    elif call in ('fsync', 'fdatasync'):
      disk.sync(paths[0])
    elif call in RENAMES:
      old, new = paths
      if not disk.concerns(new):
        disk.remove(old)
        continue
      lost = disk.rename(old, new)
      if '.partial' not in new and '.orbax-checkpoint-tmp' not in new:
        finished += 1
        faults += [f'{new}: {path}' for path in lost]
        # Everything that was finished before: of it nothing may be lost any more.
        faults += [f'{new} before {path}' for path in disk.names
                   if path != new and is_finished(path)]
    elif call in ('unlink', 'unlinkat', 'rmdir'):
      disk.remove(paths[-1])
    elif call in ('link', 'linkat'):
      disk.create(paths[1])
    else:
      disk.write(paths[0])
  return faults, finished


def is_finished(path: str) -> bool:
  """Whether a name says that something is finished, rather than under construction."""
  return not re.search(r'\.partial|\.__lock|/\.[^/]*$|manifest\.jsonl|\.stages', path)


def test_the_model_finds_what_is_missing(tmp_path):
  write = 'write(3</w/.a.json.1>, "x", 1) = 1'
  sync, rename = 'fsync(3</w/.a.json.1>) = 0', 'rename("/w/.a.json.1", "/w/a.json") = 0'
  create = 'openat(AT_FDCWD, "/w/.a.json.1", O_WRONLY|O_CREAT|O_TRUNC, 0666) = 3</w/a>'
  folder, other = 'fsync(3</w>) = 0', 'rename("/w/.b.json.1", "/w/b.json") = 0'
  trace = tmp_path / 'trace'

  def faults(*lines):
    trace.write_text(''.join(f'7 {line}\n' for line in lines))
    return replay(trace, Path('/w'))[0]

  assert faults(create, write, sync, rename, folder, other) == []
  assert faults(create, write, rename, folder) == ['/w/a.json: /w/.a.json.1']
  assert faults(create, write, sync, rename, other) == [
      '/w/b.json before /w/a.json']
  assert faults(create, sync, write, rename) == ['/w/a.json: /w/.a.json.1']


@pytest.mark.long
def test_no_crash_leaves_a_finished_name_without_its_data(tmp_path):
  if not shutil.which('strace'):
    pytest.skip('needs strace to record the system calls')
  workdir, trace = tmp_path / 'w', tmp_path / 'trace'
  strace = ['strace', '-f', '-y', '--seccomp-bpf', '-s', '4096', '-e',
            f'trace={CALLS}', '-o', trace]
  if subprocess.run([*strace, 'true'], check=False).returncode:
    pytest.skip('strace may not trace processes here')
  fibjax = [sys.executable, '-m', 'fibjax']
  for command in (
      ['run', f'--config={ROOT}/configs/demo.py:tiny', f'--workdir={workdir}',
       '--config.data.shape_zyx=16,128,128', '--config.train.steps_per_epoch=2'],
      ['segment', f'--workdir={workdir}', f'--out={tmp_path}/other',
       f'--volume={workdir}/data/HPC30/raw.ome.zarr'],
      ['prep', f'{workdir}/data/HPC30/raw.ome.zarr', f'--out={tmp_path}/p/a.ome.zarr',
       '--steps=gradient']):
    subprocess.run([*strace, *fibjax, *command], check=True, capture_output=True)
    faults, finished = replay(trace, tmp_path)
    assert finished > 1 and not faults, faults[:20]
