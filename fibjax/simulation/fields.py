"""Gaussian random fields in 3-D, and smooth noise of any rank.

A Field holds cubic B-spline coefficients on a grid coarsened up to 4 times; slabs of
fine planes are evaluated on demand, so the fine grid is never held in memory. Lengths
are in fine voxels (px). Fields are normalised by their spectrum, not by the sample, so
that the sample variance scatters as it does in the model.
"""
import math
import os
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.fft
from scipy import ndimage

from fibjax.errors import InputError

Shape = tuple[int, int, int]


class Field(NamedTuple):
  """A smooth field: cubic B-spline coefficients on a coarse grid.

  Coefficient j sits at fine position (j - 1) * factor, so each axis holds
  (n - 1) // factor + 4 coefficients for n fine voxels.
  """
  coefficients_zyx: np.ndarray
  factor: int
  shape_zyx: Shape


@dataclass(frozen=True)
class Spectrum:
  """Spectrum of a unit-variance Gaussian random field (§7.2 G1 a-d).

  gaussian: covariance exp(-r^2 / 2 length_px^2). shell: amplitude
  exp(-(k - k0)^2 / 2 dk^2) / k with k0 = 2 pi / length_px and dk = bandwidth * k0.
  mixture: share of the variance at length_px, the rest at second_length_px.
  stretch_z > 1 makes any of them longer along z by that factor.
  """
  kind: str = 'gaussian'
  length_px: float = 14.0
  second_length_px: float = 28.0
  share: float = 0.5
  bandwidth: float = 0.2
  stretch_z: float = 1.0

  def __post_init__(self):
    if self.kind not in ('gaussian', 'shell', 'mixture'):
      raise InputError('spectrum.kind', got=repr(self.kind),
                       expected='gaussian, shell or mixture', remedy='name one')
    if min(self.length_px, self.second_length_px, self.stretch_z) <= 0:
      raise InputError('spectrum', got=self, expected='positive lengths',
                       remedy='give lengths in fine voxels')


def coarsening(spectrum: Spectrum, limit: int = 4) -> int:
  """Largest grid factor at which cubic splines represent the field to 1e-3.

  The shortest covariance length stays above 3.2 coarse voxels (a shell: its upper
  band edge below half the Nyquist frequency), where the spline error is < 1e-3.
  """
  if spectrum.kind == 'shell':
    length = spectrum.length_px / (4 * (1 + 3 * spectrum.bandwidth))
  else:
    length = spectrum.length_px / 3.2
    if spectrum.kind == 'mixture':
      length = min(length, spectrum.second_length_px / 3.2)
  return max(1, min(limit, int(length * min(1.0, spectrum.stretch_z))))


def _power(spectrum: Spectrum, k2: np.ndarray, scale: float) -> np.ndarray:
  """Power at squared wave number k2 (rad / coarse voxel), up to a constant."""
  length = spectrum.length_px / scale
  if spectrum.kind == 'gaussian':
    return np.exp(-k2 * length ** 2 / 2)
  if spectrum.kind == 'mixture':
    second = spectrum.second_length_px / scale
    return (spectrum.share * length ** 3 * np.exp(-k2 * length ** 2 / 2)
            + (1 - spectrum.share) * second ** 3 * np.exp(-k2 * second ** 2 / 2))
  k = np.sqrt(k2)
  k0 = 2 * np.pi / length
  shell = np.exp(-((k - k0) / (spectrum.bandwidth * k0)) ** 2)
  return np.divide(shell, k2, out=np.zeros_like(k2), where=k2 > 0)


def gaussian_field(shape_zyx: Shape, spectrum: Spectrum, rng: np.random.Generator,
                   factor: int | None = None) -> Field:
  """Draws a unit-variance Gaussian random field (§7.2 G1).

  White noise is filtered by FFT on a grid coarsened by factor, with the spline
  prefilter in the same multiplication. FFT fields are periodic: 3 lengths more than
  the box are generated and dropped, so that opposite faces are not correlated.

  Args:
    shape_zyx: fine voxels per axis.
    spectrum: see Spectrum.
    rng: random generator.
    factor: grid coarsening; None takes coarsening(spectrum).
  """
  factor = factor or coarsening(spectrum)
  needed = [(n - 1) // factor + 4 for n in shape_zyx]
  length = spectrum.length_px
  if spectrum.kind == 'mixture':
    length = max(spectrum.length_px, spectrum.second_length_px)
  stretch = (spectrum.stretch_z, 1.0, 1.0)
  size = [scipy.fft.next_fast_len(n + math.ceil(3 * length * max(s, 1) / factor), True)
          for n, s in zip(needed, stretch, strict=True)]
  k = [2 * np.pi * np.fft.fftfreq(n).astype(np.float32) for n in size[:2]]
  k.append(2 * np.pi * np.fft.rfftfreq(size[2]).astype(np.float32))
  k2 = sum(np.square(a * s).reshape([-1 if i == j else 1 for j in range(3)])
           for i, (a, s) in enumerate(zip(k, stretch, strict=True)))
  gain = _power(spectrum, k2, factor)
  # A real FFT stores half of the last axis: its columns stand for k and -k, but for
  # the first one and, where the length is even, the last.
  weight = np.full(len(k[2]), 2.0)
  weight[0] = 1.0
  if size[2] % 2 == 0:
    weight[-1] = 1.0
  total = float(gain.sum(axis=(0, 1), dtype=np.float64) @ weight) / math.prod(size)
  # Multiplying white noise by sqrt(power / total) gives variance 1; the division is
  # shared out over the three axes (total ** (1/6) each), with the prefilters.
  np.sqrt(gain, out=gain)
  for i, a in enumerate(k):
    prefilter = 3 / (2 + np.cos(a)) / total ** (1 / 6)
    gain *= prefilter.reshape([-1 if i == j else 1 for j in range(3)])
  workers = os.cpu_count()
  wave = scipy.fft.rfftn(rng.standard_normal(size, dtype=np.float32), workers=workers)
  wave *= gain
  field = scipy.fft.irfftn(wave, s=size, workers=workers, overwrite_x=True)
  keep = np.ascontiguousarray(field[:needed[0], :needed[1], :needed[2]])
  return Field(keep, factor, tuple(shape_zyx))


def _upsample(array, axis, start, stop, factor):
  """Evaluates B-spline coefficients at fine positions [start, stop) of one axis."""
  shape = list(array.shape)
  shape[axis] = stop - start
  fine = np.empty(shape, np.float32)
  source, target = np.moveaxis(array, axis, 0), np.moveaxis(fine, axis, 0)
  # All fine positions of one phase between two coefficients have the same four taps.
  for phase in range(factor):
    first = start + (phase - start) % factor
    count = len(range(first, stop, factor))
    if not count:
      continue
    t, q = phase / factor, first // factor
    taps = np.float32([(1 - t) ** 3, 4 - 6 * t ** 2 + 3 * t ** 3,
                       1 + 3 * t + 3 * t ** 2 - 3 * t ** 3, t ** 3]) / 6
    total = taps[0] * source[q:q + count]
    for j in (1, 2, 3):
      if taps[j]:
        total += taps[j] * source[q + j:q + j + count]
    target[first - start::factor] = total
  return fine


def field_slab(field: Field, start: int, stop: int) -> np.ndarray:
  """Values of a field in the planes [start, stop): float32 [z, y, x]."""
  values = _upsample(field.coefficients_zyx, 0, start, stop, field.factor)
  for axis in (1, 2):
    values = _upsample(values, axis, 0, field.shape_zyx[axis], field.factor)
  return values


def slow_values(field: Field, length_px: float, rng) -> np.ndarray:
  """Values of an independent slow field at the coefficients of a field.

  Used as coefficients themselves: a field this slow needs no spline prefilter.
  """
  shape = field.coefficients_zyx.shape
  spectrum = Spectrum(length_px=length_px / field.factor)
  slow = gaussian_field(shape, spectrum, rng, coarsening(spectrum, limit=1000))
  return field_slab(slow, 0, shape[0])


def smooth_noise(shape: tuple[int, ...], length_px: float,
                 rng: np.random.Generator) -> np.ndarray:
  """White noise smoothed to covariance exp(-r^2 / 2 length^2), unit variance.

  Args:
    shape: any number of axes, all smoothed.
    length_px: covariance length, >= 1.
    rng: random generator.

  Returns:
    float32 of that shape; stationary up to the edges.
  """
  sigma = length_px / math.sqrt(2)
  radius = math.ceil(4 * sigma)
  kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
  kernel = (kernel / np.linalg.norm(kernel)).astype(np.float32)
  noise = rng.standard_normal([n + 2 * radius for n in shape], dtype=np.float32)
  for axis, n in enumerate(shape):
    noise = ndimage.correlate1d(noise, kernel, axis, mode='constant')
    noise = np.take(noise, range(radius, radius + n), axis)
  return noise
