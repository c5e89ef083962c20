"""Losses: pure functions (logits, targets, weights) -> scalar.

Logits are of P(solid). Targets are P(solid) in [0, 1], float32: 0 pore, 1 solid, in
between where experts differ; uint8 labels 0, 1 and 255 (unlabelled) do as well. A
weight >= 0 carries class prior and border weight; 0 takes a voxel out, exactly, and
unlabelled voxels must have weight 0. All arrays have one shape [b, y, x], b windows;
only `porosity` looks at the windows, the others take any shape.

A new loss is a function here and a line in TERMS; loss_expression.py makes sums of
them. The overlap losses and `porosity` see the prior that the weights make:
classes balanced by weights are scored as if each had half of the voxels (§8.4).
"""
import inspect
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

_POROSITY_VOXELS = 256  # of fewer the porosity is too noisy (§8.4)
_POROSITY_FLOOR = 1e-6
_CALIBRATION_BINS = 15  # as many as the reported calibration error has


def _as_solid(targets: jax.Array, dtype) -> jax.Array:
  return jnp.minimum(targets, 1).astype(dtype)


def _weighted_mean(terms, weights):
  total = jnp.sum(weights)
  return jnp.sum(weights * terms) / jnp.where(total > 0, total, 1.)


def bce_terms(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Binary cross-entropy of each voxel in nats, finite for unlabelled ones too."""
  return optax.sigmoid_binary_cross_entropy(logits, _as_solid(labels, logits.dtype))


def bce(logits: jax.Array, labels: jax.Array, weights: jax.Array) -> jax.Array:
  """Weighted mean binary cross-entropy in nats (§1.7); 0 where all weights are 0."""
  return _weighted_mean(bce_terms(logits, labels), weights)


def focal(logits: jax.Array, targets: jax.Array, weights: jax.Array,
          gamma: float = 2.) -> jax.Array:
  """Weighted mean of (1 - P(true class))^gamma times cross-entropy, nats (Lin 2017).

  Linear in the targets: a soft one costs the mean of its experts' losses. gamma 0 is
  `bce`. Not proper: the best logit lies nearer 0 than the posterior's.
  """
  solid = _as_solid(targets, logits.dtype)
  # (1 - p)^gamma as an exponential: its gradient is finite for any gamma and p.
  of_solid = jnp.exp(-gamma * jax.nn.softplus(logits)) * jax.nn.softplus(-logits)
  of_pore = jnp.exp(-gamma * jax.nn.softplus(-logits)) * jax.nn.softplus(logits)
  return _weighted_mean(solid * of_solid + (1 - solid) * of_pore, weights)


def _overlap(logits, targets, weights):
  """Weighted sums of p y, of p and of y, each [2] for pore and solid."""
  solid = _as_solid(targets, logits.dtype)
  p_k = jnp.stack([jax.nn.sigmoid(-logits), jax.nn.sigmoid(logits)])
  y_k = jnp.stack([1 - solid, solid])
  axes = tuple(range(1, p_k.ndim))
  return tuple(jnp.sum(weights[None] * part, axes) for part in (p_k * y_k, p_k, y_k))


def _one_minus_present(part_k, whole_k, mass_k):
  """1 - part / whole, averaged over the classes with mass; 0 without any.

  The inner `where` keeps 0 / 0 out of the gradient, where the outer one would not.
  """
  present = mass_k > 0
  loss_k = jnp.where(present, 1 - part_k / jnp.where(present, whole_k, 1.), 0.)
  return jnp.sum(loss_k) / jnp.maximum(jnp.sum(present), 1)


def dice(logits: jax.Array, targets: jax.Array, weights: jax.Array) -> jax.Array:
  """1 - 2 sum(p y) / sum(p + y), averaged over pore and solid (Milletari 2016).

  Sums run over the batch. A class without weight in the targets is left out; without
  any weight the loss is 0.
  """
  both_k, predicted_k, true_k = _overlap(logits, targets, weights)
  return _one_minus_present(2 * both_k, predicted_k + true_k, true_k)


def jaccard(logits: jax.Array, targets: jax.Array, weights: jax.Array) -> jax.Array:
  """1 - soft mIoU: sum(p y) / sum(p + y - p y) per class (Rahman & Wang 2016; §8.4).

  Equals 1 - mIoU for hard predictions. Absent classes as for `dice`, hence no epsilon.
  With soft targets hard predictions are best, not p = y: keep a cross-entropy beside.
  """
  both_k, predicted_k, true_k = _overlap(logits, targets, weights)
  return _one_minus_present(both_k, predicted_k + true_k - both_k, true_k)


def jml(logits: jax.Array, targets: jax.Array, weights: jax.Array) -> jax.Array:
  """Jaccard metric loss for soft targets, averaged over pore and solid (§8.4).

  1 - sum(p + y - |p - y|) / sum(p + y + |p - y|) per class: a metric, so that p = y is
  best for soft targets as well (Wang et al. 2023, the L1 form). Equals `jaccard` for
  hard targets; absent classes as for `dice`.
  """
  _, predicted_k, true_k = _overlap(logits, targets, weights)
  apart = jnp.sum(weights * abs(jax.nn.sigmoid(logits)
                                - _as_solid(targets, logits.dtype)))
  total_k = predicted_k + true_k
  return _one_minus_present(total_k - apart, total_k + apart, true_k)


def calibration(logits: jax.Array, targets: jax.Array,
                weights: jax.Array) -> jax.Array:
  """Expected calibration error |p - y| in soft bins of the batch, in [0, 1] (§8.4).

  Every voxel belongs to the two nearest of 16 equidistant scores, by linear
  interpolation; what a bin errs is the difference of the sums of its p and y. Soft bins
  make the error continuous in the logits (Karandikar et al. 2021). Keep another loss
  beside: a network that always predicts the fraction of solid is calibrated. 0 without
  any weight.
  """
  p = jax.nn.sigmoid(logits)
  errors = weights * (p - _as_solid(targets, logits.dtype))
  total = jnp.sum(weights)

  def error_of_bin(node):
    return jnp.sum(errors * jax.nn.relu(1 - abs(_CALIBRATION_BINS * p - node)))
  errors_n = jax.vmap(error_of_bin)(jnp.arange(_CALIBRATION_BINS + 1., dtype=p.dtype))
  return jnp.sum(abs(errors_n)) / jnp.where(total > 0, total, 1.)


def tversky(logits: jax.Array, targets: jax.Array, weights: jax.Array,
            alpha: float = 0.3, beta: float = 0.7) -> jax.Array:
  """1 - Tversky index of the solid (Salehi 2017); 0 without solid in the targets.

  Of solid alone, for over both classes the two weights would act against each other.
  (0.5, 0.5) is the Dice loss and (1, 1) the soft Jaccard loss of solid.

  Args:
    logits, targets, weights: as everywhere.
    alpha: weight of false solid, pore called solid; > 0.
    beta: weight of missed solid, solid called pore; > 0.
  """
  both, predicted, true = (sums_k[1:] for sums_k in _overlap(logits, targets, weights))
  whole = both + alpha * (predicted - both) + beta * (true - both)
  return _one_minus_present(both, whole, true)


def _jaccard_steps(inside, outside):
  """Increase of the Jaccard loss of a class by each further error.

  With P the mass of the class, c and n that of the errors so far inside and outside
  it, the loss is 1 - (P - c) / (P + n). Its steps are written out, not taken as
  differences of neighbouring losses: no cancellation, and exactly 0 for a voxel of
  weight 0.

  Args:
    inside: [n] weights of the class's voxels, largest error first, 0 for the others.
    outside: [n] weights of the other voxels.

  Returns:
    [n] steps, finite; their sum is 1, or 0 for a class without mass.
  """
  left = jax.lax.cumsum(inside, reverse=True)  # P - c, before this voxel
  union = left[0] + jnp.cumsum(outside)
  before = jnp.maximum(union - outside, left[0])

  def over(part, whole):
    return part / jnp.where(whole > 0, whole, 1.)
  return over(inside, union) + over(over(left * outside, before), union)


def _lovasz_of(errors, targets, weights):
  """Lovász extension of 1 - IoU at the errors >= 0, averaged over present classes.

  With two classes, a voxel's error is the same for both: one sort serves both.
  """
  errors, weights = errors.ravel(), weights.ravel()
  solid = (targets > 0.5).ravel()
  order = jnp.argsort(-jax.lax.stop_gradient(errors))
  pore, solid = (jnp.where(is_k, weights, 0.)[order] for is_k in (~solid, solid))
  steps = _jaccard_steps(pore, solid) + _jaccard_steps(solid, pore)
  # The steps are put back into the voxels' order, instead of sorting the errors: they
  # are constants of the gradient, which then needs no scatter.
  steps = jnp.zeros_like(steps).at[order].set(steps, unique_indices=True)
  present = sum((jnp.sum(part) > 0).astype(errors.dtype) for part in (pore, solid))
  return jnp.sum(errors * steps) / jnp.maximum(present, 1.)


def lovasz(logits: jax.Array, targets: jax.Array, weights: jax.Array) -> jax.Array:
  """Lovász-softmax over pore and solid, errors |p - y| (Berman 2018; §8.4).

  Equals 1 - mIoU for hard predictions. Targets are rounded: solid where > 0.5.
  Weights act on the sums under the IoU, so that weights 0 and 1 give the loss of the
  voxels of weight 1. A class without weight is left out; without any the loss is 0.
  """
  sign = jnp.where(targets > 0.5, 1., -1.).astype(logits.dtype)
  return _lovasz_of(jax.nn.sigmoid(-sign * logits), targets, weights)


def lovasz_hinge(logits: jax.Array, targets: jax.Array,
                 weights: jax.Array) -> jax.Array:
  """Lovász hinge, errors max(1 - s logit, 0) with s = +-1 (Berman & Blaschko 2018).

  Convex in the logits. Averaged over both classes, as the mIoU, where the source takes
  the foreground. Rounding, weights and absent classes as for `lovasz`; the source's
  other choice for an absent class, to punish the single worst voxel, is not taken.
  """
  sign = jnp.where(targets > 0.5, 1., -1.).astype(logits.dtype)
  return _lovasz_of(jax.nn.relu(1 - sign * logits), targets, weights)


def porosity(logits: jax.Array, targets: jax.Array, weights: jax.Array) -> jax.Array:
  """KL(phi || phi_hat) in nats between true and predicted porosity (§8.4).

  Per window, averaged over the windows that have weight, where a window has at least
  256 voxels; else of the whole batch. 0 without any weight. 1e-6 is added to all
  shares, so that a wrong, certain network still has a finite gradient.
  All arrays [b, y, x]; the porosities are those of the weighted voxels.
  """
  windows = logits.shape[0]
  groups = windows if logits.size >= _POROSITY_VOXELS * windows else 1
  weights_gn = weights.reshape(groups, -1)
  total_g = jnp.sum(weights_gn, 1)
  solid = _as_solid(targets, logits.dtype)

  def share(part):
    mean_g = jnp.sum(weights_gn * part.reshape(groups, -1), 1) / jnp.where(
        total_g > 0, total_g, 1.)
    return mean_g + _POROSITY_FLOOR

  kl_g = jnp.zeros_like(total_g)
  for true, predicted in ((1 - solid, jax.nn.sigmoid(-logits)),
                          (solid, jax.nn.sigmoid(logits))):
    true_g = share(true)
    kl_g += true_g * (jnp.log(true_g) - jnp.log(share(predicted)))
  return jnp.sum(kl_g) / jnp.maximum(jnp.sum(total_g > 0), 1)  # 0 without weight


class Term(NamedTuple):
  """A loss that an expression may name.

  Attributes:
    function: (logits, targets, weights) -> scalar; parameters with a default after
      these three are arguments in the expression, as in 'focal(3)'.
    positive: whether its arguments must be > 0 instead of >= 0.
  """
  function: Callable
  positive: bool = False


TERMS = {
    'bce': Term(bce), 'focal': Term(focal), 'dice': Term(dice),
    'jaccard': Term(jaccard), 'jml': Term(jml), 'lovasz': Term(lovasz),
    'lovasz_hinge': Term(lovasz_hinge), 'porosity': Term(porosity),
    'calibration': Term(calibration), 'tversky': Term(tversky, positive=True)}


def arguments_of(term: Term) -> dict[str, float]:
  """Names and defaults of the arguments that a term takes in an expression."""
  parameters = inspect.signature(term.function).parameters.values()
  return {parameter.name: parameter.default for parameter in parameters
          if parameter.default is not parameter.empty}


def kernel_penalty(params) -> jax.Array:
  """||w||^2 over all kernels, biases left out, without the factor 1/2 (§1.7)."""
  leaves = jax.tree_util.tree_leaves_with_path(params)
  return sum(jnp.sum(leaf ** 2) for path, leaf in leaves if path[-1].key == 'kernel')
