"""Bad workdirs and inputs of runs: damaged results, regions that do not fit."""
import os
import shutil

import numpy as np

from tests.zoo.case import Case, film, noise
from tests.zoo.settings import DEMO

_BAD = {'is empty': b'', 'is a list': b'[]', 'has NaN': b'{"a": NaN}',
        'is cut': b'{"a": ', 'is deep': b'[' * 99999,
        'has a key twice': b'{"a": 1, "a": 2}', 'is no UTF-8': b'{"\xff": 1}',
        'has 5000 digits': b'{"a": ' + b'9' * 5000 + b'}'}
_BAD_TABLES = {'is no UTF-8': b'epoch,lr\n\xff,1\n', 'has text': b'epoch,lr\na,b\n',
               'has short rows': b'epoch,lr\n1\n', 'has NUL': b'epoch,lr\n1,\0\n',
               'has a column twice': b'lr,lr\n1,2\n'}


def _report(name, content):
  """A finished run, one file of which is damaged."""
  def make(folder):
    from tests.helpers import make_run
    make_run(folder / 'w')
    (folder / 'w' / name).write_bytes(content)
    return ['report', f'--workdir={folder / "w"}']
  return make


def _without(*names, verb='report'):
  def make(folder):
    from tests.helpers import make_run
    make_run(folder / 'w')
    for name in names:
      path = folder / 'w' / name
      shutil.rmtree(path) if path.is_dir() else path.unlink()
    return [verb, f'--workdir={folder / "w"}']
  return make


def _verb(verb, *words):
  """A verb on a run that was never trained."""
  def make(folder):
    from tests.helpers import make_run
    make_run(folder / 'w')
    return [verb, f'--workdir={folder / "w"}', *(
        word.format(folder=folder) for word in words)]
  return make


def _workdir(kind, verb='run'):
  def make(folder):
    path = folder / 'w'
    if kind == 'file':
      path.write_bytes(b'')
    elif kind == 'pipe':
      os.mkfifo(path)
    elif kind == 'broken link':
      path.symlink_to(folder / 'gone' / 'far')
    config = [f'--config={DEMO}:tiny'] if verb == 'run' else []
    return [verb, *config, f'--workdir={path}']
  return make


def regions_folder(folder, places, masks=None, **changes):
  """A folder of regions: rows of (z, y, x, split), 32 x 32."""
  path = folder / 'regions'
  path.mkdir()
  if masks is None:
    masks = np.zeros((len(places), 32, 32), np.uint8)
    masks[:, :16] = 1
  np.save(path / 'masks.npy', masks)
  rows = [f'{changes.get("volume", "film")},{z},{y},{x},'
          f'{changes.get("height", 32)},{changes.get("width", 32)},{split}'
          for z, y, x, split in places]
  (path / 'regions.csv').write_text('\n'.join(
      ['volume,z,y,x,height,width,split', *rows, '']))
  return path


_APART = [(1, 20, 20, 'train'), (4, 20, 20, 'val'), (7, 20, 20, 'test')]


def _own_run(make_inputs, *words):
  def make(folder):
    volume, regions = make_inputs(folder)
    return ['run', f'--config={DEMO}:tiny', f'--workdir={folder / "w"}',
            '--config.data.source=volumes', '--config.data.presets=()',
            f'--config.data.volumes={volume}', f'--config.data.regions={regions}',
            '--config.model.n_xy=33', '--config.model.n_z=1', *words]
  return make


def _with_regions(places=_APART, masks=None, **changes):
  return lambda folder: (film(folder), regions_folder(folder, places, masks, **changes))


def _with_file(name, content):
  def make_inputs(folder):
    volume, regions = film(folder), regions_folder(folder, _APART)
    (regions / name).write_bytes(content)
    return volume, regions
  return make_inputs


def _grey(value):
  """A film of floats with one value that is no number."""
  def make_inputs(folder):
    from fibjax.volumes.volume import new_volume, write_box
    image_zyx = noise(np.float32)
    image_zyx[4, 5, 6] = value
    path = folder / 'film.ome.zarr'
    with new_volume(path, image_zyx.shape, image_zyx.dtype, None) as volume:
      write_box(volume, (0, 0, 0), image_zyx)
    return path, regions_folder(folder, _APART)
  return make_inputs


_OVERLAPS = {
    'all of them': [(4, 20, 20, s) for s in ('train', 'val', 'test')],
    '31 of 32 rows': [(4, 20, 20, 'train'), (4, 51, 20, 'val'), (7, 20, 20, 'test')],
    'a corner': [(1, 20, 20, 'train'), (4, 20, 20, 'val'), (4, 50, 50, 'test')]}


def cases():
  for name in ('config.json', 'metrics.json', 'versions.json', 'postprocess.json'):
    for fault, content in _BAD.items():
      yield Case(f'{name} that {fault}', _report(name, content))
  for fault, content in _BAD_TABLES.items():
    yield Case(f'metrics.csv that {fault}', _report('metrics.csv', content))
    yield Case(f'porosities.csv that {fault}', _report('porosities.csv', content))
    yield Case(f'regions.csv that {fault}', _report('regions/regions.csv', content))
  yield Case('masks.npy that is noise', _report('regions/masks.npy', b'\x93NUMPY' * 9))
  yield Case('masks.npy that is not there', _without('regions/masks.npy'))
  for verb, words in {
      'evaluate': (), 'coverage': ('--out={folder}/c.json',),
      'segment': ('--volume={folder}/v', '--out={folder}/o')}.items():
    yield Case(f'{verb} of an unfinished run', _verb(verb, *words))
  yield Case('analyse of a run without a segmentation',
             _without('segmentation.ome.zarr', verb='analyse'))
  for kind in ('file', 'pipe', 'broken link'):
    for verb in ('run', 'report', 'evaluate'):
      yield Case(f'workdir that is a {kind}, {verb}', _workdir(kind, verb))
  for name, places in _OVERLAPS.items():
    yield Case(f'splits that overlap in {name}', _own_run(_with_regions(places)))
  for name, inputs in {
      'a region outside': _with_regions([*_APART[:2], (7, 90, 20, 'test')]),
      'a region beyond the last slice': _with_regions([*_APART[:2], (9, 2, 2, 'test')]),
      'an unknown film': _with_regions(volume='fim'), 'a film of control characters':
      _with_regions(volume='\x1b[2J'), 'a width of 0': _with_regions(width=0),
      'a width beyond the mask': _with_regions(width=33), 'no test region':
      _with_regions(_APART[:2]), 'some splits alone': _with_regions(
          [*_APART, (2, 20, 20, '')]), 'no splits': _with_regions(
              [(*place[:3], '') for place in _APART]), 'unknown codes': _with_regions(
                  masks=np.full((3, 32, 32), 7, np.uint8)), 'pore alone': _with_regions(
                      masks=np.zeros((3, 32, 32), np.uint8)), 'masks of floats':
      _with_regions(masks=np.full((3, 32, 32), np.nan)),
      'a mask too many': _with_regions(
          masks=np.zeros((4, 32, 32), np.uint8)), 'a table of noise': _with_file(
              'regions.csv', bytes(range(256))), 'masks of noise': _with_file(
                  'masks.npy', bytes(range(256))), 'a place of nan': _with_file(
                      'regions.csv', b'volume,z,y,x,height,width,split\n'
                      b'film,nan,2,3,32,32,train\n')}.items():
    yield Case(f'regions with {name}', _own_run(inputs))
  for value in (np.nan, np.inf):
    yield Case(f'film with {value}', _own_run(_grey(value)))
  yield Case('no regions', _own_run(lambda f: (film(f), f / 'gone')))
  yield Case('no film', _own_run(lambda f: (f / 'gone.ome.zarr', regions_folder(
      f, _APART))))
  yield Case('two films of one name', _own_run(lambda f: (
      f'{film(f)},{film(f / "b")}', regions_folder(f, _APART))))
  yield Case('a film smaller than the neighbourhood', _own_run(
      _with_regions(), '--config.model.n_xy=113'))
  yield Case('regions smaller than a window', _own_run(
      _with_regions(), '--config.train.crop_px=4096'))
