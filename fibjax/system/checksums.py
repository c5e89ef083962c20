"""Checksums of the files that fibjax reads back.

A folder with such files has a list of them, `.checksums`, which grows by a line with
each write: 'HASH  NAME', as `b2sum --length=128 --check` reads it. A file is intact
when one of the hashes of its name is its own: the line is on the disk before the file
gets its name, so that a crash between the two leaves an older file that is listed as
well. Files that are not listed, such as those of the user, are not checked.

Volumes need no line: TensorStore keeps a checksum with every chunk, and
`volumes.metadata` one of the metadata.
"""
import hashlib
import os
from pathlib import Path

from fibjax.errors import InputError

LIST = '.checksums'
_DIGEST_BYTES = 16


def record(path, digest: str) -> None:
  """Lists the content that a file is about to get; on the disk when this returns."""
  path = Path(path)
  if digest not in _read_list(path.parent).get(path.name, ()):
    _append(path.parent, {path.name: digest})


def seal(folder) -> None:
  """Lists all files of a folder and of the folders below it, as they are."""
  folder = Path(folder)
  _append(folder, {path.relative_to(folder).as_posix(): hash_file(path)
                   for path in sorted(folder.rglob('*'))
                   if path.is_file() and path.name != LIST})


def check(path, content: bytes | None = None) -> None:
  """Checks that a file is what fibjax wrote, where its folder lists it.

  Args:
    path: the file.
    content: of the file, where it was read already.

  Raises:
    InputError: when the content has changed since.
  """
  path = Path(path)
  listed = _read_list(path.parent).get(path.name)
  if not listed or (content is None and not path.is_file()):
    return  # not fibjax's, or missing, which whoever reads it reports
  if (hash_file(path) if content is None else hash_bytes(content)) not in listed:
    raise _changed(path, 'a content that fibjax did not write')


def check_sealed(folder) -> None:
  """Checks all files of a folder that `seal` listed; one without a list is accepted.

  Raises:
    InputError: when one of them is missing or has changed.
  """
  folder = Path(folder)
  for name, listed in _read_list(folder).items():
    path = folder / name
    if not path.is_file():
      raise _changed(path, 'no such file')
    if hash_file(path) not in listed:
      raise _changed(path, 'a content that fibjax did not write')


def _changed(path: Path, got: str) -> InputError:
  return InputError(str(path), got=got,
                    expected=f'the content that the file {LIST} lists',
                    remedy='it was damaged or edited: restore it, or delete it and run '
                    'the same command again to make it anew')


def _append(folder: Path, digests: dict[str, str]) -> None:
  """Adds lines to the list of a folder; on the disk when this returns."""
  path = folder / LIST
  is_new = not path.exists()
  with open(path, 'a', encoding='utf-8') as file:
    file.writelines(f'{digest}  {name}\n' for name, digest in digests.items())
    file.flush()
    os.fsync(file.fileno())
  if is_new:
    sync_folder(folder)


def _read_list(folder: Path) -> dict[str, set[str]]:
  """Hashes of all contents that were written under each name."""
  try:
    lines = (folder / LIST).read_text('utf-8', errors='replace').splitlines()
  except FileNotFoundError:
    return {}
  listed = {}
  for digest, _, name in (line.partition('  ') for line in lines):
    listed.setdefault(name, set()).add(digest)
  return listed


def hash_bytes(content: bytes) -> str:
  """BLAKE2b hash of 128 bits, hexadecimal."""
  return hashlib.blake2b(content, digest_size=_DIGEST_BYTES).hexdigest()


def hash_file(path) -> str:
  """BLAKE2b hash of 128 bits of a file's content, hexadecimal."""
  with open(path, 'rb') as file:
    return hashlib.file_digest(
        file, lambda: hashlib.blake2b(digest_size=_DIGEST_BYTES)).hexdigest()


def sync_folder(folder) -> None:
  """Brings the names in a folder to the disk, where the system can (not on Windows)."""
  if hasattr(os, 'O_DIRECTORY'):
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
      os.fsync(descriptor)
    finally:
      os.close(descriptor)
