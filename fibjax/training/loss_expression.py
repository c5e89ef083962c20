"""Losses as expressions: 'bce + 0.5*ramp(0.6, 1)*jaccard' to a pure function.

The terms are those of losses.TERMS. Two factors, SCHEDULES, depend on the share of the
training done, so that one term can replace another: 'fade(0.5, 0.8)*bce +
ramp(0.5, 0.8)*jaccard'. The expression is read as a syntax tree and never evaluated.
"""
import ast
import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from fibjax.errors import InputError, check_shape, did_you_mean
from fibjax.training import losses

_MAX_CHARACTERS = 500  # also bounds the depth of the syntax tree
_FACTOR_MAX = float(np.finfo(np.float32).max)


def ramp(progress, start: float, stop: float):
  """0 until share start of the training, growing linearly to 1 at share stop."""
  return jnp.clip((progress - start) / (stop - start), 0., 1.)


def fade(progress, start: float, stop: float):
  """1 until share start of the training, falling linearly to 0 at share stop.

  The opposite of `ramp`: the two add up to 1.
  """
  return 1. - ramp(progress, start, stop)


SCHEDULES = {'ramp': ramp, 'fade': fade}


class Loss(NamedTuple):
  """A weighted sum of terms.

  Attributes:
    expression: as written.
    factors: number before each term; traced ones may take their place.
    names: label of each term with its arguments, e.g. 'bce', 'focal(2)'; unique.
    apply: (logits, targets, weights, factors, progress) -> (total, {name: value
      without factor and schedule}); factors [terms] float32, progress the share of the
      training done in [0, 1]. InputError for arrays of different shapes.
  """
  expression: str
  factors: tuple[float, ...]
  names: tuple[str, ...]
  apply: Callable


class _Schedule(NamedTuple):
  """One of SCHEDULES with its arguments: progress -> number in [0, 1]."""
  function: Callable
  start: float
  stop: float

  def __call__(self, progress):
    return self.function(progress, self.start, self.stop)


class _Product(NamedTuple):
  """One term with its factor and schedules."""
  name: str
  function: Callable
  factor: float
  schedules: list[_Schedule]

  def times(self) -> tuple[float, float]:
    """Shares of the training between which the schedules are above 0."""
    return (max((s.start for s in self.schedules if s.function is ramp), default=0.),
            min((s.stop for s in self.schedules if s.function is fade), default=1.))


def make_loss(expression: str) -> Loss:
  """Reads a sum of products such as 'bce + 0.5*ramp(0.6, 1)*jaccard'.

  A product has one term, with arguments if it takes any ('focal(3)'), and any number of
  factors: numbers >= 0, ramp(a, b) and fade(a, b) with 0 <= a < b <= 1. They must leave
  a term at all times of the training.

  Raises:
    InputError: for anything else, named config.train.loss.

  Example:
    >>> import fibjax, jax.numpy as jnp
    >>> loss = fibjax.make_loss('bce + 0.5*ramp(0.6, 1)*jaccard')
    >>> logits, targets, weights = (jnp.full((1, 4, 4), v) for v in (2.0, 1.0, 1.0))
    >>> value, terms = loss.apply(logits, targets, weights, jnp.array(loss.factors),
    ...                           progress=0.5)
    >>> round(float(value), 4), sorted(terms)
    (0.1269, ['bce', 'jaccard'])
  """
  products = [_read_product(expression, node)
              for node in _operands(_parse(expression), ast.Add)]
  names = tuple(product.name for product in products)
  for name in names:
    if names.count(name) > 1:
      raise _mistake(expression, f'{name} twice', 'each term once')
  _check_times(expression, products)

  def apply(logits, targets, weights, factors, progress):
    check_shape('targets', targets, logits.shape)
    check_shape('weights', weights, logits.shape)
    check_shape('factors', factors, (len(products),))
    values = {p.name: p.function(logits, targets, weights) for p in products}
    total = jnp.zeros((), logits.dtype)
    for k, product in enumerate(products):
      factor = factors[k]
      for schedule in product.schedules:
        factor *= schedule(progress)
      total += factor * values[product.name]
    return total, values
  return Loss(expression, tuple(p.factor for p in products), names, apply)


def _check_times(expression: str, products: list[_Product]) -> None:
  """Raises InputError where ramps and fades leave a term, or a time, with nothing.

  A single time without a loss, such as the start of 'ramp(0, 1)*bce', is allowed.
  """
  remedy = 'let ramps begin where fades end, or before'
  for product in products:
    begin, end = product.times()
    if begin >= end:
      raise _mistake(expression, f'{product.name}, which is 0 at all times,',
                     'terms that count at some time', remedy)
  covered = 0.
  for begin, end in sorted([*(product.times() for product in products), (1., 1.)]):
    if begin > covered:
      raise _mistake(expression, f'no term from {covered:g} to {begin:g}',
                     'a loss at all times of the training, 0 to 1', remedy)
    covered = max(covered, end)


def _mistake(expression, got: str, expected: str, remedy: str = '') -> InputError:
  return InputError('config.train.loss', got=f'{got} in {expression!r}',
                    expected=expected,
                    remedy=remedy or "write e.g. 'bce + 0.5*ramp(0.6, 1)*jaccard'")


def _unknown(expression, name: str) -> InputError:
  return _mistake(expression, repr(name), f'terms among {", ".join(losses.TERMS)} and '
                  f'factors among {", ".join(SCHEDULES)}',
                  did_you_mean(name, (*losses.TERMS, *SCHEDULES)))


def _parse(expression) -> ast.expr:
  # Deep nesting exhausts the stack of the parser, or of the functions below.
  try:
    text = str(expression).strip()
    if len(text) > _MAX_CHARACTERS:
      raise ValueError
    return ast.parse(text, mode='eval').body
  except (SyntaxError, ValueError, RecursionError, MemoryError):
    raise _mistake(expression, 'no sum',
                   f'a sum of {", ".join(losses.TERMS)}, at most {_MAX_CHARACTERS} '
                   'characters') from None


def _operands(node: ast.expr, operator: type) -> list[ast.expr]:
  """Operands of a chain of one operator, in order."""
  if isinstance(node, ast.BinOp) and isinstance(node.op, operator):
    return _operands(node.left, operator) + _operands(node.right, operator)
  return [node]


def _read_product(expression: str, node: ast.expr) -> _Product:
  factor, schedules, terms = 1., [], []
  for operand in _operands(node, ast.Mult):
    number = _read_number(operand)
    if number is not None:
      factor *= _check_number(expression, number)
      continue
    call = operand if isinstance(operand, ast.Call) else None
    name = operand if call is None else call.func
    if not isinstance(name, ast.Name):
      raise _mistake(expression, repr(ast.unparse(operand)), 'a sum of products')
    if name.id in SCHEDULES:
      schedules.append(_read_schedule(expression, name.id, call))
    else:
      terms.append(_read_term(expression, name.id, call))
  if len(terms) != 1:
    raise _mistake(expression, f'{len(terms)} terms in the product '
                   f'{ast.unparse(node)!r}', 'one term in each product')
  return _Product(*terms[0], _check_number(expression, factor), schedules)


def _read_number(node: ast.expr) -> float | None:
  """A number, infinite beyond the range of float32, negative after a sign; or None."""
  if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
    number = _read_number(node.operand)
    return None if number is None else -number
  if not isinstance(node, ast.Constant) or type(node.value) not in (int, float):
    return None
  return float(node.value) if node.value <= _FACTOR_MAX else math.inf


def _check_number(expression, number: float) -> float:
  if not 0 <= number <= _FACTOR_MAX:  # false for NaN too
    raise _mistake(expression, f'the number {number:g}', 'finite numbers >= 0')
  return number


def _read_arguments(expression, call: ast.Call, count: int) -> tuple[float, ...]:
  numbers = [_read_number(argument) for argument in call.args]
  if len(numbers) != count or call.keywords or None in numbers:
    raise _mistake(expression, repr(ast.unparse(call)),
                   f'{count} numbers as arguments of {call.func.id}')
  return tuple(_check_number(expression, number) for number in numbers)


def _read_schedule(expression, name: str, call: ast.Call | None) -> Callable:
  if call is None:
    raise _mistake(expression, repr(name), f'2 numbers as arguments of {name}')
  start, stop = _read_arguments(expression, call, 2)
  if not start < stop <= 1:
    raise _mistake(expression, repr(ast.unparse(call)), '0 <= a < b <= 1')
  return _Schedule(SCHEDULES[name], start, stop)


def _read_term(expression, name: str, call: ast.Call | None) -> tuple[str, Callable]:
  """Label and function of a term."""
  if name not in losses.TERMS:
    raise _unknown(expression, name)
  term = losses.TERMS[name]
  arguments = losses.arguments_of(term)
  if call is not None:
    if not arguments:
      raise _mistake(expression, repr(ast.unparse(call)), f'{name} without arguments')
    numbers = _read_arguments(expression, call, len(arguments))
    arguments = dict(zip(arguments, numbers, strict=True))
  if not arguments:
    return name, term.function
  shown = [f'{a:g}' if float(f'{a:g}') == a else repr(a) for a in arguments.values()]
  label = f'{name}({", ".join(shown)})'
  if term.positive and 0 in arguments.values():
    raise _mistake(expression, repr(label), f'{len(arguments)} numbers > 0')
  return label, functools.partial(term.function, **arguments)
