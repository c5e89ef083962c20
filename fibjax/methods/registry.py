"""The registry of methods: `METHODS[config.model.name](config) -> Method`.

A new network is a module in `fibjax/models` and a line in `models.NETWORKS`; a new
classical method is a function and a line in `classical.CLASSICAL`; any other method
is a module beside this one and a line below.
"""
from collections.abc import Callable

from fibjax import models
from fibjax.errors import InputError, unknown
from fibjax.methods import classical, forest_method, network
from fibjax.methods.method import Method

METHODS: dict[str, Callable[..., Method]] = {
    **dict.fromkeys(models.NETWORKS, network.make_method),
    'forest': forest_method.make_method,
    **dict.fromkeys(classical.CLASSICAL, classical.make_method),
}


def make_method(config) -> Method:
  """The method of a config, with its settings checked.

  Args:
    config: the experiment.

  Raises:
    InputError: for an unknown config.model.name, or settings that the method refuses.
  """
  check_name(config.model.name)
  method = METHODS[config.model.name](config)
  problems = [f'{rule.key}={rule.value!r} (expected {rule.expected})'
              for rule in method.facts.rules(config) if not rule.holds]
  if problems:
    raise InputError('config', got='; '.join(problems),
                     expected=f'settings that suit model.name={config.model.name}',
                     remedy='change them in the file or by --config.KEY=VALUE')
  return method


def check_name(name: str) -> None:
  """Raises InputError unless name is one of METHODS."""
  if name not in METHODS:
    raise unknown('config.model.name', name, METHODS)
