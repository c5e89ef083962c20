"""Batches with both phases: what is replaced, what stays, what cannot be."""
import numpy as np
import pytest

from fibjax.config import base, check_section, load, validate
from fibjax.errors import InputError
from fibjax.training import mixed_batches, sampling
from tests.helpers import ROOT

CROP = 16


def rare_pores():
  """Regions of solid; a small pore in one of them, unlabelled voxels in another."""
  masks = np.ones((8, 48, 40), np.uint8)
  masks[3, 20:23, 11:15] = 0
  masks[5, :, 30:] = 255
  return masks


def plan_of(masks, **changes):
  settings = check_section('train', {'crop_px': CROP, 'steps_per_epoch': 20,
                                     'val_windows': 2} | changes)
  return sampling.make_plan(settings, 0, masks, masks)


def phases_of(masks, corners_b3):
  windows = [masks[r, y:y + CROP, x:x + CROP] for r, y, x in corners_b3]
  assert all(window.shape == (CROP, CROP) for window in windows)
  return {code for window in windows for code in (0, 1) if (window == code).any()}


@pytest.mark.parametrize('batch', [1, 2, 3])
@pytest.mark.parametrize('swapped', [False, True])
def test_every_batch_has_both_phases(batch, swapped):
  masks = rare_pores()
  if swapped:
    masks = np.where(masks == 255, 255, 1 - masks.astype(int)).astype(np.uint8)
  plan = plan_of(masks, mixed_batches=True, batch=batch)
  plain = plan_of(masks, batch=batch)
  unmixed = 0
  for epoch in range(5):
    corners_sb3, valid_sb = plan.train_corners(7, epoch)
    assert corners_sb3.dtype == np.int32 and valid_sb.all()
    before_sb3, _ = plain.train_corners(7, epoch)
    for step in range(20):
      assert phases_of(masks, corners_sb3[step]) == {0, 1}
      was_mixed = phases_of(masks, before_sb3[step]) == {0, 1}
      changed = (corners_sb3[step] != before_sb3[step]).any(1)
      # What has both phases stays; elsewhere at most the last window is another one.
      assert not changed[:-1].any() and not (was_mixed and changed[-1])
      unmixed += not was_mixed
  assert unmixed > 50  # there was something to do
  again, _ = plan.train_corners(7, 4)
  np.testing.assert_array_equal(again, corners_sb3)


@pytest.mark.parametrize('place', [(0, 0), (0, 39), (47, 0), (47, 39)])
def test_a_pore_in_a_corner_is_reached_by_single_windows(place):
  masks = np.ones((1, 48, 40), np.uint8)
  masks[0][place] = 0
  corners_sb3, _ = plan_of(masks, mixed_batches=True, batch=1).train_corners(0, 0)
  assert all(phases_of(masks, corners_b3) == {0, 1} for corners_b3 in corners_sb3)


def test_places_of_the_missing_phase_are_drawn_alike():
  masks = np.ones((1, 48, 40), np.uint8)
  masks[0, 8, 8] = masks[0, 30, 25] = 0
  corners = np.tile(np.array([0, 0, 24]), (1000, 2, 1))
  found = mixed_batches.mix(masks, corners, CROP, np.random.default_rng(0))
  upper = np.mean([masks[0, 8, 8] == 0 and y <= 8 < y + CROP and x <= 8 < x + CROP
                   for _, y, x in found[:, 1]])
  assert 0.45 < upper < 0.55


def test_batches_that_cannot_hold_both_phases_are_told():
  apart = np.stack([np.zeros((48, 40), np.uint8), np.ones((48, 40), np.uint8)])
  assert plan_of(apart, mixed_batches=True, batch=2)
  for masks, batch, said in ((apart, 1, 'raise config.train.batch'),
                             (apart[:1], 2, 'annotate the other phase')):
    with pytest.raises(InputError, match='mixed_batches.*' + said) as error:
      plan_of(masks, mixed_batches=True, batch=batch)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('changes', [{'films': 2}, {'sampling': 'patch'}])
def test_only_windows_of_regions_are_mixed(changes):
  config = base()
  config.train.update(mixed_batches=True, **changes)
  with pytest.raises(InputError, match='train.mixed_batches'):
    validate(config)


def test_a_run_reads_the_settings():
  config = load(f'{ROOT}/configs/demo.py:tiny',
                ('train.mixed_batches=True', 'train.label_smoothing_px=2'))
  assert config.train.mixed_batches and config.train.label_smoothing_px == 2.0
  with pytest.raises(InputError, match='label_smoothing_px'):
    load(f'{ROOT}/configs/demo.py:tiny', ('train.label_smoothing_px=-1',))
