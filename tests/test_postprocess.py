"""Smoothing, thresholds and tuning against formulas and oracles."""
import numpy as np
import pytest
from scipy import ndimage, stats

from fibjax.errors import InputError
from fibjax.inference import postprocess
from fibjax.metrics import confusion

SIGMA, T = 2.63, 0.402  # published optimum


def gaussian_oracle(score, sigma, truncate):
  return ndimage.gaussian_filter(score.astype(np.float64), sigma, mode='nearest',
                                 truncate=truncate)


def disc(radius, n=81):
  y, x = np.mgrid[:n, :n] - n // 2
  return y**2 + x**2 <= radius**2


def smooth_score(rng, shape, margin):
  """Returns a score with noise and blur, and its truth, both with a margin."""
  field = ndimage.gaussian_filter(rng.normal(size=np.add(shape, 2 * margin)), 6)
  truth = field > -0.3 * field.std()
  logit = 6 * (ndimage.gaussian_filter(truth.astype(float), 2) - 0.6)
  score = 1 / (1 + np.exp(-logit - rng.normal(0, 1.5, truth.shape)))
  inner = np.s_[margin:margin + shape[0], margin:margin + shape[1]]
  return score.astype(np.float32), truth[inner].astype(np.uint8)


@pytest.mark.parametrize('sigma', [0.3, 0.5, 1.0, 2.63, 5.9])
def test_kernels_are_scipys_gaussian_with_their_cut(sigma):
  score = np.random.default_rng(0).random((37, 41), np.float32)
  matlab = gaussian_oracle(score, sigma, (np.ceil(2 * sigma) + 0.1) / sigma)
  np.testing.assert_allclose(postprocess.smooth(score, sigma, 'matlab'), matlab,
                             atol=3e-7)
  wide = gaussian_oracle(score, sigma, 4.0)
  np.testing.assert_allclose(postprocess.smooth(score, sigma, 'scipy4sigma'), wide,
                             atol=3e-7)


def test_smoothing_is_in_the_plane_and_keeps_constants():
  volume = np.random.default_rng(1).random((3, 20, 30), np.float32)
  smoothed = postprocess.smooth(volume, 1.5)
  assert smoothed.dtype == np.float32
  for plane, expected in zip(volume, smoothed, strict=True):
    np.testing.assert_array_equal(postprocess.smooth(plane, 1.5), expected)
  np.testing.assert_allclose(postprocess.smooth(np.full((9, 9), 0.7), 3), 0.7,
                             rtol=1e-6)
  np.testing.assert_array_equal(postprocess.smooth(volume, 0), volume)


def test_smooth_leaves_its_input_alone():
  score = np.random.default_rng(2).random((8, 8), np.float32)
  copy = score.copy()
  postprocess.smooth(score, 0)[:] = 0
  postprocess.double_threshold(score, 1.0, 0.5)
  np.testing.assert_array_equal(score, copy)


def test_straight_edge_moves_towards_the_pore():
  edge = np.zeros((41, 400), np.float32)
  edge[:, 200:] = 1
  first = postprocess.smooth(edge, SIGMA) > T
  second = postprocess.double_threshold(edge, SIGMA, T)
  assert np.flatnonzero(first[20])[0] == 199
  assert np.flatnonzero(second[20])[0] == 198
  # The shift per pass is sigma Phi^-1(1 - T); a linear ramp shows it below a pixel.
  assert pytest.approx(0.65, abs=0.01) == SIGMA * stats.norm.ppf(1 - T)


@pytest.mark.parametrize(('radius', 'pore_area', 'solid_area'), [
    (2.5, 0, 0), (3, 0, 0), (3.5, 0, 9), (4, 0, 37), (4.5, 0, 69), (5, 9, 81),
    (5.5, 21, 97), (6, 29, 113), (7, 61, 149), (8, 97, 221), (10, 193, 357)])
def test_discs_shrink_and_vanish_as_derived(radius, pore_area, solid_area):
  pore = postprocess.double_threshold(~disc(radius), SIGMA, T)
  solid = postprocess.double_threshold(disc(radius), SIGMA, T)
  assert (np.sum(pore == 0), np.sum(solid == 1)) == (pore_area, solid_area)


def test_ideal_vanishing_radii_bracket_the_single_pass():
  """A disc under an uncut Gaussian vanishes below sigma sqrt(2 ln 1/x)."""
  for threshold, phase in ((T, 'pore'), (1 - T, 'solid')):
    radius = SIGMA * np.sqrt(2 * np.log(1 / threshold))
    assert radius == pytest.approx({'pore': 3.55, 'solid': 2.67}[phase], abs=0.005)
    for factor, stays in ((0.9, False), (1.1, True)):
      n = 401  # fine grid, 5 voxels per pixel, so that the disc is round
      d = disc(5 * factor * radius, n).astype(np.float32)
      smoothed = postprocess.smooth(d, 5 * SIGMA, 'scipy4sigma')
      assert (smoothed.max() > 1 - threshold) == stays


@pytest.mark.parametrize('kernel', postprocess.KERNELS)
@pytest.mark.parametrize('sigma', [0.0, 0.7, 2.63])
def test_tile_with_margin_equals_the_whole(kernel, sigma):
  score = np.random.default_rng(3).random((2, 70, 80), np.float32)
  whole = postprocess.double_threshold(score, sigma, 0.47, kernel)
  margin = postprocess.margin_px(sigma, kernel)
  for y, x in ((0, 0), (25, 30), (50, 55)):
    top, left = max(y - margin, 0), max(x - margin, 0)
    tile = score[:, top:y + 20 + margin, left:x + 25 + margin]
    got = postprocess.double_threshold(tile, sigma, 0.47, kernel)
    got = got[:, y - top:y - top + 20, x - left:x - left + 25]
    np.testing.assert_array_equal(got, whole[:, y:y + 20, x:x + 25])


def test_margin_is_the_smallest_that_is_exact():
  assert postprocess.margin_px(SIGMA) == 12
  assert postprocess.margin_px(SIGMA, 'scipy4sigma') == 22
  assert postprocess.margin_px(0) == 0
  # A weak score field just under T, tipped over by a step 12 pixels away.
  row = np.zeros((1, 61), np.float32)
  row[:, 42:] = 1
  smoothed = postprocess.smooth(postprocess.smooth(row, SIGMA), SIGMA)
  reached = np.flatnonzero(smoothed[0])[0]
  assert reached == 42 - postprocess.margin_px(SIGMA)


def test_solid_is_strictly_greater_than_the_threshold():
  score = np.array([[0.5, np.nextafter(np.float32(0.5), np.float32(1))]], np.float32)
  assert postprocess.double_threshold(score, 0, 0.5).tolist() == [[0, 1]]


@pytest.mark.parametrize(('sigma', 'threshold', 'kernel'), [
    (-1, 0.5, 'matlab'), (np.nan, 0.5, 'matlab'), (1, 1.0, 'matlab'),
    (1, np.nan, 'matlab'), (1, 0.5, 'boxcar')])
def test_bad_parameters_are_refused(sigma, threshold, kernel):
  with pytest.raises(InputError):
    postprocess.double_threshold(np.zeros((4, 4)), sigma, threshold, kernel)


@pytest.mark.parametrize(('score', 'match'), [
    (np.full((4, 4), np.nan, np.float32), 'NaN'),
    (np.array([[np.inf, 0.]]), 'infinity'), (np.zeros(4), '1 axes'),
    (np.zeros((4, 4), complex), 'dtype complex'), (np.full((4, 4), 'a'), 'dtype')])
def test_bad_scores_are_refused(score, match):
  with pytest.raises(InputError, match=f'score: got .*{match}'):
    postprocess.double_threshold(score, 1, 0.5)


def brute_force(regions, sigmas, thresholds):
  best = {}
  for sigma in sigmas:
    for t in thresholds:
      counts = 0
      for score, mask, (y, x) in regions:
        labels = postprocess.double_threshold(score, sigma, t)
        h, w = mask.shape
        counts = counts + confusion.confusion(mask, labels[y:y + h, x:x + w])
      best[sigma, t] = confusion.summarise(counts)['miou']
  return best


@pytest.fixture(scope='module')
def regions():
  rng = np.random.default_rng(4)
  result = []
  for shape, margin in (((40, 50), 24), ((30, 30), 24), ((48, 36), 0)):
    score, mask = smooth_score(rng, shape, margin)
    mask[rng.random(mask.shape) < 0.1] = 255
    result.append(postprocess.RegionScore(score, mask, (margin, margin)))
  return result


def test_tune_agrees_with_brute_force_on_the_coarse_grid(regions):
  tuning = postprocess.tune(regions, sigma_max_px=2.0, threshold_range=(0.4, 0.6))
  sigmas = [0, 0.5, 1.0, 1.5, 2.0]
  thresholds = [round(0.4 + 0.01 * i, 2) for i in range(21)]
  oracle = brute_force(regions, sigmas, thresholds)
  table = {(s, t): miou for s, t, miou in tuning.table}
  assert {p: table[p] for p in oracle} == pytest.approx(oracle, abs=1e-12)
  assert tuning.miou == tuning.table[:, 2].max() >= max(oracle.values())
  at_best = brute_force(regions, [tuning.sigma_px], [tuning.threshold])
  assert list(at_best.values()) == pytest.approx([tuning.miou], abs=1e-12)
  assert 0 <= tuning.sigma_px <= 2 and 0.4 <= tuning.threshold <= 0.6


def test_tune_refines_four_times_finer_three_times(regions):
  tuning = postprocess.tune(regions[:1], sigma_max_px=3.0, threshold_range=(0.45, 0.55))
  for column, step in ((0, 0.5), (1, 0.01)):
    values = np.unique(tuning.table[:, column])
    finest = np.diff(values).min()
    assert finest == pytest.approx(step / 4**3, rel=1e-6)


def test_tune_does_not_depend_on_threads_or_order(regions):
  kwargs = {'sigma_max_px': 1.0, 'threshold_range': (0.45, 0.55)}
  one = postprocess.tune(regions, n_threads=1, **kwargs)
  other = postprocess.tune(regions[::-1], n_threads=3, **kwargs)
  assert one[:3] == other[:3]
  np.testing.assert_array_equal(one.table, other.table)


def test_tune_finds_the_parameters_that_made_the_labels():
  """Labels that are a double threshold of the score have mIoU 1 at its parameters."""
  rng = np.random.default_rng(5)
  regions = []
  for _ in range(3):
    score, _ = smooth_score(rng, (80, 80), 24)
    truth = postprocess.double_threshold(score, 2.0, 0.42)
    regions.append(postprocess.RegionScore(score, truth[24:-24, 24:-24], (24, 24)))
  tuning = postprocess.tune(regions, sigma_max_px=4.0)
  assert tuning.miou == 1.0
  assert tuning.sigma_px == pytest.approx(2.0, abs=0.05)
  assert tuning.threshold == pytest.approx(0.42, abs=0.005)


def test_tune_prefers_no_smoothing_and_one_half_among_equals():
  mask = np.zeros((20, 20), np.uint8)
  mask[:, 10:] = 1
  tuning = postprocess.tune([(mask.astype(np.float32), mask, (0, 0))])
  assert tuning[:3] == (0.0, 0.5, 1.0)


def test_tune_refuses_nothing_to_tune_on():
  with pytest.raises(InputError, match='validation region'):
    postprocess.tune([])
  empty = np.full((5, 5), 255, np.uint8)
  with pytest.raises(InputError, match='no labelled voxel'):
    postprocess.tune([postprocess.RegionScore(np.zeros((5, 5), np.float32), empty)])
  with pytest.raises(InputError, match='region 0.*inside'):
    postprocess.tune([postprocess.RegionScore(np.zeros((5, 5), np.float32), empty,
                                              (1, 0))])
