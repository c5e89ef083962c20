"""Permeability against closed cases, a direct solver and arrays of spheres."""
import numpy as np
import pytest
from scipy import sparse

from fibjax.analysis.connectivity import spanning_pore
from fibjax.analysis.permeability import _solve, permeability
from fibjax.errors import InputError
from fibjax.simulation import structure
from fibjax.simulation.fields import Spectrum

SIZE = (12., 10., 15.)  # one plan of multigrid along all axes: compiled once
SLICES = (50., 10., 20.)
N = 16


class Equations:
  """Stokes equations of a pore, assembled voxel by voxel for a direct solver.

  Faces are named (axis, z, y, x) by the voxel before them; face -1 is an outer one.
  The axis of flow comes first.
  """

  def __init__(self, pore_zyx, size):
    self.pore, self.size, self.shape = pore_zyx, size, pore_zyx.shape
    n = self.shape[0]
    self.faces = {}
    for axis in range(3):
      for at in np.ndindex(*(m + (k == 0 == axis) for k, m in enumerate(self.shape))):
        at = (at[0] - (axis == 0), *at[1:])
        if self.is_open(axis, at):
          self.faces[axis, *at] = len(self.faces)
    cells = [tuple(at) for at in np.argwhere(pore_zyx)]
    self.cells = {at: len(self.faces) + i for i, at in enumerate(cells)}
    m = len(self.faces) + len(cells)
    self.matrix, self.force = sparse.lil_array((m, m)), np.zeros(m)
    for (axis, *at), i in self.faces.items():
      self.add_friction(axis, at, i)
      self.add_pressure(axis, at, i, n)

  def voxels(self, axis, at):
    """The voxels on both sides of a face: pore or solid; None outside."""
    other = [x + (k == axis) for k, x in enumerate(at)]
    return [self.pore[tuple(v)] if all(
        0 <= x < m for x, m in zip(v, self.shape, strict=True)) else None
            for v in (at, other)]

  def is_open(self, axis, at):
    sides = [side for side in self.voxels(axis, at) if side is not None]
    return all(sides) and (axis == 0 or len(sides) == 2)

  def add_friction(self, axis, at, i):
    half = 0.5 if axis == 0 and at[0] in (-1, self.shape[0] - 1) else 1
    for k in range(3):
      weight = (half if k != axis else 1) / self.size[k] ** 2
      for step in (-1, 1):
        other = list(at)
        other[k] += step
        if (axis, *other) in self.faces:
          self.matrix[i, i] += weight
          self.matrix[i, self.faces[axis, *other]] -= weight
          continue
        outside = not 0 <= other[k] < self.shape[k]
        if k == axis:  # a wall, the closed side, or beyond the first or last face
          beyond = axis == 0 and not -1 <= other[0] < self.shape[0]
          self.matrix[i, i] += 0 if beyond else weight
        elif outside:  # no velocity along the first and last face; free sides
          self.matrix[i, i] += 2 * weight if k == 0 else 0
        else:
          near = not any(self.voxels(axis, other))
          self.matrix[i, i] += (1 + near) * weight

  def add_pressure(self, axis, at, i, n):
    other = tuple(x + (k == axis) for k, x in enumerate(at))
    for cell, sign in ((tuple(at), -1), (other, 1)):
      if cell in self.cells:
        j = self.cells[cell]
        self.matrix[i, j] += sign / self.size[axis]
        self.matrix[j, i] += sign / self.size[axis]
    if axis == 0 and at[0] == -1:
      self.force[i] = 1 / self.size[0]

  def permeability(self):
    y = sparse.linalg.spsolve(self.matrix.tocsc(), self.force)
    inflow = sum(y[i] for (axis, z, *_), i in self.faces.items()
                 if axis == 0 and z == -1)
    return inflow * self.shape[0] * self.size[0] / self.pore[0].size


@pytest.mark.parametrize(('axis', 'share', 'size'), [
    ('z', 0.6, SIZE), ('y', 0.75, SIZE), ('x', 0.9, SIZE), ('z', 0.7, SLICES)])
def test_permeability_is_that_of_a_direct_solver(axis, share, size):
  pore = np.random.default_rng(4).random((6, 6, 6)) < share
  k = 'zyx'.index(axis)
  spanning = np.moveaxis(spanning_pore(pore, k), k, 0)
  expected = Equations(spanning, (size[k], *size[:k], *size[k + 1:])).permeability()
  found = permeability((~pore).astype(np.uint8), size, axis, tolerance=1e-5)
  assert expected > 0
  assert found.permeability_nm2 == pytest.approx(expected, rel=1e-4)
  assert found.connected_porosity == pytest.approx(spanning.mean())
  assert found.converged and found.flux_spread < 2e-2


@pytest.mark.parametrize('axis', 'zyx')
def test_slit(axis):
  # h = 10 voxels between walls across y or x; the sum over cell centres gives h^2 + 2.
  across = 'y' if axis != 'y' else 'x'
  labels = np.ones((N, N, N), np.uint8)
  np.moveaxis(labels, 'zyx'.index(across), 0)[3:13] = 0
  spacing = SIZE['zyx'.index(across)]
  found = permeability(labels, SIZE, axis, tolerance=1e-5)
  expected = 10 / N * (10 ** 2 + 2) * spacing ** 2 / 12
  assert found.permeability_nm2 == pytest.approx(expected, rel=1e-5)
  assert found.tortuosity == pytest.approx(1, rel=1e-4)
  assert found.flux_spread < 3e-3


@pytest.mark.long
def test_wide_slit_has_that_of_the_formula():
  labels = np.ones((3, 110, 3), np.uint8)
  labels[:, 5:105] = 0
  found = permeability(labels, (10.,) * 3)
  assert found.permeability_nm2 == pytest.approx(100 / 110 * 1000 ** 2 / 12, rel=3e-4)


def test_square_duct():
  # A square of 30 x 20 voxels of 10 x 15 nm, a quarter of it: y and x start in mirrors.
  labels = np.ones((N, N, N), np.uint8)
  labels[:, :15, :10] = 0
  h = 300.
  odd = np.arange(1, 100, 2)
  series = 1 - 192 / np.pi ** 5 * (np.tanh(odd * np.pi / 2) / odd ** 5).sum()
  found = permeability(labels, SIZE, 'z')
  expected = 15 * 10 / N ** 2 * h ** 2 / 12 * series
  assert found.permeability_nm2 == pytest.approx(expected, rel=0.02)


def octant(solid, shape):
  """An eighth of a cubic cell with a sphere in its corner; solid: share of volume."""
  z, y, x = [(np.arange(n) + 0.5) / (2 * n) for n in shape]
  radius = (3 * solid / (4 * np.pi)) ** (1 / 3)
  return (z[:, None, None] ** 2 + y[:, None] ** 2 + x ** 2 < radius ** 2
          ).astype(np.uint8)


@pytest.mark.parametrize(('solid', 'drag'), [(0.216, 7.442), (0.45, 28.1)])
def test_simple_cubic_array_of_spheres(solid, drag):
  # Drag over that of Stokes: Zick & Homsy 1982, J. Fluid Mech. 115, 13, and Sangani &
  # Acrivos 1982, Int. J. Multiphase Flow 8, 343. One octant of a cell.
  labels = octant(solid, (N, N, N))
  # From k = cell^3 / (6 pi radius drag), cell of 1000 nm.
  expected = 1e6 / (6 * np.pi * (3 * solid / (4 * np.pi)) ** (1 / 3) * drag)
  found = permeability(labels, (500 / N,) * 3)
  assert found.permeability_nm2 == pytest.approx(expected, rel=0.025)
  # Mirrored, the octant becomes the whole cell.
  whole = np.pad(labels, ((0, N),) * 3, mode='symmetric')
  again = permeability(whole, (500 / N,) * 3)
  assert again.permeability_nm2 == pytest.approx(found.permeability_nm2, rel=3e-3)


def medium(n, length_px=4., porosity=0.6):
  return structure.whole(structure.level_cut((n, n, n), Spectrum(length_px=length_px),
                                             porosity, 2)).astype(np.uint8)


def test_axes_are_alike_and_mirror_images():
  labels = medium(N)
  first = permeability(labels, SIZE, 'z', tolerance=1e-4)
  turned = permeability(np.moveaxis(labels, 0, 2), (*SIZE[1:], SIZE[0]), 'x',
                        tolerance=1e-4)
  mirrored = permeability(labels[::-1, :, ::-1], SIZE, 'z', tolerance=1e-4)
  for other in (turned, mirrored):
    assert other.permeability_nm2 == pytest.approx(first.permeability_nm2, rel=3e-4)
    assert other.tortuosity == pytest.approx(first.tortuosity, rel=1e-2)


def test_permeability_grows_with_the_square_of_the_voxel():
  labels = medium(N)
  first = permeability(labels, SIZE)
  larger = permeability(labels, [s * 1e4 for s in SIZE])
  for name in ('permeability_nm2', 'kozeny_carman_nm2'):
    assert getattr(larger, name) == pytest.approx(1e8 * getattr(first, name), rel=1e-4)


@pytest.mark.parametrize('axis', ['z', pytest.param('x', marks=pytest.mark.long)])
def test_coarse_slices_of_the_same_body(axis):
  fine = permeability(octant(0.216, (40, 40, 40)), (10.,) * 3, axis)
  coarse = permeability(octant(0.216, (8, 40, 40)), (50., 10., 10.), axis)
  assert coarse.permeability_nm2 == pytest.approx(fine.permeability_nm2, rel=0.04)


def test_closed_pores_do_not_count():
  labels = np.ones((N, N, N), np.uint8)
  labels[:, 2:6, 2:6] = 0
  alone = permeability(labels, SIZE)
  labels[2:5, 8:10, 2:6] = 0
  found = permeability(labels, SIZE)
  assert found.permeability_nm2 == pytest.approx(alone.permeability_nm2, rel=1e-5)
  assert found.connected_porosity == alone.connected_porosity == 16 / N ** 2


def test_no_spanning_pore():
  labels = np.ones((8, 8, 8), np.uint8)
  assert permeability(labels, SIZE) == (0, 0, 0, None, 0, 0, 0, True)
  labels[:, 3:5, 3:5] = 0
  found = permeability(labels, SIZE, 'y')
  assert found.permeability_nm2 == 0 and found.converged
  assert found.kozeny_carman_nm2 > 0


def test_flux_is_the_same_through_all_planes():
  assert permeability(medium(N), (10.,) * 3, tolerance=1e-5).flux_spread < 3e-3


def test_stops_at_the_error_it_names():
  labels = medium(2 * N, porosity=0.5)
  exact = permeability(labels, (10.,) * 3, tolerance=1e-5)
  assert exact.converged
  for tolerance in (1e-1, 1e-2, 1e-3):
    found = permeability(labels, (10.,) * 3, tolerance=tolerance)
    error = found.permeability_nm2 / exact.permeability_nm2 - 1
    assert abs(error) < 4 * tolerance
    assert found.converged and found.error <= tolerance
    # The flux is stationary: better by far than any velocity.
    assert abs(error) < found.flux_spread / 10


def test_another_tolerance_or_voxel_size_compiles_nothing():
  permeability(medium(N), (10.,) * 3)
  programs = _solve._cache_size()
  permeability(medium(N), (11., 12., 13.), tolerance=1e-2, max_iterations=3)
  assert _solve._cache_size() == programs


def test_says_when_it_did_not_converge():
  found = permeability(medium(2 * N), (10.,) * 3, max_iterations=2)
  assert not found.converged and found.iterations == 2 and found.error > 1e-3


@pytest.mark.long
def test_iterations_hardly_grow_with_the_volume():
  counts = [permeability(medium(n, length_px=3., porosity=0.7), (10.,) * 3).iterations
            for n in (20, 60)]
  assert max(counts) <= 30


def test_kozeny_carman_of_slabs():
  # Two walls of one voxel: across y, 4 of 15 pairs at one step differ, 4 of 14 at two;
  # none along z and x.
  labels = np.zeros((N, N, N), np.uint8)
  labels[:, 3::8] = 1
  found = permeability(labels, (10.,) * 3, max_iterations=1)
  v_1, v_2 = 4 / 15 / 2, 4 / 14 / 2
  per_nm = 4 * (8 * v_1 - v_2) / 60 / 3
  assert found.kozeny_carman_nm2 == pytest.approx((7 / 8) ** 3 / (5 * per_nm ** 2))
  solid = np.ones((2, N, N), np.uint8)
  assert permeability(solid, (10.,) * 3).kozeny_carman_nm2 is None


def test_volumes_without_solid_and_bad_axes_are_refused():
  with pytest.raises(InputError, match='no solid'):
    permeability(np.zeros((4, 4, 4), np.uint8), SIZE)
  with pytest.raises(InputError, match='z, y or x'):
    permeability(medium(8), SIZE, 'zy')
