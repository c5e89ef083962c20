"""Each artefact does what was logged, alone, and leaves the truth exact."""
import json
from dataclasses import fields, replace

import numpy as np
import pytest

from fibjax.errors import InputError
from fibjax.simulation import artefacts, films, structure
from fibjax.simulation.artefacts import ARTEFACTS, Artefacts, Blob

SHAPE = (40, 120, 130)
SOLID = np.zeros(SHAPE[1:], bool)


def draw(shape=SHAPE, seed=(7,), step=5, **strengths):
  return artefacts.draw_artefacts(Artefacts(**strengths), shape, step, 10.0, seed)


def applied(drawn, level=0.5):
  """All slices of a flat image with artefacts."""
  image = np.full(SHAPE[1:], level, np.float32)
  return np.stack([artefacts.apply_artefacts(image, SOLID, k, drawn)
                   for k in range(len(drawn.planes))])


def test_none_changes_nothing():
  drawn = draw()
  np.testing.assert_array_equal(applied(drawn), np.float32(0.5))
  assert drawn.planes == tuple(range(0, 200, 5))
  assert not drawn.shift_k2.any()
  assert drawn.missing == drawn.blobs == ()


def test_gradient_is_recovered_by_least_squares():
  drawn = draw(gradient=0.2)
  rows = applied(drawn).mean((0, 2))
  slope, level = np.polyfit(np.arange(120), rows, 1)
  assert slope == pytest.approx(0.2 / 119, rel=1e-4)
  assert slope == pytest.approx(artefacts.describe(drawn)['gradient_per_row'], rel=1e-4)
  assert rows.mean() == pytest.approx(0.5, abs=1e-6)


def test_gain_and_offset_are_the_logged_ones():
  drawn = draw(gain=0.05, offset=0.02)
  log = artefacts.describe(drawn)
  levels = applied(drawn, 0.5).mean((1, 2))
  np.testing.assert_allclose(levels, 0.5 * np.array(log['gain']) + log['offset'],
                             atol=2e-6)
  assert np.std(log['gain']) == pytest.approx(0.05, rel=0.3)
  assert np.std(log['offset']) == pytest.approx(0.02, rel=0.3)


def test_line_noise_is_a_correlated_row_offset():
  change = applied(draw(line=0.02)) - 0.5
  np.testing.assert_allclose(change - change[:, :, :1], 0, atol=1e-6)
  rows = change[:, :, 0]
  assert rows.std() == pytest.approx(0.02, rel=0.05)
  assert np.mean(rows[:, 1:] * rows[:, :-1]) / rows.var() == pytest.approx(0.5, abs=.05)
  assert abs(np.corrcoef(rows[0], rows[1])[0, 1]) < 0.35


def test_curtains_run_down_the_rows_and_persist_in_z():
  drawn = artefacts.draw_artefacts(Artefacts(curtain=0.05, curtain_slices=8.0),
                                   (60, 40, 3000), 5, 10.0, (1,))
  image = np.zeros((40, 3000), np.float32)
  change = np.stack([artefacts.apply_artefacts(image, image > 0, k, drawn)
                     for k in range(60)])
  profile = change.mean(1)
  assert profile.std() == pytest.approx(0.05 * drawn.curtain_y.mean(), rel=0.15)
  assert abs(np.corrcoef(change[0, 0], change[0, -1])[0, 1]) > 0.999
  for lag in (1, 8):
    pair = np.mean([np.corrcoef(profile[k], profile[k + lag])[0, 1]
                    for k in range(60 - lag)])
    assert pair == pytest.approx(np.exp(-lag / 8), abs=0.1)


def test_charging_blobs_are_the_logged_ones():
  drawn = draw(charging_per_um2=0.5)
  log = artefacts.describe(drawn)['charging']
  expected = 0.5 * 1.2 * 1.3 * 40
  assert abs(len(log) - expected) < 4 * np.sqrt(expected)
  for blob in log:
    assert 1 <= blob['stop'] - blob['start'] <= 5 or blob['stop'] == 40
    assert 30 <= blob['radius_px'] <= 200
    assert 0.05 <= abs(blob['brightness']) <= 0.4
  assert {np.sign(blob['brightness']) for blob in log} == {-1, 1}
  one = draw()._replace(blobs=(Blob(3, 5, 60.0, 50.0, 30.0, 0.4),))
  change = applied(one) - 0.5
  assert np.flatnonzero(change.any((1, 2))).tolist() == [3, 4]
  assert change[3, 60, 50] == pytest.approx(0.4 * 0.3, abs=1e-6)  # a pore: weaker
  solid = artefacts.apply_artefacts(np.zeros(SHAPE[1:]), ~SOLID, 3, one)
  assert solid[60, 50] == pytest.approx(0.4, abs=1e-6)
  assert solid[90, 50] == pytest.approx(0.4 * np.exp(-0.5), abs=1e-6)


def test_artefacts_have_streams_of_their_own():
  everything = draw(**{f.name: getattr(ARTEFACTS['real'], f.name)
                       for f in fields(Artefacts)} | {'drift_px': 1.0, 'missing': 0.2})
  np.testing.assert_array_equal(draw(gain=0.02).gain_k, everything.gain_k)
  np.testing.assert_array_equal(draw(curtain=0.03).curtain_kx, everything.curtain_kx)
  assert draw(missing=0.2).missing == everything.missing
  assert draw(charging_per_um2=0.004).blobs == everything.blobs
  assert (draw(gain=0.02, seed=(8,)).gain_k != everything.gain_k).any()
  json.dumps(artefacts.describe(everything), allow_nan=False)


def test_drift_thickness_and_missing_slices_keep_the_truth_exact():
  strengths = Artefacts(drift_px=1.0, jitter_px=0.4, thickness=0.2, missing=0.3)
  preset = films.PRESETS['HPC30']
  shape = (10, 40, 50)
  solid = np.random.default_rng(0).random((300, 240, 80)) < 0.7
  film = films.simulate_film(preset, shape, 4, artefacts=strengths,
                             geometry=structure.from_array(solid))
  log = film.meta['drawn']
  assert np.ptp(log['shift_yx_px'], axis=0).min() > 0
  steps = np.diff(log['exposed_planes'])
  assert 0 < steps.min() < 5 < steps.max()
  assert log['missing_slices'] and 0 not in log['missing_slices']
  for k, (z, (y, x)) in enumerate(
      zip(log['exposed_planes'], log['shift_yx_px'], strict=True)):
    np.testing.assert_array_equal(film.truth_zyx[k], solid[z, y:y + 40, x:x + 50])
    repeated = (film.image_zyx[k] == film.image_zyx[k - 1]).all()
    assert repeated == (k in log['missing_slices'])


def test_levels():
  assert artefacts.choose_artefacts('none') == Artefacts()
  mild, real = ARTEFACTS['mild'], ARTEFACTS['real']
  for name in ('line', 'gradient', 'gain', 'offset', 'curtain'):
    assert 0 < getattr(mild, name) < getattr(real, name)
  assert mild.charging_per_um2 == 0 < real.charging_per_um2
  own = replace(mild, gradient=0.3)
  assert artefacts.choose_artefacts(own) is own
  with pytest.raises(InputError, match='artefacts: got .weird.'):
    artefacts.choose_artefacts('weird')
