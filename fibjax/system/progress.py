"""Progress reporting on stderr: a bar on a terminal, plain lines in a log.

stdout is left to results.
"""
import os
import sys
import time
from collections.abc import Iterable, Iterator

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 10.


_diverted = []  # where `say` prints in a process whose stderr is diverted


def say(message: str) -> None:
  """Prints one line on stderr, above the progress bar if there is one."""
  tqdm.write(message, file=_diverted[-1] if _diverted else sys.stderr)


def divert_stderr(path) -> None:
  """Sends what is printed on stderr to the end of a file, for the rest of the process.

  It reaches libraries in other languages, too. The lines of `say` stay on stderr.
  """
  sys.stderr.flush()
  _diverted.append(os.fdopen(os.dup(2), 'w', encoding='utf-8', buffering=1))
  with open(path, 'ab') as log:
    os.dup2(log.fileno(), 2)


def track(items: Iterable, description: str, unit: str, total: int) -> Iterator:
  """Yields the items while it reports their number, the rate and the time left.

  Args:
    items: the work, one item at a time.
    description: the activity, e.g. 'score HPC22'.
    unit: name of an item in the singular, e.g. 'shard'.
    total: number of items.
  """
  if sys.stderr.isatty():
    yield from tqdm(items, desc=description, unit=unit, total=total, leave=False)
    return
  start = last = time.monotonic()
  for done, item in enumerate(items):
    now = time.monotonic()
    if done and now - last >= _SECONDS_BETWEEN_LINES:
      rate = done / (now - start)
      say(f'{description}: {done}/{total} {unit}s, {rate:.3g} {unit}/s, '
          f'{(total - done) / rate:.0f} s left')
      last = now
    yield item
