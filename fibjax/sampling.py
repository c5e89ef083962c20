"""What a training sees: regions on the device, and which windows of them make a batch.

Two kinds of samples share one form, windows of crop_px x crop_px labelled voxels with
the margin m their network needs:

* 'patch': single voxels (crop_px 1), drawn once, class-balanced, walked through in a
  new order every epoch (the paper, §1.4). The last, partial batch is filled up with
  voxels of weight 0.
* 'dense': windows in which every labelled voxel counts (§9.4), drawn afresh every
  epoch; the network must be free of padding. Class weights give pore and solid half of
  the loss each.

The order of an epoch follows from (seed, epoch) alone.
"""
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fibjax import patches
from fibjax.checks import InputError


class DeviceRegions(NamedTuple):
  """Annotated regions of one split on the device.

  Attributes:
    context_ryxc: [r, H + 2 m, W + 2 m, n_z] images (patches.py).
    masks_ryx: [r, H, W] uint8 labels 0, 1, 255.
    class_weights: [2] weight of pore and of solid voxels.
  """
  context_ryxc: jax.Array
  masks_ryx: jax.Array
  class_weights: jax.Array


class Samples(NamedTuple):
  """One batch of windows, before augmentation.

  Attributes:
    corners_b3: [b, 3] int32 (r, y, x) of the first labelled voxel of each window.
    valid_b: [b] float32, 0 for samples that only fill a batch up.
  """
  corners_b3: jax.Array
  valid_b: jax.Array


def cut_samples(regions: DeviceRegions, samples: Samples, margin_px: int,
                crop_px: int):
  """Windows, labels and weights of a batch.

  Args:
    regions: on the device.
    samples: which windows.
    margin_px: m of the contexts.
    crop_px: side of the labelled area; 1 for single voxels.

  Returns:
    [b, s, s, n_z] images with s = crop_px + 2 m, [b, crop_px, crop_px] uint8
    labels and float32 weights (class weight; 0 where unlabelled or not valid).
  """
  side = crop_px + 2 * margin_px
  images_byxc = patches.gather_windows(regions.context_ryxc, samples.corners_b3, side)
  labels_byx = patches.gather_labels(regions.masks_ryx, samples.corners_b3, crop_px)
  weights_byx = jnp.where(labels_byx == 255, 0.,
                          regions.class_weights[jnp.minimum(labels_byx, 1)])
  return (images_byxc.astype(jnp.float32), labels_byx,
          weights_byx * samples.valid_b[:, None, None])


def put_regions(context_ryxc, masks_ryx, balanced: bool) -> DeviceRegions:
  """Puts one split on the device, with class weights that average to 1.

  Raises:
    InputError: when a class is missing from the masks.
  """
  counts = np.array([(masks_ryx == k).sum() for k in (0, 1)], float)
  for name, count in zip(('pore', 'solid'), counts, strict=True):
    if count == 0:
      raise InputError(f'annotated voxels of class {name}', got=0,
                       expected='both classes in the training and validation regions',
                       remedy='annotate a region with both phases or split otherwise')
  weights = counts.sum() / (2 * counts) if balanced else np.ones(2)
  return DeviceRegions(jnp.asarray(context_ryxc), jnp.asarray(masks_ryx),
                       jnp.asarray(weights, jnp.float32))


def _random_windows(masks_ryx, count: int, crop_px: int, seed: int) -> np.ndarray:
  """[count, 3] corners of windows inside the regions, uniformly.

  A window without a label is replaced by one around a labelled voxel.
  """
  regions, height, width = masks_ryx.shape
  if crop_px > min(height, width):
    raise InputError('config.train.crop_px', got=crop_px,
                     expected=f'at most the region size {height} x {width}',
                     remedy='lower it to a multiple of 16 that fits')
  random = np.random.default_rng(seed)
  high = (regions, height - crop_px + 1, width - crop_px + 1)
  corners = random.integers(0, high, (count, 3))
  empty = _is_empty(masks_ryx, corners, crop_px)
  if empty.any():
    labelled = np.flatnonzero(masks_ryx != 255)
    voxels = np.unravel_index(random.choice(labelled, empty.sum()), masks_ryx.shape)
    around = np.stack(voxels, 1) - random.integers(0, (1, crop_px, crop_px),
                                                   (empty.sum(), 3))
    corners[empty] = np.clip(around, 0, np.array(high) - 1)
  return corners.astype(np.int32)


def _is_empty(masks_ryx, corners_n3, crop_px: int) -> np.ndarray:
  """[n] whether a window has no labelled voxel."""
  return np.array([(masks_ryx[r, y:y + crop_px, x:x + crop_px] == 255).all()
                   for r, y, x in corners_n3])


class Plan(NamedTuple):
  """What an epoch walks through.

  Attributes:
    train_corners: epoch -> [steps, b, 3] and [steps, b] valid, both on the host.
    val_corners: [steps, b, 3]; val_valid: [steps, b].
    steps: per epoch.
    crop_px: labelled side of a window.
  """
  train_corners: Callable
  val_corners: np.ndarray
  val_valid: np.ndarray
  steps: int
  crop_px: int


def make_plan(train, seed: int, train_masks_ryx, val_masks_ryx) -> Plan:
  """Chooses the samples of all epochs.

  Args:
    train: config.train.
    seed: of the draws.
    train_masks_ryx: labels of the training regions.
    val_masks_ryx: labels of the validation regions.

  Raises:
    InputError: when a class is missing or a window does not fit the regions.
  """
  if train.sampling == 'patch':
    voxels_n3 = patches.sample_voxels(train_masks_ryx, train.voxel_fraction, seed)
    val_n3 = patches.sample_voxels(val_masks_ryx, train.voxel_fraction, seed + 1)
    steps, crop_px = math.ceil(len(voxels_n3) / train.batch), 1

    def corners(epoch):
      order = np.random.default_rng((seed, epoch)).permutation(len(voxels_n3))
      return _batches(voxels_n3[order], train.batch)
  else:
    steps, crop_px = train.steps_per_epoch, train.crop_px
    val_n3 = _random_windows(val_masks_ryx, train.val_windows, crop_px, seed + 1)

    def corners(epoch):
      seed_sequence = np.random.SeedSequence((seed, epoch))
      return _batches(_random_windows(train_masks_ryx, steps * train.batch, crop_px,
                                      seed_sequence), train.batch)
  return Plan(corners, *_batches(val_n3, train.batch), steps, crop_px)


def _batches(rows_n3: np.ndarray, batch: int) -> tuple[np.ndarray, np.ndarray]:
  """[n, 3] -> [ceil(n / b), b, 3] and [.., b] validity; the last one is filled up."""
  missing = -len(rows_n3) % batch
  filled = np.concatenate([rows_n3, np.repeat(rows_n3[:1], missing, 0)])
  valid = np.concatenate([np.ones(len(rows_n3)), np.zeros(missing)])
  return filled.reshape(-1, batch, 3), valid.reshape(-1, batch).astype(np.float32)
