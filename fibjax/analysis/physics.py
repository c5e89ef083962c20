"""Physical quantities of one segmented volume, and comparison of two volumes.

`analyse` collects the measurements of the other modules of this package as plain JSON,
lengths in nm, and `numbers` lists those that describe the medium. `compare` puts the
numbers of a segmentation beside those of the truth, or of another sampling of the same
body.
"""
import math

import numpy as np

from fibjax.analysis import (
  chords,
  cluster_function,
  connectivity,
  geodesic,
  intrusion,
  permeability,
  pore_size,
  profiles,
  specific_surface,
  transport,
)
from fibjax.analysis.phases import AXES, axis_index, find_pore

QUANTILES = {'p10_nm': 0.1, 'median_nm': 0.5, 'p90_nm': 0.9}
_PORE_SIZES = ('mean_nm', *QUANTILES)
_S2_LAGS_NM = (50, 100, 200, 400)  # where S2 counts as a number, to whole steps


def central_box(shape, voxel_size_zyx_nm, voxels: float
                ) -> tuple[tuple[int, ...], tuple[int, ...]]:
  """Central box of equal edges in nm with no more voxels than given.

  Args:
    shape: voxels of the volume along z, y, x.
    voxel_size_zyx_nm: voxel size along z, y, x, nm.
    voxels: limit of the number of voxels, at least 1.

  Returns:
    start and stop; an axis shorter than the edge is kept whole.
  """
  def lengths(edge_nm):
    return [max(1, min(n, math.floor(edge_nm / size)))
            for n, size in zip(shape, voxel_size_zyx_nm, strict=True)]
  low = min(voxel_size_zyx_nm)
  high = max(n * size for n, size in zip(shape, voxel_size_zyx_nm, strict=True))
  if math.prod(shape) <= voxels:
    low = high
  # The number of voxels grows with the edge, so bisection finds the longest edge.
  while high - low > min(voxel_size_zyx_nm) / 2:
    middle = (low + high) / 2
    fits = math.prod(lengths(middle)) <= voxels
    low, high = (middle, high) if fits else (low, middle)
  edges = lengths(low)
  start = tuple((n - edge) // 2 for n, edge in zip(shape, edges, strict=True))
  return start, tuple(a + edge for a, edge in zip(start, edges, strict=True))


def analyse(labels_zyx, voxel_size_zyx_nm, *, flow_axes: str = AXES,
            stokes_axes: str = '', max_lag_nm: float = 1000.0,
            tolerance: float = 0.05) -> dict:
  """Measures the physical quantities of a volume.

  Args:
    labels_zyx: [z, y, x] 0 pore, 1 solid.
    voxel_size_zyx_nm: voxel size along z, y, x, nm.
    flow_axes: axes along which diffusion is solved, the longest part of the work.
    stokes_axes: axes along which slow flow is solved, which takes many times as long.
    max_lag_nm: longest distance of the S2 and C2 curves.
    tolerance: relative error of the porosity for the representative volume.

  Returns:
    JSON-able dict: shape_zyx, voxel_size_zyx_nm, porosity;
    profile {axis: {position_nm, porosity}}; representative (as
    `profiles.Representative`, with tolerance); pore_size {diameter_nm, share, mean_nm,
    p10_nm, median_nm, p90_nm}; intrusion, from all faces {diameter_nm, share,
    median_nm}; constrictivity; breakthrough_nm {axis: diameter}; chords {phase: {axis:
    {mean_nm, corrected_nm, share_beyond}}}; s2 {axis: {lag_nm, s2}}; c2 {axis: {lag_nm,
    c2}}; specific_surface {z_per_um, y_per_um, x_per_um, per_um}; percolation {axis:
    share}; euler_per_um3; geodesic_tortuosity {axis: ratio}; transport {axis: as
    `transport.Transport`}; formation_factor {axis: ratio};
    with stokes_axes also permeability {axis: as `permeability.Permeability`}.
    Undefined quantities are None.

  Raises:
    InputError: as `phases.find_pore`, for one phase only, fewer than 3 voxels along an
      axis, or an unknown axis.
  """
  for axis in stokes_axes:
    axis_index(axis)
  essential, sizes = _essentials(labels_zyx, voxel_size_zyx_nm, flow_axes)
  volume = np.asarray(labels_zyx), essential['voxel_size_zyx_nm']
  throats = intrusion.intrusion(*volume)
  result = {
      **essential,
      'profile': profiles.porosity_profiles(*volume),
      'representative': {
          'tolerance': tolerance,
          **profiles.representative_volume(*volume, tolerance)._asdict()},
      'intrusion': {'diameter_nm': throats.diameter_k, 'share': throats.share_k,
                    'median_nm': intrusion.median_diameter(throats)},
      'constrictivity': intrusion.constrictivity(throats, sizes),
      'breakthrough_nm': intrusion.breakthrough_diameters(*volume),
      's2': specific_surface.s2_curves(*volume, max_lag_nm),
      'c2': cluster_function.c2_curves(*volume, max_lag_nm),
      'geodesic_tortuosity': geodesic.geodesic_tortuosity(*volume),
  }
  if stokes_axes:
    result['permeability'] = {axis: permeability.permeability(*volume, axis)
                              for axis in stokes_axes}
  return _plain(result)


def key_numbers(labels_zyx, voxel_size_zyx_nm, flow_axes: str = AXES
                ) -> dict[str, float | None]:
  """Measures the quantities that intervals are made for: about half the time.

  Porosity, pore sizes, chords, S2 at some distances, specific surface, connectivity,
  Euler number and diffusion.

  Args and errors as `analyse`.

  Returns:
    Path -> number, some of `numbers`.
  """
  return numbers(_plain(_essentials(labels_zyx, voxel_size_zyx_nm, flow_axes)[0]))


def _essentials(labels_zyx, voxel_size_zyx_nm, flow_axes: str
                ) -> tuple[dict, pore_size.PoreSizes]:
  """The part of `analyse` behind `key_numbers`, and the pore sizes."""
  for axis in flow_axes:
    axis_index(axis)
  pore_zyx, size = find_pore(labels_zyx, voxel_size_zyx_nm)
  volume = np.asarray(labels_zyx), size
  sizes = pore_size.pore_sizes(*volume)
  surface = specific_surface.specific_surface(*volume)
  flows = {axis: transport.effective_diffusivity(*volume, axis) for axis in flow_axes}
  return {
      'shape_zyx': pore_zyx.shape, 'voxel_size_zyx_nm': size,
      'porosity': pore_zyx.mean(), 'pore_size': _pore_size(sizes),
      'chords': {phase: _chords(chords.find_chords(*volume, phase))
                 for phase in chords.PHASES},
      'specific_surface': {
          **{f'{axis}_per_um': value
             for axis, value in zip(AXES, surface.zyx_per_um, strict=True)},
          'per_um': surface.per_um},
      's2': specific_surface.s2_curves(*volume, 1.5 * max(_S2_LAGS_NM)),
      'percolation': connectivity.percolation(*volume),
      'euler_per_um3': connectivity.euler_density(*volume),
      'transport': flows,
      'formation_factor': {axis: transport.formation_factor(flow)
                           for axis, flow in flows.items()}}, sizes


def compare(measured: dict, truth: dict) -> dict:
  """Compares two results of `analyse`.

  Args:
    measured: result for a segmentation.
    truth: result for the truth; its voxels may have another size.

  Returns:
    JSON-able dict: quantities {name: {found, truth, relative_error}} for every
    number that describes the medium, e.g. 'pore_size.mean_nm' or
    'transport.z.relative_diffusivity', found the number of `measured` and
    relative_error = (found - truth) / |truth|, None where either is undefined or the
    truth is 0; and pore_size_distance_nm, the Wasserstein-1 distance of the pore sizes.
  """
  ours, true_numbers = numbers(measured), numbers(truth)
  sizes = [pore_size.PoreSizes(np.array(result['pore_size']['diameter_nm']),
                               np.array(result['pore_size']['share']))
           for result in (measured, truth)]
  return {'quantities': {
              name: {'found': number, 'truth': true_numbers[name],
                     'relative_error': _relative_error(number, true_numbers[name])}
              for name, number in ours.items() if name in true_numbers},
          'pore_size_distance_nm': pore_size.size_distance(*sizes)}


def _pore_size(sizes: pore_size.PoreSizes) -> dict:
  return {'diameter_nm': sizes.diameter_k, 'share': sizes.share_k,
          'mean_nm': pore_size.mean_diameter(sizes),
          **{name: pore_size.diameter_quantile(sizes, share)
             for name, share in QUANTILES.items()}}


def _chords(chords_of_axis: dict[str, chords.Chords]) -> dict:
  rows = {}
  for axis, counts in chords_of_axis.items():
    corrected, beyond = chords.mean_corrected(counts)
    rows[axis] = {'mean_nm': chords.mean_inside(counts), 'corrected_nm': corrected,
                  'share_beyond': beyond}
  return rows


def numbers(result: dict) -> dict[str, float | None]:
  """Numbers that describe the medium in a result of `analyse`, by their path."""
  found = {'porosity': result['porosity']}
  found |= {f'pore_size.{name}': result['pore_size'][name] for name in _PORE_SIZES}
  if 'intrusion' in result:
    found['intrusion.median_nm'] = result['intrusion']['median_nm']
    found['constrictivity'] = result['constrictivity']
  for phase, rows in result['chords'].items():
    found |= {f'chords.{phase}.{axis}': row['corrected_nm']
              for axis, row in rows.items()}
  for quantity in ('breakthrough_nm', 'specific_surface', 'percolation',
                   'geodesic_tortuosity', 'formation_factor'):
    found |= {f'{quantity}.{name}': value
              for name, value in result.get(quantity, {}).items()}
  for axis, curve in result.get('s2', {}).items():
    found |= _s2_numbers(axis, curve['lag_nm'], curve['s2'])
  found['euler_per_um3'] = result['euler_per_um3']
  for axis, row in result['transport'].items():
    found |= {f'transport.{axis}.{name}': row[name]
              for name in ('relative_diffusivity', 'tortuosity')}
  for axis, row in result.get('permeability', {}).items():
    found[f'permeability.{axis}.permeability_nm2'] = row['permeability_nm2']
  return found


def _s2_numbers(axis: str, lag_nm, s2) -> dict[str, float]:
  """S2 at the whole steps next to some distances, e.g. 's2.z.100_nm'."""
  step = lag_nm[1] if len(lag_nm) > 1 else math.inf
  steps = {max(1, round(lag / step)) for lag in _S2_LAGS_NM}
  return {f's2.{axis}.{lag_nm[k]:g}_nm': s2[k] for k in sorted(steps) if k < len(s2)}


def _relative_error(number: float | None, truth: float | None) -> float | None:
  return None if number is None or not truth else (number - truth) / abs(truth)


def _plain(value):
  """Named tuples to dicts, arrays and tuples to lists, numpy numbers to Python's."""
  if hasattr(value, '_asdict'):
    value = value._asdict()
  if isinstance(value, dict):
    return {name: _plain(item) for name, item in value.items()}
  if isinstance(value, np.ndarray | np.generic):
    return value.tolist()
  return [_plain(item) for item in value] if isinstance(value, tuple) else value
