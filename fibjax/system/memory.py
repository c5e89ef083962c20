"""Main memory of this machine and of this process, on any operating system."""
import contextlib
import ctypes
import functools
import math
import os
import threading
from collections.abc import Callable, Iterator

import psutil

from fibjax.errors import InputError

_GB_PER_CORE = 0.2  # of address space that the threads of libraries reserve
_SAMPLING_S = 0.02


def total_bytes() -> int:
  """Main memory of the machine."""
  return psutil.virtual_memory().total


def check_address_space(least_gb: float) -> None:
  """Checks the limit on the address space, `ulimit -v`, before the work begins.

  Where it is too low, libraries written in C++ abort, or try again forever, before
  Python could report anything. On two cores, tiny runs aborted at 2.0 GB and worked at
  3.0, and verbs that need no JAX aborted at 0.7 and worked at 0.9 (2026-11).

  Args:
    least_gb: that the libraries need at least, without their threads, 10^9 bytes.

  Raises:
    InputError: when the limit is lower.
  """
  limit = _limit('RLIMIT_AS')
  needed = 1e9 * (least_gb + _GB_PER_CORE * (os.cpu_count() or 1))
  if limit < needed:
    raise InputError(
        'ulimit -v', got=f'{limit / 1e9:.2g} GB of address space',
        expected=f'at least {needed / 1e9:.2g} GB', remedy='raise it: much is reserved '
        'but never used; to bound memory, use --memory_gb')


@functools.cache  # it takes as long as a small read of a volume, which asks for it
def limit_bytes() -> int:
  """Memory that this process can have at most: the machine's, or its own limit."""
  return int(min(total_bytes(), _limit('RLIMIT_AS'), _limit('RLIMIT_DATA')))


def _limit(name: str) -> float:
  """A limit of this process; infinite without one, and where psutil knows of none."""
  if not hasattr(psutil, name):  # all systems but Linux and FreeBSD
    return math.inf
  limit, _ = psutil.Process().rlimit(getattr(psutil, name))
  return math.inf if limit in (-1, psutil.RLIM_INFINITY) else limit


def trim() -> None:
  """Returns freed memory to the system where the C library can be asked to.

  glibc keeps more of it with every block of a volume (2026-11); other C libraries have
  no `malloc_trim`, and there this does nothing.
  """
  if _malloc_trim() is not None:
    _malloc_trim()(0)


@functools.cache
def _malloc_trim():
  try:
    # None: the symbols of this process. Windows has no such handle (TypeError).
    return ctypes.CDLL(None).malloc_trim
  except (AttributeError, OSError, TypeError):
    return None


@contextlib.contextmanager
def watch_peak() -> Iterator[Callable[[], int]]:
  """Yields a function that returns the largest memory of this process so far, in bytes.

  It counts from the start of the block, unlike the operating system's own figure,
  which a process on Linux inherits from the one that started it. A thread samples the
  resident set every 20 ms, so that a shorter peak can be missed.
  """
  process, done, peak = psutil.Process(), threading.Event(), [0]
  lock = threading.Lock()  # of two samples at once, the older one must not win

  def sample():
    with lock:
      peak[0] = max(peak[0], process.memory_info().rss)
      return peak[0]

  def watch():
    while not done.wait(_SAMPLING_S):
      sample()

  thread = threading.Thread(target=watch, daemon=True)
  thread.start()
  try:
    yield sample
  finally:
    done.set()
    thread.join()
