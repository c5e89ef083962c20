"""What a workdir was made with: command, versions, and differences in settings."""
import importlib.metadata
import platform
import shlex
import sys

from fibjax.system import files
from fibjax.system.run_folder import RunFolder

_PACKAGES = ('fibjax', 'jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy',
             'scipy', 'tensorstore', 'ml-collections')


def versions() -> dict[str, str]:
  """Versions of Python, the operating system and the packages that results rest on."""
  return {'python': platform.python_version(), 'platform': platform.platform(),
          **{name: importlib.metadata.version(name) for name in _PACKAGES}}


def write_versions(workdir) -> None:
  """Records the command and the versions of Python and packages in versions.json."""
  files.write_json(RunFolder(workdir).versions,
                   {'command': shlex.join(['fibjax', *sys.argv[1:]]), **versions()})


def differences(recorded: dict, current: dict, prefix: str = ''):
  """Yields a phrase for every key whose value differs between two JSON contents.

  Args:
    recorded: content of a file of the workdir.
    current: what the call would write there.
    prefix: of nested keys, e.g. 'train.'.
  """
  for key in set(recorded) | set(current):
    old, new = (content.get(key) for content in (recorded, current))
    if isinstance(old, dict) and isinstance(new, dict):
      yield from differences(old, new, f'{prefix}{key}.')
    elif old != new:
      yield f'{prefix}{key} was {old!r}, now {new!r}'
