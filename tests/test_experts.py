import itertools

import numpy as np
import pytest
from scipy import ndimage

from fibjax.annotation import experts
from fibjax.annotation.regions import make_regions, region_mask
from fibjax.errors import InputError
from fibjax.metrics import confusion

SENSITIVITY = (0.97, 0.85, 0.75, 0.8, 0.7)
SPECIFICITY = (0.95, 0.8, 0.85, 0.7, 0.75)


def simulate(seed, sensitivity_j=SENSITIVITY, specificity_j=SPECIFICITY, share=0.68,
             shape=(256, 256)):
  """A truth and votes of experts who err independently with known rates."""
  random = np.random.default_rng(seed)
  truth = random.random(shape) < share
  votes = [np.where(truth, random.random(shape) < p, random.random(shape) >= q)
           for p, q in zip(sensitivity_j, specificity_j, strict=True)]
  return truth, np.array(votes, np.uint8)


def test_mean_vote_is_the_share_of_those_who_labelled():
  votes = np.array([[[0, 1, 255, 255]], [[0, 0, 1, 255]], [[0, 1, 255, 255]]], np.uint8)
  soft, labelled = experts.mean_vote(votes)
  assert soft.dtype == np.float32
  np.testing.assert_allclose(soft, [[0, 2 / 3, 1, 0]], rtol=1e-6)
  np.testing.assert_array_equal(labelled, [[True, True, True, False]])


@pytest.mark.parametrize('count', [3, 5])
def test_staple_recovers_the_quality_of_the_experts(count):
  truth, votes = simulate(1, SENSITIVITY[:count], SPECIFICITY[:count])
  found = experts.staple(votes)
  # With three experts the truth is known less well than with the realised rates.
  np.testing.assert_allclose(found.sensitivity_j, SENSITIVITY[:count], atol=0.01)
  np.testing.assert_allclose(found.specificity_j, SPECIFICITY[:count], atol=0.01)
  assert 1 < found.iterations <= 100 and found.truth.shape == truth.shape


def test_staple_beats_the_majority_when_experts_differ():
  truth, votes = simulate(2)
  majority = votes.mean(0) > 0.5
  found = experts.staple(votes).truth > 0.5
  assert np.mean(found != truth) < 0.7 * np.mean(majority != truth)


def brute_staple(votes_jn, iterations):
  """The formulas of §8.1 as products, the share as the mean of W."""
  p = q = np.full(len(votes_jn), 0.99)
  share, d = votes_jn.mean(), votes_jn.astype(float)
  for step in range(iterations + 1):
    a = share * np.prod(np.where(d == 1, p[:, None], 1 - p[:, None]), 0)
    b = (1 - share) * np.prod(np.where(d == 1, 1 - q[:, None], q[:, None]), 0)
    w = a / (a + b)
    if step < iterations:
      p, q, share = d @ w / w.sum(), (1 - d) @ (1 - w) / (1 - w).sum(), w.mean()
  return w, p, q


def test_staple_equals_its_formulas():
  _, votes = simulate(3, shape=(500,))
  w, p, q = brute_staple(votes, 7)
  found = experts.staple(votes, max_iterations=7)
  assert found.iterations == 7
  np.testing.assert_allclose(found.truth, w, rtol=1e-8)
  np.testing.assert_allclose(found.sensitivity_j, p, rtol=1e-8)
  np.testing.assert_allclose(found.specificity_j, q, rtol=1e-8)


def test_unanimous_experts_are_right():
  votes = np.array([[[0, 1, 1, 255]], [[0, 1, 255, 255]], [[255] * 4]], np.uint8)
  found = experts.staple(votes)
  np.testing.assert_array_equal(found.truth, [[0, 1, 1, 0]])
  np.testing.assert_array_equal(found.sensitivity_j, [1, 1, np.nan])
  assert found.iterations == 0
  one = experts.staple(votes[:1])
  np.testing.assert_array_equal(one.truth, [[0, 1, 1, 0]])


def test_votes_that_are_missing_do_not_count():
  truth, votes = simulate(4)
  missing = np.random.default_rng(5).random(votes.shape) < 0.2
  votes = np.where(missing, 255, votes).astype(np.uint8)
  found = experts.staple(votes)
  np.testing.assert_allclose(found.sensitivity_j, SENSITIVITY, atol=0.015)
  np.testing.assert_allclose(found.specificity_j, SPECIFICITY, atol=0.015)
  nobody = missing.all(0)
  assert nobody.any() and not found.truth[nobody].any()
  silent = np.concatenate([votes, np.full_like(votes[:1], 255)])
  again = experts.staple(silent)
  np.testing.assert_allclose(again.truth, found.truth, atol=1e-9)
  assert np.isnan(again.sensitivity_j[-1]) and np.isnan(again.specificity_j[-1])


def test_the_experts_are_more_often_right_than_wrong():
  # One expert takes pore for solid.
  truth, votes = simulate(6, (0.9, 0.9, 0.9, 0.1), (0.9, 0.9, 0.9, 0.1), share=0.5)
  found = experts.staple(votes)
  np.testing.assert_allclose(found.sensitivity_j, (0.9, 0.9, 0.9, 0.1), atol=0.01)
  assert np.mean((found.truth > 0.5) != truth) < 0.03
  flipped = experts.staple(1 - votes)
  assert (flipped.sensitivity_j + flipped.specificity_j).mean() > 1
  np.testing.assert_allclose(flipped.truth, 1 - found.truth, atol=1e-4)


@pytest.mark.parametrize('seed', [0, 28, 33])
def test_a_solution_in_which_most_are_wrong_is_turned_round(seed):
  random = np.random.default_rng(seed)  # seeds at which EM ends in one
  count, voxels = random.integers(2, 6), random.integers(3, 200)
  rates = random.random(count), random.random(count)
  truth = random.random(voxels) < random.random()
  votes = np.array([np.where(truth, random.random(voxels) < p,
                             random.random(voxels) >= q)
                    for p, q in zip(*rates, strict=True)], np.uint8)
  found = experts.staple(votes, max_iterations=1000)
  assert (found.sensitivity_j + found.specificity_j).mean() > 1
  solid = found.truth
  np.testing.assert_allclose(found.sensitivity_j, votes @ solid / solid.sum(),
                             atol=1e-4)
  np.testing.assert_allclose(found.specificity_j,
                             (1 - votes) @ (1 - solid) / (1 - solid).sum(), atol=1e-4)


def test_a_band_leaves_easy_voxels_out():
  # Experts err only near an interface: elsewhere they agree, and hide the differences.
  random = np.random.default_rng(7)
  truth = ndimage.gaussian_filter(random.normal(size=(200, 200)), 12) > 0
  near = np.maximum(ndimage.distance_transform_edt(truth),
                    ndimage.distance_transform_edt(~truth)) < 2.5
  rates = (0.05, 0.15, 0.25)
  votes = np.array([truth ^ (near & (random.random(truth.shape) < rate))
                    for rate in rates], np.uint8)
  everywhere, banded = experts.staple(votes), experts.staple(votes, band_px=10.)
  assert np.all(banded.sensitivity_j < everywhere.sensitivity_j)
  disagreed = votes.min(0) != votes.max(0)
  distance = np.sqrt(min_distance_squared(disagreed))
  np.testing.assert_array_equal(banded.truth[distance > 10], truth[distance > 10])
  in_band = votes[:, distance <= 10]
  np.testing.assert_allclose(experts.staple(in_band).sensitivity_j,
                             banded.sensitivity_j)
  np.testing.assert_allclose(experts.staple(in_band).truth,
                             banded.truth[distance <= 10])


def min_distance_squared(mask_yx):
  """Squared distance to the nearest voxel of a mask, one row and column at a time."""
  y, x = np.indices(mask_yx.shape)
  best = np.full(mask_yx.shape, np.inf)
  for v, u in np.argwhere(mask_yx):
    rows, columns = slice(max(v - 12, 0), v + 13), slice(max(u - 12, 0), u + 13)
    squared = (y[rows, columns] - v) ** 2 + (x[rows, columns] - u) ** 2
    best[rows, columns] = np.minimum(best[rows, columns], squared)
  return best


def test_inter_expert_miou_is_the_mean_over_pairs_of_pooled_scores():
  _, votes = simulate(8, shape=(3, 40, 40))
  votes[0, 0] = votes[2, 1] = 255
  expected = []
  for one, other in itertools.combinations(votes, 2):
    both = (one != 255) & (other != 255)
    iou = [np.sum(both & (one == k) & (other == k))
           / np.sum(both & ((one == k) | (other == k))) for k in (0, 1)]
    expected.append(np.mean(iou))
  np.testing.assert_allclose(experts.inter_expert_miou(votes), np.mean(expected))
  pair = experts.inter_expert_miou(votes[3:])
  np.testing.assert_allclose(
      pair, confusion.summarise(confusion.confusion(*votes[3:]))['miou'])
  assert experts.inter_expert_miou(votes[[1, 1]]) == 1
  assert experts.inter_expert_miou(np.full((2, 3, 3), 255, np.uint8)) is None


@pytest.mark.parametrize('function', [experts.mean_vote, experts.staple,
                                      experts.inter_expert_miou])
def test_wrong_votes_are_told(function):
  for votes, said in ((np.full((2, 3, 3), 7, np.uint8), r'codes \[7\]'),
                      (np.zeros((0, 3, 3), np.uint8), 'expert'),
                      (np.zeros(3, np.uint8), 'shape')):
    with pytest.raises(InputError, match=f'^votes: .*{said}'):
      function(votes)


def test_one_expert_has_no_agreement_and_a_band_needs_an_image():
  with pytest.raises(InputError, match='at least two'):
    experts.inter_expert_miou(np.zeros((1, 3, 3), np.uint8))
  with pytest.raises(InputError, match='band'):
    experts.staple(np.zeros((2, 9), np.uint8), band_px=10.)


def test_regions_of_one_place_become_one_with_soft_targets():
  random = np.random.default_rng(0)
  votes = random.integers(0, 2, (3, 8, 6)).astype(np.uint8)
  votes[0, 0, 0] = votes[1, 0, 0] = votes[2, 0, 0] = 255
  votes[0, 1, 1], votes[1:, 1, 1] = 255, (0, 1)
  other = random.integers(0, 2, (5, 9)).astype(np.uint8)
  regions = make_regions(('a', 'b', 'a', 'a'), [(1, 2, 3), (1, 2, 3), (1, 2, 3),
                                                (1, 2, 3)],
                         [votes[0], other, votes[1], votes[2]], ['train'] * 4)
  merged, targets = experts.merge_regions(regions, 'mean')
  assert merged.volume == ('a', 'b') and merged.split == ('train', 'train')
  mask = region_mask(merged, 0)
  assert mask[0, 0] == 255 and targets[0, 0, 0] == 0
  assert targets[0, 1, 1] == 0.5 and mask[1, 1] == 0  # a tie is pore, with its weight
  agreed = (votes != 255).all(0)
  np.testing.assert_allclose(targets[0, :8, :6][agreed], votes.mean(0)[agreed],
                             rtol=1e-6)
  np.testing.assert_array_equal(mask[agreed], (votes.sum(0) >= 2)[agreed])
  np.testing.assert_array_equal(region_mask(merged, 1), other)
  np.testing.assert_array_equal(targets[1, :5, :9], other)
  assert (merged.masks_ryx[1, 5:] == 255).all() and (targets[1, 5:] == 0).all()


def test_a_careless_expert_counts_less_with_staple():
  random = np.random.default_rng(1)
  truth = random.random((64, 64)) < 0.6
  right = [0.98, 0.98, 0.98, 0.6, 0.6, 0.6, 0.6]
  votes = [np.where(random.random(truth.shape) < p, truth, ~truth).astype(np.uint8)
           for p in right]
  regions = make_regions(('a',) * 7, [(0, 0, 0)] * 7, votes, ['train'] * 7)
  wrong = {}
  for consensus in ('mean', 'staple'):
    merged, targets = experts.merge_regions(regions, consensus)
    wrong[consensus] = (region_mask(merged, 0) != truth).mean()
    assert ((targets >= 0) & (targets <= 1)).all()
  assert wrong['staple'] < 0.7 * wrong['mean']
