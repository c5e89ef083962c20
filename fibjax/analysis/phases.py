"""Common inputs of all measurements: labels and voxel size, checked.

Labels are [z, y, x], 0 pore and 1 solid, every voxel labelled; voxel sizes are nm in
z, y, x and may differ between axes. Nothing is resampled: each measurement takes the
spacing of each axis into account. To measure the solid, pass 1 - labels.
"""
import numpy as np

from fibjax.errors import InputError, check_shape
from fibjax.volumes.voxel_size import check_voxel_size

AXES = 'zyx'
Size = tuple[float, float, float]


def find_pore(labels_zyx, voxel_size_zyx_nm) -> tuple[np.ndarray, Size]:
  """Checks a volume and marks its pore.

  Args:
    labels_zyx: [z, y, x] bool or integers, 0 pore, 1 solid.
    voxel_size_zyx_nm: voxel size along z, y, x, nm.

  Returns:
    pore_zyx: bool [z, y, x].
    voxel_size_zyx_nm: three floats.

  Raises:
    InputError: for another rank or dtype, no voxel, other codes, or no voxel size.
  """
  labels_zyx = np.asarray(labels_zyx)
  check_shape('labels', labels_zyx, (None,) * 3)
  if labels_zyx.dtype.kind not in 'biu':
    raise InputError('labels', got=f'dtype {labels_zyx.dtype}',
                     expected='bool or integers, 0 pore and 1 solid',
                     remedy='segment the scores first')
  if not labels_zyx.size or labels_zyx.min() < 0 or labels_zyx.max() > 1:
    raise InputError('labels', got='no voxel, or codes other than 0 and 1',
                     expected='0 pore and 1 solid everywhere',
                     remedy='segment the volume first, or cut out a labelled box')
  size = check_voxel_size('labels', voxel_size_zyx_nm)
  if size is None:
    raise InputError('labels', got='no voxel size', expected='nm in z, y, x',
                     remedy='give the voxel size, for example 50,10,10')
  return labels_zyx == 0, size


def check_two_phases(pore_zyx: np.ndarray) -> None:
  """Raises InputError for a volume of one phase, which has no interface."""
  if pore_zyx.all() or not pore_zyx.any():
    raise InputError('labels', got='one phase only', expected='pore and solid',
                     remedy='check the segmentation, or give a larger volume')


def axis_index(axis: str) -> int:
  """Position of an axis named 'z', 'y' or 'x'.

  Raises:
    InputError: for another name.
  """
  if len(axis) != 1 or axis not in AXES:
    raise InputError('axis', got=repr(axis), expected='z, y or x',
                     remedy='name one axis')
  return AXES.index(axis)
