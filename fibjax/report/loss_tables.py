"""Tables of compared losses: how they start, and what they end with.

Input is the content of loss_start.json and of losses.json.
"""
from collections.abc import Mapping

import numpy as np

from fibjax.report import tables
from fibjax.report.sweep_tables import size_label, spread
from fibjax.report.tables import DASH

# key of losses.json -> heading, factor, digits
SCORES = {
    'miou': ('mIoU', 1, 4), 'worst_miou': ('mIoU, worst 5 %', 1, 4),
    'accuracy': ('accuracy', 1, 4),
    'porosity_bias': ('porosity bias, %', 100, 2),
    'porosity_error': ('porosity error, %', 100, 2),
    'boundary_f1': ('boundary F1', 1, 4), 'ece': ('ECE', 1, 4),
    'ece_calibrated': ('ECE, calibrated', 1, 4)}
FILM_SCORES = {key: SCORES[key] for key in SCORES if key != 'accuracy'} | {
    'diffusivity_error': ('diffusivity error, %', 100, 1)}
_MEANINGS = (
    'mean ± sample standard deviation over seeds. Worst 5 %: mean of the windows of '
    'about 64 px with the lowest mIoU. Porosity bias: mean over volumes of automatic − '
    'true, and error: of its absolute value. Boundary F1: interface voxels with a '
    'counterpart within 2 px. ECE: expected calibration error of the raw scores, and '
    'after prior correction and temperature scaling.')


def loss_table(rows: list[dict], has_neighbourhood: bool) -> tables.Table:
  """Builds the comparison on test regions: mean and sd over seeds, differences.

  Args:
    rows: content of losses.json.
    has_neighbourhood: as in `size_label`.
  """
  def values_of(row, key):
    name = 'miou_after' if key == 'miou' else key
    return [member[name] for member in row['members'] if name in member]
  return tables.Table(
      title='Losses compared', groups=(),
      columns=('Loss', 'Seeds', *(heading for heading, _, _ in SCORES.values())),
      rows=_rows(rows, SCORES, values_of, 'against_first', has_neighbourhood),
      note=f'Test regions, after post-processing tuned for each member; {_MEANINGS} '
           'Difference: from the first loss, mean over pairs with the same seed, with '
           'the 95 % interval of a bootstrap over test regions and seeds.')


def film_table(rows: list[dict], has_neighbourhood: bool) -> tables.Table:
  """Builds the comparison on whole films; arguments as for `loss_table`."""
  def values_of(row, key):
    return [member['films'][key] for member in row['members'] if member.get('films')
            and member['films'][key] is not None]
  return tables.Table(
      title='Losses compared on whole films', groups=(),
      columns=('Loss', 'Seeds', *(heading for heading, _, _ in FILM_SCORES.values())),
      rows=_rows(rows, FILM_SCORES, values_of, 'films_against_first',
                 has_neighbourhood),
      note=f'Every voxel of the films, training slices included; {_MEANINGS} '
           'Diffusivity error: mean over films and axes of the relative error of the '
           'effective diffusivity of the central box. Difference: from the first loss, '
           'mean over pairs with the same seed, with its 95 % t interval; it does not '
           'cover the choice of films.')


def _rows(rows, scores: Mapping, values_of, against: str, has_neighbourhood: bool
          ) -> tuple[tuple[str, ...], ...]:
  """A row of means for each loss, and one of differences below all but the first."""
  body = []
  for row in rows:
    means, differences = [], []
    for key, (_, factor, digits) in scores.items():
      values = factor * np.array(values_of(row, key), float)
      means.append(DASH if not values.size else spread(
          values.mean(), values.std(ddof=1) if values.size > 1 else np.nan, digits))
      interval = (row.get(against) or {}).get(key)
      differences.append(DASH if interval is None else tables.difference(
          *(None if interval[bound] is None else factor * interval[bound]
            for bound in ('difference', 'low', 'high')), digits))
    size = size_label(row['n_xy'], row['n_z'], has_neighbourhood)
    body.append((f'{row["loss"]} at {size}', str(len(row['members'])), *means))
    if row['loss'] != rows[0]['loss']:
      body.append(('difference', '', *differences))
  return tuple(body)


def start_table(rows: list[dict]) -> tables.Table:
  """Builds the table of how losses start.

  Args:
    rows: content of loss_start.json.
  """
  body = []
  for row in rows:
    shares = np.array(row['solid_share'])
    low, high = map(tables.percent, (shares.min(), shares.max()))
    pull = row['collapsed_gradient_norm'] / max(row['gradient_norm'], 1e-30)
    body.append((
        row['loss'], f'{low} to {high}',
        str(int(((shares == 0) | (shares == 1)).sum())),
        tables.number(row['best_constant'], 3), tables.number(row['common_share'], 3),
        spread(row['gradient_norm'], row['gradient_sd'], 3), f'{pull:.2g}'))
  return tables.Table(
      title='How the losses start', groups=(),
      columns=('Loss', 'solid in a batch, %', 'batches of one phase', 'best constant',
               'common share', 'gradient norm', 'after a collapse'),
      rows=tuple(body),
      note='Means over the first batches of the first seed, with its initial weights. '
           'Best constant: the P(solid) of lowest loss for a network that calls all '
           'voxels alike. Common share: part of the squared gradient of the logits '
           'that moves all voxels alike. After a collapse: gradient norm with 8 added '
           'to all logits, towards the larger phase, over that at the start; near 0, '
           'the network cannot return.')
