"""Chords against counting by hand, lines of known lengths, and closed formulas."""
import itertools

import numpy as np
import pytest

from fibjax.analysis import chords
from fibjax.analysis.chords import Chords
from fibjax.errors import InputError
from fibjax.simulation import structure
from fibjax.simulation.fields import Spectrum
from tests import formulas

SIZE = (50., 20., 10.)


def count_by_hand(phase_zyx, axis):
  """Lengths inside, lengths with one end, number of whole lines."""
  lines = np.moveaxis(phase_zyx, axis, -1).reshape(-1, phase_zyx.shape[axis])
  inside, cut, through = [], [], 0
  for line in lines:
    runs = [(key, len(list(run))) for key, run in itertools.groupby(line)]
    for k, (key, length) in enumerate(runs):
      ends = (k > 0) + (k < len(runs) - 1)
      if key and ends == 2:
        inside.append(length)
      elif key and ends == 1:
        cut.append(length)
      elif key:
        through += 1
  return inside, cut, through


@pytest.mark.parametrize('phase', chords.PHASES)
def test_chords_are_those_counted_by_hand(phase):
  labels = (np.random.default_rng(1).random((4, 5, 6)) < 0.5).astype(np.uint8)
  labels[:, 2] = 0
  labels[1, 1] = 1
  found = chords.find_chords(labels, SIZE, phase)
  for k, axis in enumerate('zyx'):
    inside, cut, through = count_by_hand(labels == chords.PHASES.index(phase), k)
    assert found[axis].spacing_nm == SIZE[k]
    assert found[axis].inside_l.tolist() == np.bincount(
        inside, minlength=labels.shape[k] + 1).tolist()
    assert found[axis].cut_l.tolist() == np.bincount(
        cut, minlength=labels.shape[k] + 1).tolist()
    assert found[axis].through == through


def test_layers():
  labels = np.ones((30, 4, 4), np.uint8)
  for start in (0, 10, 20):
    labels[start:start + 3] = 0  # the first touches the border
  found = chords.find_chords(labels, SIZE)
  assert chords.mean_inside(found['z']) == 150
  assert chords.mean_corrected(found['z']) == (150, 0)
  assert found['z'].cut_l[3] == 16 and found['z'].inside_l[3] == 32
  assert found['y'].through == 4 * 9
  assert chords.mean_inside(found['y']) is None
  assert chords.mean_corrected(found['y']) == (None, 1)
  solid = chords.find_chords(labels, SIZE, 'solid')
  assert chords.mean_inside(solid['z']) == 7 * 50


def test_product_limit_by_hand():
  # Lengths 1, 1, 3 inside (each twice) and 2, 4 at the border:
  # 1 - 4/8 are longer than 1, then 1 - 2/3 of these longer than 3; 4 may go on.
  found = Chords(10., np.array([0, 2, 0, 1, 0]), np.array([0, 0, 1, 0, 1]), 0)
  mean, beyond = chords.mean_corrected(found)
  assert mean == pytest.approx(10 * (1 + 1 / 2 + 1 / 2 + 1 / 6))
  assert beyond == pytest.approx(1 / 6)
  assert chords.mean_inside(found) == pytest.approx(50 / 3)


@pytest.mark.long
@pytest.mark.parametrize('kind', ['uniform', 'two lengths', 'geometric'])
def test_short_lines_give_the_mean_of_long_ones(kind):
  rng = np.random.default_rng(2)
  n = 60_000
  lengths = {'uniform': rng.integers(5, 26, n), 'geometric': rng.geometric(1 / 12, n),
             'two lengths': rng.choice([4, 28], n)}[kind]
  gaps = rng.integers(3, 20, n)
  line = np.repeat(np.tile([0, 1], n), np.stack([lengths, gaps], 1).ravel())
  window = 90 if kind == 'geometric' else 40
  lines = line[:len(line) // window * window].reshape(-1, 1, window).astype(np.uint8)
  found = chords.find_chords(lines, SIZE)['x']
  mean, beyond = chords.mean_corrected(found)
  assert mean == pytest.approx(10 * lengths.mean(), rel=0.015)
  assert beyond < 0.01
  assert chords.mean_inside(found) < 0.95 * 10 * lengths.mean()


def test_mean_of_an_isotropic_medium_is_4_phi_over_s():
  spectrum = Spectrum(length_px=8.)
  solid = structure.whole(structure.level_cut((96, 96, 96), spectrum, 0.4, 5))
  expected = 10 * formulas.mean_chord(1 - solid.mean(),
                                      formulas.second_spectral_moment(spectrum))
  for step in (1, 5):
    found = chords.find_chords(solid[::step].astype(np.uint8), (10. * step, 10., 10.))
    means = [chords.mean_corrected(found[axis])[0] for axis in 'zyx']
    assert np.mean(means) == pytest.approx(expected, rel=0.06)


def test_mean_of_a_boolean_model():
  moments = structure.grain_moments(10.)
  intensity = structure.boolean_intensity(0.5, moments[0])
  solid = structure.whole(structure.boolean((96, 96, 96), intensity, 10., 4))
  found = chords.find_chords(solid.astype(np.uint8), (10.,) * 3)
  corrected = np.mean([chords.mean_corrected(found[axis])[0] for axis in 'zyx'])
  assert corrected == pytest.approx(
      10 * formulas.boolean_mean_chord(intensity, moments[1]), rel=0.1)


def test_another_phase_is_refused():
  with pytest.raises(InputError, match='pore or solid'):
    chords.find_chords(np.zeros((2, 2, 2), np.uint8), SIZE, 'water')
