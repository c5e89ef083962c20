"""Shortest paths against Dijkstra's; straight and inclined channels, walls, slices."""
import heapq
import itertools

import numpy as np
import pytest
from scipy import ndimage
from scipy.optimize import linprog
from skimage.graph import MCP_Geometric

from fibjax.analysis import geodesic
from fibjax.errors import InputError
from fibjax.simulation import structure
from fibjax.simulation.fields import Spectrum

CUBES, SLICES = (10., 10., 10.), (50., 10., 10.)


def medium(shape, length=6., porosity=0.5, seed=0):
  return structure.whole(structure.level_cut(
      shape, Spectrum(length_px=length), porosity, seed)).astype(np.uint8)


def is_open(pore, start, move):
  """Whether a chain of pore voxels leads along the line of a move, face to face."""
  reach = np.abs(move)

  def touches(step):
    # The line at t is t x reach; inside the closed voxel it is within 1/2 of step.
    low = max([(s - .5) / r for s, r in zip(step, reach, strict=True) if r])
    high = min([(s + .5) / r for s, r in zip(step, reach, strict=True) if r])
    return low <= high + 1e-9

  steps = {s for s in itertools.product(*(range(r + 1) for r in reach)) if touches(s)}
  todo, seen = [(0, 0, 0)], set()
  while todo:
    step = todo.pop()
    seen.add(step)
    for k in range(3):
      nxt = tuple(s + (a == k) for a, s in enumerate(step))
      if nxt in steps - seen and pore[tuple(start + np.sign(move) * nxt)]:
        todo.append(nxt)
  return tuple(reach) in seen


def dijkstra(pore, size, moves, axis):
  """Mean shortest path over the length, by a heap."""
  both = np.concatenate([moves, -moves])
  costs = np.linalg.norm(both * size, axis=1)
  length = np.full(pore.shape, np.inf)
  heap = [(size[axis] / 2, tuple(at)) for at in np.argwhere(pore) if at[axis] == 0]
  while heap:
    so_far, at = heapq.heappop(heap)
    if so_far >= length[at]:
      continue
    length[at] = so_far
    for move, cost in zip(both, costs, strict=True):
      to = tuple(np.add(at, move))
      if (all(0 <= t < n for t, n in zip(to, pore.shape, strict=True)) and pore[to]
          and so_far + cost < length[to] and is_open(pore, at, move)):
        heapq.heappush(heap, (so_far + cost, to))
  last = length.take(-1, axis)
  last = last[np.isfinite(last)]
  return (last.mean() + size[axis] / 2) / (pore.shape[axis] * size[axis])


@pytest.mark.parametrize('size', [CUBES, (30., 10., 10.)])
@pytest.mark.parametrize('porosity', [0.45, 0.75])
def test_paths_are_those_of_dijkstra(size, porosity):
  labels = (np.random.default_rng(1).random((6, 7, 6)) > porosity).astype(np.uint8)
  found = geodesic.geodesic_tortuosity(labels, size)
  moves = geodesic._moves(size)
  components = ndimage.label(labels == 0)[0]
  for k, axis in enumerate('zyx'):
    ends = set(components.take(0, k).ravel()) & set(components.take(-1, k).ravel())
    if ends - {0}:
      assert found[axis] == pytest.approx(dijkstra(labels == 0, size, moves, k),
                                          rel=1e-5)
    else:
      assert found[axis] is None
  assert any(found.values())


@pytest.mark.parametrize('size', [CUBES, SLICES, (20., 10., 12.)])
def test_straight_channels(size):
  labels = np.ones((5, 6, 7), np.uint8)
  labels[:, 2, 3] = 0
  found = geodesic.geodesic_tortuosity(labels, size)
  assert found['z'] == pytest.approx(1) and found['y'] is found['x'] is None
  everywhere = geodesic.geodesic_tortuosity(labels * 0, size)
  assert list(everywhere.values()) == pytest.approx([1, 1, 1])
  assert set(geodesic.geodesic_tortuosity(labels * 0 + 1, size).values()) == {None}


def test_lattice_errors_of_known_lattices():
  faces = np.eye(3, dtype=int)
  assert geodesic._error(faces, CUBES)[0] == pytest.approx(np.sqrt(3) - 1)
  touching = np.array([m for m in itertools.product((-1, 0, 1), repeat=3)
                       if m > (0, 0, 0)])
  # Unit vectors along (1, 0, 0), (1, 1, 0) and (1, 1, 1) span the worst face.
  worst = np.linalg.norm([1, np.sqrt(2) - 1, np.sqrt(3) - np.sqrt(2)])
  assert geodesic._error(touching, CUBES)[0] == pytest.approx(worst - 1)
  assert worst == pytest.approx(1.128, abs=1e-3)
  assert geodesic._error(touching, SLICES)[0] == pytest.approx(0.32, abs=0.001)


@pytest.mark.parametrize('size', [CUBES, SLICES, (20., 10., 12.), (8.3, 12., 7.),
                                  (160., 10., 20.)])
def test_free_paths_are_off_by_the_lattice_error_at_most(size):
  moves = geodesic._moves(size)
  limit = 0.06 if max(size) < 10 * min(size) else 0.1
  assert len(moves) <= 64 and geodesic.lattice_error(size) < limit
  both = np.concatenate([moves, -moves]) * size
  direction = np.random.default_rng(0).normal(size=(200, 3))
  direction /= np.linalg.norm(direction, axis=1)[:, None]
  # The norm of the lattice is the largest w . u of all w with w . move <= its length.
  lengths = np.linalg.norm(both, axis=1)
  norms = [-linprog(-u, both, lengths, bounds=(None, None)).fun for u in direction]
  assert min(norms) > 1 - 1e-9
  assert max(norms) <= 1 + geodesic.lattice_error(size) + 1e-9
  assert np.mean(norms) < 1 + limit / 1.8


@pytest.mark.parametrize('slope', [0.5, 1.0, 1.5])
@pytest.mark.parametrize('size', [CUBES, SLICES])
def test_inclined_channels(size, slope):
  # Thin in the plane, so that no shorter way fits: straight from face to face.
  length = 1000.
  shape = (round(length / size[0]), 40, round((slope * length + 100) / 10))
  z = (np.arange(shape[0]) + 0.5) * size[0]
  x = (np.arange(shape[2]) + 0.5) * size[2]
  middle = 50 + slope * z[:, None]
  inside = abs(x - middle) < max(20, 0.7 * slope * size[0])
  labels = np.broadcast_to(~inside[:, None], shape).astype(np.uint8)
  found = geodesic.geodesic_tortuosity(labels, size)['z']
  # The ends may save half a width of the channel.
  straight = np.hypot(1, slope)
  saved = np.hypot(1, slope - 2 * max(20, 0.7 * slope * size[0]) / length)
  assert saved - 0.005 < found < straight * (1 + geodesic.lattice_error(size))


def test_a_detour_around_a_wall():
  # A wall with a slit at one side: down it, and back to each voxel of the last plane.
  labels = np.zeros((40, 1, 60), np.uint8)
  labels[20, :, 1:] = 1
  found = geodesic.geodesic_tortuosity(labels, CUBES)['z']
  # Straight to the corner of the slit from the plane z = 0, then to (39, x), in voxels.
  x = np.arange(60)
  expected = (20 + np.hypot(19, x)).mean() + 1
  assert found * 40 == pytest.approx(expected, rel=0.04)
  assert found * 40 > expected - 0.5


def test_no_path_leads_between_voxels_that_share_an_edge_or_a_corner():
  labels = np.ones((2, 2, 2), np.uint8)
  labels[0, 0, 0] = labels[1, 1, 0] = 0
  assert geodesic.geodesic_tortuosity(labels, CUBES)['z'] is None
  labels[1, 1, 0], labels[1, 1, 1] = 1, 0
  assert geodesic.geodesic_tortuosity(labels, CUBES)['z'] is None
  labels[1, 0, 0] = labels[1, 1, 0] = 0  # along z, y and x to the corner
  found = geodesic.geodesic_tortuosity(labels, CUBES)
  lengths = [1, np.sqrt(2), np.sqrt(3)]
  assert found['z'] * 2 == pytest.approx(np.mean(lengths) + 1)


@pytest.mark.parametrize('size', [CUBES, SLICES, (10., 10., 50.), (20., 10., 12.)])
def test_a_diagonal_wall_of_single_voxels_is_closed(size):
  wall = np.eye(12, dtype=np.uint8)[:, None]
  assert geodesic.geodesic_tortuosity(wall, size)['z'] is None
  assert geodesic.geodesic_tortuosity(wall, size)['x'] is None
  wall[5, 0, 5] = 0  # one voxel opens it
  assert geodesic.geodesic_tortuosity(wall, size)['z'] > 1


def test_axes_trade_places():
  labels, size = medium((12, 14, 16), 3.), (50., 10., 20.)
  found = geodesic.geodesic_tortuosity(labels, size)
  for order in itertools.permutations(range(3)):
    turned = geodesic.geodesic_tortuosity(np.transpose(labels, order),
                                          [size[k] for k in order])
    for k, axis in zip(order, 'zyx', strict=True):
      assert turned[axis] == pytest.approx(found['zyx'[k]], rel=1e-5)
  flipped = geodesic.geodesic_tortuosity(labels[:, ::-1, ::-1], size)
  assert flipped['z'] == pytest.approx(found['z'], rel=1e-5)
  larger = geodesic.geodesic_tortuosity(labels, [7 * s for s in size])
  assert larger['y'] == pytest.approx(found['y'], rel=1e-5)


@pytest.mark.parametrize('porosity', [0.5, 0.7])
def test_coarse_slices_give_the_same_paths(porosity):
  labels = medium((100, 70, 70), 10., porosity, 3)
  fine = geodesic.geodesic_tortuosity(labels, CUBES)
  coarse = geodesic.geodesic_tortuosity(labels[2::5], SLICES)
  for axis in 'zyx':
    assert coarse[axis] == pytest.approx(fine[axis], rel=0.03)
    assert 1.005 < fine[axis] < 1.5


def test_paths_are_near_those_of_skimage_in_its_coarser_lattice():
  labels = medium((40, 44, 48), 6.)
  found = geodesic.geodesic_tortuosity(labels, CUBES)
  costs = np.where(labels == 0, 1., np.inf)
  for k, axis in enumerate('zyx'):
    starts = np.argwhere(labels == 0)
    lengths, _ = MCP_Geometric(costs, sampling=CUBES).find_costs(
        starts[starts[:, k] == 0])
    last = lengths.take(-1, k)
    mean = last[np.isfinite(last)].mean() / 10 / labels.shape[k]
    # Of 26 moves, some of which cut corners here: from 12.8 % longer to a little less.
    assert found[axis] - 1 / labels.shape[k] == pytest.approx(mean / 1.03, rel=0.04)


def test_bad_labels_are_refused():
  with pytest.raises(InputError, match='no voxel size'):
    geodesic.geodesic_tortuosity(np.zeros((3, 3, 3), int), None)
