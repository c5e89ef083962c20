"""Texts of the report made from a run's settings: methods, citations, inputs.

The methods paragraph is written in the past tense with the numbers of this run, so
that it can be pasted into a paper and shortened. It claims nothing that the run's files
do not hold. What it says about the method of segmentation comes from `MethodFacts`.
"""
from pathlib import Path

from fibjax.models.facts import NETWORK, MethodFacts

SOFTWARE = ('fibjax {version}, segmentation of FIB-SEM nanotomography of porous '
            'materials in JAX')
_PAPER = ('F. Skärberg, C. Fager, F. Mendoza-Lara, M. Josefson, E. Olsson, N. Lorén, '
          'M. Röding. Convolutional neural networks for segmentation of FIB-SEM '
          'nanotomography data from porous polymer films for controlled drug release. '
          'Journal of Microscopy 283 (2021) 51–63. doi:10.1111/jmi.13007')
_STEP_PAPERS = {
    'align': 'P. Thévenaz, U. E. Ruttimann, M. Unser. A pyramid approach to subpixel '
             'registration based on intensity. IEEE Transactions on Image Processing 7 '
             '(1998) 27–41. doi:10.1109/83.650848',
    'destripe': 'B. Münch, P. Trtik, F. Marone, M. Stampanoni. Stripe and ring '
                'artifact removal with combined wavelet–Fourier filtering. Optics '
                'Express 17 (2009) 8567–8591. doi:10.1364/OE.17.008567'}
_AUGMENTATIONS = {
    'dihedral': 'images were flipped, transposed and changed in brightness and '
                'contrast',
    'full': 'images were flipped, rotated, scaled, sheared, changed in brightness and '
            'contrast and given noise',
    'physical': 'images were flipped along x, rotated by up to 5°, scaled, sheared, '
                'changed in brightness and contrast and given noise'}
_STEPS = {
    'align': 'aligned rigidly to each other', 'gradient': 'freed of a linear gradient',
    'brightness': 'matched in brightness',
    'destripe': 'freed of curtains by a wavelet-FFT filter',
    'normalise': 'normalised locally'}
_SCALES = {
    'dtype': 'divided by the range of their type',
    'minmax_volume': 'mapped from the minimum and maximum of the volume to 0 and 1',
    'standard': 'mapped from two standard deviations around the mean of the volume to '
                '0 and 1'}


def citations(facts: MethodFacts | None, versions: dict,
              records: dict | None = None) -> list[str]:
  """References to cite: the software, Skärberg et al. 2021, the method, preparation.

  Args:
    facts: of the method; None when it is unknown or there are several.
    versions: content of versions.json.
    records: content of preprocessing.json: volume -> record.
  """
  software = SOFTWARE.format(version=versions.get('fibjax', '')).replace(' ,', ',')
  steps = _earlier_steps(records or {})
  return [software, _PAPER, *(facts.citations if facts else ()),
          *(_STEP_PAPERS[step] for step in steps if step in _STEP_PAPERS)]


def methods_paragraph(settings: dict, versions: dict, metrics: dict, post: dict,
                      records: dict, facts: MethodFacts | None) -> str:
  """Writes the methods section of a paper about this run, in a few sentences.

  Args:
    settings: content of config.json.
    versions: content of versions.json.
    metrics: content of metrics.json, {} before evaluation.
    post: sigma_px and threshold, {} when unknown.
    records: content of preprocessing.json: volume -> record.
    facts: of the run's method.

  Returns:
    plain text; '' without facts or without complete settings.
  """
  if facts is None or not {'model', 'prepare', 'train', 'split'} <= settings.keys():
    return ''
  sentences = [
      _earlier(records), _preparation(settings['prepare']), facts.describe(settings),
      _training(settings['train']) if facts.role == NETWORK else '',
      _postprocessing(settings['postprocess'], post), _evaluation(metrics),
      f'Computed with fibjax {versions.get("fibjax", "")} (JAX '
      f'{versions.get("jax", "")}), seed {settings["seed"]}.']
  return ' '.join(sentence for sentence in sentences if sentence)


def _earlier_steps(records: dict) -> list[str]:
  """Steps that `fibjax prep` did to any of the volumes, each once, in order."""
  return list(dict.fromkeys(step for record in records.values()
                            for step in record.get('earlier_steps', ())))


def _earlier(records: dict) -> str:
  steps = [_STEPS[step] for step in _earlier_steps(records)]
  if not steps:
    return ''
  *first, last = steps
  return f'Slices were {", ".join(first)}{" and " if first else ""}{last}.'


def _preparation(prepare: dict) -> str:
  text = f'Grey values were {_SCALES[prepare["scale"]]}'
  if prepare['gradient']:
    text += (' and a linear gradient along the image rows, fitted by least squares to '
             'the whole volume, was subtracted')
  return text + '.'


def _training(train: dict) -> str:
  if train['weights']:
    origin = ('those of the published archive' if train['weights'] == 'archive' else
              f'read from {Path(train["weights"]).name}')
    return f'Its weights were not trained here but {origin}.'
  rate = 10 ** train['log10_learning_rate']
  return (f'It was trained for {train["epochs"]} epochs of '
          f'{train["steps_per_epoch"]} steps with the loss {train["loss"]} and '
          f'an initial learning rate of {rate:.2g} on annotated regions, split by '
          'region into training, validation and test sets; '
          f'{_AUGMENTATIONS[train["augment"]]} at random; the epoch of lowest '
          'validation cross-entropy was kept.')


def _postprocessing(settings: dict, post: dict) -> str:
  if not {'sigma_px', 'threshold'} <= post.keys():
    return ''
  if post.get('tuned') and not post['taken']:
    text = ('Voxels of a score above 0.5 were taken as solid, since smoothing and '
            'another threshold were not better on held-out regions')
  else:
    own = ', '.join(f'{value:.3f} for {name}'
                    for name, value in post.get('per_volume', {}).items())
    chosen = {'miou': ', chosen for mIoU on the validation regions,',
              'porosity': ', chosen for a porosity without bias on the training and '
                          'validation regions and then for mIoU,'}.get(
                              post.get('objective'), '')
    text = (f'Scores were smoothed in the plane by a Gaussian of σ = '
            f'{post["sigma_px"]:.2f} px and compared with the threshold '
            f'{own or format(post["threshold"], ".3f")}{chosen} twice')
  if settings.get('min_size_vox'):
    text += (f'; objects of either phase below {settings["min_size_vox"]} voxels were '
             'removed')
  return text + '.'


def _evaluation(metrics: dict) -> str:
  after = (metrics.get('test') or {}).get('after') or {}
  if not after.get('n_voxels'):
    return ''
  interval = (metrics.get('test_intervals') or {}).get('miou')
  spread = ('' if not interval else
            f' (95 % bootstrap interval over regions {interval[0]:.3f} to '
            f'{interval[1]:.3f})')
  return (f'On the test regions ({after["n_voxels"]} labelled voxels) the mean '
          f'intersection over union was {after["miou"]:.3f}{spread}, the accuracy '
          f'{after["accuracy"]:.3f} and the porosity '
          f'{100 * after["porosity_automatic"]:.1f} %, against '
          f'{100 * after["porosity_manual"]:.1f} % in the labels.')


def inputs(hashes: dict, records: dict) -> list[tuple[str, str]]:
  """Lists everything the run read, as (name, description).

  Args:
    hashes: content of inputs.json: path -> fingerprint of what was read.
    records: content of preprocessing.json: volume -> record.
  """
  pairs = []
  for name, record in records.items():
    shape = ' × '.join(map(str, record['shape']))
    pairs.append((f'volume {name}', f'{shape} voxels, {record["dtype"]}, grey values '
                  f'{record["minimum"]:g} to {record["maximum"]:g}'))
  pairs += [(f'fingerprint of {path}', digest) for path, digest in hashes.items()]
  return pairs
