"""The published archive, built tiny and, in headers, at its real size."""
import csv
import itertools
import shutil

import numpy as np
import pytest
import tifffile

from fibjax.annotation.regions import check_regions, select_regions
from fibjax.datasets import skarberg2021
from fibjax.errors import InputError
from fibjax.volumes.volume import read_box
from tests import tiny_archive

FULL_SHAPE, FULL_SQUARES = (200, 2247, 3372), 100
PUBLISHED_POROSITY = {'HPC22': 0.2042, 'HPC30': 0.2927, 'HPC45': 0.4220}


@pytest.fixture(scope='module')
def built(tmp_path_factory):
  """A tiny archive that no test changes, and its truths."""
  root = tmp_path_factory.mktemp('archive')
  return root, tiny_archive.build(root)


@pytest.fixture
def small(tmp_path):
  """A smaller one of a single sample, to break."""
  tiny_archive.build(tmp_path / 'a', shape=(3, 40, 44), squares=5, side=16,
                     samples=('HPC30',))
  return tmp_path / 'a'


def read(volume):
  return read_box(volume, (0, 0, 0), volume.shape)


def test_volumes_and_regions_are_those_of_the_archive(built, tmp_path):
  root, truths = built
  table = skarberg2021.import_archive(root, tmp_path)
  found = skarberg2021.open_imported(tmp_path)
  assert list(found) == ['HPC22', 'HPC30', 'HPC45']
  check_regions(table, {n: v.shape for n, v in found.items()})
  for name, volume in found.items():
    assert volume.shape == tiny_archive.SHAPE and volume.dtype == np.uint16
    assert volume.voxel_size_zyx_nm == (50, 10, 10)
    grey_zyx = read(volume)
    for z in (0, 7, 23):  # slice file = z + 1
      file = root / 'data' / 'raw' / name / f'{name}_{z + 1:04d}.tif'
      np.testing.assert_array_equal(grey_zyx[z], tifffile.imread(file))
    one = select_regions(table, volume=name)
    side = tiny_archive.SIDE_PX
    for z, y, x, mask_yx in zip(one.z, one.y, one.x, one.masks_ryx, strict=True):
      box = (z, slice(y, y + side), slice(x, x + side))
      np.testing.assert_array_equal(mask_yx, truths[name][box])
      grey_yx = grey_zyx[box]
      assert grey_yx[mask_yx == 1].mean() > grey_yx[mask_yx == 0].mean() + 20000


def test_the_papers_x_is_the_image_row(small):
  corners = np.load(small / 'data/manual_segmentation/segmentation_regions_HPC30.npy')
  table = skarberg2021.open_archive(small)[0].regions
  np.testing.assert_array_equal(np.stack([table.y, table.x, table.z]), corners)


def test_the_split_is_the_official_one(built):
  root, _ = built
  tests = []
  for sample in skarberg2021.open_archive(root):
    for split, count in (('train', 6), ('val', 2), ('test', 2)):
      indices = np.load(root / f'data/regions/ind_squares_{split}_{sample.name}.npy')
      assert [k for k, s in enumerate(sample.regions.split) if s == split] == sorted(
          indices) and len(indices) == count
    tests.append(tuple(sorted(indices)))
  assert len(set(tests)) > 1  # another one for each sample, at the same positions


def official_rows(shared_data):
  path = shared_data / 'skarberg_zenodo_meta' / 'official_test_squares.csv'
  with open(path, encoding='utf-8') as file:
    return list(csv.DictReader(file))


def test_official_squares_at_full_size(shared_data, tmp_path):
  """Positions, split and porosities that are known come out of the real layout."""
  rows = official_rows(shared_data)
  slice_yx = np.zeros(FULL_SHAPE[1:], np.uint16)
  corners = tiny_archive.draw_corners(FULL_SHAPE, FULL_SQUARES, 256)
  for row in rows:
    k = int(row['square_index'])
    known = row['row_start_x'], row['col_start_y'], row['z_zero_based']
    corners[:, k] = [int(new or old)
                     for new, old in zip(known, corners[:, k], strict=True)]
  for name in skarberg2021.SAMPLES:
    folder = tmp_path / 'data' / 'raw' / name
    folder.mkdir(parents=True)
    first = folder / f'{name}_0001.tif'
    tifffile.imwrite(first, slice_yx, compression='zlib')
    for z in range(1, FULL_SHAPE[0]):
      (folder / f'{name}_{z + 1:04d}.tif').hardlink_to(first)
    masks = np.ones((FULL_SQUARES, 256 * 256), np.uint8)
    test = {int(r['square_index']): float(r['manual_porosity']) for r in rows
            if r['material'] == name}
    for k, porosity in test.items():
      masks[k, :round(porosity * 256 * 256)] = 0
    others = np.setdiff1d(np.arange(FULL_SQUARES), list(test))
    tiny_archive.write_squares(tmp_path, name, corners, masks.reshape(-1, 256, 256))
    tiny_archive.write_split(tmp_path, name, others[:60], others[60:], list(test))
  for sample in skarberg2021.open_archive(tmp_path):
    assert sample.shape == FULL_SHAPE
    assert [sample.regions.split.count(s) for s in ('train', 'val', 'test')] == [
        60, 20, 20]
    test = select_regions(sample.regions, split='test')
    assert round((test.masks_ryx == 0).mean(), 4) == PUBLISHED_POROSITY[sample.name]
    at = {(int(r['z_zero_based']), int(r['row_start_x']), int(r['col_start_y']))
          for r in rows if r['material'] == sample.name and r['row_start_x']}
    found = zip(test.z.tolist(), test.y.tolist(), test.x.tolist(), strict=True)
    assert at <= set(found) and len(at) >= 8


def test_a_second_call_keeps_the_volumes(small, tmp_path):
  out = tmp_path / 'out'
  first = skarberg2021.import_archive(small, out)
  before = {p: p.stat().st_mtime_ns for p in out.rglob('*')}
  again = skarberg2021.import_archive(small, out)
  assert {p: p.stat().st_mtime_ns for p in out.rglob('*')} == before
  np.testing.assert_array_equal(again.masks_ryx, first.masks_ryx)
  shutil.rmtree(small)
  assert list(skarberg2021.open_imported(out)) == ['HPC30']  # the archive may be gone


def test_a_volume_of_another_archive_is_refused(small, tmp_path):
  skarberg2021.import_archive(small, tmp_path / 'out')
  other = tmp_path / 'other'
  tiny_archive.build(other, shape=(4, 40, 44), squares=5, side=16, samples=('HPC30',))
  with pytest.raises(InputError, match=r'raw\.ome\.zarr: got a volume of another'):
    skarberg2021.import_archive(other, tmp_path / 'out')


def test_the_folder_or_its_parent(small, tmp_path):
  parent = tmp_path / 'parent'
  parent.mkdir()
  shutil.move(small, parent / 'fib_sem_cnn')
  found = [skarberg2021.open_archive(p)[0] for p in (parent, parent / 'fib_sem_cnn')]
  assert found[0].slices == found[1].slices and found[0].name == 'HPC30'


@pytest.mark.parametrize('corners_type', [np.float64, np.uint16, np.int32])
@pytest.mark.parametrize('masks_type', [bool, np.float32, np.int64])
def test_number_types_do_not_matter(small, corners_type, masks_type):
  expected = skarberg2021.open_archive(small)[0].regions
  for file, kind in ((small / 'data/manual_segmentation/segmentation_regions_HPC30.npy',
                      corners_type),
                     (small / 'data/manual_segmentation/manual_segmentation_HPC30.npy',
                      masks_type)):
    np.save(file, np.load(file).astype(kind))
  for split in ('train', 'val', 'test'):
    file = small / f'data/regions/ind_squares_{split}_HPC30.npy'
    np.save(file, np.load(file).astype(corners_type)[None])
  got = skarberg2021.open_archive(small)[0].regions
  assert got.split == expected.split
  for name in ('z', 'y', 'x', 'masks_ryx'):
    np.testing.assert_array_equal(getattr(got, name), getattr(expected, name))


# What is missing or damaged is named.

RAW, MANUAL = 'data/raw/HPC30', 'data/manual_segmentation'
CORNERS = f'{MANUAL}/segmentation_regions_HPC30.npy'
MASKS = f'{MANUAL}/manual_segmentation_HPC30.npy'
TEST = 'data/regions/ind_squares_test_HPC30.npy'


def change(function):
  """Breaks an npy file by a function of its array."""
  return lambda path: np.save(path, function(np.load(path)))


def put(at, value):
  def function(array):
    array[at] = value
    return array
  return change(function)


def pickled(path):
  np.save(path, np.array([{'a': 1}], object), allow_pickle=True)


def grown(path):
  """A header that promises 10^14 times the data."""
  raw = path.read_bytes()
  path.write_bytes(raw.replace(b'(5, 16, 16)', b'(5, 16, 1%s)' % (b'0' * 15), 1))


NO_MASKS = r'manual_segmentation_HPC30\.npy: got \w+Error'
DAMAGE = {
    'no slice 2': (f'{RAW}/HPC30_0002.tif', 'unlink',
                   r'HPC30_0002\.tif: got no such file, .*without a gap'),
    'no first slice': (f'{RAW}/HPC30_0001.tif', 'unlink', r'HPC30_0001\.tif: got no'),
    'slice of another size': (
        f'{RAW}/HPC30_0003.tif', lambda p: tifffile.imwrite(p, np.zeros((40, 43),
                                                                        np.uint16)),
        r'HPC30_0003\.tif: got \(40, 43\)'),
    'slice cut short': (
        f'{RAW}/HPC30_0003.tif', lambda p: p.write_bytes(p.read_bytes()[:900]),
        r'HPC30_0003\.tif: got'),
    '8-bit slices': (
        RAW, lambda p: [tifffile.imwrite(f, np.zeros((40, 44), np.uint8))
                        for f in p.iterdir()], r'HPC30: got slices of uint8'),
    'no slices': (RAW, lambda p: [f.unlink() for f in p.iterdir()],
                  r'HPC30_0001\.tif|a folder without images'),
    'no corners': (CORNERS, 'unlink', r'segmentation_regions_HPC30\.npy: got no such'),
    'no masks': (MASKS, 'unlink', r'manual_segmentation_HPC30\.npy: got no such file'),
    'no split': (TEST, 'unlink', r'ind_squares_test_HPC30\.npy: got no such file'),
    'corners transposed': (CORNERS, change(np.transpose),
                           r'regions_HPC30\.npy: got shape \(5, 3\).*rows x, y, z'),
    'a mask too few': (MASKS, change(lambda a: a[1:]), r'got shape \(4, 16, 16\)'),
    'flat masks': (MASKS, change(lambda a: a.reshape(5, -1)), r'got shape \(5, 256\)'),
    'code 2': (MASKS, put((0, 0, 0), 2), r'segmentation_HPC30\.npy: got codes 2'),
    'outside below': (CORNERS, put((0, 3), 25), r'square 3 at z, y, x'),
    'outside right': (CORNERS, put((1, 3), 29), r'square 3 at z, y, x'),
    'outside in z': (CORNERS, put((2, 4), 3), r'square 4 at z, y, x'),
    'negative': (CORNERS, put((1, 0), -1), r'square 0 at z, y, x'),
    'a fraction': (CORNERS, change(lambda a: a + 0.5), r'whole numbers'),
    'not a number': (CORNERS, change(lambda a: a * np.nan), r'whole numbers'),
    'infinite': (CORNERS, change(lambda a: a + np.inf), r'whole numbers'),
    'huge': (CORNERS, change(lambda a: a + 1e300), r'whole numbers'),
    'square 5 of 0..4': (TEST, put(0, 5), r'got square 5, expected squares 0 to 4'),
    'square -1': (TEST, put(0, -1), r'got square -1, expected squares 0'),
    'a mask for a list': (TEST, change(lambda a: a > 0), r'test_HPC30.*whole numbers'),
    'empty list': (TEST, change(lambda a: a[:0]), r'test_HPC30\.npy: got shape \(0,\)'),
    'pickle': (MASKS, pickled, NO_MASKS),
    'raw pickle': (MASKS, lambda p: p.write_bytes(b'\x80\x04N.'), NO_MASKS),
    'empty': (MASKS, lambda p: p.write_bytes(b''), NO_MASKS),
    'text': (CORNERS, lambda p: np.save(p, np.array([['a']])),
             r'regions_HPC30\.npy: got values of dtype <U1'),
    'cut': (MASKS, lambda p: p.write_bytes(p.read_bytes()[:-1]), NO_MASKS),
    'promises': (MASKS, grown, NO_MASKS),
}


@pytest.mark.parametrize('case', DAMAGE)
def test_damage_is_named(small, tmp_path, case):
  name, damage, message = DAMAGE[case]
  (small / name).unlink() if damage == 'unlink' else damage(small / name)
  with pytest.raises(InputError, match=message) as caught:
    skarberg2021.import_archive(small, tmp_path / 'out')
  assert '\n' not in str(caught.value)
  assert not (tmp_path / 'out').exists()


def test_one_square_in_two_splits(small):
  file = small / TEST
  train = np.load(small / 'data/regions/ind_squares_train_HPC30.npy')
  np.save(file, np.append(np.load(file), train[0]))
  with pytest.raises(InputError, match=f'test_HPC30.npy: got square {train[0]}, which '
                                       'is in train already'):
    skarberg2021.open_archive(small)


def test_a_square_without_split(small):
  change(lambda a: a[1:])(small / 'data/regions/ind_squares_train_HPC30.npy')
  with pytest.raises(InputError, match=r'squares_\*_HPC30.npy: got no split for'):
    skarberg2021.open_archive(small)


def test_lists_counted_from_1_are_refused(small):
  for split in ('train', 'val', 'test'):
    change(lambda a: a + 1)(small / f'data/regions/ind_squares_{split}_HPC30.npy')
  with pytest.raises(InputError, match='got square 5, expected squares 0 to 4'):
    skarberg2021.open_archive(small)


def test_damage_of_pixels_leaves_no_volume(small, tmp_path):
  file = small / RAW / 'HPC30_0002.tif'
  noise_yx = np.random.default_rng(0).integers(0, 9999, (40, 44), np.uint16)
  tifffile.imwrite(file, noise_yx, compression='zlib')
  raw = bytearray(file.read_bytes())
  with tifffile.TiffFile(file) as tif:
    start = tif.pages[0].dataoffsets[0]
  raw[start + 100:start + 200] = bytes(100)
  file.write_bytes(raw)
  skarberg2021.open_archive(small)  # headers are whole
  with pytest.raises(InputError, match=r'HPC30_0002\.tif: got'):
    skarberg2021.import_archive(small, tmp_path / 'out')
  assert not skarberg2021.open_imported(tmp_path / 'out')


@pytest.mark.filterwarnings('ignore:Data type alias')
def test_a_flipped_byte_in_a_header_is_an_error_or_harmless(small):
  file = small / CORNERS
  whole = file.read_bytes()
  for at, bit in itertools.product(range(128), (0, 3, 6)):
    damaged = bytearray(whole)
    damaged[at] ^= 1 << bit
    file.write_bytes(damaged)
    try:
      skarberg2021.open_archive(small)
    except InputError as error:
      assert 'HPC30.npy' in str(error)


def test_samples_differ_in_depth(tmp_path):
  for name, depth in (('HPC22', 4), ('HPC45', 3)):
    tiny_archive.build(tmp_path, shape=(depth, 40, 44), squares=5, side=16,
                       samples=(name,))
  with pytest.raises(InputError, match=r'HPC45: got \(3, 40, 44\) .* as HPC22'):
    skarberg2021.open_archive(tmp_path)


def test_no_archive(tmp_path):
  with pytest.raises(InputError, match=r'no folder data/raw .*--config\.data\.root'):
    skarberg2021.open_archive(tmp_path)
  (tmp_path / 'data' / 'raw' / 'HPC99').mkdir(parents=True)
  with pytest.raises(InputError, match=r'raw: got no sample, expected folders HPC22'):
    skarberg2021.open_archive(tmp_path)
  (tmp_path / 'x.zip').write_bytes(b'PK')
  with pytest.raises(InputError, match=r'x\.zip: got a file.*unzip x\.zip -d'):
    skarberg2021.open_archive(tmp_path / 'x.zip')
  with pytest.raises(InputError, match=r'x\.zip: got 2 bytes, expected 9216974498'):
    skarberg2021.check_download(tmp_path / 'x.zip')


def test_trained_weights_are_found(small):
  with pytest.raises(InputError, match='model_113_3: got 0 HDF5 files, expected one'):
    skarberg2021.find_weights(small, 113, 3)
  file = small / 'model' / 'model_113_3' / 'model.h5'
  file.parent.mkdir(parents=True)
  file.touch()
  assert skarberg2021.find_weights(small, 113, 3) == file
