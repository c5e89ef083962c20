"""A run's folder: one writer at a time, files that are whole or absent.

Everything a run wrote can be found from here: config.json, versions.json,
metrics.csv, checkpoints/, scores.ome.zarr, segmentation.ome.zarr, metrics.json,
report.html, figures/. A file appears under its name only when it is complete, so a
stage whose last file exists is finished.
"""
import contextlib
import csv
import fcntl
import hashlib
import importlib.metadata
import io
import json
import math
import os
import platform
import shlex
import shutil
import sys
from pathlib import Path

import jax
import numpy as np

from fibjax.errors import InputError

_PACKAGES = ('fibjax', 'jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy',
             'scipy', 'tensorstore', 'ml-collections')


def write_text(path, text: str) -> None:
  """Writes a text file whole or not at all (temporary file, then rename)."""
  path = Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f'.{path.name}.{os.getpid()}')
  try:
    with open(temporary, 'w', encoding='utf-8') as file:
      file.write(text)
      file.flush()
      os.fsync(file.fileno())
    os.replace(temporary, path)
  except BaseException:
    temporary.unlink(missing_ok=True)
    raise


def to_csv(rows: list[dict], columns) -> str:
  """Text of a CSV table with a header; every row has every column."""
  text = io.StringIO()
  writer = csv.DictWriter(text, list(columns), lineterminator='\n')
  writer.writeheader()
  writer.writerows(rows)
  return text.getvalue()


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


def check_absent(path) -> None:
  """Checks that nothing stands at path.

  Raises:
    InputError: when something does.
  """
  if Path(path).exists():
    raise InputError(str(path), got='something there already',
                     expected='a path that does not exist',
                     remedy='delete it or choose another path')


def check_file(name: str, path) -> None:
  """Raises InputError unless a file stands at path; name says what it is for."""
  if not Path(path).is_file():
    raise InputError(name, got=f'no file at {str(path)!r}', expected='a file',
                     remedy='check the path')


def stamp_files(folder) -> str:
  """Hash of the names, sizes and times of all files: changes when one is written to."""
  states = []
  for file in _files(folder):
    with contextlib.suppress(FileNotFoundError):  # it went away meanwhile
      state = file.stat()
      states.append(f'{file.relative_to(folder)} {state.st_size} {state.st_mtime_ns} ')
  return _hash(state.encode() for state in states)


def hash_files(folder) -> str:
  """Hash of the names and content of all files (about 1 GB/s)."""
  return _hash(part for path in _files(folder) for part in (
      str(path.relative_to(folder)).encode(), _digest(path)))


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


@contextlib.contextmanager
def new_folder(path):
  """Yields a folder to make that appears at path only when the block succeeds.

  It is called `path.partial` (a rest of a killed run is removed) and renamed at the
  end; after an error nothing is left.

  Raises:
    InputError: when path exists.
  """
  path = Path(path)
  check_absent(path)
  partial = path.with_name(path.name + '.partial')
  shutil.rmtree(partial, ignore_errors=True)
  try:
    yield partial
    os.rename(partial, path)
  except BaseException:
    shutil.rmtree(partial, ignore_errors=True)
    raise


def share_folder(source, target) -> None:
  """Makes a folder with the same files as another, unless it exists.

  Files are hard links, or copies where the file system has no links. For folders
  whose files do not change any more.
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


def write_versions(workdir) -> None:
  """Records the command and the versions of Python and packages in versions.json."""
  versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
  write_json(Path(workdir) / 'versions.json',
             {'command': shlex.join(['fibjax', *sys.argv[1:]]),
              'python': platform.python_version(), 'platform': platform.platform(),
              **versions})


@contextlib.contextmanager
def lock(workdir):
  """Holds a workdir for one process; the lock goes with the process, however it ends.

  Raises:
    InputError: when another process holds it.
  """
  workdir = Path(workdir)
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    handle = open(workdir / '.lock', 'w', encoding='utf-8')  # noqa: SIM115
  except OSError as error:
    raise InputError(str(workdir), got=str(error), expected='a folder to write to',
                     remedy='choose another --workdir') from None
  with handle:
    try:
      fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise InputError(str(workdir), got='a workdir in use by another process',
                       expected='one run per workdir',
                       remedy='wait for it or choose another --workdir') from None
    yield workdir


def differences(found: dict, wanted: dict, prefix: str = ''):
  """Yields a phrase for every key whose value differs between two JSON contents."""
  for key in set(found) | set(wanted):
    old, new = (side.get(key) for side in (found, wanted))
    if isinstance(old, dict) and isinstance(new, dict):
      yield from differences(old, new, f'{prefix}{key}.')
    elif old != new:
      yield f'{prefix}{key} was {old!r}, now {new!r}'




def hash_params(params) -> str:
  """Short hash of all weights."""
  digest = hashlib.sha256()
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    digest.update(jax.tree_util.keystr(path).encode())
    digest.update(np.asarray(leaf).tobytes())
  return digest.hexdigest()[:16]


# Columns of text; a seed is one, so that it keeps all its digits.
_TEXT_COLUMNS = ('volume', 'split', 'loss', 'seed', 'state', 'against')


def read_columns(path) -> dict[str, np.ndarray]:
  """Reads a CSV: columns as float arrays, names as text.

  Empty cells of a number column are NaN. A missing or empty file gives {}.

  Raises:
    InputError: for a file that is no text, a row that has not the header's columns,
      or a cell that is no number.
  """
  path = Path(path)
  if not path.is_file():
    return {}
  try:
    with open(path, encoding='utf-8', newline='') as file:
      rows = list(csv.reader(file))
  except (UnicodeDecodeError, csv.Error) as error:
    raise InputError(str(path), got=f'a damaged file ({error})', expected='a CSV table',
                     remedy='delete it and run the stage again') from None
  if len(rows) < 2:
    return {}
  if any(len(row) != len(rows[0]) for row in rows):
    raise InputError(str(path), got='rows of different lengths',
                     expected=f'{len(rows[0])} columns',
                     remedy='delete it and run the stage again')
  return {name: _column(f'{path}: {name}', cells, is_text=name in _TEXT_COLUMNS)
          for name, *cells in zip(*rows, strict=True)}


def _column(name, cells, is_text):
  if is_text:
    return np.array(cells)
  try:
    return np.array([float(c) if c.strip() else math.nan for c in cells])
  except ValueError as error:
    raise InputError(name, got=str(error), expected='numbers',
                     remedy='delete the file and run the stage again') from None
