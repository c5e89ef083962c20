"""Shared fixtures: strict JAX settings, two CPU devices, optional real data."""
import os
from pathlib import Path

os.environ.setdefault('JAX_PLATFORMS', 'cpu')

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
