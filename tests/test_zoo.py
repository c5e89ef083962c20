"""Every bad input of tests/zoo is refused: status 2, one line, nothing written."""
import subprocess
import sys

import pytest

from tests.zoo import CASES, case
from tests.zoo.pool import ROOT, environment, run_all
from tests.zoo.runner import LIMIT_BYTES, complaints, snapshot

# By a shell: a function between fork and exec is not safe beside JAX's threads.
_WITH_A_LIMIT = ('sh', '-c', 'ulimit -d "$0" && exec "$@"', str(LIMIT_BYTES // 1024))
_LIMIT_S = 120  # of a process with its imports, on a busy machine; 30 s on an idle one


def test_there_are_enough_cases():
  assert len(CASES) >= 320


@pytest.mark.long
def test_every_case_is_refused_in_one_line(tmp_path):
  results = run_all(CASES, tmp_path)
  bad = {name: found for name, result in results.items()
         if (found := complaints(result))}
  assert set(results) == set(CASES)
  assert not bad, '\n'.join(map(str, bad.items()))


def test_the_judge_finds_fault():
  good = {'status': 2, 'stdout': '', 'stderr': 'fibjax: no\n', 'changed': []}
  assert not complaints(good)
  for fault in ({'status': 0}, {'status': 1}, {'stdout': 'x'}, {'stderr': ''},
                {'stderr': 'fibjax: a\nb\n'}, {'stderr': 'Traceback\n'},
                {'stderr': 'fibjax: \x1b[2J\n'}, {'stderr': f'fibjax: {"a" * 5000}\n'},
                {'changed': ['out']}):
    assert complaints(good | fault), fault


@pytest.mark.long
@pytest.mark.parametrize('name', sorted(CASES)[::25])
def test_cases_in_processes_of_their_own(tmp_path, name):
  words = CASES[name](tmp_path)
  before = snapshot(tmp_path)
  command = subprocess.run(
      [*_WITH_A_LIMIT, sys.executable, '-m', 'fibjax', *words], cwd=tmp_path,
      env=environment(), capture_output=True, text=True, errors='backslashreplace',
      timeout=_LIMIT_S)
  after = snapshot(tmp_path)
  changed = [path for path in {*before, *after} if before.get(path) != after.get(path)]
  assert not complaints({'status': command.returncode, 'stdout': command.stdout,
                         'stderr': command.stderr, 'changed': changed})


@pytest.fixture(scope='module', autouse=True)
def _clean():
  yield
  case.remove_template()


def test_the_root_is_that_of_the_project():
  assert (ROOT / 'fibjax' / '__main__.py').is_file()
