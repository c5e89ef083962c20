"""The expert model: exact without errors, and every error of the stated size."""
import numpy as np
import pytest
from scipy import ndimage

from fibjax.errors import InputError
from fibjax.simulation.annotator import (
  Annotator,
  annotate,
  annotate_stack,
  signed_distance,
)

EXACT = Annotator(boundary_sd_px=0.0, omission=0.0)
BLOBS = (ndimage.gaussian_filter(
    np.random.default_rng(0).standard_normal((128, 128)), 5) > 0).astype(np.uint8)


def disc_pore(radius, size=101):
  """A round pore in solid."""
  return (np.hypot(*(np.indices((size, size)) - size // 2)) > radius).astype(np.uint8)


def test_signed_distance_of_a_straight_edge():
  truth = np.zeros((3, 8), np.uint8)
  truth[:, 4:] = 1
  np.testing.assert_allclose(signed_distance(truth)[1],
                             [-3.5, -2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5])


def test_an_expert_without_errors_draws_the_truth():
  before = BLOBS.copy()
  mask = annotate(BLOBS, 1, EXACT)
  np.testing.assert_array_equal(mask, BLOBS)
  assert mask.dtype == np.uint8 and mask is not BLOBS
  annotate(BLOBS, 1)
  np.testing.assert_array_equal(BLOBS, before)


@pytest.mark.parametrize('phase', [0, 1])
def test_a_single_phase_stays(phase):
  truth = np.full((20, 20), phase, np.uint8)
  np.testing.assert_array_equal(annotate(truth, 0, Annotator(bias_px=1.0)), truth)


@pytest.mark.parametrize('bias', [-3.0, 3.0])
def test_bias_moves_the_boundary(bias):
  mask = annotate(disc_pore(30), 0, Annotator(0.0, 30.0, bias, omission=0.0))
  radius = np.sqrt((mask == 0).sum() / np.pi)
  assert radius == pytest.approx(30 - bias, abs=0.5)


def test_the_boundary_wanders_by_its_sd_and_length():
  truth = np.zeros((3000, 41), np.uint8)
  truth[:, 20:] = 1
  position = annotate(truth, 2, Annotator(2.0, 30.0, omission=0.0)).argmax(1) - 20.0
  assert position.std() == pytest.approx(2.0, rel=0.25)
  assert position.mean() == pytest.approx(0, abs=0.8)
  pair = np.mean(position[30:] * position[:-30]) / position.var()
  assert pair == pytest.approx(np.exp(-0.5), abs=0.2)


def test_small_pores_are_omitted_at_random_and_large_ones_never():
  truth = np.ones((400, 400), np.uint8)
  truth[5::20, 5::20] = 0
  for dy, dx in ((0, 1), (1, 0), (1, 1)):
    truth[5 + dy::20, 5 + dx::20] = 0     # 400 pores of 4 px
  truth[0:2, :] = 1
  large = truth.copy()
  large[:40] = 1
  large[2:36, 2:300] = 0
  mask = annotate(large, 3, Annotator(0.0, 30.0, 0.0, 60.0, 0.5))
  assert not mask[2:36, 2:300].any()
  pores = ndimage.label(truth == 0)[1]
  kept = ndimage.label(annotate(truth, 3, Annotator(0.0, 30.0, 0.0, 60.0, 0.5)) == 0)[1]
  assert pores == 400
  assert abs(kept - 200) < 4 * 10
  everyone = annotate(truth, 3, Annotator(0.0, 30.0, 0.0, 4.0, 1.0))
  np.testing.assert_array_equal(everyone, truth)  # 4 px is not smaller than 4


def test_bright_pore_backs_are_confused_and_dark_pores_are_not():
  truth = np.ones((200, 200), np.uint8)
  for y in range(10, 200, 20):
    for x in range(10, 200, 20):
      truth[y - 5:y + 5, x - 5:x + 5] = 0
  image = np.where(truth == 1, 30000, 5000).astype(np.uint16)
  image[:, :100] = 29000                       # left half: backs as bright as solid
  expert = Annotator(0.0, 30.0, 0.0, omission=0.0, confusion=0.3)
  mask = annotate(truth, 5, expert, image)
  np.testing.assert_array_equal(mask[:, 100:], truth[:, 100:])
  left = ndimage.label(mask[:, :100] == 0)[1]
  assert abs(left - 35) < 4 * np.sqrt(50 * 0.21)
  assert left < 50
  with pytest.raises(InputError, match='image_yx'):
    annotate(truth, 5, expert)


def test_reproducible_by_seed_and_slice():
  stack = np.stack([BLOBS, BLOBS])
  first, again = annotate_stack(stack, 9), annotate_stack(stack, 9)
  np.testing.assert_array_equal(first, again)
  assert (first[0] != first[1]).any()
  assert (annotate_stack(stack, 10)[0] != first[0]).any()
  disagree = np.mean(first[0] != BLOBS)
  assert 0.02 < disagree < 0.25


def test_other_codes_are_refused():
  with pytest.raises(InputError, match='truth_yx'):
    annotate(np.full((4, 4), 255, np.uint8), 0)
  with pytest.raises(InputError, match='truth_yx'):
    annotate(np.zeros((2, 4, 4), np.uint8), 0)
