"""Boxes, tiles and mirrored indices in voxels.

A box is (start, stop): two tuples of ints in z, y, x order, 0-based and half-open.
Integers and tuples only; files and devices play no part here.
"""
import itertools
from collections.abc import Iterator

import numpy as np

Index = tuple[int, ...]
Box = tuple[Index, Index]


def tile_boxes(shape: Index, tile: Index) -> Iterator[Box]:
  """Yields boxes that cover [0, shape) once, in C order; edge boxes are smaller."""
  starts = (range(0, size, step) for size, step in zip(shape, tile, strict=True))
  for start in itertools.product(*starts):
    stop = tuple(min(a + t, s) for a, t, s in zip(start, tile, shape, strict=True))
    yield start, stop


def cut_at_grid(start: Index, stop: Index, step: Index) -> Iterator[Box]:
  """Yields the parts of the box [start, stop) in each cell of a grid from voxel 0."""
  edges = ((a, *range(a - a % n + n, b, n), b)
           for a, b, n in zip(start, stop, step, strict=True))
  for cell in itertools.product(*map(itertools.pairwise, edges)):
    yield tuple(zip(*cell, strict=True))


def grow(box: Box, margin: Index) -> Box:
  """Grows a box by margin voxels on both sides of each axis, also beyond the volume."""
  start, stop = box
  return (tuple(a - m for a, m in zip(start, margin, strict=True)),
          tuple(b + m for b, m in zip(stop, margin, strict=True)))


def box_shape(box: Box) -> Index:
  """Number of voxels of a box per axis."""
  return tuple(b - a for a, b in zip(*box, strict=True))


def mirror_indices(start: int, stop: int, size: int) -> np.ndarray:
  """Indices of [start, stop) folded back into [0, size) by mirroring at the faces.

  The edge voxel is not repeated (numpy.pad's 'reflect'; §1.9, I1), and the folding
  repeats as often as needed, so any start and stop are allowed.

  Returns:
    [stop - start] int indices in [0, size).
  """
  if size == 1:
    return np.zeros(stop - start, int)
  period = 2 * (size - 1)
  folded = np.arange(start, stop) % period
  return np.minimum(folded, period - folded)


def mirrored(array_zyx: np.ndarray, start: Index, stop: Index) -> np.ndarray:
  """The box [start, stop) of an array, mirrored at its faces where it leaves it."""
  indices = (mirror_indices(a, b, size)
             for a, b, size in zip(start, stop, array_zyx.shape, strict=True))
  return array_zyx[np.ix_(*indices)]
