"""Labels (0 pore, 1 solid, 255 unlabelled) and the codes other tools use for them.

Codes are translated through a named profile only; a code the profile does not know is
an error, never a guess. Export is the inverse, and a label without a code is an error.

Sources: ImageJ's binary images are 0 and 255; ilastik and napari count labels from 1
and leave 0 to what is unlabelled; nnU-Net counts from 0, and its ignore label is the
highest (its documentation, ignore_label.md); PoreSpy's images are True in the pores.
"""
import numpy as np

from fibjax.errors import InputError, unknown
from fibjax.metrics.labels import PORE, SOLID, UNLABELLED

# Code in a file -> label. Anything else in a file is an error.
LABEL_PROFILES = {
    'fibjax': {0: PORE, 1: SOLID, 255: UNLABELLED},
    'paper': {0: PORE, 1: SOLID},
    'fiji': {0: PORE, 255: SOLID},
    'ilastik': {0: UNLABELLED, 1: PORE, 2: SOLID},
    'napari': {0: UNLABELLED, 1: PORE, 2: SOLID},
    'nnunet': {0: PORE, 1: SOLID, 2: UNLABELLED},
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
  codes = _codes(profile)
  return _translate(array, codes, lambda shown: InputError(
      name, got=f'codes {shown}',
      expected=f'{sorted(codes)} of label profile {profile}',
      remedy='choose the profile of the tool that made the masks'))


def encode_labels(labels, profile: str, name: str = 'labels') -> np.ndarray:
  """Turns labels 0 pore, 1 solid, 255 unlabelled into the codes of a label file.

  Args:
    labels: labels, any shape and number type.
    profile: key of LABEL_PROFILES.
    name: of the file or volume, for the message.

  Returns:
    uint8 array of the same shape.

  Raises:
    InputError: for an unknown profile, values that are no labels, or labels the profile
      has no code for, such as unlabelled voxels in Fiji's.
  """
  labels_to_codes = {label: code for code, label in _codes(profile).items()}
  return _translate(labels, labels_to_codes, lambda shown: InputError(
      name, got=f'labels {shown}',
      expected=f'{sorted(labels_to_codes)}, which profile {profile} has codes for',
      remedy='choose a profile with a code for each label (255: unlabelled)'))


def _codes(profile: str) -> dict[int, int]:
  if profile not in LABEL_PROFILES:
    raise unknown('label profile', profile, LABEL_PROFILES,
                  'name the program that the masks come from or go to')
  return LABEL_PROFILES[profile]


def _translate(array, table: dict, error) -> np.ndarray:
  """uint8 array of table[value]; raises error(the unknown values, as text)."""
  found, inverse = np.unique(np.asarray(array), return_inverse=True)
  unknown = [value for value in found.tolist() if value not in table]
  if unknown:
    shown = ', '.join(map(str, unknown[:8]))
    raise error(shown + (', ...' if len(unknown) > 8 else ''))
  translated = np.array([table[value] for value in found.tolist()], np.uint8)
  return translated[inverse].reshape(np.shape(array))
