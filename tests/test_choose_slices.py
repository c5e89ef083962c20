"""Pieces of the training-set study against formulas and brute force."""
import numpy as np
import pytest

from fibjax.annotation import choose_slices
from fibjax.errors import InputError
from fibjax.metrics import confusion

TEST = (47, 434, 598)


def test_the_four_trials_are_the_documents():
  assert choose_slices.choose_slices(600, 5, 'initial', TEST) == [0, 1, 2, 3, 4]
  assert choose_slices.choose_slices(600, 20, 'initial', TEST) == list(range(20))
  assert choose_slices.choose_slices(600, 5, 'distributed', TEST) == [
      0, 120, 240, 360, 480]
  twenty = choose_slices.choose_slices(600, 20, 'distributed', TEST)
  assert twenty == list(range(0, 600, 30)) and len(twenty) == 20
  # Distances to the tested slices as in §3.2.
  assert [min(abs(z - t) for z in twenty) for t in TEST] == [13, 14, 28]


@pytest.mark.parametrize('count, placement, tested, message', [
    (5, 'initial', (3,), r'slices \[3\] in training'),
    (5, 'distributed', (240,), r'slices \[240\] in training'),
    (5, 'initial', (600,), 'indices from 0 to 599'), (0, 'initial', (), '1 to 600'),
    (601, 'initial', (), '1 to 600'), (5, 'random', (), 'one of')])
def test_bad_choices_are_named(count, placement, tested, message):
  with pytest.raises(InputError, match=message):
    choose_slices.choose_slices(600, count, placement, tested)


def test_uncertain_slices_are_uncertain_apart_and_not_tested():
  uncertainty = np.zeros(100)
  uncertainty[[10, 11, 50, 80]] = 5, 4, 3, 2
  chosen = choose_slices.choose_slices(100, 4, 'uncertain', (50,), uncertainty)
  assert 10 in chosen and 80 in chosen and 11 not in chosen and 50 not in chosen
  assert min(np.diff(chosen)) >= 100 / 4 / 2
  with pytest.raises(InputError, match='so far apart'):
    choose_slices.choose_slices(4, 4, 'uncertain', (1, 2), np.ones(4))


def test_entropy_is_that_of_a_coin():
  scores = np.stack([np.full((3, 3), p) for p in (0., .5, .9)])
  expected = [0, np.log(2), -.9 * np.log(.9) - .1 * np.log(.1)]
  assert choose_slices.mean_entropy(scores) == pytest.approx(expected, abs=1e-5)


def blobs(seed, shape=(4, 96, 96)):
  from scipy import ndimage
  noise = np.random.default_rng(seed).normal(size=shape)
  return (ndimage.gaussian_filter(noise, (0, 4, 4)) > 0.05).astype(np.uint8)


def test_painted_squares_are_nearly_the_truth_and_as_many_as_asked():
  truth = blobs(0)
  masks = choose_slices.paint(truth, [0, 2], 1 / 3, seed=1)
  assert masks.shape == (2, 96, 96)
  painted = masks != 255
  assert painted.mean((1, 2)) == pytest.approx(1 / 3)
  squares = painted.reshape(2, 3, 32, 3, 32).mean((2, 4))
  assert set(squares.ravel()) == {0, 1}
  assert (masks == truth[[0, 2]])[painted].mean() > 0.75
  with pytest.raises(InputError, match='no voxel of class solid'):
    choose_slices.paint(np.zeros_like(truth), [0], 0.5, 0)


def test_correction_takes_the_largest_islands_and_leaves_boundaries():
  truth = np.zeros((1, 20, 20), np.uint8)
  truth[0, :, :5] = 1
  labels = truth.copy()
  labels[0, :, 5:7] = 1        # boundary errors, at most 2 px from the solid
  labels[0, 2, 7:10] = 1       # the largest island hangs on them
  labels[0, 2:6, 10:14] = 1    # island of 16, 19 with its bridge
  labels[0, 10:12, 10:12] = 1  # island of 4
  labels[0, 15, 15] = 1        # island of 1
  labels[0, 8, 2] = 0          # pore in the solid

  def errors_after(share):
    return int((choose_slices.correct_pore_backs(labels, truth, share) != truth).sum())
  sizes = {share: errors_after(share) for share in (0, 0.5, 0.9, 1)}
  boundary = 40 + 1
  assert sizes == {0: boundary + 24, 0.5: boundary + 5, 0.9: boundary + 1, 1: boundary}
  nothing = np.zeros_like(truth)  # a slice without solid: all of it is pore-backs
  assert not choose_slices.correct_pore_backs(labels, nothing, 1).any()
  assert (labels != truth).sum() == boundary + 24  # its input stays
  with pytest.raises(InputError, match='study.correction'):
    choose_slices.correct_pore_backs(labels, truth, 1.5)
  with pytest.raises(InputError, match='labels'):
    choose_slices.correct_pore_backs(labels[:, 1:], truth, 1)


def test_scores_of_a_slice_are_those_of_its_confusion():
  truth = blobs(1)
  scores = np.random.default_rng(2).random(truth.shape)
  found = choose_slices.score_slices(scores, truth)
  for z in range(len(truth)):
    counts = confusion.confusion(truth[z], (scores[z] > 0.5).astype(np.uint8))
    expected = confusion.summarise(counts)
    for name in ('accuracy', 'miou', 'iou_solid'):
      assert found[name][z] == pytest.approx(expected[name]), name
    assert found['porosity_error'][z] == pytest.approx(
        expected['porosity_automatic'] - expected['porosity_manual'])
    both = counts[1, 1]
    assert found['dice_solid'][z] == pytest.approx(
        2 * both / (counts[1].sum() + counts[:, 1].sum()))
    right = np.where(truth[z] == 1, scores[z], 1 - scores[z])
    assert found['loss'][z] == pytest.approx(-np.log(right).mean())
  assert found['all_pore'] == pytest.approx(1 - truth.mean((1, 2)))


def test_the_published_losses_are_over_confident():
  # A network of constant confidence 1 - e: loss = -A ln(1 - e) - (1 - A) ln e (§3.2).
  truth = np.zeros((1, 1, 1000))
  scores = np.full((1, 1, 1000), 0.012)
  scores[..., :262] = 1 - 0.012
  found = choose_slices.score_slices(scores, truth)
  assert found['accuracy'][0] == pytest.approx(0.738)
  assert found['loss'][0] == pytest.approx(1.18, abs=0.02)


def test_squares_held_out_are_out_of_training():
  labels = blobs(3, (1, 70, 64))[0]
  kept, places = choose_slices.hold_out_squares(labels, 0.5, 32, 0)
  assert len(places) == 2 and all(y % 32 == x % 32 == 0 for y, x in places)
  out = np.zeros(labels.shape, bool)
  for y, x in places:
    out[y:y + 32, x:x + 32] = True
  assert (kept[out] == 255).all() and (kept[~out] == labels[~out]).all()
  for seed in range(20):  # the first square has the place of the slice
    assert (0, 0) not in choose_slices.hold_out_squares(labels, 1., 32, seed)[1]
  with pytest.raises(InputError, match='two squares'):
    choose_slices.hold_out_squares(labels, 0.1, 64, 0)
