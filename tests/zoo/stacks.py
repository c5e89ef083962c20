"""Bad stacks: files of every format, folders of slices, sidecars."""
import json
import os
import struct
import zlib
from pathlib import Path

import h5py
import numpy as np
import tifffile

from tests import foreign_files
from tests.zoo.case import Case, importing, noise

_SHAPE = (3, 20, 30)
_FILES = {suffix: write for suffix, write in foreign_files.WRITERS.items()
          if not suffix.endswith('.zarr')}
_SIDE = 40000  # pixels: a slice of 1.5 GB
_START = -1
_STORED = os.urandom(2**19)  # what passes for a well compressed slice


# Damages of the bytes of a file: name -> function.
_DAMAGES = {
    'is empty': lambda data: b'', 'is cut to 20 bytes': lambda data: data[:20],
    'is cut to a half': lambda data: data[:len(data) // 2],
    'lacks its last bytes': lambda data: data[:-40],
    'is noise': lambda data: np.random.default_rng(0).bytes(5000),
    'is text': lambda data: b'a photo of a cat\n' * 50,
    'is all zeros': lambda data: bytes(len(data)),
    'is all ones': lambda data: b'\xff' * len(data)}


def _write(folder, suffix, **options) -> Path:
  path = folder / f'a{suffix}'
  _FILES[suffix](path, noise(np.uint16, _SHAPE), **options)
  return path


def _damaged(suffix, damage):
  def make(folder):
    path = _write(folder, suffix)
    path.write_bytes(damage(path.read_bytes()))
    return importing(path)
  return make


def _renamed(suffix, other):
  def make(folder):
    path = _write(folder, suffix)
    return importing(path.rename(folder / f'b{other}'))
  return make


def _liar(suffix, verb):
  def make(folder):
    foreign_files.LIARS[suffix](folder / f'a{suffix}')
    path = folder / f'a{suffix}'
    return importing(path) if verb == 'import' else ['inspect', str(path)]
  return make


def _not_finite(suffix, value):
  def make(folder):
    array = noise(np.float32, _SHAPE)
    array[1, 2, 3] = value
    path = folder / f'a{suffix}'
    _FILES[suffix](path, array)
    return importing(path)
  return make


# Compressed data that take gigabytes to decode.

def _tif_of_tags(tags, data):
  """A TIFF of one page: (code, type, count, value or the text itself) and its data.

  The value START stands for the place of the data.
  """
  def make(folder):
    start, more, fields = 8 + 2 + 12 * len(tags) + 4, data, b''
    for code, kind, count, value in tags:
      if isinstance(value, bytes):
        value, more = start + len(more), more + value
      fields += struct.pack('<HHII', code, kind, count,
                            start if value == _START else value)
    path = folder / 'a.tif'
    path.write_bytes(struct.pack('<2sHIH', b'II', 42, 8, len(tags)) + fields + bytes(4)
                     + more)
    return importing(path)
  return make


def _page(side, codec=1):
  return [(256, 4, 1, side), (257, 4, 1, side), (258, 3, 1, 8), (259, 3, 1, codec),
          (262, 3, 1, 1)]


def _strips(side, n_bytes):
  return [(273, 4, 1, _START), (277, 3, 1, 1), (278, 4, 1, side), (279, 4, 1, n_bytes)]


def _tif_bomb(folder, tile=None, codec=8, compressed=_STORED):
  """A TIFF with a large page, or a large tile for a small page."""
  if tile is None:
    tags = _page(_SIDE, codec) + _strips(_SIDE, len(compressed))
  else:
    tags = _page(100, codec) + [(322, 4, 1, tile), (323, 4, 1, tile),
                                (324, 4, 1, _START), (325, 4, 1, len(compressed))]
  return _tif_of_tags(tags, compressed)(folder)


def _tif_with(*changes, without=()):
  """A TIFF of 10 x 10 bytes with some other tags, or without some."""
  tags = {tag[0]: tag for tag in _page(10) + _strips(10, 100)}
  tags.update({tag[0]: tag for tag in changes})
  return _tif_of_tags([tags[code] for code in sorted(tags) if code not in without],
                      bytes(100))


def _tif_jpeg(folder):
  frame = b'\xff\xd8\xff\xc0\x00\x0b\x08' + struct.pack('>HH', 65500, 65500) + (
      b'\x01\x01\x11\x00')
  return _tif_bomb(folder, tile=112, codec=7, compressed=frame + bytes(9000))


def png_bytes(width, height, bits=8, colour=0, data=b'', more=()):
  """A PNG of any header."""
  chunks = [(b'IHDR', struct.pack('>IIBBBBB', width, height, bits, colour, 0, 0, 0)),
            *more, (b'IDAT', data), (b'IEND', b'')]
  return b'\x89PNG\r\n\x1a\n' + b''.join(
      struct.pack('>I', len(body)) + kind + body
      + struct.pack('>I', zlib.crc32(kind + body)) for kind, body in chunks)


def _png(*args, **options):
  def make(folder):
    (folder / 's').mkdir()
    (folder / 's' / 's_0.png').write_bytes(png_bytes(*args, **options))
    return importing(folder / 's')
  return make


def deflated_zeros(n_bytes, before=b''):
  """A stream of zlib of some bytes and as many zeros, without its end."""
  packer = zlib.compressobj(9)

  def packed(data):
    return packer.compress(data) + packer.flush(zlib.Z_FULL_FLUSH)
  return packed(before) + packed(bytes(2**24)) + packed(bytes(2**24)) * (
      n_bytes // 2**24)


def _h5_bomb(folder):
  path = folder / 'a.h5'
  with h5py.File(path, 'w') as file:
    data = file.create_dataset('d', (1, _SIDE, _SIDE), 'u1', chunks=(1, _SIDE, _SIDE),
                               compression='gzip')
    data.id.write_direct_chunk((0, 0, 0), deflated_zeros(42 * 10**7))
  return importing(path)


def _h5_deflate(folder):
  """A small chunk whose stream holds gigabytes."""
  path = folder / 'a.h5'
  with h5py.File(path, 'w') as file:
    data = file.create_dataset('d', _SHAPE, 'u1', chunks=_SHAPE, compression='gzip')
    data.id.write_direct_chunk((0, 0, 0), deflated_zeros(3 * 10**9))
  return importing(path)


def _h5_twice(folder):
  """Chunks that are compressed twice: a thousand times a thousand."""
  path = folder / 'a.h5'
  with h5py.File(path, 'w') as file:
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk(_SHAPE)
    plist.set_deflate(9)
    plist.set_deflate(9)
    data = h5py.h5d.create(file.id, b'd', h5py.h5t.NATIVE_UINT8,
                           h5py.h5s.create_simple(_SHAPE), plist)
    data.write(h5py.h5s.ALL, h5py.h5s.ALL, noise(shape=_SHAPE))
  return importing(path)


def _h5_chunk(folder):
  """A small slice in a chunk of many slices."""
  path = folder / 'a.h5'
  with h5py.File(path, 'w') as file:
    data = file.create_dataset('d', (8000, 400, 400), 'u1', chunks=(8000, 400, 400),
                               compression='gzip')
    data.id.write_direct_chunk((0, 0, 0), deflated_zeros(42 * 10**7))
  return importing(path)


def _mat_bomb(folder):
  """A compressed variable of 1.6 GB in 3 MB."""
  n = (1000, 1000, 1600)
  head = struct.pack('<4I', 6, 8, 9, 0) + struct.pack('<2I3iI', 5, 12, *n, 0)
  head += struct.pack('<HH', 1, 1) + b'V\0\0\0'
  size = n[0] * n[1] * n[2]
  body = deflated_zeros(size, struct.pack('<2I', 14, len(head) + 8 + size) + head
                        + struct.pack('<2I', 2, size))
  path = folder / 'a.mat'
  path.write_bytes(b'MATLAB 5.0'.ljust(124) + b'\x00\x01IM'
                   + struct.pack('<2I', 15, len(body)) + body)
  return importing(path, '--axes=yxz')


# Other faults of single formats.

def _tif(change=None, array=None, **options):
  def make(folder):
    path = folder / 'a.tif'
    tifffile.imwrite(path, noise(np.uint16, _SHAPE) if array is None else array,
                     **{'photometric': 'minisblack', **options})
    if change:
      with tifffile.TiffFile(path, mode='r+b') as tif:
        change(tif)
    return importing(path)
  return make


def _imagej(**metadata):
  def make(folder):
    path = folder / 'a.tif'
    tifffile.imwrite(path, noise(np.uint16, _SHAPE), imagej=True,
                     resolution=(0.1, 0.1), metadata={'unit': 'nm', **metadata})
    return importing(path)
  return make


def _ome(**attributes):
  """An OME-TIFF with other attributes of Pixels."""
  text = ' '.join(f'{key}="{value}"' for key, value in {
      'SizeC': 1, 'SizeT': 1, 'SizeZ': 3, 'SizeY': 20, 'SizeX': 30,
      'PhysicalSizeX': 10, 'PhysicalSizeXUnit': 'nm', 'PhysicalSizeY': 10,
      'PhysicalSizeYUnit': 'nm', 'PhysicalSizeZ': 50, 'PhysicalSizeZUnit': 'nm',
      **attributes}.items())
  xml = f'<OME><Image><Pixels {text}/></Image></OME>'
  return _tif(description=xml, metadata=None)


def _bombing_xml(folder):
  entities = ''.join(f'<!ENTITY a{k} "{f"&a{k - 1};" * 10}">' for k in range(1, 12))
  xml = (f'<?xml version="1.0"?><!DOCTYPE OME [<!ENTITY a0 "ha">{entities}]>'
         '<OME><Image><Pixels SizeZ="&a11;"/></Image></OME>')
  return _tif(description=xml, metadata=None)(folder)


def _h5(make_data):
  def make(folder):
    path = folder / 'a.h5'
    with h5py.File(path, 'w') as file:
      make_data(file)
    return importing(path)
  return make


def _h5_attribute(name, value):
  def make_data(file):
    file['d'] = noise(shape=_SHAPE)
    file['d'].attrs[name] = value
  return _h5(make_data)


def _h5_external(file):
  file.create_dataset('d', _SHAPE, 'u1', external=[('/etc/passwd', 0, 1800)])


def _h5_link(file):
  file['d'] = h5py.ExternalLink('/etc/passwd', '/d')
  file['e'] = h5py.SoftLink('/e')


def _h5_virtual(file):
  layout = h5py.VirtualLayout(_SHAPE, 'u1')
  layout[:] = h5py.VirtualSource('/etc/passwd', 'd', _SHAPE)
  file.create_virtual_dataset('d', layout)


def _mrc(at, form, *values):
  def make(folder):
    path = _write(folder, '.mrc')
    data = bytearray(path.read_bytes())
    struct.pack_into(form, data, at, *values)
    path.write_bytes(data)
    return importing(path)
  return make


def _npy(array, *words):
  def make(folder):
    np.save(folder / 'a.npy', array, allow_pickle=True)
    return importing(folder / 'a.npy', *words)
  return make


def _npy_header(text):
  def make(folder):
    header = text.encode().ljust(118 if len(text) < 118 else len(text)) + b'\n'
    (folder / 'a.npy').write_bytes(b'\x93NUMPY\x01\x00' + struct.pack(
        '<H', len(header) % 2**16) + header + bytes(100))
    return importing(folder / 'a.npy')
  return make


# Sidecars.

_GOOD = {'shape': [3, 20, 30], 'axes': 'zyx', 'dtype': 'uint16', 'byte_order': 'little',
         'offset': 0, 'voxel_size_zyx_nm': [50, 10, 10]}
_SIDECARS = {
    'a voxel size of text': {'voxel_size_zyx_nm': '123'},
    'a voxel size of texts': {'voxel_size_zyx_nm': ['50', '10', '10']},
    'a voxel size of true': {'voxel_size_zyx_nm': [True, True, True]},
    'two lengths': {'voxel_size_zyx_nm': [1, 2]},
    'a length of 0': {'voxel_size_zyx_nm': [0, 1, 1]},
    'a negative length': {'voxel_size_zyx_nm': [-50, 10, 10]},
    'a length of 1e300': {'voxel_size_zyx_nm': [1e300, 10, 10]},
    'a voxel size that is an object': {'voxel_size_zyx_nm': {'z': 1, 'y': 2, 'x': 3}},
    'a shape of text': {'shape': '320'},
    'a shape of numbers': {'shape': [3., 20, 30]},
    'a negative shape': {'shape': [-3, -20, 30]},
    'a shape of true': {'shape': [True] * 3}, 'an empty shape': {'shape': [0, 20, 30]},
    'a shape of 1e18': {'shape': [10**18, 1, 1]},
    'four axes': {'shape': [1, 3, 20, 30]}, 'a negative offset': {'offset': -8},
    'an offset beyond the file': {'offset': 10**9},
    'an offset of text': {'offset': '0'},
    'a dtype of objects': {'dtype': 'object'}, 'a dtype of another length':
    {'dtype': 'float64'}, 'a dtype that is a list': {'dtype': ['uint16']},
    'an unknown byte order': {'byte_order': 'middle'},
    'axes twice': {'axes': 'zzy'}, 'axes that are a list': {'axes': ['z', 'y', 'x']},
    'another key': {'path': '/etc/passwd'}}
_JSON = {
    'NaN': b'{"voxel_size_zyx_nm": [NaN, 1, 1]}',
    'Infinity': b'{"voxel_size_zyx_nm": [Infinity, 1, 1]}',
    'a number beyond float64': b'{"voxel_size_zyx_nm": [1e999, 1, 1]}',
    'a key twice': b'{"offset": 0, "offset": 8}',
    'a depth of 100000': b'[' * 100000,
    'objects of a depth of 100000': b'{"a":' * 100000,
    'a closed depth of 900': b'[' * 900 + b']' * 900,
    'a number of 5000 digits': b'{"offset": ' + b'9' * 5000 + b'}',
    'a number of 1000000 digits': b'{"offset": ' + b'9' * 10**6 + b'}',
    '40 MB': b'[' + b' ' * (40 * 2**20) + b']', '30 MB of lists': b'[' + b'[],' * 10**7
    + b'[]]', 'no content': b'', 'a list': b'[]', 'a number': b'3', 'null': b'null',
    'half a file': b'{"shape": [1,', 'NUL': b'{"axes": "z\0x"}',
    'no UTF-8': b'{"\xff": 1}',
    'half a character': b'{"axes": "\\ud800"}', 'escape sequences':
    b'{"\\u001b[2J\\u0007": 1}', 'UTF-16': '{"offset": 0}'.encode('utf-16')}


def _sidecar(content, suffix='.raw'):
  def make(folder):
    path = _write(folder, suffix)
    path.with_name(path.name + '.json').write_bytes(content)
    return importing(path)
  return make


def _sidecar_special(kind):
  def make(folder):
    path = _write(folder, '.raw')
    sidecar = path.with_name(path.name + '.json')
    sidecar.unlink()
    if kind == 'pipe':
      os.mkfifo(sidecar)
    elif kind == 'folder':
      sidecar.mkdir()
    elif kind == 'device':
      sidecar.symlink_to('/dev/zero')
    return importing(path)
  return make


# Folders of slices.

def _slices(change, count=4, write=tifffile.imwrite, suffix='.tif'):
  def make(folder):
    slices = folder / 's'
    slices.mkdir()
    for z in range(count):
      write(slices / f's_{z:02d}{suffix}', noise(np.uint16, (20, 30)))
    change(slices)
    return importing(slices)
  return make


def _link_last(slices):
  (slices / 's_03.tif').unlink()
  (slices / 's_03.tif').symlink_to('/no/such/disk/s_03.tif')


def _other_size(slices):
  tifffile.imwrite(slices / 's_04.tif', noise(np.uint16, (21, 30)))


def _other_dtype(slices):
  tifffile.imwrite(slices / 's_04.tif', noise(np.uint8, (20, 30)))


def _control_name(slices):
  (slices / 's_04\x1b[2J\x07\n.tif').write_bytes(b'II*\0')


_FOLDERS = {
    'a gap': lambda s: (s / 's_02.tif').unlink(),
    'a broken link at the end': _link_last,
    'a broken link in the middle': lambda s: ((s / 's_01.tif').unlink(), (
        s / 's_01.tif').symlink_to('gone')),
    'a folder for the last slice': lambda s: (s / 's_04.tif').mkdir(),
    'a pipe for the last slice': lambda s: os.mkfifo(s / 's_04.tif'),
    'a loop of links': lambda s: (s / 's_04.tif').symlink_to('s_04.tif'),
    'an empty last slice': lambda s: (s / 's_04.tif').write_bytes(b''),
    'a device for the last slice': lambda s: (s / 's_04.tif').symlink_to('/dev/zero'),
    'a slice of another size': _other_size, 'a slice of another type': _other_dtype,
    'a number twice': lambda s: tifffile.imwrite(s / 's_3.tif', noise(
        np.uint16, (20, 30))),
    'a slice of control characters': _control_name,
    'a slice of no Unicode': lambda s: (s / 's_04\udcff.tif').write_bytes(b'II*\0'),
    'a slice of several pages': lambda s: tifffile.imwrite(s / 's_04.tif', noise()),
    'PNGs too': lambda s: (s / 's_04.png').write_bytes(png_bytes(1, 1)),
    'a name of another pattern': lambda s: tifffile.imwrite(
        s / 'mask.tif', noise(np.uint16, (20, 30))),
    'numbers of 200 digits': lambda s: tifffile.imwrite(
        s / f's_{"9" * 200}.tif', noise(np.uint16, (20, 30))),
    'nothing': lambda s: [file.unlink() for file in s.iterdir()],
    'hidden files alone': lambda s: [file.rename(s / f'.{file.name}')
                                     for file in list(s.iterdir())]}


def cases():
  for suffix in _FILES:
    for name, damage in _DAMAGES.items():
      # Plain numbers of the right count may be anything.
      if suffix != '.raw' or name not in ('is all zeros', 'is all ones'):
        yield Case(f'{suffix} that {name}', _damaged(suffix, damage))
    for value in (np.nan, np.inf):
      yield Case(f'{suffix} with {value}', _not_finite(suffix, value))
  for suffix in foreign_files.LIARS:
    for verb in ('import', 'inspect'):
      yield Case(f'{suffix} whose header lies, {verb}', _liar(suffix, verb))
  for suffix, other in (('.tif', '.h5'), ('.h5', '.tif'), ('.npy', '.mat'),
                        ('.mat', '.npy'), ('.mrc', '.png'), ('.raw', '.raw'),
                        ('.h5', '.mat')):
    yield Case(f'{suffix} called {other}', _renamed(suffix, other))
  yield from _bombs()
  yield from _faults()
  for name, changes in _SIDECARS.items():
    yield Case(f'sidecar with {name}', _sidecar(json.dumps(_GOOD | changes).encode()))
  for name, content in _JSON.items():
    yield Case(f'JSON with {name}', _sidecar(content))
  for kind in ('pipe', 'folder', 'device', 'missing'):
    yield Case(f'sidecar that is a {kind}', _sidecar_special(kind))
  yield Case('sidecar of an npy with a voxel size of text',
             _sidecar(b'{"voxel_size_zyx_nm": "123"}', '.npy'))
  yield Case('sidecar of an npy with axes twice', _sidecar(b'{"axes": "zzz"}', '.npy'))
  for name, change in _FOLDERS.items():
    yield Case(f'slices with {name}', _slices(change))


def _bombs():
  yield Case('TIFF that takes gigabytes', _tif_bomb)
  yield Case('TIFF whose tile takes gigabytes', lambda f: _tif_bomb(f, tile=_SIDE))
  yield Case('TIFF of JPEG that takes gigabytes', _tif_jpeg)
  yield Case('TIFF of JPEG 2000', lambda f: _tif_bomb(f, tile=112, codec=34712))
  yield Case('PNG that takes gigabytes', _png(_SIDE, _SIDE, data=_STORED))
  yield Case('PNG of 16 bits that takes gigabytes', _png(_SIDE, _SIDE // 2, 16,
                                                         data=_STORED))
  yield Case('HDF5 that takes gigabytes', _h5_bomb)
  yield Case('HDF5 whose chunk takes gigabytes', _h5_chunk)
  yield Case('HDF5 whose gzip takes gigabytes', _h5_deflate)
  yield Case('HDF5 compressed twice', _h5_twice)
  yield Case('MAT that takes gigabytes', _mat_bomb)


def _faults():
  yield Case('PNG with colours', _png(4, 4, colour=2, data=zlib.compress(bytes(52))))
  yield Case('PNG with a palette', _png(4, 4, colour=3, data=zlib.compress(bytes(20))))
  yield Case('PNG with transparency', _png(
      4, 4, data=zlib.compress(bytes(20)), more=[(b'tRNS', b'\0\0')]))
  yield Case('PNG of 3 bits', _png(4, 4, 3, data=zlib.compress(bytes(20))))
  yield Case('PNG of 0 bits', _png(4, 4, 0, data=zlib.compress(bytes(20))))
  yield Case('PNG without a pixel', _png(0, 4, data=zlib.compress(b'')))
  yield Case('PNG without data', _png(4, 4))
  yield Case('PNG of 2147483648 pixels', _png(2**31, 1, data=b'x'))
  yield Case('TIFF with colours', _tif(array=noise(shape=(3, 20, 30, 3)),
                                       photometric='rgb'))
  yield Case('TIFF of complex numbers', _tif(array=noise(np.complex64, _SHAPE)))
  yield Case('TIFF of 32-bit integers', _tif(array=noise(np.uint32, _SHAPE)))
  for name, tag, value in (('a width of 0', 'ImageWidth', 0), (
      'a length of 0', 'ImageLength', 0), ('no bits', 'BitsPerSample', 0),
      ('77 bits', 'BitsPerSample', 77), ('an unknown compression', 'Compression', 999)):
    yield Case(f'TIFF with {name}', _tif(
        lambda tif, tag=tag, value=value: tif.pages[0].tags[tag].overwrite(value)))
  text = b'ImageJ=1.53\nimages=3\nslices=3\n\0'
  yield Case('TIFF of ImageJ without offsets', _tif_with(
      (270, 2, len(text), text), without=(273,)))
  yield Case('TIFF with a width of bytes', _tif_with(
      (256, 1, 4, 6), (257, 4, 1, 2**28), (278, 4, 1, 2**28)))
  yield Case('TIFF with a width of no value', _tif_with((256, 4, 0, 0)))
  yield Case('TIFF with a negative spacing', _imagej(spacing=-50))
  yield Case('TIFF with a spacing of nan', _imagej(spacing='nan'))
  yield Case('TIFF with a spacing of inf', _imagej(spacing='inf'))
  yield Case('TIFF with a spacing of text', _imagej(spacing='wide'))
  for name, attributes in {
      'a negative size': {'PhysicalSizeZ': -50},
      'a size of nan': {'PhysicalSizeX': 'nan'},
      'a size of 1e300': {'PhysicalSizeX': '1e300'}, 'channels': {'SizeC': 3},
      'a count of text': {'SizeZ': 'many'}}.items():
    yield Case(f'OME-TIFF with {name}', _ome(**attributes))
  yield Case('OME-TIFF whose entities grow', _bombing_xml)
  for size in (-1., np.nan):
    yield Case(f'HDF5 with a size of {size}',
               _h5_attribute('element_size_um', [size, 1, 1]))
  yield Case('HDF5 with axistags of no JSON', _h5_attribute('axistags', 'zyx'))
  yield Case('HDF5 with deep axistags', _h5_attribute('axistags', '[' * 5000))
  yield Case('HDF5 with other axistags', _h5_attribute('axistags', '{"axes": [1]}'))
  yield Case('HDF5 with data in another file', _h5(_h5_external))
  yield Case('HDF5 with links to other files', _h5(_h5_link))
  yield Case('HDF5 with virtual data', _h5(_h5_virtual))
  yield Case('HDF5 without a dataset', _h5(lambda file: None))
  yield Case('HDF5 with two datasets', _h5(
      lambda file: [file.create_dataset(k, data=noise(shape=_SHAPE)) for k in 'ab']))
  yield Case('HDF5 of text', _h5(lambda file: file.create_dataset(
      'd', data=np.full(_SHAPE, b'x'))))
  for name, fault in {
      'a negative shape': (0, '<3i', -1, 20, 3), 'an unknown mode': (12, '<i', 99),
      'complex numbers': (12, '<i', 4), 'an axis twice': (64, '<3i', 1, 1, 3),
      'a negative extended header': (92, '<i', -5), 'a huge extended header':
      (92, '<i', 2**31 - 1), 'no map string': (208, '<4s', b'PAM '),
      'a negative cell': (40, '<3f', -1., 1., 1.), 'a cell of nan':
      (40, '<3f', np.nan, 1., 1.), 'a cell of inf': (40, '<3f', np.inf, 1., 1.),
      'no byte order': (212, '<4s', b'\0\0\0\0'), 'volumes': (88, '<i', 401)}.items():
    yield Case(f'MRC with {name}', _mrc(*fault))
  yield Case('npy of pickles', _npy(np.array([[[print]]], object)))
  yield Case('npy of two axes', _npy(noise(shape=(3, 4))))
  yield Case('npy of complex numbers', _npy(noise(np.complex64, _SHAPE)))
  yield Case('npy without a voxel', _npy(noise(shape=(0, 3, 4))))
  yield Case('npy of 10 axes', _npy(noise(shape=(1,) * 10)))
  yield Case('npy with unknown axes', _npy(noise(shape=_SHAPE), '--axes=abc'))
  yield Case('npy with a dataset', _npy(noise(shape=_SHAPE), '--dataset=d'))
  yield Case('npy of labels with codes unknown', _npy(noise(shape=_SHAPE),
                                                      '--profile=fiji'))
  yield Case('npy of an unknown profile', _npy(noise(shape=_SHAPE), '--profile=word'))
  for name, header in {
      'is code': '__import__("os").system("touch owned")', 'is cut': "{'descr': '<u2',",
      'is deep': '(' * 5000, 'has a shape of text': "{'descr': '<u2', 'fortran_order': "
      "False, 'shape': ('3', 4, 5)}", 'has a negative shape':
      "{'descr': '<u2', 'fortran_order': False, 'shape': (-3, 4, 5)}",
      'has a dtype of records': "{'descr': [('a', '<u2')], 'fortran_order': False, "
      "'shape': (3, 4, 1)}"}.items():
    yield Case(f'npy whose header {name}', _npy_header(header))
