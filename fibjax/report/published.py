"""Comparison of a run on the published archive with the paper: its Tables 1 to 3.

Skärberg et al. 2021, J. Microscopy 283:51-63. The numbers below are those of
third_party/skarberg2021/tables.json (a test compares the two). Input is the content of
metrics.json; a difference is always this run minus the paper. Missing values are shown
as a dash. Samples are identified by name, so the comparison is for runs on the archive
only: a simulated film with the name of a sample is not that sample.
"""
import jax

from fibjax.models import patch_network
from fibjax.models.model import count_weights
from fibjax.report import tables
from fibjax.report.tables import Table

SIZES_XY, SIZES_Z = (33, 49, 65, 81, 97, 113), (1, 3, 5, 7, 9, 11)
SAMPLES = ('HPC22', 'HPC30', 'HPC45')
WEIGHTS = {  # Table 1: n_xy -> numbers of weights for SIZES_Z
    33: (225041, 225329, 225617, 225905, 226193, 226481),
    49: (276241, 276529, 276817, 277105, 277393, 277681),
    65: (347921, 348209, 348497, 348785, 349073, 349361),
    81: (440081, 440369, 440657, 440945, 441233, 441521),
    97: (552721, 553009, 553297, 553585, 553873, 554161),
    113: (685841, 686129, 686417, 686705, 686993, 687281)}
# Tables 2 and 3: stage -> split -> mIoU, accuracy, manual and automatic porosity of
# each sample, then mIoU and accuracy of all.
SCORES = {
    'before': {
        'train': ((.7601, .8951, .2207, .2743), (.8425, .9253, .2976, .3332),
                  (.7707, .8706, .4417, .5322), (.7983, .8970)),
        'val': ((.7523, .8911, .2200, .2757), (.8303, .9197, .2914, .3280),
                (.7597, .8638, .4962, .5531), (.7911, .8915)),
        'test': ((.7530, .8962, .2042, .2565), (.8085, .9075, .2927, .3365),
                 (.7491, .8573, .4220, .4984), (.7774, .8870))},
    'after': {
        'train': ((.7820, .9129, .2207, .2201), (.8537, .9335, .2976, .2923),
                  (.8057, .8930, .4417, .4781), (.8217, .9131)),
        'val': ((.7723, .9084, .2200, .2206), (.8422, .9285, .2914, .2876),
                (.7750, .8732, .4962, .4971), (.8063, .9034)),
        'test': ((.7757, .9141, .2042, .2062), (.8204, .9170, .2927, .2932),
                 (.7761, .8760, .4220, .4434), (.7980, .9024))}}
POSTPROCESSING = {'sigma_px': 2.63, 'threshold': 0.402}
P_VALUES = {'HPC22': 0.98, 'HPC30': 0.77, 'HPC45': 0.14}

_KEYS = ('miou', 'accuracy', 'porosity_manual', 'porosity_automatic')
_TITLES = {'before': 'Table 2 of the paper: before post-processing (score > 0.5)',
           'after': 'Table 3 of the paper: after post-processing'}


def published_tables(metrics: dict, counts: dict) -> list[Table]:
  """Builds all tables that compare a run on the archive with the paper.

  Args:
    metrics: content of metrics.json.
    counts: of `count_networks`.
  """
  return [weights_table(counts), scores_table(metrics, 'before'),
          scores_table(metrics, 'after'), findings_table(metrics)]


def count_networks() -> dict[tuple[int, int], int]:
  """Counts the weights of our zero-padded network of each size (n_xy, n_z)."""
  def count(n_xy, n_z):
    network = patch_network.build({'padding': 'same', 'n_xy': n_xy, 'n_z': n_z})
    return count_weights(jax.eval_shape(network.init, jax.random.key(0)))

  return {(n_xy, n_z): count(n_xy, n_z) for n_xy in SIZES_XY for n_z in SIZES_Z}


def weights_table(counts: dict) -> Table:
  """Builds Table 1: numbers of weights of the 36 networks, with differences.

  Args:
    counts: of `count_networks`; sizes may be missing.
  """
  rows = []
  for n_xy, published in WEIGHTS.items():
    cells = []
    for n_z, paper in zip(SIZES_Z, published, strict=True):
      ours = counts.get((n_xy, n_z))
      cells += [tables.number(ours, 0), _difference(ours, paper, 0)]
    rows.append((f'{n_xy} × {n_xy}', *cells))
  return Table(
      title='Table 1 of the paper: number of weights',
      groups=(('', 1), *((f'{n_z} slice' + 's' * (n_z > 1), 2) for n_z in SIZES_Z)),
      columns=('Neighbourhood', *('weights', 'diff.') * len(SIZES_Z)),
      rows=tuple(rows),
      note='Weights of the networks as built here, including biases. Diff.: this '
           'number minus that of the paper.')


def scores_table(metrics: dict, stage: str) -> Table:
  """Builds Table 2 (stage 'before') or 3 ('after'), a row for each sample and split.

  The combined row of the paper pools the three samples, so it is compared only when the
  run has exactly these volumes.

  Args:
    metrics: content of metrics.json.
    stage: 'before' or 'after' post-processing.
  """
  our_rows = {(row['volume'], row['split']): row
              for row in tables.split_rows(metrics, stage)}
  all_three = set(metrics.get('per_volume', {})) == set(SAMPLES)
  rows = []
  for i, name in enumerate((*SAMPLES, tables.COMBINED)):
    for split, heading in tables.SPLITS.items():
      ours = our_rows.get((name, split), {})
      paper = dict(zip(_KEYS, SCORES[stage][split][i], strict=False))
      if name == tables.COMBINED and not all_three:
        ours = {}
      cells = [cell for key in _KEYS
               for cell in _beside(ours.get(key), paper.get(key), 'porosity' in key)]
      rows.append((name, heading, *cells))
  return Table(
      title=_TITLES[stage],
      groups=(('', 2), ('mIoU', 3), ('Accuracy', 3), ('Manual porosity, %', 3),
              ('Automatic porosity, %', 3)),
      columns=('Sample', 'Regions', *('this run', 'paper', 'diff.') * len(_KEYS)),
      rows=tuple(rows),
      note='Pooled over the voxels of complete regions of the official split. Manual '
           'porosities come from the labels: they differ beyond rounding only where '
           'other regions or labels are used. Diff.: this run minus the paper; for '
           'porosities in percentage points. The paper gives no combined '
           'porosities.')


def findings_table(metrics: dict) -> Table:
  """Builds the table of post-processing settings and porosity t-tests.

  Args:
    metrics: content of metrics.json.
  """
  tuned, tests = (metrics.get(key) or {} for key in ('postprocess', 'porosity_tests'))
  rows = [(label, *_beside(tuned.get(key), POSTPROCESSING[key], False, digits))
          for label, key, digits in (('Gaussian σ, px', 'sigma_px', 2),
                                     ('threshold', 'threshold', 3))]
  for name, paper in P_VALUES.items():
    ours = (tests.get(name) or {}).get('unpaired_p')
    rows.append((f'p of the porosity t-test, {name}', *_beside(ours, paper, False, 2)))
  return Table(
      title='Other numbers of the paper', groups=(),
      columns=('', 'this run', 'paper', 'diff.'), rows=tuple(rows),
      note='σ and threshold are tuned for mIoU on the validation regions. The t-test '
           'is the unpaired test of the paper between manual and automatic porosities '
           'of the regions of all splits.')


def _beside(ours, paper, in_percent: bool, digits: int = 4) -> tuple[str, str, str]:
  """Writes this run's value, the paper's, and their difference."""
  if in_percent:
    digits = 2
    ours, paper = (None if value is None else 100 * value for value in (ours, paper))
  return (tables.number(ours, digits), tables.number(paper, digits),
          _difference(ours, paper, digits))


def _difference(ours, paper, digits: int) -> str:
  both = None not in (ours, paper)
  return tables.number(ours - paper if both else None, digits, sign=True)
