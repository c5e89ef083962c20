"""Films of random materials under random microscopes, to train on before any label.

Every film has a family of structures, a porosity of 10 to 85 %, a size of structures of
4 to 60 px, slices 1 to 10 px thick, a tilt of 0 to 54 degrees, and its own shine-
through, edges, noise, blur, gradients, curtains and charging. Solid is always brighter
than an empty pore: inverted contrast is left out, since a network could not tell which
phase is which. Lengths are in pixels, which count as 10 nm.

A film depends on its seed alone. Its random streams are those of a preset named
'random' (films.py), so no film of a preset has the same noise.
"""
import math
from collections.abc import Callable

import numpy as np

from fibjax.simulation import films, structure
from fibjax.simulation.artefacts import Artefacts
from fibjax.simulation.fields import Shape, Spectrum
from fibjax.simulation.films import Film, FilmPreset, Geometry
from fibjax.simulation.microscope import Imaging
from fibjax.simulation.structure import Structure

NAME = 'random'
POROSITY = (0.10, 0.85)
SIZE_PX = (4.0, 60.0)      # mean size of the pores or of the solid, roughly
PLANES = (1, 10)           # fine planes per slice
_PIXEL_NM = 10.0
_SHIFTS_PX = 12           # of single slices, at most
_FAMILY = 9                # random stream, apart from those of films.py

# Family -> how often it is drawn.
FAMILIES = {'gaussian': 4, 'mixture': 2, 'shell': 2, 'walls': 2, 'balls': 1,
            'holes': 2, 'fibres': 1, 'packing': 2}


def simulate_random_film(shape_zyx: tuple[int, int, int], seed: int) -> Film:
  """Simulates a film whose material and imaging are drawn at random.

  Args:
    shape_zyx: slices, rows and columns of the image.
    seed: integer >= 0; determines everything.

  Returns:
    Film; its meta has the family beside what was drawn.

  Raises:
    InputError: for a bad shape or seed.

  Example:
    >>> from fibjax.simulation.random_films import simulate_random_film
    >>> film = simulate_random_film((4, 48, 48), seed=3)
    >>> film.image_zyx.shape, 0.02 < film.meta['porosity'] < 0.98
    ((4, 48, 48), True)
  """
  films.check_film(shape_zyx, seed)
  rng = np.random.default_rng((seed, _FAMILY))
  names, odds = list(FAMILIES), np.array(list(FAMILIES.values()), float)
  family = names[rng.choice(len(names), p=odds / odds.sum())]
  planes = round(_log_uniform(rng, PLANES[0] - 0.49, PLANES[1] + 0.49))
  size_px = _log_uniform(rng, *SIZE_PX)
  porosity = rng.uniform(*POROSITY)
  preset = FilmPreset(NAME, Geometry(porosity), _draw_imaging(rng, size_px),
                      (planes * _PIXEL_NM, _PIXEL_NM, _PIXEL_NM))
  artefacts = _draw_artefacts(rng)
  # Slices of uneven thickness reach less than one slice deeper, shifted ones some
  # pixels further.
  needed = films.structure_shape(preset, (
      shape_zyx[0] + 1, *(n + _SHIFTS_PX for n in shape_zyx[1:])))
  source = _MAKERS[family](needed, porosity, size_px, rng)
  film = films.simulate_film(preset, shape_zyx, seed, geometry=source,
                             artefacts=artefacts)
  return film._replace(meta=film.meta | {'family': family, 'size_px': size_px,
                                         'wanted_porosity': porosity})


def _log_uniform(rng, low: float, high: float) -> float:
  return math.exp(rng.uniform(math.log(low), math.log(high)))


def _sometimes(rng, chance: float, value: float) -> float:
  return value if rng.random() < chance else 0.0


def _draw_imaging(rng, size_px: float) -> Imaging:
  # Deeper than several structures a ray hits something in any case.
  depth_nm = _PIXEL_NM * float(np.clip(10 * size_px, 40, 200))
  return Imaging(
      tilt_deg=rng.uniform(0, 54), max_depth_nm=depth_nm,
      interaction_nm=_log_uniform(rng, 8, 50), thin_wall=rng.uniform(0, 0.5),
      shading_nm=_log_uniform(rng, 30, 120), shading_power=rng.uniform(0, 0.8),
      back_brightness=rng.uniform(0.6, 1.2),
      back_length_nm=_log_uniform(rng, 60, 1500),
      edge=_sometimes(rng, 0.3, rng.uniform(0, 0.5)), dark=rng.uniform(0, 0.5),
      texture=rng.uniform(0, 0.12), texture_length_px=rng.uniform(1.2, 4),
      psf_px=rng.uniform(0.5, 1.8), electrons=_log_uniform(rng, 25, 1000),
      read_noise=_log_uniform(rng, 0.005, 0.1), trend=rng.uniform(0, 0.1),
      shine_through=_sometimes(rng, 0.9, rng.uniform(0.3, 1.0)),
      counts_per_unit=20000.0)


def _draw_artefacts(rng) -> Artefacts:
  return Artefacts(
      line=_sometimes(rng, 0.5, _log_uniform(rng, 0.002, 0.03)),
      gradient=rng.uniform(-0.15, 0.15), gain=rng.uniform(0, 0.03),
      offset=rng.uniform(0, 0.02),
      curtain=_sometimes(rng, 0.5, _log_uniform(rng, 0.005, 0.06)),
      charging_per_um2=_sometimes(rng, 0.3, _log_uniform(rng, 0.002, 0.02)),
      jitter_px=_sometimes(rng, 0.3, rng.uniform(0, 0.6)),
      thickness=_sometimes(rng, 0.5, rng.uniform(0, 0.3)))


# --- Families: (fine shape, porosity, size of structures in px, rng) -> Structure -----

def _level_cut(kind: str, sheets: bool = False) -> Callable[..., Structure]:
  """A cut Gaussian field; the structures of a 'gaussian' are about 1.7 lengths wide."""
  def make(shape_zyx: Shape, porosity, size_px, rng) -> Structure:
    length = {'gaussian': size_px / 1.7, 'mixture': size_px / 1.7,
              'shell': 2 * size_px}[kind]
    if sheets:  # the pore between two walls, not the wall, is of that size
      length, porosity = max(2 * size_px, 24.0), max(porosity, 0.4)
    spectrum = Spectrum(
        kind, length_px=max(length, 2.4), stretch_z=_log_uniform(rng, 0.7, 1.5),
        second_length_px=max(length * rng.uniform(0.3, 3), 2.4),
        share=rng.uniform(0.3, 0.9), bandwidth=rng.uniform(0.1, 0.35))
    return structure.level_cut(
        shape_zyx, spectrum, porosity, int(rng.integers(2 ** 62)), sheets=sheets,
        slow_amplitude=_sometimes(rng, 0.6, rng.uniform(0, 0.35)))
  return make


def _balls(shape_zyx, porosity, size_px, rng) -> Structure:
  radius, spread = max(size_px / 2, 4.0), rng.uniform(0, 0.4)
  volume, *_ = structure.grain_moments(radius, radius_cv=spread)
  return structure.boolean(
      shape_zyx, structure.boolean_intensity(porosity, volume), radius,
      int(rng.integers(2 ** 62)), radius_cv=spread)


def _holes(shape_zyx, porosity, size_px, rng) -> Structure:
  return structure.inverse(_balls(shape_zyx, 1 - porosity, size_px, rng))


def _fibres(shape_zyx, porosity, size_px, rng) -> Structure:
  radius = max(size_px / 3, 2.0)
  length = radius * rng.uniform(6, 30)
  volume, *_ = structure.grain_moments(radius, length)
  return structure.boolean(
      shape_zyx, structure.boolean_intensity(max(porosity, 0.35), volume), radius,
      int(rng.integers(2 ** 62)), length_px=length)


def _packing(shape_zyx, porosity, size_px, rng) -> Structure:
  return structure.packing(shape_zyx, min(porosity, 0.7), max(size_px / 2, 4.0),
                           int(rng.integers(2 ** 62)), radius_cv=rng.uniform(0, 0.4))


_MAKERS: dict[str, Callable[..., Structure]] = {
    'gaussian': _level_cut('gaussian'), 'mixture': _level_cut('mixture'),
    'shell': _level_cut('shell'), 'walls': _level_cut('shell', sheets=True),
    'balls': _balls, 'holes': _holes, 'fibres': _fibres, 'packing': _packing}
