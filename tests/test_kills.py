"""Kills at random moments: nothing that was finished is lost or changed.

Each job runs once undisturbed. Then it is started again and again in an empty folder,
and killed (SIGKILL, its workers too) at a random moment, until it gets to its end:
results must be those of the undisturbed job to the bit, and what a killed call left
finished must never change. FIBJAX_KILLS sets how many kills there are in all.
"""
import hashlib
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.helpers import ROOT

KILLS = int(os.environ.get('FIBJAX_KILLS', 10))
CONFIGS = f'{ROOT}/configs'
SMALL = ('--config.data.shape_zyx=16,128,128', '--config.train.steps_per_epoch=2',
         '--config.analyse.mvoxel=0')
JOBS = {
    'run': ['run', f'--config={CONFIGS}/demo.py:tiny', *SMALL],
    'unlabelled': ['run', f'--config={CONFIGS}/demo.py:tiny', *SMALL,
                   '--config.train.unlabelled=1', '--config.train.epochs=4'],
    'sweep': ['sweep', f'--config={CONFIGS}/skarberg2021.py:sweep_tiny'],
    'ensemble': ['ensemble', f'--config={CONFIGS}/demo.py:ensemble_tiny', *SMALL],
    'study': ['study', f'--config={CONFIGS}/membrane.py:tiny'],
    'segment': ['segment', '--workers=2']}
# Results that are finished when they have their name, and hold no time of day.
FINISHED = ('metrics.json', 'postprocess.json', 'porosities.csv', 'results.json',
            'ensemble.json', 'best.json', 'study.json', 'slices.csv', 'regions.csv')
VOLUMES = ('raw.ome.zarr', 'truth.ome.zarr', 'prepared.ome.zarr', 'scores.ome.zarr',
           'segmentation.ome.zarr', 'labels.ome.zarr')


def start(command, folder):
  """Starts a job in a new process group, so that its workers die with it."""
  flag = '--out' if command[0] == 'segment' else '--workdir'
  with open(f'{folder}.log', 'ab') as log:
    return subprocess.Popen(
        [sys.executable, '-m', 'fibjax', *command, f'{flag}={folder}'],
        stdout=log, stderr=log, start_new_session=True)


def finished_files(folder):
  """Hash of every finished result by its path."""
  hashes = {}
  for path in sorted(folder.rglob('*')):
    inner = path.relative_to(folder)
    building = any('.partial' in part or part.startswith('.') for part in inner.parts)
    if path.is_file() and not building and (
        path.name in FINISHED or set(inner.parts) & set(VOLUMES)):
      hashes[str(inner)] = hashlib.blake2b(path.read_bytes()).hexdigest()
  return hashes


def without_paths(results):
  """Results without the metadata of volumes, which name the workdir."""
  return {path: digest for path, digest in results.items()
          if not path.endswith('zarr.json')}


@pytest.mark.long
@pytest.mark.parametrize('job', JOBS)
def test_kills_lose_and_change_nothing(tmp_path, job):
  rng, command, folder = np.random.default_rng(7), JOBS[job], tmp_path / 'killed'
  if job == 'segment':
    trained = tmp_path / 'trained'
    assert start(JOBS['run'], trained).wait() == 0
    command = [*command, f'--workdir={trained}',
               f'--volume={trained}/data/HPC30/raw.ome.zarr']
  began = time.monotonic()
  assert start(command, tmp_path / 'whole').wait() == 0
  seconds = time.monotonic() - began
  whole = without_paths(finished_files(tmp_path / 'whole'))
  assert len(whole) > 3
  before = {}
  for _ in range(-(-KILLS // len(JOBS))):
    process = start(command, folder)
    try:
      # Later and later, on average, as the job has less and less left to do.
      process.wait(rng.uniform(0, seconds))
    except subprocess.TimeoutExpired:
      os.killpg(process.pid, signal.SIGKILL)
      process.wait()
    after = finished_files(folder) if folder.exists() else {}
    assert {path: after.get(path) for path in before} == before
    before = after
  assert start(command, folder).wait() == 0, (tmp_path / 'killed.log').read_text()
  assert without_paths(finished_files(folder)) == whole
