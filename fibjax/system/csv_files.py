"""CSV tables with a header: written whole or not at all, read as columns."""
import csv
import io
import math
from pathlib import Path

import numpy as np

from fibjax.errors import InputError
from fibjax.system import checksums, files


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


def read_columns(path, text_columns=()) -> dict[str, np.ndarray]:
  """Reads a CSV table as columns of float64, NaN where a cell is empty.

  Args:
    path: file; a missing or empty one gives {}.
    text_columns: names of columns to read as text, such as seeds, which have more
      digits than a float64 keeps.

  Raises:
    InputError: for a file that is not text or has changed since fibjax wrote it, a
      row whose length differs from the header's, or a cell that is not a number.
  """
  path = Path(path)
  if not path.is_file():
    return {}
  checksums.check(path)
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
  return {name: _column(f'{path}: {name}', cells, is_text=name in text_columns)
          for name, *cells in zip(*rows, strict=True)}


def _column(name, cells, is_text):
  if is_text:
    return np.array(cells)
  try:
    return np.array([float(c) if c.strip() else math.nan for c in cells])
  except ValueError as error:
    raise InputError(name, got=str(error), expected='numbers',
                     remedy='delete the file and run the stage again') from None
