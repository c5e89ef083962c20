"""How losses start: whether a network that collapsed could return (§8.4).

Before a training, each loss is evaluated on the first batches of a member with its
initial weights:

* the constant P(solid) of lowest loss, where a network moves as long as it knows
  nothing. For cross-entropy it is the share of solid in the batch;
* the share of the squared gradient of the logits that is common to all voxels: it
  moves all of them towards one phase, whatever the image shows;
* the norms of the gradient of the weights at the start, and where the network has
  collapsed: with 8 added to, or taken from, all logits, towards the phase of which the
  batch has more. Cross-entropy pulls harder there; losses that see p only, not the
  logits, have saturated.

Beside them stands what the batches are made of: the share of solid in each.
"""
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fibjax.models import Model
from fibjax.training import loss_expression, optim, sampling, step
from fibjax.training.sampling import DeviceRegions, Samples

COLLAPSED_LOGIT = 8.  # added where a network has collapsed: P(solid) 0.9997
_CONSTANTS = np.linspace(-COLLAPSED_LOGIT, COLLAPSED_LOGIT, 65)  # logits that are tried


class Batch(NamedTuple):
  """Images [b, s, s, n_z], targets and weights [b, y, x] of one step."""
  images_byxc: jax.Array
  targets_byx: jax.Array
  weights_byx: jax.Array


def first_batches(settings, model: Model, train: DeviceRegions, data_seed: int,
                  seed: int, count: int) -> list[Batch]:
  """Cuts the first batches of a member, as they are before augmentation.

  Args:
    settings: config.train.
    model: the network.
    train: training regions on the device.
    data_seed: config.data.seed.
    seed: of the member.
    count: number of batches; fewer where an epoch has fewer steps.
  """
  masks_ryx = sampling.hard_labels(train)
  plan = sampling.make_plan(settings, data_seed, masks_ryx, masks_ryx)
  corners, valid = plan.train_corners(seed, 0)
  return [Batch(*sampling.cut_samples(train, Samples(*samples), model.before_px,
                                      plan.crop_px))
          for samples in zip(corners[:count], valid[:count], strict=True)]


def examine(loss: loss_expression.Loss, model: Model, params,
            batches: list[Batch]) -> dict:
  """Measures how a loss starts, at the beginning of its ramps and fades.

  Args:
    loss: of the training, without its penalty on weights.
    model: the network.
    params: its initial weights.
    batches: of the first steps, of one shape.

  Returns:
    JSON-able means over batches: value of the loss; best_constant, P(solid);
    common_share of the squared gradient of the logits, 0 to 1; gradient_norm with its
    sd over batches (gradient_sd, 0 for one batch); collapsed_gradient_norm, after a
    collapse towards the larger phase; and solid_share, of the labelled voxels of each
    batch.
  """
  apply = functools.partial(loss.apply, factors=jnp.asarray(loss.factors, jnp.float32),
                            progress=jnp.float32(0))

  def value(logits, batch):
    return apply(logits, batch.targets_byx, batch.weights_byx)[0]

  def value_of_weights(params, batch, shift):
    crop_px = batch.targets_byx.shape[1]
    return value(step.predict(model, params, batch.images_byxc, crop_px) + shift, batch)

  @jax.jit
  def measure(params, batch):
    constants_c = jnp.asarray(_CONSTANTS, jnp.float32)
    values_c = jax.lax.map(
        lambda z: value(jnp.full_like(batch.targets_byx, z), batch), constants_c)
    best = constants_c[jnp.argmin(values_c)]
    logits = step.predict(model, params, batch.images_byxc, batch.targets_byx.shape[1])
    slope_byx = jax.grad(value)(logits, batch)
    voxels = jnp.sum(batch.weights_byx > 0)
    common = jnp.sum(slope_byx) ** 2 / jnp.maximum(
        voxels * jnp.sum(slope_byx ** 2), 1e-30)
    excess = jnp.sum(batch.weights_byx * (batch.targets_byx - 0.5))  # of solid
    shift = jnp.where(excess > 0, COLLAPSED_LOGIT, -COLLAPSED_LOGIT)
    start, gradients = jax.value_and_grad(value_of_weights)(params, batch, 0.)
    collapsed = jax.grad(value_of_weights)(params, batch, shift)
    return {'value': start, 'best_constant': jax.nn.sigmoid(best),
            'common_share': common, 'gradient_norm': optim.global_norm(gradients),
            'collapsed_gradient_norm': optim.global_norm(collapsed)}

  reports = [jax.device_get(measure(params, batch)) for batch in batches]
  result = {name: float(np.mean([report[name] for report in reports]))
            for name in reports[0]}
  result['gradient_sd'] = float(np.std([r['gradient_norm'] for r in reports],
                                       ddof=1 if len(reports) > 1 else 0))
  result['solid_share'] = [
      float(np.mean(np.asarray(batch.targets_byx)[np.asarray(batch.weights_byx) > 0]
                    > 0.5)) for batch in batches]
  return result
