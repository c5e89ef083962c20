"""Artefacts of a slice series, drawn once per stack and logged (§7.3, steps 8-9).

Artefacts shared between slices (curtains, charging, drift) are drawn before the first
slice and looked up by slice index, so slices can be made in any order, one at a time.
Every artefact has its own random stream: switching one off leaves the others
unchanged. Brightness units: solid flat section = 1. Shifts are whole pixels
and move image and truth alike, so the truth stays exact.
"""
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fibjax.errors import unknown
from fibjax.simulation.fields import smooth_noise


@dataclass(frozen=True)
class Artefacts:
  """Strengths of the artefacts; 0 switches one off."""
  line: float = 0.0              # sd of a row's offset, AR(1) from row to row
  gradient: float = 0.0          # total swing along the image rows
  gain: float = 0.0              # sd of a slice's gain
  offset: float = 0.0            # sd of a slice's offset
  curtain: float = 0.0           # sd of vertical stripes
  curtain_slices: float = 10.0   # correlation of the stripes along z
  charging_per_um2: float = 0.0  # charging blobs that begin, per slice area
  charging_low: float = 0.05     # their brightness, either sign, log-uniform
  charging_high: float = 0.4
  drift_px: float = 0.0          # random walk of the frame, sd per slice
  jitter_px: float = 0.0         # sd of the shift of a single slice
  thickness: float = 0.0         # sd of a slice's depth, as a share of the step
  missing: float = 0.0           # probability that a slice repeats the one before


ARTEFACTS = {
  'none': Artefacts(),
  'mild': Artefacts(line=0.005, gradient=0.06, gain=0.01, offset=0.005, curtain=0.01),
  'real': Artefacts(line=0.01, gradient=0.12, gain=0.02, offset=0.01, curtain=0.03,
                    charging_per_um2=0.004),
}


class Blob(NamedTuple):
  """A charging spot, present in slices [start, stop)."""
  start: int
  stop: int
  y: float
  x: float
  radius_px: float
  brightness: float


class Drawn(NamedTuple):
  """The artefacts of one stack."""
  artefacts: Artefacts
  seed: tuple[int, ...]
  planes: tuple[int, ...]        # exposed fine plane of each slice
  shift_k2: np.ndarray           # int (y, x) >= 0, corner of the frame per slice
  missing: tuple[int, ...]       # slices whose image repeats the one before
  gain_k: np.ndarray
  offset_k: np.ndarray
  curtain_kx: np.ndarray         # unit variance; empty when off
  curtain_y: np.ndarray          # how strong the curtains are down the rows
  blobs: tuple[Blob, ...]


def choose_artefacts(artefacts: str | Artefacts) -> Artefacts:
  """Strengths of a named level (none, mild, real); Artefacts are returned as they are.

  Raises:
    InputError: for an unknown name, naming the nearest one.
  """
  if isinstance(artefacts, Artefacts):
    return artefacts
  if artefacts not in ARTEFACTS:
    raise unknown('artefacts', artefacts, ARTEFACTS,
                  'name a level or pass Artefacts(...)')
  return ARTEFACTS[artefacts]


def draw_artefacts(artefacts: Artefacts, shape_zyx: tuple[int, int, int], step: int,
                   pixel_nm: float, seed: tuple[int, ...]) -> Drawn:
  """Draws all artefacts of a stack.

  Args:
    artefacts: strengths.
    shape_zyx: slices, rows and columns of the image.
    step: fine planes per slice.
    pixel_nm: pixel size.
    seed: seed of the artefacts of this stack.
  """
  n, ny, nx = shape_zyx
  a = artefacts

  def stream(number):
    return np.random.default_rng((*seed, number))

  depth = np.rint(a.thickness * step * stream(0).standard_normal(n))
  depth = np.clip(depth, -(step - 1) // 2, (step - 1) // 2).astype(int)
  # Less than half a step: the order of the exposed planes stays that of the slices.
  planes = step * np.arange(n) + depth
  planes -= min(planes[0], 0)
  walk = np.cumsum(a.drift_px * stream(1).standard_normal((n, 2)), axis=0)
  shift = np.rint(walk + a.jitter_px * stream(2).standard_normal((n, 2))).astype(int)
  curtain_kx = np.zeros((0, nx), np.float32)
  curtain_y = np.ones(ny, np.float32)
  if a.curtain:
    curtain_kx = _curtains(n, nx, a.curtain_slices, stream(6))
    # Curtains start at a pore somewhere and fade: strength varies down the rows.
    curtain_y += 0.4 * smooth_noise((ny,), max(ny / 4, 1.0), stream(7))
  return Drawn(
      artefacts=a, seed=tuple(seed), planes=tuple(planes.tolist()),
      shift_k2=shift - shift.min(axis=0),
      missing=tuple((1 + np.flatnonzero(stream(3).random(n - 1) < a.missing)).tolist()),
      gain_k=1 + a.gain * stream(4).standard_normal(n),
      offset_k=a.offset * stream(5).standard_normal(n),
      curtain_kx=curtain_kx, curtain_y=curtain_y,
      blobs=_charging(a, shape_zyx, pixel_nm, stream(8)))


def _curtains(n, nx, correlation, rng):
  """Stripe profiles [slice, column]: three widths, AR(1) along z, unit variance."""
  keep = math.exp(-1 / correlation)
  profile = np.zeros((n, nx), np.float32)
  for width in (2.0, 6.0, 20.0):
    state = smooth_noise((nx,), width, rng)
    for k in range(n):
      profile[k] += state / math.sqrt(3)
      fresh = smooth_noise((nx,), width, rng)
      state = keep * state + math.sqrt(1 - keep ** 2) * fresh
  return profile


def _charging(a, shape_zyx, pixel_nm, rng):
  """Charging blobs: place, lifetime of 1 to 5 slices, radius 0.3 to 2 um, sign."""
  n, ny, nx = shape_zyx
  area_um2 = ny * nx * pixel_nm ** 2 / 1e6
  blobs = []
  for _ in range(rng.poisson(a.charging_per_um2 * area_um2 * n)):
    start = int(rng.integers(n))
    size = math.exp(rng.uniform(math.log(300), math.log(2000))) / pixel_nm
    level = math.exp(rng.uniform(math.log(a.charging_low), math.log(a.charging_high)))
    blobs.append(Blob(start, min(start + int(rng.integers(1, 6)), n),
                      float(rng.uniform(0, ny)), float(rng.uniform(0, nx)), size,
                      level * float(rng.choice([-1.0, 1.0]))))
  return tuple(blobs)


def apply_artefacts(image_yx: np.ndarray, solid_yx: np.ndarray, k: int,
                    drawn: Drawn) -> np.ndarray:
  """Adds the artefacts of slice k to a noisy slice.

  Charging brightens or darkens the solid, which is the insulator.

  Args:
    image_yx: float32 brightness.
    solid_yx: bool truth of that slice.
    k: slice index.
    drawn: of `draw_artefacts`.
  """
  a = drawn.artefacts
  ny, nx = image_yx.shape
  image_yx = image_yx.copy()
  for blob in drawn.blobs:
    if blob.start <= k < blob.stop:
      bump_y = np.exp(-0.5 * ((np.arange(ny) - blob.y) / blob.radius_px) ** 2)
      bump_x = np.exp(-0.5 * ((np.arange(nx) - blob.x) / blob.radius_px) ** 2)
      image_yx += blob.brightness * np.outer(bump_y, bump_x) * (0.3 + 0.7 * solid_yx)
  if a.curtain:
    image_yx += a.curtain * np.outer(drawn.curtain_y, drawn.curtain_kx[k])
  if a.gradient:
    row = np.arange(ny) - (ny - 1) / 2
    image_yx += (a.gradient * row / max(ny - 1, 1))[:, None]
  if a.line:
    image_yx += a.line * _row_noise(ny, np.random.default_rng((*drawn.seed, 9, k)))
  return (image_yx * drawn.gain_k[k] + drawn.offset_k[k]).astype(np.float32)


def _row_noise(ny, rng, keep=0.5):
  """AR(1) offsets of the rows, unit variance: [y, 1]."""
  offset = rng.standard_normal(ny)
  for row in range(1, ny):
    offset[row] = keep * offset[row - 1] + math.sqrt(1 - keep ** 2) * offset[row]
  return offset[:, None]


def describe(drawn: Drawn) -> dict:
  """The drawn artefacts as JSON; strengths are among the parameters of the film."""
  return {
    'exposed_planes': list(drawn.planes),
    'shift_yx_px': drawn.shift_k2.tolist(),
    'missing_slices': list(drawn.missing),
    'gain': np.round(drawn.gain_k, 6).tolist(),
    'offset': np.round(drawn.offset_k, 6).tolist(),
    'gradient_per_row': drawn.artefacts.gradient / max(len(drawn.curtain_y) - 1, 1),
    'charging': [blob._asdict() for blob in drawn.blobs],
  }
