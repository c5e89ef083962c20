"""Effective diffusivity against closed cases, a direct solver and Maxwell's spheres."""
import numpy as np
import pytest
from scipy import sparse

from fibjax.analysis import transport
from fibjax.analysis.connectivity import spanning_pore
from fibjax.errors import InputError
from fibjax.simulation import structure
from fibjax.simulation.fields import Spectrum

SIZE = (50., 10., 20.)


def direct(pore_zyx, size, axis):
  """D_eff / D_0 from the assembled system, float64, solved directly."""
  pore_zyx = np.moveaxis(spanning_pore(pore_zyx, axis), axis, 0)
  size = [size[axis], *size[:axis], *size[axis + 1:]]
  number = np.full(pore_zyx.shape, -1)
  number[pore_zyx] = np.arange(pore_zyx.sum())
  n, volume = pore_zyx.sum(), np.prod(size)
  matrix, source = sparse.lil_array((n, n)), np.zeros(n)
  for at in np.argwhere(pore_zyx):
    i = number[tuple(at)]
    for k in range(3):
      for step in (-1, 1):
        other = at.copy()
        other[k] += step
        g = volume / size[k] ** 2
        if 0 <= other[k] < pore_zyx.shape[k]:
          j = number[tuple(other)]
          if j >= 0:
            matrix[i, i] += g
            matrix[i, j] -= g
        elif k == 0:
          matrix[i, i] += 2 * g
          source[i] += 2 * g * (step < 0)
  c = sparse.linalg.spsolve(matrix.tocsc(), source)
  inflow = (source * (1 - c)).sum()
  area = pore_zyx[0].size * size[1] * size[2]
  return inflow * len(pore_zyx) * size[0] / area


@pytest.mark.parametrize('axis', 'zyx')
@pytest.mark.parametrize('share', [0.45, 0.7, 0.95])
def test_diffusivity_is_that_of_a_direct_solver(axis, share):
  pore = np.random.default_rng(4).random((8, 9, 7)) < share
  found = transport.effective_diffusivity(1 - pore.astype(np.uint8), SIZE, axis,
                                          tolerance=1e-7)
  expected = direct(pore, SIZE, 'zyx'.index(axis))
  assert found.relative_diffusivity == pytest.approx(expected, rel=2e-5)
  assert found.converged and found.error <= 1e-7
  spanning = spanning_pore(pore, 'zyx'.index(axis)).mean()
  assert found.connected_porosity == pytest.approx(spanning)
  assert found.tortuosity == pytest.approx(spanning / expected, rel=2e-5)
  assert found.flux_spread < 1e-2


@pytest.mark.parametrize(('shape', 'axis'), [
    ((5, 6, 7), 'y'), ((1, 4, 4), 'z'), ((40, 1, 1), 'z'), ((3, 33, 2), 'x')])
def test_empty_box(shape, axis):
  found = transport.effective_diffusivity(np.zeros(shape, np.uint8), SIZE, axis)
  assert found.relative_diffusivity == pytest.approx(1, rel=1e-5)
  assert found.tortuosity == pytest.approx(1, rel=1e-5)
  assert found.converged and found.flux_spread < 1e-4


def test_straight_channels_and_layers():
  labels = np.ones((12, 11, 10), np.uint8)
  labels[:, 2:4, 3:6] = 0
  labels[:, 7, :] = 0
  porosity = (2 * 3 + 10) / 110
  along = transport.effective_diffusivity(labels, SIZE, 'z')
  assert along.relative_diffusivity == pytest.approx(porosity, rel=1e-5)
  assert along.connected_porosity == pytest.approx(porosity)
  assert along.tortuosity == pytest.approx(1, rel=1e-5)
  # Across x only the layer of y = 7 goes through; y is barred.
  across = transport.effective_diffusivity(labels, SIZE, 'x')
  assert across.relative_diffusivity == pytest.approx(1 / 11, rel=1e-5)
  barred = transport.effective_diffusivity(labels, SIZE, 'y')
  assert barred == (0, 0, None, 0, 0, 0, True)
  assert transport.formation_factor(barred) is None
  assert transport.formation_factor(barred._replace(relative_diffusivity=0.2)) == 5


def test_closed_pores_do_not_count_and_dead_ends_do():
  labels = np.ones((8, 8, 8), np.uint8)
  labels[:, 1, 1] = 0
  labels[3, 1, 2:5] = 0  # a dead end
  labels[2:5, 5:7, 5:7] = 0  # closed
  found = transport.effective_diffusivity(labels, SIZE, 'z')
  assert found.relative_diffusivity == pytest.approx(1 / 64, rel=1e-4)
  assert found.connected_porosity == pytest.approx(11 / 512)
  assert found.tortuosity == pytest.approx(11 / 8, rel=1e-4)


def test_detour_of_a_single_channel():
  # 2 voxels down, 4 aside, 2 down: cells in a row, each 1 voxel from the next.
  labels = np.ones((5, 5, 1), np.uint8)
  labels[:3, 0] = labels[2, :] = labels[2:, 4] = 0
  found = transport.effective_diffusivity(labels, (10.,) * 3, 'z', tolerance=1e-7)
  length = 9  # half + 8 steps + half
  assert found.relative_diffusivity == pytest.approx(5 / length / 5, rel=1e-4)


@pytest.mark.parametrize(('shape', 'size', 'abs_'), [
    ((48, 48, 48), (10.,) * 3, 0.006), ((24, 60, 60), (25., 10., 10.), 0.008)])
def test_dilute_spheres_of_maxwell(shape, size, abs_):
  z, y, x = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, size, strict=True)]
  radius = 0.25 * shape[0] * size[0]
  solid = z[:, None, None] ** 2 + y[:, None] ** 2 + x ** 2 < radius ** 2
  porosity = 1 - solid.mean()
  expected = 2 * porosity / (3 - porosity)
  assert expected < 0.91
  for axis in 'zx':
    found = transport.effective_diffusivity(solid.astype(np.uint8), size, axis)
    assert found.relative_diffusivity == pytest.approx(expected, abs=abs_)


def medium(n, length_px=6., porosity=0.5):
  return structure.whole(structure.level_cut((n, n, n), Spectrum(length_px=length_px),
                                             porosity, 2)).astype(np.uint8)


def test_stops_at_the_error_it_names():
  labels = medium(48)
  exact = transport.effective_diffusivity(labels, (10.,) * 3, tolerance=1e-7)
  for tolerance in (3e-2, 1e-2, 1e-3, 1e-4):
    found = transport.effective_diffusivity(labels, (10.,) * 3, tolerance=tolerance)
    error = found.relative_diffusivity / exact.relative_diffusivity - 1
    assert -1e-5 < error < 4 * tolerance
    assert found.converged and found.error <= tolerance


def test_says_when_it_did_not_converge():
  found = transport.effective_diffusivity(medium(48), (10.,) * 3, tolerance=1e-6,
                                          max_iterations=2)
  assert not found.converged and found.iterations == 2 and found.error > 1e-6


@pytest.mark.long
def test_iterations_hardly_grow_with_the_volume():
  counts = [transport.effective_diffusivity(medium(n), (10.,) * 3).iterations
            for n in (24, 72)]
  assert max(counts) <= 10


def test_units_do_not_matter_and_axes_are_alike():
  labels = medium(24)
  first = transport.effective_diffusivity(labels, SIZE, 'z')
  larger = transport.effective_diffusivity(labels, [s * 1e6 for s in SIZE], 'z')
  assert larger.relative_diffusivity == pytest.approx(first.relative_diffusivity,
                                                      rel=1e-5)
  turned = transport.effective_diffusivity(np.moveaxis(labels, 0, 2),
                                           (10., 20., 50.), 'x')
  assert turned.relative_diffusivity == pytest.approx(first.relative_diffusivity,
                                                      rel=1e-5)


@pytest.mark.long
def test_coarse_slices_of_the_same_body():
  labels = medium(80, length_px=10., porosity=0.6)
  fine = transport.effective_diffusivity(labels, (10.,) * 3, 'x')
  coarse = transport.effective_diffusivity(labels[2::5], (50., 10., 10.), 'x')
  # Necks are cut by steps of 50 nm: too small, by some percent.
  assert 0.90 < coarse.relative_diffusivity / fine.relative_diffusivity < 1


def test_bad_axis_is_refused():
  with pytest.raises(InputError, match='z, y or x'):
    transport.effective_diffusivity(np.zeros((2, 2, 2), np.uint8), SIZE, 'zy')
