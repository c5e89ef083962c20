"""Small objects of a phase, given to the other phase: in memory, or shard by shard.

Labels are [z, y, x] uint8, 0 pore and 1 solid; sizes are in voxels. An object is all
that touching voxels of one phase form; with ndim=2 each slice stands for itself.

`remove_small_streamed` gives the bits of `remove_small` without holding the volume. A
shard is read with one voxel more at the end of each axis and falls into pieces there.
* Two touching voxels lie together in the box of one shard: the one that owns, along
  each axis, the lower of their positions. So no contact is missed, corners included.
* A voxel that comes first in its shard is read by the shards before it as well. The
  pieces it belongs to in each of them are one object. Nothing else joins pieces.
* A voxel counts in the shard that owns it, so the sizes of joined pieces add up.
What is left to find out between shards concerns the shared voxels only, and there
only the pieces that are small in their own box: all others are 'large', one and the
same. The memory needed grows with a shard and with the faces between shards.

This is the only module that knows cc3d.
"""
import functools
import itertools
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cc3d
import numpy as np
from scipy import sparse

from fibjax.errors import InputError, check_shape
from fibjax.system import cluster, progress
from fibjax.system.cluster import Resources
from fibjax.system.geometry import Box, Index
from fibjax.volumes import blockwise
from fibjax.volumes.blockwise import BlockFunction
from fibjax.volumes.volume import Volume, open_volume, read_box, shard_shape

_PHASES = {'pore': 0, 'solid': 1}
_CONNECTIVITIES = {2: (8, 4), 3: (26, 18, 6)}
# Codes of shared voxels; a piece whose object is not known yet has its own above.
_OTHER_PHASE, _LARGE, _OPEN = 0, 1, 2


class _Search(NamedTuple):
  """What is looked for, and where: the volume, the phase's code, what is small."""
  path: Path
  phase: int
  min_size_vox: int
  ndim: int
  connectivity: int


class _Summary(NamedTuple):
  """What the other shards need to know of one.

  Attributes:
    pieces: [open] numbers of the pieces that are small here and reach shared voxels.
    sizes_vox: [open] their voxels owned by the shard.
    faces: packed codes of shared voxels by (start of the owner, along which axes they
      are first in it); the shard itself is the owner, or one after it.
  """
  pieces: np.ndarray
  sizes_vox: np.ndarray
  faces: dict[tuple[Index, Index], bytes]


class _Face(NamedTuple):
  """Shared voxels as one shard sees them; its open pieces are nodes from first on."""
  packed: bytes
  dtype: np.dtype
  first: int


def remove_small(labels_zyx: np.ndarray, min_size_vox: int = 100, *, ndim: int = 3,
                 connectivity: int | None = None,
                 order: tuple[str, ...] = ('pore', 'solid')) -> np.ndarray:
  """Gives objects of fewer than min_size_vox voxels to the other phase.

  One phase after the other: a pore filled first may join solids that then stay. The
  published 26-connectivity for both phases is not a topological dual pair (26/6).

  Args:
    labels_zyx: [z, y, x] uint8, 0 pore and 1 solid.
    min_size_vox: the smallest object kept, voxels (pixels for ndim=2).
    ndim: 3 for objects in the volume, 2 for objects in each slice.
    connectivity: 6, 18 or 26 (default 26) for ndim=3; 4 or 8 (default 8) for ndim=2.
    order: the phases to clean, in turn.

  Returns:
    [z, y, x] uint8, a new array.

  Raises:
    InputError: for other codes, axes, connectivity or phase names.
  """
  labels_zyx = np.asarray(labels_zyx)
  connectivity = _check_connectivity(ndim, connectivity)
  _check_phases(order)
  check_shape('labels_zyx', labels_zyx, (None, None, None))
  _check_codes('labels_zyx', labels_zyx)
  result_zyx = labels_zyx.astype(np.uint8)
  for phase in order:
    pieces_zyx, count = _find_pieces(result_zyx == _PHASES[phase], ndim, connectivity)
    small = _count_voxels(pieces_zyx, count) < min_size_vox
    small[0] = False  # the other phase
    result_zyx ^= small[pieces_zyx]
  return result_zyx


def remove_small_streamed(labels: Volume, out, min_size_vox: int, *, ndim: int,
                          connectivity: int, phase: str, fingerprint: dict,
                          resources: Resources) -> Volume:
  """Makes a volume without the small objects of one phase; resumable.

  Equal to `remove_small(labels_zyx, min_size_vox, order=(phase,))` of the whole.

  Args:
    labels: [z, y, x] uint8, 0 pore and 1 solid, in shards of the default shape.
    out: path of the volume to make; returned as it is when it is complete.
    min_size_vox, ndim, connectivity: as for `remove_small`.
    phase: 'pore' or 'solid'.
    fingerprint: JSON of all that the result depends on.
    resources: where to work.

  Raises:
    InputError: as `remove_small` and `blockwise.map_blocks`, or for labels in shards of
      another shape.
  """
  _check_phases((phase,))
  search = _Search(labels.path, _PHASES[phase], min_size_vox, ndim,
                   _check_connectivity(ndim, connectivity))
  # A complete volume is only compared with the fingerprint, which needs no search.
  kept = {} if Path(out).exists() else _find_kept(search, labels, phase, resources)
  return blockwise.map_blocks(functools.partial(_open_cleaning, search, kept), labels,
                              out, np.uint8, fingerprint=fingerprint,
                              title=f'clean {phase}s', resources=resources)


def _open_cleaning(search: _Search, kept: dict[Index, np.ndarray],
                   labels: Volume) -> BlockFunction:
  boxes = set(blockwise.shard_boxes(labels))

  def reads(box):
    if box not in boxes:  # pieces are known by their numbers in their own box
      raise InputError(str(labels.path), got=f'shards {shard_shape(labels)}',
                       expected='the default shards, as those of the new volume',
                       remedy='write it with shards of the default shape')
    return _with_seam(search, labels, box)

  def compute(box, block_zyx):
    _check_codes(str(labels.path), block_zyx)
    pieces_zyx, count = _find_pieces(block_zyx == search.phase, search.ndim,
                                     search.connectivity)
    small = _count_voxels(pieces_zyx, count) < search.min_size_vox
    small[0] = False  # the other phase
    small[kept.get(box[0], [])] = False
    owned = _owned(box)
    return block_zyx[owned] ^ small[pieces_zyx[owned]]

  return BlockFunction(reads, compute)


def _find_kept(search: _Search, labels: Volume, phase: str,
               resources: Resources) -> dict[Index, np.ndarray]:
  """Pieces, by the start of their shard, that are small but part of a larger object."""
  boxes = blockwise.shard_boxes(labels)
  # Node 0 stands for all large objects: what is joined with it stays.
  nodes, sizes, pairs = 1, [np.array([search.min_size_vox])], []
  open_pieces: list[tuple[Index, np.ndarray]] = []
  seen_once: dict[tuple, _Face] = {}
  found = cluster.run_units(_summarise, search, boxes, resources)
  for box, summary in progress.track(found, f'find small {phase}s', 'shard',
                                     len(boxes)):
    for key, packed in summary.faces.items():
      face = _Face(packed, _code_dtype(len(summary.pieces)), nodes)
      if key in seen_once:
        pairs.append(_join(seen_once.pop(key), face))
      else:
        seen_once[key] = face
    nodes += len(summary.pieces)
    sizes.append(summary.sizes_vox)
    open_pieces.append((box[0], summary.pieces))
  sizes = np.concatenate(sizes)
  ends = np.concatenate(pairs, axis=1) if pairs else np.empty((2, 0), np.int64)
  graph = sparse.coo_array((np.ones(ends.shape[1], bool), ends), (nodes, nodes))
  _, object_of = sparse.csgraph.connected_components(graph, directed=False)
  stays = np.bincount(object_of, sizes)[object_of] >= search.min_size_vox
  stays &= sizes > 0  # of the others no voxel is written
  kept, first = {}, 1
  for start, pieces in open_pieces:
    chosen = pieces[stays[first:first + len(pieces)]]
    first += len(pieces)
    if len(chosen):
      kept[start] = chosen
  return kept


def _summarise(search: _Search, box: Box) -> _Summary:
  """What the other shards need to know of the shard of a box."""
  labels = open_volume(search.path)
  pieces_zyx, count = _find_pieces(_read(search, labels, box) == search.phase,
                                   search.ndim, search.connectivity)
  shared = dict(_shared_voxels(search, box, labels.shape))
  is_open = np.zeros(count + 1, bool)
  for voxels in shared.values():
    is_open[pieces_zyx[voxels]] = True
  is_open &= _count_voxels(pieces_zyx, count) < search.min_size_vox
  is_open[0] = False
  pieces = np.flatnonzero(is_open).astype(pieces_zyx.dtype)
  codes = np.full(count + 1, _LARGE, _code_dtype(len(pieces)))
  codes[0] = _OTHER_PHASE
  codes[pieces] = np.arange(_OPEN, _OPEN + len(pieces))
  sizes_vox = _count_voxels(pieces_zyx[_owned(box)], count)[pieces]
  # Along a face codes hardly change: lz77 at its fastest shrinks them to a tenth.
  return _Summary(pieces, sizes_vox, {
      key: zlib.compress(codes[pieces_zyx[voxels]].tobytes(), 1)
      for key, voxels in shared.items()})


def _shared_voxels(search: _Search, box: Box, shape: Index) -> Iterator[tuple]:
  """Yields ((start of the owner, axes), slices in the box as read).

  axes has a 1 where the voxels are the first of their owner, another shard's last.
  """
  lengths = [b - a for a, b in zip(*box, strict=True)]
  for axes in itertools.product((0, 1), repeat=3):
    if not any(axes) or (search.ndim == 2 and axes[0]):
      continue
    if all(a > 0 for a, first in zip(box[0], axes, strict=True) if first):
      yield (box[0], axes), tuple(slice(0, 1) if first else slice(0, n)
                                  for n, first in zip(lengths, axes, strict=True))
    if all(b < n for b, n, first in zip(box[1], shape, axes, strict=True) if first):
      after = tuple(b if first else a for a, b, first in zip(*box, axes, strict=True))
      yield (after, axes), tuple(slice(n, n + 1) if first else slice(0, n)
                                 for n, first in zip(lengths, axes, strict=True))


def _join(one: _Face, other: _Face) -> np.ndarray:
  """[2, pairs] different nodes of two shards that meet in a voxel of a face."""
  codes = [np.frombuffer(zlib.decompress(f.packed), f.dtype) for f in (one, other)]
  told = np.maximum(*codes) >= _OPEN
  codes = [c[told].astype(np.int64) for c in codes]
  width = int(codes[1].max(initial=0)) + 1
  pairs = np.stack(np.divmod(np.unique(codes[0] * width + codes[1]), width))
  firsts = np.array([[one.first], [other.first]])
  return np.where(pairs >= _OPEN, pairs - _OPEN + firsts, 0)


def _code_dtype(n_open: int) -> np.dtype:
  return np.min_scalar_type(_OPEN + n_open)


def _with_seam(search: _Search, labels: Volume, box: Box) -> Box:
  """A shard's box and one voxel more at the end of each axis that has one."""
  stop = [min(b + 1, n) for b, n in zip(box[1], labels.shape, strict=True)]
  if search.ndim == 2:
    stop[0] = box[1][0]
  return box[0], tuple(stop)


def _read(search: _Search, labels: Volume, box: Box) -> np.ndarray:
  """Labels of a shard with its seam."""
  block_zyx = read_box(labels, *_with_seam(search, labels, box))
  _check_codes(str(labels.path), block_zyx)
  return block_zyx


def _owned(box: Box) -> tuple[slice, ...]:
  """Where the shard's own voxels are in what `_read` gives."""
  return tuple(slice(0, b - a) for a, b in zip(*box, strict=True))


def _find_pieces(objects_zyx: np.ndarray, ndim: int,
                 connectivity: int) -> tuple[np.ndarray, int]:
  """Numbers of the pieces from 1 on, 0 elsewhere, always the same; their count."""
  # As bytes: for bools cc3d 4.1 takes another way, which fails where a side is odd
  # (connectivity 8: wrong pieces) or 1 (26: an exception).
  objects_zyx = objects_zyx.view(np.uint8)
  connect = functools.partial(cc3d.connected_components, connectivity=connectivity,
                              return_N=True)
  if ndim == 3:
    return connect(objects_zyx)
  pieces_zyx, count = np.empty(objects_zyx.shape, np.uint32), 0
  for pieces_yx, objects_yx in zip(pieces_zyx, objects_zyx, strict=True):
    numbers_yx, more = connect(objects_yx)
    pieces_yx[:] = numbers_yx
    pieces_yx[numbers_yx > 0] += count
    count += more
  return pieces_zyx, count


def _count_voxels(pieces_zyx: np.ndarray, count: int) -> np.ndarray:
  """[count + 1] voxels of each piece; by slices, since bincount copies to int64."""
  sizes_vox = np.zeros(count + 1, np.int64)
  for pieces_yx in pieces_zyx:
    found = np.bincount(pieces_yx.ravel())
    sizes_vox[:len(found)] += found
  return sizes_vox


def _check_connectivity(ndim: int, connectivity: int | None) -> int:
  """The connectivity, or the default one for None."""
  allowed = _CONNECTIVITIES.get(ndim)
  if allowed is None:
    raise InputError('ndim', got=ndim, expected='2 or 3',
                     remedy='3 is the published choice')
  connectivity = allowed[0] if connectivity is None else connectivity
  if connectivity not in allowed:
    raise InputError('connectivity', got=connectivity, expected=f'one of {allowed}',
                     remedy=f'these are the neighbourhoods for ndim={ndim}')
  return connectivity


def _check_phases(order: tuple[str, ...]) -> None:
  if not set(order) <= set(_PHASES):
    raise InputError('order', got=order, expected="'pore' and 'solid'",
                     remedy="use ('pore', 'solid')")


def _check_codes(name: str, labels_zyx: np.ndarray) -> None:
  if labels_zyx.size and labels_zyx.max() > 1:
    raise InputError(name, got=f'code {labels_zyx.max()}',
                     expected='0 pore, 1 solid', remedy='segment the volume first')
