"""Voxel sizes in nm, z, y, x, from and for file tags.

A size is known only where the file gives a number with a unit of length; None stands
for an unknown axis. Nothing is guessed: a plain TIFF resolution (mostly the dots per
inch of a screen) and ImageJ's units `pixel` and `inch` (how it reads those 72 dpi)
count as unknown.
"""
import math
from xml.etree import ElementTree

import numpy as np

from fibjax.errors import InputError

_LEAST_NM, _MOST_NM = 1e-6, 1e9  # products of three stay far from 0 and infinity
UNITS_NM = {'angstrom': 0.1, 'nanometer': 1.0, 'micrometer': 1e3, 'millimeter': 1e6,
            'centimeter': 1e7, 'meter': 1e9}
# '\\u00b5m': ImageJ writes the micro sign as this escape sequence.
_SHORT_UNITS = {
    'å': 'angstrom', 'nm': 'nanometer', 'um': 'micrometer', 'µm': 'micrometer',
    '\\u00b5m': 'micrometer', 'micron': 'micrometer', 'microns': 'micrometer',
    'mm': 'millimeter', 'cm': 'centimeter', 'm': 'meter'}


def check_voxel_size(name: str, voxel_size_zyx_nm) -> tuple[float, ...] | None:
  """Returns the voxel size as three floats, or None for None.

  Raises:
    InputError: unless it is three numbers from 1e-6 to 1e9 nm; a text, even of digits,
      is no number.
  """
  if voxel_size_zyx_nm is None:
    return None
  try:
    numbers = list(voxel_size_zyx_nm)
    size = tuple(float(s) for s in numbers)
  except (TypeError, ValueError, OverflowError):
    numbers = size = ()
  is_text = any(isinstance(s, str | bytes | bool | np.bool_) for s in (
      voxel_size_zyx_nm, *numbers))
  if is_text or len(size) != 3 or not all(_LEAST_NM <= s <= _MOST_NM for s in size):
    raise InputError(f'{name}: voxel size', got=voxel_size_zyx_nm,
                     expected='three positive numbers up to 1e9, nm per voxel in z, '
                     'y, x',
                     remedy='for example 50,10,10')
  return size


def to_nm(value, unit) -> float | None:
  """Converts a length to nm; None where the value or its unit is not known.

  0 stands for an unknown value in many programs. A value that is no length, negative
  or not finite, is returned as it is, NaN for a text; `check_stated` refuses it.
  Rounded to six digits: the rational numbers of TIFF tags carry no more.
  """
  name = str(unit).strip().lower().replace('\u03bc', '\u00b5').replace('metre', 'meter')
  name = _SHORT_UNITS.get(name, name)
  name = name if name in UNITS_NM else name.removesuffix('s')
  if value is None or name not in UNITS_NM:
    return None
  try:
    value = float(value)
  except (TypeError, ValueError, OverflowError):
    value = math.nan
  return None if value == 0 else float(f'{value * UNITS_NM[name]:.6g}')


def check_stated(name: str, voxel_size_zyx_nm) -> None:
  """Raises InputError for a voxel size in a file that is no length; None is unknown."""
  if not all(s is None or _LEAST_NM <= s <= _MOST_NM for s in voxel_size_zyx_nm):
    raise InputError(f'{name}: voxel size', got=tuple(voxel_size_zyx_nm),
                     expected='positive lengths in the file, nm in z, y, x',
                     remedy='correct the file, or give the voxel size yourself '
                     '(--voxel_size_nm)')


def from_imagej(tags: dict, page_tags: dict):
  """Reads the tags of ImageJ: spacing for z, pixels per unit in the resolution tags.

  Args:
    tags: ImageJ's description, parsed to a dict.
    page_tags: TIFF tags of the first page by name.

  Returns:
    (channels, frames, slices) and the voxel size z, y, x in nm, None per unknown axis.
  """
  unit = tags.get('unit')

  def pixel_nm(name, axis_unit):
    per_unit, scale = page_tags.get(name, (0, 1))
    return to_nm(scale / per_unit if per_unit else None, axis_unit)
  counts = [int(tags.get(k, 1)) for k in ('channels', 'frames', 'slices')]
  if math.prod(counts) == 1:  # old versions of ImageJ write `images` only
    counts[2] = int(tags.get('images', 1))
  return counts, (to_nm(tags.get('spacing'), tags.get('zunit', unit)),
                  pixel_nm('YResolution', tags.get('yunit', unit)),
                  pixel_nm('XResolution', unit))


def from_ome_xml(text: str):
  """Reads OME-XML: (channels, frames, slices) and the voxel size, as `from_imagej`."""
  root = ElementTree.fromstring(text)
  pixels = next(e for e in root.iter() if e.tag.rpartition('}')[2] == 'Pixels')
  size = tuple(to_nm(pixels.get(f'PhysicalSize{k}'),
                     pixels.get(f'PhysicalSize{k}Unit', 'µm')) for k in 'ZYX')
  return [int(pixels.get(f'Size{k}', 1)) for k in 'CTZ'], size


def tiff_tags(voxel_size_zyx_nm, ome: bool) -> dict:
  """Arguments for tifffile's writer that store the voxel size for ImageJ or OME."""
  if voxel_size_zyx_nm is None:
    return {'metadata': {'axes': 'ZYX'}}
  z, y, x = voxel_size_zyx_nm
  if not ome:
    return {'resolution': (1 / x, 1 / y), 'resolutionunit': 'NONE',
            'metadata': {'axes': 'ZYX', 'spacing': z, 'unit': 'nm'}}
  sizes = {f'PhysicalSize{k}': s for k, s in zip('ZYX', (z, y, x), strict=True)}
  units = {f'PhysicalSize{k}Unit': 'nm' for k in 'ZYX'}
  return {'metadata': {'axes': 'ZYX', **sizes, **units}}
