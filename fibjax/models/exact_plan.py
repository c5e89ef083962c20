"""Tables of the exact evaluation: where zero padding is felt, and what reads what.

All of it is about one axis, as rows and columns act independently (§9.2). In a
map of step d, index i of a neighbourhood whose first pixel is o lies on pixel o + d i.
Its value is either free of padding, then it depends on that pixel alone and is
*shared* by all neighbourhoods that see it, or it depends on the origin; such indices
form one or two *runs* of one length at the ends of the map. Intervals are half-open.
"""
from typing import NamedTuple

from fibjax.models.patch_cnn import HIDDEN, WIDTHS

BLOCKS = len(WIDTHS)
STRIDE = 2 ** BLOCKS


class Layer(NamedTuple):
  """One map along one axis.

  Attributes:
    name: 'image', 'conv1a', 'conv1b', 'pool1', ... 'pool4', 'cells'.
    size: values that are used.
    step_px: d, pixels between two of them.
    runs: [start, stop) of the runs that depend on the origin, all equally long.
    shared: [start, stop) of the indices read as shared values, or None.
  """
  name: str
  size: int
  step_px: int
  runs: tuple[tuple[int, int], ...]
  shared: tuple[int, int] | None

  @property
  def kind(self) -> str:
    """'image', 'conv', 'pool' or 'cells'."""
    return self.name.rstrip('1234ab')


def affected_sets(cells: int) -> dict[str, tuple[int, frozenset[int]]]:
  """Size of each map and the indices that zero padding can change (§9.2).

  The last value of conv1b is dropped by the pooling and therefore left out.
  """
  size, affected = STRIDE * cells + 1, frozenset()
  sets = {'image': (size, affected)}
  for block in range(1, BLOCKS + 1):
    for part in 'ab':
      ends = {0, size - 1}
      affected = frozenset(i for i in range(size)
                           if i in ends or affected & {i - 1, i, i + 1})
      if part == 'b' and size % 2:
        size, affected = size - 1, affected - {size - 1}
      sets[f'conv{block}{part}'] = size, affected
    size //= 2
    affected = frozenset(i // 2 for i in affected)
    sets[f'pool{block}'] = size, affected
  return sets


def find_runs(size: int, affected: frozenset[int]) -> tuple[tuple[int, int], ...]:
  """Covers affected indices by runs of one length at both ends, or by one of all."""
  if not affected:
    return ()
  length = max(min(i + 1, size - i) for i in affected)
  if 2 * length > size:  # the runs would overlap
    if size % 2:
      return ((0, size),)
    length = size // 2
  return (0, length), (size - length, size)


def plan_run(source: Layer, target: Layer) -> tuple[tuple[tuple, ...], ...]:
  """What each run of a layer reads, in order.

  Returns:
    Per run, entries ('zeros',), ('run', end, first, last + 1) with indices counted
    from the start of that run of the source, and ('shared', index).
  """
  plans = []
  for start, stop in target.runs:
    if target.kind == 'conv':
      indices = range(start - 1, stop + 1)
    else:
      indices = range(2 * start, 2 * stop) if target.kind == 'pool' else range(
          start, stop)
    entries: list[tuple] = []
    for index in indices:
      end = next((e for e, (first, last) in enumerate(source.runs)
                  if first <= index < last), None)
      if not 0 <= index < source.size:
        entries.append(('zeros',))
      elif end is None:
        entries.append(('shared', index))
      else:
        place = index - source.runs[end][0]
        if entries and entries[-1][:2] == ('run', end):
          place = entries.pop()[2]
        entries.append(('run', end, place, index - source.runs[end][0] + 1))
    plans.append(tuple(entries))
  return tuple(plans)


def make_layers(cells: int) -> tuple[Layer, ...]:
  """All maps of a network of n = cells, the image first and the n cells last."""
  layers = []
  for name, (size, affected) in affected_sets(cells).items():
    step = 1 if name == 'image' else 2 ** (int(name[4]) - (name[:4] == 'conv'))
    layers.append(Layer(name, size, step, find_runs(size, affected), None))
  layers.append(Layer('cells', cells, STRIDE, ((0, cells),), None))
  for i in range(len(layers) - 2, -1, -1):
    target = layers[i + 1]
    read = {entry[1] for plan in plan_run(layers[i], target) for entry in plan
            if entry[0] == 'shared'}
    if target.shared is not None:
      start, stop = target.shared
      read |= ({start - 1, stop} if target.kind == 'conv'
               else {2 * start, 2 * stop - 1})
    if read:
      layers[i] = layers[i]._replace(shared=(min(read), max(read) + 1))
  return tuple(layers)


def count_macs(cells: int, n_z: int, method: str) -> int:
  """Multiplications per voxel (§9.3), for a tile so large that its rim is free.

  Args:
    cells: n of n_xy = 16 n + 1.
    n_z: number of slices.
    method: 'naive' (one patch per voxel), 'exact' (this module) or 'context' (the
      network without padding).
  """
  channels, total = n_z, 0
  for name, (size, affected) in affected_sets(cells).items():
    if not name.startswith('conv'):
      continue
    width = WIDTHS[int(name[4]) - 1]
    positions = {'naive': size + (name == 'conv1b'), 'context': 1,
                 'exact': len(affected) + (len(affected) < size)}[method]
    total += positions ** 2 * 9 * channels * width
    channels = width
  for features, width in zip((cells ** 2 * channels, *HIDDEN), (*HIDDEN, 1),
                             strict=True):
    total += features * width
  return total
