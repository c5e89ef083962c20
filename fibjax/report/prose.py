"""Text of the report made from a run's settings: methods, citations, what went in.

The methods paragraph says what was done in the past tense, with the numbers of this
run, so that it can be pasted and shortened. It claims nothing that the run's files do
not hold.
"""
from pathlib import Path

from fibjax import models

SOFTWARE = ('fibjax {version}, segmentation of FIB-SEM nanotomography of porous '
            'materials in JAX')
_PAPER = ('F. Skärberg, C. Fager, F. Mendoza-Lara, M. Josefson, E. Olsson, N. Lorén, '
          'M. Röding. Convolutional neural networks for segmentation of FIB-SEM '
          'nanotomography data from porous polymer films for controlled drug release. '
          'Journal of Microscopy 283 (2021) 51–63. doi:10.1111/jmi.13007')
_METHOD_PAPERS = {
    'resunet': 'Z. Zhang, Q. Liu, Y. Wang. Road extraction by deep residual U-Net. '
               'IEEE Geoscience and Remote Sensing Letters 15 (2018) 749–753. '
               'doi:10.1109/LGRS.2018.2802944',
    'unet': 'O. Ronneberger, P. Fischer, T. Brox. U-Net: convolutional networks for '
            'biomedical image segmentation. MICCAI 2015. '
            'doi:10.1007/978-3-319-24574-4_28'}
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
_KINDS = {'resunet': 'residual U-Net', 'unet': 'U-Net'}


def citations(settings: dict, versions: dict, records: dict) -> list[str]:
  """What to cite: the software, the method's paper, those of its parts.

  Args:
    settings: content of config.json.
    versions: content of versions.json.
    records: content of preprocessing.json: volume -> record.
  """
  name = (settings.get('model') or {}).get('name')
  found = [SOFTWARE.format(version=versions.get('fibjax', '')).replace(' ,', ','),
           _PAPER]
  if name in _METHOD_PAPERS:
    found.append(_METHOD_PAPERS[name])
  return found + [_STEP_PAPERS[step] for step in _earlier_steps(records)
                  if step in _STEP_PAPERS]


def methods_paragraph(settings: dict, versions: dict, metrics: dict, post: dict,
                      records: dict) -> str:
  """The methods section of a paper about this run, in a few sentences.

  Args:
    settings: content of config.json.
    versions: content of versions.json.
    metrics: content of metrics.json, {} when the run has not got there.
    post: sigma_px and threshold, {} when unknown.
    records: content of preprocessing.json: volume -> record.

  Returns:
    plain text; '' without settings of a model.
  """
  if not {'model', 'prepare', 'train', 'split'} <= settings.keys():
    return ''
  parts = [_earlier(records), _preparation(settings), _method(settings),
           _training(settings), _postprocessing(settings, post), _evaluation(metrics),
           f'Computed with fibjax {versions.get("fibjax", "")} (JAX '
           f'{versions.get("jax", "")}), seed {settings["seed"]}.']
  return ' '.join(part for part in parts if part)


def _earlier_steps(records) -> list[str]:
  """What `fibjax prep` did to any of the volumes, each step once."""
  return list(dict.fromkeys(step for record in records.values()
                            for step in record.get('earlier_steps', ())))


def _earlier(records) -> str:
  done = _earlier_steps(records)
  if not done:
    return ''
  texts = {'align': 'aligned rigidly to each other', 'gradient': 'freed of a linear '
           'gradient', 'brightness': 'matched in brightness', 'destripe': 'freed of '
           'curtains by a wavelet-FFT filter', 'normalise': 'normalised locally'}
  *first, last = (texts[step] for step in done)
  joined = f'{", ".join(first)} and {last}' if first else last
  return f'Slices were {joined}.'


def _preparation(settings) -> str:
  scale = {'dtype': 'divided by the range of their type', 'minmax_volume':
           'mapped from the minimum and maximum of the volume to 0 and 1'}
  text = f'Grey values were {scale[settings["prepare"]["scale"]]}'
  if settings['prepare']['gradient']:
    text += (' and a linear gradient along the image rows, fitted by least squares to '
             'the whole volume, was subtracted')
  return text + '.'


def _method(settings) -> str:
  model = settings['model']
  name = model['name']
  if name == 'patch_cnn':
    kind = {'same': 'with zero padding, as published', 'context':
            'evaluated densely on the pixels around it instead of zero padding'}
    return (f'Each voxel was classified as pore or solid by a convolutional network '
            f'from its neighbourhood of {model["n_xy"]} × {model["n_xy"]} × '
            f'{model["n_z"]} voxels (Skärberg et al. 2021), {kind[model["padding"]]}.')
  if name in _KINDS:
    return (f'Each voxel was classified as pore or solid by a {_KINDS[name]} of depth '
            f'{model["depth"]} and {model["base"]} channels at full resolution on '
            f'{model["n_z"]} neighbouring slices.')
  if name == 'forest':
    forest = settings['forest']
    return (f'Each voxel was classified as pore or solid by a random forest of '
            f'{forest["trees"]} trees on Gaussian scale-space features (set '
            f'{forest["features"]}; after Röding et al. 2021).')
  return (f'Volumes were segmented without training by the method '
          f'{name.replace("_", " ")}.')


def _training(settings) -> str:
  if settings['model']['name'] not in models.NAMES:
    return ''
  train = settings['train']
  if train['weights']:
    origin = ('those of the published archive' if train['weights'] == 'archive' else
              f'read from {Path(train["weights"]).name}')
    return f'Its weights were not trained here but {origin}.'
  rate = 10 ** train['log10_learning_rate']
  return (f'It was trained for {train["epochs"]} epochs of '
          f'{train["steps_per_epoch"]} steps with the loss {train["loss"]} and '
          f'a learning rate of {rate:.2g} at the start, on annotated regions, split by '
          'region into training, validation and test; '
          f'{_AUGMENTATIONS[train["augment"]]} at random; the epoch of lowest '
          'validation cross-entropy was kept.')


def _postprocessing(settings, post) -> str:
  if not {'sigma_px', 'threshold'} <= post.keys():
    return ''
  tuned = settings['postprocess'].get('tune')
  chosen = ', chosen for mIoU on the validation regions,' if tuned else ''
  size = settings['postprocess'].get('min_size_vox')
  text = (f'Scores were smoothed by a Gaussian in the plane of σ = '
          f'{post["sigma_px"]:.2f} px and compared with the threshold '
          f'{post["threshold"]:.3f}{chosen} twice')
  if size:
    text += f'; objects of either phase below {size} voxels were removed'
  return text + '.'


def _evaluation(metrics) -> str:
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


def inputs(settings: dict, hashes: dict, records: dict) -> list[tuple[str, str]]:
  """(name, what) of everything the run read.

  Args:
    settings: content of config.json.
    hashes: content of inputs.json: path -> fingerprint of what was read.
    records: content of preprocessing.json: volume -> record.
  """
  found = []
  for name, record in records.items():
    shape = ' × '.join(map(str, record['shape']))
    found.append((f'volume {name}', f'{shape} voxels, {record["dtype"]}, grey values '
                  f'{record["minimum"]:g} to {record["maximum"]:g}'))
  found += [(f'fingerprint of {path}', digest) for path, digest in hashes.items()]
  data = settings.get('data') or {}
  if data.get('source') == 'simulate':
    found.append(('simulated films', f'presets {", ".join(data["presets"])}, seed '
                  f'{data["seed"]}, artefacts {data["artefacts"]}'))
  return found
