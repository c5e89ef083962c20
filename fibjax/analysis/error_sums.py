"""Sums of independent errors, their intervals, and the jackknife.

An error has an sd and the degrees of freedom of that sd. A sum of independent errors is
treated as a t of the summed variance with the degrees of freedom of Welch and
Satterthwaite (GUM, JCGM 100:2008, G.4).
"""
import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from fibjax.errors import InputError

Error = tuple[float, float]  # sd, degrees of freedom


def add_errors(errors: Sequence[Error]) -> Error:
  """Sd and degrees of freedom of a sum of independent errors (sd, df)."""
  variance = sum(sd ** 2 for sd, _ in errors)
  spread = sum(sd ** 4 / df for sd, df in errors)
  return math.sqrt(variance), variance ** 2 / spread if spread > 0 else math.inf


def interval(centre: float, error: Error, confidence: float) -> tuple[float, float]:
  """Low and high end of the interval of a t around `centre`."""
  sd, df = error
  half = float(stats.t.ppf((1 + confidence) / 2, df)) * sd
  return centre - half, centre + half


def check_confidence(confidence: float) -> None:
  """Raises InputError unless the coverage of an interval is in (0, 1)."""
  if not 0 < confidence < 1:
    raise InputError('confidence', got=confidence, expected='between 0 and 1',
                     remedy='0.9 and 0.95 are usual')


def jackknife_covariance(left_out) -> np.ndarray:
  """Covariance of an estimate from the estimates without one group each.

  Args:
    left_out: [g, ...k] estimates of k parameters ([g] of one), at least 2 groups.

  Returns:
    [k, k], of g - 1 degrees of freedom (Efron and Stein 1981).
  """
  left_out_gk = np.asarray(left_out, np.float64).reshape(len(left_out), -1)
  centred_gk = left_out_gk - left_out_gk.mean(0)
  return (1 - 1 / len(left_out_gk)) * centred_gk.T @ centred_gk
