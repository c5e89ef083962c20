"""Porosity with a confidence interval: members, systematic error, finite volume.

Three independent components add up:

* members: the networks of an ensemble differ; sd / sqrt(M) of their mean, as far as it
  exceeds the spread that the annotated regions have shown (and account for);
* bias: automatic - manual porosity of annotated regions, subtracted, and its error;
* sampling: a volume is a sample of a material; from its two-point function, or from
  other volumes of the material.

The first two give the porosity of *this volume*, all three that of *the material*.
Each component has an sd and degrees of freedom, and they are added as in
error_sums.py. Labels are taken as the truth: errors that all annotators share are in
no component. Arrays [z, y, x]; m members, r regions, g groups of regions, d draws;
porosities are fractions.
"""
import math
from typing import NamedTuple

import numpy as np
from scipy import stats

from fibjax.analysis.error_sums import add_errors, check_confidence, interval
from fibjax.analysis.two_point import Sampling
from fibjax.errors import InputError, check_shape

_DRAWS = 20_000
_EXPECTED = 0.95  # quantile up to which the spread of members is that of the regions


class Mean(NamedTuple):
  """A mean, the sd of its error, and the degrees of freedom of that sd."""
  mean: float
  sd: float
  df: float


class Bias(NamedTuple):
  """Systematic error of a segmentation, automatic - manual porosity.

  Attributes:
    members_m: [m] bias of each member.
    mean: bias of the mean of the members.
    sd, df: error of the mean, for the volume that the regions were drawn from.
    new_sd, new_df: error for another volume, whose bias differs as those of the
      groups do from each other; None without groups.
    member_variance: variance of the interaction of members with groups, i.e. of the
      differences between members that vary from group to group; None for a single
      member.
  """
  members_m: np.ndarray
  mean: float
  sd: float
  df: float
  new_sd: float | None
  new_df: float | None
  member_variance: float | None


def member_porosities(scores_mzyx, threshold: float | None = 0.5) -> np.ndarray:
  """Measures the porosity according to each member.

  Args:
    scores_mzyx: [m, ...] P(solid) of each member.
    threshold: pore where the score is not greater; None takes the expected porosity
      mean(1 - p), which is unbiased for calibrated scores, however blurred.

  Returns:
    [m] float64 fractions.
  """
  scores_mn = np.asarray(scores_mzyx)
  scores_mn = scores_mn.reshape(len(scores_mn), -1)
  if threshold is None:
    return 1 - scores_mn.mean(1, dtype=np.float64)
  return (scores_mn <= threshold).mean(1)


# --- Regions ------------------------------------------------------------------------

def block_bootstrap(values_r, seed: int, *, groups_r=None,
                    n_resamples: int = 10_000) -> Mean:
  """Estimates the mean over regions and its error, resampling whole groups.

  All regions have the same weight, whatever their size. The sd is scaled by
  sqrt(g / (g - 1)), by which the bootstrap of g groups underestimates it.

  Args:
    values_r: [r] one value per region.
    seed: seed of the bootstrap.
    groups_r: [r] block of each region (volume, slice); regions of one block are
      correlated. None makes every region a separate block.
    n_resamples: number of bootstrap samples.

  Returns:
    Mean, sd, and g - 1 degrees of freedom.

  Raises:
    InputError: for fewer than two groups, or values that are not finite.
  """
  values_r = np.asarray(values_r, np.float64)
  check_shape('values', values_r, (None,))
  groups_r = np.arange(values_r.size) if groups_r is None else np.asarray(groups_r)
  check_shape('groups', groups_r, values_r.shape)
  if not np.isfinite(values_r).all():
    raise InputError('values', got='NaN or infinity', expected='finite values',
                     remedy='leave out regions without labels')
  _, group_r = np.unique(groups_r, return_inverse=True)
  count_g = np.bincount(group_r)
  sum_g = np.bincount(group_r, weights=values_r)
  g = count_g.size
  if g < 2:
    raise InputError('regions', got=f'{g} independent groups', expected='at least 2',
                     remedy='annotate another region or volume')
  draws_bg = np.random.default_rng(seed).integers(0, g, (n_resamples, g))
  means_b = sum_g[draws_bg].sum(1) / count_g[draws_bg].sum(1)
  return Mean(float(values_r.mean()), float(means_b.std() * math.sqrt(g / (g - 1))),
              float(g - 1))


def region_bias(manual_r, automatic_mr, seed: int, *, groups_r=None,
                n_resamples: int = 10_000) -> Bias:
  """Estimates the systematic error of a segmentation from annotated regions.

  Args:
    manual_r: [r] porosities in the labels.
    automatic_mr: [m, r] porosities in the segmentation of each member, or [r];
      measured as those of the volume will be (`member_porosities`).
    seed: seed of the bootstrap.
    groups_r: [r] volume of each region, or a block of it.
    n_resamples: number of bootstrap samples.

  Returns:
    Bias; new_sd is such that a t of g - 1 degrees of freedom has the 95 % range of the
    error, from a one-way analysis of variance.

  Raises:
    InputError: for different lengths, or as `block_bootstrap`.
  """
  manual_r = np.asarray(manual_r, np.float64)
  automatic_mr = np.atleast_2d(np.asarray(automatic_mr, np.float64))
  check_shape('automatic', automatic_mr, (None, *manual_r.shape))
  difference_mr = automatic_mr - manual_r
  difference_r = difference_mr.mean(0)
  mean = block_bootstrap(difference_r, seed, groups_r=groups_r,
                         n_resamples=n_resamples)
  new_sd, new_df = None, None
  if groups_r is not None:
    new_sd, new_df = _error_of_new_group(difference_r, groups_r, mean, (seed, 1))
  return Bias(difference_mr.mean(1), *mean, new_sd, new_df,
              _member_variance(difference_mr, groups_r))


def _member_variance(values_mr, groups_r) -> float | None:
  """Mean square of the interaction of members with groups (or regions).

  Two-way layout without replicates: means of members and of groups are subtracted, and
  (m - 1) (g - 1) degrees of freedom are left.
  """
  if len(values_mr) < 2:
    return None
  groups_r = np.arange(values_mr.shape[1]) if groups_r is None else groups_r
  _, group_r, count_g = np.unique(groups_r, return_inverse=True, return_counts=True)
  mean_mg = np.stack([np.bincount(group_r, weights=v) for v in values_mr]) / count_g
  interaction_mg = mean_mg - mean_mg.mean(0)
  interaction_mg = interaction_mg - interaction_mg.mean(1, keepdims=True)
  df = (len(interaction_mg) - 1) * (count_g.size - 1)
  return float((interaction_mg ** 2).sum() / df)


def _error_of_new_group(values_r, groups_r, mean: Mean, seed):
  """Standard deviation of (mean of an unseen group - estimated mean), and its df.

  With few groups it is uncertain how much of their scatter is that of their regions,
  and the point estimate max(MSB - MSW, 0) is too small half of the time. Draws from
  generalised pivotal quantities (Weerahandi 1993) average over the possible values.
  """
  _, group_r, count_g = np.unique(groups_r, return_inverse=True, return_counts=True)
  n, g = values_r.size, count_g.size
  mean_g = np.bincount(group_r, weights=values_r) / count_g
  between = (count_g * (mean_g - values_r.mean()) ** 2).sum() / (g - 1)
  within = ((values_r - mean_g[group_r]) ** 2).sum() / (n - g) if n > g else 0.0
  # Regions per group as the expected mean squares have it: E MSB = within + size *
  # between. It is the common count where all groups have the same.
  size = (n - (count_g ** 2).sum() / n) / (g - 1)
  rng = np.random.default_rng(seed)
  between_d = between * (g - 1) / rng.chisquare(g - 1, _DRAWS)
  within_d = within * (n - g) / rng.chisquare(n - g, _DRAWS) if n > g else 0.0
  variance_d = np.maximum(between_d - within_d, 0) / size
  if between > 0:  # the estimated mean scatters too, in proportion to MSB
    variance_d += mean.sd ** 2 * between_d / between
  error_d = np.abs(rng.standard_normal(_DRAWS)) * np.sqrt(variance_d)
  sd = np.quantile(error_d, 0.95) / stats.t.ppf(0.975, g - 1)
  return float(sd), float(g - 1)


# --- The interval -------------------------------------------------------------------

def porosity_interval(members_m, bias: Bias | None = None,
                      sampling: Sampling | None = None, *, new_volume: bool = False,
                      confidence: float = 0.95) -> dict:
  """Computes the porosity of a volume and of its material with their intervals.

  The spread of the members is that of their porosities after subtraction of the bias
  of each: constant differences between members are corrected. A spread as large as in
  the regions is part of the error of the bias already. Only the excess over its 95 %
  quantile counts: then the members disagree more on this volume than where they were
  checked.

  Args:
    members_m: [m] porosity of the volume in the segmentation of each member.
    bias: of the same members, or of one segmentation; None leaves it out.
    sampling: of the volume; None leaves the material out.
    new_volume: the regions of the bias lie in other volumes (its groups).
    confidence: coverage of the intervals, in (0, 1).

  Returns:
    JSON-able dict: automatic (mean of the members), bias, estimate (automatic - bias),
    confidence, volume and material {low, high, sd, df} or None, sd and df {members,
    bias, sampling} with None for components left out, member_spread (sd of the
    corrected members) and resolved (of the sampling). Estimate and ends of intervals
    are clipped to [0, 1].

  Raises:
    InputError: for members that are not finite or differ in number from the bias, a
      single member without a bias or sampling, a new volume without groups, or a
      confidence outside (0, 1).
  """
  members_m = np.asarray(members_m, np.float64)
  check_shape('members', members_m, (None,))
  _check_interval(members_m, bias, sampling, new_volume, confidence)
  corrected_m = members_m - (bias.members_m if bias else 0)
  errors, spread = {'members': None, 'bias': None, 'sampling': None}, None
  if members_m.size > 1:
    spread = float(corrected_m.std(ddof=1))
    excess = spread ** 2
    if bias and bias.member_variance is not None:
      # Variance of the mean interaction of g = df + 1 groups; that of a new volume has
      # an interaction of its own besides.
      expected = bias.member_variance * (1 / (bias.df + 1) + new_volume)
      free = members_m.size - 1
      excess -= expected * stats.f.ppf(_EXPECTED, free, free * bias.df)
    errors['members'] = (math.sqrt(max(excess, 0) / members_m.size),
                         members_m.size - 1.0)
  if bias:
    errors['bias'] = (bias.new_sd, bias.new_df) if new_volume else (bias.sd, bias.df)
  if sampling:
    errors['sampling'] = (sampling.sd, sampling.df)
  estimate = float(corrected_m.mean())
  of_volume = [errors[name] for name in ('members', 'bias') if errors[name]]
  volume = _interval(estimate, of_volume, confidence) if of_volume else None
  material = (_interval(estimate, [*of_volume, errors['sampling']], confidence)
              if sampling else None)
  return {'automatic': float(members_m.mean()), 'bias': bias.mean if bias else None,
          'estimate': float(np.clip(estimate, 0, 1)), 'confidence': confidence,
          'volume': volume, 'material': material,
          'sd': {name: error and error[0] for name, error in errors.items()},
          'df': {name: error and _finite(error[1]) for name, error in errors.items()},
          'member_spread': spread, 'resolved': sampling.resolved if sampling else None}


def _check_interval(members_m, bias, sampling, new_volume, confidence):
  if not (members_m.size and np.isfinite(members_m).all()):
    raise InputError('members', got=members_m.tolist(), expected='finite porosities',
                     remedy='give one fraction per member')
  if members_m.size == 1 and not (bias or sampling):
    raise InputError('members', got='one, and neither bias nor sampling',
                     expected='a source of error', remedy='annotate regions')
  if bias and bias.members_m.size not in (1, members_m.size):
    raise InputError('bias', got=f'{bias.members_m.size} members',
                     expected=f'1 or {members_m.size}',
                     remedy='measure regions and volume with the same members')
  if new_volume and not (bias and bias.new_sd is not None):
    raise InputError('new_volume', got='regions without groups',
                     expected='a bias with groups',
                     remedy='name the volume of each region in groups_r')
  check_confidence(confidence)


def _finite(value: float) -> float | None:
  return value if math.isfinite(value) else None


def _interval(estimate: float, errors, confidence: float) -> dict:
  """Low, high, sd and df of the sum of independent errors (sd, df)."""
  sd, df = add_errors(errors)
  low, high = np.clip(interval(estimate, (sd, df), confidence), 0, 1)
  return {'low': float(low), 'high': float(high), 'sd': sd, 'df': _finite(df)}
