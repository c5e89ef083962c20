"""Physical quantities of a run: their table, and the figure of pore sizes and S2.

Input is the content of analysis.json: for each volume, the quantities of the
segmentation and, where it is known, of the truth in the same box; lengths in nm.
"""
import numpy as np
from matplotlib.figure import Figure

from fibjax.report.figures import COLOURS, styled
from fibjax.report.tables import Table, number

_NAMES = {
    'porosity': ('porosity', 3), 'pore_size.mean_nm': ('pore size, mean, nm', 0),
    'pore_size.median_nm': ('pore size, median, nm', 0),
    'pore_size.p10_nm': ('pore size, 10th percentile, nm', 0),
    'pore_size.p90_nm': ('pore size, 90th percentile, nm', 0),
    'intrusion.median_nm': ('throat size, median, nm', 0),
    'constrictivity': ('constrictivity', 2),
    'specific_surface.per_um': ('specific surface, 1/µm', 2),
    'euler_per_um3': ('Euler number, 1/µm³', 2)}
_PER_AXIS = {
    'chords.pore.{}': ('pore chord along {}, nm', 0),
    'chords.solid.{}': ('solid chord along {}, nm', 0),
    'breakthrough_nm.{}': ('break-through diameter along {}, nm', 0),
    'percolation.{}': ('pore connected along {}', 3),
    'geodesic_tortuosity.{}': ('geodesic tortuosity along {}', 2),
    'permeability.{}.permeability_nm2': ('permeability along {}, nm²', 0),
    'transport.{}.relative_diffusivity': ('effective / free diffusivity along {}', 3),
    'transport.{}.tortuosity': ('tortuosity along {}', 2),
    'formation_factor.{}': ('formation factor along {}', 2)}
_LABELS = {'found': 'segmentation', 'truth': 'truth'}


def physics_table(name: str, content: dict) -> Table:
  """Builds the table of one volume.

  Args:
    name: of the volume.
    content: its entry in analysis.json, without 'undefined'.
  """
  shape = ' × '.join(str(b - a) for a, b in zip(content['start_zyx'],
                                                content['stop_zyx'], strict=True))
  has_truth = 'comparison' in content
  rows = [_row(content, *quantity) for quantity in quantities(content['found'])]
  note = (f'Measured in the central box of {shape} voxels. Pore size: diameter of the '
          'largest ball inside the pore space that covers a voxel, weighted by volume. '
          'Throat size: diameter of the ball that reaches half of the pore space from '
          'the faces of the box, as mercury does. Constrictivity: squared ratio of '
          'median throat and pore size. Break-through diameter: of the largest ball '
          'that passes from face to face. Chord lengths are corrected for chords cut '
          'off at the border. Connected: share of the pore space that connects '
          'both faces. Euler number: of the solid. Geodesic tortuosity: mean '
          'shortest path through the pore space over the length of the box. '
          'Diffusivity and tortuosity: of the pore space, from the diffusion equation; '
          'formation factor: inverse of the diffusivity.')
  if has_truth:
    distance = content['comparison']['pore_size_distance_nm']
    note += (' Mean shift of the pore sizes (Wasserstein distance): '
             f'{number(distance, 1)} nm.')
  unfinished = [axis for axis, row in content['found']['transport'].items()
                if not row['converged']]
  if unfinished:
    note += (f' The diffusivity along {", ".join(unfinished)} has not converged and is '
             'too large.')
  return Table(f'Physical quantities of {name}', (),
               ('Quantity', 'segmentation', *(('truth', 'difference, %')
                                              if has_truth else ())),
               tuple(rows), note)


def quantities(result: dict | None = None):
  """Yields (path, label, digits) of every row.

  Args:
    result: leaves out what this analysis did not measure: earlier versions knew fewer
      quantities. None yields all.
  """
  for path, (label, digits) in _NAMES.items():
    if result is None or path.partition('.')[0] in result:
      yield path, label, digits
  for path, (label, digits) in _PER_AXIS.items():
    if result is None or path.partition('.')[0] in result:
      for axis in 'zyx':
        yield path.format(axis), label.format(axis), digits


def _row(content: dict, path: str, label: str, digits: int) -> tuple[str, ...]:
  """Label, number of each side, and with a truth the difference in per cent."""
  row = [label, *(number(value_at(content[side], path), digits)
                  for side in _LABELS if side in content)]
  if 'comparison' in content:
    compared = content['comparison']['quantities'].get(path, {})
    error = compared.get('relative_error')
    row.append(number(None if error is None else 100 * error, 1, sign=True))
  return tuple(row)


def value_at(result: dict, path: str) -> float | None:
  """Returns the quantity at a dotted path, of chords the corrected mean, else None.

  Args:
    result: quantities of a segmentation or of the truth.
    path: as in the comparison of analysis.json.
  """
  value = result
  for key in path.split('.'):
    value = value.get(key) if isinstance(value, dict) else None
  return value.get('corrected_nm') if isinstance(value, dict) else value


@styled
def physics_figure(name: str, content: dict) -> Figure:
  """Draws the cumulative pore sizes and S2 along each axis, with those of the truth.

  Bars on S2 are the intervals of this volume.

  Args:
    name: of the volume.
    content: its entry in analysis.json, without 'undefined'.
  """
  figure = Figure(figsize=(8.2, 3.3), layout='constrained')
  sizes, correlation = figure.subplots(1, 2)
  for side, label in _LABELS.items():
    if side not in content:
      continue
    style = {'found': '-', 'truth': ':'}[side]
    pores = content[side]['pore_size']
    smaller = np.concatenate([[0], np.cumsum(pores['share'])])
    diameters = np.append(pores['diameter_nm'], pores['diameter_nm'][-1])
    sizes.step(diameters, 100 * smaller, where='post', color='k', linestyle=style,
               label=label)
    for axis, colour in zip('zyx', COLOURS, strict=False):
      curve = content[side]['s2'][axis]
      correlation.plot(curve['lag_nm'], curve['s2'], color=colour, linestyle=style,
                       marker='.' if axis == 'z' else None, markersize=4,
                       label=axis if side == 'found' else None)
  for path, row in content.get('intervals', {}).get('quantities', {}).items():
    if path.startswith('s2.') and row['low'] is not None:
      _, axis, lag = path.split('.', 2)
      correlation.vlines(float(lag.removesuffix('_nm')), row['low'], row['high'],
                         color=COLOURS['zyx'.index(axis)], linewidth=2, alpha=0.5)
  porosity = content['found']['porosity']
  correlation.axhline(porosity ** 2, color='0.6', linewidth=0.7)
  sizes.set(xlabel='pore size (nm)', ylabel='pore volume in smaller pores (%)',
            ylim=(0, 101))
  correlation.set(xlabel='distance (nm)', ylabel='S2 of the pore')
  sizes.legend(loc='lower right')
  correlation.legend(loc='upper right', ncols=3)
  figure.suptitle(name, fontsize=9.5, parse_math=False)
  return figure
