"""Training data: regions on the device and the windows that make up each batch.

Two kinds of samples share one form, windows of crop_px x crop_px labelled voxels with
the margin m their network needs:

* 'patch': single voxels (crop_px 1), class-balanced, drawn once and visited in a new
  order every epoch (the paper, §1.4). The last, partial batch is filled up with voxels
  of weight 0.
* 'dense': windows in which every labelled voxel counts (§9.4), drawn anew every epoch;
  the network must be free of padding. Class weights give pore and solid half of the
  loss each. Mixed batches have voxels of both, which losses of overlap need.

Two maps stand beside the images: targets P(solid), between 0 and 1 where experts
differ, and weights in the loss, 0 where unlabelled. The voxels and windows of the
validation set follow from config.data.seed, the order of an epoch from (seed of the
member, epoch).
"""
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fibjax.errors import InputError
from fibjax.metrics.labels import PORE, SOLID, UNLABELLED
from fibjax.models import windows
from fibjax.training import interface, mixed_batches


class DeviceRegions(NamedTuple):
  """Annotated regions of one split on the device.

  Attributes:
    context_ryxc: [r, H + 2 m, W + 2 m, n_z] images with margins.
    targets_ryx: [r, H, W] float32 P(solid), 0 where unlabelled.
    weights_ryx: [r, H, W] float32 weight in the loss, 0 where unlabelled.
  """
  context_ryxc: jax.Array
  targets_ryx: jax.Array
  weights_ryx: jax.Array


class RegionStream(NamedTuple):
  """Training regions that are made anew for every epoch.

  Attributes:
    shape_ryx: (r, H, W) of their labels; every voxel has one.
    make: epoch -> regions of that shape.
  """
  shape_ryx: tuple[int, int, int]
  make: Callable[[int], DeviceRegions]


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
  """Cuts images, targets and weights of a batch.

  Args:
    regions: on the device.
    samples: windows to cut.
    margin_px: m of the contexts.
    crop_px: side of the labelled area; 1 for single voxels.

  Returns:
    [b, s, s, n_z] images with s = crop_px + 2 m, [b, crop_px, crop_px] float32 targets
    and weights (0 where unlabelled or not valid).
  """
  side = crop_px + 2 * margin_px
  images_byxc = windows.gather_windows(regions.context_ryxc, samples.corners_b3, side)
  targets_byx, weights_byx = (
      windows.gather_labels(maps, samples.corners_b3, crop_px)
      for maps in (regions.targets_ryx, regions.weights_ryx))
  return (images_byxc.astype(jnp.float32), targets_byx,
          weights_byx * samples.valid_b[:, None, None])


def put_regions(context_ryxc, masks_ryx, balanced: bool, *, targets_ryx=None,
                border_weight: float = 0., border_sigma_px: float = 5.,
                label_smoothing_px: float = 0.) -> DeviceRegions:
  """Puts the regions of one split on the device, with weights that average to 1.

  Args:
    context_ryxc: [r, H + 2 m, W + 2 m, n_z] images.
    masks_ryx: [r, H, W] labels 0, 1, 255.
    balanced: whether pore and solid have half of the weight each.
    targets_ryx: P(solid) where experts differ; None: the labels.
    border_weight, border_sigma_px: as for `interface.border_weights`.
    label_smoothing_px: as for `interface.smooth_targets`.

  Raises:
    InputError: when a class is missing from the masks.

  Example:
    >>> import fibjax
    >>> film = fibjax.simulate_film('HPC30', (9, 96, 96), seed=0)
    >>> model = fibjax.make_model(n_xy=33, n_z=1)
    >>> image_zyx = fibjax.scale_image(film.image_zyx)
    >>> splits = []
    >>> for z in (3, 6):
    ...   mask_yx = film.truth_zyx[z, 16:64, 16:64]
    ...   regions = fibjax.make_regions('film', [(z, 16, 16)], [mask_yx])
    ...   context_ryxc = fibjax.cut_contexts(image_zyx, regions, model)
    ...   splits.append(fibjax.put_regions(context_ryxc, regions.masks_ryx,
    ...                                    balanced=True))
    >>> train, val = splits
    >>> train.targets_ryx.shape, train.context_ryxc.shape[3]
    ((1, 48, 48), 1)
  """
  counts = np.array([(masks_ryx == k).sum() for k in (PORE, SOLID)], float)
  for name, count in zip(('pore', 'solid'), counts, strict=True):
    if count == 0:
      raise InputError(f'annotated voxels of class {name}', got=0,
                       expected='both classes in the training and validation regions',
                       remedy='annotate a region with both phases or split otherwise')
  weights_ryx = (masks_ryx != UNLABELLED).astype(np.float32)
  if balanced:
    weights_ryx *= (counts.sum() / (2 * counts))[np.minimum(masks_ryx, 1)]
  if border_weight:
    weights_ryx *= np.stack([interface.border_weights(mask_yx, border_weight,
                                                      border_sigma_px)
                             for mask_yx in masks_ryx])
  if targets_ryx is None:
    targets_ryx = masks_ryx == SOLID
  if label_smoothing_px:
    targets_ryx = np.stack([
        interface.smooth_targets(targets_yx, mask_yx, label_smoothing_px)
        for targets_yx, mask_yx in zip(targets_ryx, masks_ryx, strict=True)])
  return DeviceRegions(jnp.asarray(context_ryxc),
                       jnp.asarray(targets_ryx, jnp.float32),
                       jnp.asarray(weights_ryx, jnp.float32))


def hard_labels(regions: DeviceRegions | RegionStream) -> np.ndarray:
  """Labels of regions on the device, [r, H, W] uint8: 0, 1, or 255 without weight.

  Those of a stream, which change from epoch to epoch, are all 0.
  """
  if isinstance(regions, RegionStream):
    return np.zeros(regions.shape_ryx, np.uint8)
  return np.where(np.asarray(regions.weights_ryx) > 0,
                  np.asarray(regions.targets_ryx) > 0.5, UNLABELLED).astype(np.uint8)


def _random_windows(masks_ryx, count: int, crop_px: int, seed: int) -> np.ndarray:
  """Draws windows inside the regions uniformly, [count, 3] corners.

  A window without a label is replaced by one around a labelled voxel: it would leave a
  batch without loss.
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
    labelled = np.flatnonzero(masks_ryx != UNLABELLED)
    voxels = np.unravel_index(random.choice(labelled, empty.sum()), masks_ryx.shape)
    around = np.stack(voxels, 1) - random.integers(0, (1, crop_px, crop_px),
                                                   (empty.sum(), 3))
    corners[empty] = np.clip(around, 0, np.array(high) - 1)
  return corners.astype(np.int32)


def _is_empty(masks_ryx, corners_n3, crop_px: int) -> np.ndarray:
  """Whether each window has no labelled voxel, [n]."""
  return np.array([(masks_ryx[r, y:y + crop_px, x:x + crop_px] == UNLABELLED).all()
                   for r, y, x in corners_n3])


class Plan(NamedTuple):
  """Samples of all epochs.

  Attributes:
    train_corners: (seed, epoch) -> [steps, b, 3] corners and [steps, b] whether they
      count, on the host.
    val_corners: [steps, b, 3]; val_valid: [steps, b].
    steps: training steps per epoch.
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
    seed: config.data.seed, of the voxels of 'patch' and of the validation set.
    train_masks_ryx: labels of the training regions.
    val_masks_ryx: labels of the validation regions.

  Raises:
    InputError: when a class is missing or a window does not fit the regions.
  """
  if train.sampling == 'patch':
    voxels_n3 = sample_voxels(train_masks_ryx, train.voxel_fraction, seed)
    val_n3 = sample_voxels(val_masks_ryx, train.voxel_fraction, seed + 1)
    steps, crop_px = math.ceil(len(voxels_n3) / train.batch), 1

    def corners(member_seed, epoch):
      order = np.random.default_rng((member_seed, epoch)).permutation(len(voxels_n3))
      return _batches(voxels_n3[order], train.batch)
  else:
    steps, crop_px = train.steps_per_epoch, train.crop_px
    val_n3 = _random_windows(val_masks_ryx, train.val_windows, crop_px, seed + 1)

    if train.mixed_batches:
      mixed_batches.check(train_masks_ryx, train.batch)

    def corners(member_seed, epoch):
      seed_sequence = np.random.SeedSequence((member_seed, epoch))
      drawn = _batches(_random_windows(train_masks_ryx, steps * train.batch, crop_px,
                                       seed_sequence), train.batch)
      if not train.mixed_batches:
        return drawn
      random = np.random.default_rng((member_seed, epoch, 2))
      return mixed_batches.mix(train_masks_ryx, drawn[0], crop_px, random), drawn[1]
  return Plan(corners, *_batches(val_n3, train.batch), steps, crop_px)


def window_batches(count: int, steps: int, batch: int, seed
                   ) -> tuple[np.ndarray, np.ndarray]:
  """Deals whole windows out to the steps of an epoch, each as often as any other.

  Args:
    count: number of windows.
    steps, batch: of the epoch.
    seed: of their order.

  Returns:
    [steps, b, 3] corners (r, 0, 0) and [steps, b] ones.
  """
  random = np.random.default_rng(seed)
  rounds = -(-steps * batch // count)
  order = np.concatenate([random.permutation(count) for _ in range(rounds)])
  corners = np.zeros((steps * batch, 3), np.int32)
  corners[:, 0] = order[:steps * batch]
  return (corners.reshape(steps, batch, 3),
          np.ones((steps, batch), np.float32))


def _batches(rows_n3: np.ndarray, batch: int) -> tuple[np.ndarray, np.ndarray]:
  """[n, 3] to [ceil(n / b), b, 3] and validity [.., b]; the last one is filled up."""
  missing = -len(rows_n3) % batch
  filled = np.concatenate([rows_n3, np.repeat(rows_n3[:1], missing, 0)])
  valid = np.concatenate([np.ones(len(rows_n3)), np.zeros(missing)])
  return filled.reshape(-1, batch, 3), valid.reshape(-1, batch).astype(np.float32)



def sample_voxels(masks_ryx: np.ndarray, fraction: float, seed: int) -> np.ndarray:
  """Draws a class-balanced share of the labelled voxels, without replacement.

  Per class floor(fraction N / 2) voxels, N the labelled voxels of all regions pooled
  (§1.4: 58 982 per class in the paper's training set, 19 660 in its validation set).

  Args:
    masks_ryx: [r, y, x] labels 0, 1, 255.
    fraction: share of the labelled voxels, in (0, 1].
    seed: of the draw.

  Returns:
    [2 floor(fraction N / 2), 3] int32 rows (r, y, x), classes mixed.

  Raises:
    InputError: when a class has too few voxels.
  """
  random = np.random.default_rng(seed)
  labelled = np.count_nonzero(masks_ryx != UNLABELLED)
  per_class = int(0.5 * fraction * labelled)
  if per_class < 1:
    raise InputError('config.train.voxel_fraction', got=f'{fraction} of {labelled} '
                     'labelled voxels', expected='at least one voxel of each class',
                     remedy='raise it or annotate more')
  drawn = []
  for code, name in ((PORE, 'pore'), (SOLID, 'solid')):
    candidates = np.flatnonzero(masks_ryx == code)
    if candidates.size < per_class:
      raise InputError(f'annotated voxels of class {name}', got=candidates.size,
                       expected=f'at least {per_class}',
                       remedy='annotate more of it or lower '
                       'config.train.voxel_fraction')
    drawn.append(random.choice(candidates, per_class, replace=False))
  chosen = random.permutation(np.concatenate(drawn))
  return np.stack(np.unravel_index(chosen, masks_ryx.shape), 1).astype(np.int32)
