"""Trained weights of the published network, from a Keras HDF5 file.

The authors trained with TensorFlow 2.4 and kept the best epoch of a training in
model.h5. Whether that file holds a whole model (groups model_weights/<layer>/...) or
weights alone (<layer>/...), and how its layers are called, is not documented and could
not be looked up. It does not matter: each of the eleven layers of the network has a
kernel of another shape (section 1.5 of the methods), so layers are told by their shape
alone, and a bias by the kernel beside it.

Keras and this package agree on the rest: kernels are [y, x, input, output], convolution
does not flip them, and the last map is flattened in (y, x, channel) order, the default
channels_last of TensorFlow. The paper's x, the image row, comes first there as here.
The published network takes grey values in [0, 1] as they are.
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
    like: params of the zero-padded network of the same n_xy and n_z, of which only the
      shapes are read, e.g. models.empty_params(model).

  Returns:
    params of the structure of like: float32 kernels and biases, and an input that is
    left as it is (mean 0, deviation 1).

  Raises:
    InputError: when the file is missing, is no HDF5, or is of another network; names
      the layer that does not fit.
  """
  path = Path(path)
  if not path.is_file():
    raise InputError(str(path), got='no such file', expected='a Keras HDF5 file',
                     remedy='check the path')
  layers = {name: part for name, part in like.items() if name != 'input'}
  with decoding(path, 'a whole HDF5 file'), h5py.File(path, 'r') as file:
    kernels, biases = _find_datasets(path, file)
    found = {name: _read_layer(path, name, part, kernels, biases)
             for name, part in layers.items()}
    if len(kernels) > len(layers):
      raise InputError(str(path), got=f'{len(kernels)} layers with weights',
                       expected=f'{len(layers)}', remedy=_REMEDY)
  return {'input': dict(_INPUT), **found}


def _find_datasets(path: Path, file) -> tuple[dict, dict]:
  """Kernels and biases by the group that holds them; without an optimizer's state."""
  found = {'kernel': {}, 'bias': {}}

  def visit(name, node):
    parts = name.split('/')
    if not isinstance(node, h5py.Dataset) or parts[0] == 'optimizer_weights':
      return
    kind = parts[-1].partition(':')[0]
    if kind not in found:
      raise InputError(str(path), got=f'weights {name}',
                       expected='kernels and biases alone, as in the published network',
                       remedy=_REMEDY)
    found[kind]['/'.join(parts[:-1])] = node
  file.visititems(visit)
  if found['kernel'].keys() != found['bias'].keys():
    odd = sorted(found['kernel'].keys() ^ found['bias'].keys())
    raise InputError(f'{path}: {odd[0]}', got='a kernel or a bias alone',
                     expected='both in every layer', remedy=_REMEDY)
  return found['kernel'], found['bias']


def _read_layer(path: Path, layer: str, like: dict, kernels, biases) -> dict:
  shape = like['kernel'].shape
  fitting = [group for group, kernel in kernels.items() if kernel.shape == shape]
  if len(fitting) != 1:
    shapes = ', '.join(sorted(str(kernel.shape) for kernel in kernels.values()))
    raise InputError(f'{path}: layer {layer}',
                     got=f'{len(fitting)} kernels of its shape in {shapes or "none"}',
                     expected=f'one of shape {shape}', remedy=_REMEDY)
  result = {}
  for kind, dataset in (('kernel', kernels[fitting[0]]), ('bias', biases[fitting[0]])):
    wanted = like[kind].shape
    if dataset.shape != wanted or dataset.dtype.kind != 'f':
      raise InputError(f'{path}: {dataset.name}',
                       got=f'shape {dataset.shape}, {dataset.dtype}',
                       expected=f'shape {wanted}, floating point', remedy=_REMEDY)
    values = dataset[()].astype(np.float32)
    if not np.isfinite(values).all():
      raise InputError(f'{path}: {dataset.name}', got='NaN or infinite values',
                       expected='finite weights', remedy='unzip the archive again')
    result[kind] = values
  return result
