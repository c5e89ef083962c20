"""Regions as a raw data set of nnU-Net v2, to train it on the same labels.

The slices around a region are the channels of a 2-D image (`2d` plans). A folder has

  dataset.json            channels, labels with an ignore label, file ending
  imagesTr/ labelsTr/     training and validation regions: CASE_0000.tif ..., CASE.tif
  imagesTs/ labelsTs/     test regions
  splits_final.json       fold 0: fibjax's training and validation regions; nnU-Net
                          reads it from its folder of preprocessed data
  slices/NAME/            on request, every slice of the volume NAME, to predict

Predictions of slices/NAME are a stack of labels: `fibjax import PREDICTIONS
--profile=nnunet`. A margin around a region is labelled 'ignore', so that nnU-Net sees
the surroundings that fibjax's networks see.
"""
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fibjax.annotation.regions import Regions, check_regions, region_mask
from fibjax.errors import InputError
from fibjax.formats import tiff
from fibjax.formats.label_codes import encode_labels
from fibjax.metrics.labels import UNLABELLED
from fibjax.system import files
from fibjax.volumes.volume import Volume, read_mirrored

PROFILE = 'nnunet'
_ENDING = '.tif'


def export_nnunet(regions: Regions, volumes: Mapping[str, Volume], out, *,
                  slices: int = 7, margin_px: int = 0, whole: bool = False) -> dict:
  """Writes regions, and on request whole volumes, as a raw data set of nnU-Net v2.

  Args:
    regions: annotated regions; every row with a split is a case.
    volumes: volumes by name, uint8, uint16 or float32.
    out: folder to make, e.g. nnUNet_raw/Dataset001_film.
    slices: odd number of slices, the channels.
    margin_px: pixels around each region, with the ignore label.
    whole: whether to write every slice of every volume, to predict.

  Returns:
    JSON-able dict: train, val, test, their numbers of cases.

  Raises:
    InputError: when out exists, for an even number of slices, regions outside their
      volumes, or without training or validation regions.
  """
  if slices < 1 or slices % 2 == 0:
    raise InputError('context_slices', got=slices, expected='an odd number',
                     remedy='7 is usual')
  check_regions(regions, {name: volume.shape for name, volume in volumes.items()})
  cases = {split: [r for r, of in enumerate(regions.split) if of == split]
           for split in ('train', 'val', 'test')}
  for split in ('train', 'val'):
    if not cases[split]:
      raise InputError('regions', got=f'none in split {split}',
                       expected='training and validation regions',
                       remedy="fill the column 'split' of regions.csv")
  with files.new_folder(out) as partial:
    for r, split in enumerate(regions.split):
      _write_case(partial, regions, volumes, r, 'Ts' if split == 'test' else 'Tr',
                  slices, margin_px)
    files.write_json(partial / 'splits_final.json', [
        {split: [_case(r) for r in cases[split]] for split in ('train', 'val')}],
        checked=False)
    files.write_json(partial / 'dataset.json', {
        'channel_names': {str(k): f'slice {k - slices // 2:+d}' for k in range(slices)},
        'labels': {'pore': 0, 'solid': 1, 'ignore': 2},
        'numTraining': len(cases['train']) + len(cases['val']),
        'file_ending': _ENDING,
        'overwrite_image_reader_writer': 'NaturalImage2DIO',
        'spacing_zyx_nm': {name: volume.voxel_size_zyx_nm
                           for name, volume in volumes.items()}}, checked=False)
    if whole:
      for name, volume in volumes.items():
        _write_slices(partial / 'slices' / name, name, volume, slices)
  return {split: len(rows) for split, rows in cases.items()}


def _case(r: int) -> str:
  return f'region_{r:04d}'


def _write_case(folder: Path, regions: Regions, volumes, r: int, part: str,
                slices: int, margin_px: int) -> None:
  mask_yx = region_mask(regions, r)
  start = [int(regions.z[r]), int(regions.y[r]) - margin_px,
           int(regions.x[r]) - margin_px]
  shape = [n + 2 * margin_px for n in mask_yx.shape]
  _write_channels(folder / f'images{part}' / _case(r), volumes[regions.volume[r]],
                  start, shape, slices)
  labels_yx = np.pad(mask_yx, margin_px, constant_values=UNLABELLED)
  _write(folder / f'labels{part}' / f'{_case(r)}{_ENDING}',
         encode_labels(labels_yx, PROFILE, f'region {r}'))


def _write_slices(folder: Path, name: str, volume: Volume, slices: int) -> None:
  for z in range(volume.shape[0]):
    _write_channels(folder / f'{name}_{z:05d}', volume, [z, 0, 0], volume.shape[1:],
                    slices)


def _write_channels(stem: Path, volume: Volume, start, shape_yx, slices: int) -> None:
  """Writes the slices around a rectangle as STEM_0000.tif, STEM_0001.tif, ..."""
  z, y, x = start
  block_zyx = read_mirrored(volume, (z - slices // 2, y, x),
                            (z + slices // 2 + 1, y + shape_yx[0], x + shape_yx[1]))
  for k, image_yx in enumerate(block_zyx):
    _write(stem.with_name(f'{stem.name}_{k:04d}{_ENDING}'), image_yx)


def _write(path: Path, image_yx: np.ndarray) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  tiff.write_tiff(path, [image_yx[None]], (1, *image_yx.shape), image_yx.dtype, None)
