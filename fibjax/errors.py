"""`InputError`, the error that every mistake of a user raises.

Its message is one line that names the thing at fault, what was got, what was expected
and the remedy; the command prints it as it is and exits with status 2. Any other
exception that escapes is a defect of fibjax and keeps its traceback.
"""
import difflib
from collections.abc import Iterable

_MAX_SHOWN = 24  # known words that a message lists; of more it lists the first half
# Longest parts of a message: enough for a path or a list of settings, not for a screen.
_MAX_NAME, _MAX_PART = 300, 800


class InputError(ValueError):
  """A mistake in the user's input: a file, a label, a config value, an array.

  Example:
    >>> import fibjax
    >>> try:
    ...   fibjax.make_model(n_xy=34)
    ... except fibjax.InputError as error:
    ...   print(str(error).partition(',')[0])
    config.model.n_xy: got 34
  """

  def __init__(self, name: str, *, got, expected, remedy: str):
    """Builds the one-line message.

    Args:
      name: the thing at fault, e.g. a file, a config key or a region.
      got: its value or state.
      expected: the condition that it must meet.
      remedy: what the user can do about it.
    """
    self.name = name
    got, expected, remedy = (printable(text) for text in (got, expected, remedy))
    line = f'{printable(name, _MAX_NAME)}: got {got}, expected {expected}; {remedy}'
    super().__init__(line.rstrip())

  def __reduce__(self):
    """Pickles the message, so that a worker process can send the error."""
    return _rebuild, (type(self), self.name, str(self))


def _rebuild(kind: type[InputError], name: str, line: str) -> InputError:
  error = kind.__new__(kind, line)
  error.args, error.name = (line,), name
  return error


def printable(text, limit: int = _MAX_PART) -> str:
  """One line of printable characters, shortened in the middle.

  File names and values of files reach a message as they are; written to a terminal,
  control characters among them could move the cursor or hide text.

  Args:
    text: anything; whitespace becomes single blanks, and every other character that
      cannot be printed its escape sequence.
    limit: longest result, in characters.
  """
  try:
    text = str(text)
  except ValueError:  # Python refuses to write integers of thousands of digits
    text = 'an integer of thousands of digits'
  is_cut = len(text) > limit  # before the loop below, which takes time per character
  if is_cut:
    text = text[:limit] + text[-limit:]
  text = ''.join(c if c.isprintable() else c.encode(
      'unicode_escape', 'surrogatepass').decode() for c in ' '.join(text.split()))
  if not is_cut and len(text) <= limit:
    return text
  head = (limit - 5) * 2 // 3
  return f'{text[:head]} ... {text[head + 5 - limit:]}'


def nearest(word: str, known: Iterable[str]) -> str:
  """The known word that is most like a misspelt one, '' when none is similar."""
  if len(str(word)) > _MAX_NAME:  # difflib's time grows with the square of the length
    return ''
  lower = {str(k).lower(): str(k) for k in known}
  matches = difflib.get_close_matches(str(word).lower(), lower, n=1)
  return lower[matches[0]] if matches else ''


def did_you_mean(word: str, known: Iterable[str]) -> str:
  """"did you mean 'xyz'?" with the nearest known word; '' when none is similar."""
  similar = nearest(word, known)
  return f'did you mean {similar!r}?' if similar else ''


def unknown(name: str, got, known: Iterable, remedy: str = 'choose one of these'
            ) -> InputError:
  """The error for a word that is not among the known ones; suggests the nearest.

  Args:
    name: the thing at fault, e.g. a config key or a flag.
    got: the word.
    known: all words that would do, in the order of the message.
    remedy: what the user can do where no known word is similar.
  """
  known = [str(k) for k in known]
  shown = known if len(known) <= _MAX_SHOWN else [*known[:_MAX_SHOWN // 2], '...']
  return InputError(name, got=repr(got), expected=f'one of {", ".join(shown)}',
                    remedy=did_you_mean(got, known) or remedy)


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
