"""Calibration: temperature scaling, prior correction, reliability, entropy.

Scores are P(solid) in [0, 1], logits ln(p / (1 - p)), labels 0 pore, 1 solid and
255 unlabelled (left out), all of any equal shape. A network trained on balanced samples
predicts for a prior of 1/2; at the natural prior its logit needs the constant of
`prior_offset`. Temperature comes first and the offset second, sigmoid(z / T + offset):
T corrects the logit at the prior of the training, and only a corrected logit obeys
Bayes' rule, from which the offset follows.
Source: Guo et al. 2017 (temperature); §1.8, §8.7. Pure numpy, no files.
"""
import math
from typing import NamedTuple

import numpy as np
from scipy import optimize, special

from fibjax.errors import InputError, check_shape
from fibjax.metrics.labels import UNLABELLED

TEMPERATURES = (0.01, 100.0)
# float32 scores reach exactly 0 and 1; the next values inside are 6e-8 away.
_EDGE = 1e-7


class Reliability(NamedTuple):
  """Observed fraction of solid against the score, in bins of equal mass.

  Attributes:
    score_b: [b] float64 mean score of a bin, ascending.
    solid_b: [b] float64 fraction of its voxels labelled solid.
    count_b: [b] int64 labelled voxels; never 0.
  """
  score_b: np.ndarray
  solid_b: np.ndarray
  count_b: np.ndarray


class Predictive(NamedTuple):
  """Prediction of an ensemble for each voxel; entropies in nats.

  Attributes:
    mean: mean score over the members.
    entropy: H(mean), 0 to ln 2: the total uncertainty.
    mutual_information: H(mean) - mean of the H of the members, 0 to ln 2: the part due
      to disagreement between members.
  """
  mean: np.ndarray
  entropy: np.ndarray
  mutual_information: np.ndarray


def _labelled(name, values, labels, low, high):
  """Values float64 [n] and solid bool [n] of the labelled voxels, checked."""
  values, labels = np.asarray(values), np.asarray(labels)
  check_shape(name, values, labels.shape)
  valid = labels != UNLABELLED
  wrong = valid & (labels != 0) & (labels != 1)
  if wrong.any():
    raise InputError('labels', got=f'codes {np.unique(labels[wrong])[:5].tolist()}',
                     expected='0 pore, 1 solid or 255 unlabelled',
                     remedy='convert the labels with a label profile first')
  values = values[valid].astype(np.float64)
  if not ((values >= low) & (values <= high) & np.isfinite(values)).all():
    raise InputError(name, got='NaN, infinity or values outside',
                     expected=f'finite values from {low} to {high}',
                     remedy='scores are P(solid); to_logits makes logits of them')
  return values, labels[valid] == 1


def to_logits(scores) -> np.ndarray:
  """Logits ln(p / (1 - p)), float64; scores are clipped to [1e-7, 1 - 1e-7]."""
  return special.logit(np.clip(np.asarray(scores, np.float64), _EDGE, 1 - _EDGE))


def prior_offset(true_solid: float, trained_solid: float = 0.5) -> float:
  """Change of a logit when the prior of solid changes.

  Args:
    true_solid: fraction of solid where the scores are used, in (0, 1).
    trained_solid: fraction of solid among the training samples, in (0, 1); 0.5 for
      balanced samples or balanced class weights.

  Returns:
    ln(true odds) - ln(trained odds).

  Raises:
    InputError: for a fraction outside (0, 1).
  """
  for name, value in (('true_solid', true_solid), ('trained_solid', trained_solid)):
    if not 0 < value < 1:
      raise InputError(name, got=value, expected='a fraction between 0 and 1',
                       remedy='give the fraction of solid voxels')
  return float(special.logit(true_solid) - special.logit(trained_solid))


def shift_prior(logits, true_solid: float, trained_solid: float = 0.5) -> np.ndarray:
  """Converts logits, any shape, to another prior of solid (see prior_offset)."""
  return np.asarray(logits, np.float64) + prior_offset(true_solid, trained_solid)


def calibrate(logits, temperature: float, offset: float = 0.0) -> np.ndarray:
  """P(solid) from logits, any shape, float64: sigmoid(z / T + offset)."""
  return special.expit(np.asarray(logits, np.float64) / temperature + offset)


def fit_temperature(logits_n, labels_n, offset: float = 0.0) -> float:
  """Fits the T of lowest mean negative log-likelihood of sigmoid(z / T + offset).

  The likelihood is concave in 1 / T, so there is one minimum over log T. There is none
  where every voxel is classified correctly (T -> 0) or the logits have the wrong sign
  (T -> infinity): then T is the bound, 0.01 or 100.

  Args:
    logits_n: logits of validation voxels.
    labels_n: 0, 1 or 255, same shape.
    offset: of prior_offset, when the voxels have another prior than the training.

  Returns:
    T in TEMPERATURES; above 1 where the network was overconfident.

  Raises:
    InputError: when nothing is labelled, for a logit that is not finite, different
      shapes or another code.
  """
  logits_n, solid_n = _labelled('logits', logits_n, labels_n, -np.inf, np.inf)
  if not logits_n.size:
    raise InputError('labels', got='no labelled voxel', expected='at least one',
                     remedy='annotate a validation region')
  sign_n = np.where(solid_n, -1.0, 1.0)

  def loss(log_temperature):
    z_n = logits_n * math.exp(-log_temperature) + offset
    return float(np.logaddexp(0, sign_n * z_n).mean())

  bounds = [math.log(t) for t in TEMPERATURES]
  optimum = optimize.minimize_scalar(loss, bounds=bounds, method='bounded',
                                     options={'xatol': 1e-8})
  # The search never returns a bound itself, so bounds that are as good come first.
  best = min((*bounds, optimum.x), key=loss)
  return float(math.exp(best))


def reliability(scores_n, labels_n, bins: int = 15) -> Reliability:
  """Compares scores with the observed fraction of solid, in bins of equal mass.

  Equal scores share a bin (that of their middle rank), so that the result does not
  depend on the order of the voxels; bins that this leaves empty are dropped.

  Args:
    scores_n: P(solid) in [0, 1].
    labels_n: 0, 1 or 255, same shape.
    bins: number of bins, >= 1.

  Raises:
    InputError: for scores outside [0, 1], different shapes, another code, or bins < 1.
  """
  scores_n, solid_n = _labelled('scores', scores_n, labels_n, 0, 1)
  bin_n = equal_mass_bins(scores_n, bins)
  count_b = np.bincount(bin_n, minlength=bins)
  used = count_b > 0
  score_b, solid_b = (np.bincount(bin_n, weights=v, minlength=bins)[used]
                      / count_b[used] for v in (scores_n, solid_n))
  return Reliability(score_b, solid_b, count_b[used])


def equal_mass_bins(values_n: np.ndarray, bins: int) -> np.ndarray:
  """Assigns values to bins of about equal numbers; equal values share a bin.

  Args:
    values_n: [n] finite values.
    bins: number of bins, >= 1.

  Returns:
    [n] bin of each value, 0 .. bins - 1, ascending with the value.

  Raises:
    InputError: for bins < 1.
  """
  if bins < 1:
    raise InputError('bins', got=bins, expected='at least 1', remedy='15 is usual')
  order = np.argsort(values_n)
  starts = np.flatnonzero(np.diff(values_n[order], prepend=-np.inf))
  stops = np.append(starts[1:], values_n.size)[:starts.size]
  # Twice the middle rank is an integer: no rounding at the edges of bins.
  bin_u = (starts + stops) * bins // max(2 * values_n.size, 1)
  bin_n = np.empty(values_n.size, np.int64)
  bin_n[order] = np.repeat(bin_u, stops - starts)
  return bin_n


def ece(table: Reliability) -> float:
  """Expected calibration error: mean |score - observed| over voxels.

  With n voxels in b bins, perfect calibration gives about
  sqrt(2 b p (1 - p) / (pi n)), not 0.
  """
  gap_b = np.abs(table.score_b - table.solid_b)
  return float(np.average(gap_b, weights=table.count_b))


def summarise(scores_n, labels_n, bins: int = 15) -> dict:
  """Measures the quality of scores as probabilities.

  Args:
    scores_n: P(solid) in [0, 1].
    labels_n: 0, 1 or 255, same shape.
    bins: of the reliability.

  Returns:
    JSON-able dict: ece, brier (mean square error of the score), nll (mean negative
    log-likelihood, nats; scores are clipped to [1e-7, 1 - 1e-7]) and n_voxels. None
    where nothing is labelled.

  Raises:
    InputError: as `reliability`.
  """
  values_n, solid_n = _labelled('scores', scores_n, labels_n, 0, 1)
  if not values_n.size:
    return {'ece': None, 'brier': None, 'nll': None, 'n_voxels': 0}
  return {'ece': ece(reliability(scores_n, labels_n, bins)),
          'brier': brier(values_n, solid_n), 'nll': nll(values_n, solid_n),
          'n_voxels': int(values_n.size)}


def brier(scores_n, labels_n) -> float:
  """Brier score: mean (score - label)^2 over labelled voxels; NaN for none."""
  scores_n, solid_n = _labelled('scores', scores_n, labels_n, 0, 1)
  return float(np.mean((scores_n - solid_n) ** 2)) if scores_n.size else math.nan


def nll(scores_n, labels_n) -> float:
  """Mean negative log-likelihood in nats; NaN without labels.

  Scores are clipped to [1e-7, 1 - 1e-7]: a mistake made with certainty costs 16 nats.
  """
  scores_n, solid_n = _labelled('scores', scores_n, labels_n, 0, 1)
  if not scores_n.size:
    return math.nan
  right_n = np.where(solid_n, scores_n, 1 - scores_n)
  return float(-np.log(np.clip(right_n, _EDGE, 1 - _EDGE)).mean())


def binary_entropy(scores) -> np.ndarray:
  """Entropy -p ln p - (1 - p) ln(1 - p) in nats, accurate near 0 and 1 too."""
  p = np.asarray(scores, np.float64)
  return -special.xlogy(p, p) - special.xlog1py(1 - p, -p)


def predictive(scores_m) -> Predictive:
  """Combines the scores of an ensemble, all in float64.

  Args:
    scores_m: [m, ...] P(solid) in [0, 1] of each member.

  Returns:
    Mean, entropy and mutual information, each [...].

  Raises:
    InputError: for no member, or scores that are not in [0, 1].
  """
  scores_m = np.asarray(scores_m, np.float64)
  if scores_m.ndim < 1 or not len(scores_m):
    raise InputError('scores', got=f'shape {scores_m.shape}',
                     expected='members along the first axis',
                     remedy='stack the scores of at least one member')
  if not ((scores_m >= 0) & (scores_m <= 1)).all():
    raise InputError('scores', got='NaN or values outside', expected='values 0 to 1',
                     remedy='give P(solid), not logits')
  mean = scores_m.mean(0)
  entropy = binary_entropy(mean)
  # Not negative, as the entropy is concave, but for rounding.
  mutual = np.maximum(entropy - binary_entropy(scores_m).mean(0), 0)
  return Predictive(mean, entropy, mutual)
