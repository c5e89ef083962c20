"""Closed formulas of level-cut Gaussian fields and Boolean models (§7.2).

Pore = {g < u}, solid = {g > u}, u = Phi^-1(porosity), g of unit variance with
covariance rho(r) and lambda2 = -rho''(0). Lengths in any one unit; densities are per
that unit cubed. Boolean models: intensity grains per volume, the solid is their union
and the pore what they leave uncovered.
"""
import numpy as np
from scipy.special import ndtri

from fibjax.simulation.fields import Spectrum


def covariance(spectrum: Spectrum, r) -> np.ndarray:
  """Covariance rho(r) at in-plane distance r (px) of any spectrum, rho(0) = 1."""
  r = np.asarray(r, float)
  if spectrum.kind == 'shell':
    k0 = 2 * np.pi / spectrum.length_px
    k = np.linspace(1e-6, k0 * (1 + 6 * spectrum.bandwidth), 4001)
    density = np.exp(-((k - k0) / (spectrum.bandwidth * k0)) ** 2)
    wave = np.sinc(k * r[..., None] / np.pi)
    return np.trapezoid(density * wave, k) / np.trapezoid(density, k)
  first = np.exp(-r ** 2 / (2 * spectrum.length_px ** 2))
  if spectrum.kind == 'gaussian':
    return first
  second = np.exp(-r ** 2 / (2 * spectrum.second_length_px ** 2))
  return spectrum.share * first + (1 - spectrum.share) * second


def second_spectral_moment(spectrum: Spectrum) -> float:
  """lambda2 = -rho''(0) in the plane, 1/px^2 (isotropic if stretch_z is 1)."""
  if spectrum.kind == 'shell':
    k0 = 2 * np.pi / spectrum.length_px
    return k0 ** 2 * (1 + spectrum.bandwidth ** 2 / 2) / 3
  first = 1 / spectrum.length_px ** 2
  if spectrum.kind == 'gaussian':
    return first
  return spectrum.share * first + (1 - spectrum.share) / spectrum.second_length_px ** 2


def two_point_probability(rho, porosity: float) -> np.ndarray:
  """S2 of the pore where the field's covariance is rho: both ends are pore.

  phi^2 + 1/2pi int_0^asin(rho) exp(-beta^2 / (1 + sin t)) dt, beta = Phi^-1(phi).
  """
  rho = np.asarray(rho, float)
  node, weight = np.polynomial.legendre.leggauss(64)
  half = np.arcsin(np.clip(rho, -1, 1))[..., None] / 2
  angle = half * (node + 1)
  value = np.exp(-ndtri(porosity) ** 2 / (1 + np.sin(angle)))
  return porosity ** 2 + (value * weight * half).sum(-1) / (2 * np.pi)


def specific_surface(porosity: float, lambda2: float) -> float:
  """Interface area per volume: (2 / pi) sqrt(lambda2) exp(-u^2 / 2)."""
  return 2 / np.pi * np.sqrt(lambda2) * np.exp(-ndtri(porosity) ** 2 / 2)


def boundary_length(porosity: float, lambda2: float) -> float:
  """Interface length per area in a plane section: sqrt(lambda2) / 2 exp(-u^2/2)."""
  return np.sqrt(lambda2) / 2 * np.exp(-ndtri(porosity) ** 2 / 2)


def mean_chord(porosity: float, lambda2: float) -> float:
  """Mean pore chord 4 phi / s."""
  return 4 * porosity / specific_surface(porosity, lambda2)


def euler_density(porosity: float, lambda2: float) -> float:
  """Euler number per volume of the solid {g > u}."""
  u = ndtri(porosity)
  return lambda2 ** 1.5 * (u * u - 1) * np.exp(-u * u / 2) / (2 * np.pi) ** 2


def boolean_porosity(intensity: float, mean_volume: float) -> float:
  """Uncovered fraction exp(-intensity * mean volume)."""
  return np.exp(-intensity * mean_volume)


def boolean_specific_surface(intensity: float, mean_volume: float,
                             mean_surface: float) -> float:
  """Interface area per volume of the union."""
  return intensity * mean_surface * np.exp(-intensity * mean_volume)


def boolean_mean_chord(intensity: float, mean_surface: float) -> float:
  """Mean chord 4 / (intensity S) of the uncovered phase (exponential)."""
  return 4 / (intensity * mean_surface)


def boolean_two_point_probability(r, intensity: float, radius: float) -> np.ndarray:
  """S2 of the uncovered phase for spheres of one radius."""
  volume = 4 / 3 * np.pi * radius ** 3
  q = np.clip(np.asarray(r, float) / radius, 0, 2)
  common = volume * (1 - 0.75 * q + q ** 3 / 16)
  return np.exp(-intensity * (2 * volume - common))


def boolean_euler_density(intensity: float, mean_volume: float, mean_surface: float,
                          mean_curvature: float) -> float:
  """Euler number per volume of the union (Miles), isotropic convex grains."""
  return intensity * np.exp(-intensity * mean_volume) * (
      1 - intensity * mean_curvature * mean_surface / (4 * np.pi)
      + np.pi * intensity ** 2 * mean_surface ** 3 / 384)
