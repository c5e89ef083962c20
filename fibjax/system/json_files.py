"""The one parser of JSON that anyone may have written: within limits, without NaN.

Python's own parser accepts NaN and Infinity, keeps the last of two equal keys and has
no limit on size, depth or digits. A file that uses any of that was not written by
fibjax, and what it means is a guess; it is refused.
"""
import json
import math

from fibjax.errors import InputError
from fibjax.system import text_files

# Far above what fibjax or other programs write: a sidecar has a depth of 2, the
# metadata of a zarr array about 8, the record of a preparation 6.
_MAX_DEPTH, _MAX_DIGITS, _MAX_NODES = 64, 64, 10**6
REMEDY = 'repair it, or let the program that wrote it write it again'


def parse_json(name: str, data: bytes | str, expected: str = 'a JSON file'):
  """Content of JSON.

  Args:
    name: of the file or field, for messages.
    data: text, or its UTF-8 bytes.
    expected: kind of file, for messages.

  Raises:
    InputError: for text that is not JSON, NaN, Infinity or a number beyond float64, a
      key that stands twice in an object, more than 32 MiB or 1000000 lists and objects,
      a depth above 64, a number of more than 64 characters, or strings that are no
      Unicode.
  """
  try:
    text = text_files.decode(name, data, expected, remedy=REMEDY) if isinstance(
        data, bytes) else data
    if len(text) > text_files.MAX_BYTES:
      raise ValueError(f'more than {text_files.MAX_BYTES} characters')
    if text.count('[') + text.count('{') > _MAX_NODES:
      raise ValueError(f'more than {_MAX_NODES} lists and objects')
    content = json.loads(text, object_pairs_hook=_object, parse_int=_integer,
                         parse_float=_number, parse_constant=_refuse)
    _check(content)
  except RecursionError:
    raise _damaged(name, f'nested more than {_MAX_DEPTH} deep', expected) from None
  except InputError:
    raise
  except ValueError as error:  # of json.loads too
    raise _damaged(name, str(error), expected) from None
  return content


def _damaged(name, got: str, expected: str) -> InputError:
  return InputError(name, got=f'damaged JSON ({got})', expected=expected,
                    remedy=REMEDY)


def _object(pairs) -> dict:
  content = dict(pairs)
  if len(content) < len(pairs):
    keys = [key for key, _ in pairs]
    twice = next(key for key in content if keys.count(key) > 1)
    raise ValueError(f'the key {twice!r} twice in an object')
  return content


def _integer(text: str) -> int:
  _check_digits(text)
  return int(text)


def _number(text: str) -> float:
  _check_digits(text)
  number = float(text)
  if not math.isfinite(number):
    raise ValueError(f'the number {text}')
  return number


def _check_digits(text: str) -> None:
  if len(text) > _MAX_DIGITS:
    raise ValueError(f'a number of {len(text)} characters')


def _refuse(text: str):
  raise ValueError(f'{text}, which is no JSON')


def _check(content) -> None:
  """Raises ValueError for too deep a nesting, or strings that cannot be written."""
  level = [content]
  for depth in range(_MAX_DEPTH + 1):
    inner = []
    for value in level:
      if depth == _MAX_DEPTH and isinstance(value, dict | list):
        raise ValueError(f'nested more than {_MAX_DEPTH} deep')
      if isinstance(value, dict):
        for key in value:
          _check_string(key)
        inner += value.values()
      elif isinstance(value, list):
        inner += value
      elif isinstance(value, str):
        _check_string(value)
    level = inner


def _check_string(text: str) -> None:
  if not text.isascii() and any('\ud800' <= c <= '\udfff' for c in text):
    raise ValueError(f'{text[:20]!r}, which is no Unicode')
