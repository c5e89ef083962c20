"""Every format in and out: values, axes, voxel size; files that are wrong or lie."""
import contextlib
import itertools
import json
import struct
import subprocess
import sys
import tracemalloc

import h5py
import imagecodecs
import mrcfile
import numcodecs
import numpy as np
import pytest
import scipy.io
import tifffile
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fibjax.errors import InputError
from fibjax.formats import (
  hdf5,
  label_images,
  mat,
  registry,
  stack_reader,
  stacks,
)
from fibjax.formats.label_codes import LABEL_CODES, decode_labels, encode_labels
from fibjax.volumes import voxel_size
from fibjax.volumes.volume import new_volume, open_volume, read_box, write_box
from tests import foreign_files
from tests.foreign_files import LIARS, SIZE_NM, WRITERS

# mrcfile 1.5.4, which writes the test files, sets the dtype of its header in place.
pytestmark = pytest.mark.filterwarnings(
    'ignore:Setting the dtype on a NumPy array:DeprecationWarning')
SHAPE = (11, 13, 17)
ORDERS = [''.join(p) for p in itertools.permutations('zyx')]
EXPORTS = ('.tif', '.h5', '.mat', '.mrc', '.npy', '.raw', '.ome.zarr', '.4.ome.zarr')
WIDE = ('.h5', '.mat', '.npy', '.raw', '.ome.zarr', '.4.ome.zarr')
ON_DISK = settings(max_examples=30, deadline=None, suppress_health_check=[
    HealthCheck.function_scoped_fixture])


def noise(dtype=np.uint16, shape=SHAPE, seed=0):
  values = np.random.default_rng(seed).integers(0, 127, shape)
  return (values / 3 if np.dtype(dtype).kind == 'f' else values).astype(dtype)


def values(volume):
  return read_box(volume, (0, 0, 0), volume.shape)


def make_volume(path, array, size=SIZE_NM):
  with new_volume(path, array.shape, array.dtype, size) as new:
    write_box(new, (0, 0, 0), array)
  return open_volume(path)


def read_all(path, **options):
  with stacks.open_stack(path, **options) as stack:
    return stack, np.stack([stack.read(z) for z in range(stack.shape[0])])


def refused(match, function, *args, **options):
  with pytest.raises(InputError, match=match) as error:
    function(*args, **options)
  assert '\n' not in str(error.value)


# In, as others write it.

@pytest.mark.parametrize('dtype', [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize('suffix', WRITERS)
def test_files_of_other_writers(tmp_path, suffix, dtype):
  array, path = noise(dtype), tmp_path / f'a{suffix}'
  WRITERS[suffix](path, array)
  volume = stacks.import_stack(path, tmp_path / 'v')
  np.testing.assert_array_equal(values(volume), array)
  assert volume.voxel_size_zyx_nm == SIZE_NM
  assert volume.attributes['voxel_size_in_file_zyx_nm'] == list(SIZE_NM)
  assert volume.attributes['voxel_size_from']
  widened = suffix == '.mrc' and dtype == np.uint8  # mrcfile has no mode for it
  assert volume.dtype == (np.uint16 if widened else dtype)


@pytest.mark.parametrize('axes', ORDERS)
@pytest.mark.parametrize('suffix, write', [
    ('.h5', foreign_files.write_h5),
    ('.h5', lambda p, a: foreign_files.write_h5(p, a, chunks=(2, 3, 4),
                                                compression='gzip')),
    ('.mat', lambda p, a: scipy.io.savemat(p, {'d': a}, do_compression=True)),
    ('.mat', lambda p, a: foreign_files.write_mat73(p, a.transpose(2, 0, 1), None)),
    ('.mrc', lambda p, a: mrcfile.new(p, a).close()), ('.npy', np.save),
    ('.npy', lambda p, a: np.save(p, np.asfortranarray(a)))])
def test_any_order_of_axes(tmp_path, monkeypatch, suffix, write, axes):
  array = noise()
  monkeypatch.setattr(stack_reader, 'BLOCK_BYTES', 3 * 13 * 17 * 2)
  write(tmp_path / f'a{suffix}', array.transpose(['zyx'.index(a) for a in axes]))
  stack, got = read_all(tmp_path / f'a{suffix}', axes=axes)
  np.testing.assert_array_equal(got, array)
  assert stack.axes == axes and stack.shape == SHAPE and got.flags.c_contiguous
  volume = stacks.import_stack(tmp_path / f'a{suffix}', tmp_path / 'v', axes=axes)
  np.testing.assert_array_equal(values(volume), array)
  assert volume.attributes['axes_in_file'] == axes


@pytest.mark.parametrize('axes', ORDERS)
def test_voxel_sizes_follow_the_axes(tmp_path, axes):
  array = noise().transpose(['zyx'.index(a) for a in axes])
  size = {'z': 50., 'y': 20., 'x': 10.}
  in_order = np.array([size[a] for a in axes])
  with h5py.File(tmp_path / 'a.h5', 'w') as file:
    file['d'] = array
    file['d'].attrs['element_size_um'] = in_order / 1e3
  with mrcfile.new(tmp_path / 'a.mrc', array) as mrc:
    mrc.voxel_size = tuple(in_order[::-1] * 10)
  foreign_files.write_raw(tmp_path / 'a.raw', array, axes=axes)
  foreign_files.write_zarr(tmp_path / 'a.zarr', array, axes=axes, scale=in_order)
  for name in ('a.h5', 'a.mrc', 'a.raw', 'a.zarr'):
    given = None if name in ('a.raw', 'a.zarr') else axes
    stack, got = read_all(tmp_path / name, axes=given)
    assert stack.voxel_size_zyx_nm == SIZE_NM, name
    np.testing.assert_array_equal(got, noise())


def test_an_order_that_contradicts_the_file_is_refused(tmp_path):
  foreign_files.write_raw(tmp_path / 'a.raw', noise())
  foreign_files.write_mat(tmp_path / 'a.mat', noise())
  foreign_files.write_mat73(tmp_path / 'b.mat', noise())
  foreign_files.write_zarr(tmp_path / 'a.zarr', noise())
  foreign_files.write_tif(tmp_path / 'a.tif', noise())
  make_volume(tmp_path / 'own.ome.zarr', noise())
  for name in ('a.raw', 'a.mat', 'b.mat', 'a.zarr', 'a.tif', 'own.ome.zarr'):
    refused(f'{name}.*: axes: got xyz, expected .* the order in this', read_all,
            tmp_path / name, axes='xyz')
  np.save(tmp_path / 'a.npy', noise())
  for wrong in ('zy', 'zyxt', 'zzx', 'ZYX', ''):
    refused('a.npy: axes: got .* an order of z, y and x', read_all, tmp_path / 'a.npy',
            axes=wrong)


def test_matlab_has_no_order_of_its_own(tmp_path):
  scipy.io.savemat(tmp_path / 'a.mat', {'d': noise()})
  foreign_files.write_mat73(tmp_path / 'b.mat', noise(), None)
  for name, shape in (('a.mat', SHAPE), ('b.mat', (13, 17, 11))):
    refused(f'{name}.*: got no order of axes', read_all, tmp_path / name)
    stack, _ = read_all(tmp_path / name, axes='xzy')
    assert tuple(stack.shape[k] for k in (2, 0, 1)) == shape


@pytest.mark.parametrize('dtype', [np.uint8, '>u2', '>f4', 'i2', 'f8', bool])
def test_raw_as_its_sidecar_says(tmp_path, dtype):
  array = noise(dtype)
  foreign_files.write_raw(tmp_path / 'a.raw', array, offset=7)
  stack, got = read_all(tmp_path / 'a.raw')
  np.testing.assert_array_equal(got, array)
  assert stack.dtype.isnative and got.dtype == stack.dtype
  assert stack.origin == 'JSON sidecar' and stack.voxel_size_zyx_nm == SIZE_NM


@pytest.mark.parametrize('change, match', [
    ({'dtype': 'object'}, "dtype: got 'object'"), ({'dtype': None}, 'dtype: got None'),
    ({'byte_order': None}, 'byte_order: got None'),
    ({'shape': [2, 3]}, r'got shape \[2, 3\]'), ({'shape': [2, -3, 4]}, 'got shape'),
    ({'shape': [2, 3, True]}, 'got shape'), ({'offset': -1}, 'offset -1'),
    ({'axes': None}, 'no order of axes'), ({'axes': 'zyc'}, "axes: got 'zyc'"),
    ({'axis': 'zyx'}, 'got axis, expected an object with shape, axes'),
    ({'voxel_size_zyx_nm': [1, 2]}, 'voxel size: got'),
    ({'shape': [2, 3, 5]}, 'a.raw: got 48 bytes, expected 60 bytes by a.raw.json'),
    ({'shape': [2, 3, 3]}, 'a.raw: got 48 bytes, expected 36'),
    ({'offset': 2}, 'a.raw: got 48 bytes, expected 50'),
    ({'shape': [0, 3, 4]}, 'at least one voxel')])
def test_a_wrong_sidecar_is_named(tmp_path, change, match):
  foreign_files.write_raw(tmp_path / 'a.raw', noise(shape=(2, 3, 4)))
  edit_json(tmp_path / 'a.raw.json', lambda notes: notes.update(change))
  refused(match, read_all, tmp_path / 'a.raw')


def test_a_sidecar_that_is_missing_or_no_json(tmp_path):
  (tmp_path / 'a.raw').write_bytes(b'abcd')
  refused('a.raw: got no a.raw.json beside it', read_all, tmp_path / 'a.raw')
  for text in ('{', '[1]', '"x"'):
    (tmp_path / 'a.raw.json').write_text(text)
    refused('a.raw.json: got', read_all, tmp_path / 'a.raw')


# Datasets.

def test_datasets_of_hdf5(tmp_path):
  path = tmp_path / 'a.h5'
  with h5py.File(path, 'w') as file:
    file['grey'] = noise()
    file['more/line'] = np.zeros(9)
    file['text'] = 'hello'
    file['pairs'] = np.zeros((2, 3, 4), [('a', 'u1'), ('b', 'f4')])
    file['nothing'] = h5py.Empty('f4')
  stack, got = read_all(path)
  assert stack.dataset == 'grey' and stack.voxel_size_zyx_nm == (None, None, None)
  np.testing.assert_array_equal(got, noise())
  with h5py.File(path, 'r+') as file:
    file['more/labels'] = noise(np.uint8, (2, 3, 4))
  refused(r'a.h5: got 2 datasets: grey \(11, 13, 17\) uint16, '
          r'more/labels \(2, 3, 4\) uint8, expected one', read_all, path)
  for name in ('more/labels', '/more/labels'):
    stack, got = read_all(path, dataset=name)
    np.testing.assert_array_equal(got, noise(np.uint8, (2, 3, 4)))
  refused("a.h5: dataset: got 'line', expected one of: grey", read_all, path,
          dataset='line')
  volume = stacks.import_stack(path, tmp_path / 'v', dataset='grey')
  assert volume.attributes['dataset_in_file'] == 'grey'
  with h5py.File(path, 'w') as file:
    file['line'] = np.zeros(9)
  refused('a.h5: got no dataset of three axes', read_all, path)
  with h5py.File(path, 'w') as file:
    for k in range(20):
      file[f'd{k:02}'] = np.zeros((2, 2, 2))
  refused('d07 .* and 12 more', read_all, path)


def test_variables_of_matlab(tmp_path):
  one, two = noise(), noise(np.float32, (4, 5, 6))
  scipy.io.savemat(tmp_path / 'a.mat', {'one': one, 'two': two, 'axes': 'zyx',
                                        'cell': np.array([one, two], object)})
  foreign_files.write_mat73(tmp_path / 'b.mat', one, 'zyx', two=two,
                            flat=np.zeros((3, 4)))
  for name, match in (('a.mat', r'one \(11, 13, 17\) uint16, two \(4, 5, 6\) float32'),
                      ('b.mat', r'V \(13, 17, 11\) uint16, two \(4, 5, 6\) float32')):
    refused(match, read_all, tmp_path / name)
    stack, got = read_all(tmp_path / name, dataset='two')
    np.testing.assert_array_equal(got, two)
    assert stack.dataset == 'two'


@pytest.mark.parametrize('write', [
    lambda p, a: scipy.io.savemat(p, {'d': a, 'axes': 'zyx'}),
    lambda p, a: foreign_files.write_mat73(p, a.transpose(2, 0, 1), 'zyx')])
@pytest.mark.parametrize('dtype', [bool, np.float64, np.int16, np.uint32])
def test_classes_of_matlab(tmp_path, write, dtype):
  array = noise() > 60 if dtype is bool else noise(dtype)
  write(tmp_path / 'a.mat', array)
  _, got = read_all(tmp_path / 'a.mat')
  np.testing.assert_array_equal(got, array)
  assert got.dtype == (np.uint8 if dtype is bool else dtype)


def test_doubles_that_matlab_stores_as_bytes(tmp_path):
  """MAT-file format, version 5: a double array of whole numbers may hold miUINT8."""
  array = noise(np.uint8, (2, 3, 4))
  for order, mark in (('<', b'\x00\x01IM'), ('>', b'\x01\x00MI')):
    def pack(form, *numbers, order=order):
      return struct.pack(order + form, *numbers)

    def element(kind, data, pack=pack):
      return pack('2I', kind, len(data)) + data + bytes(-len(data) % 8)
    matrix = (element(6, pack('2I', 6, 0)) + element(5, pack('3i', 2, 3, 4))
              + element(1, b'volume') + element(2, array.tobytes(order='F')))
    (tmp_path / 'a.mat').write_bytes(b'MATLAB 5.0 MAT-file'.ljust(124) + mark
                                     + element(14, matrix))
    stack, got = read_all(tmp_path / 'a.mat', axes='zyx')
    assert stack.dtype == np.float64
    np.testing.assert_array_equal(got, array)


@pytest.mark.parametrize('old, new, match', [
    (struct.pack('<3i', 2, 3, 4), struct.pack('<3i', 2, 3, 3), r'24 bytes for shape'),
    (struct.pack('<2I', 2, 24), struct.pack('<2I', 8, 24), 'values of unknown type 8'),
    (struct.pack('<2I', 6, 8), struct.pack('<2I', 6, 4), 'without flags'),
    (struct.pack('<2I', 5, 12), struct.pack('<2I', 6, 12), 'without lengths'),
    (b'\x00\x01IM', b'\x00\x01XX', 'no mark of the byte order')])
def test_damaged_matlab_files(tmp_path, old, new, match):
  path = tmp_path / 'a.mat'
  scipy.io.savemat(path, {'d': noise(np.uint8, (2, 3, 4))})
  data = path.read_bytes()
  assert data.count(old) == 1
  path.write_bytes(data.replace(old, new))
  refused(f'a.mat: got ValueError: .*{match}', read_all, path, axes='zyx')


@pytest.mark.parametrize('do_compression', [False, True])
def test_other_kinds_of_variables_are_passed_over(tmp_path, do_compression):
  """Against scipy's own reader: every array of numbers, and nothing else."""
  numbers = {f'a{dtype}': noise(dtype) for dtype in (
      'i1', 'u1', 'i2', 'u2', 'i4', 'u4', 'i8', 'u8', 'f4', 'f8')}
  scipy.io.savemat(tmp_path / 'a.mat', {
      **numbers, 'bits': noise() > 60, 'cell': np.array([noise(), 'x'], object),
      'complex': noise() + 1j, 'struct': {'a': noise(), 'b': 'x'}, 'text': 'a\u03bcb',
      'sparse': scipy.sparse.eye(4).tocsc(), 'axes': 'zyx', 'nothing': np.zeros((0, 0)),
      'voxel_size_zyx_nm': []}, do_compression=do_compression)
  expected = scipy.io.loadmat(tmp_path / 'a.mat', mat_dtype=True,
                              variable_names=[*numbers, 'bits'])
  with pytest.raises(InputError, match='got 11 datasets'):
    read_all(tmp_path / 'a.mat')
  for name in (*numbers, 'bits'):
    stack, got = read_all(tmp_path / 'a.mat', dataset=name)
    np.testing.assert_array_equal(got, expected[name])
    assert stack.dtype == (np.uint8 if name == 'bits' else expected[name].dtype)


def test_a_name_where_the_file_is_one_array(tmp_path):
  for suffix in ('.tif', '.mrc', '.npy', '.raw'):
    WRITERS[suffix](tmp_path / f'a{suffix}', noise())
    refused(f'a{suffix}: dataset', read_all, tmp_path / f'a{suffix}', dataset='x')
  tifffile.imwrite(tmp_path / 'in_1.tif', noise()[0])
  refused('dataset', read_all, tmp_path, dataset='x')


def tags(axes):
  return json.dumps({'axes': [{'key': a, 'typeFlags': 2} for a in axes]})


@pytest.mark.parametrize('letters, shape', [
    ('tzyxc', (1, *SHAPE, 1)), ('cxyz', (1, *SHAPE[::-1])), ('yxz', (13, 17, 11)),
    ('czyx', (1, 1, 13, 17))])
def test_axes_of_ilastik(tmp_path, letters, shape):
  array = noise(shape=shape)
  with h5py.File(tmp_path / 'a.h5', 'w') as file:
    file['exported_data'] = array
    file['exported_data'].attrs['axistags'] = tags(letters)
    sizes = {'z': .05, 'y': .02, 'x': .01}
    file['exported_data'].attrs['element_size_um'] = [sizes.get(a, 1) for a in letters]
  stack, got = read_all(tmp_path / 'a.h5')
  kept = [a for a in letters if a in 'zyx']
  truth = array.reshape([n for a, n in zip(letters, shape, strict=True) if a in 'zyx'])
  np.testing.assert_array_equal(got, truth.transpose([kept.index(a) for a in 'zyx']))
  assert stack.voxel_size_zyx_nm == SIZE_NM and stack.axes == ''.join(kept)
  wrong = stack.axes[::-1]
  refused(f'axes: got {wrong}', read_all, tmp_path / 'a.h5', axes=wrong)


def test_axes_of_length_one_without_tags(tmp_path):
  for k, shape in enumerate([(1, *SHAPE), (*SHAPE, 1), (1, 11, 13, 1, 17)]):
    with h5py.File(tmp_path / f'{k}.h5', 'w') as file:
      file['d'] = noise(shape=shape)
      file['d'].attrs['element_size_um'] = [.05, .02, .01]
    stack, got = read_all(tmp_path / f'{k}.h5')
    np.testing.assert_array_equal(got, noise(shape=shape).reshape(SHAPE))
    assert stack.voxel_size_zyx_nm == SIZE_NM
  with h5py.File(tmp_path / 'c.h5', 'w') as file:
    file['two_channels'] = noise(shape=(2, *SHAPE))
    file['single'] = noise(shape=(1, 1, 5, 6))  # which of the two is z?
    file['tagged'] = noise(shape=(2, *SHAPE))
    file['tagged'].attrs['axistags'] = tags('czyx')
  refused('c.h5: got no dataset of three axes', read_all, tmp_path / 'c.h5')


def test_data_that_are_not_all_in_the_file(tmp_path):
  path = tmp_path / 'a.h5'
  with h5py.File(path, 'w') as file:
    data = file.create_dataset('d', (10, 20, 30), 'u1', chunks=(1, 20, 30))
    data[:9] = 1
  refused('a.h5: d: got data that were never written', read_all, path)
  with h5py.File(path, 'r+') as file:
    file['d'][9] = 2
  assert read_all(path)[1][9].max() == 2
  with h5py.File(path, 'w') as file:
    file.create_dataset('d', (10, 20, 30), 'u1')
  refused('never written', read_all, path)
  with h5py.File(tmp_path / 'b.h5', 'w') as file:
    layout = h5py.VirtualLayout((10, 20, 30), 'u1')
    layout[:] = h5py.VirtualSource('a.h5', 'd', (10, 20, 30))
    file.create_virtual_dataset('d', layout)
  refused('b.h5: d: got a dataset whose data are in other', read_all, tmp_path / 'b.h5')
  with h5py.File(tmp_path / 'c.h5', 'w') as file:
    file.create_dataset('d', (1, 2, 4), 'u1', external=[(tmp_path / 'x', 0, 8)])
  refused('c.h5: d: got a dataset whose data are in other', read_all, tmp_path / 'c.h5')


# MRC.

def test_signed_mrc_becomes_float32_exactly(tmp_path):
  for dtype, low in ((np.int8, -128), (np.int16, -2**15), (np.float16, -100)):
    array = noise(dtype)
    array[0, 0, :2] = low, -1
    with mrcfile.new(tmp_path / f'{np.dtype(dtype)}.mrc', array):
      pass
    volume = stacks.import_stack(tmp_path / f'{np.dtype(dtype)}.mrc',
                                 tmp_path / f'{np.dtype(dtype)}')
    assert volume.dtype == np.float32
    assert volume.attributes['conversion'] == f'{np.dtype(dtype)} to float32, exact'
    np.testing.assert_array_equal(values(volume), array)


def patch(path, offset, form, *numbers):
  with open(path, 'r+b') as file:
    file.seek(offset)
    file.write(struct.pack(form, *numbers))


def test_bytes_of_imod(tmp_path):
  """IMOD's mrc_format.txt: a stamp at byte 152, bit 0 of the next number: signed."""
  with mrcfile.new(tmp_path / 'a.mrc', noise(np.int8) - np.int8(90)):
    pass
  signed = noise(np.int8) - np.int8(90)
  for stamp, flags, expected in ((0, 0, signed), (1146047817, 0, signed.view(np.uint8)),
                                 (1146047817, 1, signed), (1146047817, 17, signed),
                                 (1146047817, 16, signed.view(np.uint8))):
    patch(tmp_path / 'a.mrc', 152, '<2i', stamp, flags)
    _, got = read_all(tmp_path / 'a.mrc')
    assert got.dtype == expected.dtype
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize('axes', ORDERS)
def test_the_order_in_the_header_of_an_mrc(tmp_path, axes):
  array = noise().transpose(['zyx'.index(a) for a in axes])
  path = tmp_path / 'a.mrc'
  with mrcfile.new(path, array) as mrc:
    mrc.header.maps, mrc.header.mapr, mrc.header.mapc = [' xyz'.index(a) for a in axes]
    for a, nm in zip('zyx', SIZE_NM, strict=True):
      mrc.header[f'm{a}'] = SHAPE['zyx'.index(a)]
      mrc.header.cella[a] = 10 * nm * SHAPE['zyx'.index(a)]
  stack, got = read_all(path)
  np.testing.assert_array_equal(got, noise())
  assert stack.voxel_size_zyx_nm == SIZE_NM and stack.axes == axes


def test_voxel_sizes_of_mrc_that_say_nothing(tmp_path):
  path = tmp_path / 'a.mrc'
  for size in (0, 1):
    with mrcfile.new(path, noise(), overwrite=True) as mrc:
      mrc.voxel_size = size
    assert read_all(path)[0].voxel_size_zyx_nm == (None, None, None)
  patch(path, 28, '<3i', 0, 0, 0)
  assert read_all(path)[0].voxel_size_zyx_nm == (None, None, None)


def test_other_mrc_files(tmp_path):
  path = tmp_path / 'a.mrc'
  with mrcfile.new(path, noise(np.dtype('>i2'))) as mrc:
    mrc.set_extended_header(np.zeros(1, 'V100'))
  np.testing.assert_array_equal(read_all(path)[1], noise())
  with mrcfile.new(path, noise()[0], overwrite=True):
    pass
  np.testing.assert_array_equal(read_all(path)[1], noise()[:1])
  with mrcfile.new(path, noise(shape=(2, 3, 4, 5)), overwrite=True):
    pass
  refused('a.mrc: got 2 volumes', read_all, path)
  with mrcfile.new(path, noise().astype(np.complex64), overwrite=True):
    pass
  refused('a.mrc: got values of dtype complex64', read_all, path)


@pytest.mark.parametrize('offset, numbers, match', [
    (0, (-17, -13, 11), 'got shape'), (0, (17, 13, 10), 'bytes by its header'),
    (12, (5,), 'MRC header'), (92, (2**31 - 1,), 'bytes by its header'),
    (64, (1, 1, 2), 'axes: got'), (64, (7, 8, 9), 'axes: got'), (208, (0,), 'readable'),
    (212, (0,), 'MRC header')])
def test_damaged_mrc_headers(tmp_path, offset, numbers, match):
  foreign_files.write_mrc(tmp_path / 'a.mrc', noise())
  patch(tmp_path / 'a.mrc', offset, f'<{len(numbers)}i', *numbers)
  refused(f'a.mrc.*{match}', read_all, tmp_path / 'a.mrc')


# OME-Zarr.

@pytest.mark.parametrize('version', ['0.4', '0.5'])
def test_ome_zarr_of_other_writers(tmp_path, version):
  array = noise(shape=(1, 1, *SHAPE))
  foreign_files.write_zarr(tmp_path / 'a.zarr', array, version, 'tczyx',
                           (.05, .02, .01), 'micrometer', (1, 1, 4, 5, 6))
  stack, got = read_all(tmp_path / 'a.zarr')
  np.testing.assert_array_equal(got, array[0, 0])
  assert stack.voxel_size_zyx_nm == SIZE_NM
  foreign_files.write_zarr(tmp_path / 'b.zarr', noise(shape=(2, *SHAPE)), version,
                           'czyx')
  refused(r'b.zarr: got shape \(2, 11, 13, 17\)', read_all, tmp_path / 'b.zarr')
  foreign_files.write_zarr(tmp_path / 'c.zarr', noise(), version, unit=None)
  assert read_all(tmp_path / 'c.zarr')[0].voxel_size_zyx_nm == (None, None, None)
  foreign_files.write_zarr(tmp_path / 'd.zarr', noise(), version, scale=(5, 2, 1),
                           image_scale=[10, 10, 10])
  assert read_all(tmp_path / 'd.zarr')[0].voxel_size_zyx_nm == SIZE_NM
  foreign_files.write_zarr(tmp_path / 'e.zarr', noise()[0], version, 'yx')
  refused('e.zarr: got .* OME-Zarr metadata', read_all, tmp_path / 'e.zarr')


def test_a_missing_chunk_is_the_fill_value(tmp_path):
  array = noise()
  array[:, 8:] = 0
  foreign_files.write_zarr(tmp_path / 'a.zarr', array, chunks=(11, 8, 17))
  assert len(list((tmp_path / 'a.zarr' / 's0').rglob('0'))) > 0
  assert not (tmp_path / 'a.zarr' / 's0' / '0' / '1' / '0').exists()
  np.testing.assert_array_equal(read_all(tmp_path / 'a.zarr')[1], array)
  (tmp_path / 'a.zarr' / 's0' / '0' / '0' / '0').unlink()
  refused('s0: got no stored chunk', read_all, tmp_path / 'a.zarr')


def test_images_in_a_group(tmp_path):
  group = zarr.open_group(tmp_path / 'g.zarr', mode='w', zarr_format=2)
  refused('g.zarr: got no dataset', read_all, tmp_path / 'g.zarr')
  foreign_files.write_zarr(tmp_path / 'g.zarr' / '0', noise())
  stack, _ = read_all(tmp_path / 'g.zarr')
  assert stack.dataset == '0'
  foreign_files.write_zarr(tmp_path / 'g.zarr' / '1', noise(seed=1))
  refused('g.zarr: got 2 datasets: 0 image, 1 image', read_all, tmp_path / 'g.zarr')
  _, got = read_all(tmp_path / 'g.zarr', dataset='1')
  np.testing.assert_array_equal(got, noise(seed=1))
  pores = tmp_path / 'g.zarr' / '0' / 'labels' / 'pores'
  foreign_files.write_zarr(pores, noise(seed=2))
  _, got = read_all(tmp_path / 'g.zarr' / '0', dataset='labels/pores')
  np.testing.assert_array_equal(got, noise(seed=2))
  foreign_files.write_zarr(tmp_path / 'b.zarr', noise())
  for wrong in ('2', '..', str(tmp_path / 'b.zarr')):
    refused('dataset: got', read_all, tmp_path / 'g.zarr', dataset=wrong)
  assert group


def edit_json(path, change):
  notes = json.loads(path.read_text())
  change(notes)
  path.write_text(json.dumps(notes))


@pytest.mark.parametrize('change', [
    lambda n: n['multiscales'][0].pop('axes'), lambda n: n.update(multiscales=[]),
    lambda n: n.update(multiscales=3), lambda n: n['multiscales'][0].pop('datasets'),
    lambda n: n['multiscales'][0].update(version='0.3'),
    lambda n: n['multiscales'][0].pop('version'),
    lambda n: n['multiscales'][0]['axes'].pop(),
    lambda n: n['multiscales'][0]['axes'][0].update(name='y'),
    lambda n: n['multiscales'][0]['datasets'][0].update(path='../../b.zarr/s0'),
    lambda n: n['multiscales'][0]['datasets'][0].update(path='s9')])
def test_damaged_ome_metadata(tmp_path, change):
  foreign_files.write_zarr(tmp_path / 'a.zarr', noise())
  foreign_files.write_zarr(tmp_path / 'b.zarr', noise())
  edit_json(tmp_path / 'a.zarr' / '.zattrs', change)
  refused('a.zarr.*: got', read_all, tmp_path / 'a.zarr')


def test_ome_metadata_that_point_elsewhere(tmp_path):
  for name in ('a.zarr', 'b.zarr'):
    foreign_files.write_zarr(tmp_path / name, noise())
  level = str(tmp_path / 'b.zarr' / 's0')
  edit_json(tmp_path / 'a.zarr' / '.zattrs',
            lambda n: n['multiscales'][0]['datasets'][0].update(path=level))
  refused('a.zarr: got .* outside the group', read_all, tmp_path / 'a.zarr')
  edit_json(tmp_path / 'a.zarr' / '.zattrs',
            lambda n: n['multiscales'][0].update(version='0.3'))
  refused('a.zarr: got OME-Zarr version 0.3, expected 0.4 or 0.5', read_all,
          tmp_path / 'a.zarr')


def test_fibjax_volumes_are_read_by_their_own_rules(tmp_path):
  array = noise(shape=(20, 30, 40))
  with new_volume(tmp_path / 'v.ome.zarr', array.shape, array.dtype, SIZE_NM,
                          fill_value=None) as new:
    write_box(new, (0, 0, 0), array)
  stack, got = read_all(tmp_path / 'v.ome.zarr')
  np.testing.assert_array_equal(got, array)
  assert stack.voxel_size_zyx_nm == SIZE_NM
  shards = tmp_path / 'v.ome.zarr' / '0' / 'c'
  next(f for f in shards.rglob('*') if f.is_file()).unlink()
  refused('v.ome.zarr: got', read_all, tmp_path / 'v.ome.zarr')


# Out and back.

@pytest.mark.parametrize('size', [(50., 3.7, 12.345), None])
@pytest.mark.parametrize('shape', [(19, 6, 7), (1, 5, 4), (3, 1, 2)])
@pytest.mark.parametrize('dtype', [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize('suffix', EXPORTS)
def test_round_trip(tmp_path, suffix, dtype, shape, size):
  array = noise(dtype, shape)
  out = stacks.export_stack(make_volume(tmp_path / 'v', array, size),
                            tmp_path / 'sub' / f'a{suffix}',
                            ome_version='0.4' if '.4.' in suffix else '0.5')
  assert {f.name for f in out.parent.iterdir()} <= {out.name, out.name + '.json'}
  back = stacks.import_stack(out, tmp_path / 'w')
  assert back.voxel_size_zyx_nm == size
  assert back.dtype == (np.uint16 if dtype == np.uint8 and suffix == '.mrc' else dtype)
  np.testing.assert_array_equal(values(back), array)


@given(st.data())
@ON_DISK
def test_any_values_come_back(tmp_path_factory, data):
  folder = tmp_path_factory.mktemp('values')
  suffix = data.draw(st.sampled_from(WIDE))
  dtype = np.dtype(data.draw(st.sampled_from(
      ['uint8', 'uint16', 'uint32', 'int32', 'float32', 'float64'])))
  shape = data.draw(st.tuples(*[st.integers(1, 9)] * 3))
  size = data.draw(st.none() | st.tuples(*[st.integers(1, 10**6).map(
      lambda n: n / 1000)] * 3))
  raw = np.random.default_rng(data.draw(st.integers(0, 99))).bytes(
      int(np.prod(shape)) * dtype.itemsize)
  array = np.nan_to_num(np.frombuffer(raw, dtype).reshape(shape))
  out = stacks.export_stack(make_volume(folder / 'v', array, size),
                            folder / f'a{suffix}',
                            ome_version='0.4' if '.4.' in suffix else '0.5')
  stack, got = read_all(out)
  np.testing.assert_array_equal(got, array)
  assert got.dtype == dtype
  assert stack.voxel_size_zyx_nm == (size or (None, None, None))


def test_exports_as_others_read_them(tmp_path):
  array = noise(np.uint16, (9, 6, 7))
  volume = make_volume(tmp_path / 'v', array)
  for suffix in EXPORTS:
    stacks.export_stack(volume, tmp_path / f'a{suffix}',
                        ome_version='0.4' if '.4.' in suffix else '0.5')
  with h5py.File(tmp_path / 'a.h5') as file:
    np.testing.assert_array_equal(file['volume'], array)
    np.testing.assert_allclose(file['volume'].attrs['element_size_um'], [.05, .02, .01])
  found = scipy.io.loadmat(tmp_path / 'a.mat')
  np.testing.assert_array_equal(found['volume'], array.transpose(1, 2, 0))
  assert found['axes'] == 'yxz'
  np.testing.assert_array_equal(found['voxel_size_zyx_nm'], [SIZE_NM])
  with mrcfile.open(tmp_path / 'a.mrc') as mrc:
    np.testing.assert_array_equal(mrc.data, array)
    assert mrc.voxel_size.item() == (100, 200, 500) and mrc.is_volume()
    stats = [float(mrc.header[k]) for k in ('dmin', 'dmax', 'dmean', 'rms')]
    np.testing.assert_allclose(
        stats, [array.min(), array.max(), array.mean(), array.std()], rtol=1e-5)
  assert mrcfile.validate(tmp_path / 'a.mrc')
  np.testing.assert_array_equal(np.load(tmp_path / 'a.npy'), array)
  np.testing.assert_array_equal(np.fromfile(tmp_path / 'a.raw', '<u2'), array.ravel())
  notes = json.loads((tmp_path / 'a.raw.json').read_text())
  assert notes == {'shape': [9, 6, 7], 'axes': 'zyx', 'dtype': 'uint16',
                   'byte_order': 'little', 'offset': 0,
                   'voxel_size_zyx_nm': [50, 20, 10]}
  for name, zarr_format in (('a.4.ome.zarr', 2), ('a.ome.zarr', 3)):
    group = zarr.open_group(tmp_path / name, mode='r', zarr_format=zarr_format)
    np.testing.assert_array_equal(group['0'][...], array)
    ome = group.attrs['ome'] if zarr_format == 3 else group.attrs
    image = ome['multiscales'][0]
    assert (ome if zarr_format == 3 else image)['version'] == name[2:5].replace(
        'ome', '0.5').replace('4.o', '0.4')
    assert [a['name'] for a in image['axes']] == ['z', 'y', 'x']
    assert {a['unit'] for a in image['axes']} == {'nanometer'}
    assert image['datasets'][0]['coordinateTransformations'] == [
        {'type': 'scale', 'scale': [50, 20, 10]}]


def test_names_of_exported_arrays(tmp_path):
  volume = make_volume(tmp_path / 'v', noise())
  for name in ('a.h5', 'a.mat'):
    stacks.export_stack(volume, tmp_path / name, dataset='grey')
    assert read_all(tmp_path / name)[0].dataset == 'grey'
  for wrong in ('axes', '1a', '_a', 'a b'):
    refused('b.mat: dataset: got', stacks.export_stack, volume, tmp_path / 'b.mat',
            dataset=wrong)
  refused('a.mrc: dataset: got', stacks.export_stack, volume, tmp_path / 'a.mrc',
          dataset='grey')


def test_exports_that_cannot_be(tmp_path, monkeypatch):
  volume = make_volume(tmp_path / 'v', noise())
  refused('a.jpg: got a name with suffix .jpg, expected one of .tif',
          stacks.export_stack, volume, tmp_path / 'a.jpg')
  refused('OME-Zarr version: got 0.3', stacks.export_stack, volume, tmp_path / 'a.zarr',
          ome_version='0.3')
  (tmp_path / 'b.raw.json').write_text('{}')
  refused('b.raw.json: got a path that already exists', stacks.export_stack, volume,
          tmp_path / 'b.raw')
  assert (tmp_path / 'b.raw.json').read_text() == '{}'
  floats = make_volume(tmp_path / 'w', noise(np.float64))
  for name in ('c.mrc', 'c.tif'):
    refused('w: got dtype float64', stacks.export_stack, floats, tmp_path / name)
  monkeypatch.setattr(mat, 'LIMIT_BYTES', 1000)
  refused('d.mat: got 4862 bytes .* export to .h5', stacks.export_stack, volume,
          tmp_path / 'd.mat')
  (tmp_path / 'file').write_text('x')
  for suffix in EXPORTS:
    (tmp_path / f'there{suffix}').write_text('x')
    for name in (f'there{suffix}', f'file/a{suffix}'):
      refused(f'{name}.*: got', stacks.export_stack, volume, tmp_path / name,
              ome_version='0.4' if '.4.' in suffix else '0.5')
  assert not list(tmp_path.rglob('.*')) and not list(tmp_path.glob('[acd].*'))
  assert not list(tmp_path.glob('*.partial'))


# Grey values and labels.

def test_float64_is_rounded_and_recorded(tmp_path):
  array = noise(np.float64) + np.pi
  np.save(tmp_path / 'a.npy', array)
  volume = stacks.import_stack(tmp_path / 'a.npy', tmp_path / 'v')
  assert volume.attributes['conversion'] == 'float64 to float32, rounded'
  assert volume.attributes['dtype_in_file'] == 'float64'
  np.testing.assert_array_equal(values(volume), array.astype(np.float32))
  for bad in (1e300, np.nan):
    array[5, 2, 3] = bad
    np.save(tmp_path / 'a.npy', array)
    refused('a.npy slice 6: got NaN, infinite', stacks.import_stack,
            tmp_path / 'a.npy', tmp_path / 'w')
  np.save(tmp_path / 'a.npy', noise(np.int64))
  refused('a.npy slice 1: got dtype int64', stacks.import_stack, tmp_path / 'a.npy',
          tmp_path / 'w')


def label_codes(profile):
  return np.array([label for label in LABEL_CODES[profile].values()])


@pytest.mark.parametrize('profile', LABEL_CODES)
def test_encoding_is_the_inverse_of_decoding(profile):
  truth = label_codes(profile)[np.random.default_rng(0).integers(
      0, len(label_codes(profile)), (3, 4, 5))].astype(np.uint8)
  codes = encode_labels(truth, profile)
  assert codes.dtype == np.uint8
  assert set(np.unique(codes)) == set(LABEL_CODES[profile])
  np.testing.assert_array_equal(decode_labels(codes, profile), truth)


@pytest.mark.parametrize('profile, codes', [
    ('paper', (0, 1)), ('fiji', (0, 255)), ('ilastik', (1, 2, 0)),
    ('napari', (1, 2, 0)), ('nnunet', (0, 1, 2)), ('porespy', (1, 0)),
    ('fibjax', (0, 1, 255))])
def test_codes_of_each_tool(profile, codes):
  truth = np.array([0, 1, 255][:len(codes)])
  np.testing.assert_array_equal(encode_labels(truth, profile), codes)


def test_labels_without_a_code():
  for profile in ('paper', 'fiji', 'porespy'):
    refused(rf'x: got labels 255, expected \[0, 1\], which have codes in {profile}',
            encode_labels, np.array([0, 255]), profile, 'x')
  refused('got labels 2, 3', encode_labels, np.arange(4), 'fibjax')
  refused(r"label codes \(--profile\): got 'x'", encode_labels, np.arange(2), 'x')
  refused("did you mean 'fiji'", decode_labels, np.arange(2), 'Fijii')
  refused("did you mean 'ilastik'", decode_labels, np.arange(2), 'ilastic')


@pytest.mark.parametrize('suffix', EXPORTS)
@pytest.mark.parametrize('profile', ['fiji', 'ilastik', 'nnunet', 'porespy'])
def test_label_volumes_by_profile(tmp_path, suffix, profile):
  truth = label_codes(profile).astype(np.uint8)[
      noise(shape=(10, 6, 7)) % len(label_codes(profile))]
  out = stacks.export_stack(make_volume(tmp_path / 'v', truth), tmp_path / f'a{suffix}',
                            label_codes=profile)
  np.testing.assert_array_equal(read_all(out)[1], encode_labels(truth, profile))
  back = stacks.import_stack(out, tmp_path / 'w', label_codes=profile)
  assert back.attributes['conversion'] == f'label codes of {profile}'
  assert back.dtype == np.uint8
  np.testing.assert_array_equal(values(back), truth)


def test_label_volumes_that_do_not_fit(tmp_path):
  volume = make_volume(tmp_path / 'v', np.full((9, 2, 3), 255, np.uint8))
  for suffix in EXPORTS:
    refused('v: got labels 255', stacks.export_stack, volume, tmp_path / f'a{suffix}',
            label_codes='fiji')
  assert [f.name for f in tmp_path.iterdir()] == ['v']
  grey = make_volume(tmp_path / 'w', noise(np.float32))
  refused('w: got dtype float32', stacks.export_stack, grey, tmp_path / 'a.h5',
          label_codes='fiji')
  np.save(tmp_path / 'a.npy', noise(np.int64) % 3)
  refused('a.npy slice 1: got codes 2', stacks.import_stack, tmp_path / 'a.npy',
          tmp_path / 'x', label_codes='paper')


@pytest.mark.parametrize('suffix', WRITERS)
def test_masks_of_each_format(tmp_path, suffix):
  masks = noise(np.uint16) % 3
  WRITERS[suffix](tmp_path / f'm{suffix}', masks)
  np.testing.assert_array_equal(label_images.read_masks(tmp_path / f'm{suffix}'), masks)
  assert len(label_images.read_mask_list(tmp_path / f'm{suffix}')) == len(masks)


def test_masks_with_a_name_and_an_order(tmp_path):
  masks = noise(np.int64) % 3
  scipy.io.savemat(tmp_path / 'm.mat', {'a': masks.transpose(1, 2, 0), 'b': masks})
  np.testing.assert_array_equal(
      label_images.read_masks(tmp_path / 'm.mat', dataset='a', axes='yxz'), masks)
  np.save(tmp_path / 'm.npy', masks)
  np.testing.assert_array_equal(
      label_images.read_masks(tmp_path / 'm.npy', axes='xyz'), masks.transpose(2, 1, 0))


# Arrays in memory.

@pytest.mark.parametrize('size', [(50., 3.7, 12.345), None])
@pytest.mark.parametrize('dtype', [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize('suffix', EXPORTS)
def test_arrays_out_and_back(tmp_path, suffix, dtype, size):
  image_zyx = noise(dtype, (19, 6, 7))
  out = stacks.write_stack(tmp_path / 'sub' / f'a{suffix}', image_zyx, size,
                           ome_version='0.4' if '.4.' in suffix else '0.5')
  assert {f.name for f in out.parent.iterdir()} <= {out.name, out.name + '.json'}
  back = stacks.read_stack(out)
  np.testing.assert_array_equal(back.image_zyx, image_zyx)
  assert back.voxel_size_zyx_nm == size
  assert back.image_zyx.dtype == (
      np.uint16 if dtype == np.uint8 and suffix == '.mrc' else dtype)


@pytest.mark.parametrize('suffix', WRITERS)
@pytest.mark.parametrize('dtype', [np.uint16, np.float64])
def test_an_array_equals_the_imported_volume(tmp_path, suffix, dtype):
  if suffix in ('.mrc', '.tif') and dtype == np.float64:
    dtype = np.float32  # they have no float64
  WRITERS[suffix](tmp_path / f'a{suffix}', noise(dtype))
  image_zyx, size = stacks.read_stack(tmp_path / f'a{suffix}')
  volume = stacks.import_stack(tmp_path / f'a{suffix}', tmp_path / 'v')
  assert image_zyx.dtype == volume.dtype and size == volume.voxel_size_zyx_nm
  np.testing.assert_array_equal(image_zyx, values(volume))


def test_options_of_arrays(tmp_path):
  array = noise()
  with h5py.File(tmp_path / 'a.h5', 'w') as file:
    file['one'], file['two'] = array, array.transpose(1, 2, 0)
  image_zyx, size = stacks.read_stack(tmp_path / 'a.h5', dataset='two', axes='yxz',
                                      voxel_size_zyx_nm=[5, 2, 1])
  np.testing.assert_array_equal(image_zyx, array)
  assert size == (5, 2, 1)
  truth = (array % 2).astype(np.uint8)
  out = stacks.write_stack(tmp_path / 'l.tif', truth, label_codes='fiji')
  np.testing.assert_array_equal(tifffile.imread(out), truth * 255)
  np.testing.assert_array_equal(
      stacks.read_stack(out, label_codes='fiji').image_zyx, truth)
  out = stacks.write_stack(tmp_path / 'b.h5', truth == 1, dataset='pores')
  with h5py.File(out) as file:
    assert file['pores'].dtype == np.uint8
    np.testing.assert_array_equal(file['pores'], truth)
  foreign_files.write_tif(tmp_path / 'c.tif', array)
  assert stacks.read_stack(tmp_path / 'c.tif').voxel_size_zyx_nm == SIZE_NM
  assert stacks.read_stack(tmp_path / 'c.tif', voxel_size_zyx_nm=(1, 2, 3)
                           ).voxel_size_zyx_nm == (1, 2, 3)


def test_any_memory_layout_is_written_in_z_y_x(tmp_path):
  array = noise(np.dtype('>u2'))
  for k, view in enumerate((array[::2, ::-1, 3:], np.asfortranarray(array))):
    for suffix in EXPORTS:
      out = stacks.write_stack(tmp_path / f'{k}{suffix}', view)
      np.testing.assert_array_equal(stacks.read_stack(out).image_zyx, view)


def test_arrays_that_cannot_be_written_leave_nothing(tmp_path):
  for array, match in (
      (noise()[0], r'image_zyx: got an array of shape \(13, 17\)'),
      (np.zeros((0, 3, 4), np.uint8), 'image_zyx: got shape'),
      (noise().astype(complex), 'image_zyx: got values of dtype complex128'),
      (noise(np.int64), 'got dtype int64')):
    for name in ('a.tif', 'a.h5', 'a.ome.zarr', 'a.npy'):
      refused(match, stacks.write_stack, tmp_path / name, array)
  refused('image_zyx: voxel size', stacks.write_stack, tmp_path / 'a.tif', noise(),
          (1, 2))
  refused('image_zyx: got labels 2, 3', stacks.write_stack, tmp_path / 'a.tif',
          noise(np.uint8) % 4, label_codes='fiji')
  refused('image_zyx: got dtype float32', stacks.write_stack, tmp_path / 'a.tif',
          noise(np.float32), label_codes='fiji')
  assert not list(tmp_path.iterdir())


# The registry.

def test_a_new_format_is_one_entry(tmp_path, monkeypatch):
  """A text format is read, written, recognised by its mark and listed everywhere."""
  @contextlib.contextmanager
  def open_text(path, *, dataset, axes):
    first, *rows = path.read_text().splitlines()
    shape = tuple(map(int, first.split()[1:]))
    array = np.array(rows, np.uint8).reshape(shape)
    yield stack_reader.array_reader(str(path), array, axes or 'zyx')

  def write_text(path, slabs_zyx, shape, dtype, voxel_size_zyx_nm):
    rows = [str(n) for slab in slabs_zyx for n in slab.ravel().tolist()]
    path.write_text('\n'.join(['voxels ' + ' '.join(map(str, shape)), *rows]))

  form = registry.Format('text', ('.vox',), open_text, write_text, ((0, b'voxels'),),
                         dtypes=('uint8',))
  monkeypatch.setattr(registry, 'FORMATS', (form, *registry.FORMATS))
  array = noise(np.uint8)
  out = stacks.write_stack(tmp_path / 'a.vox', array)
  np.testing.assert_array_equal(stacks.read_stack(out).image_zyx, array)
  out.rename(tmp_path / 'nameless')
  np.testing.assert_array_equal(values(stacks.import_stack(
      tmp_path / 'nameless', tmp_path / 'v')), array)
  assert 'text (.vox)' in registry.describe_readable()
  assert '.vox' in registry.describe_writable()
  refused('one of uint8 for text', stacks.write_stack, tmp_path / 'b.vox', noise())
  refused('.vox', stacks.write_stack, tmp_path / 'b.xyz', array)


def test_what_help_texts_say():
  assert registry.describe_writable() == '.tif, .h5, .mat, .mrc, .npy, .raw, .zarr'
  assert registry.describe_readable() == (
      'TIFF (.tif .tiff), HDF5 (.h5 .hdf5), MATLAB (.mat), MRC (.mrc .rec .map), '
      'npy (.npy), raw (.raw), OME-Zarr (.zarr), folder of TIFF or PNG slices')


def test_the_registry_imports_no_format():
  code = ('import sys; from fibjax.formats import registry; '
          'registry.describe_readable(); '
          'print(sorted({"numpy", "h5py", "tifffile"} & set(sys.modules)))')
  found = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True,
                         check=True)
  assert found.stdout.strip() == '[]'


# Blocks.

@given(st.integers(1, 40), st.integers(1, 50), st.integers(1, 10))
def test_each_block_is_read_once_in_order(n_z, depth, most):
  array, blocks = noise(shape=(n_z, 3, 4)), []

  def read_block(first, stop):
    blocks.append((first, stop))
    return array[first:stop]
  with pytest.MonkeyPatch.context() as patch_:
    patch_.setattr(stack_reader, 'BLOCK_BYTES', most * 24 + 5)
    read = stack_reader.read_by_blocks(read_block, array.shape, array.dtype, depth)
  np.testing.assert_array_equal([read(z) for z in range(n_z)], array)
  assert blocks[0][0] == 0 and blocks[-1][1] == n_z
  assert all(a[1] == b[0] for a, b in itertools.pairwise(blocks))
  assert max(b - a for a, b in blocks) <= min(depth, most)


def test_a_slice_can_be_changed_without_harm(tmp_path):
  foreign_files.write_h5(tmp_path / 'a.h5', noise(), chunks=(4, 5, 6))
  with stacks.open_stack(tmp_path / 'a.h5') as stack:
    stack.read(3)[...] = 0
    np.testing.assert_array_equal(stack.read(3), noise()[3])


# Wrong files: one line that names the file, and nothing left behind.

def check_refused(tmp_path, source, match):
  refused(match, stacks.import_stack, source, tmp_path / 'out' / 'v.ome.zarr')
  out = tmp_path / 'out'
  assert not out.exists() or list(out.iterdir()) == []


FILES = [suffix for suffix in WRITERS if not suffix.endswith('zarr')]


@pytest.mark.parametrize('suffix', FILES)
def test_empty_files(tmp_path, suffix):
  (tmp_path / f'a{suffix}').touch()
  check_refused(tmp_path, tmp_path / f'a{suffix}', f'a{suffix}: got an empty file')


def test_empty_folders(tmp_path):
  (tmp_path / 'a.zarr').mkdir()
  check_refused(tmp_path, tmp_path / 'a.zarr', 'a.zarr: got no dataset')
  for name in ('zarr.json', '.zattrs'):
    (tmp_path / 'a.zarr' / name).touch()
    check_refused(tmp_path, tmp_path / 'a.zarr', f'{name}: got')
    (tmp_path / 'a.zarr' / name).unlink()


@pytest.mark.parametrize('write', [
    lambda p, a: foreign_files.write_h5(p.with_suffix('.h5'), a),
    lambda p, a: np.save(p.with_suffix('.npy'), a),
    lambda p, a: foreign_files.write_raw(p.with_suffix('.raw'), a),
    lambda p, a: scipy.io.savemat(p.with_suffix('.mat'), {'d': a, 'axes': 'zyx'})])
def test_arrays_without_a_voxel(tmp_path, write):
  write(tmp_path / 'a', np.zeros((0, 3, 4), np.uint8))
  path = next(f for f in tmp_path.iterdir() if f.suffix != '.json')
  check_refused(tmp_path, path, 'a.*: got .*')


@pytest.mark.parametrize('suffix', [s for s in FILES if s != '.raw'])
@pytest.mark.parametrize('named', ['.tif', '.h5', '.mat', '.mrc', '.npy'])
def test_a_wrong_suffix(tmp_path, suffix, named):
  """Each format under the name of each other."""
  if suffix.endswith(named):
    return
  WRITERS[suffix](tmp_path / f'a{suffix}', noise(np.float32))
  path = (tmp_path / f'a{suffix}').rename(tmp_path / f'b{named}')
  if (suffix, named) == ('.h5', '.mat'):  # MATLAB 7.3 is HDF5
    check_refused(tmp_path, path, 'b.mat: data: got no order of axes')
  else:
    check_refused(tmp_path, path, rf'b{named}: got a \w+ file by its content')


def test_other_files_under_a_wrong_name(tmp_path):
  imagecodecs.imwrite(tmp_path / 'a.png', noise(np.uint8)[0])
  png = (tmp_path / 'a.png').read_bytes()
  for suffix in ('.tif', '.h5', '.mat', '.mrc', '.npy'):
    (tmp_path / f'b{suffix}').write_bytes(png)
    check_refused(tmp_path, tmp_path / f'b{suffix}', f'b{suffix}: got a PNG file')
    for content in (b'hello', b'<html>' * 1000, bytes(5000)):
      (tmp_path / f'c{suffix}').write_bytes(content)
      check_refused(tmp_path, tmp_path / f'c{suffix}', f'c{suffix}.*: got')
  foreign_files.write_tif(tmp_path / 'd.raw', noise())
  check_refused(tmp_path, tmp_path / 'd.raw', 'd.raw: got no d.raw.json')
  check_refused(tmp_path, tmp_path / 'a.png', 'a.png: got a PNG file, expected one of')
  (tmp_path / 'e.xyz').write_text('hello')
  check_refused(tmp_path, tmp_path / 'e.xyz', 'e.xyz: got a .xyz file')
  (tmp_path / 'f.zarr').write_text('hello')
  check_refused(tmp_path, tmp_path / 'f.zarr', 'f.zarr: got a .zarr file')
  foreign_files.write_mrc(tmp_path / 'g', noise())  # known by its content
  np.testing.assert_array_equal(read_all(tmp_path / 'g')[1], noise())


@pytest.mark.parametrize('suffix', WRITERS)
def test_a_header_that_lies_costs_no_memory(tmp_path, suffix):
  path = tmp_path / f'a{suffix}'
  LIARS[suffix](path)
  tracemalloc.start()
  try:
    check_refused(tmp_path, path, r'a.*: got')
    refused(r'a.*: got', label_images.read_masks, path)
    assert tracemalloc.get_traced_memory()[1] < 2**24
  finally:
    tracemalloc.stop()


def test_more_lies(tmp_path):
  tifffile.imwrite(tmp_path / 'a.tif', noise(shape=(30, 40)))
  with tifffile.TiffFile(tmp_path / 'a.tif', mode='r+b') as tif:
    tif.pages[0].tags['ImageLength'].overwrite(33)
  check_refused(tmp_path, tmp_path / 'a.tif', 'a.tif: got image data that are missing')
  imagecodecs.imwrite(tmp_path / 's1.png', noise(np.uint8)[0])
  data = bytearray((tmp_path / 's1.png').read_bytes())
  data[16:24] = struct.pack('>2I', 10**6, 10**6)
  (tmp_path / 's1.png').write_bytes(data)
  refused('s1.png: got 1000000000000 bytes claimed', label_images.read_masks,
          tmp_path / 's1.png')


def test_what_is_packed_well_does_not_lie(tmp_path, monkeypatch):
  monkeypatch.setattr(stack_reader, 'HARMLESS_BYTES', 1000)
  zeros = np.zeros((4, 1500, 1500), np.uint8)
  scipy.io.savemat(tmp_path / 'a.mat', {'d': zeros, 'axes': 'zyx'}, do_compression=True)
  with h5py.File(tmp_path / 'a.h5', 'w') as file:
    file.create_dataset('d', data=zeros, compression=9, chunks=zeros.shape)
  for compression in ('zlib', 'lzw'):
    tifffile.imwrite(tmp_path / f'{compression}.tif', zeros, compression=compression,
                     rowsperstrip=1500, photometric='minisblack')
  for file in list(tmp_path.iterdir()):
    assert file.stat().st_size * 200 < zeros.size
    assert read_all(file)[0].shape == zeros.shape


@pytest.mark.parametrize('suffix', WRITERS)
@pytest.mark.parametrize('where', [.02, .3, .6, .9, .995])
def test_a_file_that_was_cut_short(tmp_path, suffix, where):
  WRITERS[suffix](tmp_path / f'a{suffix}', noise(shape=(6, 40, 50)))
  path = tmp_path / f'a{suffix}'
  files = [path] if path.is_file() else [f for f in path.rglob('*') if f.is_file()]
  for file in files:
    if file.name == '.zgroup' or file.parent.name == 's0' and file.name == '.zattrs':
      continue  # they say nothing
    data = file.read_bytes()
    file.write_bytes(data[:int(where * len(data))])
    check_refused(tmp_path, path, r'a.*: got')
    file.write_bytes(data)


@given(st.data())
@settings(ON_DISK, max_examples=150)
def test_damage_is_an_input_error_or_harmless(tmp_path_factory, data):
  """Bytes overwritten anywhere: read, or refused in one line; nothing else escapes."""
  folder = tmp_path_factory.mktemp('damage')
  suffix = data.draw(st.sampled_from(FILES))
  path = folder / f'a{suffix}'
  WRITERS[suffix](path, noise(shape=(3, 8, 9)))
  content = bytearray(path.read_bytes())
  at = data.draw(st.integers(0, min(len(content), 3000) - 1))
  new = data.draw(st.binary(min_size=1, max_size=8))
  content[at:at + len(new)] = new
  path.write_bytes(content)
  tracemalloc.start()
  try:
    read_all(path)
  except InputError as error:
    assert '\n' not in str(error) and str(path) in str(error)
  finally:
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
  assert peak < 2**26


@pytest.mark.parametrize('suffix', [*WRITERS, '.png'])
def test_readers_state_at_least_the_memory_that_a_slice_takes(tmp_path, suffix):
  array, path = noise(shape=(4, 600, 700)), tmp_path / f'a{suffix}'
  if suffix == '.png':
    path.mkdir()
    imagecodecs.imwrite(path / 's1.png', array[0])
  else:
    WRITERS[suffix](path, array)
  with stacks.open_stack(path) as stack:
    tracemalloc.start()
    try:
      stack.read(0)
      peak = tracemalloc.get_traced_memory()[1]
    finally:
      tracemalloc.stop()
    slice_bytes = array[0].nbytes
    assert slice_bytes <= peak <= stack.slice_bytes + 2**18 < 16 * slice_bytes
    needed_gb = stack.slice_bytes / 2**30
  assert len(stacks.read_stack(path, max_slice_gb=1.001 * needed_gb).image_zyx)
  refused('of memory to decode a slice, expected at most .* --max_slice_gb=',
          stacks.read_stack, path, max_slice_gb=0.999 * needed_gb)


@pytest.mark.parametrize('spacing', [-50, 'nan', 'inf', 'wide'])
def test_a_size_that_is_no_length_is_refused_unless_another_is_given(tmp_path, spacing):
  path = tmp_path / 'a.tif'
  tifffile.imwrite(path, noise(), imagej=True, resolution=(1 / 10, 1 / 20),
                   metadata={'spacing': spacing, 'unit': 'nm'})
  check_refused(tmp_path, path, 'a.tif: voxel size: got .* 20.0, 10.0.*lengths in the')
  volume = stacks.import_stack(path, tmp_path / 'v', voxel_size_zyx_nm=SIZE_NM)
  assert volume.voxel_size_zyx_nm == SIZE_NM
  in_file = volume.attributes['voxel_size_in_file_zyx_nm']
  assert in_file == [-50. if spacing == -50 else None, 20., 10.]


def test_a_voxel_size_is_three_numbers_not_a_text():
  for wrong in ('123', ['1', '2', '3'], [True] * 3, b'123', [1, 2], [1e-7, 1, 1],
                [1e10, 1, 1], [float('nan')] * 3, {'z': 1, 'y': 2, 'x': 3}, 5):
    refused('a: voxel size', voxel_size.check_voxel_size, 'a', wrong)
  for right in ((1, 2, 3), np.float32([1, 2, 3]), [1e-6, 1e9, 3]):
    assert voxel_size.check_voxel_size('a', right) == tuple(map(float, right))


@pytest.mark.parametrize('version', ['0.4', '0.5'])
def test_blosc_that_claims_more_than_its_chunk_is_refused(tmp_path, version):
  path, array = tmp_path / 'a.zarr', np.ones((2, 30, 40), np.uint16)
  blosc = numcodecs.Blosc() if version == '0.4' else zarr.codecs.BloscCodec()
  foreign_files.write_zarr(path, array, version, compressors=blosc)
  np.testing.assert_array_equal(values(stacks.import_stack(path, tmp_path / 'v')),
                                array)
  chunk = path / 's0' / ('0/0/0' if version == '0.4' else 'c/0/0/0')
  data = bytearray(chunk.read_bytes())
  assert struct.unpack_from('<I', data, 4) == (array.nbytes,)
  struct.pack_into('<I', data, 4, 2**31 - 2**20)
  chunk.write_bytes(data)
  check_refused(tmp_path, path, r'0: got 2146435072 bytes in a chunk, .* most 4816')


@pytest.mark.parametrize('options', [
    {'compression': 'gzip'}, {'compression': 'gzip', 'shuffle': True,
                              'fletcher32': True}, {'compression': 'lzf'}])
def test_large_chunks_of_gzip_are_measured_and_read(tmp_path, monkeypatch, options):
  monkeypatch.setattr(hdf5, 'HARMLESS_BYTES', 2**10)
  foreign_files.write_h5(tmp_path / 'a.h5', noise(), chunks=SHAPE, **options)
  np.testing.assert_array_equal(read_all(tmp_path / 'a.h5')[1], noise())
