"""FlyEM medulla volume: real FIB-SEM data with dense ground truth.

180 x 250 x 250 voxels (z, y, x) of 10 nm, uint8, and the ids of the neuron bodies
(0 = unlabelled), as two TIFF files. The task is boundary (label 0, in the role of pore)
against interior (1). Voxels with a 4-neighbour in the slice that belongs to another
body, dilated 3 x 3 in the slice, are boundary; 23 % of the voxels.

Source: janelia-flyem/neuroproof_examples (training_sample2), CC BY 3.0; Parag et al.
2015, PLoS ONE 10(5):e0125825.
"""
from pathlib import Path

import numpy as np
from scipy import ndimage

from fibjax.annotation.regions import Regions, make_regions
from fibjax.datasets.source import Request, Source
from fibjax.errors import InputError
from fibjax.formats import label_images, stacks
from fibjax.metrics.labels import PORE, SOLID, UNLABELLED
from fibjax.system.run_folder import film_path
from fibjax.volumes.volume import Volume, new_volume, open_volume, write_box

NAME = 'flyem'
_GREY, _BODIES = 'gray_z180_y250_x250_u8.tif', 'bodies_z180_y250_x250_u16.tif'
_VOXEL_SIZE_ZYX_NM = (10.0, 10.0, 10.0)
_FIRST_VAL, _FIRST_TEST = 120, 150


def load_flyem(root, out_dir) -> Regions:
  """Writes the raw volume and the truth (0, 1, 255) and returns the regions.

  Existing volumes are kept, since they appear only when complete.

  Args:
    root: folder with the two TIFF files.
    out_dir: folder for the volumes.

  Returns:
    One region per slice, the whole slice: train z < 120, val z < 150, test above.

  Raises:
    InputError: for a missing or damaged file, or files of different shapes.
  """
  root, out_dir = Path(root), Path(out_dir)
  bodies_zyx = label_images.read_masks(root / _BODIES)
  truth_zyx = boundary_labels(bodies_zyx)
  raw_path, truth_path = film_path(out_dir, 'raw'), film_path(out_dir, 'truth')
  raw = open_volume(raw_path) if raw_path.exists() else stacks.import_stack(
      root / _GREY, raw_path, voxel_size_zyx_nm=_VOXEL_SIZE_ZYX_NM)
  if raw.shape != truth_zyx.shape:
    raise InputError(str(root / _BODIES), got=f'shape {truth_zyx.shape}',
                     expected=f'{raw.shape} as {_GREY}', remedy='copy the files again')
  if not truth_path.exists():
    with new_volume(truth_path, truth_zyx.shape, np.uint8, _VOXEL_SIZE_ZYX_NM,
                    fill_value=None) as truth:
      write_box(truth, (0, 0, 0), truth_zyx)
  n = len(truth_zyx)
  split = ['train' if z < _FIRST_VAL else 'val' if z < _FIRST_TEST else 'test'
           for z in range(n)]
  positions = np.stack([np.arange(n), np.zeros(n, int), np.zeros(n, int)], 1)
  return make_regions((NAME,) * n, positions, list(truth_zyx), split)


def boundary_labels(bodies_zyx: np.ndarray) -> np.ndarray:
  """Labels from body ids, slice by slice: 0 boundary, 1 interior, 255 unlabelled.

  An unlabelled voxel (id 0) does not count as another body: its neighbours are not
  boundary because of it.

  Args:
    bodies_zyx: [z, y, x] ids of the bodies, 0 = unlabelled.

  Returns:
    [z, y, x] uint8 labels.
  """
  edge_zyx = np.zeros(bodies_zyx.shape, bool)
  for axis in (1, 2):
    ids, edge = np.moveaxis(bodies_zyx, axis, 0), np.moveaxis(edge_zyx, axis, 0)
    differ = (ids[1:] != ids[:-1]) & (ids[1:] != 0) & (ids[:-1] != 0)
    edge[1:] |= differ
    edge[:-1] |= differ
  boundary_zyx = ndimage.binary_dilation(edge_zyx, np.ones((1, 3, 3), bool))
  labels_zyx = np.where(boundary_zyx, PORE, SOLID)
  return np.where(bodies_zyx == 0, UNLABELLED, labels_zyx).astype(np.uint8)


def _open_flyem(request: Request) -> dict[str, Volume]:
  raw = request.run.raw(NAME)
  load_flyem(request.data.root, raw.parent)
  return {NAME: open_volume(raw)}


def _flyem_regions(request: Request, volumes: dict[str, Volume]) -> Regions:
  del volumes
  return load_flyem(request.data.root, request.run.raw(NAME).parent)


SOURCE = Source(_open_flyem, _flyem_regions)
