"""How a process ends when a signal asks it to: soon, and for sure."""
import contextlib
import os
import signal
import sys
import threading

_GRACE_S = 10.


class _Stopped(KeyboardInterrupt):
  """A signal asked for the end."""

  def __init__(self, number: int):
    super().__init__(number)
    self.number = number


@contextlib.contextmanager
def end_at_signals(advice: str):
  """Ends the process at SIGINT (exit status 130) or SIGTERM (143) with one line.

  The stack is unwound first, so that temporary files go. An exception raised while
  native code runs a callback is dropped there: then the process ends all the same,
  after ten seconds. It ends at once, since threads of XLA that still compute crash a
  Python that tears itself down. A SIGINT that was ignored stays so.

  Args:
    advice: what the line says beside what happened.
  """
  def stop(number, _):
    timer = threading.Timer(_GRACE_S, _leave, (number, advice))
    timer.daemon = True
    timer.start()
    raise _Stopped(number)

  before = {number: signal.getsignal(number)
            for number in (signal.SIGINT, signal.SIGTERM)}
  for number, handler in before.items():
    if handler is not signal.SIG_IGN:
      signal.signal(number, stop)
  try:
    yield
  except _Stopped as stopped:
    _leave(stopped.number, advice)
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)


def _leave(number: int, advice: str) -> None:
  what = 'interrupted' if number == signal.SIGINT else 'terminated'
  print(f'fibjax: {what}; {advice}', file=sys.stderr, flush=True)
  sys.stdout.flush()
  os._exit(128 + number)
