"""A tiny archive in the layout of Zenodo record 4317170, and a tiny Keras file.

Names, types and coding are the published ones; sizes are not. The grey values follow
the truth, and rows and columns differ in number, so a loader that swaps axes, slices
or phases gives itself away.
"""
from pathlib import Path

import h5py
import numpy as np
import tifffile
from scipy import ndimage

from fibjax.datasets.skarberg2021 import SAMPLES

POROSITY = {'HPC22': 0.204, 'HPC30': 0.293, 'HPC45': 0.422}
SHAPE, SQUARES, SIDE_PX = (24, 152, 168), 10, 32


def build(root, *, shape=SHAPE, squares=SQUARES, side=SIDE_PX, samples=SAMPLES):
  """Writes the archive's data/; every square lies inside the volume.

  Args:
    root: folder to fill.
    shape: voxels z, y, x, that is slices, rows, columns.
    squares: per sample; 60 % train, 20 % val, the rest test.
    side: rows and columns of a square.
    samples: names.

  Returns:
    name -> truth [z, y, x], 1 = solid.
  """
  corners = draw_corners(shape, squares, side)
  truths = {}
  for i, name in enumerate(samples):
    rng = np.random.default_rng((7, i))
    field = ndimage.gaussian_filter(rng.normal(size=shape), (1, 4, 4))
    truth_zyx = (field > np.quantile(field, POROSITY[name])).astype(np.uint8)
    grey_zyx = np.where(truth_zyx, 38000, 14000) + rng.normal(0, 2500, shape)
    write_slices(root, name, grey_zyx.astype(np.uint16))
    masks = np.stack([truth_zyx[z, x:x + side, y:y + side] for x, y, z in corners.T])
    write_squares(root, name, corners, masks)
    order = rng.permutation(squares)
    cuts = [round(0.6 * squares), round(0.8 * squares)]
    write_split(root, name, *np.split(order, cuts))
    truths[name] = truth_zyx
  return truths


def draw_corners(shape, squares, side, seed=3):
  """[3, squares] corners, rows x (image row), y (column), z, inside the volume."""
  depth, height, width = shape
  rng = np.random.default_rng(seed)
  return np.stack([rng.integers(0, n, squares)
                   for n in (height - side + 1, width - side + 1, depth)])


def write_slices(root, name, grey_zyx):
  """data/raw/<name>/<name>_0001.tif and on."""
  folder = Path(root) / 'data' / 'raw' / name
  folder.mkdir(parents=True)
  for z, slice_yx in enumerate(grey_zyx):
    tifffile.imwrite(folder / f'{name}_{z + 1:04d}.tif', slice_yx,
                     photometric='minisblack')


def write_squares(root, name, corners_3r, masks_ryx):
  """data/manual_segmentation/."""
  folder = Path(root) / 'data' / 'manual_segmentation'
  folder.mkdir(parents=True, exist_ok=True)
  np.save(folder / f'segmentation_regions_{name}.npy', corners_3r)
  np.save(folder / f'manual_segmentation_{name}.npy', masks_ryx)


def write_split(root, name, train, val, test):
  """data/regions/."""
  folder = Path(root) / 'data' / 'regions'
  folder.mkdir(parents=True, exist_ok=True)
  for split, indices in (('train', train), ('val', val), ('test', test)):
    np.save(folder / f'ind_squares_{split}_{name}.npy', np.asarray(indices))


KERAS_NAMES = {
    'conv1a': 'conv2d', 'conv1b': 'conv2d_1', 'conv2a': 'conv2d_2',
    'conv2b': 'conv2d_3', 'conv3a': 'conv2d_4', 'conv3b': 'conv2d_5',
    'conv4a': 'conv2d_6', 'conv4b': 'conv2d_7', 'fc1': 'dense', 'fc2': 'dense_1',
    'out': 'dense_2'}


def write_weights(path, params, *, prefix='model_weights/', names=None):
  """A file as Keras 2 writes it: model.save (the default) or save_weights (prefix '').

  Args:
    path: file to make; folders are made.
    params: of a patch_cnn.
    prefix: group that holds the layers.
    names: ours -> Keras' name of a layer.
  """
  names = names or KERAS_NAMES
  Path(path).parent.mkdir(parents=True, exist_ok=True)
  with h5py.File(path, 'w') as file:
    group = file.require_group(prefix or '/')
    group.attrs['layer_names'] = np.array(list(names.values()), 'S')
    group.attrs['keras_version'] = b'2.4.0'
    file.create_group(f'{prefix}dropout')
    for ours, name in names.items():
      layer = file.create_group(f'{prefix}{name}')
      layer.attrs['weight_names'] = np.array([f'{name}/{k}:0' for k in
                                              ('kernel', 'bias')], 'S')
      for kind in ('kernel', 'bias'):
        layer.create_dataset(f'{name}/{kind}:0',
                             data=np.asarray(params[ours][kind], np.float32))
        if prefix:  # the optimizer's momenta have the shapes of the weights
          file.create_dataset(f'optimizer_weights/SGD/{name}/{kind}/momentum:0',
                              data=np.zeros_like(params[ours][kind]))
