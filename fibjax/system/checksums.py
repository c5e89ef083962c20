"""Checksums of the files that fibjax reads back.

A folder with such files has a list of them, `.checksums`, which grows by a line with
each write: 'HASH  NAME', as `b2sum --length=128 --check` reads it. A file is intact
when one of the hashes of its name is its own: the line is on the disk before the file
gets its name, so that a crash between the two leaves an older file that is listed as
well. Files that are not listed, such as those of the user, are not checked.

Volumes need no line: TensorStore keeps a checksum with every chunk, and
`volumes.volume` one of the metadata.
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
  with open(path.parent / LIST, 'a', encoding='utf-8') as file:
    file.write(f'{digest}  {path.name}\n')
    file.flush()
    os.fsync(file.fileno())
  sync_folder(path.parent)


def seal(folder) -> None:
  """Lists all files of a folder that are finished, as they are."""
  for path in sorted(Path(folder).iterdir()):
    if path.is_file() and path.name != LIST:
      record(path, hash_file(path))


def check(path, content: bytes | None = None) -> None:
  """Checks that a file is what fibjax wrote, where its folder lists it.

  Args:
    path: the file.
    content: of the file, where it was read already.

  Raises:
    InputError: when the content has changed since.
  """
  path = Path(path)
  try:
    lines = (path.parent / LIST).read_text('utf-8', errors='replace').splitlines()
  except FileNotFoundError:
    return
  if content is None and not path.is_file():
    return  # whoever reads it reports it
  listed = {line.partition('  ')[0] for line in lines
            if line.partition('  ')[2] == path.name}
  if not listed:
    return
  digest = hash_file(path) if content is None else hash_bytes(content)
  if digest not in listed:
    raise InputError(str(path), got='a content that fibjax did not write',
                     expected=f'the content that {LIST} in its folder lists',
                     remedy='the file was damaged or edited: restore it, or delete it '
                     'and run the same command again to make it anew')


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
