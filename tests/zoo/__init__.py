"""Bad inputs, each a case that the command must refuse in one line.

A case is a function that writes a bad file into a folder, or names a bad command, and
returns the words of the command. `CASES` has all of them by name.
"""
from tests.zoo import commands, settings, stacks, tables, volumes, workdirs
from tests.zoo.case import Case, Make

_GROUPS = {'command': commands, 'setting': settings, 'stack': stacks, 'table': tables,
           'volume': volumes, 'workdir': workdirs}

CASES: dict[str, Make] = {}
for _group, _module in _GROUPS.items():
  for _case in _module.cases():
    _name = f'{_group}: {_case.name}'
    if _name in CASES:
      raise ValueError(f'two cases {_name}')
    CASES[_name] = _case.make

__all__ = ['CASES', 'Case', 'Make']
