"""Agreement with TauFactor and PoreSpy, where they are installed (the extra `peers`).

Voxels are isotropic here: neither takes spacings that differ. Where the definitions
are the same, so are the results; the tests say where they are not.
"""
import warnings

import numpy as np
import pytest

from fibjax.analysis import chords, intrusion, pore_size, specific_surface, transport
from fibjax.simulation import structure
from fibjax.simulation.fields import Spectrum

VOXELS = (1., 1., 1.)
pytestmark = pytest.mark.filterwarnings('ignore')  # of the packages themselves


@pytest.fixture(scope='module')
def porespy():
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    package = pytest.importorskip('porespy', exc_type=ImportError)
  package.settings.tqdm['disable'] = True
  return package


@pytest.fixture(scope='module')
def taufactor():
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    return pytest.importorskip('taufactor', exc_type=ImportError)


@pytest.fixture(scope='module')
def labels():
  return structure.whole(structure.level_cut((40, 44, 48), Spectrum(length_px=5.), 0.5,
                                             1)).astype(np.uint8)


@pytest.fixture
def whole_radii(monkeypatch):
  """Radii of whole voxels, the only ones of PoreSpy's local thickness."""
  monkeypatch.setattr(pore_size, 'ball_radii', lambda distance2_zyx, size, steps:
                      np.arange(1., np.sqrt(distance2_zyx.max()) + 1e-6))


@pytest.mark.parametrize('axis', 'zyx')
def test_diffusivity_is_that_of_taufactor(taufactor, labels, axis):
  # The same finite volumes and the same boundaries: up to where iterations stop, 1e-4
  # of the diffusivity here; there too, in the spread of the flux over the planes.
  pore = np.moveaxis(labels == 0, 'zyx'.index(axis), 0)
  solver = taufactor.Solver(pore.astype(np.uint8), device='cpu')
  solver.solve(verbose=False, conv_crit=1e-3)
  found = transport.effective_diffusivity(labels, VOXELS, axis)
  diffusivity = float(np.ravel(solver.D_eff)[0])
  assert found.relative_diffusivity == pytest.approx(diffusivity, rel=1e-3)
  assert transport.formation_factor(found) == pytest.approx(1 / diffusivity, rel=1e-3)
  # Its tortuosity is of the whole porosity, here it is of the pore that spans.
  tortuosity = float(np.ravel(solver.tau)[0])
  assert found.tortuosity == pytest.approx(
      tortuosity * found.connected_porosity / pore.mean(), rel=1e-3)


def test_local_thickness_is_that_of_porespy(porespy, labels, whole_radii):
  # The same openings of the same radii; there it is a radius.
  found, diameters = pore_size.local_thickness(labels, VOXELS)
  np.testing.assert_array_equal(
      found, 2 * porespy.filters.local_thickness(labels == 0, method='dt'))
  assert len(diameters) > 6


@pytest.mark.parametrize('faces', ['all', 'y'])
def test_intrusion_is_that_of_porespy(porespy, labels, whole_radii, faces):
  # The same balls, connected by faces as here, from the same inlets.
  inlets = None
  if faces != 'all':
    inlets = np.zeros(labels.shape, bool)
    inlets[:, 0] = True
  curve = intrusion.intrusion(labels, VOXELS, faces)
  filled = porespy.filters.porosimetry(labels == 0, inlets=inlets, method='dt',
                                       sizes=(curve.diameter_k / 2).tolist())
  shares = [(filled[labels == 0] >= d / 2).mean() for d in curve.diameter_k]
  np.testing.assert_allclose(curve.share_k, shares)
  assert curve.share_k[-1] < 0.5 < curve.share_k[0]


@pytest.mark.parametrize('axis', [0, 1, 2])
def test_chords_are_those_of_porespy(porespy, labels, axis):
  # It drops chords that touch any face, also those that lie in a side of the volume,
  # so lines there are left out; no chord is corrected for the border.
  numbers = porespy.filters.apply_chords(labels == 0, spacing=0, axis=axis,
                                         trim_edges=True, label=True)
  lengths = np.unique(numbers[numbers > 0], return_counts=True)[1]
  inner = tuple(slice(None) if k == axis else slice(1, -1) for k in range(3))
  found = chords.find_chords(labels[inner], VOXELS)['zyx'[axis]]
  np.testing.assert_array_equal(
      found.inside_l, np.bincount(lengths, minlength=len(found.inside_l)))
  assert chords.mean_inside(found) == pytest.approx(lengths.mean())


def test_s2_is_near_that_of_porespy(porespy, labels):
  # It averages over all directions and over rings one voxel wide, relative to the
  # porosity; along the axes of an isotropic medium the mean differs by the scatter.
  pore = labels == 0
  curve = porespy.metrics.two_point_correlation(pore, bins=20)
  lag = np.arange(20)
  along = np.mean([row.s2[:20] for row in specific_surface.s2_curves(
      labels, VOXELS).values()], 0)
  close = curve.distance < 10
  np.testing.assert_allclose(curve.probability[close] * pore.mean(),
                             np.interp(curve.distance[close], lag, along), atol=0.02)
