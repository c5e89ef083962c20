"""Scores of arrays and volumes: one record, Scorer, for whatever can score voxels.

A score is P(solid), float32 in [0, 1]. A block is scored from the voxels around it;
where these leave the volume it is mirrored at its faces (§1.9). A voxel's score does
not depend on the block: `score_array` and `score_volume` give the same bits on one
kind of device, with any memory and any number of workers.
"""
import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from fibjax.errors import InputError, check_shape
from fibjax.system import files, geometry
from fibjax.system.cluster import HERE, Resources
from fibjax.system.geometry import Box
from fibjax.volumes.blockwise import BlockFunction, map_blocks
from fibjax.volumes.volume import Volume

_SLAB = 16  # slices of an array that are scored at once


class BlockScorer(NamedTuple):
  """A scorer that is ready to compute: weights on the device, programs compiled once.

  Attributes:
    reads: box of voxels -> box of the image that their scores depend on.
    score: (shape of the box, [z, y, x] float32 image of what it reads) -> [z, y, x]
      float32 scores, or [c, z, y, x] with channels.
  """
  reads: Callable[[Box], Box]
  score: Callable[[tuple[int, int, int], np.ndarray], np.ndarray]


class Scorer(NamedTuple):
  """What scores voxels: a network, an ensemble of networks, or a forest.

  Attributes:
    window_zyx: voxels that an image must have at least.
    channels: names of the channels of a score, the first of them P(solid); () for
      P(solid) alone.
    fingerprint: JSON that identifies weights and settings.
    open: memory_gb -> BlockScorer, in the process that computes. A partial of a
      top-level function, so that it can be sent to workers.
  """
  window_zyx: tuple[int, int, int]
  channels: tuple[str, ...]
  fingerprint: dict
  open: Callable[[float], BlockScorer]


def score_array(scorer: BlockScorer, image_zyx: np.ndarray) -> np.ndarray:
  """Scores every voxel of an image in memory.

  Args:
    scorer: an opened scorer, `Scorer.open(memory_gb)`.
    image_zyx: [z, y, x] grey values on the scale of the training images.

  Returns:
    [z, y, x] float32 P(solid), or [c, z, y, x] with channels.

  Raises:
    InputError: for an array of another rank.
  """
  image_zyx = np.asarray(image_zyx, np.float32)
  check_shape('image_zyx', image_zyx, (None, None, None))
  tile = (_SLAB, *image_zyx.shape[1:])
  parts = [scorer.score(geometry.box_shape(box),
                        geometry.mirrored(image_zyx, *scorer.reads(box)))
           for box in geometry.tile_boxes(image_zyx.shape, tile)]
  return np.concatenate(parts, axis=-3)


def score_volume(scorer: Scorer, source: Volume, out, *,
                 resources: Resources = HERE) -> Volume:
  """Scores every voxel of a volume of any size; resumes an interrupted call.

  Args:
    scorer: what scores.
    source: prepared volume, [z, y, x].
    out: path of the score volume to make; a complete one is verified and returned.
    resources: where to work.

  Raises:
    InputError: as `blockwise.map_blocks`.
  """
  return map_blocks(
      functools.partial(_open_block_function, scorer.open, resources.memory_gb), source,
      out, np.float32, title=f'score {source.path.name}', resources=resources,
      fingerprint=scorer.fingerprint | {'source': files.hash_files(source.path)},
      channels=scorer.channels)


def _open_block_function(open_scorer, memory_gb: float, source: Volume
                         ) -> BlockFunction:
  del source
  opened = open_scorer(memory_gb)
  return BlockFunction(
      opened.reads, lambda box, block_zyx: opened.score(geometry.box_shape(box),
                                                        block_zyx))


def check_window(name: str, shape, window_zyx) -> None:
  """Raises InputError when an image is smaller than what a method sees of it."""
  if any(size < window for size, window in zip(shape, window_zyx, strict=True)):
    raise InputError(name, got=f'shape {tuple(shape)}',
                     expected=f'at least the window {tuple(window_zyx)} of the method',
                     remedy='use a larger volume, or train with a smaller n_xy or n_z')
