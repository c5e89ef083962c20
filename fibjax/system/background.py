"""Work in processes of this machine, done ahead of time.

For data that are made while others are in use. Processes are spawned, never forked,
because JAX and TensorStore have threads that a fork would lose.
"""
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from fibjax.errors import InputError


class Background:
  """Calls a function in worker processes; a context manager that ends them.

  Args:
    function: of one argument that can be a key of a dict; defined at the top level of a
      module, so that workers can import it.
    workers: processes; None takes one less than there are cores, at least one.
  """

  def __init__(self, function: Callable, workers: int | None = None):
    self._function = function
    self._pending: dict = {}
    self._pool = ProcessPoolExecutor(
        workers or max(1, (os.cpu_count() or 1) - 1),
        mp_context=multiprocessing.get_context('spawn'), initializer=_ignore_interrupt)

  def __enter__(self):
    return self

  def __exit__(self, *error):
    self._pool.shutdown(wait=True, cancel_futures=True)

  def map(self, units: Sequence, ahead: Iterable = ()) -> list:
    """Results of `units` in order; those of `ahead` are begun, for a later call.

    Raises:
      InputError: when a worker was killed. Errors of the function are passed on.
    """
    futures = [self._submit(unit) for unit in units]
    self._pending = {unit: self._submit(unit) for unit in ahead}
    try:
      return [future.result() for future in futures]
    except BrokenProcessPool:
      raise InputError('worker process', got='killed', expected='enough memory for it',
                       remedy='run the same command again: it continues') from None

  def _submit(self, unit) -> Future:
    if unit in self._pending:
      return self._pending[unit]
    return self._pool.submit(self._function, unit)


def _ignore_interrupt() -> None:
  """Ctrl-C reaches workers too; the process that started them ends them."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)
