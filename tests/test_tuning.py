"""The choice of post-processing: no bias, no harm, and the shares that volumes keep."""
import numpy as np
import pytest
from scipy import ndimage, special

from fibjax.errors import InputError
from fibjax.inference import tuning
from fibjax.inference.postprocess import RegionScore, double_threshold


def region(seed, shift=0.0, side=40):
  """A random structure and calibrated scores of it, their probits shifted."""
  rng = np.random.default_rng(seed)
  edge_yx, noise_yx = (ndimage.gaussian_filter(rng.standard_normal((side, side)), width)
                       for width in (4, 2))
  edge_yx, noise_yx = edge_yx / edge_yx.std(), noise_yx / noise_yx.std()
  # solid where 4 edge > noise: P(solid | edge) is Phi(4 edge).
  mask_yx = (4 * edge_yx > noise_yx).astype(np.uint8)
  score_yx = special.ndtr(4 * edge_yx + shift).astype(np.float32)
  return RegionScore(score_yx, mask_yx)


def many(shifts, count=16):
  """Regions of one volume per shift: regions, volumes, slices."""
  regions = [region((v, k), shift) for v, shift in enumerate(shifts)
             for k in range(count)]
  names = [f'v{v}' for v in range(len(shifts)) for _ in range(count)]
  return regions, names, [k for _ in shifts for k in range(count)]


def porosity_error(regions, sigma_px, thresholds):
  labels = [double_threshold(region.score_yx, sigma_px, threshold)
            for region, threshold in zip(regions, thresholds, strict=True)]
  return np.mean([np.mean(label == 0) - np.mean(region.mask_yx == 0)
                  for label, region in zip(labels, regions, strict=True)])


def test_the_regions_of_each_volume_have_the_porosity_of_their_labels():
  regions, names, slices = many((0.8, -0.8))
  choice = tuning.choose('porosity', regions, names, slices)
  assert choice.taken and choice.gain > choice.gain_error > 0
  # What is removed, w_v of the bias, is nearly all for volumes that differ so much.
  assert min(choice.shrinkage.values()) > 0.9
  for v, name in enumerate(('v0', 'v1')):
    own = regions[16 * v:16 * (v + 1)]
    assert abs(porosity_error(own, choice.sigma_px,
                              [choice.per_volume[name]] * 16)) < 0.004
    assert abs(porosity_error(own, 0, [0.5] * 16)) > 0.02
  assert choice.per_volume['v0'] > 0.6 > 0.4 > choice.per_volume['v1']


def test_of_unbiased_settings_the_best_overlap_is_taken():
  """White noise on the scores: smoothing helps, and only unbiased pairs compete."""
  regions, names, slices = many((0.6,))
  rng = np.random.default_rng(0)
  noisy = [r._replace(score_yx=np.clip(
      r.score_yx + 0.3 * rng.standard_normal(r.score_yx.shape), 0, 1).astype('f4'))
           for r in regions]
  choice = tuning.choose('porosity', noisy, names, slices)
  assert choice.taken and choice.sigma_px >= 1
  assert abs(porosity_error(noisy, choice.sigma_px, [choice.threshold] * 16)) < 0.006


@pytest.mark.parametrize('objective', ['miou', 'porosity'])
def test_what_is_not_better_than_its_noise_is_not_taken(objective):
  """Calibrated scores: the threshold 0.5 is best, so a gain is noise, one in six."""
  kept = 0
  for seed in range(12):
    regions = [region((seed, k), side=24) for k in range(10)]
    choice = tuning.choose(objective, regions, ['v'] * 10, range(10))
    assert choice.taken == (choice.gain > choice.gain_error)
    if choice.taken:
      continue
    kept += 1
    assert (choice.sigma_px, choice.threshold) == (0.0, 0.5)
    assert set(choice.per_volume.values()) <= {0.5}
    assert 'not taken' in tuning.sentence({'tuned': True, **choice._asdict()})
  assert kept >= 8


def test_one_block_of_slices_tells_nothing_of_the_gain():
  regions, names, _ = many((0.8,), count=6)
  choice = tuning.choose('porosity', regions, names, [4] * 6)
  assert choice.gain is None and not choice.taken
  assert 'one block' in tuning.sentence({'tuned': True, **choice._asdict()})


def test_the_edge_of_a_range_is_named():
  regions, names, slices = many((4.0,))
  choice = tuning.choose('porosity', regions, names, slices)
  assert 'threshold' in choice.at_edge
  assert 'edge' in tuning.sentence({'tuned': True, **choice._asdict()})


def test_shares_are_the_integral_over_the_spread():
  bias, variance = np.array([0.03, -0.02, 0.01]), np.array([1e-4, 4e-4, 2e-5])
  rng = np.random.default_rng(0)
  # Importance sampling over the spread and the common mean, both flat.
  tau, mean = rng.uniform(0.0005, 0.1, 400_000), rng.uniform(-0.3, 0.3, 400_000)
  total = tau[:, None] ** 2 + variance
  weight = np.exp(-0.5 * ((bias - mean[:, None]) ** 2 / total + np.log(total)).sum(1))
  expected = weight @ (tau[:, None] ** 2 / total) / weight.sum()
  np.testing.assert_allclose(tuning._shrinkage(bias, variance), expected, atol=0.01)
  # A volume known only by one block keeps the threshold of all; a single one its own.
  assert tuning._shrinkage(bias, np.array([1e-4, 1e-4, np.inf]))[2] == 0
  assert tuning._shrinkage(bias[:1], variance[:1]).tolist() == [1]


def test_the_error_of_a_bias_is_the_jackknife():
  rng = np.random.default_rng(1)
  counts_rij = rng.integers(1, 50, (9, 2, 2)).astype(float)
  blocks = np.array([0, 0, 1, 1, 2, 2, 3, 3, 3])
  bias, variance = tuning._bias(counts_rij, blocks)

  def of(rows):
    total = counts_rij[rows].sum(0)
    return (total[1, 0] - total[0, 1]) / total.sum()

  left_out = [of(blocks != b) for b in range(4)]
  assert bias == pytest.approx(of(blocks >= 0))
  # Equal to first order in the weights of the blocks.
  jackknife = 3 / 4 * np.sum((np.array(left_out) - np.mean(left_out)) ** 2)
  assert variance == pytest.approx(jackknife, rel=0.2)
  assert tuning._bias(counts_rij[:2], blocks[:2])[1] == np.inf


def test_blocks_are_neighbouring_slices_of_one_volume():
  slices = [9, 1, 2, 30, 31, 5, 5]
  blocks = tuning.slice_blocks(['a'] * 5 + ['b'] * 2, slices)
  assert blocks.tolist() == [2, 0, 1, 3, 4, 5, 5]
  many_blocks = tuning.slice_blocks(['a'] * 40, range(40))
  assert np.unique(many_blocks).size == 8
  assert (np.diff(many_blocks) >= 0).all()


def test_thresholds_between_those_of_the_grid_are_interpolated():
  counts_tij = np.arange(tuning._THRESHOLDS.size * 4.).reshape(-1, 2, 2)
  np.testing.assert_allclose(tuning._at(counts_tij, 0.5), counts_tij[20])
  np.testing.assert_allclose(tuning._at(counts_tij, 0.51),
                             (counts_tij[20] + counts_tij[21]) / 2)
  np.testing.assert_allclose(tuning._at(counts_tij, 0.9), counts_tij[-1])


def test_bad_input_is_named():
  with pytest.raises(InputError, match='objective'):
    tuning.choose('porosty', [region(0)], ['a'], [0])
  empty = region(0)._replace(mask_yx=np.full((40, 40), 255, np.uint8))
  with pytest.raises(InputError, match='no labelled voxel'):
    tuning.choose('porosity', [empty], ['a'], [0])
  with pytest.raises(InputError, match='none'):
    tuning.choose('porosity', [], [], [])
