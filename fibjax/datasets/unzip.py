"""Safe extraction of untrusted zip files.

Every member is checked before the first byte is written: its path stays inside the
folder, it is a plain file or a folder (no link, no device), and the stated sizes fit on
the disk together. No member can become larger than its stated size, since reading stops
there, and checksums are verified while reading.
"""
import hashlib
import re
import shutil
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from fibjax.errors import InputError
from fibjax.system import files


def unpack(source, out) -> Path:
  """Unpacks a zip file into a new folder, which appears whole or not at all.

  Args:
    source: the zip file.
    out: folder to make; must not exist.

  Returns:
    Path of the folder.

  Raises:
    InputError: when source is missing, damaged, encrypted, or larger than the free
      space; when a member is not a plain file or leads out of the folder; when out
      exists or cannot be written.
  """
  source, out = Path(source), Path(out)
  files.check_file(str(source), source)
  try:
    with zipfile.ZipFile(source) as archive:
      members = archive.infolist()
      for member in members:
        _check_member(source, member)
      out.parent.mkdir(parents=True, exist_ok=True)
      _check_room(source, out.parent, sum(member.file_size for member in members))
      with files.new_folder(out) as partial:
        partial.mkdir()
        archive.extractall(partial, members)
  except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
    raise InputError(str(source), got=f'a damaged zip file ({error})',
                     expected='a whole zip file', remedy='download it again') from None
  except RuntimeError as error:
    raise InputError(str(source), got=str(error), expected='a file without password',
                     remedy='unzip it by hand') from None
  except OSError as error:
    raise InputError(str(error.filename or out), got=error.strerror or str(error),
                     expected='a file to read and a folder to write',
                     remedy='check free space and permissions') from None
  return out


def check_md5(path, n_bytes: int, md5: str) -> None:
  """Checks that a downloaded file is the published one, by size and MD5.

  Args:
    path: the file.
    n_bytes: its published size.
    md5: its published MD5, hexadecimal.

  Raises:
    InputError: when the file is missing or differs.
  """
  path = Path(path)
  files.check_file(str(path), path)
  got, expected = f'{path.stat().st_size} bytes', f'{n_bytes} bytes'
  if got == expected:
    with open(path, 'rb') as file:
      digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False))
    got, expected = f'MD5 {digest.hexdigest()}', f'MD5 {md5}'
  if got != expected:
    raise InputError(str(path), got=got, expected=f'{expected}, the published file',
                     remedy='download it again; unpack any other zip yourself')


def _check_member(source: Path, member: zipfile.ZipInfo) -> None:
  name, mode = member.filename, member.external_attr >> 16
  path = PurePosixPath(name)
  if (path.is_absolute() or '..' in path.parts or '\\' in member.orig_filename
      or re.match('[A-Za-z]:', name) or not path.parts):
    raise InputError(str(source), got=f'member {name!r}',
                     expected='paths inside the folder',
                     remedy='do not trust this file; download it again')
  if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
    raise InputError(str(source), got=f'member {name!r}, a link or device',
                     expected='plain files and folders',
                     remedy='do not trust this file; download it again')


def _check_room(source: Path, folder: Path, n_bytes: int) -> None:
  free = shutil.disk_usage(folder).free
  if n_bytes > free:
    raise InputError(str(source), got=f'{n_bytes} bytes to unpack',
                     expected=f'at most the {free} bytes that are free in {folder}',
                     remedy='free some space or choose another folder')
