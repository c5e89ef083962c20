"""Trained weights of the published network from a Keras HDF5 file.

The authors trained with TensorFlow 2.4 and kept the best epoch of a training run in
model.h5. Whether that file holds a whole model (groups model_weights/<layer>/...) or
only weights (<layer>/...), and the names of its layers, are not documented. Neither
matters: each of the eleven layers of the network has a kernel of a different shape
(§1.5), so a layer is identified by the shape of its kernel, and a bias by the kernel in
the same group.

Otherwise Keras and this package agree: kernels are [y, x, input, output], convolution
does not flip them, and the last map is flattened in (y, x, channel) order, the default
channels_last of TensorFlow. The paper's x, the image row, comes first in both. The
published network takes grey values in [0, 1] without standardisation.
"""
from pathlib import Path

import h5py
import numpy as np

from fibjax.errors import InputError
from fibjax.formats.stack_reader import decoding

_INPUT = {'mean': np.float32(0), 'deviation': np.float32(1)}
_REMEDY = 'choose the file of this n_xy and n_z, or the published network'


def read_weights(path, like: dict) -> dict:
  """Reads the weights of a published network into the tree of the same network here.

  Args:
    path: HDF5 file of Keras.
    like: params of the zero-padded network of the same n_xy and n_z; only their shapes
      are used, e.g. models.empty_params(model).

  Returns:
    params with the structure of like: float32 kernels and biases, and an input layer
    that changes nothing (mean 0, deviation 1).

  Raises:
    InputError: for a missing file, one that is not HDF5, or another network; names the
      layer that does not fit.
  """
  path = Path(path)
  if not path.is_file():
    raise InputError(str(path), got='no such file', expected='a Keras HDF5 file',
                     remedy='check the path')
  layers = {name: layer for name, layer in like.items() if name != 'input'}
  with decoding(path, 'a whole HDF5 file'), h5py.File(path, 'r') as file:
    kernels, biases = _find_datasets(path, file)
    weights = {name: _read_layer(path, name, layer, kernels, biases)
               for name, layer in layers.items()}
    if len(kernels) > len(layers):
      raise InputError(str(path), got=f'{len(kernels)} layers with weights',
                       expected=f'{len(layers)}', remedy=_REMEDY)
  return {'input': dict(_INPUT), **weights}


def _find_datasets(path: Path, file) -> tuple[dict, dict]:
  """Kernels and biases by their group, without the state of the optimiser."""
  datasets = {'kernel': {}, 'bias': {}}

  def visit(name, node):
    *groups, last = name.split('/')
    if not isinstance(node, h5py.Dataset) or groups[:1] == ['optimizer_weights']:
      return
    role = last.partition(':')[0]
    if role not in datasets:
      raise InputError(str(path), got=f'weights {name}',
                       expected='kernels and biases alone, as in the published network',
                       remedy=_REMEDY)
    datasets[role]['/'.join(groups)] = node
  file.visititems(visit)
  if datasets['kernel'].keys() != datasets['bias'].keys():
    odd = sorted(datasets['kernel'].keys() ^ datasets['bias'].keys())
    raise InputError(f'{path}: {odd[0]}', got='a kernel or a bias alone',
                     expected='both in every layer', remedy=_REMEDY)
  return datasets['kernel'], datasets['bias']


def _read_layer(path: Path, layer: str, like: dict, kernels, biases) -> dict:
  shape = like['kernel'].shape
  fitting = [group for group, kernel in kernels.items() if kernel.shape == shape]
  if len(fitting) != 1:
    shapes = ', '.join(sorted(str(kernel.shape) for kernel in kernels.values()))
    raise InputError(f'{path}: layer {layer}',
                     got=f'{len(fitting)} kernels of its shape in {shapes or "none"}',
                     expected=f'one of shape {shape}', remedy=_REMEDY)
  result = {}
  for role, dataset in (('kernel', kernels[fitting[0]]), ('bias', biases[fitting[0]])):
    wanted = like[role].shape
    if dataset.shape != wanted or dataset.dtype.kind != 'f':
      raise InputError(f'{path}: {dataset.name}',
                       got=f'shape {dataset.shape}, {dataset.dtype}',
                       expected=f'shape {wanted}, floating point', remedy=_REMEDY)
    values = dataset[()].astype(np.float32)
    if not np.isfinite(values).all():
      raise InputError(f'{path}: {dataset.name}', got='NaN or infinite values',
                       expected='finite weights', remedy='unzip the archive again')
    result[role] = values
  return result
