"""Settings on the command line: --config.KEY=VALUE."""
import ast
import re

from ml_collections import ConfigDict

from fibjax.config import rules
from fibjax.errors import InputError, nearest


def apply_override(config: ConfigDict, override: str) -> None:
  """Changes one setting as KEY=VALUE says.

  Args:
    config: changed.
    override: e.g. 'train.epochs=3'.

  Raises:
    InputError: for an unknown key, or a value of another type.
  """
  key, equals, text = override.partition('=')
  *parents, leaf = key.split('.')
  node = config
  for parent in parents:
    if not isinstance(node, ConfigDict) or parent not in node:
      node = None
      break
    node = node[parent]
  if not isinstance(node, ConfigDict) or leaf not in node:
    raise _unknown_key(config, key)
  if not equals or isinstance(node[leaf], ConfigDict):
    raise InputError(f'--config.{key}', got=repr(override), expected='KEY=VALUE',
                     remedy=f'write --config.{key}=VALUE for a single setting')
  node[leaf] = _parse(key, text, node[leaf], leaf)


def _unknown_key(config: ConfigDict, key: str) -> InputError:
  """The error for a key that no setting has: what its section offers."""
  node, prefix, keys = config, '', _all_keys(config)
  for name in key.split('.'):
    if not isinstance(node, ConfigDict) or name not in node:
      break
    node, prefix = node[name], f'{prefix}{name}.'
  known = sorted(node if isinstance(node, ConfigDict) else config)
  # Where the section is right, one of its keys is meant rather than one elsewhere.
  similar = (nearest(key, [k for k in keys if k.startswith(prefix)])
             or nearest(key, keys))
  return InputError(f'--config.{key}', got='an unknown key',
                    expected=f'one of {", ".join(known)}',
                    remedy=f'did you mean --config.{similar}?' if similar else
                    'check the spelling')


def _all_keys(config: ConfigDict, prefix: str = '') -> list[str]:
  """Dotted names of all settings."""
  return [name for key, value in config.items()
          for name in (_all_keys(value, f'{prefix}{key}.')
                       if isinstance(value, ConfigDict) else (f'{prefix}{key}',))]


def _parse(key: str, text: str, default, leaf: str):
  """Reads text as the type of the default value."""
  kind = type(default)
  wrong = InputError(f'--config.{key}', got=repr(text), expected=kind.__name__,
                     remedy=f'write it like {default!r}')
  if len(text) > rules.MAX_TEXT:
    raise InputError(f'--config.{key}', got=f'{len(text)} characters',
                     expected=f'at most {rules.MAX_TEXT}', remedy='shorten it')
  if kind is str:
    return text
  if kind is tuple and rules.MEMBER_TYPES[leaf] is str:
    return tuple(part.strip() for part in re.split(r',(?![^(]*\))', text))
  if kind is bool and text.lower() in ('true', 'false'):
    return text.lower() == 'true'
  try:
    value = ast.literal_eval(text)
    if kind is float and type(value) is int:
      value = float(value)
  # Deep nesting exhausts the parser, and an integer may exceed what a float holds.
  except (ValueError, SyntaxError, RecursionError, MemoryError, OverflowError):
    raise wrong from None
  if kind is tuple and not isinstance(value, tuple):
    value = (value,)
  if type(value) is not kind:
    raise wrong
  return value
