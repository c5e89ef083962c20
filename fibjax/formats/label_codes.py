"""Label codes: the numbers that other programs store for pore, solid and unlabelled.

Labels are 0 pore, 1 solid, 255 unlabelled. Codes are translated only by a named table;
a code that is not in the table is an error, never guessed. Export is the inverse, and a
label without a code is an error.
"""
import numpy as np

from fibjax.errors import InputError, unknown
from fibjax.metrics.labels import LABEL_CODES


def decode_labels(array, program: str, name: str = 'mask') -> np.ndarray:
  """Translates label codes of a program into 0 pore, 1 solid, 255 unlabelled.

  Args:
    array: codes, any shape and number type.
    program: key of LABEL_CODES.
    name: of the file or region, for the message.

  Returns:
    uint8 array of the same shape.

  Raises:
    InputError: for an unknown program, or codes that are not in its table (they are
      listed).
  """
  codes = check_label_codes(program)
  return _translate(array, codes, lambda shown: InputError(
      name, got=f'codes {shown}', expected=f'{sorted(codes)}, the codes of {program}',
      remedy='choose the label codes (--profile) of the program that made the masks'))


def encode_labels(labels, program: str, name: str = 'labels') -> np.ndarray:
  """Translates labels 0 pore, 1 solid, 255 unlabelled into the codes of a program.

  Args:
    labels: any shape and number type.
    program: key of LABEL_CODES.
    name: of the file or volume, for the message.

  Returns:
    uint8 array of the same shape.

  Raises:
    InputError: for an unknown program, values that are no labels, or labels without a
      code, such as unlabelled voxels in Fiji's.
  """
  labels_to_codes = {label: code for code, label in check_label_codes(program).items()}
  return _translate(labels, labels_to_codes, lambda shown: InputError(
      name, got=f'labels {shown}',
      expected=f'{sorted(labels_to_codes)}, which have codes in {program}',
      remedy='choose label codes (--profile) that have one for each label '
      '(255: unlabelled)'))


def check_label_codes(program: str) -> dict[int, int]:
  """Returns the table {code: label} of a program.

  Raises:
    InputError: for a name that is not in LABEL_CODES; suggests the nearest.
  """
  if program not in LABEL_CODES:
    raise unknown('label codes (--profile)', program, LABEL_CODES,
                  'name the program that the masks come from or go to')
  return LABEL_CODES[program]


def _translate(array, table: dict, error) -> np.ndarray:
  """uint8 array of table[value]; raises error(the unknown values, as text)."""
  values, inverse = np.unique(np.asarray(array), return_inverse=True)
  unknown = [value for value in values.tolist() if value not in table]
  if unknown:
    shown = ', '.join(map(str, unknown[:8]))
    raise error(shown + (', ...' if len(unknown) > 8 else ''))
  translated = np.array([table[value] for value in values.tolist()], np.uint8)
  return translated[inverse].reshape(np.shape(array))
