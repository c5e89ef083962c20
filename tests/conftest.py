"""Shared fixtures: strict JAX settings, two CPU devices, optional real data."""
import atexit
import os
import shutil
import tempfile
from pathlib import Path

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
# Most of the time goes into compiling; a program that several tests need, here or in
# another process of this session, is compiled once.
if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
  _programs = os.environ['JAX_COMPILATION_CACHE_DIR'] = tempfile.mkdtemp()
  os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0.3'
  atexit.register(shutil.rmtree, _programs, ignore_errors=True)

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update('jax_num_cpu_devices', 2)
jax.config.update('jax_numpy_rank_promotion', 'raise')


@pytest.fixture(scope='session', autouse=True)
def cache_home(tmp_path_factory):
  """Keeps hashes of volumes out of the user's own cache, here and in subprocesses."""
  os.environ['XDG_CACHE_HOME'] = str(tmp_path_factory.mktemp('cache'))


@pytest.fixture(scope='session')
def shared_data() -> Path:
  """Folder with the real volumes; set FIBJAX_DATA, or keep it at ../shared/data."""
  default = Path(__file__).parents[2] / 'shared' / 'data'
  path = Path(os.environ.get('FIBJAX_DATA', default))
  if not path.is_dir():
    pytest.skip(f'needs the real volumes; no folder {path} (set FIBJAX_DATA)')
  return path
