"""Injection of errors into everything that fibjax writes, in this process.

`Faults` counts what is written below a folder: files and folders that are made or
renamed, writes, synchronisations, and arrays of TensorStore. It fails the n-th of them
as the operating system, or TensorStore, would.
"""
import builtins
import contextlib
import errno
import io
import os
import types

from fibjax.volumes import volume


class Faults:
  """Fails writes below a folder.

  Attributes:
    count: writes since `arm`.
  """

  def __init__(self, folder):
    self._folder = os.fspath(folder)
    self.arm(0, errno.EIO)

  def arm(self, at: int, number: int) -> None:
    """Lets the at-th write from now on fail with an error number; 0: none.

    A disk that is full (ENOSPC) stays so until the next call of this function.
    """
    self._at, self._number, self.count = at, number, 0

  def fails(self, path) -> bool:
    """Counts a write; whether it fails."""
    if not os.fspath(path).startswith(self._folder):
      return False
    self.count += 1
    return self._at > 0 and (self.count == self._at or (
        self.count > self._at and self._number == errno.ENOSPC))

  def check(self, path, is_named=True) -> None:
    """Counts a write and raises what Python would where it fails."""
    if self.fails(path):
      raise OSError(self._number, os.strerror(self._number),
                    *([os.fspath(path)] if is_named else ()))

  def check_descriptor(self, descriptor: int) -> None:
    """`check` of an open file, whose errors name no path."""
    self.check(os.readlink(f'/proc/self/fd/{descriptor}'), is_named=False)

  def store_error(self) -> ValueError:
    """What TensorStore raises."""
    return ValueError('RESOURCE_EXHAUSTED: Error writing local file: '
                      f"{os.strerror(self._number)} [os_error_code='{self._number}']")


class _File:
  """A file whose writes can fail."""

  def __init__(self, file, path, faults):
    self._file, self._path, self._faults = file, path, faults

  def write(self, content):
    self._faults.check(self._path, is_named=False)
    return self._file.write(content)

  def __getattr__(self, name):
    return getattr(self._file, name)

  def __enter__(self):
    self._file.__enter__()
    return self

  def __exit__(self, *error):
    return self._file.__exit__(*error)

  def __iter__(self):
    return iter(self._file)


class _Failed:
  """The future of a write that failed."""

  def __init__(self, error):
    self._error = error

  def exception(self):
    return self._error

  def result(self):
    raise self._error


class _Store:
  """A TensorStore handle whose writes can fail."""

  def __init__(self, store, path, faults):
    self._store, self._path, self._faults = store, path, faults

  def write(self, array):
    if self._faults.fails(self._path):
      return _Failed(self._faults.store_error())
    return self._store.write(array)

  def __getitem__(self, index):
    return _Store(self._store[index], self._path, self._faults)

  def __getattr__(self, name):
    return getattr(self._store, name)


@contextlib.contextmanager
def injected(folder, patch):
  """Yields the `Faults` of everything below a folder.

  Args:
    folder: where writes can fail.
    patch: pytest's MonkeyPatch; what is patched stays so until it is undone.
  """
  faults = Faults(folder)
  real_open, real_os_open, real_ts = io.open, os.open, volume.ts

  def open_file(path, mode='r', *rest, **options):
    if not set(mode) & set('wax+') or isinstance(path, int):
      return real_open(path, mode, *rest, **options)
    faults.check(path)
    return _File(real_open(path, mode, *rest, **options), path, faults)

  def os_open(path, flags, *rest, **options):
    if flags & (os.O_WRONLY | os.O_RDWR):
      faults.check(path)
    return real_os_open(path, flags, *rest, **options)

  def checked(function, which=0):
    def call(*args, **options):
      faults.check(args[which])
      return function(*args, **options)
    return call

  def mkdir(path, *rest, **options):
    if not os.path.isdir(path):  # which is often tried, and no write
      faults.check(path)
    return real_mkdir(path, *rest, **options)

  def fsync(descriptor):
    faults.check_descriptor(descriptor if isinstance(descriptor, int)
                            else descriptor.fileno())
    return real_fsync(descriptor)

  def open_store(spec, **mode):
    path = spec['kvstore']['path']
    if mode.get('create') and faults.fails(path):
      return _Failed(faults.store_error())
    opened = real_ts.open(spec, **mode)
    return types.SimpleNamespace(result=lambda: _Store(opened.result(), path, faults))

  real_fsync, real_mkdir = os.fsync, os.mkdir
  patch.setattr(builtins, 'open', open_file)
  patch.setattr(io, 'open', open_file)
  patch.setattr(os, 'open', os_open)
  patch.setattr(os, 'fsync', fsync)
  patch.setattr(os, 'mkdir', mkdir)
  for name in ('replace', 'rename', 'link'):
    patch.setattr(os, name, checked(getattr(os, name), 1))
  patch.setattr(volume, 'ts', types.SimpleNamespace(
      **{name: getattr(real_ts, name) for name in dir(real_ts)
         if not name.startswith('__') and name != 'open'}, open=open_store))
  yield faults
  faults.arm(0, 0)
