"""Single flipped bits in finished workdirs: reported, or without any effect.

After each flip the commands that use a workdir are run again. What they give must be
what they gave before, to the bit, or an InputError. FIBJAX_FLIPS sets their number.
"""
import hashlib
import os

import jax
import numpy as np
import pytest

from fibjax.config import load
from fibjax.errors import InputError
from fibjax.pipeline import run, segmenter
from fibjax.studies import sweep, sweep_members
from fibjax.system.run_folder import RunFolder
from tests.helpers import ROOT

FLIPS = int(os.environ.get('FIBJAX_FLIPS', 40))
# Written for the user, and never read back.
NOT_READ = ('report.html', 'tables.md', '.lock', 'figures', 'events', 'snapshots')


def commands(settings, folder):
  """Functions that use a finished workdir; each returns what it made, as bytes."""
  workdir = RunFolder(folder)
  image_zyx = np.random.default_rng(0).integers(0, 255, (7, 96, 96)).astype(np.uint8)

  def finished():
    run.run(settings, folder)
    return b''.join(path.read_bytes() for path in (
        workdir.metrics, workdir.postprocess, workdir.tables))

  def evaluated():
    return repr(run.evaluate_again(folder)).encode()

  def segmented():
    loaded = segmenter.load(folder)
    return loaded.score(image_zyx).tobytes() + loaded.segment(image_zyx).tobytes()

  return finished, evaluated, segmented


def swept(settings, folder):
  """As `commands`, of a sweep: its table, and the weights of its best member."""
  workdir = RunFolder(folder)

  def finished():
    result = sweep.run_sweep(settings, folder)
    return repr(result).encode() + workdir.sweep.members.read_bytes()

  def members():
    rows = sweep_members.find_members(settings, workdir.sweep)
    _, weights = sweep_members.load_member(settings, workdir.sweep, rows[0], 'best')
    return repr([(row['seed'], row['val_bce']) for row in rows]).encode() + b''.join(
        np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(weights))

  return finished, members


def content(folder):
  """Hash of every file, to see that nothing was changed."""
  return {path: hashlib.blake2b(path.read_bytes()).digest()
          for path in files_of(folder)}


def files_of(folder):
  return [path for path in sorted(folder.rglob('*'))
          if path.is_file() and path.stat().st_size
          and not set(path.relative_to(folder).parts) & set(NOT_READ)]


def kind(path, folder):
  """Files of one kind share suffix and first folder, e.g. all shards of the scores."""
  parts = path.relative_to(folder).parts
  return parts[0], path.suffix or ('shard' if 'c' in parts else path.name[:6])


@pytest.mark.long
@pytest.mark.parametrize('config, overrides, make, share', [
    ('demo.py:tiny', ('data.shape_zyx=16,128,128', 'train.steps_per_epoch=2',
                      'analyse.mvoxel=0'), commands, 0.6),
    ('demo.py:tiny', ('data.shape_zyx=40,96,96', 'model.name=forest',
                      'forest.trees=5', 'analyse.mvoxel=0'), commands, 0.2),
    ('skarberg2021.py:sweep_tiny', (), swept, 0.2)])
def test_a_flipped_bit_is_reported_or_has_no_effect(tmp_path, config, overrides, make,
                                                    share):
  settings, folder = load(f'{ROOT}/configs/{config}', overrides), tmp_path / 'w'
  functions = make(settings, folder)
  functions[0]()
  expected = [function() for function in functions]
  before, rng = content(folder), np.random.default_rng(0)
  kinds = {}
  for path in before:
    kinds.setdefault(kind(path, folder), []).append(path)
  reported = 0
  for number in range(max(1, round(share * FLIPS))):
    some = list(kinds.values())[number % len(kinds)]
    path = some[rng.integers(len(some))]
    intact = path.read_bytes()
    bit = rng.integers(8 * len(intact))
    flipped = bytearray(intact)
    flipped[bit // 8] ^= 1 << bit % 8
    path.write_bytes(flipped)
    for function, value in zip(functions, expected, strict=True):
      try:
        assert function() == value, f'{path}: bit {bit} changed {function.__name__}'
      except InputError:
        reported += 1
        break
    path.write_bytes(intact)
    changed = [p for p, digest in content(folder).items() if before.get(p) != digest]
    assert not changed, f'{path}: bit {bit} changed {changed}'
  assert reported
