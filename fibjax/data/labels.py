"""Labels (0 pore, 1 solid, 255 unlabelled) and the codes other tools use for them.

Codes are translated through a named profile only; a code the profile does not know is
an error, never a guess.
"""
import numpy as np

from fibjax.checks import InputError

PORE, SOLID, UNLABELLED = 0, 1, 255
# Code in a file -> label. Anything else in a file is an error.
LABEL_PROFILES = {
    'fibjax': {0: PORE, 1: SOLID, 255: UNLABELLED},
    'paper': {0: PORE, 1: SOLID},
    'fiji': {0: PORE, 255: SOLID},
    'ilastik': {0: UNLABELLED, 1: PORE, 2: SOLID},
    'napari': {0: UNLABELLED, 1: PORE, 2: SOLID},
    'porespy': {1: PORE, 0: SOLID},
}


def decode_labels(array, profile: str, name: str = 'mask') -> np.ndarray:
  """Turns the codes of a label file into labels 0 pore, 1 solid, 255 unlabelled.

  Args:
    array: codes, any shape and number type.
    profile: key of LABEL_PROFILES.
    name: of the file or region, for the message.

  Returns:
    uint8 array of the same shape.

  Raises:
    InputError: for an unknown profile, or codes it does not know (all are listed).
  """
  if profile not in LABEL_PROFILES:
    raise InputError('label profile', got=repr(profile),
                     expected=f'one of {", ".join(LABEL_PROFILES)}',
                     remedy='name the tool the masks come from')
  codes = LABEL_PROFILES[profile]
  found, inverse = np.unique(np.asarray(array), return_inverse=True)
  unknown = [c for c in found.tolist() if c not in codes]
  if unknown:
    shown = ', '.join(map(str, unknown[:8])) + (', ...' if len(unknown) > 8 else '')
    raise InputError(name, got=f'codes {shown}',
                     expected=f'{sorted(codes)} of label profile {profile}',
                     remedy='choose the profile of the tool that made the masks')
  labels = np.array([codes[c] for c in found.tolist()], np.uint8)
  return labels[inverse].reshape(np.shape(array))
