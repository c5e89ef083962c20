"""What tables, texts and rules need to know about a method of segmentation."""
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

# Roles that comparisons between methods refer to.
NETWORK, FOREST, THRESHOLD, CLASSICAL = 'network', 'forest', 'threshold', 'classical'


class Rule(NamedTuple):
  """A condition on a setting.

  Attributes:
    key: the setting, for example 'train.sampling'.
    value: what it is.
    holds: whether that is allowed.
    expected: what is.
  """
  key: str
  value: object
  holds: bool
  expected: str


def no_weights(config) -> Rule:
  """train.weights must be empty: for a method that cannot load published weights."""
  weights = config.train.weights
  return Rule('train.weights', weights, not weights, f"'' for a {config.model.name}")


def no_sizes(config) -> Rule:
  """sweep.sizes must be empty: for a method without a neighbourhood of n_xy pixels."""
  sizes = config.sweep.sizes
  return Rule('sweep.sizes', sizes, not sizes, f'() for a {config.model.name}')


def no_network(config) -> Iterable[Rule]:
  """Rules of a method that is no network."""
  yield no_weights(config)
  yield no_sizes(config)


class MethodFacts(NamedTuple):
  """Plain facts about a method.

  Attributes:
    title: its name in tables and figures, such as 'random forest'.
    describe: content of config.json -> sentence for the methods section of a paper.
    summary: content of config.json -> (label, text), the settings worth a line.
    citations: references beside that of Skärberg et al. 2021.
    role: NETWORK, FOREST, THRESHOLD or CLASSICAL.
    has_neighbourhood: whether it sees a square of config.model.n_xy pixels, the size
      that sweeps vary and figures draw.
    rules: config -> rules that its settings must obey.
  """
  title: str
  describe: Callable[[Mapping], str]
  summary: Callable[[Mapping], tuple[str, str]]
  citations: tuple[str, ...] = ()
  role: str = CLASSICAL
  has_neighbourhood: bool = False
  rules: Callable[[object], Iterable[Rule]] = no_network
