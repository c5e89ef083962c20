"""Volumes on disk: bytes as zarr-python sees them, boxes, mirroring, damage."""
import json
import shutil

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from fibjax.errors import InputError
from fibjax.volumes import metadata, ome_zarr
from fibjax.volumes.volume import (
  create_group,
  create_volume,
  discard_shard,
  new_volume,
  open_volume,
  read_box,
  read_mirrored,
  shard_shape,
  slab_boxes,
  write_box,
)
from fibjax.volumes.voxel_size import check_voxel_size

SIZE = (50.0, 10.0, 12.5)


def make(path, array_zyx, size=SIZE, **options):
  with new_volume(path, array_zyx.shape, array_zyx.dtype, size,
                  **options) as new:
    write_box(new, (0, 0, 0), array_zyx)
  return open_volume(path)


def noise(shape, dtype=np.uint16, seed=0):
  return np.random.default_rng(seed).integers(0, 200, shape).astype(dtype)


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize('shape, shard', [((10, 250, 40), None), ((1, 1, 1), None),
                                          ((11, 37, 53), (4, 16, 24)),
                                          ((3, 130, 129), (2, 128, 7))])
def test_zarr_python_reads_the_same_values(tmp_path, dtype, shape, shard):
  array = noise(shape, dtype)
  volume = make(tmp_path / 'v.ome.zarr', array, shard_zyx=shard)
  assert volume.shape == shape and volume.dtype == dtype
  np.testing.assert_array_equal(read_box(volume, (0, 0, 0), shape), array)
  other = zarr.open_group(tmp_path / 'v.ome.zarr', mode='r')['0']
  np.testing.assert_array_equal(other[...], array)
  assert other.dtype == dtype
  assert other.shards == shard_shape(volume)
  assert shard is None or other.shards == shard
  assert all(s % c == 0 for s, c in zip(other.shards, other.chunks, strict=True))


def test_group_holds_every_must_of_ome_zarr_05(tmp_path):
  make(tmp_path / 'film.ome.zarr', noise((2, 3, 4)), attributes={'a': [1]})
  group = json.loads((tmp_path / 'film.ome.zarr' / 'zarr.json').read_text())
  assert group['zarr_format'] == 3 and group['node_type'] == 'group'
  ome = group['attributes']['ome']
  assert ome['version'] == '0.5'
  (multiscale,) = ome['multiscales']
  assert multiscale['name'] == 'film'
  assert multiscale['axes'] == [
      {'name': n, 'type': 'space', 'unit': 'nanometer'} for n in 'zyx']
  assert multiscale['datasets'] == [{'path': '0', 'coordinateTransformations': [
      {'type': 'scale', 'scale': list(SIZE)}]}]
  array = json.loads((tmp_path / 'film.ome.zarr' / '0' / 'zarr.json').read_text())
  assert array['dimension_names'] == ['z', 'y', 'x']
  assert array['codecs'][0]['name'] == 'sharding_indexed'
  assert group['attributes']['fibjax']['a'] == [1]


def test_default_shard_is_tens_of_mib_and_shallow():
  chunk, shard = ome_zarr.choose_grid([200, 2247, 3372])
  assert 2**24 <= np.prod(shard) * 4 <= 2**26 and shard[0] <= 8
  assert np.prod(chunk) * 4 <= 2**19


def test_voxel_size_and_attributes_return(tmp_path):
  volume = make(tmp_path / 'a', noise((2, 3, 4)), attributes={'k': {'l': None}})
  assert volume.voxel_size_zyx_nm == SIZE and volume.attributes == {'k': {'l': None}}
  unknown = make(tmp_path / 'b', noise((2, 3, 4)), None, fill_value=None)
  assert unknown.voxel_size_zyx_nm is None and unknown.attributes == {}
  group = json.loads((tmp_path / 'b' / 'zarr.json').read_text())['attributes']
  assert group['fibjax']['voxel_size_unknown'] is True
  assert 'unit' not in group['ome']['multiscales'][0]['axes'][0]


def test_a_volume_of_another_writer_in_micrometer(tmp_path):
  array = noise((4, 5, 6))
  group = zarr.create_group(tmp_path / 'v', attributes={'ome': {
      'version': '0.5', 'multiscales': [{
          'axes': [{'name': n, 'type': 'space', 'unit': 'micrometer'} for n in 'zyx'],
          'datasets': [{'path': 's0', 'coordinateTransformations': [
              {'type': 'scale', 'scale': [0.05, 0.01, 0.01]}]}]}]}})
  group.create_array('s0', data=array, chunks=(2, 5, 6), dimension_names=list('zyx'))
  volume = open_volume(tmp_path / 'v')
  assert volume.voxel_size_zyx_nm == pytest.approx((50, 10, 10))
  np.testing.assert_array_equal(read_box(volume, (1, 0, 2), (4, 5, 6)),
                                array[1:, :, 2:])


def test_unwritten_voxels_read_as_the_fill_value(tmp_path):
  volume = create_volume(tmp_path / 'v', (4, 5, 6), np.uint8, None,
                         fill_value=255)
  write_box(volume, (1, 2, 3), np.zeros((1, 1, 1), np.uint8))
  expected = np.full((4, 5, 6), 255)
  expected[1, 2, 3] = 0
  np.testing.assert_array_equal(read_box(volume, (0, 0, 0), (4, 5, 6)),
                                expected)


@pytest.fixture(scope='module')
def mirrored(tmp_path_factory):
  array = noise((5, 7, 9))
  return array, make(tmp_path_factory.mktemp('m') / 'v', array, shard_zyx=(2, 4, 5))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_mirrored_reads_equal_reflect_padding(mirrored, data):
  array, volume = mirrored
  start = [data.draw(st.integers(-20, 20)) for _ in range(3)]
  stop = [data.draw(st.integers(a + 1, 25)) for a in start]
  before = [max(0, -a) for a in start]
  after = [max(0, b - n) for b, n in zip(stop, array.shape, strict=True)]
  padded = np.pad(array, list(zip(before, after, strict=True)), mode='reflect')
  index = tuple(slice(a + p, b + p)
                for a, b, p in zip(start, stop, before, strict=True))
  np.testing.assert_array_equal(read_mirrored(volume, start, stop),
                                padded[index])


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_boxes_written_anywhere_are_read_back(tmp_path_factory, data):
  shape = (6, 9, 11)
  volume = create_volume(tmp_path_factory.mktemp('w') / 'v', shape, np.uint16,
                         SIZE, shard_zyx=(4, 4, 8))
  expected = np.zeros(shape, np.uint16)
  for seed in range(4):
    start = [data.draw(st.integers(0, n - 1)) for n in shape]
    stop = [data.draw(st.integers(a + 1, n)) for a, n in zip(start, shape, strict=True)]
    index = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    expected[index] = patch = noise(expected[index].shape, seed=seed)
    write_box(volume, start, patch)
  np.testing.assert_array_equal(read_box(volume, (0, 0, 0), shape), expected)


def test_slabs_cover_the_volume_one_shard_deep(tmp_path):
  volume = make(tmp_path / 'v', noise((11, 6, 7)), shard_zyx=(4, 3, 7))
  assert list(slab_boxes(volume)) == [
      ((0, 0, 0), (4, 6, 7)), ((4, 0, 0), (8, 6, 7)), ((8, 0, 0), (11, 6, 7))]


def test_a_failed_volume_leaves_nothing_and_a_rest_is_replaced(tmp_path):
  path = tmp_path / 'sub' / 'v.ome.zarr'
  with pytest.raises(RuntimeError), new_volume(path, (2, 2, 2), np.uint8, None):
    raise RuntimeError
  assert list(path.parent.iterdir()) == []
  rest = tmp_path / 'sub' / 'v.ome.zarr.partial'
  rest.mkdir()
  (rest / 'junk').write_text('x')
  volume = make(path, noise((2, 2, 2)))
  assert volume.shape == (2, 2, 2) and list(path.parent.iterdir()) == [path]


def test_several_volumes_in_a_group(tmp_path):
  group = create_group(tmp_path / 'scores.ome.zarr')
  make(group / 'HPC22', noise((2, 2, 2)))
  create_group(group)
  make(group / 'HPC30', noise((2, 2, 3)))
  assert sorted(zarr.open_group(group, mode='r').group_keys()) == ['HPC22', 'HPC30']
  (group / 'HPC45.partial' / '0').mkdir(parents=True)
  (group / 'HPC45.partial' / '0' / 'zarr.json').write_text('{}')
  with pytest.raises(InputError, match=r'scores.ome.zarr: got a group with HPC22, '
                     r'HPC30, .*; open one of them, e\.g\. .*/scores.ome.zarr/HPC22$'):
    open_volume(group)
  with pytest.raises(InputError, match='a group of volumes'):
    create_group(group / 'HPC22')


def test_a_group_without_volumes_or_its_own_metadata_is_no_group_of_volumes(tmp_path):
  empty = create_group(tmp_path / 'empty')
  make(tmp_path / 'v', noise((2, 2, 2)))
  text = (tmp_path / 'v' / 'zarr.json').read_text()
  (tmp_path / 'v' / 'zarr.json').write_text(text.replace('"ome"', '"omg"'))
  for path in (empty, tmp_path / 'v'):
    with pytest.raises(InputError, match='got a zarr group without OME'):
      open_volume(path)


def test_a_group_killed_while_it_was_made_is_made_again(tmp_path):
  group = tmp_path / 'scores.ome.zarr'
  for rest in ((), ('.zarr.json.4711',)):
    group.mkdir()
    for name in rest:
      (group / name).write_text('{"zarr_fo')
    assert create_group(group) == group
    assert zarr.open_group(group, mode='r').attrs.asdict() == {}
    shutil.rmtree(group)
  group.mkdir()
  (group / 'notes.txt').write_text('mine')
  with pytest.raises(InputError, match='no readable zarr.json'):
    create_group(group)
  (tmp_path / 'file').write_text('')
  with pytest.raises(InputError, match='file/zarr.json: got'):
    create_group(tmp_path / 'file')


@pytest.mark.parametrize('start, stop', [
    ((-1, 0, 0), (1, 1, 1)), ((0, 0, 0), (3, 4, 6)), ((1, 1, 1), (1, 2, 2)),
    ((0, 0, 0), (9, 1, 1))])
def test_a_box_outside_is_named(tmp_path, start, stop):
  volume = make(tmp_path / 'v', noise((3, 4, 5)))
  with pytest.raises(InputError, match='v: got box .* inside the volume of shape'):
    read_box(volume, start, stop)
  shape = np.maximum(np.subtract(stop, start), 0)
  with pytest.raises(InputError, match='v: got box'):
    write_box(volume, start, np.zeros(shape, np.uint16))


def test_bad_arguments_are_named(tmp_path):
  path = tmp_path / 'v'
  volume = make(path, noise((3, 4, 5)))
  with pytest.raises(InputError, match='v: got 3-D float64 to write'):
    write_box(volume, (0, 0, 0), np.zeros((1, 1, 1)))
  with pytest.raises(InputError, match='v: got box .* at least one voxel'):
    read_mirrored(volume, (0, 5, 0), (3, 5, 1))
  with pytest.raises(InputError, match='already exists'):
    create_volume(path, (1, 1, 1), np.uint8, None)
  with pytest.raises(InputError, match='got shape'):
    create_volume(tmp_path / 'w', (0, 1, 1), np.uint8, None)
  with pytest.raises(InputError, match='got dtype complex64'):
    create_volume(tmp_path / 'w', (1, 1, 1), np.complex64, None)
  with pytest.raises(InputError, match='w: voxel size'):
    create_volume(tmp_path / 'w', (1, 1, 1), np.uint8, (1, 0, 1))
  (tmp_path / 'file').write_text('x')
  with pytest.raises(InputError, match='file'):
    create_volume(tmp_path / 'file' / 'w', (1, 1, 1), np.uint8, None)
  assert not (tmp_path / 'w').exists()


@pytest.mark.parametrize('size', [(1, 2), 'abc', (1, 2, float('nan')), (1, -2, 3), 5])
def test_a_voxel_size_is_three_positive_numbers(size):
  with pytest.raises(InputError, match='stack: voxel size: got'):
    check_voxel_size('stack', size)


@pytest.mark.parametrize('text', [
    '', '{', '[]', '{"node_type": "array"}', '{"node_type": "group"}', '\xff',
    '{"node_type": "group", "attributes": {"ome": {"version": "0.4"}}}',
    '{"node_type": "group", "attributes": {"ome": {"version": "0.5"}}}',
    '{"node_type": "group", "attributes": {"ome": {"version": "0.5", "multiscales":'
    ' [{"axes": ["z"]}]}}}'])
def test_a_damaged_group_is_named(tmp_path, text):
  path = tmp_path / 'v.ome.zarr'
  make(path, noise((3, 4, 5)))
  (path / 'zarr.json').write_text(text, encoding='latin-1')
  with pytest.raises(InputError, match=r'v\.ome\.zarr.*OME-Zarr 0\.5') as error:
    open_volume(path)
  assert '\n' not in str(error.value)


def test_other_axes_and_missing_paths_are_named(tmp_path):
  path = tmp_path / 'v'
  make(path, noise((3, 4, 5)))
  text = (path / 'zarr.json').read_text()
  (path / 'zarr.json').write_text(text.replace('"name": "z"', '"name": "t"'))
  with pytest.raises(InputError, match=r"v: got axes \('t', 'y', 'x'\)"):
    open_volume(path)
  for wrong in (tmp_path / 'none', path / 'zarr.json', tmp_path):
    with pytest.raises(InputError, match='no readable zarr.json'):
      open_volume(wrong)


@pytest.mark.parametrize('text', [None, '', '{"zarr_format": 3', '{"zarr_format": 3}'])
def test_a_damaged_array_is_named(tmp_path, text):
  path = tmp_path / 'v'
  make(path, noise((3, 4, 5)))
  file = path / '0' / 'zarr.json'
  file.unlink() if text is None else file.write_text(text)
  with pytest.raises(InputError, match='v/0(/zarr.json)?: got'):
    open_volume(path)


def test_shards_of_zeros_written_later_are_stored_as_well(tmp_path):
  """fill_value=None holds for a volume opened again, as by a resumed call."""
  create_volume(tmp_path / 'v', (4, 6, 6), np.uint8, None, fill_value=None,
                shard_zyx=(2, 6, 6))
  volume = open_volume(tmp_path / 'v')
  for z in (0, 2):
    write_box(volume, (z, 0, 0), np.zeros((2, 6, 6), np.uint8))
  assert not read_box(volume, (0, 0, 0), (4, 6, 6)).any()


@pytest.mark.parametrize('damage', ['cut', 'empty', 'flip', 'flip index', 'lost'])
def test_a_damaged_shard_is_named(tmp_path, damage):
  path = tmp_path / 'v'
  make(path, noise((10, 12, 14)), shard_zyx=(4, 12, 14), fill_value=None)
  shard = path / '0' / 'c' / '1' / '0' / '0'
  data = bytearray(shard.read_bytes())
  data[{'flip': len(data) // 2}.get(damage, len(data) - 9)] ^= 1
  shard.write_bytes({'cut': data[:len(data) // 2], 'empty': b''}.get(damage, data))
  if damage == 'lost':
    shard.unlink()
  volume = open_volume(path)
  read_box(volume, (0, 0, 0), (4, 12, 14))
  with pytest.raises(InputError, match='v: got .*shard') as error:
    read_box(volume, (0, 0, 0), (5, 12, 14))
  assert 'tensorstore_spec' not in str(error.value) and '\n' not in str(error.value)


def test_channels_are_written_together_and_read_one_by_one(tmp_path):
  array = np.random.default_rng(0).random((2, 5, 9, 7)).astype(np.float32)
  with new_volume(tmp_path / 'v', array.shape[1:], np.float32, (50, 10, 10),
                  fill_value=None, channels=('a', 'b')) as made:
    with pytest.raises(InputError, match='3-D float32 to write, expected 4-D'):
      write_box(made, (0, 0, 0), array[0])
    write_box(made, (0, 0, 0), array)
  volume = open_volume(tmp_path / 'v')
  assert (volume.channels, volume.shape) == (('a', 'b'), (5, 9, 7))
  box = (1, 2, 3), (4, 9, 7)
  inside = np.s_[:, 1:4, 2:9, 3:7]
  np.testing.assert_array_equal(read_box(volume, *box), array[inside][0])
  np.testing.assert_array_equal(read_box(volume, *box, channel=1),
                                array[inside][1])
  np.testing.assert_array_equal(read_box(volume, *box, channel=None),
                                array[inside])
  ome = json.loads((tmp_path / 'v' / 'zarr.json').read_text())['attributes']['ome']
  assert [axis['name'] for axis in ome['multiscales'][0]['axes']] == list('czyx')
  assert shard_shape(volume)[0] >= 5
  discard_shard(volume, (0, 0, 0))
  with pytest.raises(InputError):
    read_box(volume, *box)


def test_an_array_outside_the_group_is_refused(tmp_path):
  for name in 'vw':
    make(tmp_path / name, noise((3, 4, 5)))
  group = tmp_path / 'v' / 'zarr.json'
  text = group.read_text()
  for elsewhere in (str(tmp_path / 'w' / '0'), '../w/0', '', '.'):
    group.write_text(text.replace('"path": "0"', f'"path": "{elsewhere}"'))
    with pytest.raises(InputError, match='v: got an array at .* outside the group'):
      open_volume(tmp_path / 'v')
  group.write_text(text)
  (tmp_path / 'v' / '0').rename(tmp_path / 'moved')
  (tmp_path / 'v' / '0').symlink_to(tmp_path / 'w' / '0')
  with pytest.raises(InputError, match='v: got an array at .* outside the group'):
    open_volume(tmp_path / 'v')


def test_a_shape_beyond_the_stored_shards_is_refused(tmp_path, monkeypatch):
  path = tmp_path / 'v'
  make(path, noise((3, 4, 5)))
  array = path / '0' / 'zarr.json'
  text = array.read_text()
  for shape, words in (([9, 9 * 10**6, 10**6], 'shards'), ([0, 4, 5], 'one voxel')):
    array.write_text(json.dumps(json.loads(text) | {'shape': shape}))
    with pytest.raises(InputError, match=f'v/0: got shape .*{words}'):
      open_volume(path)
  array.write_text(text)
  volume = open_volume(path)
  monkeypatch.setattr(metadata.memory, 'limit_bytes', lambda: 50)
  assert read_box(volume, (0, 0, 0), (1, 4, 5)).size == 20
  with pytest.raises(InputError, match='v: got an array of .* of memory'):
    read_box(volume, (0, 0, 0), (3, 4, 5))
