"""The physical quantities of one segmented volume, and two volumes compared.

`analyse` measures everything that the modules beside this one know and gives plain
JSON, lengths in nm; `compare` puts the numbers of a segmentation beside those of the
truth (or of another sampling of the same body).
"""
import numpy as np

from fibjax.analysis import (
  chords,
  connectivity,
  pore_size,
  profiles,
  specific_surface,
  transport,
)
from fibjax.analysis.phases import AXES, find_pore

_QUANTILES = {'p10_nm': 0.1, 'median_nm': 0.5, 'p90_nm': 0.9}
_PORE_SIZES = ('mean_nm', *_QUANTILES)


def analyse(labels_zyx, voxel_size_zyx_nm, *, flow_axes: str = AXES,
            max_lag_nm: float = 1000.0, tolerance: float = 0.05) -> dict:
  """Measures the physical quantities of a volume.

  Args:
    labels_zyx: [z, y, x] 0 pore, 1 solid.
    voxel_size_zyx_nm: z, y, x.
    flow_axes: axes along which diffusion is solved, the longest part of the work.
    max_lag_nm: longest distance of the S2 curves.
    tolerance: relative error of the porosity for the representative volume.

  Returns:
    JSON-able dict: shape_zyx, voxel_size_zyx_nm, porosity;
    profile {axis: {position_nm, porosity}}; representative (as
    `profiles.Representative`, with tolerance); pore_size {diameter_nm, share, mean_nm,
    p10_nm, median_nm, p90_nm}; chords {phase: {axis: {mean_nm, corrected_nm,
    share_beyond}}}; s2 {axis: {lag_nm, s2}}; specific_surface {z_per_um, y_per_um,
    x_per_um, per_um}; percolation {axis: share}; euler_per_um3; transport {axis: as
    `transport.Transport`}. What a volume leaves undefined is None.

  Raises:
    InputError: as `phases.find_pore`, for one phase only, fewer than 3 voxels along an
      axis, or another name of an axis.
  """
  pore_zyx, size = find_pore(labels_zyx, voxel_size_zyx_nm)
  volume = np.asarray(labels_zyx), size
  surface = specific_surface.specific_surface(*volume)
  found = {
      'shape_zyx': pore_zyx.shape, 'voxel_size_zyx_nm': size,
      'porosity': pore_zyx.mean(),
      'profile': profiles.porosity_profiles(*volume),
      'representative': {
          'tolerance': tolerance,
          **profiles.representative_volume(*volume, tolerance)._asdict()},
      'pore_size': _pore_size(pore_size.pore_sizes(*volume)),
      'chords': {phase: _chords(chords.find_chords(*volume, phase))
                 for phase in chords.PHASES},
      's2': specific_surface.s2_curves(*volume, max_lag_nm),
      'specific_surface': {
          **{f'{axis}_per_um': value
             for axis, value in zip(AXES, surface.zyx_per_um, strict=True)},
          'per_um': surface.per_um},
      'percolation': connectivity.percolation(*volume),
      'euler_per_um3': connectivity.euler_density(*volume),
      'transport': {axis: transport.effective_diffusivity(*volume, axis)
                    for axis in flow_axes},
  }
  return _plain(found)


def compare(found: dict, truth: dict) -> dict:
  """Compares two results of `analyse`.

  Args:
    found: of a segmentation.
    truth: of the truth; its voxels may have another size.

  Returns:
    JSON-able dict: quantities {name: {found, truth, relative_error}} for every
    number that describes the medium, e.g. 'pore_size.mean_nm' or
    'transport.z.relative_diffusivity', relative_error = (found - truth) / |truth|,
    None where a side is undefined or the truth is 0; and pore_size_distance_nm, the
    Wasserstein-1 distance of the pore sizes.
  """
  ours, theirs = _numbers(found), _numbers(truth)
  sizes = [pore_size.PoreSizes(np.array(side['pore_size']['diameter_nm']),
                               np.array(side['pore_size']['share']))
           for side in (found, truth)]
  return {'quantities': {name: {'found': ours[name], 'truth': theirs[name],
                                'relative_error': _error(ours[name], theirs[name])}
                         for name in ours if name in theirs},
          'pore_size_distance_nm': pore_size.size_distance(*sizes)}


def _pore_size(sizes: pore_size.PoreSizes) -> dict:
  return {'diameter_nm': sizes.diameter_k, 'share': sizes.share_k,
          'mean_nm': pore_size.mean_diameter(sizes),
          **{name: pore_size.diameter_quantile(sizes, share)
             for name, share in _QUANTILES.items()}}


def _chords(found: dict[str, chords.Chords]) -> dict:
  rows = {}
  for axis, counted in found.items():
    corrected, beyond = chords.mean_corrected(counted)
    rows[axis] = {'mean_nm': chords.mean_inside(counted), 'corrected_nm': corrected,
                  'share_beyond': beyond}
  return rows


def _numbers(result: dict) -> dict[str, float | None]:
  """The numbers that describe the medium, by their path."""
  numbers = {'porosity': result['porosity']}
  numbers |= {f'pore_size.{name}': result['pore_size'][name] for name in _PORE_SIZES}
  for phase, rows in result['chords'].items():
    numbers |= {f'chords.{phase}.{axis}': row['corrected_nm']
                for axis, row in rows.items()}
  for part in ('specific_surface', 'percolation'):
    numbers |= {f'{part}.{name}': value for name, value in result[part].items()}
  numbers['euler_per_um3'] = result['euler_per_um3']
  for axis, row in result['transport'].items():
    numbers |= {f'transport.{axis}.{name}': row[name]
                for name in ('relative_diffusivity', 'tortuosity')}
  return numbers


def _error(found: float | None, truth: float | None) -> float | None:
  return None if found is None or not truth else (found - truth) / abs(truth)


def _plain(value):
  """Named tuples to dicts, arrays and tuples to lists, numpy numbers to Python's."""
  if hasattr(value, '_asdict'):
    value = value._asdict()
  if isinstance(value, dict):
    return {name: _plain(part) for name, part in value.items()}
  if isinstance(value, np.ndarray | np.generic):
    return value.tolist()
  return [_plain(part) for part in value] if isinstance(value, tuple) else value
