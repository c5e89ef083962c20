"""Clean exit on SIGINT and SIGTERM."""
import contextlib
import os
import signal
import sys
import threading

_GRACE_S = 10.  # seconds between the signal and the end, whatever the process does


class _Stopped(KeyboardInterrupt):
  """Raised by the handler; carries the number of the signal."""

  def __init__(self, number: int):
    super().__init__(number)
    self.number = number


@contextlib.contextmanager
def end_at_signals(advice: str):
  """Ends the process on SIGINT (exit status 130) or SIGTERM (143) with one line.

  The stack is unwound first, so that temporary files are deleted. Python drops an
  exception that is raised while native code runs a callback, or in a finaliser; a timer
  therefore ends the process after ten seconds in any case. Both ways end it by
  `os._exit`: during Python's own shutdown, XLA threads that are still computing can
  crash the process. A signal that was ignored before stays ignored.

  Args:
    advice: second half of the line, after "interrupted" or "terminated": what the user
      can do next.
  """
  def stop(number, _):
    timer = threading.Timer(_GRACE_S, _leave, (number, advice))
    timer.daemon = True
    timer.start()
    raise _Stopped(number)

  before = {number: signal.getsignal(number)
            for number in (signal.SIGINT, signal.SIGTERM)}
  for number, handler in before.items():
    # None: a handler that Python did not install and could not put back.
    if handler not in (signal.SIG_IGN, None):
      signal.signal(number, stop)
  try:
    yield
  except _Stopped as stopped:
    _leave(stopped.number, advice)
  finally:
    for number, handler in before.items():
      if handler is not None:
        signal.signal(number, handler)


def _leave(number: int, advice: str) -> None:
  event = 'interrupted' if number == signal.SIGINT else 'terminated'
  print(f'fibjax: {event}; {advice}', file=sys.stderr, flush=True)
  sys.stdout.flush()
  os._exit(128 + number)
