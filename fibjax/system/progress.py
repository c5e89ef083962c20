"""What a person sees of long work: a bar on a terminal, plain lines otherwise.

Everything goes to stderr; stdout is for results.
"""
import sys
import time
from collections.abc import Iterable, Iterator

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 10.


def say(message: str) -> None:
  """Prints one line on stderr, above a bar if there is one."""
  tqdm.write(message, file=sys.stderr)


def track(items: Iterable, description: str, unit: str, total: int) -> Iterator:
  """Yields the items and shows how far they are, with rate and time left.

  Args:
    items: what is worked off.
    description: what is done, e.g. 'score HPC22'.
    unit: name of one item.
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
