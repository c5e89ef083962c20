"""Distances to the interface, border weights and smoothed targets."""
import itertools

import numpy as np
import pytest

from fibjax.errors import InputError
from fibjax.training import interface, sampling


def test_border_weights_follow_the_distance_to_a_straight_interface():
  mask = np.zeros((5, 20), np.uint8)
  mask[:, 8:] = 1
  distance = np.abs(np.arange(20) - 7.5)
  for amount, sigma in ((3., 2.), (10., 5.), (-0.9, 1.)):
    row = 1 + amount * np.exp(-distance ** 2 / (2 * sigma ** 2))
    weights = interface.border_weights(mask, amount, sigma)
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights, np.tile(row / row.mean(), (5, 1)), rtol=1e-6)
  np.testing.assert_array_equal(interface.border_weights(mask, 0., 5.), 1)


def test_border_weights_equal_brute_force_over_the_faces():
  random = np.random.default_rng(17)
  mask = random.choice([0, 1, 255], (9, 11), p=[0.4, 0.3, 0.3]).astype(np.uint8)
  mask[:, 4:7] = 0  # leaves voxels farther than the nearest face
  faces = {0: [], 1: []}
  for (y, x), (dy, dx) in itertools.product(np.ndindex(mask.shape),
                                            ((0, 1), (1, 0), (0, -1), (-1, 0))):
    inside = 0 <= y + dy < 9 and 0 <= x + dx < 11
    if inside and {mask[y, x], mask[y + dy, x + dx]} == {0, 1}:
      faces[mask[y, x]].append((y, x))
  expected = np.zeros(mask.shape)
  for y, x in np.argwhere(mask != 255):
    d = min(np.hypot(y - v, x - u) for v, u in faces[1 - mask[y, x]]) - 0.5
    expected[y, x] = 1 + 3 * np.exp(-d ** 2 / (2 * 2. ** 2))
  expected /= expected[mask != 255].mean()
  np.testing.assert_allclose(interface.border_weights(mask, 3., 2.), expected,
                             rtol=1e-5)


def test_unlabelled_areas_are_no_interface():
  mask = np.zeros((6, 12), np.uint8)
  mask[:, 4:7] = 255
  np.testing.assert_array_equal(interface.border_weights(mask, 10., 5.), mask == 0)
  mask[:, 7:] = 1  # the phases do not touch: nobody knows where the interface is
  np.testing.assert_array_equal(interface.border_weights(mask, 10., 5.), mask != 255)
  mask[:, 10:] = 0  # the only interface: the first columns count from there
  distance = np.array([8.5, 7.5, 6.5, 5.5, 0, 0, 0, 2.5, 1.5, 0.5, 0.5, 1.5])
  row = np.where(mask[0] != 255, 1 + 3 * np.exp(-distance ** 2 / 50), 0)
  np.testing.assert_allclose(interface.border_weights(mask, 3., 5.)[0],
                             row / row.sum() * 9, rtol=1e-6)
  mask[:] = 255
  np.testing.assert_array_equal(interface.border_weights(mask, 10., 5.), 0)


def test_border_weights_tell_wrong_settings():
  mask = np.zeros((4, 4), np.uint8)
  for amount, sigma, name in ((-1., 5., 'amount'), (np.nan, 5., 'amount'),
                              (3., 0., 'sigma'), (3., np.inf, 'sigma')):
    with pytest.raises(InputError, match=name):
      interface.border_weights(mask, amount, sigma)


def straight(width=20, at=8):
  mask = np.zeros((5, width), np.uint8)
  mask[:, at:] = 1
  return mask


def test_smoothed_targets_are_a_ramp_across_a_straight_interface():
  mask, position = straight(), np.arange(20) - 7.5
  for width in (0.5, 1., 3., 6.):
    found = interface.smooth_targets(mask == 1, mask, width)
    expected = np.clip(0.5 + position / (2 * width), 0, 1)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.tile(expected, (5, 1)), rtol=1e-6)


def test_smoothing_turns_with_the_mask_and_swaps_with_the_phases():
  random = np.random.default_rng(3)
  mask = random.choice([0, 1, 255], (12, 12), p=[0.5, 0.3, 0.2]).astype(np.uint8)
  found = interface.smooth_targets(mask == 1, mask, 2.5)
  turned = interface.smooth_targets(np.rot90(mask == 1), np.rot90(mask), 2.5)
  np.testing.assert_array_equal(turned, np.rot90(found))
  other = np.where(mask == 255, 255, 1 - mask.astype(int)).astype(np.uint8)
  swapped = interface.smooth_targets(other == 1, other, 2.5)
  labelled = mask != 255
  np.testing.assert_allclose(swapped[labelled], 1 - found[labelled], atol=1e-6)
  np.testing.assert_array_equal(found[labelled] > 0.5, mask[labelled] == 1)
  assert np.all(found[~labelled] == 0)


def test_nothing_is_smoothed_far_from_an_interface_by_0_px_or_without_one():
  mask = straight()
  np.testing.assert_array_equal(interface.smooth_targets(mask == 1, mask, 0.), mask)
  found = interface.smooth_targets(mask == 1, mask, 4.)
  far = np.abs(np.arange(20) - 7.5) >= 4
  np.testing.assert_array_equal(found[:, far], mask[:, far])
  pore = np.zeros_like(mask)
  np.testing.assert_array_equal(interface.smooth_targets(pore, pore, 4.), 0)


def test_targets_of_experts_are_drawn_to_one_half_as_well():
  mask = straight()
  votes = np.where(mask == 1, 0.8, 0.3)
  found = interface.smooth_targets(votes, mask, 2.)
  np.testing.assert_allclose(found[0, 6:10], [0.5 - 0.2 * 0.75, 0.5 - 0.2 * 0.25,
                                              0.5 + 0.3 * 0.25, 0.5 + 0.3 * 0.75],
                             rtol=1e-6)


def test_smoothing_tells_wrong_settings():
  mask = straight()
  for width in (-1., np.nan, np.inf):
    with pytest.raises(InputError, match='width_px'):
      interface.smooth_targets(mask == 1, mask, width)
  with pytest.raises(InputError, match='targets'):
    interface.smooth_targets(mask[:3], mask, 1.)


def test_regions_take_smoothed_targets_and_keep_their_labels():
  masks = np.stack([straight(), straight(at=12)])
  context = np.zeros((2, 5, 20, 1), np.float32)
  plain = sampling.put_regions(context, masks, True)
  smooth = sampling.put_regions(context, masks, True, label_smoothing_px=2.)
  np.testing.assert_allclose(smooth.targets_ryx[1], interface.smooth_targets(
      masks[1] == 1, masks[1], 2.))
  np.testing.assert_array_equal(smooth.weights_ryx, plain.weights_ryx)
  np.testing.assert_array_equal(sampling.hard_labels(smooth), masks)
