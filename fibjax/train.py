"""Training: one pure step, one pure evaluation, one loop.

The images around all annotated regions live on the device; every step cuts, augments
and uses its samples there (sampling.py), so the host only counts. Single voxels and
whole windows share the step.

All randomness comes from key(seed) folded with the epoch or the step, so a resumed run
repeats an uninterrupted one bit by bit on the same kind of device.
"""
import csv
import functools
import math
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tensorboardX import SummaryWriter

from fibjax import (
  augment,
  checkpoint,
  losses,
  metrics,
  optim,
  progress,
  sampling,
  workdir,
)
from fibjax.checks import InputError
from fibjax.models import Dropout, Model
from fibjax.sampling import DeviceRegions, Samples
from fibjax.state import TrainState

FIELDS = ('epoch', 'lr', 'train_loss', 'train_bce', 'train_accuracy', 'val_bce',
          'val_accuracy', 'val_miou', 'grad_norm', 'seconds')


class Hyper(NamedTuple):
  """Continuous hyper-parameters of a step; all may be traced (§1.7)."""
  intensity_mean_sd: jax.Array
  intensity_deviation_sd: jax.Array
  l2: jax.Array
  dropout_dense: jax.Array
  dropout_spatial: jax.Array


class Totals(NamedTuple):
  """Sums over an evaluation: [2] BCE per class and [2, 2] counts [label, predicted]."""
  bce: jax.Array
  counts: jax.Array


def predict(model: Model, params, images_byxc: jax.Array, crop_px: int,
            dropout: Dropout | None = None) -> jax.Array:
  """Logits [b, crop_px, crop_px] of windows with the margin on both sides."""
  side = model.window_px + crop_px - 1  # the network needs one pixel less at the end
  images_byxc = images_byxc[:, :side, :side]
  if crop_px > 1:
    return model.apply_dense(params, images_byxc, dropout)
  return model.apply(params, images_byxc, dropout)[:, None, None]


def augment_sample(image_yxc, label_yx, weight_yx, key, hyper: Hyper):
  """Applies the paper's two augmentations to one window and its labels (§1.6)."""
  transform_key, intensity_key = jax.random.split(key)
  transform = jax.random.randint(transform_key, (), 0, 8)
  image_yxc = augment.intensity(image_yxc, intensity_key, hyper.intensity_mean_sd,
                                hyper.intensity_deviation_sd)
  return (augment.dihedral(image_yxc, transform), augment.dihedral(label_yx, transform),
          augment.dihedral(weight_yx, transform))


def train_step(state: TrainState, regions: DeviceRegions, samples: Samples,
               hyper: Hyper, learning_rate, key, *, model: Model,
               optimizer: optim.Optimizer, crop_px: int):
  """One update.

  Args:
    state: before the step.
    regions: training regions on the device.
    samples: the batch.
    hyper: continuous hyper-parameters.
    learning_rate: of this step.
    key: the run's typed key; folded with the step here.
    model: network.
    optimizer: update rule.
    crop_px: labelled side of a window; 1 for single voxels.

  Returns:
    The new state and {'loss', 'bce', 'accuracy', 'grad_norm'}.
  """
  augment_key, dropout_key = jax.random.split(jax.random.fold_in(key, state.step))
  batch = sampling.cut_samples(regions, samples, model.before_px, crop_px)
  keys_b = jax.random.split(augment_key, samples.valid_b.shape[0])
  images, labels, weights = jax.vmap(augment_sample, (0, 0, 0, 0, None))(
      *batch, keys_b, hyper)
  dropout = Dropout(dropout_key, hyper.dropout_dense, hyper.dropout_spatial)

  def objective(params):
    logits = predict(model, params, images, crop_px, dropout)
    bce = losses.bce(logits, labels, weights)
    loss = bce + hyper.l2 * losses.kernel_penalty(params)
    correct = (logits > 0) == (labels == 1)
    accuracy = jnp.sum(weights * correct) / jnp.maximum(jnp.sum(weights), 1e-9)
    return loss, {'loss': loss, 'bce': bce, 'accuracy': accuracy}

  gradients, report = jax.grad(objective, has_aux=True)(state.params)
  report['grad_norm'] = optim.global_norm(gradients)
  params, opt_state = optimizer.update(gradients, state.opt_state, state.params,
                                       learning_rate)
  return TrainState(state.step + 1, params, opt_state), report


def eval_step(params, regions: DeviceRegions, samples: Samples, *, model: Model,
              crop_px: int) -> Totals:
  """Sums of one batch without augmentation or dropout (§1.6)."""
  images, labels, weights = sampling.cut_samples(regions, samples, model.before_px,
                                                 crop_px)
  logits = predict(model, params, images, crop_px)
  counted = (weights > 0).astype(jnp.float32)
  is_class = jnp.stack([counted * (labels == k) for k in (0, 1)])
  predicted = jnp.stack([logits <= 0, logits > 0]).astype(jnp.float32)
  terms = losses.bce_terms(logits, labels)
  return Totals(jnp.einsum('kbyx,byx->k', is_class, terms),
                jnp.einsum('kbyx,pbyx->kp', is_class, predicted))


def summarise(totals: Totals, balanced: bool) -> dict[str, float]:
  """Validation BCE, accuracy and mIoU; `balanced` weighs both classes alike."""
  bce, counts = (np.asarray(part, float) for part in totals)
  sizes = counts.sum(1)
  scale = np.where(sizes > 0, 1 / np.maximum(sizes, 1), 0.) if balanced else np.ones(2)
  summary = metrics.summarise(counts * scale[:, None])
  return {'val_bce': float((bce * scale).sum() / (sizes * scale).sum()),
          'val_accuracy': summary['accuracy'], 'val_miou': summary['miou']}


def init_state(model: Model, optimizer: optim.Optimizer, seed: int, mean=0.,
               deviation=1.) -> TrainState:
  """Fresh weights of a seed; images will be standardised by mean and deviation."""
  key = jax.random.fold_in(jax.random.key(seed), 2 ** 31 - 1)
  params = jax.jit(model.init)(key, mean, deviation)
  return TrainState(jnp.int32(0), params, optimizer.init(params))


def train_and_evaluate(config, model: Model, train: DeviceRegions, val: DeviceRegions,
                       folder) -> dict:
  """Trains for config.train.epochs, resuming from the newest checkpoint in folder.

  Args:
    config: the whole experiment.
    model: network of config.model.
    train: training regions on the device.
    val: validation regions.
    folder: workdir; gets checkpoints/, metrics.csv and TensorBoard events.

  Returns:
    The metrics row of the best epoch (lowest validation BCE).

  Raises:
    InputError: when the loss is not finite, naming epoch and step.
  """
  folder = Path(folder)
  settings = config.train
  optimizer = optim.make_optimizer(settings.optimizer, settings.momentum)
  plan = sampling.make_plan(settings, config.seed, np.asarray(train.masks_ryx),
                            np.asarray(val.masks_ryx))
  step_fn = jax.jit(functools.partial(train_step, model=model, optimizer=optimizer,
                                      crop_px=plan.crop_px), donate_argnums=0)
  eval_fn = jax.jit(functools.partial(eval_step, model=model, crop_px=plan.crop_px))
  hyper = Hyper(*(jnp.float32(settings[name]) for name in Hyper._fields))
  key = jax.random.key(config.seed)
  moments = ((jnp.mean(train.context_ryxc), jnp.std(train.context_ryxc))
             if config.model.standardise else (0., 1.))
  state = init_state(model, optimizer, config.seed, *moments)
  with checkpoint.open_manager(folder / 'checkpoints') as manager:
    rows: list[dict] = []
    if manager.latest_step() is not None:
      state, meta = checkpoint.restore(manager, manager.latest_step(), state)
      rows = meta['rows']
    _write_rows(folder, rows)
    with SummaryWriter(str(folder / 'events')) as events:
      for epoch in range(len(rows), settings.epochs):
        start = time.monotonic()
        state, row = _train_epoch(epoch, state, train, plan, hyper, key, step_fn,
                                  settings)
        row |= _evaluate(state.params, val, plan, eval_fn,
                         settings.balance == 'classes')
        row['seconds'] = time.monotonic() - start
        rows.append({name: row[name] for name in FIELDS})
        checkpoint.save(manager, epoch, state, {'rows': rows}, row['val_bce'])
        _write_rows(folder, rows)
        progress.say(f'epoch {epoch + 1}/{settings.epochs}: training BCE '
                     f'{row["train_bce"]:.4f}, validation BCE {row["val_bce"]:.4f}, '
                     f'mIoU {row["val_miou"]:.4f}, {row["seconds"]:.0f} s')
        for name in FIELDS[1:]:
          events.add_scalar(name, row[name], epoch)
  return best_row(folder)


def best_row(folder) -> dict[str, float]:
  """The row of metrics.csv with the lowest validation BCE."""
  with open(Path(folder) / 'metrics.csv', encoding='utf-8', newline='') as file:
    rows = [{name: float(value) for name, value in row.items()}
            for row in csv.DictReader(file)]
  return min(rows, key=lambda row: row['val_bce'])


def _train_epoch(epoch, state, train, plan, hyper, key, step_fn, settings):
  """Runs the steps of one epoch; metrics are fetched one step late."""
  corners, valid = plan.train_corners(epoch)
  reports, pending = [], None
  title = f'epoch {epoch + 1}/{settings.epochs}'
  for i in progress.track(range(plan.steps), title, 'step', plan.steps):
    rate = optim.learning_rate(settings.schedule, settings.log10_learning_rate,
                               settings.decay_epochs, epoch + i / plan.steps,
                               settings.epochs)
    samples = Samples(corners[i], valid[i])
    state, report = step_fn(state, train, samples, hyper, rate, key)
    if pending is not None:
      reports.append(_fetch(pending, epoch, i - 1))
    pending = report
  reports.append(_fetch(pending, epoch, plan.steps - 1))
  mean = {name: float(np.mean([r[name] for r in reports])) for name in reports[0]}
  return state, {'epoch': epoch, 'lr': rate, 'train_loss': mean['loss'],
                 'train_bce': mean['bce'], 'train_accuracy': mean['accuracy'],
                 'grad_norm': mean['grad_norm']}


def _fetch(report, epoch: int, step: int) -> dict[str, float]:
  values = {name: float(value) for name, value in jax.device_get(report).items()}
  if not math.isfinite(values['loss'] + values['grad_norm']):
    raise InputError(f'training loss at epoch {epoch + 1}, step {step + 1}',
                     got=f"{values['loss']}, gradient norm {values['grad_norm']}",
                     expected='finite values',
                     remedy='start in another --workdir with a lower '
                     '--config.train.log10_learning_rate')
  return values


def _evaluate(params, val, plan, eval_fn, balanced):
  totals = [jax.device_get(eval_fn(params, val, Samples(corners, valid)))
            for corners, valid in zip(plan.val_corners, plan.val_valid, strict=True)]
  pooled = Totals(*(np.sum([t[i] for t in totals], 0, dtype=float) for i in (0, 1)))
  return summarise(pooled, balanced)


def _write_rows(folder: Path, rows: list[dict]) -> None:
  workdir.write_text(folder / 'metrics.csv', workdir.to_csv(rows, FIELDS))


def is_finished(config, folder) -> bool:
  """Whether a run has all its epochs; reads the checkpoints only."""
  checkpoints = Path(folder) / 'checkpoints'
  if not checkpoints.is_dir():
    return False
  with checkpoint.open_manager(checkpoints) as manager:
    return manager.latest_step() == config.train.epochs - 1


def load_best(model: Model, config, folder):
  """Weights of the best epoch in folder/checkpoints.

  Raises:
    InputError: when there is no checkpoint or it does not fit the model.
  """
  optimizer = optim.make_optimizer(config.train.optimizer, config.train.momentum)
  target = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), jax.eval_shape(
      functools.partial(init_state, model, optimizer, config.seed)))
  if not (Path(folder) / 'checkpoints').is_dir():
    raise InputError(str(folder), got='no checkpoints', expected='a trained run',
                     remedy='run `fibjax train` with this workdir first')
  with checkpoint.open_manager(Path(folder) / 'checkpoints') as manager:
    if manager.best_step() is None:
      raise InputError(str(folder), got='no finished epoch', expected='a trained run',
                       remedy='run `fibjax train --resume` with this workdir')
    return checkpoint.restore(manager, manager.best_step(), target)[0].params
