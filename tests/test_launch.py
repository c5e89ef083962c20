import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = [*sorted((ROOT / 'launch').glob('*.sh')), ROOT / 'launch' / 'slurm.sbatch',
           ROOT / '.ci' / 'run']


@pytest.mark.parametrize('script', SCRIPTS, ids=lambda p: p.name)
def test_scripts_are_valid_bash(script):
  assert script.read_text().splitlines()[0] == '#!/usr/bin/env bash'
  subprocess.run(['bash', '-n', script], check=True)
  if shutil.which('shellcheck'):
    subprocess.run(['shellcheck', '-x', script], check=True, cwd=ROOT / 'launch')


def test_an_old_python_is_refused_with_a_remedy(tmp_path):
  fake = tmp_path / 'python3'
  fake.write_text('#!/usr/bin/env bash\n'
                  'if [ "$1" = --version ]; then echo Python 3.8.0; else exit 1; fi\n')
  fake.chmod(0o755)
  done = subprocess.run(['bash', ROOT / 'launch' / 'demo.sh'], text=True, check=False,
                        capture_output=True, env={'FIBJAX_PYTHON': str(fake),
                                                  'PATH': '/usr/bin:/bin'})
  assert done.returncode == 2
  assert 'Python 3.8.0, expected Python >= 3.11' in done.stderr


def test_ci_calls_the_test_command_of_the_readme():
  readme = (ROOT / 'README.md').read_text()
  assert 'bash launch/test.sh' in (ROOT / '.ci' / 'run').read_text()
  assert 'bash launch/test.sh' in readme and 'bash launch/demo.sh' in readme


needs_environment = pytest.mark.skipif(
    not (ROOT / '.venv' / 'bin' / 'dask').exists(),
    reason='needs the environment that launch/env.sh makes')


@pytest.mark.long
@needs_environment
def test_the_local_script_starts_a_sweep(tmp_path):
  def start(*words):
    return subprocess.run(
        ['bash', ROOT / 'launch' / 'local.sh', 'sweep',
         '--config=configs/skarberg2021.py:sweep_tiny', f'--workdir={tmp_path / "w"}',
         *words], text=True, check=False, capture_output=True, cwd=tmp_path)

  done = start('--config.sweep.members=0')
  assert done.returncode == 2 and 'sweep.members=0' in done.stderr
  done = start('--config.sweep.sizes=33x1', '--config.train.epochs=1')
  assert done.returncode == 0, done.stderr
  assert '"members": 3' in done.stdout


def slurm(tmp_path, *words):
  """The Slurm job with an `srun` that runs its command here."""
  (tmp_path / 'srun').write_text('#!/usr/bin/env bash\n'
                                 'while [[ $1 == --* ]]; do shift; done\nexec "$@"\n')
  (tmp_path / 'srun').chmod(0o755)
  return subprocess.run(
      ['bash', ROOT / 'launch' / 'slurm.sbatch', *words], text=True, check=False,
      capture_output=True, timeout=900,
      env={**os.environ, 'PATH': f'{tmp_path}:{os.environ["PATH"]}',
           'SLURM_SUBMIT_DIR': str(ROOT), 'SLURM_JOB_NUM_NODES': '1',
           'SLURM_JOB_ID': 'test'})


@pytest.mark.long
@needs_environment
def test_the_slurm_job_trains_a_sweep_on_its_workers(tmp_path):
  done = slurm(tmp_path, 'sweep', '--config=configs/skarberg2021.py:sweep_tiny',
               f'--workdir={tmp_path / "w"}', '--config.train.epochs=1')
  assert done.returncode == 0, done.stderr
  assert '"members": 6' in done.stdout
  assert not list(ROOT.glob('.slurm-test-*'))


@pytest.mark.long
@needs_environment
def test_the_slurm_job_starts_a_cluster_and_ends_it(tmp_path):
  # The job itself is a mistake, whose status and message come through.
  done = slurm(tmp_path, 'segment', f'--workdir={tmp_path / "none"}', '--volume=V',
               '--out=O')
  folder, = ROOT.glob('.slurm-test-*')
  try:
    assert done.returncode == 2
    assert 'none/config.json: got no such file' in done.stderr
    assert 'tls://127.0.0.1:' in (folder / 'scheduler.log').read_text()
    assert 'Registered to' in (folder / 'workers.log').read_text()
    assert 'jax' in (folder / 'software.txt').read_text()
    assert not (folder / 'tls').exists()
  finally:
    shutil.rmtree(folder)
