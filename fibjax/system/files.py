"""Files that are whole or absent, JSON, and fingerprints of files and folders.

A file or folder appears under its name only when it is complete and on the disk: it is
written under a temporary name beside it, synchronised and renamed. A killed process, or
a loss of power, leaves at most the temporary one, which the next call replaces.
"""
import concurrent.futures
import contextlib
import errno
import hashlib
import json
import os
import shutil
import time
from pathlib import Path

from fibjax.errors import InputError
from fibjax.system import checksums, json_files, refusals, text_files

# A file that was changed this recently can change again within the same time stamp.
_SETTLED_NS = 2 * 10 ** 9


@refusals.names_its_path
@contextlib.contextmanager
def whole_file(path, *, checked: bool = False):
  """Yields a temporary path that becomes `path` when the block succeeds.

  For files that another library writes; `write_text` and `write_bytes` use it. The
  content reaches the disk before the name changes, so that a crash of the machine
  leaves no empty file either. After an error nothing is left.

  Args:
    path: file to create or replace; missing folders are created.
    checked: whether fibjax reads the file back and its content is listed for
      `checksums.check`; not for files that users may edit.
  """
  path = Path(path)
  make_folders(path.parent)
  # The suffix is kept, since some libraries choose the format by it; the process number
  # keeps two processes that write the same file apart.
  partial = path.with_name(f'{_temporary_prefix(path)}{os.getpid()}{path.suffix}')
  try:
    yield partial
    with open(partial, 'rb+') as file:
      os.fsync(file.fileno())
    if checked:
      checksums.record(path, checksums.hash_file(partial))
    os.replace(partial, path)
    checksums.sync_folder(path.parent)
  finally:
    partial.unlink(missing_ok=True)


def is_temporary(path, final_path) -> bool:
  """Whether path is what `whole_file(final_path)` left in a process that was killed."""
  return Path(path).name.startswith(_temporary_prefix(Path(final_path)))


def _temporary_prefix(path: Path) -> str:
  return f'.{path.name}.'


def write_bytes(path, content: bytes, *, checked: bool = False) -> None:
  """Writes a binary file whole or not at all; `checked` as for `whole_file`."""
  with whole_file(path, checked=checked) as partial:
    partial.write_bytes(content)


def write_text(path, text: str, *, checked: bool = False) -> None:
  """Writes a text file (UTF-8, line ends as they are) whole or not at all."""
  write_bytes(path, text.encode(), checked=checked)


def write_json(path, content, *, checked: bool = True) -> None:
  """Writes JSON whole or not at all; NaN is refused, since JSON has none.

  Args:
    path: file to create or replace.
    content: what to write.
    checked: as for `whole_file`; False for files of the user and of other programs.
  """
  write_text(path, json.dumps(content, indent=2, allow_nan=False) + '\n',
             checked=checked)


def read_json(path, expected: str = 'a JSON file'):
  """Reads a JSON file.

  Args:
    path: the file.
    expected: kind of file, for messages.

  Raises:
    InputError: when the file is missing, is not JSON (see `json_files.parse_json`), or
      has changed since fibjax wrote it.
  """
  text = text_files.read_text(path, expected, remedy=json_files.REMEDY)
  return json_files.parse_json(str(path), text, expected)


def read_json_object(path) -> dict:
  """Reads a JSON file whose content is an object, as `read_json`."""
  content = read_json(path)
  if not isinstance(content, dict):
    raise InputError(str(path), got=f'JSON of a {type(content).__name__}',
                     expected='an object, {...}', remedy=json_files.REMEDY)
  return content


def make_folders(path) -> None:
  """Creates a folder and missing parents, and brings their names to the disk.

  Raises:
    NotADirectoryError: when one of them is a file.
  """
  path = Path(path).absolute()
  missing = [folder for folder in (path, *path.parents) if not folder.is_dir()]
  for folder in reversed(missing):
    if folder.exists():  # without its name: callers name what they want to write
      raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    folder.mkdir(exist_ok=True)
    checksums.sync_folder(folder.parent)


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
  removed first. All of it is on the disk when it gets its name. After an error nothing
  is left.

  Raises:
    InputError: when path exists.
  """
  check_absent(path)
  make_folders(Path(path).parent)
  partial = partial_path(path)
  shutil.rmtree(partial, ignore_errors=True)
  try:
    yield partial
    rename_folder(partial, path)
  except BaseException:
    shutil.rmtree(partial, ignore_errors=True)
    raise


def rename_folder(partial, path) -> None:
  """Gives a folder its final name when all of it is on the disk."""
  for parent, _, names in os.walk(partial):
    for name in names:
      with open(Path(parent) / name, 'rb') as file:
        os.fsync(file.fileno())
    checksums.sync_folder(parent)
  os.replace(partial, path)
  checksums.sync_folder(Path(path).parent)


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
  return _stamp(folder)[0]


def hash_files(folder) -> str:
  """Hash of the names and content of all files of a folder, or of a single file.

  About 1 GB/s; the result is kept in the user's folder for caches and taken from there
  while names, sizes and modification times of all files are the same.
  """
  stamp, newest_ns = _stamp(folder)
  cached = _cache_file(folder)
  known = _read_cache(cached, stamp)
  if known:
    return known
  paths = _files(folder)
  with concurrent.futures.ThreadPoolExecutor() as pool:  # hashing releases the GIL
    digests = list(pool.map(_digest, paths))
  content = _hash(part for path, digest in zip(paths, digests, strict=True)
                  for part in (path.relative_to(folder).as_posix().encode(), digest))
  if time.time_ns() - newest_ns > _SETTLED_NS:
    _write_cache(cached, stamp, content)
  return content


def _cache_file(folder) -> Path:
  """Where the hash of a folder is kept."""
  base = os.environ.get('XDG_CACHE_HOME') or os.path.join('~', '.cache')
  name = checksums.hash_bytes(str(Path(folder).absolute()).encode())
  return Path(base).expanduser() / 'fibjax' / name


def _read_cache(path: Path, stamp: str) -> str:
  """The hash kept for a stamp; '' without one, or where its own check fails."""
  try:
    known_stamp, content, check = path.read_text(encoding='ascii').split(' ')
  except (OSError, ValueError):
    return ''
  known = known_stamp == stamp and check == _hash([(stamp + content).encode()])
  return content if known else ''


def _write_cache(path: Path, stamp: str, content: str) -> None:
  check = _hash([(stamp + content).encode()])
  partial = path.with_name(f'{path.name}.{os.getpid()}')
  with contextlib.suppress(OSError):  # a home that cannot be written: without a cache
    path.parent.mkdir(parents=True, exist_ok=True)
    partial.write_text(f'{stamp} {content} {check}', encoding='ascii')
    os.replace(partial, path)


def _stamp(folder) -> tuple[str, int]:
  """Hash of the states of all files, and the newest modification time in ns."""
  states, newest_ns = [], 0
  for file in _files(folder):
    with contextlib.suppress(FileNotFoundError):  # deleted since the listing
      state = file.stat()
      name = file.relative_to(folder).as_posix()
      states.append(f'{name} {state.st_size} {state.st_mtime_ns} ')
      newest_ns = max(newest_ns, state.st_mtime_ns)
  return _hash(state.encode() for state in states), newest_ns


def _digest(path: Path) -> bytes:
  with open(path, 'rb') as file:
    return hashlib.file_digest(file, 'blake2b').digest()


def _files(folder) -> list[Path]:
  folder = Path(folder)
  if folder.is_file():
    return [folder]
  return sorted(file for file in folder.rglob('*')
                if file.is_file() and file.name != checksums.LIST)


def _hash(parts) -> str:
  digest = hashlib.blake2b(digest_size=8)
  for part in parts:
    digest.update(part)
  return digest.hexdigest()
