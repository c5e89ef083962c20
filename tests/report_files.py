"""Workdirs that the report and the viewer are tested on."""
import re

import numpy as np

from fibjax.annotation.regions import make_regions, save_regions
from fibjax.models.facts import NETWORK, MethodFacts
from fibjax.system.files import write_json, write_versions
from fibjax.volumes.volume import create_group, create_volume, write_box

SIZE_NM = (50.0, 10.0, 10.0)
NETWORK_FACTS = MethodFacts(
    title='small network',
    describe=lambda settings: f'Voxels were classified on {settings["model"]["n_z"]} '
                              'slices.',
    summary=lambda settings: ('Network', '{n_xy} × {n_xy} × {n_z} voxels'.format(
        **settings['model'])),
    citations=('A. Author. A paper.',), role=NETWORK, has_neighbourhood=True)


def scores(miou, accuracy=0.9, manual=0.25, automatic=0.2625):
  return {'miou': miou, 'accuracy': accuracy, 'iou_pore': miou, 'iou_solid': miou,
          'porosity_manual': manual, 'porosity_automatic': automatic, 'n_voxels': 100}


def example_metrics(names=('A', 'B')):
  splits = {s: {'before': scores(0.7), 'after': scores(0.81234)}
            for s in ('train', 'val', 'test')}
  return {**splits, 'per_volume': {name: splits for name in names},
          'postprocess': {'sigma_px': 2.63, 'threshold': 0.402},
          'whole_volume': {n: {'porosity_automatic': 0.3} for n in names},
          'threshold_baseline': {names[0]: {'miou': 0.7, 'threshold': 3.0}},
          'porosity_tests': {names[0]: {
              'n_regions': 5, 'manual': 0.25, 'automatic': 0.26, 'difference': 0.01,
              'difference_low': -0.005, 'difference_high': 0.03, 'unpaired_p': 0.77,
              'paired_p': 1e-9, 'confidence': 0.9}}}


def film(seed, shape=(5, 60, 70)):
  """Returns image, truth and score of a small film."""
  rng = np.random.default_rng(seed)
  truth = np.kron(rng.random((shape[0], 6, 7)) > 0.3, np.ones((1, 10, 10))) > 0
  image = (0.3 + 0.4 * truth + rng.normal(0, 0.05, shape)).astype(np.float32)
  score = np.clip(truth + rng.normal(0, 0.3, shape), 0, 1).astype(np.float32)
  return image, truth.astype(np.uint8), score


def make_run(folder, names=('HPC22', 'HPC30'), voxel_size=SIZE_NM, with_test=True):
  """Writes a complete small run."""
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
    arrays = {'prepared': image, 'scores': score,
              'segmentation': (score > 0.5).astype(np.uint8)}
    for group, array in arrays.items():
      volume = create_volume(folder / f'{group}.ome.zarr' / name, array.shape,
                             array.dtype, voxel_size)
      write_box(volume, (0, 0, 0), array)
    for z, split in ((0, 'train'), (1, 'val'), (2, 'test' if with_test else 'val')):
      mask = truth[z, 5:37, 10:50].copy()
      mask[:4, :4] = 255
      rows.append((name, (z, 5, 10), mask, split))
      table.append(f'"{name}",{split},0.3,0.3{z}')
  volumes, positions, masks, split = zip(*rows, strict=True)
  save_regions(folder / 'regions', make_regions(volumes, positions, masks, split))
  (folder / 'porosities.csv').write_text('\n'.join(table), encoding='utf-8')
  return folder


def visible_text(html):
  body = re.sub(r'<style>.*?</style>', '', html, flags=re.S)
  return ' '.join(re.sub(r'<[^>]*>', ' ', body).split())
