"""Paired comparison against brute force on the images, and against a closed formula."""
import numpy as np
import pytest
from scipy import stats

from fibjax.errors import InputError
from fibjax.metrics import calibration, comparison, confusion

VOLUMES = ('a',) * 5 + ('b',) * 4


def images(seed, sharpness=2.):
  random = np.random.default_rng(seed)
  masks = [random.integers(0, 2, (7 + r % 3, 9)).astype(np.uint8) for r in range(9)]
  for mask in masks:
    mask[random.random(mask.shape) < 0.1] = 255
  logits = [sharpness * (2. * (mask == 1) - 1) + random.normal(0, 2, mask.shape)
            for mask in masks]
  return masks, [1 / (1 + np.exp(-logit)) for logit in logits]


def count(masks, scores, volumes=VOLUMES):
  labels = [(score > 0.5).astype(np.uint8) for score in scores]
  pairs = list(zip(masks, labels, strict=True))
  bins = comparison.count_bins(scores, masks, 5)
  return comparison.Counts(
      volumes, np.stack([confusion.confusion(*pair) for pair in pairs]),
      np.stack([confusion.boundary_counts(*pair) for pair in pairs]), bins, bins,
      np.stack([[confusion.confusion(*(part[:, half] for part in pair))
                 for half in (slice(4), slice(4, None))] for pair in pairs]))


def test_scores_are_those_of_the_images():
  masks, scores = images(0)
  found = comparison.scores_of(count(masks, scores))
  labels = [(score > 0.5).astype(np.uint8) for score in scores]
  flat = [np.concatenate([part.ravel() for part in parts])
          for parts in (masks, labels, scores)]
  expected = confusion.summarise(confusion.confusion(*flat[:2]))
  assert found['miou'][0] == pytest.approx(expected['miou'])
  assert found['accuracy'][0] == pytest.approx(expected['accuracy'])
  errors = []
  for name in 'ab':
    kept = [np.concatenate([part[mask != 255] for part, mask, v in
                            zip(parts, masks, VOLUMES, strict=True) if v == name])
            for parts in (masks, labels)]
    errors.append((kept[1] == 0).mean() - (kept[0] == 0).mean())
  assert found['porosity_error'][0] == pytest.approx(np.mean(np.abs(errors)))
  assert found['porosity_bias'][0] == pytest.approx(np.mean(errors))
  table = calibration.reliability(flat[2], flat[0], 5)
  assert found['ece'][0] == pytest.approx(calibration.ece(table))


def test_weights_repeat_regions():
  masks, scores = images(1)
  weights = np.array([2, 0, 1, 1, 1, 3, 0, 1, 0])
  at = np.repeat(np.arange(9), weights)
  counts = count(masks, scores)
  again = comparison.Counts(tuple(VOLUMES[r] for r in at),
                            *(part[at] for part in counts[1:]))
  found = comparison.scores_of(counts, weights[None])
  for name, value in comparison.scores_of(again).items():
    assert found[name][0] == pytest.approx(value[0]), name


def test_resamples_keep_the_share_of_volumes():
  weights = comparison.resample(VOLUMES, 0, 500)
  assert (weights[:, :5].sum(1) == 5).all() and (weights[:, 5:].sum(1) == 4).all()
  assert weights.mean(0) == pytest.approx(np.ones(9), abs=0.15)


def test_an_interval_is_the_one_of_a_paired_mean():
  regions, side = 150, 12
  random = np.random.default_rng(2)
  masks = [random.integers(0, 2, (side, side)).astype(np.uint8) for _ in range(regions)]
  networks = []
  for error in (0.1, 0.2):
    wrong = [random.random((side, side)) < error * random.uniform(0, 2)
             for _ in masks]
    scores = [0.2 + 0.6 * ((mask == 1) ^ flip)
              for mask, flip in zip(masks, wrong, strict=True)]
    networks.append(count(masks, scores, ('a',) * regions))
  ours, theirs = networks
  found = comparison.compare([ours], [theirs], 0)['accuracy']
  accuracy = [np.trace(n.confusion_rij, axis1=1, axis2=2) / side ** 2 for n in networks]
  difference_r = accuracy[0] - accuracy[1]
  spread = 1.96 * difference_r.std() / regions ** 0.5
  assert found.difference == pytest.approx(difference_r.mean())
  assert found.low == pytest.approx(found.difference - spread, abs=0.06 * spread)
  assert found.high == pytest.approx(found.difference + spread, abs=0.06 * spread)


def test_a_network_does_not_differ_from_itself():
  counts = [count(*images(seed)) for seed in (3, 4)]
  for interval in comparison.compare(counts, counts, 0, 100).values():
    assert interval == (0, 0, 0)


def test_seeds_widen_the_interval():
  better, same, other = (count(*images(5, sharp)) for sharp in (3., 2., 1.))
  one = comparison.compare([better, better], [same, same], 0)['miou']
  two = comparison.compare([better, same], [same, other], 0)['miou']
  lone = comparison.compare([same, same], [other, other], 0)['miou']
  assert two.difference == pytest.approx((one.difference + lone.difference) / 2)
  assert two.high - two.low > max(i.high - i.low for i in (one, lone)) * 0.8


def test_what_cannot_be_compared_is_named():
  counts = count(*images(6))
  for pair in (([], []), ([counts], []),
               ([counts], [counts._replace(volume_r=('c',) * 9)])):
    with pytest.raises(InputError, match='networks to compare'):
      comparison.compare(*pair, 0)


def interface(image, valid):
  """Voxels with a neighbour of the other phase, one at a time."""
  found = set()
  for y, x in np.ndindex(*image.shape):
    for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0)):
      v, u = y + dy, x + dx
      if (0 <= v < image.shape[0] and 0 <= u < image.shape[1] and valid[y, x]
          and valid[v, u] and image[y, x] != image[v, u]):
        found.add((y, x))
  return found


@pytest.mark.parametrize('tolerance', [0., 1., 2.5])
def test_interfaces_are_matched_one_by_one(tolerance):
  random = np.random.default_rng(7)
  label, prediction = (random.integers(0, 2, (11, 13)).astype(np.uint8) for _ in '12')
  label[random.random(label.shape) < 0.2] = 255
  prediction[:, :6] = label[:, :6] == 1
  mine, other = (interface(image, label != 255) for image in (prediction, label))

  def matched(these, those):
    return sum(any((a - c) ** 2 + (b - d) ** 2 <= tolerance ** 2 for c, d in those)
               for a, b in these)

  expected = [matched(mine, other), len(mine), matched(other, mine), len(other)]
  found = confusion.boundary_counts(label, prediction, tolerance)
  assert found.tolist() == expected and found[0] > 0
  precision, recall = found[0] / found[1], found[2] / found[3]
  assert confusion.boundary_f1(found) == pytest.approx(
      2 * precision * recall / (precision + recall))


def test_a_shift_within_the_tolerance_is_none():
  label = np.zeros((20, 20), np.uint8)
  label[:, 10:] = 1
  for shift, expected in ((0, 1.), (2, 1.), (3, .5), (4, 0.)):
    shifted = np.zeros_like(label)
    shifted[:, 10 + shift:] = 1
    counts = confusion.boundary_counts(label, shifted)
    assert confusion.boundary_f1(counts) == pytest.approx(expected)


def test_one_phase_has_no_interface():
  one, two = np.zeros((4, 4), np.uint8), np.eye(4, dtype=np.uint8)
  assert confusion.boundary_f1(confusion.boundary_counts(one, one)) == 1
  assert confusion.boundary_f1(confusion.boundary_counts(one, two)) == 0
  assert confusion.boundary_f1(confusion.boundary_counts(two, one)) == 0


def test_the_worst_windows_are_those_of_a_sorted_list():
  masks, scores = images(4)
  counts = count(masks, scores)
  weights = np.array([[1] * 9, [2, 0, 1, 1, 1, 3, 0, 1, 0]])
  found = comparison.worst_miou(counts.windows_rwij, weights)
  for repeats, value in zip(weights, found, strict=True):
    mious = np.sort([confusion.summarise(window)['miou']
                     for r, times in enumerate(repeats) for _ in range(times)
                     for window in counts.windows_rwij[r]])
    share = comparison.WORST_SHARE * len(mious)  # 0.9 of 18 windows
    whole = int(share)
    expected = (mious[:whole].sum() + (share - whole) * mious[whole]) / share
    assert value == pytest.approx(expected)
  assert comparison.scores_of(counts)['worst_miou'][0] == pytest.approx(found[0])
  padded = np.pad(counts.windows_rwij, [(0, 0), (0, 3), (0, 0), (0, 0)])
  assert comparison.worst_miou(padded, weights) == pytest.approx(found)


def test_a_window_of_one_phase_counts_that_phase_alone():
  pure = np.array([[[[50, 0], [0, 0]]], [[[40, 10], [0, 0]]]])
  ones = np.ones((1, 2))
  assert comparison.worst_miou(pure, ones)[0] == pytest.approx(0.4)  # (0.8 + 0) / 2
  assert comparison.worst_miou(pure[:1], ones[:, :1])[0] == 1


def test_a_paired_interval_is_that_of_the_t_test():
  random = np.random.default_rng(5)
  ours, theirs = random.normal(size=(2, 8))
  found = comparison.paired_interval(ours, theirs)
  test = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
  assert found == pytest.approx((np.mean(ours - theirs), test.low, test.high))
  single = comparison.paired_interval([0.3], [0.1])
  assert single.difference == pytest.approx(0.2) and np.isnan(single.low)
