"""Files that are whole or absent, JSON, and fingerprints of files and folders.

A file or folder appears under its name only when it is complete: it is written under a
temporary name beside it and renamed. A killed process leaves at most the temporary
one, which the next call replaces.
"""
import contextlib
import hashlib
import json
import os
import shutil
from pathlib import Path

from fibjax.errors import InputError
from fibjax.system import refusals


@refusals.names_its_path
@contextlib.contextmanager
def whole_file(path):
  """Yields a temporary path that becomes `path` when the block succeeds.

  For files that another library writes; `write_text` and `write_bytes` use it. The
  content reaches the disk before the name changes, so that a crash of the machine
  leaves no empty file either. After an error nothing is left.

  Args:
    path: file to create or replace; missing folders are created.
  """
  path = Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  # The suffix is kept, since some libraries choose the format by it; the process number
  # keeps two processes that write the same file apart.
  partial = path.with_name(f'{_temporary_prefix(path)}{os.getpid()}{path.suffix}')
  try:
    yield partial
    with open(partial, 'rb+') as file:
      os.fsync(file.fileno())
    os.replace(partial, path)
  finally:
    partial.unlink(missing_ok=True)


def is_temporary(path, final_path) -> bool:
  """Whether path is what `whole_file(final_path)` left in a process that was killed."""
  return Path(path).name.startswith(_temporary_prefix(Path(final_path)))


def _temporary_prefix(path: Path) -> str:
  return f'.{path.name}.'


def write_bytes(path, content: bytes) -> None:
  """Writes a binary file whole or not at all."""
  with whole_file(path) as partial:
    partial.write_bytes(content)


def write_text(path, text: str) -> None:
  """Writes a text file (UTF-8, line ends as they are) whole or not at all."""
  write_bytes(path, text.encode())


def write_json(path, content) -> None:
  """Writes JSON whole or not at all; NaN is refused, since JSON has none."""
  write_text(path, json.dumps(content, indent=2, allow_nan=False) + '\n')


def read_json(path):
  """Reads a JSON file.

  Raises:
    InputError: when the file is missing or is not JSON.
  """
  try:
    return json.loads(Path(path).read_text(encoding='utf-8'))
  except FileNotFoundError:
    raise InputError(str(path), got='no such file', expected='a JSON file',
                     remedy='check the path') from None
  except (json.JSONDecodeError, UnicodeDecodeError) as error:
    raise InputError(str(path), got=f'damaged JSON ({error})', expected='a JSON file',
                     remedy='repair it, or let fibjax write it again') from None


def partial_path(path) -> Path:
  """Name of a folder while it is written."""
  path = Path(path)
  return path.with_name(f'{path.name}.partial')


def is_partial(path) -> bool:
  """Whether a folder is one that was not finished."""
  return Path(path).suffix == '.partial'


def final_name(path) -> str:
  """Name that a folder has, or will have, when it is finished."""
  return Path(path).name.removesuffix('.partial')


@refusals.names_its_path
@contextlib.contextmanager
def new_folder(path):
  """Yields a folder to fill that becomes `path` when the block succeeds.

  Until then it is called `partial_path(path)`; what a killed process left there is
  removed first. After an error nothing is left.

  Raises:
    InputError: when path exists.
  """
  check_absent(path)
  partial = partial_path(path)
  shutil.rmtree(partial, ignore_errors=True)
  try:
    yield partial
    os.replace(partial, path)
  except BaseException:
    shutil.rmtree(partial, ignore_errors=True)
    raise


def share_folder(source, target) -> None:
  """Creates a folder with the same files as another, unless it exists.

  Files become hard links, or copies where the file system has none. For folders whose
  files never change again.
  """
  if not Path(target).exists():
    with new_folder(target) as partial:
      shutil.copytree(source, partial, copy_function=_link_or_copy)


def _link_or_copy(source, target) -> None:
  try:
    os.link(source, target)
  except OSError:  # another file system, or one without links
    shutil.copy2(source, target)


def remove(path) -> None:
  """Deletes a file or a folder, if it exists."""
  path = Path(path)
  if path.is_dir():
    shutil.rmtree(path)
  else:
    path.unlink(missing_ok=True)


def check_absent(path) -> None:
  """Checks that there is no file or folder at path.

  Raises:
    InputError: when there is.
  """
  if Path(path).exists():
    raise InputError(str(path), got='a path that already exists',
                     expected='a new path',
                     remedy='delete it or choose another path')


def check_file(name: str, path) -> None:
  """Checks that there is a file at path.

  Args:
    name: purpose of the file in the message, e.g. a flag.
    path: where it should be.

  Raises:
    InputError: when there is none.
  """
  if not Path(path).is_file():
    raise InputError(name, got=f'no file at {str(path)!r}', expected='a file',
                     remedy='check the path')


def stamp_files(folder) -> str:
  """Hash of the names, sizes and modification times of all files of a folder.

  Much cheaper than `hash_files`; it notices that a volume is being changed.
  """
  states = []
  for file in _files(folder):
    with contextlib.suppress(FileNotFoundError):  # deleted since the listing
      state = file.stat()
      name = file.relative_to(folder).as_posix()
      states.append(f'{name} {state.st_size} {state.st_mtime_ns} ')
  return _hash(state.encode() for state in states)


def hash_files(folder) -> str:
  """Hash of the names and content of all files of a folder (about 1 GB/s)."""
  return _hash(part for path in _files(folder) for part in (
      path.relative_to(folder).as_posix().encode(), _digest(path)))


def _digest(path: Path) -> bytes:
  with open(path, 'rb') as file:
    return hashlib.file_digest(file, 'blake2b').digest()


def _files(folder):
  return sorted(file for file in Path(folder).rglob('*') if file.is_file())


def _hash(parts) -> str:
  digest = hashlib.blake2b(digest_size=8)
  for part in parts:
    digest.update(part)
  return digest.hexdigest()
