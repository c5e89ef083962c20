"""The end by a signal: the exit status, one line, nothing left, and never a crash."""
import signal
import subprocess
import sys

import pytest

# A shell's background jobs inherit an ignored SIGINT; a terminal's do not.
RAISING = '''
import os, signal, sys, time
from fibjax.system import signals
signal.signal(signal.SIGINT, signal.default_int_handler)
signals._GRACE_S = 0.5
def send(*_): os.kill(os.getpid(), signal.{name})
with signals.end_at_signals('go on'):
  {body}
'''
UNWOUND = '''try:
    send(); time.sleep(60)
  finally:
    print('unwound', flush=True)'''
# An exception that a finaliser raises is dropped by the interpreter.
DROPPED = '''class Dropping:
    def __del__(self): send(); time.sleep(0.01)
  Dropping(); print('dropped', flush=True); time.sleep(60)'''
IGNORED = '''signal.signal(signal.SIGINT, signal.SIG_IGN)
  with signals.end_at_signals('not this'):
    send()
  print('alive', flush=True)'''


def run(body, name='SIGTERM'):
  return subprocess.run([sys.executable, '-c', RAISING.format(name=name, body=body)],
                        capture_output=True, text=True, timeout=30)


@pytest.mark.parametrize('name, status, word', [('SIGTERM', 143, 'terminated'),
                                                ('SIGINT', 130, 'interrupted')])
def test_the_stack_is_unwound_first(name, status, word):
  end = run(UNWOUND, name)
  assert end.returncode == status and end.stdout == 'unwound\n'
  assert end.stderr == f'fibjax: {word}; go on\n'


def test_a_dropped_exception_ends_the_process_all_the_same():
  end = run(DROPPED)
  assert end.returncode == 143 and end.stdout == 'dropped\n'
  assert 'fibjax: terminated; go on\n' in end.stderr


def test_an_ignored_signal_stays_ignored():
  end = run(IGNORED, 'SIGINT')
  assert end.returncode == 0 and end.stdout == 'alive\n' and not end.stderr


def test_handlers_are_put_back():
  from fibjax.system import signals
  before = signal.getsignal(signal.SIGTERM)
  with signals.end_at_signals('go on'):
    assert signal.getsignal(signal.SIGTERM) is not before
  assert signal.getsignal(signal.SIGTERM) is before
