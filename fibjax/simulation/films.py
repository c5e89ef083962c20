"""Simulated FIB-SEM films with exact ground truth (§7): presets, and `simulate_film`.

A film is an image stack uint16 [z, y, x] and its truth uint8 (0 pore, 1 solid): the
geometry at exactly the exposed planes, without partial volumes. The geometry is defined
on an isotropic grid of the in-plane pixel; a slice is a whole number of its planes. All
randomness follows from one seed and the name of the preset (films of one seed differ).
Geometry, artefacts and each slice have separate random streams, so the structure stays
the same under another brightness, noise or artefact. Only settings that enlarge the
grid (drift, deeper rays) change the structure.
"""
import zlib
from dataclasses import asdict, dataclass, replace
from typing import NamedTuple

import numpy as np

from fibjax.errors import InputError, unknown
from fibjax.simulation import microscope, structure
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
  """Parameters of a random structure; lengths in px of the fine grid (§7.6).

  match_porosity shifts the level so that the exposed planes of the film have the
  nominal porosity, from which the slow field otherwise moves a film of a few
  micrometres by several points. Regions within the film scatter as before.
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
  """Geometry, imaging and voxel size (nm; z, y, x) of a film."""
  name: str
  geometry: Geometry
  imaging: Imaging
  voxel_size_zyx_nm: tuple[float, float, float] = (50.0, 10.0, 10.0)


class Film(NamedTuple):
  """A simulated stack and its ground truth.

  Attributes:
    image_zyx: [z, y, x] uint16 grey values.
    truth_zyx: [z, y, x] uint8, 0 pore, 1 solid.
    voxel_size_zyx_nm: z, y, x.
    meta: JSON-able dict: parameters, seed, every artefact drawn, porosity.
  """
  image_zyx: np.ndarray
  truth_zyx: np.ndarray
  voxel_size_zyx_nm: tuple[float, float, float]
  meta: dict


PRESETS = {
  # Brightness parameters reproduce the scores of Otsu's threshold on the published
  # samples (§7.5); geometry their porosity, chords and scatter of regions (§7.6).
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
  # A membrane of thin walls and struts. Its properties change along z; otherwise
  # training slices from the top would be as good as slices from everywhere.
  'MEM80': FilmPreset(
      'MEM80',
      Geometry(0.80, Spectrum('shell', length_px=140.0), slow_amplitude=0.15,
               porosity_trend=0.05, sheets=True, strut_share=0.5),
      Imaging(back_length_nm=1000.0, max_depth_nm=3000.0, shading_power=0.5,
              dark=0.15, texture=0.06, electrons=80.0, read_noise=0.05, trend=0.10),
      voxel_size_zyx_nm=(30.0, 10.0, 10.0)),
}
PRESETS['MEM80FLAT'] = replace(  # MEM80 without trends along z
    PRESETS['MEM80'], name='MEM80FLAT',
    geometry=replace(PRESETS['MEM80'].geometry, porosity_trend=0.0),
    imaging=replace(PRESETS['MEM80'].imaging, trend=0.0))


def find_preset(preset: str | FilmPreset) -> FilmPreset:
  """Preset of that name; a FilmPreset is returned as it is.

  Raises:
    InputError: for an unknown name, naming the nearest one.
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
  """Simulates a film: structure, microscope, artefacts (§7).

  Time and memory grow with the fine grid, which is deeper than the film (by 2 um in the
  presets, the depth of vision into pores) and taller: 100 slices of 1000 x 1000 pixels
  need a grid of about 700 x 1140 x 1000 voxels, read in slabs.

  Args:
    preset: a name in `PRESETS` ('HPC22', 'HPC30', 'HPC45', 'MEM80') or a FilmPreset.
    shape_zyx: slices, rows and columns of the image.
    seed: integer >= 0; determines everything.
    geometry: a real binary volume [z, y, x] (1 = solid) instead of the random one of
      the preset, scaled up by geometry_scale and tiled by mirroring; or a Structure of
      at least `structure_shape` fine voxels, e.g. `structure.from_array`.
    geometry_scale: fine voxels per voxel of that volume.
    artefacts: 'none', 'mild', 'real' or Artefacts.
    shine_through: factor of the brightness of all pore-backs; 0 = none.

  Returns:
    Film: image_zyx uint16, truth_zyx uint8 (0 pore, 1 solid), voxel_size_zyx_nm, meta.

  Raises:
    InputError: for an unknown name, or a bad shape, seed, voxel size, geometry or
      scale.

  Example:
    >>> import fibjax
    >>> film = fibjax.simulate_film('HPC30', (4, 48, 64), seed=1)
    >>> film.image_zyx.shape, str(film.image_zyx.dtype), film.voxel_size_zyx_nm
    ((4, 48, 64), 'uint16', (50.0, 10.0, 10.0))
    >>> film.meta['porosity'] == float((film.truth_zyx == 0).mean())
    True
  """
  preset = find_preset(preset)
  strengths = choose_artefacts(artefacts)
  check_film(shape_zyx, seed, shine_through)
  step, pixel_nm = _planes_per_slice(preset)
  stream = (seed, zlib.crc32(preset.name.encode()))
  imaging = replace(preset.imaging,
                    shine_through=preset.imaging.shine_through * shine_through)
  drawn = draw_artefacts(strengths, shape_zyx, step, pixel_nm, (*stream, 1))
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


def check_film(shape_zyx, seed, shine_through: float = 1.0) -> None:
  """Raises InputError for a bad shape, seed or strength of pore-backs."""
  if len(shape_zyx) != 3 or min(shape_zyx) < 1 or any(n % 1 for n in shape_zyx):
    raise InputError('shape_zyx', got=shape_zyx, expected='three positive integers',
                     remedy='give slices, rows and columns')
  if seed % 1 or seed < 0:
    raise InputError('seed', got=seed, expected='an integer >= 0',
                     remedy='give a whole number; it identifies the film')
  if not shine_through >= 0:
    raise InputError('shine_through', got=shine_through, expected='a number >= 0',
                     remedy='0 switches pore-backs off, 1 is the preset')


def _planes_per_slice(preset: FilmPreset) -> tuple[int, float]:
  """Fine planes per slice and the pixel size in nm."""
  z_nm, y_nm, x_nm = preset.voxel_size_zyx_nm
  if y_nm != x_nm or min(z_nm, y_nm) <= 0 or abs(z_nm / y_nm % 1) > 1e-9:
    raise InputError('voxel_size_zyx_nm', got=preset.voxel_size_zyx_nm,
                     expected='square pixels and slices of whole pixels',
                     remedy='for example 50, 10, 10')
  return round(z_nm / y_nm), y_nm


def structure_shape(preset: FilmPreset, shape_zyx: tuple[int, int, int],
                    drawn: Drawn | None = None) -> tuple[int, int, int]:
  """Fine voxels that a structure must have for a film, z, y, x.

  More than the image: depth and rows for the rays, room for drift.

  Args:
    preset: of the film.
    shape_zyx: slices, rows, columns of the image.
    drawn: artefacts; None for a stack without drift and variation of thickness.
  """
  step, pixel_nm = _planes_per_slice(preset)
  last = step * (shape_zyx[0] - 1) if drawn is None else drawn.planes[-1]
  drift = (0, 0) if drawn is None else drawn.shift_k2.max(axis=0).tolist()
  return (last + 1 + microscope.max_depth_planes(preset.imaging, pixel_nm),
          shape_zyx[1] + microscope.extra_rows(preset.imaging, pixel_nm) + drift[0],
          shape_zyx[2] + drift[1])


def _source(preset, geometry, scale, needed, shape_zyx, drawn, stream) -> Structure:
  """Structure to image: random as in the preset, given, or from a real volume."""
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
    geometry: parameters.
    shape_zyx: fine voxels.
    planes: exposed planes; trends run from the first to the last of them.
    shape_yx: rows and columns of the image, where match_porosity applies.
    seed: seed of the structure.
  """
  profile = np.full(shape_zyx[0], geometry.porosity)
  if geometry.porosity_trend:
    profile += geometry.porosity_trend * _trend(np.arange(shape_zyx[0]), planes[-1])
  struts, uncovered = None, 1.0
  if geometry.strut_share:
    uncovered = geometry.porosity ** geometry.strut_share
    volume, *_ = structure.grain_moments(geometry.strut_radius_px,
                                         geometry.strut_length_px)
    struts = structure.boolean(
        shape_zyx, structure.boolean_intensity(uncovered, volume),
        geometry.strut_radius_px, (*seed, 1), length_px=geometry.strut_length_px)
  match = None
  if geometry.match_porosity:
    match = structure.Match(geometry.porosity, planes, shape_yx, struts)
  # Solid is a union: struts that leave a fraction `uncovered` free, and walls of
  # porosity profile / uncovered between them, have the porosity of the profile.
  walls = structure.level_cut(
      shape_zyx, geometry.spectrum, profile / uncovered, (*seed, 0),
      slow_length_px=geometry.slow_length_px, sheets=geometry.sheets,
      slow_amplitude=geometry.slow_amplitude, match=match)
  return walls if struts is None else structure.union(walls, struts)


def _trend(z, last):
  """-1 at plane 0 to 1 at the last exposed plane and below it."""
  return np.minimum(2 * z / max(last, 1) - 1, 1)


def _image_stack(source, imaging, shape_zyx, pixel_nm, drawn, stream):
  """Images every exposed plane: image uint16 and truth uint8, [z, y, x]."""
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
