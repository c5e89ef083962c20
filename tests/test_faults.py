"""What the system refuses, at every write: the rule of the command, then the same bits.

In the short part errors are injected into this process (faults.py), in the long one
into processes of their own, libraries in C++ included (strace), and disks are small.
"""
import errno
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from fibjax.annotation import frame
from fibjax.annotation.sizes import Sizes
from fibjax.cli import main
from fibjax.formats import tiff
from tests.faults import injected

pytestmark = pytest.mark.skipif(not os.path.isdir('/proc/self/fd'),
                                reason='needs /proc')
ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES)
SIZES = ('--region_px=32', '--context_px=64', '--context_slices=3')
# What differs between two calls: times, and lines of checksums in another order.
CHANGING = {'.checksums', '.lock', 'versions.json', 'metrics.csv', 'events',
            'report.html', 'tables.md'}


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


def content(folder: Path) -> dict[str, bytes]:
  """Bytes of all files that two undisturbed calls write alike."""
  found = {}
  for path in sorted(folder.rglob('*')):
    name = path.relative_to(folder)
    if path.is_file() and not CHANGING & set(name.parts):
      dated = {'.mat': 128, '.mrc': 1024}.get(path.suffix, 0)  # a date in the header
      found[str(name)] = path.read_bytes()[dated:]
  return found


def call(words, capsys) -> tuple[int, str]:
  """Exit status of a command and its stderr."""
  status = main.main([str(word) for word in words])
  return status, capsys.readouterr().err


def check_rule(words, status, err) -> None:
  """The rule for what the system refuses."""
  lines = [line for line in err.splitlines() if line.startswith('fibjax: ')]
  assert status == 2 and len(lines) == 1, (words, status, err)
  assert err.splitlines()[-1] == lines[0] and 'Traceback' not in err, err
  assert any(os.strerror(number) in lines[0] for number in ERRORS), err


def break_at(faults, at, number, words, work, whole, capsys) -> None:
  """Breaks one call at a write; the rule holds, and a second call ends the work."""
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


@pytest.mark.parametrize('stage', STAGES)
def test_an_error_at_any_write_ends_in_one_line_and_can_be_repeated(
    stage, material, tmp_path, capsys, monkeypatch):
  work = tmp_path / 'w'
  words = STAGES[stage](material, work)
  work.mkdir()
  with injected(work, monkeypatch) as faults:
    assert call(words, capsys)[0] == 0
    whole, writes = content(work), faults.count
    assert whole and writes > 3
    for at in range(1, writes + 1):
      shutil.rmtree(work)
      work.mkdir()
      faults.arm(0, 0)
      break_at(faults, at, ERRORS[at % 3], words, work, whole, capsys)
