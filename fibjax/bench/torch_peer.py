"""The context network in PyTorch, for `fibjax bench --peer=torch`; the only torch user.

The dense form is the fragment algorithm (Giusti et al. 2013) as one would write it for
oneDNN: channels-last convolutions, and after `_SERIAL_FROM` poolings one fragment after
the other, which was the fastest of the arrangements tried (2026-11, torch 2.13).
"""
import numpy as np
import torch
from torch.nn import functional

from fibjax.models.patch_cnn import HIDDEN, WIDTHS

_SERIAL_FROM = 2  # poolings after which fragments are computed one by one


def convert(params, cells: int) -> dict:
  """Converts weights of a network to torch tensors.

  Args:
    params: weights of a network of the default kind.
    cells: side of the maps before the first dense layer, n_xy // 16.

  Returns:
    Name -> (kernel [out, in, y, x], bias [out]); the first dense layer becomes a
    convolution of cells x cells.
  """
  weights = {}
  for name, layer in params.items():
    if name == 'input':
      continue
    kernel = np.asarray(layer['kernel'])
    if name == 'fc1':
      kernel = kernel.reshape(cells, cells, -1, HIDDEN[0])
    elif kernel.ndim == 2:
      kernel = kernel[None, None]
    tensor = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())
    weights[name] = (tensor.contiguous(memory_format=torch.channels_last),
                     torch.from_numpy(np.array(layer['bias'])))
  return weights


def _blocks(weights, maps, blocks, padding: int = 0):
  for block in blocks:
    for layer in (f'conv{block}a', f'conv{block}b'):
      maps = functional.elu(
          functional.conv2d(maps, *weights[layer], padding=padding), inplace=True)
    maps = functional.max_pool2d(maps, 2, 2 if padding else 1)
    if not padding:
      maps = torch.cat([maps[:, :, dy::2, dx::2] for dy in (0, 1) for dx in (0, 1)])
  return maps


def _head(weights, maps):
  for name in ('fc1', 'fc2'):
    maps = functional.elu(functional.conv2d(maps, *weights[name]), inplace=True)
  return functional.conv2d(maps, *weights['out'])[:, 0]


def _interleave(logits_fyx):
  """Joins the fragments [f, y, x] of 2 x 2 offsets each to one image."""
  while len(logits_fyx) > 1:
    total, rows, columns = logits_fyx.shape
    offsets = logits_fyx.reshape(2, 2, total // 4, rows, columns)
    logits_fyx = offsets.permute(2, 3, 0, 4, 1).reshape(total // 4, 2 * rows,
                                                        2 * columns)
  return logits_fyx[0]


@torch.inference_mode()
def apply_dense(weights: dict, window_yxc: np.ndarray) -> np.ndarray:
  """Logits [t, t] of a window [16 cells + 59 + t, same, n_z], t a multiple of 16."""
  maps = _to_maps(window_yxc[None])
  maps = _blocks(weights, maps, range(1, _SERIAL_FROM + 1))
  last_blocks = range(_SERIAL_FROM + 1, len(WIDTHS) + 1)
  logits = [_interleave(_head(weights, _blocks(weights, fragment, last_blocks)))
            for fragment in maps.split(1)]
  return _interleave(torch.stack(logits)).numpy()


@torch.inference_mode()
def apply_patches(weights: dict, patches_byxc: np.ndarray) -> np.ndarray:
  """Logits [b] of the zero-padded network, one patch per voxel."""
  maps = _blocks(weights, _to_maps(patches_byxc), range(1, len(WIDTHS) + 1), padding=1)
  return _head(weights, maps)[:, 0, 0].numpy()


def _to_maps(images_byxc: np.ndarray):
  return torch.from_numpy(images_byxc).permute(0, 3, 1, 2).contiguous(
      memory_format=torch.channels_last)
