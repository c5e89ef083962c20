"""Stacks of image files: values, voxel size, and every way they can be wrong."""
import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given
from hypothesis import strategies as st

from fibjax.errors import InputError
from fibjax.formats import label_images, slice_names, stacks, tiff
from fibjax.volumes import voxel_size
from fibjax.volumes.volume import (
  create_volume,
  new_volume,
  open_volume,
  read_box,
  shard_shape,
  write_box,
)

NAN = float('nan')

SHAPE = (11, 13, 17)
UNKNOWN = (None, None, None)


def noise(dtype=np.uint16, shape=SHAPE, seed=0):
  values = np.random.default_rng(seed).integers(0, 256, shape)
  return (values / 3).astype(dtype) if np.dtype(dtype).kind == 'f' else values.astype(
      dtype)


def write_folder(folder, array_zyx, pattern='s_{:03d}.tif', first=1, **options):
  folder.mkdir(exist_ok=True)
  for z, slice_yx in enumerate(array_zyx, first):
    tifffile.imwrite(folder / pattern.format(z), slice_yx, **options)
  return folder


def values(volume):
  return read_box(volume, (0, 0, 0), volume.shape)


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize('pattern, first', [('s{}.tif', 0), ('s_{:04d}.TIFF', 7),
                                            ('HPC22_{}_done.tif', 98)])
def test_a_folder_is_read_in_the_order_of_its_numbers(tmp_path, dtype, pattern, first):
  array = noise(dtype)
  folder = write_folder(tmp_path / 'in', array, pattern, first)
  (folder / 'notes.txt').write_text('not a slice')
  (folder / '._s1.tif').write_text('of another system')
  volume = stacks.import_stack(folder, tmp_path / 'v.ome.zarr')
  assert volume.dtype == dtype and volume.voxel_size_zyx_nm is None
  np.testing.assert_array_equal(values(volume), array)
  assert volume.attributes['source'] == str(folder)
  assert volume.attributes['voxel_size_from'] is None


@pytest.mark.parametrize('options', [
    {}, {'bigtiff': True}, {'imagej': True}, {'byteorder': '>'},
    {'compression': 'zlib', 'predictor': True}, {'compression': 'lzw'},
    {'tile': (16, 16)}, {'rowsperstrip': 5}, {'ome': True},
    {'photometric': 'miniswhite'}])
@pytest.mark.parametrize('dtype', [np.uint8, np.uint16, np.float32])
def test_a_multi_page_tiff_is_read_as_stored(tmp_path, dtype, options):
  array = noise(dtype)
  if dtype == np.float32:
    options = {k: v for k, v in options.items() if k != 'predictor'}
  tifffile.imwrite(tmp_path / 'a.tif', array, **options)
  volume = stacks.import_stack(tmp_path / 'a.tif', tmp_path / 'v')
  assert volume.dtype == dtype and volume.dtype.isnative
  np.testing.assert_array_equal(values(volume), array)
  np.testing.assert_array_equal(zarr.open(tmp_path / 'v' / '0', mode='r')[...], array)


@pytest.mark.parametrize('byteorder', '<>')
@pytest.mark.parametrize('dtype', [np.uint16, np.float32])
def test_an_imagej_file_with_one_page_for_all_slices(tmp_path, dtype, byteorder):
  array = noise(dtype)
  tifffile.imwrite(tmp_path / 'a.tif', array, imagej=True, truncate=True,
                   byteorder=byteorder)
  with tifffile.TiffFile(tmp_path / 'a.tif') as tif:
    assert len(tif.pages) == 1
  volume = stacks.import_stack(tmp_path / 'a.tif', tmp_path / 'v')
  np.testing.assert_array_equal(values(volume), array)
  data = (tmp_path / 'a.tif').read_bytes()
  (tmp_path / 'a.tif').write_bytes(data[:-1000])
  with pytest.raises(InputError, match='a.tif: got less than 11 slices'):
    stacks.import_stack(tmp_path / 'a.tif', tmp_path / 'w')


def test_one_bit_becomes_0_and_1(tmp_path):
  bits = noise() > 100
  tifffile.imwrite(tmp_path / 'a.tif', bits)
  volume = stacks.import_stack(tmp_path / 'a.tif', tmp_path / 'v')
  assert volume.dtype == np.uint8
  np.testing.assert_array_equal(values(volume), bits)


def test_a_real_one_bit_stack(shared_data):
  path = shared_data / 'geom_openimpala_2phase' / 'SampleData_2Phase_stack_3d_1bit.tif'
  masks = label_images.read_masks(path)
  assert masks.shape == (100, 100, 100) and masks.dtype == np.uint8
  assert set(np.unique(masks)) == {0, 1}


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
def test_png_slices(tmp_path, dtype):
  array = noise(dtype)
  for z, slice_yx in enumerate(array):
    imagecodecs.imwrite(tmp_path / f'p{z}.png', slice_yx)
  volume = stacks.import_stack(tmp_path, tmp_path / 'v')
  np.testing.assert_array_equal(values(volume), array)
  assert volume.dtype == dtype


def test_no_more_than_a_slab_is_held(tmp_path, monkeypatch):
  tifffile.imwrite(tmp_path / 'a.tif', noise(shape=(20, 5, 6)))
  heights = []

  def spy(volume, start, array):
    heights.append((start[0], len(array)))
    write_box(volume, start, array)
  monkeypatch.setattr(stacks, 'write_box', spy)
  volume = stacks.import_stack(tmp_path / 'a.tif', tmp_path / 'v')
  depth = shard_shape(volume)[0]
  assert depth < 20
  assert heights == [(z, min(depth, 20 - z)) for z in range(0, 20, depth)]


# Voxel size.

@pytest.mark.parametrize('unit, spacing, per_pixel', [
    ('nm', 50, 10), ('um', 0.05, 0.01), ('micron', 0.05, 0.01), ('\\u00B5m', .05, .01),
    ('mm', 5e-5, 1e-5)])
def test_imagej_tags_give_the_voxel_size(tmp_path, unit, spacing, per_pixel):
  tifffile.imwrite(tmp_path / 'a.tif', noise(), imagej=True,
                   resolution=(1 / per_pixel, 1 / (2 * per_pixel)),
                   metadata={'spacing': spacing, 'unit': unit})
  volume = stacks.import_stack(tmp_path / 'a.tif', tmp_path / 'v')
  assert volume.voxel_size_zyx_nm == (50, 20, 10)
  assert volume.attributes['voxel_size_from'] == 'ImageJ tags'


def test_six_decimals_of_imagej_are_rounded(tmp_path):
  tifffile.imwrite(tmp_path / 'a.tif', noise(), imagej=True,
                   resolution=((270270, 10**6), (270270, 10**6)),
                   metadata={'spacing': 0.1 + 0.2, 'unit': 'nm'})
  volume = stacks.import_stack(tmp_path / 'a.tif', tmp_path / 'v')
  assert volume.voxel_size_zyx_nm == (0.3, 3.7, 3.7)


@pytest.mark.parametrize('metadata', [
    {}, {'spacing': 5., 'unit': 'pixel'}, {'spacing': 5.}, {'spacing': 5., 'unit': ''},
    {'unit': 'nm'}, {'spacing': 5., 'unit': 'inch'}, {'spacing': 0., 'unit': 'nm'},
    {'spacing': 5., 'unit': 'furlong'}])
def test_an_unknown_voxel_size_is_not_guessed(tmp_path, metadata):
  tifffile.imwrite(tmp_path / 'a.tif', noise(), imagej=True, metadata=metadata,
                   resolution=(.1, .1), resolutionunit='INCH')
  volume = stacks.import_stack(tmp_path / 'a.tif', tmp_path / 'v')
  assert volume.voxel_size_zyx_nm is None


def test_a_plain_resolution_is_no_voxel_size(tmp_path):
  tifffile.imwrite(tmp_path / 'a.tif', noise(), resolution=(72, 72),
                   resolutionunit='INCH')
  volume = stacks.import_stack(tmp_path / 'a.tif', tmp_path / 'v')
  assert volume.voxel_size_zyx_nm is None
  assert volume.attributes['voxel_size_in_file_zyx_nm'] == list(UNKNOWN)


@pytest.mark.parametrize('units', [{'XUnit': 'nm', 'YUnit': 'nm', 'ZUnit': 'nm'}, {}])
def test_ome_xml_gives_the_voxel_size(tmp_path, units):
  scale = 1 if units else 1e-3  # the default unit is the micrometer
  tifffile.imwrite(tmp_path / 'a.ome.tif', noise(), ome=True, metadata={
      'axes': 'ZYX', 'PhysicalSizeZ': 50 * scale, 'PhysicalSizeY': 20 * scale,
      'PhysicalSizeX': 10 * scale, **{f'PhysicalSize{k}': u for k, u in units.items()}})
  volume = stacks.import_stack(tmp_path / 'a.ome.tif', tmp_path / 'v')
  assert volume.voxel_size_zyx_nm == (50, 20, 10)
  assert volume.attributes['voxel_size_from'] == 'OME-XML'


def test_the_argument_wins_and_both_are_recorded(tmp_path):
  tifffile.imwrite(tmp_path / 'a.tif', noise(), imagej=True, resolution=(.1, .1),
                   metadata={'spacing': 50, 'unit': 'nm'})
  volume = stacks.import_stack(tmp_path / 'a.tif', tmp_path / 'v',
                               voxel_size_zyx_nm=(40, 5, 5))
  assert volume.voxel_size_zyx_nm == (40, 5, 5)
  assert volume.attributes['voxel_size_from'] == 'argument'
  assert volume.attributes['voxel_size_in_file_zyx_nm'] == [50, 10, 10]
  with pytest.raises(InputError, match='voxel size: got'):
    stacks.import_stack(tmp_path / 'a.tif', tmp_path / 'w', voxel_size_zyx_nm=(4, 5))
  assert not (tmp_path / 'w').exists()


def test_slices_whose_tags_contradict_each_other_have_no_size(tmp_path):
  tags = {'imagej': True, 'resolution': (.1, .1)}
  folder = write_folder(tmp_path / 'in', noise(), **tags,
                        metadata={'spacing': 50, 'unit': 'nm'})
  size = stacks.import_stack(folder, tmp_path / 'v').voxel_size_zyx_nm
  assert size == (50, 10, 10)
  tifffile.imwrite(folder / 's_003.tif', noise()[2], **tags,
                   metadata={'spacing': 40, 'unit': 'nm'})
  assert stacks.import_stack(folder, tmp_path / 'w').voxel_size_zyx_nm is None


@pytest.mark.parametrize('value, unit, nm', [
    (2, '\u00b5m', 2000), (2, '\u03bcm', 2000), ('2', 'Microns', 2000), (1, 'Å', 0.1),
    (3, 'micrometre', 3000), (1e-3, 'cm', 1e4), (-5, 'nm', -5), ('x', 'nm', NAN),
    (NAN, 'nm', NAN), (0, 'nm', None), (1, None, None), (None, 'nm', None),
    (1, 'pixels', None)])
def test_lengths_in_nm(value, unit, nm):
  assert voxel_size.to_nm(value, unit) == pytest.approx(nm, nan_ok=True)


# Export.

@pytest.mark.parametrize('bigtiff', [None, True])
@pytest.mark.parametrize('compression', [None, 'zlib'])
@pytest.mark.parametrize('dtype', [np.uint8, np.uint16, np.float32])
def test_export_and_import_keep_values_and_voxel_size(tmp_path, dtype, compression,
                                                      bigtiff):
  array, size = noise(dtype, (19, 6, 7)), (50.0, 3.7, 12.345)
  with new_volume(tmp_path / 'v', array.shape, dtype, size) as new:
    write_box(new, (0, 0, 0), array)
  out = tmp_path / 'sub' / 'out.tif'
  if compression is None and bigtiff is None:
    assert stacks.export_stack(open_volume(tmp_path / 'v'), out) == out
  else:
    tiff.write_tiff(out, [array[:8], array[8:]], array.shape, dtype, size,
                    compression=compression, bigtiff=bigtiff)
  assert list(out.parent.iterdir()) == [out]
  with tifffile.TiffFile(out) as tif:
    assert tif.is_imagej is not bool(bigtiff) and tif.is_bigtiff is bool(bigtiff)
    assert tif.series[0].axes == 'ZYX'
    np.testing.assert_array_equal(tif.asarray(), array)
  back = stacks.import_stack(out, tmp_path / 'w')
  assert back.dtype == dtype and back.voxel_size_zyx_nm == size
  np.testing.assert_array_equal(values(back), array)


def test_export_of_an_unknown_size_and_of_a_single_slice(tmp_path):
  for shape in ((3, 4, 5), (1, 4, 5)):
    array = noise(np.uint8, shape)
    name = f'v{shape[0]}'
    with new_volume(tmp_path / name, shape, np.uint8, None) as new:
      write_box(new, (0, 0, 0), array)
    out = stacks.export_stack(open_volume(tmp_path / name),
                              tmp_path / f'{name}.tif')
    back = stacks.import_stack(out, tmp_path / f'{name}.back')
    assert back.voxel_size_zyx_nm is None
    np.testing.assert_array_equal(values(back), array)


def test_export_mistakes_are_named(tmp_path):
  volume = create_volume(tmp_path / 'v', (2, 3, 4), np.int32, None)
  with pytest.raises(InputError, match='v: got dtype int32'):
    stacks.export_stack(volume, tmp_path / 'a.tif')
  grey = create_volume(tmp_path / 'w', (2, 3, 4), np.uint8, None)
  (tmp_path / 'a.tif').write_text('x')
  with pytest.raises(InputError, match='a.tif: got a path that already exists'):
    stacks.export_stack(grey, tmp_path / 'a.tif')
  with pytest.raises(InputError, match='a.tif/b.tif: got'):
    stacks.export_stack(grey, tmp_path / 'a.tif' / 'b.tif')


# Wrong input: one line that names the file, and nothing left behind.

def check_refused(tmp_path, source, match):
  with pytest.raises(InputError, match=match) as error:
    stacks.import_stack(source, tmp_path / 'out' / 'v.ome.zarr')
  assert '\n' not in str(error.value)
  out = tmp_path / 'out'
  assert not out.exists() or list(out.iterdir()) == []


def test_wrong_paths(tmp_path):
  check_refused(tmp_path, tmp_path / 'none', 'none: got no such file or folder')
  (tmp_path / 'empty').mkdir()
  check_refused(tmp_path, tmp_path / 'empty', 'empty: got a folder without images')
  (tmp_path / 'a.tif').write_text('hello')
  check_refused(tmp_path, tmp_path / 'a.tif', 'a.tif: got .*a readable image')


def test_the_target_must_be_free(tmp_path):
  folder = write_folder(tmp_path / 'in', noise())
  (tmp_path / 'v').mkdir()
  with pytest.raises(InputError, match='v: got a path that already exists'):
    stacks.import_stack(folder, tmp_path / 'v')
  assert list((tmp_path / 'v').iterdir()) == []


def test_numbering(tmp_path):
  folder = write_folder(tmp_path / 'in', noise())
  (folder / 's_004.tif').unlink()
  check_refused(tmp_path, folder, 's_005.tif: got number 5 after 3, expected number 4')
  tifffile.imwrite(folder / 's_004.tif', noise()[0])
  tifffile.imwrite(folder / 's_07.tif', noise()[0])
  check_refused(tmp_path, folder, r's_07.tif: got number 7, also in s_007.tif')
  (folder / 's_07.tif').rename(folder / 'mean_image.tif')
  check_refused(tmp_path, folder, 'mean_image.tif: got a name of another pattern, '
                'expected names that differ in a number only, such as')
  (folder / 'mean_image.tif').rename(folder / 's_012.png')
  check_refused(tmp_path, folder, 'in: got both s_001.tif and s_012.png')


def test_differing_slices(tmp_path):
  folder = write_folder(tmp_path / 'in', noise())
  tifffile.imwrite(folder / 's_006.tif', noise(np.uint8)[0])
  check_refused(tmp_path, folder, 's_006.tif: got .* of uint8, .* as s_001.tif')
  tifffile.imwrite(folder / 's_006.tif', noise()[0, :-1])
  check_refused(tmp_path, folder, r's_006.tif: got \(12, 17\) pixels')
  tifffile.imwrite(folder / 's_006.tif', noise()[:2])
  check_refused(tmp_path, folder, 's_006.tif: got 2 pages')
  tifffile.imwrite(folder / 's_006.tif', np.zeros((13, 17, 3), np.uint8),
                   photometric='rgb')
  check_refused(tmp_path, folder, r's_006.tif: got an image of shape \(13, 17, 3\)')


@pytest.mark.parametrize('where', [0.02, 0.5, 0.97])
@pytest.mark.parametrize('compression', [None, 'zlib', 'lzw'])
def test_a_cut_slice(tmp_path, compression, where):
  folder = write_folder(tmp_path / 'in', noise(shape=(3, 40, 50)),
                        compression=compression)
  data = (folder / 's_002.tif').read_bytes()
  (folder / 's_002.tif').write_bytes(data[:int(where * len(data))])
  check_refused(tmp_path, folder, 's_002.tif: got')


def test_a_cut_slice_is_found_by_its_header(tmp_path):
  tifffile.imwrite(tmp_path / 'a.tif', noise()[0], compression='lzw')
  data = (tmp_path / 'a.tif').read_bytes()
  (tmp_path / 'a.tif').write_bytes(data[:-20])
  with (pytest.raises(InputError, match='a.tif: got image data that are missing'),
        stacks.open_stack(tmp_path / 'a.tif')):
    pass


@pytest.mark.parametrize('where', [0.01, 0.3, 0.6, 0.9, 0.995])
@pytest.mark.parametrize('options', [{}, {'imagej': True}, {'compression': 'zlib'},
                                     {'bigtiff': True}, {'ome': True}])
def test_a_cut_multi_page_tiff(tmp_path, options, where):
  tifffile.imwrite(tmp_path / 'a.tif', noise(shape=(6, 40, 50)), **options)
  data = (tmp_path / 'a.tif').read_bytes()
  (tmp_path / 'a.tif').write_bytes(data[:int(where * len(data))])
  check_refused(tmp_path, tmp_path / 'a.tif', 'a.tif.*: got')


def test_a_corrupt_page_is_named(tmp_path):
  tifffile.imwrite(tmp_path / 'a.tif', noise(), compression='zlib')
  with tifffile.TiffFile(tmp_path / 'a.tif') as tif:
    offset = tif.pages[4].dataoffsets[0]
  data = bytearray((tmp_path / 'a.tif').read_bytes())
  data[offset:offset + 40] = bytes(40)
  (tmp_path / 'a.tif').write_bytes(data)
  check_refused(tmp_path, tmp_path / 'a.tif', 'a.tif page 5: got .*readable image')


def test_pages_of_differing_size(tmp_path):
  with tifffile.TiffWriter(tmp_path / 'a.tif') as writer:
    writer.write(noise()[0])
    writer.write(noise()[0, :5])
  check_refused(tmp_path, tmp_path / 'a.tif', r'page 2: got \(5, 17\) .* as page 1')


@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_a_slice_that_is_not_finite(tmp_path, bad):
  array = noise(np.float32)
  array[9, 3, 4] = bad
  check_refused(tmp_path, write_folder(tmp_path / 'in', array),
                's_010.tif: got NaN, infinite')
  tifffile.imwrite(tmp_path / 'a.tif', array)
  check_refused(tmp_path, tmp_path / 'a.tif', 'a.tif page 10: got NaN')


@pytest.mark.parametrize('dtype', [np.int32, np.uint32])
def test_another_dtype(tmp_path, dtype):
  tifffile.imwrite(tmp_path / 'a.tif', noise(dtype))
  check_refused(tmp_path, tmp_path / 'a.tif', 'a.tif.*: got dtype .* Image > Type')


def test_channels(tmp_path):
  tifffile.imwrite(tmp_path / 'a.tif', noise(shape=(4, 2, 6, 7)), imagej=True,
                   metadata={'axes': 'ZCYX'})
  check_refused(tmp_path, tmp_path / 'a.tif', 'a.tif: got 2 channels, .* 4 slices')
  for axis in 'TCZ':
    tifffile.imwrite(tmp_path / 'b.tif', noise(), imagej=True,
                     metadata={'axes': f'{axis}YX'})
    volume = stacks.import_stack(tmp_path / 'b.tif', tmp_path / axis)
    assert volume.shape == SHAPE


# Names.

@given(st.sets(st.integers(0, 10**6), min_size=1), st.data())
def test_natural_order_is_the_order_of_the_numbers(numbers, data):
  names = [f'x{"0" * data.draw(st.integers(0, 3))}{n}_y2.tif' for n in numbers]
  by_key = sorted(names, key=slice_names.natural_key)
  assert [int(n[1:].split('_')[0]) for n in by_key] == sorted(numbers)


@given(st.lists(st.text(), unique=True), st.randoms())
def test_any_names_have_one_natural_order(names, random):
  """Keys of all texts can be compared, and the order does not depend on the input's."""
  def natural(names):
    return sorted(names, key=lambda name: (slice_names.natural_key(name), name))
  assert natural(random.sample(names, len(names))) == natural(names)


@given(st.integers(0, 10**4), st.integers(1, 40), st.randoms())
def test_consecutive_numbers_are_accepted_and_ordered(first, n, random):
  names = [f's{k}_z={k / 50:.4f}um.tif' for k in range(first, first + n)]
  shuffled = random.sample(names, n)
  assert slice_names.order_slices(shuffled) == names


@given(st.integers(3, 30), st.data())
def test_any_gap_is_found(n, data):
  names = [f'a_{k}.tif' for k in range(n)]
  gap = data.draw(st.integers(1, n - 2))
  del names[gap]
  with pytest.raises(InputError, match=rf'in/a_{gap + 1}.tif.*expected number {gap};'):
    slice_names.order_slices(names, 'in')


def test_a_time_stamp_beside_the_number():
  names = [f'run_{k:03d}_2021{m:02d}.tif' for k, m in zip(range(5), (3, 1, 2, 9, 4),
                                                          strict=True)]
  assert slice_names.order_slices(names[::-1]) == names


# Masks.

def test_masks_of_each_format(tmp_path):
  masks = (noise(np.uint8, (3, 8, 9)) % 3).astype(np.uint8)
  tifffile.imwrite(tmp_path / 'm.tif', masks, photometric='minisblack')
  np.save(tmp_path / 'm.npy', masks)
  np.save(tmp_path / 'b.npy', masks > 1)
  imagecodecs.imwrite(tmp_path / 'm.png', masks[0])
  tifffile.imwrite(tmp_path / 'one.tif', masks[0])
  for name, expected in (('m.tif', masks), ('m.npy', masks), ('b.npy', masks > 1),
                         ('m.png', masks[0]), ('one.tif', masks[0])):
    got = label_images.read_masks(tmp_path / name)
    np.testing.assert_array_equal(got, expected)
    assert got.dtype == np.uint8
  assert len(label_images.read_mask_list(tmp_path / 'm.tif')) == 3


def png(width, height, bits, colour, rows):
  """A PNG from packed rows, by the format's definition."""
  import struct
  import zlib

  def chunk(kind, data):
    return (struct.pack('>I', len(data)) + kind + data
            + struct.pack('>I', zlib.crc32(kind + data)))
  head = struct.pack('>IIBBBBB', width, height, bits, colour, 0, 0, 0)
  return (b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', head)
          + chunk(b'IDAT', zlib.compress(b''.join(b'\0' + r for r in rows)))
          + chunk(b'IEND', b''))


@pytest.mark.parametrize('bits', [1, 2, 4])
def test_codes_of_packed_png_are_kept_as_stored(tmp_path, bits):
  codes = noise(np.uint8, (5, 8)) % 2**bits
  as_bits = np.unpackbits(codes[..., None], axis=-1)[..., -bits:].reshape(5, -1)
  rows = [r.tobytes() for r in np.packbits(as_bits, axis=1)]
  (tmp_path / 'm.png').write_bytes(png(8, 5, bits, 0, rows))
  np.testing.assert_array_equal(label_images.read_masks(tmp_path / 'm.png'), codes)


def test_wrong_masks_are_named(tmp_path):
  def refused(name, match):
    with pytest.raises(InputError, match=match) as error:
      label_images.read_masks(tmp_path / name)
    assert '\n' not in str(error.value)
  refused('none.tif', 'none.tif: got no such file')
  (tmp_path / 'a.txt').write_text('x')
  refused('a.txt', 'a.txt: got a .txt file')
  np.save(tmp_path / 'p.npy', np.array([{}]), allow_pickle=True)
  refused('p.npy', 'p.npy: got ValueError')
  np.save(tmp_path / 'd.npy', np.zeros(3))
  refused('d.npy', 'd.npy: got 1-D array')
  imagecodecs.imwrite(tmp_path / 'c.png', np.zeros((4, 5, 3), np.uint8))
  refused('c.png', 'c.png: got a PNG with colours')
  imagecodecs.imwrite(tmp_path / 'g.png', noise(np.uint8, (20, 30)))
  data = (tmp_path / 'g.png').read_bytes()
  for n in (0, 10, 30, len(data) // 2):
    (tmp_path / 'g.png').write_bytes(data[:n])
    refused('g.png', 'g.png: got')
  (tmp_path / 'empty').mkdir()
  with pytest.raises(InputError, match='empty: got a folder without images'):
    label_images.read_mask_list(tmp_path / 'empty')
