"""Image files as other programs write them, and headers that lie; no fibjax inside."""
import json
import struct
import zlib

import h5py
import mrcfile
import numpy as np
import scipy.io
import tifffile
import zarr

SIZE_NM = (50., 20., 10.)


def write_tif(path, array, **options):
  tifffile.imwrite(path, array, imagej=True, resolution=(1 / 10, 1 / 20),
                   metadata={'spacing': 50, 'unit': 'nm'}, **options)


def write_h5(path, array, name='data', **options):
  with h5py.File(path, 'w') as file:
    file.create_dataset(name, data=array, **options)
    file[name].attrs['element_size_um'] = [.05, .02, .01]


def write_mat(path, array, **options):
  scipy.io.savemat(path, {'V': array.transpose(1, 2, 0), 'axes': 'yxz',
                          'voxel_size_zyx_nm': SIZE_NM}, **options)


def write_packed_mat(path, array):
  write_mat(path, array, do_compression=True)


def write_mat73(path, array, axes='yxz', **variables):
  """As MATLAB does: HDF5 after a block of 512 bytes, axes in reverse, classes noted."""
  kinds = {'float64': 'double', 'float32': 'single', 'bool': 'logical'}
  with h5py.File(path, 'w', userblock_size=512) as file:
    for name, values in {'V': array.transpose(1, 2, 0), **variables}.items():
      values = np.asarray(values)
      data = values.T.astype('u1') if values.dtype == bool else values.T
      file.create_dataset(name, data=data)
      file[name].attrs['MATLAB_class'] = np.bytes_(
          kinds.get(values.dtype.name, values.dtype.name))
    if axes:
      file['axes'] = np.array([[ord(c)] for c in axes], 'u2')
      file['axes'].attrs['MATLAB_class'] = np.bytes_('char')
      file['voxel_size_zyx_nm'] = np.array(SIZE_NM)[:, None]
    cells = file.create_group('#refs#')
    cells['a'] = np.zeros((2, 3, 4))
  with open(path, 'r+b') as file:
    file.write(b'MATLAB 7.3 MAT-file, Platform: GLNXA64'.ljust(116) + bytes(8)
               + b'\x00\x02IM')


def write_mrc(path, array):
  with mrcfile.new(path, array) as mrc:
    mrc.voxel_size = (100, 200, 500)


def write_npy(path, array):
  np.save(path, array)
  path.with_name(path.name + '.json').write_text(
      json.dumps({'voxel_size_zyx_nm': SIZE_NM}))


def write_raw(path, array, offset=0, axes='zyx', **other):
  path.write_bytes(bytes(offset) + array.tobytes())
  notes = {'shape': array.shape, 'axes': axes, 'dtype': array.dtype.name,
           'byte_order': 'big' if array.dtype.byteorder == '>' else 'little',
           'offset': offset, 'voxel_size_zyx_nm': SIZE_NM, **other}
  path.with_name(path.name + '.json').write_text(json.dumps(notes))


def write_zarr(path, array, version='0.4', axes='zyx', scale=SIZE_NM, unit='nanometer',
               chunks=None, image_scale=None, **options):
  """An OME-Zarr by the zarr package; axes t and c get scale 1 and no unit."""
  kinds = {'t': 'time', 'c': 'channel'}
  group = zarr.open_group(path, mode='w', zarr_format=2 if version == '0.4' else 3)
  data = group.create_array(
      's0', shape=array.shape, dtype=array.dtype, chunks=chunks or array.shape,
      **({'chunk_key_encoding': {'name': 'v2', 'separator': '/'}}
         if version == '0.4' else {}), **options)
  data[...] = array
  sizes = iter(scale)
  image = {
      'axes': [{'name': a, 'type': kinds.get(a, 'space'),
                **({} if a in kinds or unit is None else {'unit': unit})}
               for a in axes],
      'datasets': [{'path': 's0', 'coordinateTransformations': [
          {'type': 'scale', 'scale': [1. if a in kinds else next(sizes) for a in axes]},
          {'type': 'translation', 'translation': [3.] * len(axes)}]}]}
  if image_scale:
    image['coordinateTransformations'] = [{'type': 'scale', 'scale': image_scale}]
  if version == '0.4':
    group.attrs['multiscales'] = [{'version': '0.4', **image}]
  else:
    group.attrs['ome'] = {'version': version, 'multiscales': [image]}


def write_zarr5(path, array):
  write_zarr(path, array, '0.5')


WRITERS = {'.tif': write_tif, '.h5': write_h5, '.mat': write_mat,
           '.z.mat': write_packed_mat, '.73.mat': write_mat73, '.mrc': write_mrc,
           '.npy': write_npy, '.raw': write_raw, '.4.zarr': write_zarr,
           '.5.zarr': write_zarr5}


# Files that claim 10**9 voxels or more in a few kilobytes.

def lie_tif(path):
  write_tif(path, np.ones((2, 30, 40), np.uint16), compression='zlib')
  with tifffile.TiffFile(path, mode='r+b') as tif:
    for page in tif.pages:
      page.tags['ImageWidth'].overwrite(10**6)
      page.tags['ImageLength'].overwrite(10**6)


def lie_h5(path):
  with h5py.File(path, 'w') as file:
    data = file.create_dataset('data', (10, 10**6, 10**6), 'u1', chunks=(1, 100, 100))
    data[0, :100, :100] = 1


def lie_mat(path):
  write_mat(path, np.ones((2, 30, 40), np.uint16))
  _replace(path, struct.pack('<3i', 30, 40, 2), struct.pack('<3i', 10**5, 10**5, 100))


def lie_packed_mat(path):
  """Lies in the lengths and in the number of bytes; the elements packed one by one."""
  lie_mat(path)
  _replace(path, struct.pack('<2I', 4, 4800), struct.pack('<2I', 4, 2 * 10**9))
  _replace(path, struct.pack('<3i', 10**5, 10**5, 100), struct.pack('<3i', 10**5, 100,
                                                                    100))
  data = path.read_bytes()
  packed, at = data[:128], 128
  while at < len(data):
    size = 8 + struct.unpack_from('<I', data, at + 4)[0]
    element = zlib.compress(data[at:at + size])
    packed += struct.pack('<2I', 15, len(element)) + element
    at += size
  path.write_bytes(packed)


def lie_mat73(path):
  write_mat73(path, np.ones((2, 3, 4)))
  with h5py.File(path, 'r+') as file:
    del file['V']
    file.create_dataset('V', (10**4, 10**4, 10**4), 'f4')


def lie_mrc(path):
  write_mrc(path, np.ones((2, 30, 40), np.uint16))
  _replace(path, struct.pack('<3i', 40, 30, 2), struct.pack('<3i', 10**6, 10**6, 9))


def lie_npy(path):
  write_npy(path, np.ones((2, 30, 40), np.uint16))
  _replace(path, b'(2, 30, 40), }          ', b'(9, 1000000, 1000000), }')


def lie_raw(path):
  write_raw(path, np.ones((2, 30, 40), np.uint16), shape=(10**6, 10**6, 9))


def lie_zarr(path, version='0.4'):
  write_zarr(path, np.ones((2, 30, 40), np.uint16), version)
  file = path / 's0' / ('.zarray' if version == '0.4' else 'zarr.json')
  notes = json.loads(file.read_text())
  notes['shape'] = [10, 10**6, 10**6]
  file.write_text(json.dumps(notes))


def lie_zarr5(path):
  lie_zarr(path, '0.5')


LIARS = {'.tif': lie_tif, '.h5': lie_h5, '.mat': lie_mat, '.z.mat': lie_packed_mat,
         '.73.mat': lie_mat73, '.mrc': lie_mrc, '.npy': lie_npy, '.raw': lie_raw,
         '.4.zarr': lie_zarr, '.5.zarr': lie_zarr5}


def _replace(path, old, new):
  data = path.read_bytes()
  if data.count(old) != 1 and path.suffix != '.mrc':
    raise ValueError(f'{path}: {data.count(old)} times what is to be replaced')
  path.write_bytes(data.replace(old, new, 1))
