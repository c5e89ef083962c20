"""Helpers that several test files share: small networks, settings, films and runs."""
import copy
import re
import shlex
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from fibjax.annotation.regions import make_regions, save_regions
from fibjax.config import base, validate
from fibjax.models import make_model
from fibjax.models.facts import NETWORK, MethodFacts
from fibjax.system.files import write_json
from fibjax.system.provenance import write_versions
from fibjax.volumes.volume import create_group, create_volume, write_box

ROOT = Path(__file__).parents[1]
SIZE_NM = (50.0, 10.0, 10.0)
NETWORK_FACTS = MethodFacts(  # of the method of `make_run`
    title='small network',
    describe=lambda settings: f'Voxels were classified on {settings["model"]["n_z"]} '
                              'slices.',
    summary=lambda settings: ('Network', '{n_xy} × {n_xy} × {n_z} voxels'.format(
        **settings['model'])),
    citations=('A. Author. A paper.',), role=NETWORK, has_neighbourhood=True)


def small_model(n_xy=33, n_z=1, padding='context', coarse=0):
  """A `patch_cnn` of the given size."""
  return make_model(ConfigDict({'name': 'patch_cnn', 'n_xy': n_xy, 'n_z': n_z,
                                'padding': padding, 'coarse': coarse}))


def elu(x):
  """The exponential linear unit."""
  return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


def patch_cnn_logit(params, patch_yxc, padding):
  """Logit of one patch, the network written out in numpy and float64."""
  x = np.asarray(patch_yxc, float)
  x = (x - float(params['input']['mean'])) / float(params['input']['deviation'])
  for block in range(1, 5):
    for part in 'ab':
      layer = params[f'conv{block}{part}']
      kernel = np.asarray(layer['kernel'], float)
      if padding == 'same':
        x = np.pad(x, ((1, 1), (1, 1), (0, 0)))
      h, w = x.shape[0] - 2, x.shape[1] - 2
      total = np.zeros((h, w, kernel.shape[3])) + np.asarray(layer['bias'], float)
      for dy in range(3):
        for dx in range(3):
          total += x[dy:dy + h, dx:dx + w] @ kernel[dy, dx]
      x = elu(total)
    h, w = x.shape[0] // 2, x.shape[1] // 2
    x = x[:2 * h, :2 * w].reshape(h, 2, w, 2, -1).max((1, 3))
  x = x.reshape(-1)
  for name in ('fc1', 'fc2'):
    x = elu(x @ np.asarray(params[name]['kernel'], float)
            + np.asarray(params[name]['bias'], float))
  return float((x @ np.asarray(params['out']['kernel'], float))[0]
               + params['out']['bias'][0])


def random_params(model, seed=0):
  """Initial weights of a network plus noise, so that no bias is zero."""
  params = jax.jit(model.init)(jax.random.key(seed))
  return jax.tree.map(lambda p: p + 0.03 * jax.random.normal(
      jax.random.key(p.size), p.shape), params)


def tiny_config(**changes):
  """Settings of a training run of seconds; `changes` are keys of config.train."""
  settings = base()
  settings.model.update(n_xy=33, n_z=1, padding='same', standardise=False)
  settings.train.update(sampling='patch', voxel_fraction=0.1, batch=16, epochs=3,
                        optimizer='sgd', momentum=0.9, log10_learning_rate=-3.,
                        schedule='steps')
  settings.train.update(**changes)
  validate(settings)
  return settings


def bright_is_solid(count=4, side=24, margin=16, seed=0):
  """Regions whose voxels are solid where a smooth image is bright, plus noise."""
  random = np.random.default_rng(seed)
  coarse = random.normal(size=(count, 8, 8))
  image = np.kron(coarse, np.ones((7, 7)))[:, :side + 2 * margin, :side + 2 * margin]
  masks = (image[:, margin:-margin, margin:-margin] > 0).astype(np.uint8)
  noisy = 0.5 + 0.2 * image + 0.05 * random.normal(size=image.shape)
  return noisy[..., None].astype(np.float32), masks


def split_scores(miou, accuracy=0.9, manual=0.25, automatic=0.2625):
  """One entry of metrics.json: the scores of a split, before or after cleaning."""
  return {'miou': miou, 'accuracy': accuracy, 'iou_pore': miou, 'iou_solid': miou,
          'porosity_manual': manual, 'porosity_automatic': automatic, 'n_voxels': 100}


def example_metrics(names=('A', 'B')):
  """A metrics.json of two volumes with made-up numbers."""
  splits = {s: {'before': split_scores(0.7), 'after': split_scores(0.81234)}
            for s in ('train', 'val', 'test')}
  return {**splits, 'per_volume': {name: splits for name in names},
          'postprocess': {'sigma_px': 2.63, 'threshold': 0.402},
          'whole_volume': {n: {'porosity_automatic': 0.3} for n in names},
          'threshold_baseline': {names[0]: {'miou': 0.7, 'threshold': 3.0}},
          'porosity_tests': {names[0]: {
              'n_regions': 5, 'manual': 0.25, 'automatic': 0.26, 'difference': 0.01,
              'difference_low': -0.005, 'difference_high': 0.03, 'unpaired_p': 0.77,
              'paired_p': 1e-9, 'confidence': 0.9}}}


def example_analysis():
  """An analysis.json of two volumes with made-up numbers, the first with intervals."""
  axes = dict.fromkeys('zyx')
  found = {
      'porosity': 0.28,
      'pore_size': {'diameter_nm': [100., 200.], 'share': [0.5, 0.5], 'mean_nm': 150.,
                    'median_nm': 150., 'p10_nm': 100., 'p90_nm': 200.},
      'specific_surface': {'per_um': 12.0}, 'euler_per_um3': -3.0,
      'chords': {phase: {axis: {'corrected_nm': 90.} for axis in axes}
                 for phase in ('pore', 'solid')},
      'percolation': dict.fromkeys(axes, 1.0),
      's2': {axis: {'lag_nm': [0., 100.], 's2': [0.28, 0.1]} for axis in axes},
      'transport': {axis: {'relative_diffusivity': value, 'tortuosity': 1.5,
                           'converged': True}
                    for axis, value in zip('zyx', (0.34, 0.36, 0.40), strict=True)}}
  unknown = {'estimate': None, 'bias': None, 'material_low': None,
             'material_high': None,
             'sd': {'segmentation': None, 'bias': None, 'sampling': None}}
  rows = {
      'porosity': {'value': 0.28, 'estimate': 0.273, 'bias': 0.007, 'low': 0.265,
                   'high': 0.281, 'material_low': 0.25, 'material_high': 0.30},
      'pore_size.mean_nm': {'value': 150., 'estimate': 143., 'low': 139., 'high': 147.},
      'specific_surface.per_um': {'value': 12., 'estimate': 12.3, 'low': 12.05,
                                  'high': 12.55},
      'transport.z.relative_diffusivity': {'value': 0.34, 'estimate': 0.35, 'low': 0.31,
                                           'high': 0.39},
      'throats.mean_nm': {'value': 44., 'low': 42., 'high': 45.}}
  box = {'start_zyx': [0, 0, 0], 'stop_zyx': [5, 60, 70], 'found': found}
  first = {**box, 'truth': {**found, 'porosity': 0.27},
           'comparison': {'quantities': {}, 'pore_size_distance_nm': 3.0},
           'intervals': {'confidence': 0.9, 'draws': 24, 'caveats': [
               'Labels are taken as the truth.'],
               'quantities': {path: unknown | row for path, row in rows.items()}}}
  return copy.deepcopy({'HPC30': first, 'HPC45': box})


def film(seed, shape=(5, 60, 70)):
  """Image, truth and score map [z, y, x] of a small film."""
  rng = np.random.default_rng(seed)
  truth = np.kron(rng.random((shape[0], 6, 7)) > 0.3, np.ones((1, 10, 10))) > 0
  image = (0.3 + 0.4 * truth + rng.normal(0, 0.05, shape)).astype(np.float32)
  score = np.clip(truth + rng.normal(0, 0.3, shape), 0, 1).astype(np.float32)
  return image, truth.astype(np.uint8), score


def make_run(folder, names=('HPC22', 'HPC30'), voxel_size=SIZE_NM, with_test=True):
  """Writes the workdir of a finished small run, and returns it."""
  folder.mkdir()
  write_json(folder / 'config.json', {
      'name': 'small', 'seed': 0, 'model': {'name': 'patch_cnn', 'n_xy': 33, 'n_z': 3},
      'data': {'volumes': []}, 'postprocess': {'min_size_vox': 100}})
  write_json(folder / 'metrics.json', example_metrics(names))
  write_json(folder / 'postprocess.json', {'sigma_px': 2.5, 'threshold': 0.41})
  write_versions(folder)
  (folder / 'metrics.csv').write_text(
      'epoch,lr,train_loss,train_accuracy,val_bce,val_accuracy,val_miou\n'
      '1,0.01,0.6,0.7,0.5,0.75,\n2,0.01,0.4,0.8,0.45,0.8,0.6\n', encoding='utf-8')
  rows, table = [], ['volume,split,manual,automatic']
  for group in ('prepared', 'scores', 'segmentation'):
    create_group(folder / f'{group}.ome.zarr')
  for i, name in enumerate(names):
    image, truth, score = film(i)
    parts = {'prepared': image, 'scores': score,
             'segmentation': (score > 0.5).astype(np.uint8)}
    for group, array in parts.items():
      volume = create_volume(folder / f'{group}.ome.zarr' / name, array.shape,
                             array.dtype, voxel_size)
      write_box(volume, (0, 0, 0), array)
    for z, split in ((0, 'train'), (1, 'val'), (2, 'test' if with_test else 'val')):
      mask = truth[z, 5:37, 10:50].copy()
      mask[:4, :4] = 255
      rows.append((name, (z, 5, 10), mask, split))
      quoted = name.replace('"', '""')
      table.append(f'"{quoted}",{split},0.3,0.3{z}')
  volumes, positions, masks, split = zip(*rows, strict=True)
  save_regions(folder / 'regions', make_regions(volumes, positions, masks, split))
  (folder / 'porosities.csv').write_text('\n'.join(table), encoding='utf-8')
  return folder


def visible_text(html):
  """The words of a page as a reader sees them."""
  body = re.sub(r'<(style|script)>.*?</\1>', '', html, flags=re.S)
  return ' '.join(re.sub(r'<[^>]*>', ' ', body).split())


def document_text(path) -> str:
  """A document with commands that go over several lines joined to one."""
  return Path(path).read_text(encoding='utf-8').replace('\\\n', ' ')


def code_blocks(path, heading: str = '', language: str = '') -> list[str]:
  """Code blocks of a Markdown document.

  Args:
    path: the document.
    heading: text of the heading whose section is searched; '': the whole document.
    language: after the opening fence.
  """
  text = document_text(path)
  if heading:
    text = re.search(rf'^(#+) {re.escape(heading)}\n(.*?)(?=^#|\Z)', text,
                     re.M | re.S)[2]
  blocks = re.findall(r'^```(\w*)\n(.*?)^```$', text, re.M | re.S)
  return [code for tongue, code in blocks if tongue == language]


def commands_of(path, heading: str = '') -> list[list[str]]:
  """Words of every fibjax command in the code blocks of a document."""
  start = (r'^(?:\w+=\S+ )?'
           r'(?:fibjax|bash launch/local\.sh|sbatch \S+ launch/slurm\.sbatch) (\S.*)$')
  return [shlex.split(command, comments=True)
          for block in code_blocks(path, heading)
          for command in re.findall(start, block, re.M)]
