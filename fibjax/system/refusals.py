"""What the system refuses: disk full, no permission, no memory, a drive that is gone.

Every library reports these in its own way: Python as OSError or MemoryError,
TensorStore and Orbax as ValueError and HDF5 as RuntimeError with the system's error
number in the text, XLA as RuntimeError. Here they become one error, `RefusedError`,
whatever the library. It is an InputError, a single line with a remedy, but no mistake
of the user: what was finished before stays, and the same call resumes once the cause
is removed.
"""
import contextlib
import errno
import functools
import os
import re
import sys
import threading
from pathlib import Path

from fibjax.errors import InputError

# What a message expects and advises, by names of error numbers: not every operating
# system has all of them.
_KINDS = (
    ('free space', 'free some space, or write to another disk',
     ('ENOSPC', 'EDQUOT', 'EFBIG')),
    ('a path that may be read and written', 'check its permissions',
     ('EACCES', 'EPERM', 'EROFS')),
    ('a disk that answers', 'check the disk or the network drive',
     ('EIO', 'ESTALE', 'ENOTCONN', 'ENXIO', 'ENODEV', 'ENOLINK', 'EREMOTEIO',
      'ETIMEDOUT', 'EHOSTDOWN', 'EHOSTUNREACH', 'ENETDOWN', 'ENETUNREACH',
      'ESHUTDOWN')),
    ('a path that exists', 'check the path; it may have been removed during the work',
     ('ENOENT', 'ENOTDIR')),
    ('fewer open files', 'raise the limit (ulimit -n), or close other programs',
     ('EMFILE', 'ENFILE')),
    ('a reader of the output', 'do not close it before the end', ('EPIPE',)),
    ('free memory', 'close other programs, raise the limit (ulimit -v, -u), or lower '
     'memory_gb or the batch', ('ENOMEM', 'EAGAIN')))
_ADVICE = {getattr(errno, name): (expected, remedy)
           for expected, remedy, names in _KINDS for name in names
           if hasattr(errno, name)}
# The number as TensorStore, Python and HDF5 write it into their messages.
_NUMBER = re.compile(
    r"(?:os_error_code='|OS error |\[Errno |\[WinError |errno = )(\d+)")
# Other libraries when memory or threads run out; XLA, C++, Python.
_MEMORY = re.compile(r'RESOURCE_EXHAUSTED|bad_alloc|[Oo]ut of memory|OUT_OF_MEMORY|'
                     r"Cannot allocate memory|can't start new thread|"
                     r'[Uu]nable to allocate')
_SHORT = re.compile(r'\d+ requested and \d+ written')  # NumPy, which drops the number
_FOREIGN = (ValueError, RuntimeError, OSError)  # that libraries raise in these cases


class RefusedError(InputError):
  """The system refused something; the same call resumes once it no longer does."""


def refused(error: BaseException, name: str) -> RefusedError | None:
  """The refusal behind an error of any library, or None for an error of another kind.

  Args:
    error: what was raised. Its causes are looked at as well.
    name: of the file or the work, for an error that names no file.
  """
  for link in _chain(error):
    if isinstance(link, RefusedError):
      return link
    number = _error_number(link)
    if number in _ADVICE:
      expected, remedy = _ADVICE[number]
      place = getattr(link, 'filename', None)
      if not isinstance(place, str | bytes | os.PathLike) or _is_temporary(
          Path(os.fsdecode(place)), Path(name)):
        place = name
      return RefusedError(os.fsdecode(place), got=os.strerror(number),
                          expected=expected, remedy=remedy)
    if isinstance(link, RecursionError):
      return RefusedError(name, got='input that is nested too deeply',
                          expected=f'at most about {sys.getrecursionlimit()} levels',
                          remedy='simplify the file or the setting')
  return None


@contextlib.contextmanager
def naming(path):
  """Raises `RefusedError` that names a path for what the system refuses in the block.

  Exhausted memory says nothing about a path and is passed on as it is.

  Args:
    path: what the block writes.
  """
  try:
    yield
  except Exception as error:
    refusal = refused(error, str(path))
    if refusal is None or refusal is error or _is_memory(error):
      raise
    raise refusal from error


def names_its_path(function):
  """Decorates a context manager whose first argument is a path with `naming`."""
  @functools.wraps(function)
  @contextlib.contextmanager
  def named(path, *args, **options):
    with naming(path), function(path, *args, **options) as value:
      yield value
  return named


def _is_memory(error: BaseException) -> bool:
  return _error_number(error) == errno.ENOMEM


def translated(function):
  """Decorates a function of the library: odd errors of other libraries are refusals.

  OSError and MemoryError are Python's own and stay what they are.
  """
  @functools.wraps(function)
  def call(*args, **options):
    try:
      return function(*args, **options)
    except Exception as error:
      refusal = refused(error, function.__qualname__)
      if refusal is None or refusal is error or isinstance(
          error, OSError | MemoryError | InputError):
        raise
      raise refusal from error
  return call


def _is_temporary(path: Path, final_path: Path) -> bool:
  """Whether path is that of `files.whole_file` or in that of `files.new_folder`."""
  return any(part == f'{final_path.name}.partial' or
             part.startswith(f'.{final_path.name}.') for part in path.parts)


def _error_number(error: BaseException) -> int | None:
  """The system's error number in an exception; ENOMEM where memory ran out."""
  if isinstance(error, MemoryError):
    return errno.ENOMEM
  if isinstance(error, OSError) and error.errno is not None:
    return error.errno
  if not isinstance(error, _FOREIGN) or isinstance(error, InputError):
    return None
  text = str(error)
  number = _NUMBER.search(text)
  # To a library that looks for a file, a missing one says something about the data.
  if number and int(number[1]) not in (errno.ENOENT, errno.ENOTDIR):
    return int(number[1])
  if _SHORT.search(text):
    return errno.ENOSPC
  return errno.ENOMEM if _MEMORY.search(text) else None


def _chain(error: BaseException | None):
  """Yields an exception, those it holds, and those it was raised from or during."""
  waiting, seen = [error], set()
  while waiting:
    link = waiting.pop(0)
    if link is None or id(link) in seen:
      continue
    seen.add(id(link))
    yield link
    waiting += getattr(link, 'exceptions', ())
    waiting += [link.__cause__, None if link.__suppress_context__ else link.__context__]


@contextlib.contextmanager
def held_back():
  """Holds back what libraries print about errors in their threads and callbacks.

  When a disk is full, TensorStore and Orbax print a traceback per array that could not
  be written, and raise the error as well. Yields a function that drops what was held
  back, for a caller that reports the error. Otherwise it is printed at the end, so that
  nothing is lost.
  """
  hooks, reports = (threading.excepthook, sys.unraisablehook), []
  threading.excepthook = lambda report: reports.append((hooks[0], report))
  sys.unraisablehook = lambda report: reports.append((hooks[1], report))
  try:
    yield reports.clear
  finally:
    threading.excepthook, sys.unraisablehook = hooks
    for hook, report in reports:
      hook(report)
