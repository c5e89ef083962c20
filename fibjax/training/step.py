"""Training: one pure step and one pure evaluation of one member.

A member is a seed with its hyper-parameters; loop.py trains many side by side. The
images around all annotated regions live on the device. Every step cuts and augments its
samples there (sampling.py), and the host only sends their positions. Single voxels and
whole windows share the step.

All randomness of a member comes from its key(seed) folded with the step, so a resumed
run repeats an uninterrupted one bit by bit on the same kind of device.
"""
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fibjax.metrics import confusion
from fibjax.models import Dropout, Model, windows
from fibjax.models.model import replace_layers
from fibjax.training import augment, loss_expression, losses, optim, sampling
from fibjax.training.sampling import DeviceRegions, Samples

# Settings of config.train that a step takes as traced numbers, so that members may
# differ in them without another compilation.
STEP_SETTINGS = ('intensity_mean_sd', 'intensity_deviation_sd', 'l2', 'dropout_dense',
                 'dropout_spatial')


class TrainState(NamedTuple):
  """One member's state; a pytree.

  No random key is kept: key(seed) folded with the step gives it, which makes resuming
  exact.

  Attributes:
    step: int32 [], updates done.
    params: weights.
    opt_state: state of the optimiser.
    alive: bool [], false from the first loss that is not finite; from then on a step
      changes nothing.
    best: weights of the epoch with the lowest validation BCE.
    average: mean of the weights at the ends of the last epochs (SWA, Izmailov 2018).
    teacher: moving average of the weights, which labels unlabelled windows (mean
      teacher, Tarvainen & Valpola 2017, §8.2) and is what is validated and kept; None
      without one.
  """
  step: jax.Array
  params: Any
  opt_state: Any
  alive: jax.Array
  best: Any
  average: Any
  teacher: Any = None

  def fields(self) -> dict:
    """What a checkpoint holds: without a teacher it has no entry for one."""
    return {name: value for name, value in self._asdict().items() if value is not None}

  @property
  def judged(self):
    """The weights that are validated and kept."""
    return self.params if self.teacher is None else self.teacher


class Hyper(NamedTuple):
  """Hyper-parameters of a step, float32; all may be traced (§1.7).

  Attributes:
    intensity_mean_sd, intensity_deviation_sd, l2, dropout_dense, dropout_spatial: as in
      config.train.
    factors: [terms] of the loss.
  """
  intensity_mean_sd: jax.Array
  intensity_deviation_sd: jax.Array
  l2: jax.Array
  dropout_dense: jax.Array
  dropout_spatial: jax.Array
  factors: jax.Array


class StepInputs(NamedTuple):
  """Input of one step of one member, besides its state and the regions.

  Attributes:
    samples: the batch.
    seed: uint32 [] of the member.
    hyper: its hyper-parameters.
    learning_rate: of this step.
    progress: share of the training done, in [0, 1); drives the ramps of a loss.
    unlabelled: a batch of unlabelled windows, or None.
  """
  samples: Samples
  seed: jax.Array
  hyper: Hyper
  learning_rate: jax.Array
  progress: jax.Array
  unlabelled: Samples | None = None


class Unlabelled(NamedTuple):
  """How a step learns from unlabelled windows (§8.2).

  Attributes:
    weight: of their loss at the end of its ramp.
    decay: of the teacher's moving average, where there is one.
  """
  weight: float
  decay: float


class TrainData(NamedTuple):
  """Regions on the device: annotated ones, and windows without labels or None."""
  labelled: DeviceRegions
  unlabelled: DeviceRegions | None = None


class Totals(NamedTuple):
  """Sums over an evaluation: [2] BCE per class and [2, 2] counts [label, predicted]."""
  bce: jax.Array
  counts: jax.Array


def make_hyper(settings: Mapping, factors) -> Hyper:
  """Hyper-parameters of a step.

  Args:
    settings: has the values of STEP_SETTINGS, as config.train does.
    factors: [terms] of the loss.
  """
  return Hyper(**{name: np.float32(settings[name]) for name in STEP_SETTINGS},
               factors=np.asarray(factors, np.float32))


def predict(model: Model, params, images_byxc: jax.Array, crop_px: int,
            dropout: Dropout | None = None) -> jax.Array:
  """Logits [b, crop_px, crop_px] of windows with the model's margin on both sides."""
  side = model.window_px + crop_px - 1  # the network needs one pixel less at the end
  images_byxc = images_byxc[:, :side, :side]
  if crop_px > 1:
    return model.apply_dense(params, images_byxc, dropout)
  return model.apply(params, images_byxc, dropout)[:, None, None]


def augment_sample(image_yxc, label_yx, weight_yx, key, hyper: Hyper, kind: str):
  """Augments one window, its targets and its weights; kind is config.train.augment."""
  if kind != 'dihedral':
    return augment.deform(image_yxc, label_yx, weight_yx, key, kind == 'physical')
  transform_key, intensity_key = jax.random.split(key)
  transform = jax.random.randint(transform_key, (), 0, 8)
  image_yxc = augment.intensity(image_yxc, intensity_key, hyper.intensity_mean_sd,
                                hyper.intensity_deviation_sd)
  return (windows.dihedral(image_yxc, transform), windows.dihedral(label_yx, transform),
          windows.dihedral(weight_yx, transform))


def train_step(state: TrainState, inputs: StepInputs, data: TrainData, *, model: Model,
               optimizer: optim.Optimizer, loss: loss_expression.Loss, crop_px: int,
               augmentation: str = 'dihedral', unlabelled: Unlabelled | None = None):
  """Takes one step of one member, or none where loss or gradient are not finite.

  Args:
    state: before the step.
    inputs: batch, seed, hyper-parameters, learning rate, progress.
    data: training regions and unlabelled windows on the device.
    model: network.
    optimizer: update rule.
    loss: what is minimised, with the penalty on kernels.
    crop_px: labelled side of a window; 1 for single voxels.
    augmentation: as config.train.augment.
    unlabelled: how unlabelled windows enter the loss, if there are any.

  Returns:
    The new state and {'loss', 'bce', 'accuracy', 'grad_norm'}.
  """
  samples, seed, hyper, learning_rate, progress, more = inputs
  key = jax.random.fold_in(jax.random.key(seed), state.step)
  augment_key, dropout_key = jax.random.split(key)
  count = samples.valid_b.shape[0]
  batch = sampling.cut_samples(data.labelled, samples, model.before_px, crop_px)
  if more is not None:
    guessed = _guessed(state, data.unlabelled, more, model, crop_px)
    batch = jax.tree.map(lambda *parts: jnp.concatenate(parts), batch, guessed)
  keys_b = jax.random.split(augment_key, batch[0].shape[0])
  images, targets, weights = jax.vmap(
      functools.partial(augment_sample, hyper=hyper, kind=augmentation))(*batch, keys_b)
  dropout = Dropout(dropout_key, hyper.dropout_dense, hyper.dropout_spatial)

  def objective(params):
    logits_all = predict(model, params, images, crop_px, dropout)
    logits, rest = logits_all[:count], logits_all[count:]
    value, _ = loss.apply(logits, targets[:count], weights[:count], hyper.factors,
                          progress)
    value += hyper.l2 * losses.kernel_penalty(params)
    if more is not None:
      # Not divided by the weights: voxels the teacher is unsure of count less, and do
      # not make the others count more.
      value += unlabelled.weight * _ramp(progress) * jnp.mean(
          weights[count:] * losses.bce_terms(rest, targets[count:]))
    return value, report_of(value, logits)

  def report_of(value, logits):
    targets_b, weights_b = targets[:count], weights[:count]
    correct = (logits > 0) == (targets_b > 0.5)
    accuracy = jnp.sum(weights_b * correct) / jnp.maximum(jnp.sum(weights_b), 1e-9)
    return {'loss': value, 'bce': losses.bce(logits, targets_b, weights_b),
            'accuracy': accuracy}

  gradients, report = jax.grad(objective, has_aux=True)(state.params)
  report['grad_norm'] = optim.global_norm(gradients)
  params, opt_state = optimizer.update(gradients, state.opt_state, state.params,
                                       learning_rate)
  if model.update_statistics is not None:
    params = model.update_statistics(params, images, dropout)
  alive = state.alive & jnp.isfinite(report['loss'] + report['grad_norm'])
  teacher = state.teacher
  if teacher is not None:
    # At first the average is over all steps, so that it forgets the random start.
    decay = jnp.minimum(unlabelled.decay, (1. + state.step) / (10. + state.step))
    teacher = jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, teacher,
                           params)
  new = state._replace(step=state.step + 1, params=params, opt_state=opt_state,
                       teacher=teacher)
  new = jax.tree.map(functools.partial(jnp.where, alive), new, state)
  return new._replace(alive=alive), report


def _guessed(state: TrainState, regions: DeviceRegions, samples: Samples, model: Model,
             crop_px: int):
  """Images, targets and weights of unlabelled windows.

  A teacher's targets count by its confidence, (2 p - 1)^2.
  """
  images, targets, weights = sampling.cut_samples(regions, samples, model.before_px,
                                                  crop_px)
  if state.teacher is not None:
    targets = jax.nn.sigmoid(predict(model, state.teacher, images, crop_px))
    weights = weights * (2 * targets - 1) ** 2
  return images, targets, weights


def _ramp(progress):
  """From exp(-5) at the start to 1 at 30 % of the training (Laine & Aila 2017)."""
  return jnp.exp(-5 * (1 - jnp.minimum(progress / 0.3, 1.)) ** 2)


def eval_step(params, regions: DeviceRegions, samples: Samples, *, model: Model,
              crop_px: int) -> Totals:
  """Cross-entropy and confusion counts of one batch, without augmentation or dropout.

  Counted are voxels of positive weight, all alike (§1.6).
  """
  images, targets, weights = sampling.cut_samples(regions, samples, model.before_px,
                                                  crop_px)
  logits = predict(model, params, images, crop_px)
  counted, solid = (weights > 0).astype(jnp.float32), targets > 0.5
  is_class = jnp.stack([counted * ~solid, counted * solid])
  predicted = jnp.stack([logits <= 0, logits > 0]).astype(jnp.float32)
  terms = losses.bce_terms(logits, targets)
  return Totals(jnp.einsum('kbyx,byx->k', is_class, terms),
                jnp.einsum('kbyx,pbyx->kp', is_class, predicted))


def summarise(totals: Totals, balanced: bool) -> dict[str, float]:
  """Validation BCE, accuracy and mIoU; `balanced` gives both classes half the weight.

  Args:
    totals: sums over all validation samples.
    balanced: whether the voxels of each class weigh 1 / (their number).

  Returns:
    {'val_bce' in nats, 'val_accuracy', 'val_miou'}.
  """
  bce, counts = (np.asarray(part, float) for part in totals)
  sizes = counts.sum(1)
  scale = np.where(sizes > 0, 1 / np.maximum(sizes, 1), 0.) if balanced else np.ones(2)
  summary = confusion.summarise(counts * scale[:, None])
  return {'val_bce': float((bce * scale).sum() / (sizes * scale).sum()),
          'val_accuracy': summary['accuracy'], 'val_miou': summary['miou']}


def init_state(model: Model, optimizer: optim.Optimizer, seed, mean=0., deviation=1.,
               has_teacher: bool = False) -> TrainState:
  """Initial state of a seed; images will be standardised by mean and deviation."""
  # No step has this number, so initialisation shares no key with a step.
  key = jax.random.fold_in(jax.random.key(seed), 2 ** 31 - 1)
  params = model.init(key, mean, deviation)
  return TrainState(jnp.int32(0), params, optimizer.init(params), jnp.bool(True),
                    params, params, params if has_teacher else None)


def begin_with(start, state: TrainState) -> TrainState:
  """An initial state with other weights; how images are standardised stays.

  Args:
    start: params of the same network, or None: the state as it is.
    state: of `init_state`; the optimisers' states do not depend on the weights.
  """
  if start is None:
    return state
  params = replace_layers(state.params, start)
  return state._replace(params=params, best=params, average=params,
                        teacher=None if state.teacher is None else params)


def close_epoch(state: TrainState, is_best, averaged) -> TrainState:
  """Updates the best and the averaged weights after an epoch.

  Args:
    state: after the epoch.
    is_best: 1. where its weights are the best so far, else 0.
    averaged: their share in the new mean, 1 / (number of epochs in it).
  """
  best, average = (
      jax.tree.map(lambda new, old, share=share: jnp.where(
          share > 0, share * new + (1 - share) * old, old), state.judged, kept)
      for share, kept in ((is_best, state.best), (averaged, state.average)))
  return state._replace(best=best, average=average)
