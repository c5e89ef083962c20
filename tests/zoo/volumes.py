"""Bad volumes: fibjax's own and those of other programs, their metadata and chunks."""
import json
import os
import struct

import numpy as np

from tests import foreign_files
from tests.zoo.case import Case, film, importing, noise
from tests.zoo.stacks import deflated_zeros


def _edit(file, change):
  content = json.loads(file.read_text())
  changed = change(content)
  file.write_text(json.dumps(content if changed is None else changed))


def _image(content):
  ome = content['attributes']['ome'] if 'attributes' in content else content
  return ome['multiscales'][0]


def _set(**changes):
  return lambda content: content.update(changes)


def _level(path):
  def change(content):
    _image(content)['datasets'][0]['path'] = path
  return change


def _scale(*scale):
  def change(content):
    _image(content)['datasets'][0]['coordinateTransformations'][0]['scale'] = (
        scale[0] if len(scale) == 1 else list(scale))
  return change


def _axes(*axes):
  def change(content):
    _image(content)['axes'] = list(axes)
  return change


def _axis(name, unit='nanometer'):
  return {'name': name, 'type': 'space', 'unit': unit}


def _drop(key):
  def change(content):
    del _image(content)[key]
  return change


def _multiscales(value):
  def change(content):
    (content['attributes']['ome'] if 'attributes' in content else content)[
        'multiscales'] = value
  return change


# Of the group, for all three kinds of volumes.
_GROUPS = {
    'an absolute path': _level('{other}'),
    'a path with ..': _level('../other.ome.zarr/0'),
    'a path to itself': _level(''), 'a path that is a number': _level(0),
    'a path that is a list': _level(['0']), 'a path of control characters':
    _level('\x1b[2J'), 'a path with NUL': _level('a\0b'), 'a path of 5000 letters':
    _level('a' * 5000), 'a path to nothing': _level('1'),
    'a scale of text': _scale('50', '10', '10'), 'a scale of a text': _scale('123'),
    'a negative scale': _scale(-50, 10, 10), 'a scale of 0 and 1e300': _scale(
        1e300, 10, 10), 'a scale of two axes': _scale(50, 10), 'a scale of true':
    _scale(True, True, True), 'a scale that is a number': _scale(50), 'a scale of null':
    _scale(None, 10, 10), 'a scale of lists': _scale([50], [10], [10]),
    'an axis twice': _axes(_axis('z'), _axis('z'), _axis('x')), 'two axes':
    _axes(_axis('y'), _axis('x')), 'axes of text': _axes('z', 'y', 'x'),
    'an axis named by a list': _axes(_axis(['z']), _axis('y'), _axis('x')),
    'no axes': _drop('axes'), 'no datasets': _drop('datasets'),
    'no image': _multiscales([]), 'images of text': _multiscales('abc'),
    'images of null': _multiscales(None), 'an image of null': _multiscales([None])}
_TEXTS = {
    'is empty': b'', 'is cut': b'{"zarr_format": 3, "node_type": "gro',
    'is a list': b'[]',
    'is null': b'null', 'is a number': b'3', 'is deep': b'[' * 99999,
    'has NaN': b'{"node_type": "group", "attributes": NaN}',
    'has a key twice': b'{"node_type": "group", "node_type": "array"}',
    'has a number of 5000 digits': b'{"zarr_format": ' + b'3' * 5000 + b'}',
    'is no UTF-8': b'{"\xff": 1}', 'is of 40 MB': b' ' * 40 * 2**20,
    'has attributes of text':
    b'{"zarr_format": 3, "node_type": "group", "attributes": "x"}'}


def _v3(**changes):
  def change(content):
    content.update(changes)
  return change


def _chunk(shape):
  def change(content):
    content['chunk_grid']['configuration']['chunk_shape'] = shape
  return change


def _both(first, second):
  def change(content):
    first(content)
    second(content)
  return change


def _inner(**changes):
  def change(content):
    content['codecs'][0]['configuration'].update(changes)
  return change


# Of the array of a volume of fibjax.
_ARRAYS = {
    'a shape of 9e6 x 1e6': _v3(shape=[9, 9 * 10**6, 10**6]), 'a shape of 1e18':
    _v3(shape=[10**18, 10**18, 10**18]), 'a negative shape': _v3(shape=[-9, 96, 96]),
    'a shape of 0': _v3(shape=[0, 96, 96]), 'a shape of two axes': _v3(shape=[96, 96]),
    'a shape of text': _v3(shape='abc'), 'a shape of numbers': _v3(shape=[9., 96, 96]),
    'a shape of true': _v3(shape=[True, True, True]), 'a deeper shape': _v3(
        shape=[4000, 96, 96]), 'a dtype of objects': _v3(data_type='object'),
    'a dtype that is a list': _v3(data_type=['uint8']), 'a dtype of records': _v3(
        data_type={'name': 'struct'}), 'a dtype of 800 bits': _v3(data_type='r800'),
    'chunks of 0': _chunk([0, 0, 0]), 'negative chunks': _chunk([-8, 96, 96]),
    'chunks of 1e9': _chunk([10**9] * 3), 'chunks of text': _chunk('abc'),
    'inner chunks of 0': _inner(chunk_shape=[0, 1, 1]), 'inner chunks of 1e5 x 1e5':
    _both(_chunk([4, 10**5, 10**5]), _inner(chunk_shape=[4, 10**5, 10**5])),
    'a billion inner chunks': _both(_chunk([1000] * 3), _inner(chunk_shape=[1, 1, 1])),
    'inner chunks of another rank': _inner(
            chunk_shape=[4, 96]), 'no codecs': _v3(codecs=[]), 'codecs of text': _v3(
                codecs='abc'), 'an unknown codec': _v3(codecs=[{'name': 'magic'}]),
    'inner codecs of text': _inner(codecs='abc'),
    'shards within shards': lambda c: _inner(
        codecs=[json.loads(json.dumps(c['codecs'][0]))])(c), 'no chunk grid': _v3(
            chunk_grid={}), 'another node': _v3(node_type='group'),
    'an unknown extension': _v3(storage_transformers=[{'name': 'x'}]),
    'another chunk key': _v3(chunk_key_encoding={'name': 'x'}),
    'a fill value of text': _v3(fill_value='x')}
_ARRAYS_V2 = {
    'a shape of 1e6 x 1e6': _set(shape=[10, 10**6, 10**6]), 'chunks of 4e4 x 4e4':
    _set(shape=[1, 40000, 40000], chunks=[1, 40000, 40000]), 'chunks of 0': _set(
        chunks=[0, 1, 1]), 'chunks of another rank': _set(chunks=[1]),
    'a dtype of records': _set(dtype=[['a', '<u2']]), 'a dtype of objects': _set(
        dtype='|O'), 'a dtype of 1e9 bytes': _set(dtype='|V1000000000'),
    'an unknown compressor': _set(compressor={'id': 'magic'}), 'filters': _set(
        filters=[{'id': 'delta'}]), 'another format': _set(zarr_format=9)}


def _paths(kind, folder):
  """(path, file of the group, file of the array) of a volume of a kind."""
  film(folder, 'other.ome.zarr')
  if kind == 'own':
    path = film(folder)
    return path, path / 'zarr.json', path / '0' / 'zarr.json'
  path = folder / 'film.zarr'
  foreign_files.write_zarr(path, noise(np.uint16, (3, 20, 30)), kind)
  names = ('.zattrs', '.zarray') if kind == '0.4' else ('zarr.json', 'zarr.json')
  return path, path / names[0], path / 's0' / names[1]


def _opening(path, verb):
  return {'import': importing(path), 'inspect': ['inspect', str(path), '--quick'],
          'export': ['export', str(path), f'--out={path}.tif'],
          'view': ['view', str(path)],
          'prep': ['prep', str(path), f'--out={path}.o', '--steps=gradient'],
          'propose': ['regions', 'propose', str(path), f'--out={path}.csv',
                      '--region_px=16', '--context_px=24', '--context_slices=1']}[verb]


def _group(kind, change, verb='import'):
  def make(folder):
    path, group, _ = _paths(kind, folder)
    _edit(group, change)
    text = group.read_text().replace('{other}', str(folder / 'other.ome.zarr' / '0'))
    group.write_text(text)
    return _opening(path, verb)
  return make


def _group_text(kind, content):
  def make(folder):
    path, group, _ = _paths(kind, folder)
    group.write_bytes(content)
    return _opening(path, 'import' if kind == '0.4' else 'export')
  return make


def _array(kind, change, verb='import'):
  def make(folder):
    path, _, array = _paths(kind, folder)
    _edit(array, change)
    return _opening(path, verb)
  return make


def _special(kind, where, what):
  def make(folder):
    path, *files = _paths(kind, folder)
    file = files[where == 'array']
    file.unlink()
    if what == 'pipe':
      os.mkfifo(file)
    elif what == 'folder':
      file.mkdir()
    else:
      file.symlink_to({'device': '/dev/zero', 'broken link': 'gone'}[what])
    return _opening(path, 'import' if kind != 'own' else 'export')
  return make


def _linked(kind):
  """The array is a link to that of another volume."""
  def make(folder):
    path, _, array = _paths(kind, folder)
    array.parent.rename(folder / 'moved')
    array.parent.symlink_to(folder / 'other.ome.zarr' / '0')
    return _opening(path, 'import')
  return make


def _shard(damage, verb='export'):
  def make(folder):
    path = film(folder)
    shard = next(file for file in (path / '0' / 'c').rglob('*') if file.is_file())
    data = damage(shard.read_bytes())
    shard.unlink()
    if data is not None:
      shard.write_bytes(data)
    return _opening(path, verb)
  return make


def _flip(data):
  middle = len(data) // 2
  return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1:]


_SHARDS = {'is lost': lambda d: None, 'is empty': lambda d: b'', 'is cut':
           lambda d: d[:len(d) // 2], 'is zeros': lambda d: bytes(len(d)), 'is noise':
           lambda d: np.random.default_rng(0).bytes(len(d)), 'has a flipped bit': _flip}


def _channels(labels):
  """A volume that claims channels."""
  def change(content):
    ome = content['attributes']['ome']
    ome['omero'] = {'channels': labels}
    image = ome['multiscales'][0]
    image['axes'].insert(0, {'name': 'c', 'type': 'channel'})
    image['datasets'][0]['coordinateTransformations'][0]['scale'].insert(0, 1.)
  return change


def _gzip_bomb(folder):
  """A zarr v2 chunk of gzip that holds far more than the chunk."""
  path, _, array = _paths('0.4', folder)
  _edit(array, _set(compressor={'id': 'zlib', 'level': 1}))
  data = deflated_zeros(3 * 10**9)
  for file in (path / 's0').rglob('*'):
    if file.is_file() and not file.name.startswith('.'):
      file.write_bytes(data)
  return importing(path)


def _blosc_bomb(folder):
  """A zarr v2 chunk of blosc that claims 2 GB."""
  path, _, array = _paths('0.4', folder)
  _edit(array, _set(compressor={'id': 'blosc', 'cname': 'lz4', 'clevel': 5,
                                'shuffle': 1, 'blocksize': 0}))
  head = struct.pack('<4B3I', 2, 1, 0x21, 2, 2**31 - 2**20, 2**18, 4000)
  for file in (path / 's0').rglob('*'):
    if file.is_file() and not file.name.startswith('.'):
      file.write_bytes(head + bytes(4000))
  return importing(path)


def cases():
  for kind in ('own', '0.4', '0.5'):
    for name, change in _GROUPS.items():
      yield Case(f'{kind} with {name}', _group(kind, change))
    for name, content in _TEXTS.items():
      yield Case(f'{kind} whose group {name}', _group_text(kind, content))
    for where in ('group', 'array'):
      for what in ('pipe', 'folder', 'device', 'broken link'):
        yield Case(f'{kind} whose {where} is a {what}', _special(kind, where, what))
    yield Case(f'{kind} whose array is a link elsewhere', _linked(kind))
  for name, change in _ARRAYS.items():
    yield Case(f'own with {name}', _array('own', change, 'export'))
    yield Case(f'own with {name}, imported', _array('own', change))
    # For other programs a missing chunk reads as the fill value.
    if not any(word in name for word in ('inner', 'shards', 'deeper')):
      yield Case(f'0.5 with {name}', _array('0.5', change))
  for name, change in _ARRAYS_V2.items():
    yield Case(f'0.4 with {name}', _array('0.4', change))
  for verb in ('inspect', 'view', 'prep', 'propose'):
    yield Case(f'own with an absolute path, {verb}',
               _group('own', _level('{other}'), verb))
    yield Case(f'own with a shape of 9e6 x 1e6, {verb}', _array(
        'own', _v3(shape=[9, 9 * 10**6, 10**6]), verb))
  for name, damage in _SHARDS.items():
    for verb in ('export', 'inspect', 'prep'):
      yield Case(f'own whose shard {name}, {verb}', _shard(damage, verb))
  for name, labels in {
      'no names': [], 'a name too many': [{'label': 'a'}] * 2,
      'names of lists': [{'label': []}], 'names of text': 'abc'}.items():
    yield Case(f'own with channels of {name}',
               _group('own', _channels(labels), 'export'))
  yield Case('0.4 whose chunk of gzip takes gigabytes', _gzip_bomb)
  yield Case('0.4 whose chunk of blosc takes gigabytes', _blosc_bomb)
  for version in ('0.6', '0.1', 5, None, 'x\x1b[2J'):
    yield Case(f'own of version {version!r}', _group('own', lambda c, v=version: c[
        'attributes']['ome'].update(version=v)))
