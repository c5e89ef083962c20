"""TODO fibjax.training.loss_expression."""
import ast
import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from fibjax.errors import InputError, check_shape, did_you_mean
from fibjax.training.losses import (
  bce,
  dice,
  focal,
  jaccard,
  lovasz,
  lovasz_hinge,
  porosity,
  tversky,
)

_FACTOR_MAX = float(np.finfo(np.float32).max)

# Term -> its function and its arguments' defaults.
_TERMS = {'bce': (bce, {}), 'focal': (focal, {'gamma': 2.}), 'dice': (dice, {}),
          'jaccard': (jaccard, {}), 'lovasz': (lovasz, {}),
          'lovasz_hinge': (lovasz_hinge, {}), 'porosity': (porosity, {}),
          'tversky': (tversky, {'alpha': 0.3, 'beta': 0.7})}


class Loss(NamedTuple):
  """A weighted sum of terms.

  Attributes:
    expression: as written.
    factors: number before each term; traced ones may take their place.
    names: label of each term with its arguments, e.g. 'bce', 'focal(2)'; unique.
    apply: (logits, targets, weights, factors, progress) -> (total, {name: value
      without factor and ramp}); factors [terms] float32, progress the share of the
      training done in [0, 1]. InputError for arrays of different shapes.
  """
  expression: str
  factors: tuple[float, ...]
  names: tuple[str, ...]
  apply: Callable


class _Product(NamedTuple):
  """One term, its factor, and its ramps as pairs (start, stop) of progress."""
  name: str
  function: Callable
  factor: float
  ramps: list[tuple[float, float]]


def make_loss(expression: str) -> Loss:
  """Reads a sum of products such as 'bce + 0.5*ramp(0.6, 1)*jaccard'.

  A product has one term, with arguments if it takes any ('focal(3)'), and any numbers
  >= 0 and ramps: ramp(a, b) is 0 until the share a of the training is done and grows
  linearly to 1 at b.

  Raises:
    InputError: for anything else, named config.train.loss.
  """
  products = [_read_product(expression, node)
              for node in _operands(_parse(expression), ast.Add)]
  names = tuple(product.name for product in products)
  for name in names:
    if names.count(name) > 1:
      raise _mistake(expression, f'{name} twice', 'each term once')

  def apply(logits, targets, weights, factors, progress):
    check_shape('targets', targets, logits.shape)
    check_shape('weights', weights, logits.shape)
    check_shape('factors', factors, (len(products),))
    values = {p.name: p.function(logits, targets, weights) for p in products}
    total = jnp.zeros((), logits.dtype)
    for k, product in enumerate(products):
      factor = factors[k]
      for start, stop in product.ramps:
        factor *= jnp.clip((progress - start) / (stop - start), 0., 1.)
      total += factor * values[product.name]
    return total, values
  return Loss(expression, tuple(p.factor for p in products), names, apply)


def _mistake(expression, got: str, expected: str, remedy: str = '') -> InputError:
  return InputError('config.train.loss', got=f'{got} in {expression!r}',
                    expected=expected,
                    remedy=remedy or "write e.g. 'bce + 0.5*ramp(0.6, 1)*jaccard'")


def _parse(expression) -> ast.expr:
  try:
    return ast.parse(str(expression).strip(), mode='eval').body
  except (SyntaxError, ValueError, RecursionError, MemoryError):
    raise _mistake(expression, 'no sum', f'a sum of {", ".join(_TERMS)}') from None


def _operands(node: ast.expr, operator: type) -> list[ast.expr]:
  """What a chain of one operator joins, in order."""
  if isinstance(node, ast.BinOp) and isinstance(node.op, operator):
    return _operands(node.left, operator) + _operands(node.right, operator)
  return [node]


def _read_product(expression: str, node: ast.expr) -> _Product:
  factor, ramps, terms = 1., [], []
  for part in _operands(node, ast.Mult):
    number = _read_number(part)
    if number is not None:
      factor *= _check_number(expression, number)
      continue
    called = isinstance(part, ast.Call)
    name = part.func if called else part
    if not isinstance(name, ast.Name):
      raise _mistake(expression, repr(ast.unparse(part)), 'a sum of products')
    if called and name.id == 'ramp':
      start, stop = _read_arguments(expression, part, 2)
      if not start < stop <= 1:
        raise _mistake(expression, repr(ast.unparse(part)), '0 <= a < b <= 1')
      ramps.append((start, stop))
    else:
      terms.append(_read_term(expression, name.id, part if called else None))
  if len(terms) != 1:
    raise _mistake(expression, f'{len(terms)} terms in the product '
                   f'{ast.unparse(node)!r}', 'one term in each product')
  return _Product(*terms[0], _check_number(expression, factor), ramps)


def _read_number(node: ast.expr) -> float | None:
  """A number, infinite where a float32 has no room, negative after a sign; or None."""
  if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
    number = _read_number(node.operand)
    return None if number is None else -number
  if not isinstance(node, ast.Constant) or type(node.value) not in (int, float):
    return None
  return float(node.value) if node.value <= _FACTOR_MAX else math.inf


def _check_number(expression, number: float) -> float:
  if not 0 <= number <= _FACTOR_MAX:  # NaN, too, fails this
    raise _mistake(expression, f'the number {number:g}', 'finite numbers >= 0')
  return number


def _read_arguments(expression, call: ast.Call, count: int) -> tuple[float, ...]:
  numbers = [_read_number(argument) for argument in call.args]
  if len(numbers) != count or call.keywords or None in numbers:
    raise _mistake(expression, repr(ast.unparse(call)),
                   f'{count} numbers as arguments of {call.func.id}')
  return tuple(_check_number(expression, number) for number in numbers)


def _read_term(expression, name: str, call: ast.Call | None) -> tuple[str, Callable]:
  """Label and function of a term."""
  if name not in _TERMS:
    raise _mistake(expression, repr(name), f'terms among {", ".join(_TERMS)}',
                   did_you_mean(name, ('ramp', *_TERMS)))
  function, arguments = _TERMS[name]
  if call is not None:
    if not arguments:
      raise _mistake(expression, repr(ast.unparse(call)), f'{name} without arguments')
    numbers = _read_arguments(expression, call, len(arguments))
    arguments = dict(zip(arguments, numbers, strict=True))
  if not arguments:
    return name, function
  shown = [f'{a:g}' if float(f'{a:g}') == a else repr(a) for a in arguments.values()]
  label = f'{name}({", ".join(shown)})'
  if name == 'tversky' and 0 in arguments.values():
    raise _mistake(expression, repr(label), 'two numbers > 0')
  return label, functools.partial(function, **arguments)
