"""Bad tables of regions, masks, manifests and records."""
import json
import os

import numpy as np
import tifffile

from tests.zoo.case import Case, film, noise

_HEAD = 'volume,z,y,x,split\n'
_TABLES = {
    'is empty': b'', 'has a header alone': _HEAD.encode(), 'has no column z':
    b'volume,y,x\nfilm,1,2\n', 'has a column twice': b'volume,z,z,y,x\nfilm,1,1,2,3\n',
    'has a column without a name': b'volume,z,y,x,\nfilm,1,2,3,4\n',
    'has a short row': (_HEAD + 'film,1,2\n').encode(), 'has a long row':
    (_HEAD + 'film,1,2,3,train,5\n').encode(), 'has NUL': (_HEAD + 'fi\0lm,1,2,3,\n'
                                                           ).encode(),
    'has escape sequences': (_HEAD + '\x1b[2J\x07film,1,2,3,\n').encode(),
    'has a cell of 200000 letters': (_HEAD + 'a' * 200000 + ',1,2,3,\n').encode(),
    'has a cell of 5000 letters': (_HEAD + 'a' * 5000 + ',1,2,3,\n').encode(),
    'has 6000000 cells': b'a,b\n' + b',\n' * 3 * 10**6, 'has 80 MB': bytes(80 * 10**6),
    'has an open quote': (_HEAD + '"film,1,2,3,\n').encode(),
    'is UTF-16': (_HEAD + 'film,1,2,3,\n').encode('utf-16'),
    'is binary': bytes(range(256)) * 9,
    'has an unknown split': (_HEAD + 'film,1,2,3,tset\n').encode(),
    'is separated by semicolons': b'volume;z;y;x\nfilm;1;2;3\n'}
_POSITIONS = ('nan', 'inf', '-1', '1.5', '1e3', '', ' ', '9' * 30, '9' * 5000, '0x1',
              '1_0', '\u0661', 'one')


def _import(table, masks=None, name='masks.npy', words=()):
  def make(folder):
    (folder / 't.csv').write_bytes(table)
    np.save(folder / 'masks.npy', np.zeros((1, 32, 32), np.uint8)
            if masks is None else masks, allow_pickle=True)
    return ['regions', 'import', str(folder / 't.csv'), str(folder / name),
            '--profile=paper', f'--out={folder / "out"}', *words]
  return make


_ONE = (_HEAD + 'film,1,2,3,\n').encode()


def _export(table):
  def make(folder):
    (folder / 't.csv').write_bytes(table)
    return ['regions', 'export', str(folder / 't.csv'), str(film(folder)),
            f'--out={folder / "out"}', '--region_px=32', '--context_px=64',
            '--context_slices=3']
  return make


def _special(kind, verb):
  def make(folder):
    words = (_import if verb == 'import' else _export)(_ONE)(folder)
    (folder / 't.csv').unlink()
    if kind == 'pipe':
      os.mkfifo(folder / 't.csv')
    elif kind == 'folder':
      (folder / 't.csv').mkdir()
    elif kind == 'device':
      (folder / 't.csv').symlink_to('/dev/zero')
    return words
  return make


def _mask_column(mask):
  def make(folder):
    (folder / 'masks').mkdir()
    np.save(folder / 'secret.npy', np.zeros((32, 32), np.uint8))
    np.save(folder / 'masks' / 'a.npy', np.zeros((32, 32), np.uint8))
    (folder / 't.csv').write_text('volume,z,y,x,mask\nfilm,1,2,3,a.npy\n'
                                  f'film,2,2,3,{mask.format(folder=folder)}\n')
    return ['regions', 'import', str(folder / 't.csv'), str(folder / 'masks'),
            '--profile=paper', f'--out={folder / "out"}']
  return make


def _exported(change=None, paint=None):
  """A folder of `regions export`, with another manifest or other label images."""
  def make(folder):
    from fibjax.annotation import exchange
    from fibjax.annotation.sizes import Sizes
    from fibjax.volumes.volume import open_volume
    volume = open_volume(film(folder))
    exchange.export_regions({'film': volume}, [{'volume': 'film', 'z': 4, 'y': 30,
                                                'x': 30}], folder / 'paint',
                            sizes=Sizes(32, 64, 3))
    label = folder / 'paint' / 'labels' / 'expert1' / 'region_000.tif'
    painted = tifffile.imread(label)
    painted[1, 16:48, 16:48] = 1
    painted[1, 16:20, 16:48] = 2
    label.unlink()
    tifffile.imwrite(label, paint(painted) if paint else painted,
                     photometric='minisblack')
    manifest = folder / 'paint' / 'manifest.json'
    if change:
      content = change(json.loads(manifest.read_text()))
      manifest.write_text(content if isinstance(content, str) else json.dumps(content))
    return ['regions', 'import', str(folder / 'paint'), '--profile=napari',
            f'--out={folder / "out"}']
  return make


def _region(**changes):
  def change(manifest):
    manifest['regions'][0] |= changes
    return manifest
  return change


_MANIFESTS = {
    'is a list': lambda m: [], 'has another format': lambda m: m | {'format': 'x'},
    'has no regions': lambda m: m | {'regions': []}, 'has a negative size':
    lambda m: m | {'region_px': -32}, 'has a size of 1e12': lambda m: m | {
        'context_px': 10**12},
    'has a size of true': lambda m: m | {'context_slices': True},
    'has regions of text': lambda m: m | {'regions': 'abc'},
    'has a file elsewhere': _region(file='../../secret.tif'),
    'has a place of 1e30': _region(z=10**30), 'has a place of text': _region(z='4'),
    'has a negative place': _region(y=-1), 'has a volume of 1': _region(volume=1),
    'has NaN': lambda m: json.dumps(m)[:-1] + ', "x": NaN}', 'is deep': lambda m: '['
    * 99999, 'has a key twice': lambda m: json.dumps(m)[:-1] + ', "format": "x"}',
    'is cut': lambda m: json.dumps(m)[:99]}
_PAINT = {
    'was cropped': lambda a: a[:, 16:48, 16:48],
    'was moved': lambda a: np.roll(a, 3, 2),
    'was turned': lambda a: np.rot90(a, axes=(1, 2)), 'has unknown codes':
    lambda a: np.where(a == 1, 7, a), 'is one slice': lambda a: a[1],
    'is a float of nan': lambda a: np.full(a.shape, np.nan, np.float32),
    'is not painted': lambda a: np.where(a < 3, 0, a)}


def _replay(content):
  def make(folder):
    (folder / 'r.json').write_bytes(content)
    return ['prep', str(film(folder)), f'--out={folder / "o.ome.zarr"}',
            f'--replay={folder / "r.json"}']
  return make


def _record(steps, **changes):
  source = {'source': 'a', 'shape': [9, 96, 96], 'dtype': 'uint8', 'hash': '0'}
  return json.dumps({'input': source | changes, 'steps': steps}).encode()


def _step(name='gradient', parameters=(), estimated=()):
  """A step of a record; () stands for {}."""
  return {'name': name, 'parameters': parameters or {}, 'estimated': estimated or {}}


def _geometry(write):
  def make(folder):
    write(folder / 'g.tif')
    return ['simulate', '--preset=HPC30', '--shape=9,64,64', f'--out={folder / "o"}',
            f'--geometry={folder / "g.tif"}']
  return make


_RECORDS = {
    'is a list': b'[]', 'is a number': b'3', 'is empty': b'',
    'has no steps': b'{"input": {"shape": [1], "dtype": "u", "hash": "0"}}',
    'has steps of text': _record('align'), 'has a step that is a number': _record([3]),
    'has an unknown step': _record([_step('magic')]),
    'has a step of a list': _record([_step([])]),
    'has no estimates': _record([_step()]),
    'has estimates of text': _record([_step(estimated='x')]),
    'has an estimate of text': _record([_step(estimated={'beta_per_px': 'x'})]),
    'has an estimate of the wrong shape': _record([_step(estimated={
        'beta_per_px': [0.0]})]),
    'has estimates for other slices': _record([_step('brightness', estimated={
        'level_z2': [[0, 1]], 'reference': [0, 1]})]),
    'has parameters of text': _record([_step(parameters='x')]),
    'is of another stack': _record([_step(estimated={'beta_per_px': 0.0})], hash='1'),
    'has NaN': b'{"input": NaN}', 'is deep': b'[' * 99999}
_GEOMETRIES = {
    'is not there': lambda path: None,
    'is noise': lambda path: path.write_bytes(b'II*\0' * 99),
    'has three codes': lambda path: tifffile.imwrite(path, noise(shape=(9, 20, 20))),
    'has nan': lambda path: tifffile.imwrite(
        path, np.full((9, 20, 20), np.nan, np.float32)),
    'has no solid': lambda path: tifffile.imwrite(
        path, np.zeros((9, 20, 20), np.uint8))}


def cases():
  for name, table in _TABLES.items():
    yield Case(f'table that {name}', _import(table))
    if name != 'has an unknown split':  # places have none
      yield Case(f'places that {name}', _export(table))
  for k, position in enumerate(_POSITIONS):
    table = (_HEAD + f'film,{position},2,3,\n').encode()
    yield Case(f'table with z = {position[:9]!r} {k}', _import(table))
    yield Case(f'places with z = {position[:9]!r} {k}', _export(table))
  for kind in ('pipe', 'folder', 'device', 'missing'):
    for verb in ('import', 'export'):
      yield Case(f'table that is a {kind}, {verb}', _special(kind, verb))
  for mask in ('../secret.npy', '{folder}/secret.npy', '', 'gone.npy', '.', '..',
               'a.npy/'):
    yield Case(f'table with mask {mask!r}', _mask_column(mask))
  for name, masks in {
      'two masks': np.zeros((2, 32, 32), np.uint8), 'codes': np.full((1, 32, 32), 7,
                                                                     np.uint8),
      'nan': np.full((1, 32, 32), np.nan), 'pickles': np.array([print], object),
      'no mask': np.zeros((0, 32, 32), np.uint8), 'text': np.full((1, 3, 3), 'x'),
      'masks of one axis': np.zeros(32, np.uint8)}.items():
    yield Case(f'masks with {name}', _import(_ONE, masks))
  yield Case('masks that are not there', _import(_ONE, name='gone.tif'))
  yield Case('masks of an unknown profile', _import(_ONE, words=('--profile=word',)))
  yield Case('places outside the film', _export((_HEAD + 'film,99,2,3,\n').encode()))
  yield Case('places of an unknown film',
             _export((_HEAD + 'fillm,4,40,40,\n').encode()))
  yield Case('places of several sizes', _export(
      b'volume,z,y,x,region_px\nfilm,4,30,30,32\nfilm,4,30,30,16\n'))
  for name, change in _MANIFESTS.items():
    yield Case(f'manifest that {name}', _exported(change))
  for name, paint in _PAINT.items():
    yield Case(f'label image that {name}', _exported(paint=paint))
  for name, content in _RECORDS.items():
    yield Case(f'record that {name}', _replay(content))
  for name, write in _GEOMETRIES.items():
    yield Case(f'geometry that {name}', _geometry(write))
