"""Key quantities of the volumes with their intervals: sentence, figure and table.

Input is the content of analysis.json. A volume may have `intervals`: for each quantity
the value measured in the segmentation, the estimate corrected for bias, the interval of
this volume and that of the material, which includes the sampling error of a finite
volume. Without them the values stand alone, and a line says so.
"""
import math
from typing import NamedTuple

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fibjax.report import physics
from fibjax.report.figures import COLOURS, styled
from fibjax.report.tables import DASH, Table, number

_BAR, _CROSS = COLOURS[0], COLOURS[1]
_LONGEST_NAME = 14
_WIDTH_IN = 4.4


class Key(NamedTuple):
  """A quantity that the page opens with.

  Attributes:
    path: in analysis.json.
    phrase: what a sentence calls it.
    title: of its panel.
    unit: after a number, with its space.
    factor: from the number in analysis.json to that on the page.
    digits: decimals of a number without an interval.
  """
  path: str
  phrase: str
  title: str
  unit: str
  factor: float
  digits: int


_STRUCTURE = (
    Key('porosity', 'the porosity', 'Porosity (%)', ' %', 100, 1),
    Key('pore_size.mean_nm', 'the mean pore size', 'Mean pore size (nm)', ' nm', 1, 0),
    Key('specific_surface.per_um', 'the specific surface', 'Specific surface (µm⁻¹)',
        ' µm⁻¹', 1, 2))
_FLOW = tuple(
    Key(f'transport.{axis}.relative_diffusivity', f'along {axis}',
        f'Relative diffusivity, {axis}', '', 1, 3) for axis in 'zyx')
KEYS = (*_STRUCTURE, *_FLOW)


class Estimate(NamedTuple):
  """Numbers of one quantity, each None where unknown.

  Attributes:
    value: measured in the segmentation.
    estimate: corrected for bias.
    low, high: interval of this volume.
    material_low, material_high: interval of the material.
    truth: true value.
  """
  value: float | None
  estimate: float | None
  low: float | None
  high: float | None
  material_low: float | None
  material_high: float | None
  truth: float | None

  @property
  def best(self) -> float | None:
    """The estimate where there is one, else the value."""
    return self.value if self.estimate is None else self.estimate

  def scaled(self, factor: float) -> 'Estimate':
    """The same in another unit."""
    return Estimate(*(None if n is None else factor * n for n in self))


def read_estimate(content: dict, path: str) -> Estimate:
  """Collects the numbers of a quantity of one volume of analysis.json."""
  row = content.get('intervals', {}).get('quantities', {}).get(path, {})
  value = row.get('value', physics.value_at(content['found'], path))
  return Estimate(value, *(row.get(name) for name in Estimate._fields[1:-1]),
                  physics.value_at(content.get('truth', {}), path))


def decimals(estimate: Estimate, otherwise: int) -> int:
  """Decimals that an interval supports: two digits of its half width, or one from 3."""
  low, high = estimate.low, estimate.high
  if low is None:
    low, high = estimate.material_low, estimate.material_high
  if low is None or not 0 < high - low < math.inf:
    return otherwise
  half = (high - low) / 2
  power = math.floor(math.log10(half))
  return max(0, -power + (half < 2.95 * 10. ** power))


def measured(analysis: dict) -> dict:
  """Volumes of analysis.json that have quantities."""
  return {name: content for name, content in analysis.items()
          if 'undefined' not in content}


def key_sentence(name: str, content: dict) -> str:
  """Writes the key quantities of a volume as a sentence or two for a paper.

  Args:
    name: of the volume.
    content: its entry in analysis.json, without 'undefined'.
  """
  confidence = 100 * content.get('intervals', {}).get('confidence', 0)
  structure, flow, material, is_first = [], [], [], True
  for key in KEYS:
    estimate = read_estimate(content, key.path).scaled(key.factor)
    if estimate.best is None:
      continue
    digits = decimals(estimate, key.digits)
    text = number(estimate.best, digits) + key.unit
    if estimate.low is not None:
      label, is_first = f'{confidence:g} % interval ' if is_first else '', False
      text += f' ({label}{_range(estimate.low, estimate.high, digits)}{key.unit})'
    if estimate.material_low is not None:
      limits = _range(estimate.material_low, estimate.material_high, digits)
      material.append(f'{limits}{key.unit} ({_name(key)})')
    if key in _FLOW:
      flow.append(f'{text} {key.phrase}')
    else:
      link = '' if structure else f' of {name} is'
      structure.append(f'{key.phrase}{link} {text}')
  sentences = []
  if structure:
    sentences.append(f'T{_listed(structure)[1:]}.')
  if flow:
    of = '' if structure else f' of {name}'
    sentences.append(f'The effective diffusivity{of}, relative to that of the free '
                     f'medium, is {_listed(flow)}.')
  if material:
    sentences.append('For the material, of which the volume is a sample, the '
                     f'{confidence:g} % intervals are {_listed(material)}.')
  return ' '.join(sentences)


def _name(key: Key) -> str:
  return f'diffusivity {key.phrase}' if key in _FLOW else key.phrase[len('the '):]


def _listed(parts) -> str:
  return ', '.join(parts[:-1]) + (' and ' if len(parts) > 1 else '') + parts[-1]


def _range(low, high, digits) -> str:
  return f'{number(low, digits)} to {number(high, digits)}'


def remarks(analysis: dict) -> list[str]:
  """Sentences under the key quantities: why intervals are missing, and caveats.

  Caveats that several volumes share are said once.
  """
  volumes = measured(analysis)
  missing = [name for name, content in volumes.items() if 'intervals' not in content]
  said: dict[str, list[str]] = {}
  for name, content in volumes.items():
    for caveat in content.get('intervals', {}).get('caveats', ()):
      said.setdefault(caveat, []).append(name)
  lines = []
  if missing:
    which = '' if len(missing) == len(volumes) else f' of {", ".join(missing)}'
    lines.append(f'The values{which} have no intervals: analysis.json holds none, so '
                 'their errors are unknown.')
  return lines + [
      caveat if len(names) == len(volumes) else f'{", ".join(names)}: {caveat}'
      for caveat, names in said.items()]


@styled
def intervals_figure(analysis: dict) -> Figure | None:
  """Draws a panel for each key quantity, with a row for each volume.

  Args:
    analysis: content of analysis.json.

  Returns:
    The figure; None when no volume has a key quantity.
  """
  volumes = measured(analysis)
  panels = []
  for key in KEYS:
    rows = [read_estimate(content, key.path).scaled(key.factor)
            for content in volumes.values()]
    if any(row.best is not None for row in rows):
      panels.append((key, rows))
  if not panels:
    return None
  lines = -(-len(panels) // 2)
  height = lines * (0.72 + 0.27 * len(volumes)) + 0.5
  figure = Figure(figsize=(_WIDTH_IN, height), layout='constrained')
  figure.get_layout_engine().set(hspace=0.1, h_pad=0.06)
  axes = figure.subplots(lines, 2, squeeze=False, sharey=True)
  for ax in axes.ravel()[len(panels):]:
    ax.set_axis_off()
  for ax, (key, rows) in zip(axes.ravel(), panels, strict=False):
    _draw_panel(ax, rows)
    ax.set_title(key.title, fontsize=9)
  for ax in axes[:, 0]:
    ax.set_yticks(range(len(volumes)), [_shortened(name) for name in volumes])
    for label in ax.get_yticklabels():
      label.set_parse_math(False)
  axes[0, 0].set_ylim(len(volumes) - 0.4, -0.6)
  _draw_legend(figure, [row for _, rows in panels for row in rows])
  return figure


def _draw_panel(ax, rows: list[Estimate]) -> None:
  for y, row in enumerate(rows):
    if row.material_low is not None:
      ax.plot([row.material_low, row.material_high], [y, y], color=_BAR, linewidth=1.1,
              marker='|', markersize=5)
    if row.low is not None:
      ax.plot([row.low, row.high], [y, y], color=_BAR, linewidth=5, alpha=0.55,
              solid_capstyle='butt')
    if row.value is not None:
      ax.plot(row.value, y, 'o', markersize=5.5, markerfacecolor='white',
              markeredgecolor='0.15', markeredgewidth=1.0)
    if row.estimate is not None:
      ax.plot(row.estimate, y, 'o', color='0.1', markersize=3.2)
    if row.truth is not None:
      ax.plot(row.truth, y, 'x', color=_CROSS, markersize=6, markeredgewidth=1.7)
  ax.grid(axis='x', color='0.92', linewidth=0.6)
  ax.spines[['top', 'right', 'left']].set_visible(False)
  ax.tick_params(axis='y', length=0)
  ax.locator_params(axis='x', nbins=4)
  ax.margins(x=0.08)
  ax.xaxis.get_major_formatter().set_useOffset(False)


def _draw_legend(figure, rows: list[Estimate]) -> None:
  """Draws a legend of the marks that the figure has."""
  marks = (
      ('value', 'segmentation', {'marker': 'o', 'markerfacecolor': 'white',
                                 'markeredgecolor': '0.15', 'markersize': 5.5}),
      ('estimate', 'corrected', {'marker': 'o', 'color': '0.1', 'markersize': 3.2}),
      ('truth', 'truth', {'marker': 'x', 'color': _CROSS, 'markersize': 6,
                          'markeredgewidth': 1.7}),
      ('low', 'this volume', {'linestyle': '-', 'color': _BAR, 'linewidth': 5,
                              'alpha': 0.55}),
      ('material_low', 'material', {'linestyle': '-', 'color': _BAR, 'linewidth': 1.1,
                                    'marker': '|'}))
  handles = [Line2D([], [], label=label, **{'linestyle': '', **style})
             for field, label, style in marks
             if any(getattr(row, field) is not None for row in rows)]
  figure.legend(handles=handles, loc='outside lower center', ncols=3,
                columnspacing=1.4, handletextpad=0.5)


def _shortened(name: str) -> str:
  if len(name) <= _LONGEST_NAME:
    return name
  return name[:_LONGEST_NAME // 2] + '…' + name[-(_LONGEST_NAME // 2 - 1):]


def _words(path: str) -> str:
  """What a quantity is called that `physics.quantities` does not name."""
  quantity, _, rest = path.partition('.')
  if quantity == 's2':
    axis, _, lag = rest.partition('.')
    return f'S2 along {axis} at {lag.replace("_", " ")}'
  return path.replace('.', ', ').replace('_', ' ')


def interval_table(name: str, content: dict) -> Table | None:
  """Builds the table of all intervals of a volume; None without any.

  Args:
    name: of the volume.
    content: its entry in analysis.json, without 'undefined'.
  """
  intervals = content.get('intervals')
  if not intervals:
    return None
  labels = {path: (label, digits) for path, label, digits in physics.quantities()}
  rows = []
  for path in intervals['quantities']:
    label, digits = labels.get(path, (_words(path), 3))
    estimate = read_estimate(content, path)
    digits = decimals(estimate, digits)
    rows.append((label, number(estimate.value, digits),
                 number(estimate.estimate, digits),
                 *(DASH if low is None else _range(low, high, digits) for low, high in (
                     (estimate.low, estimate.high),
                     (estimate.material_low, estimate.material_high)))))
  return Table(
      f'Intervals of {name}', (),
      ('Quantity', 'segmentation', 'corrected', 'this volume', 'material'),
      tuple(rows),
      f'{100 * intervals["confidence"]:g} % intervals'
      + (f' from {intervals["draws"]} draws' if intervals['draws'] else '') +
      '. Corrected: without the bias of the segmentation. Material: with the sampling '
      'error of a finite volume.')
