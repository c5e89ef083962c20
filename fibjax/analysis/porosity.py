"""Manual and automatic porosities of annotated regions, compared (§1.11).

One number per region (axis r): the fraction of pore voxels, in [0, 1]. The unpaired
pooled-variance t-test repeats Skarberg et al. 2021, who compared the 100 regions of a
sample as two independent sets. The same regions are in both sets, so conclusions should
rest on the paired test and the paired bootstrap.
"""
import numpy as np
from scipy import stats

from fibjax.errors import InputError, check_shape

_CONSTANT = 1e-12


def compare_porosities(manual_r, automatic_r, seed: int, *, n_resamples: int = 10_000,
                       confidence: float = 0.95) -> dict:
  """Compares manual and automatic porosities of the same regions.

  Args:
    manual_r: [r] fractions of pore in the labels.
    automatic_r: [r] fractions of pore in the segmentation, same regions.
    seed: seed of the bootstrap.
    n_resamples: number of bootstrap samples of the regions.
    confidence: coverage of the percentile interval.

  Returns:
    JSON-able dict: n_regions, manual and automatic (means over regions), manual_sd and
    automatic_sd, difference (automatic - manual), unpaired_t, unpaired_p, paired_t,
    paired_p, confidence, difference_low, difference_high, automatic_low,
    automatic_high. Numbers that are undefined for no region, one region or constant
    values are None.

  Raises:
    InputError: for different lengths or values that are not finite.
  """
  manual_r = np.asarray(manual_r, np.float64)
  automatic_r = np.asarray(automatic_r, np.float64)
  check_shape('manual_r', manual_r, (None,))
  check_shape('automatic_r', automatic_r, manual_r.shape)
  if not np.isfinite([manual_r, automatic_r]).all():
    raise InputError('porosities', got='NaN or infinity',
                     expected='one finite fraction per region',
                     remedy='leave out regions without labels')
  n = manual_r.size
  difference_r = automatic_r - manual_r
  result = {
      'n_regions': n,
      'manual': float(manual_r.mean()) if n else None,
      'automatic': float(automatic_r.mean()) if n else None,
      'manual_sd': float(manual_r.std(ddof=1)) if n > 1 else None,
      'automatic_sd': float(automatic_r.std(ddof=1)) if n > 1 else None,
      'difference': float(difference_r.mean()) if n else None,
      'unpaired_t': None, 'unpaired_p': None, 'paired_t': None, 'paired_p': None,
      'confidence': confidence,
      'difference_low': None, 'difference_high': None,
      'automatic_low': None, 'automatic_high': None,
  }
  if n < 2:
    return result
  # With zero variance the statistic is infinite or 0/0, with rounding errors alone it
  # is noise: both stay None. A single voxel of a region exceeds the limit by far.
  if max(np.ptp(manual_r), np.ptp(automatic_r)) > _CONSTANT:
    test = stats.ttest_ind(automatic_r, manual_r, equal_var=True)
    result.update(unpaired_t=float(test.statistic), unpaired_p=float(test.pvalue))
  if np.ptp(difference_r) > _CONSTANT:
    test = stats.ttest_rel(automatic_r, manual_r)
    result.update(paired_t=float(test.statistic), paired_p=float(test.pvalue))
  draws_br = np.random.default_rng(seed).integers(0, n, (n_resamples, n))
  tails = [(1 - confidence) / 2, (1 + confidence) / 2]
  for name, values_r in (('difference', difference_r), ('automatic', automatic_r)):
    low, high = np.quantile(values_r[draws_br].mean(1), tails)
    result[f'{name}_low'], result[f'{name}_high'] = float(low), float(high)
  return result
