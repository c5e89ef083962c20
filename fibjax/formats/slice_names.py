"""Names of slice files: natural order, and numbers that count without a gap.

Plain strings; nothing here opens a file.
"""
import re
from collections import Counter
from pathlib import Path

from fibjax.errors import InputError


def natural_key(name: str) -> tuple:
  """Sort key that orders the numbers in a name by value: a2 before a10."""
  return tuple(int(part) if i % 2 else part
               for i, part in enumerate(re.split(r'([0-9]+)', name)))


def order_slices(names, folder='') -> list[str]:
  """Orders slice names by their number and checks that it counts without a gap.

  The number is the one that varies; where several do (time stamps), the one that
  counts most closely.

  Args:
    names: file names of one folder.
    folder: folder named in messages.

  Raises:
    InputError: for a gap, a number used twice, or a name of another pattern.
  """
  names = sorted(names, key=lambda n: (natural_key(n), n))
  keys = [natural_key(Path(n).stem) for n in names]
  pattern = Counter(k[::2] for k in keys).most_common(1)[0][0]
  for name, key in zip(names, keys, strict=True):
    if key[::2] != pattern:
      raise InputError(str(Path(folder, name)), got='a name of another pattern',
                       expected='names that differ in a number only, such as '
                       f'{"0".join(pattern) or "0"}{Path(names[0]).suffix}',
                       remedy='number the slices, or move the file out of the folder')
  if len(names) == 1:
    return names
  columns = list(zip(*(k[1::2] for k in keys), strict=True)) or [(0,) * len(names)]
  varying = [c for c in columns if len(set(c)) > 1] or columns[-1:]
  numbers = min(varying, key=lambda c: (_distance_from_counting(c), max(c) - min(c)))
  order = sorted(range(len(names)), key=lambda i: numbers[i])
  for i, j in zip(order, order[1:], strict=False):
    if numbers[i] == numbers[j]:
      raise InputError(str(Path(folder, names[j])),
                       got=f'number {numbers[j]}, also in {names[i]}',
                       expected='each slice once',
                       remedy='remove or rename one of them')
    if numbers[j] != numbers[i] + 1:
      raise InputError(str(Path(folder, names[j])),
                       got=f'number {numbers[j]} after {numbers[i]}',
                       expected=f'number {numbers[i] + 1}',
                       remedy='add the missing slices, or renumber without a gap')
  return [names[i] for i in order]


def _distance_from_counting(numbers) -> int:
  """0 when the numbers count without gap or repeat, more the further from it."""
  unique = len(set(numbers))
  return (len(numbers) - unique) + (max(numbers) - min(numbers) + 1 - unique)
