"""Reading of small text files that anyone may have written: bounded, UTF-8, plain."""
import re
import stat
from pathlib import Path

from fibjax.errors import InputError
from fibjax.system import checksums

MAX_BYTES = 2**25
# Tab, line feed and carriage return are text; all other control characters are not.
_CONTROL = re.compile('[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]')


def read_text(path, expected: str, *, max_bytes: int = MAX_BYTES,
              remedy: str = 'repair it, or write it again') -> str:
  """Reads a text file, line ends as they are, without a byte order mark.

  Args:
    path: a regular file; a pipe or a device, which might never end, is refused.
    expected: kind of file, for messages, e.g. 'a CSV table'.
    max_bytes: of the file.
    remedy: what the user can do about a damaged file.

  Raises:
    InputError: for a missing file, one that is no regular file, too large, not UTF-8,
      has control characters, or has changed since fibjax wrote it.
  """
  path = Path(path)
  try:
    status = path.stat()
  except (FileNotFoundError, NotADirectoryError):
    raise InputError(str(path), got='no such file', expected=expected,
                     remedy='check the path') from None
  if not stat.S_ISREG(status.st_mode):
    raise InputError(str(path), got='a folder, pipe or device', expected=expected,
                     remedy='check the path')
  n_bytes = status.st_size
  if n_bytes > max_bytes:
    raise InputError(str(path), got=f'{n_bytes} bytes',
                     expected=f'{expected} of at most {max_bytes} bytes', remedy=remedy)
  with open(path, 'rb') as file:
    data = file.read(n_bytes + 1)
  if len(data) > n_bytes:
    raise InputError(str(path), got='a file that grows while it is read',
                     expected=expected, remedy='wait until it is written')
  checksums.check(path, data)
  return decode(str(path), data, expected, remedy=remedy)


def decode(name: str, data: bytes, expected: str, *,
           remedy: str = 'repair it, or write it again') -> str:
  """Text of UTF-8 bytes without a byte order mark and without control characters.

  Raises:
    InputError: for other bytes.
  """
  try:
    text = data.decode('utf-8-sig')
  except UnicodeDecodeError as error:
    raise InputError(name, got=f'damaged text ({error})', expected=expected,
                     remedy=remedy) from None
  control = _CONTROL.search(text)
  if control:
    raise InputError(name, got=f'the control character {control[0]!r}',
                     expected=f'{expected} of plain text', remedy=remedy)
  return text
