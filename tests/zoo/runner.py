"""Runs cases in a process with limits: `python -m tests.zoo.runner FOLDER`.

Reads a name of a case per line from stdin, and answers with a line of JSON on what was
stdout at the start: {name, status, stdout, stderr, changed, seconds}. The command runs
in this process, since starting one takes seconds; its output is caught at the file
descriptors, so that lines of C++ libraries are seen too.

The limit is RLIMIT_DATA, memory that was written or can be: RLIMIT_AS would count the
address space that JAX, TensorStore and glibc's arenas reserve and never use, gigabytes.
"""
import contextlib
import json
import os
import resource
import sys
import time
import traceback
import warnings
from pathlib import Path

LIMIT_BYTES = 2 * 2**30


def snapshot(folder: Path) -> dict[str, tuple]:
  """Paths in a folder -> what shows that they changed."""
  states = {}
  for root, folders, names in os.walk(folder):
    for name in (*folders, *names):
      path = os.path.join(root, name)
      state = os.lstat(path)
      is_folder = os.path.isdir(path) and not os.path.islink(path)
      states[os.path.relpath(path, folder)] = (
          state.st_mode, *(() if is_folder else (state.st_size, state.st_mtime_ns)))
  return states


@contextlib.contextmanager
def _caught(folder: Path):
  """Sends stdout and stderr, of C libraries too, to files in a folder."""
  kept = [os.dup(number) for number in (1, 2)]
  paths = [folder / name for name in ('stdout', 'stderr')]
  sys.stdout.flush()
  sys.stderr.flush()
  for number, path in zip((1, 2), paths, strict=True):
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, number)
    os.close(file)
  try:
    yield paths
  finally:
    sys.stdout.flush()
    sys.stderr.flush()
    for number, copy in zip((1, 2), kept, strict=True):
      os.dup2(copy, number)
      os.close(copy)


def run_case(name: str, make, parent: Path) -> dict:
  """Makes a case in a new folder and runs its command as the shell would."""
  from fibjax.cli import main
  home = parent / f'case{len(list(parent.iterdir()))}'
  folder = home / 'files'
  folder.mkdir(parents=True)
  words = make(folder)
  before = snapshot(folder)
  os.chdir(folder)
  begin = time.monotonic()
  with _caught(home) as paths:
    try:
      status = main.main(words)
    except SystemExit as error:
      status = error.code
    except BaseException:
      traceback.print_exc()
      status = 1
  seconds = time.monotonic() - begin
  os.chdir(parent)
  after = snapshot(folder)
  changed = sorted(path for path in {*before, *after}
                   if before.get(path) != after.get(path)
                   and Path(path).name != '.lock')  # of a workdir, empty
  stdout, stderr = (path.read_bytes().decode(errors='backslashreplace')
                    for path in paths)
  return {'name': name, 'status': status, 'stdout': stdout, 'stderr': stderr,
          'changed': changed, 'seconds': round(seconds, 2)}


def complaints(result: dict) -> list[str]:
  """What is wrong with the way in which a case was refused; [] for nothing."""
  lines = result['stderr'].rstrip('\n').split('\n')
  return [text for is_wrong, text in (
      (result['status'] != 2, f'exit status {result["status"]}'),
      (result['stdout'], f'stdout {result["stdout"][:200]!r}'),
      (len(lines) != 1 or not lines[0].startswith('fibjax: '),
       f'stderr {result["stderr"][-1500:]}'),
      (not lines[0].isprintable() or len(lines[0]) > 4000, 'a line that is not plain'),
      (result['changed'], f'written {result["changed"][:8]}')) if is_wrong]


def main() -> None:
  resource.setrlimit(resource.RLIMIT_DATA, (LIMIT_BYTES, LIMIT_BYTES))
  resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
  warnings.simplefilter('always')
  from tests.zoo import CASES, case
  parent, answers = Path(sys.argv[1]), os.fdopen(os.dup(1), 'w')
  try:
    for line in sys.stdin:
      name = json.loads(line)
      answers.write(json.dumps(run_case(name, CASES[name], parent)) + '\n')
      answers.flush()
  finally:
    case.remove_template()


if __name__ == '__main__':
  main()
