"""Dilation by balls, on voxels packed into 64-bit words.

A ball is a bundle of rows of voxels along x, one for each offset (dz, dy), and a
dilation is the union of the volume's rows, widened to the length of the ball's row
there and moved by that offset. With 64 voxels to a word one AND or OR moves 64 of
them, so that small balls cost far less than a distance map. The time grows with the
cross-section of the ball in voxels, that of a distance map does not: `rows` tells.
"""
import numpy as np

from fibjax.analysis.phases import Size

_WORD = np.dtype('<u8')
_ONE, _LAST = np.uint64(1), np.uint64(63)


def rows(size: Size, square: float) -> int:
  """Number of rows along x in a ball, its cross-section in voxels.

  Args:
    size: spacing along z, y, x, nm.
    square: square of the radius, nm^2.
  """
  return int(np.count_nonzero(_half_rows(size, square) >= 0))


def dilate(mask_zyx: np.ndarray, size: Size, square: float) -> np.ndarray:
  """Marks the voxels whose distance to the marked ones is below a radius.

  Args:
    mask_zyx: bool [z, y, x]; nothing is marked outside.
    size: spacing along z, y, x, nm.
    square: square of the radius, nm^2.

  Returns:
    bool [z, y, x].
  """
  half_zy = _half_rows(size, square)
  out_zyw = np.zeros_like(row_zyw := _pack(mask_zyx))
  middle = half_zy.shape[1] // 2
  for half in range(min(half_zy.max(), mask_zyx.shape[2]) + 1):
    if half:
      row_zyw = _widen(row_zyw)
    for dz, halves in enumerate(half_zy[len(half_zy) // 2:]):
      moves = np.flatnonzero(np.minimum(halves, mask_zyx.shape[2]) == half) - middle
      if moves.size and dz < mask_zyx.shape[0]:
        _add(out_zyw, _moved(row_zyw, moves), dz)
  bytes_zyw = out_zyw.view(np.uint8)
  return np.unpackbits(bytes_zyw, axis=2, count=mask_zyx.shape[2],
                       bitorder='little').view(bool)


def _half_rows(size: Size, square: float) -> np.ndarray:
  """Voxels of each row of a ball to either side of its middle; -1 for no row: [z, y].

  The middle of the table is the offset (0, 0).
  """
  z, y = ((np.arange(-n, n + 1) * s) ** 2 for s, n in
          ((s, int(np.sqrt(square) / s)) for s in size[:2]))
  rest_zy = square - z[:, None] - y
  half_zy = np.ceil(np.sqrt(np.maximum(rest_zy, 0)) / size[2]) - 1
  return np.where(rest_zy > 0, half_zy, -1).astype(int)


def _pack(mask_zyx: np.ndarray) -> np.ndarray:
  """Bits along x in words, the first voxel in the lowest bit: [z, y, words]."""
  packed = np.packbits(mask_zyx, axis=2, bitorder='little')
  pad = -packed.shape[2] % _WORD.itemsize
  return np.pad(packed, ((0, 0), (0, 0), (0, pad))).view(_WORD)


def _widen(row_zyw: np.ndarray) -> np.ndarray:
  """Dilates rows by one voxel to either side."""
  wide_zyw = row_zyw | (row_zyw << _ONE) | (row_zyw >> _ONE)
  wide_zyw[..., 1:] |= row_zyw[..., :-1] >> _LAST
  wide_zyw[..., :-1] |= row_zyw[..., 1:] << _LAST
  return wide_zyw


def _moved(row_zyw: np.ndarray, moves) -> np.ndarray:
  """Union of rows moved along y by each of some numbers of voxels."""
  if list(moves) == [0]:
    return row_zyw
  n, out_zyw = row_zyw.shape[1], np.zeros_like(row_zyw)
  for dy in moves:
    if abs(dy) < n:
      out_zyw[:, max(dy, 0):n + min(dy, 0)] |= row_zyw[:, max(-dy, 0):n - max(dy, 0)]
  return out_zyw


def _add(out_zyw: np.ndarray, row_zyw: np.ndarray, dz: int) -> None:
  """Adds rows moved by dz slices, forwards and backwards."""
  n = len(out_zyw)
  out_zyw[dz:] |= row_zyw[:n - dz]
  if dz:
    out_zyw[:n - dz] |= row_zyw[dz:]
