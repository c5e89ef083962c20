"""fibjax runs without what only POSIX has: a job runs while its modules miss it."""
import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = ('fcntl', 'resource', 'pwd', 'grp', 'termios', 'tty', 'pty', 'syslog')
FUNCTIONS = ('sysconf', 'fork', 'getuid', 'geteuid', 'getpgid', 'killpg', 'setsid',
             'sched_getaffinity', 'mkfifo', 'uname', 'getloadavg')
SIGNALS = ('SIGKILL', 'SIGHUP', 'SIGQUIT', 'SIGALRM', 'SIGUSR1', 'SIGUSR2', 'SIGPIPE')
# Packages beneath fibjax have code of their own for each system, so only callers inside
# fibjax miss these names. Symbolic links, for which Windows asks for a privilege, fail
# for everybody.
HIDING = f'''
import builtins, ctypes, os, sys
def from_fibjax(depth=2):
  name = sys._getframe(depth).f_globals.get('__name__', '')
  return name == 'fibjax' or name.startswith('fibjax.')
real_import = builtins.__import__
def importing(name, globals=None, *rest, **options):
  if name in {MODULES!r} and from_fibjax():
    raise ImportError(f'no module {{name}} on this system')
  return real_import(name, globals, *rest, **options)
builtins.__import__ = importing
def hidden(function):
  def call(*args, **options):
    if from_fibjax():
      raise AttributeError(f'no os.{{function.__name__}} on this system')
    return function(*args, **options)
  return call
for name in {FUNCTIONS!r}:
  setattr(os, name, hidden(getattr(os, name)))
real_library = ctypes.CDLL
class Library(real_library):
  def __init__(self, name, *args, **options):
    if name is None and from_fibjax():
      raise TypeError("'NoneType' has no length")  # as on Windows
    super().__init__(name, *args, **options)
ctypes.CDLL = Library
def no_links(*_, **__):
  raise OSError('a required privilege is not held by the client')
os.symlink = os.link = no_links
'''


def run_hidden(code: str):
  return subprocess.run([sys.executable, '-c', HIDING + code], cwd=ROOT, text=True,
                        capture_output=True, check=False, timeout=500,
                        env=os.environ | {'PYTHONPATH': str(ROOT)})


@pytest.mark.parametrize('code, error', [
    ('import fcntl', 'ImportError'), ('from resource import getrusage', 'ImportError'),
    ('import os; os.sysconf("SC_PAGE_SIZE")', 'AttributeError'),
    ('import ctypes; ctypes.CDLL(None)', 'TypeError'),
    ('import os; os.symlink("a", "b")', 'OSError')])
def test_what_only_posix_has_is_hidden_from_fibjax(code, error):
  done = run_hidden(f'exec({code!r}, {{"__name__": "fibjax.system.files"}})')
  assert done.returncode == 1 and error in done.stderr.splitlines()[-1]


@pytest.mark.long
def test_the_tiny_main_job_runs_without_posix(tmp_path):
  done = run_hidden(f'''
from fibjax.cli.main import main
if __name__ == '__main__':
  sys.exit(main(['run', '--config=configs/demo.py:tiny', '--workdir={tmp_path}/a']))
''')
  assert done.returncode == 0, done.stderr
  assert json.loads(done.stdout)['after']['miou'] > 0
  assert (tmp_path / 'a' / 'report.html').exists()


@pytest.mark.parametrize('path', sorted((ROOT / 'fibjax').rglob('*.py')),
                         ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_names_what_only_posix_has(path):
  for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
    if isinstance(node, ast.Import):
      assert not {alias.name for alias in node.names} & {*MODULES}
    elif isinstance(node, ast.ImportFrom):
      assert node.module not in MODULES
    elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
      names = {'os': FUNCTIONS, 'signal': SIGNALS}.get(node.value.id, ())
      assert node.attr not in names
