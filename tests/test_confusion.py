"""Confusion counts and scores against brute force and closed cases."""
import json

import numpy as np
import pytest

from fibjax.errors import InputError
from fibjax.metrics import confusion


def random_labels(rng, shape=(40, 50), unlabelled=0.2):
  label = (rng.random(shape) > 0.4).astype(np.uint8)
  label[rng.random(shape) < unlabelled] = 255
  return label, (rng.random(shape) > 0.5).astype(np.uint8)


def test_confusion_counts_every_pair_and_ignores_255():
  label, prediction = random_labels(np.random.default_rng(0))
  counts = confusion.confusion(label, prediction)
  oracle = [[np.sum((label == a) & (prediction == b)) for b in (0, 1)] for a in (0, 1)]
  assert counts.dtype == np.int64
  np.testing.assert_array_equal(counts, oracle)
  assert counts.sum() == np.sum(label != 255)


def test_predictions_under_255_have_no_say():
  label, prediction = random_labels(np.random.default_rng(1))
  other = np.where(label == 255, 77, prediction)
  np.testing.assert_array_equal(confusion.confusion(label, prediction),
                                confusion.confusion(label, other))


@pytest.mark.parametrize(('label', 'prediction', 'name'), [
    ([0, 2], [0, 1], 'label'),
    ([0, 1], [0, 255], 'prediction'),
    ([0, 1], [0, 1, 1], 'prediction'),
])
def test_confusion_names_what_is_wrong(label, prediction, name):
  with pytest.raises(InputError, match=f'^{name}'):
    confusion.confusion(np.array(label), np.array(prediction))


def test_summarise_against_sets():
  label, prediction = random_labels(np.random.default_rng(2))
  scores = confusion.summarise(confusion.confusion(label, prediction))
  valid = label != 255
  iou = []
  for k in (0, 1):
    true, said = (label == k) & valid, (prediction == k) & valid
    iou.append(np.sum(true & said) / np.sum(true | said))
  assert scores['iou_pore'] == pytest.approx(iou[0], abs=1e-12)
  assert scores['iou_solid'] == pytest.approx(iou[1], abs=1e-12)
  assert scores['miou'] == pytest.approx(np.mean(iou), abs=1e-12)
  assert scores['accuracy'] == pytest.approx(np.mean((label == prediction)[valid]))
  assert scores['porosity_manual'] == pytest.approx(np.mean(label[valid] == 0))
  assert scores['porosity_automatic'] == pytest.approx(np.mean(prediction[valid] == 0))
  assert scores['n_voxels'] == valid.sum()
  assert scores['undefined'] == []
  json.dumps(scores, allow_nan=False)


def test_class_in_neither_is_left_out_and_flagged():
  scores = confusion.summarise(np.array([[0, 0], [0, 9]]))
  assert scores['iou_pore'] is None
  assert scores['miou'] == scores['iou_solid'] == 1.0
  assert scores['undefined'] == ['iou_pore', 'miou']


def test_class_absent_from_labels_only_scores_zero():
  scores = confusion.summarise(np.array([[0, 0], [2, 6]]))
  assert scores['iou_pore'] == 0.0
  assert scores['miou'] == pytest.approx(0.375)
  assert scores['undefined'] == []


def test_no_voxels_gives_none_everywhere():
  scores = confusion.summarise(np.zeros((2, 2), np.int64))
  assert [scores[k] for k in ('miou', 'accuracy', 'porosity_manual')] == [None] * 3
  assert scores['n_voxels'] == 0
  assert 'accuracy' in scores['undefined']


def test_negative_counts_are_refused():
  with pytest.raises(InputError, match='counts'):
    confusion.summarise(np.array([[1, -1], [0, 1]]))


def test_scores_pool_voxels_and_do_not_average():
  small, large = np.array([[1, 0], [0, 1]]), np.array([[0, 50], [50, 900]])
  pooled = confusion.summarise(small + large)['miou']
  assert pooled == pytest.approx((1 / 101 + 901 / 1001) / 2)
  mean = np.mean([confusion.summarise(c)['miou'] for c in (small, large)])
  assert abs(pooled - mean) > 0.2


def test_confusion_from_published_inverts_summarise():
  counts = np.array([[210, 40], [15, 735]])
  s = confusion.summarise(counts)
  fractions = confusion.confusion_from_published(
      s['accuracy'], s['porosity_manual'], s['porosity_automatic'])
  np.testing.assert_allclose(fractions, counts / counts.sum(), atol=1e-12)
  assert confusion.summarise(fractions)['miou'] == pytest.approx(s['miou'])


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16, np.float32])
def test_best_global_threshold_is_exact(dtype):
  rng = np.random.default_rng(3)
  images, masks = [], []
  for shape in ((9, 8), (5, 11)):
    mask, _ = random_labels(rng, shape)
    image = rng.normal(60, 25, shape) + 40 * (mask == 1)
    images.append(np.clip(image, 0, 255).astype(dtype))
    masks.append(mask)
  found = confusion.best_global_threshold(images, masks)

  def miou_at(t):
    return confusion.summarise(sum(
        confusion.confusion(m, (i.astype(float) > t).astype(np.uint8))
        for i, m in zip(images, masks, strict=True)))['miou']

  values = np.unique(np.concatenate([i.ravel() for i in images])).astype(float)
  oracle = max(miou_at(t) for t in (-1.0, *values))
  assert found['miou'] == pytest.approx(oracle, abs=1e-12)
  assert miou_at(found['threshold']) == pytest.approx(found['miou'], abs=1e-12)


def test_best_global_threshold_edge_cases():
  image = np.array([[3, 3], [3, 7]], np.uint16)
  solid, pore = np.ones((2, 2), np.uint8), np.zeros((2, 2), np.uint8)
  everything = confusion.best_global_threshold([image], [solid])
  assert everything['miou'] == 1.0 and everything['threshold'] < 3
  assert confusion.best_global_threshold([image], [pore]) == {
      'threshold': 7.0, 'miou': 1.0}
  # Bright pores: the other polarity would be perfect and is not tried.
  bright = confusion.best_global_threshold([image], [(image == 3).astype(np.uint8)])
  assert bright['miou'] < 0.5
  with pytest.raises(InputError, match='no labelled voxel'):
    confusion.best_global_threshold([image], [np.full((2, 2), 255, np.uint8)])
  with pytest.raises(InputError, match='NaN'):
    confusion.best_global_threshold([np.full((2, 2), np.nan)], [solid])
