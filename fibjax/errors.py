"""The one kind of error a user's mistake raises.

Every message is one line that names the thing, what was got, what was expected and
the remedy; the command prints it as it is and exits with status 2. Anything else
that escapes is a defect of fibjax and keeps its traceback.
"""
import difflib


class InputError(ValueError):
  """A mistake in what the user gave: a file, a label, a config value, an array."""

  def __init__(self, name: str, *, got, expected, remedy: str):
    """Builds the one-line message.

    Args:
      name: the thing at fault, e.g. a file, a config key or a region.
      got: what was found there.
      expected: what must hold.
      remedy: what the user can do about it.
    """
    self.name = name
    line = f'{name}: got {got}, expected {expected}; {remedy}'
    super().__init__(' '.join(line.split()))

  def __reduce__(self):
    """Pickles the message, so that an error of a worker process arrives whole."""
    return _rebuild, (self.name, str(self))


def _rebuild(name: str, line: str) -> InputError:
  error = InputError.__new__(InputError, line)
  error.args, error.name = (line,), name
  return error


def nearest(word: str, known) -> str:
  """The known word that a misspelt one most likely means, '' when none is close."""
  return next(iter(difflib.get_close_matches(word, list(known), 1)), '')


def check_shape(name: str, array, shape: tuple) -> None:
  """Raises InputError unless array.shape equals shape (None = any length).

  Args:
    name: name of the array in the message.
    array: anything with a shape.
    shape: expected lengths per axis; None accepts any.

  Raises:
    InputError: for another rank or another length.
  """
  got = tuple(array.shape)
  fits = len(got) == len(shape) and all(
      e is None or g == e for g, e in zip(got, shape, strict=True))
  if not fits:
    raise InputError(name, got=f'shape {got}', expected=f'shape {shape}',
                     remedy='None stands for any length')
