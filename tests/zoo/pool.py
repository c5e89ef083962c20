"""Processes that run cases: one after the other, restarted when one dies or hangs."""
import concurrent.futures
import json
import os
import queue
import subprocess
import sys
import threading
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
LIMIT_S = 30   # of processor time, since machines are shared
START_S = 180  # on the clock, at most; imports take long on a busy machine


def environment() -> dict[str, str]:
  """Environment of a process that finds fibjax and computes on the CPU."""
  return os.environ | {'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu',
                       'MPLBACKEND': 'agg'}


class _Runner:
  """A process of tests.zoo.runner."""

  def __init__(self, folder: Path):
    folder.mkdir(parents=True)
    self.errors = folder.with_suffix('.log').open('w')
    self.process = subprocess.Popen(
        [sys.executable, '-m', 'tests.zoo.runner', str(folder)], cwd=ROOT, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors,
        env=environment())
    self.answers: queue.Queue = queue.Queue()
    threading.Thread(target=self._listen, daemon=True).start()
    self.is_new = True

  def _listen(self):
    for line in self.process.stdout:
      self.answers.put(json.loads(line))
    self.answers.put(None)

  def run(self, name: str) -> dict | None:
    """The result of a case; None when the process died or took too long."""
    try:
      self.process.stdin.write(json.dumps(name) + '\n')
      self.process.stdin.flush()
      return self._wait()
    except BrokenPipeError:
      return None

  def _wait(self) -> dict | None:
    spent, self.is_new = 0.0 if self.is_new else self._processor_s(), False
    for _ in range(START_S // LIMIT_S):
      try:
        return self.answers.get(timeout=LIMIT_S)
      except queue.Empty:
        if self._processor_s() - spent > LIMIT_S:
          break
    return None

  def _processor_s(self) -> float:
    try:
      return sum(psutil.Process(self.process.pid).cpu_times()[:2])
    except psutil.Error:
      return 0.0

  def close(self):
    self.process.stdin.close()
    try:
      self.process.wait(5)
    except subprocess.TimeoutExpired:
      self.process.kill()
      self.process.wait()
    self.process.stdout.close()
    self.errors.close()


def _run_some(names: queue.Queue, folder: Path, results: dict) -> None:
  runner, starts = None, 0
  while True:
    try:
      name = names.get_nowait()
    except queue.Empty:
      break
    if runner is None:
      starts += 1
      runner = _Runner(folder / str(starts))
    result = runner.run(name)
    if result is None:
      runner.process.kill()
      runner.close()
      result = {'name': name, 'status': runner.process.returncode, 'stdout': '',
                'stderr': 'the process died or took more than '
                f'{LIMIT_S} s', 'changed': [], 'seconds': LIMIT_S}
      runner = None
    results[name] = result
  if runner is not None:
    runner.close()


def run_all(names, folder: Path, workers: int = 2) -> dict[str, dict]:
  """Runs cases in a few processes: name -> result, see runner.py."""
  waiting, results = queue.Queue(), {}
  for name in names:
    waiting.put(name)
  with concurrent.futures.ThreadPoolExecutor(workers) as threads:
    for work in [threads.submit(_run_some, waiting, Path(folder) / str(k), results)
                 for k in range(workers)]:
      work.result()
  return results


def main() -> None:
  """Prints complaints: `python -m tests.zoo.pool FOLDER [WORD IN NAME]`."""
  from tests.zoo import CASES
  from tests.zoo.runner import complaints
  word = sys.argv[2] if len(sys.argv) > 2 else ''
  results = run_all([name for name in CASES if word in name], Path(sys.argv[1]))
  bad = {name: found for name, result in results.items()
         if (found := complaints(result))}
  for name, found in bad.items():
    print(f'== {name}\n   ' + '\n   '.join(found))
  print(f'{len(results) - len(bad)} of {len(results)}')
  slow = sorted(results.values(), key=lambda result: -result['seconds'])[:12]
  print([(result['name'], result['seconds']) for result in slow])


if __name__ == '__main__':
  main()
