"""Simulated FIB-SEM films with exact truth: presets and the one call that makes them.

A film is an image stack uint16 [z, y, x] and the truth uint8 (0 pore, 1 solid): the
geometry at exactly the exposed planes, no partial volumes. Geometry lives on an
isotropic grid of the in-plane pixel; a slice is a whole number of its planes. All
randomness follows from one seed and the preset's name (films of one seed differ);
geometry, artefacts and every slice have streams of their own, so the structure stays
the same under another brightness, noise or artefact. Only what enlarges the grid
(drift, deeper rays) draws another structure.
"""
import zlib
from dataclasses import asdict, dataclass, replace
from typing import NamedTuple

import numpy as np

from fibjax.errors import InputError, unknown
from fibjax.simulation import formulas, microscope, structure
from fibjax.simulation.artefacts import (
  Artefacts,
  Drawn,
  apply_artefacts,
  choose_artefacts,
  describe,
  draw_artefacts,
)
from fibjax.simulation.fields import Spectrum
from fibjax.simulation.microscope import Imaging
from fibjax.simulation.structure import Structure


@dataclass(frozen=True)
class Geometry:
  """A random structure; lengths in px of the fine grid (spec 7.6).

  match_porosity shifts the level so that the film's exposed planes have the nominal
  porosity: the slow field otherwise moves a film of a few micrometres by several
  points. Inside the film regions scatter as before.
  """
  porosity: float
  spectrum: Spectrum = Spectrum()
  slow_length_px: float = 200.0
  slow_amplitude: float = 0.0
  match_porosity: bool = True
  porosity_trend: float = 0.0  # porosity changes from -trend to +trend over the stack
  sheets: bool = False         # two-sided cut: thin walls
  strut_share: float = 0.0     # share of -log(porosity) taken by cylinders
  strut_radius_px: float = 6.0
  strut_length_px: float = 600.0


@dataclass(frozen=True)
class FilmPreset:
  """Geometry, imaging and voxel size of a film."""
  name: str
  geometry: Geometry
  imaging: Imaging
  voxel_size_zyx_nm: tuple[float, float, float] = (50.0, 10.0, 10.0)


class Film(NamedTuple):
  """A simulated stack and its truth."""
  image_zyx: np.ndarray   # uint16
  truth_zyx: np.ndarray   # uint8, 0 pore, 1 solid
  voxel_size_zyx_nm: tuple[float, float, float]
  meta: dict              # JSON-able: parameters, seed, every artefact, porosity


PRESETS = {
  # Brightness parameters reproduce what Otsu's threshold makes of the published
  # samples (spec 7.5); geometry their porosity, chords and region scatter (7.6).
  'HPC22': FilmPreset(
      'HPC22',
      Geometry(0.217, Spectrum(length_px=13.5), slow_amplitude=0.27),
      Imaging(back_length_nm=600.0, shading_power=0.5, dark=0.30, texture=0.10,
              electrons=40.0, read_noise=0.08)),
  'HPC30': FilmPreset(
      'HPC30',
      Geometry(0.295, Spectrum(length_px=14.0), slow_amplitude=0.25),
      Imaging(back_length_nm=400.0, shading_power=0.4, dark=0.15, texture=0.04,
              electrons=120.0, read_noise=0.03)),
  'HPC45': FilmPreset(
      'HPC45',
      Geometry(0.449, Spectrum(length_px=15.8), slow_amplitude=0.31),
      Imaging(back_length_nm=800.0, shading_power=0.6, dark=0.15, texture=0.06,
              electrons=80.0, read_noise=0.05)),
  # A membrane of thin walls and struts; its properties change along z, without
  # which training slices from the top would be as good as slices from everywhere.
  'MEM80': FilmPreset(
      'MEM80',
      Geometry(0.80, Spectrum('shell', length_px=140.0), slow_amplitude=0.15,
               porosity_trend=0.05, sheets=True, strut_share=0.5),
      Imaging(back_length_nm=1000.0, max_depth_nm=3000.0, shading_power=0.5,
              dark=0.15, texture=0.06, electrons=80.0, read_noise=0.05, trend=0.10),
      voxel_size_zyx_nm=(30.0, 10.0, 10.0)),
}
PRESETS['MEM80FLAT'] = replace(  # the same without trends along z
    PRESETS['MEM80'], name='MEM80FLAT',
    geometry=replace(PRESETS['MEM80'].geometry, porosity_trend=0.0),
    imaging=replace(PRESETS['MEM80'].imaging, trend=0.0))


def find_preset(preset: str | FilmPreset) -> FilmPreset:
  """A preset by name, or the preset given.

  Raises:
    InputError: for an unknown name.
  """
  if isinstance(preset, FilmPreset):
    return preset
  if preset not in PRESETS:
    raise unknown('preset', preset, PRESETS, 'name a preset or pass a FilmPreset')
  return PRESETS[preset]


def simulate_film(preset: str | FilmPreset, shape_zyx: tuple[int, int, int],
                  seed: int, *, geometry: np.ndarray | Structure | None = None,
                  geometry_scale: int = 4, artefacts: str | Artefacts = 'mild',
                  shine_through: float = 1.0) -> Film:
  """Simulates a film: structure, microscope, artefacts (spec 7).

  Args:
    preset: a name in PRESETS or a FilmPreset.
    shape_zyx: slices, rows, columns of the image.
    seed: >= 0; fixes everything.
    geometry: a real binary volume [z, y, x] (1 = solid) instead of the preset's
      random one, scaled up by geometry_scale and tiled by mirroring; or a Structure
      of at least structure_shape(...).
    geometry_scale: fine voxels per voxel of that volume.
    artefacts: 'none' | 'mild' | 'real' or Artefacts.
    shine_through: scales the brightness of all pore-backs; 0 = none.

  Raises:
    InputError: for unknown names, a bad shape, voxel size, geometry or scale.
  """
  preset = find_preset(preset)
  strengths = choose_artefacts(artefacts)
  if len(shape_zyx) != 3 or min(shape_zyx) < 1:
    raise InputError('shape_zyx', got=shape_zyx, expected='three positive numbers',
                     remedy='give slices, rows and columns')
  if seed != int(seed) or seed < 0:
    raise InputError('seed', got=seed, expected='an integer >= 0',
                     remedy='seeds name a film; give a whole number')
  if not shine_through >= 0:
    raise InputError('shine_through', got=shine_through, expected='a number >= 0',
                     remedy='0 switches pore-backs off, 1 is the preset')
  step, pixel_nm = _planes_per_slice(preset)
  stream = (seed, zlib.crc32(preset.name.encode()))
  imaging = replace(preset.imaging,
                    shine_through=preset.imaging.shine_through * shine_through)
  drawn = draw_artefacts(strengths, shape_zyx, step, pixel_nm,
                                          (*stream, 1))
  needed = structure_shape(preset, shape_zyx, drawn)
  source = _source(preset, geometry, geometry_scale, needed, shape_zyx, drawn,
                   stream)
  image_zyx, truth_zyx = _image_stack(source, imaging, shape_zyx, pixel_nm, drawn,
                                      stream)
  meta = {
    'preset': preset.name, 'seed': seed, 'shape_zyx': list(map(int, shape_zyx)),
    'voxel_size_zyx_nm': list(preset.voxel_size_zyx_nm),
    'geometry': (asdict(preset.geometry) if geometry is None else
                 {'source': 'given', 'scale': geometry_scale}),
    'imaging': asdict(imaging), 'artefacts': asdict(strengths),
    'drawn': describe(drawn),
    'porosity': float(np.mean(truth_zyx == 0)),
    'porosity_per_slice': np.round((truth_zyx == 0).mean((1, 2)), 6).tolist(),
  }
  return Film(image_zyx, truth_zyx, preset.voxel_size_zyx_nm, meta)


def _planes_per_slice(preset: FilmPreset) -> tuple[int, float]:
  """Fine planes per slice and the pixel size in nm."""
  z_nm, y_nm, x_nm = preset.voxel_size_zyx_nm
  if y_nm != x_nm or min(z_nm, y_nm) <= 0 or abs(z_nm / y_nm % 1) > 1e-9:
    raise InputError('voxel_size_zyx_nm', got=preset.voxel_size_zyx_nm,
                     expected='square pixels and slices of whole pixels',
                     remedy='for example 50, 10, 10')
  return round(z_nm / y_nm), y_nm


def structure_shape(preset: FilmPreset, shape_zyx: tuple[int, int, int],
                    drawn: Drawn | None = None
                    ) -> tuple[int, int, int]:
  """Fine voxels a structure must have for a film: depth and rows for the rays, drift.

  Without drawn artefacts: for a stack without drift and thickness jitter.
  """
  step, pixel_nm = _planes_per_slice(preset)
  last = step * (shape_zyx[0] - 1) if drawn is None else drawn.planes[-1]
  drift = (0, 0) if drawn is None else drawn.shift_k2.max(axis=0).tolist()
  return (last + 1 + microscope.max_depth_planes(preset.imaging, pixel_nm),
          shape_zyx[1] + microscope.extra_rows(preset.imaging, pixel_nm) + drift[0],
          shape_zyx[2] + drift[1])


def _source(preset, geometry, scale, needed, shape_zyx, drawn, stream) -> Structure:
  """The structure to image: the preset's, a given one, or a real volume."""
  if geometry is None:
    return random_structure(preset.geometry, needed, drawn.planes, shape_zyx[1:],
                            (*stream, 0))
  if not isinstance(geometry, Structure):
    return structure.from_volume(geometry, needed, scale)
  if any(have < n for have, n in zip(geometry.shape_zyx, needed, strict=True)):
    raise InputError('geometry', got=f'a structure of {geometry.shape_zyx}',
                     expected=f'at least {needed} fine voxels',
                     remedy='rays need depth below the last slice and rows beside it')
  return geometry


def random_structure(geometry: Geometry, shape_zyx: tuple[int, int, int],
                     planes: tuple[int, ...], shape_yx: tuple[int, int],
                     seed: tuple[int, ...]) -> Structure:
  """Draws the structure of a Geometry on the fine grid.

  Args:
    geometry: the model.
    shape_zyx: fine voxels.
    planes: exposed planes; trends run from the first to the last of them.
    shape_yx: rows and columns of the image, where match_porosity holds.
    seed: of the structure.
  """
  profile = np.full(shape_zyx[0], geometry.porosity)
  if geometry.porosity_trend:
    profile += geometry.porosity_trend * _trend(np.arange(shape_zyx[0]), planes[-1])
  struts, uncovered = None, 1.0
  if geometry.strut_share:
    uncovered = geometry.porosity ** geometry.strut_share
    volume, *_ = formulas.grain_moments(geometry.strut_radius_px,
                                        geometry.strut_length_px)
    struts = structure.boolean(
        shape_zyx, formulas.boolean_intensity(uncovered, volume),
        geometry.strut_radius_px, (*seed, 1), length_px=geometry.strut_length_px)
  match = None
  if geometry.match_porosity:
    match = structure.Match(geometry.porosity, planes, shape_yx, struts)
  rest = structure.level_cut(
      shape_zyx, geometry.spectrum, profile / uncovered, (*seed, 0),
      slow_length_px=geometry.slow_length_px, sheets=geometry.sheets,
      slow_amplitude=geometry.slow_amplitude, match=match)
  return rest if struts is None else structure.union(rest, struts)


def _trend(z, last):
  """-1 at plane 0 to 1 at the last exposed plane and below it."""
  return np.minimum(2 * z / max(last, 1) - 1, 1)


def _image_stack(source, imaging, shape_zyx, pixel_nm, drawn, stream):
  """Images every exposed plane; returns image uint16 and truth uint8 [z, y, x]."""
  image_zyx = np.empty(shape_zyx, np.uint16)
  truth_zyx = np.empty(shape_zyx, np.uint8)
  for exposed in microscope.expose(source, drawn.planes, imaging, pixel_nm):
    k = exposed.index
    y, x = drawn.shift_k2[k]
    frame = np.s_[y:y + shape_zyx[1], x:x + shape_zyx[2]]
    view = microscope.Exposure(k, *(a[frame] for a in exposed[1:]))
    rng = np.random.default_rng((*stream, 2, k))
    trend = float(_trend(drawn.planes[k], drawn.planes[-1]))
    image_yx = microscope.ideal_slice(view, imaging, pixel_nm, rng, trend)
    image_yx = microscope.add_noise(image_yx, imaging, rng)
    image_yx = apply_artefacts(image_yx, view.solid_yx, k, drawn)
    image_zyx[k] = microscope.quantise(image_yx, imaging.counts_per_unit)
    truth_zyx[k] = view.solid_yx
  for k in drawn.missing:
    image_zyx[k] = image_zyx[k - 1]
  return image_zyx, truth_zyx
