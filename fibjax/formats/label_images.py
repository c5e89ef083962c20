"""Reading of label images: one file, or a folder with one file per region.

Codes are returned as stored; label_codes.py translates them.
"""
from pathlib import Path

import numpy as np

from fibjax.formats import registry, slices, stacks
from fibjax.formats.slice_names import natural_key
from fibjax.formats.stack_reader import decoding, read_slices


def read_masks(path, *, dataset=None, axes=None) -> np.ndarray:
  """Reads label images from an image file or an OME-Zarr; codes as stored.

  Args:
    path: file of any format of `stacks.open_stack`, or a PNG; an npy may be 2-D.
    dataset, axes: as for `stacks.open_stack`; z counts the masks.

  Returns:
    [y, x] for a PNG, a TIFF of one page or a 2-D npy, else [r, y, x]; 1 bit as 0/1
    uint8.

  Raises:
    InputError: when the file is missing, damaged, pickled, or not grey.
  """
  path = Path(path)
  form = registry.find_format(path)
  if form.read_masks and dataset is None and axes is None:
    with decoding(path):
      return form.read_masks(path)
  with stacks.open_stack(path, dataset=dataset, axes=axes) as stack:
    return read_slices(stack)


def read_mask_list(path) -> list[np.ndarray]:
  """Reads one [y, x] mask per region from a file, or a folder in natural order.

  Raises:
    InputError: as `read_masks`; also for a folder without masks.
  """
  path = Path(path)
  files = [path]
  if registry.find_format(path) is registry.SLICES:
    files = sorted((file for file in path.iterdir() if not file.name.startswith('.')
                    and file.suffix.lower() in registry.mask_suffixes()),
                   key=lambda file: (natural_key(file.name), file.name))
  if not files:
    raise slices.no_images(path)
  masks = [read_masks(file) for file in files]
  return [mask_yx for mask in masks for mask_yx in (mask if mask.ndim == 3 else [mask])]
