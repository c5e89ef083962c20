"""CSV tables with a header: written whole or not at all, read within limits.

`read_rows` is the one reader; it gives text, which `read_columns` makes numbers of.
"""
import csv
import io
import math
import re
from pathlib import Path

import numpy as np

from fibjax.errors import InputError
from fibjax.system import files, text_files

# The largest sweep that settings allow has 99999 members of about 30 columns, 30 MB.
_MAX_BYTES, _MAX_ROWS, _MAX_CELLS, _MAX_FIELD = 2**26, 2 * 10**5, 5 * 10**6, 4096
_EXPECTED = 'a CSV table'
_WHOLE = re.compile('[0-9]{1,10}')
MAX_WHOLE = 2**31 - 1


def to_csv(rows: list[dict], columns) -> str:
  """Text of a CSV table with a header; every row has every column."""
  text = io.StringIO()
  writer = csv.DictWriter(text, list(columns), lineterminator='\n')
  writer.writeheader()
  writer.writerows(rows)
  return text.getvalue()


def write_csv(path, rows: list[dict], columns, *, checked: bool = True) -> None:
  """Writes a CSV table, whole or not at all.

  Args:
    path: file to create or replace.
    rows: cells by column; every row has every column.
    columns: names, in their order.
    checked: as for `files.whole_file`; False for tables that users may edit.
  """
  files.write_text(path, to_csv(rows, columns), checked=checked)


def read_rows(path, remedy: str = 'correct the table') -> list[dict[str, str]]:
  """Reads a CSV table as rows of text; empty lines are left out.

  Args:
    path: file, UTF-8; blanks after a comma do not count.
    remedy: what the user can do about a bad table.

  Returns:
    column name -> cell, for each row; [] for a file with a header at most.

  Raises:
    InputError: for a missing file, one that is not text, has control characters, a
      column without a name or two of one name, or a row whose length differs from the
      header's; for a cell of more than 4096 characters, or too many cells or rows.
  """
  name = str(path)
  text = text_files.read_text(path, _EXPECTED, max_bytes=_MAX_BYTES, remedy=remedy)
  rows, cells = [], 0
  if text.count('\n') > _MAX_ROWS:
    raise InputError(name, got='too many rows', expected=f'at most {_MAX_ROWS}',
                     remedy=remedy)
  try:
    for row in csv.reader(io.StringIO(text, newline=''), skipinitialspace=True,
                          strict=True):
      cells += len(row)
      if cells > _MAX_CELLS or max(map(len, row), default=0) > _MAX_FIELD:
        raise csv.Error(f'more than {_MAX_CELLS} cells, or one of more than '
                        f'{_MAX_FIELD} characters')
      if row:
        rows.append(row)
  except csv.Error as error:
    raise InputError(name, got=f'a damaged file ({error})', expected=_EXPECTED,
                     remedy=remedy) from None
  if not rows:
    return []
  header = [column.strip() for column in rows[0]]
  if len(set(header)) < len(header) or '' in header:
    raise InputError(name, got=f'the header {",".join(header)!r}',
                     expected='columns of different names', remedy=remedy)
  for number, row in enumerate(rows[1:]):
    if len(row) != len(header):
      raise InputError(f'{name} row {number}', remedy=remedy,
                       got=f'{len(row)} cells; rows of different lengths',
                       expected=f'{len(header)} as in the header')
  return [dict(zip(header, row, strict=True)) for row in rows[1:]]


def whole_numbers(rows, columns, name: str) -> np.ndarray:
  """Reads cells as whole numbers from 0 to 2147483647.

  Args:
    rows: column name -> cell, for each row.
    columns: names of the k columns to read.
    name: of the table, for messages.

  Returns:
    int [r, k].

  Raises:
    InputError: for any other cell; names the row, counted from 0.
  """
  values = np.zeros((len(rows), len(columns)), int)
  for r, row in enumerate(rows):
    for k, column in enumerate(columns):
      text = str(row.get(column)).strip()
      number = int(text) if _WHOLE.fullmatch(text) else -1
      if not 0 <= number <= MAX_WHOLE:
        raise InputError(f'{name} row {r}', got=f'{column} = {row.get(column)!r}',
                         expected='a whole number of voxels, from 0',
                         remedy='correct the table')
      values[r, k] = number
  return values


def read_columns(path, text_columns=()) -> dict[str, np.ndarray]:
  """Reads a CSV table as columns of float64, NaN where a cell is empty.

  Args:
    path: file; a missing or empty one gives {}.
    text_columns: names of columns to read as text, such as seeds, which have more
      digits than a float64 keeps.

  Raises:
    InputError: as `read_rows`, or for a cell that is not a number.
  """
  if not Path(path).is_file():
    return {}
  rows = read_rows(path, 'delete it and run the stage again')
  return {name: _column(f'{path}: {name}', [row[name] for row in rows],
                        is_text=name in text_columns) for name in (rows or [{}])[0]}


def _column(name, cells, is_text):
  if is_text:
    return np.array(cells)
  try:
    return np.array([float(c) if c.strip() else math.nan for c in cells])
  except ValueError as error:
    raise InputError(name, got=str(error), expected='numbers',
                     remedy='delete the file and run the stage again') from None
