"""Annotated regions: placement, splits, label profiles, tables."""
import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from fibjax.annotation import splits
from fibjax.annotation.proposals import propose_positions
from fibjax.annotation.regions import (
  SPLITS,
  check_regions,
  concatenate_regions,
  import_masks,
  import_regions,
  load_regions,
  make_regions,
  region_mask,
  save_regions,
  select_regions,
)
from fibjax.annotation.splits import assign_splits, context_boxes
from fibjax.config import base
from fibjax.datasets import collect
from fibjax.errors import InputError
from fibjax.formats import label_codes
from fibjax.system import files
from fibjax.system.run_folder import RunFolder
from fibjax.volumes.volume import new_volume, write_box

SHAPE = (200, 2247, 3372)


def make(positions, volume='a', size=(4, 5), split=None, seed=0):
  rng = np.random.default_rng(seed)
  masks = [rng.choice([0, 1, 255], size).astype(np.uint8) for _ in positions]
  names = (volume,) * len(positions) if isinstance(volume, str) else volume
  return make_regions(names, positions, masks, split)


def assert_same(a, b):
  assert a.volume == b.volume and a.split == b.split
  for name in ('z', 'y', 'x', 'heights', 'widths', 'masks_ryx'):
    np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


# Placement.

@settings(deadline=None)
@given(st.lists(st.integers(1, 60), min_size=3, max_size=3), st.data())
def test_the_whole_context_lies_inside(shape, data):
  context = [data.draw(st.integers(1, n)) for n in shape]
  size = [data.draw(st.integers(1, c)) for c in context[1:]]
  seed = data.draw(st.integers(0, 2**32))
  positions = propose_positions(shape, 50, size, context[1:], context[0], seed)
  starts, stops = context_boxes(make(positions, size=size), context)
  assert (starts >= 0).all() and (stops <= shape).all()
  assert (stops - starts == context).all()


def test_placement_reaches_exactly_the_papers_ranges():
  positions = propose_positions(SHAPE, 200_000, (256, 256), (384, 384), 7, 0)
  np.testing.assert_array_equal(positions.min(0), (3, 64, 64))
  np.testing.assert_array_equal(positions.max(0), (196, 1927, 3052))
  assert positions.dtype.kind == 'i'
  # uniform: the mean of 2e5 draws lies within 5 standard errors of the middle
  width = np.array([194, 1864, 2989])
  assert (abs(positions.mean(0) - (99.5, 995.5, 1558)) < 5 * width / 12**.5 / 447).all()
  same = propose_positions(SHAPE, 200_000, (256, 256), (384, 384), 7, 0)
  np.testing.assert_array_equal(positions, same)


@pytest.mark.parametrize('size, context, depth', [
    ((256, 256), (200, 384), 7), ((256, 256), (384, 4000), 7), ((8, 8), (8, 8), 201)])
def test_a_context_that_does_not_fit_is_refused(size, context, depth):
  with pytest.raises(InputError, match='context: got'):
    propose_positions(SHAPE, 1, size, context, depth, 0)


# Splits.

@settings(deadline=None, max_examples=50)
@given(st.integers(1, 120), st.integers(0, 2**32), st.integers(1, 40))
def test_paper_split_gives_each_volume_its_fractions(n, seed, m):
  table = make(np.zeros((n + m, 3), int), ('a',) * n + ('b',) * m, size=(1, 1))
  done = assign_splits(table, seed=seed)
  for name, size in (('a', n), ('b', m)):
    got = select_regions(done, volume=name).split
    counts = np.array([got.count(s) for s in SPLITS])
    assert counts.sum() == size
    assert (abs(counts - size * np.array([.6, .2, .2])) < (1 if size > 4 else 2)).all()
    assert size < 3 or (counts > 0).all()
  # a volume's split does not depend on the others, and follows the seed
  alone = assign_splits(select_regions(table, volume='b'), seed=seed)
  assert alone.split == select_regions(done, volume='b').split
  assert assign_splits(table, seed=seed).split == done.split


@pytest.mark.parametrize('n, expected', [
    (1, [1, 0, 0]), (3, [1, 1, 1]), (4, [2, 1, 1]), (5, [3, 1, 1]), (7, [4, 2, 1])])
def test_paper_split_of_few_leaves_no_split_empty(n, expected):
  done = assign_splits(make(np.zeros((n, 3), int), size=(1, 1)), seed=0)
  assert [done.split.count(s) for s in SPLITS] == expected


def test_paper_split_of_100_is_60_20_20_and_shuffled():
  table = make(np.zeros((100, 3), int), size=(1, 1))
  a, b = (assign_splits(table, seed=s).split for s in (1, 2))
  assert [a.count(s) for s in SPLITS] == [60, 20, 20]
  assert a != b and a != tuple(sorted(a)) and a[:60].count('train') < 55
  other = make(np.zeros((100, 3), int), 'b', size=(1, 1))
  assert assign_splits(other, seed=1).split != a


@settings(deadline=None, max_examples=60)
@given(st.integers(3, 40), st.integers(0, 2**32))
def test_blocked_split_keeps_contexts_apart(n, seed):
  context = (5, 30, 30)
  positions = propose_positions(
      (40, 200, 200), n, (16, 16), context[1:], context[0], seed)
  table = make(positions, size=(16, 16))
  try:
    done = assign_splits(table, seed=seed, mode='blocked', context_zyx=context)
  except InputError as error:
    assert 'blocked split of volume a: got' in str(error)
    return
  starts, stops = context_boxes(done, context)
  for i in range(n):
    for j in range(i):
      meet = all(max(starts[i, k], starts[j, k]) < min(stops[i, k], stops[j, k])
                 for k in range(3))
      assert not meet or done.split[i] == done.split[j]
  assert {'train', 'val', 'test'} == set(done.split)


def test_blocked_split_of_separate_regions_keeps_the_fractions():
  positions = [(0, 100 * i, 0) for i in range(50)]
  done = assign_splits(make(positions), seed=3, mode='blocked',
                       context_zyx=(7, 100, 100))
  assert [done.split.count(s) for s in SPLITS] == [30, 10, 10]
  touching = assign_splits(make(positions), seed=3, mode='blocked',
                           context_zyx=(7, 100, 100))
  assert touching.split == done.split


def test_blocked_split_of_one_chain_is_impossible():
  chain = [(z, 0, 0) for z in range(0, 60, 6)]
  with pytest.raises(InputError, match='volume a: got 1 groups .* shrink the context'):
    assign_splits(make(chain), seed=0, mode='blocked')
  apart = [(z, 0, 0) for z in range(0, 70, 7)]
  done = assign_splits(make(apart), seed=0, mode='blocked')
  assert [done.split.count(s) for s in SPLITS] == [6, 2, 2]


def test_blocked_split_does_not_mix_volumes():
  table = make([(0, 0, 0)] * 6, ('a', 'b', 'c', 'd', 'e', 'f'))
  done = assign_splits(table, seed=0, mode='blocked', fractions=(1, 0, 0))
  assert done.split == ('train',) * 6


@pytest.mark.parametrize('options', [
    {'fractions': (.5, .5)}, {'fractions': (.5, .2, .2)},
    {'fractions': (1.2, -.1, -.1)}, {'mode': 'random'}])
def test_bad_split_options_are_named(options):
  with pytest.raises(InputError, match='split (fractions|mode): got'):
    assign_splits(make([(0, 0, 0)]), seed=0, **options)


@pytest.mark.parametrize('options', [
    {'seed': -1}, {'seed': -1, 'mode': 'blocked', 'context_zyx': (1, 1, 1)}])
def test_a_negative_seed_is_named(options):
  with pytest.raises(InputError, match='seed: got -1'):
    assign_splits(make([(0, 0, 0)]), **options)


# Tables.

def mixed():
  small = make([(1, 2, 3), (4, 5, 6)], 'a', (3, 6), ('train', 'test'))
  large = make([(7, 8, 9)], 'b', (5, 2), ('val',), seed=1)
  return small, large, concatenate_regions([small, large])


def test_regions_from_arrays():
  mask = np.array([[0, 1, 255]])
  table = make_regions('film', [(1, 2, 3), (4, 5, 6)], [mask, mask == 1])
  assert table.volume == ('film', 'film') and table.split == ('', '')
  assert table.z.tolist() == [1, 4] and table.x.tolist() == [3, 6]
  assert table.masks_ryx.dtype == np.uint8
  assert table.masks_ryx.tolist() == [[[0, 1, 255]], [[0, 1, 0]]]


@pytest.mark.parametrize(('changes', 'match'), [
    ({'volume': ('a', 'b')}, 'got 2 names, 1 positions, 1 masks and 1 splits'),
    ({'positions_r3': [(0, 0, 0)] * 2}, '2 positions'), ({'positions_r3': []}, '0 pos'),
    ({'positions_r3': [(0, 0)]}, r'positions: got int64 of shape \(1, 2\)'),
    ({'positions_r3': (0, 0, 0)}, r'positions: got int64 of shape \(3,\)'),
    ({'positions_r3': [(0, .5, 0)]}, 'positions: got float64'),
    ({'split': ['train', 'val']}, '2 splits'),
    ({'split': ['training']}, r"split: got \['training'\]"),
    ({'masks': [np.zeros((1, 4, 4), int)]}, 'region 0 of volume a: got a mask'),
    ({'masks': [np.zeros((0, 4), int)]}, 'shape'),
    ({'masks': [np.full((4, 4), np.nan)]}, 'a mask of float64'),
    ({'masks': [np.full((4, 4), 2)]}, r'got codes \[2\]'),
    ({'masks': [np.full((4, 4), 256)]}, r'got codes \[256\]')])
def test_bad_arrays_make_no_regions(changes, match):
  arrays = {'volume': 'a', 'positions_r3': [(0, 0, 0)],
            'masks': [np.zeros((4, 4), int)], **changes}
  with pytest.raises(InputError, match=match):
    make_regions(**arrays)


def test_concatenate_pads_and_select_undoes_it():
  small, large, both = mixed()
  assert both.masks_ryx.shape == (3, 5, 6)
  assert (both.masks_ryx[:2, 3:] == 255).all()
  assert (both.masks_ryx[2, :, 2:] == 255).all()
  np.testing.assert_array_equal(region_mask(both, 2), large.masks_ryx[0])
  np.testing.assert_array_equal(region_mask(both, 1), small.masks_ryx[1])
  assert select_regions(both, split='val').volume == ('b',)
  assert select_regions(both, volume='a').z.tolist() == [1, 4]
  assert select_regions(both, split='train', volume='b').volume == ()
  assert concatenate_regions([]).volume == ()


def test_regions_return_from_disk(tmp_path):
  _, _, both = mixed()
  save_regions(tmp_path / 'regions', both)
  assert_same(load_regions(tmp_path / 'regions'), both)
  assert sorted(f.name for f in (tmp_path / 'regions').iterdir()) == [
      'masks.npy', 'regions.csv']


def test_damaged_regions_are_named(tmp_path):
  _, _, both = mixed()

  def refused(match):
    with pytest.raises(InputError, match=match):
      load_regions(tmp_path)
  refused('regions.csv: got no such file')
  save_regions(tmp_path, both)
  text = (tmp_path / 'regions.csv').read_text()
  (tmp_path / 'regions.csv').write_text(text + 'b,1,2,3,4,2,val\n')
  refused('masks.npy: got uint8 masks .* 4 rows')
  (tmp_path / 'regions.csv').write_text(text.replace('a,1,2', 'a,1.5,2'))
  refused("regions.csv row 0: got z = '1.5'")
  (tmp_path / 'regions.csv').write_text(text.replace('val', 'validation'))
  refused("regions.csv row 2: got split 'validation'")
  (tmp_path / 'regions.csv').write_text(text.replace('volume,', 'film,'))
  refused('no column volume')
  (tmp_path / 'regions.csv').write_text(text)
  (tmp_path / 'masks.npy').write_bytes((tmp_path / 'masks.npy').read_bytes()[:-5])
  refused('masks.npy: got ValueError')


def test_check_regions_names_region_and_volume():
  table = make([(0, 0, 0), (9, 6, 5)], ('a', 'b'))
  shapes = {'a': (1, 4, 5), 'b': (10, 10, 10)}
  check_regions(table, shapes, window_zyx=(1, 3, 3))

  def refused(match, table=table, shapes=shapes, **options):
    with pytest.raises(InputError, match=match):
      check_regions(table, shapes, **options)
  refused('volume a: got .* window', window_zyx=(3, 3, 3))
  refused("region 1: volume: got 'b'", shapes={'a': (1, 4, 5)})
  for axis in range(3):
    small = np.array((10, 10, 10)) - np.eye(3, dtype=int)[axis]
    refused('region 1 of volume b: got box', shapes={**shapes, 'b': tuple(small)})
  refused('region 0 of volume a', table=make([(0, -1, 0)]))
  coded = make([(0, 0, 0)])
  coded.masks_ryx[0, 1, 2] = 7
  refused(r'region 0 of volume a: got codes \[7\]', table=coded)


# Label profiles.

@pytest.mark.parametrize('profile, codes, expected', [
    ('fibjax', [0, 1, 255], [0, 1, 255]), ('paper', [0, 1], [0, 1]),
    ('fiji', [0, 255], [0, 1]), ('ilastik', [0, 1, 2], [255, 0, 1]),
    ('napari', [0, 1, 2], [255, 0, 1]), ('porespy', [0, 1], [1, 0])])
@pytest.mark.parametrize('dtype', [np.uint8, np.int64, np.float32])
def test_profiles(profile, codes, expected, dtype):
  order = np.random.default_rng(0).integers(0, len(codes), (3, 4, 5))
  got = label_codes.decode_labels(np.array(codes, dtype)[order], profile)
  assert got.dtype == np.uint8
  np.testing.assert_array_equal(got, np.array(expected)[order])


def test_porespy_booleans():
  got = label_codes.decode_labels(np.array([[True, False]]), 'porespy')
  np.testing.assert_array_equal(got, [[0, 1]])


def test_unknown_codes_are_listed():
  with pytest.raises(InputError, match=r'm.tif: got codes 2, 3, .* \[0, 1, 255\]'):
    label_codes.decode_labels(np.array([0, 3, 2, 1]), 'fibjax', 'm.tif')
  with pytest.raises(InputError, match='got codes 0.5, nan'):
    label_codes.decode_labels(np.array([0, .5, np.nan]), 'paper')
  with pytest.raises(InputError, match='got codes 20, .*27, ...'):
    label_codes.decode_labels(np.arange(20, 60), 'paper')
  with pytest.raises(InputError, match=r"label codes .*: got 'imagej', expected one"):
    label_codes.decode_labels(np.zeros(1), 'imagej')


# Import.

CSV = 'volume, z, y, x, split\nfilm,3,10,20,train\nfilm,4,11,21,\nother,5,12,22,test\n'


def test_import_from_each_kind_of_mask_file(tmp_path):
  (tmp_path / 't.csv').write_text('\ufeff' + CSV, encoding='utf-8')
  truth = np.random.default_rng(0).integers(0, 2, (3, 8, 9)).astype(np.uint8)
  tifffile.imwrite(tmp_path / 'm.tif', truth * 255, photometric='minisblack')
  np.save(tmp_path / 'm.npy', truth * 255)
  (tmp_path / 'png').mkdir()
  for r, name in enumerate(('r2', 'r9', 'r10')):
    imagecodecs.imwrite(tmp_path / 'png' / f'{name}.png', truth[r] * 255)
  for masks in ('m.tif', 'm.npy', 'png'):
    got = import_masks(tmp_path / 't.csv', tmp_path / masks, 'fiji')
    assert got.volume == ('film', 'film', 'other')
    assert got.split == ('train', '', 'test')
    np.testing.assert_array_equal(np.stack([got.z, got.y, got.x], 1),
                                  [(3, 10, 20), (4, 11, 21), (5, 12, 22)])
    np.testing.assert_array_equal(got.masks_ryx, truth)


def test_import_of_rows_with_named_masks_of_differing_size(tmp_path):
  np.save(tmp_path / 'b.npy', np.zeros((2, 3), np.uint8))
  np.save(tmp_path / 'a.npy', np.ones((4, 1), np.uint8))
  rows = [{'volume': 'v', 'z': 0, 'y': 0, 'x': 0, 'mask': 'b.npy'},
          {'volume': 'v', 'z': 1, 'y': 0, 'x': 0, 'mask': 'a.npy'}]
  got = import_masks(rows, tmp_path, 'paper')
  assert got.heights.tolist() == [2, 4] and got.widths.tolist() == [3, 1]
  assert (region_mask(got, 0) == 0).all() and (region_mask(got, 1) == 1).all()


def test_imported_regions_appear_whole_or_not_at_all(tmp_path, monkeypatch):
  (tmp_path / 't.csv').write_text(CSV)
  masks = np.random.default_rng(0).integers(0, 2, (3, 8, 9)).astype(np.uint8)
  np.save(tmp_path / 'm.npy', masks)
  source = (tmp_path / 't.csv', tmp_path / 'm.npy', 'paper')
  before = set(tmp_path.iterdir())

  def full(path, text, **options):
    raise OSError('no space left')
  with monkeypatch.context() as patch:
    patch.setattr(files, 'write_text', full)
    with pytest.raises(OSError, match='no space left'):
      import_regions(*source, tmp_path / 'out')
  assert set(tmp_path.iterdir()) == before
  (tmp_path / 'out.partial').mkdir()
  (tmp_path / 'out.partial' / 'junk').write_text('of a killed call')
  made = import_regions(*source, tmp_path / 'out')
  assert {f.name for f in (tmp_path / 'out').iterdir()} == {'regions.csv', 'masks.npy'}
  assert set(tmp_path.iterdir()) == before | {tmp_path / 'out'}
  assert_same(load_regions(tmp_path / 'out'), made)
  for there in ('out', 't.csv'):
    content = (tmp_path / 't.csv').read_bytes()
    with pytest.raises(InputError, match=f'{there}: got a path that already exists'):
      import_regions(*source, tmp_path / there)
    assert (tmp_path / 't.csv').read_bytes() == content
  with pytest.raises(InputError, match=r't\.csv.out: got Not a directory'):
    import_regions(*source, tmp_path / 't.csv' / 'out')


def test_import_mistakes_are_named(tmp_path):
  table = tmp_path / 't.csv'
  table.write_text(CSV)
  np.save(tmp_path / 'm.npy', np.zeros((2, 4, 4), np.uint8))
  with pytest.raises(InputError, match=r'm.npy: got 2 masks, expected 3, one per row'):
    import_masks(table, tmp_path / 'm.npy', 'paper')
  masks = np.zeros((3, 4, 4), np.uint8)
  masks[2, 0, 0] = 9
  np.save(tmp_path / 'm.npy', masks)
  with pytest.raises(InputError, match=r'm.npy: mask 2 of volume other: got codes 9'):
    import_masks(table, tmp_path / 'm.npy', 'paper')
  table.write_text('volume,z,y,x\n')
  with pytest.raises(InputError, match='t.csv: got no row'):
    import_masks(table, tmp_path / 'm.npy', 'paper')
  for row, said in (('film,-1,2,3,', r"row 0: got z = '-1'"),
                    ('film,1,2,3,Train', "row 0: got split 'Train'")):
    table.write_text(f'volume,z,y,x,split\n{row}\n')
    with pytest.raises(InputError, match=f't.csv {said}'):
      import_masks(table, tmp_path / 'm.npy', 'paper')
  with pytest.raises(InputError, match='none.csv: got'):
    import_masks(tmp_path / 'none.csv', tmp_path / 'm.npy', 'paper')


def overlapping(second, split=('train', 'test', 'val'), masks=None):
  places = [(1, 10, 10), second, (5, 10, 10)]
  masks = masks or [np.zeros((8, 8), np.uint8)] * 3
  return make_regions('a', places, masks, split)


@pytest.mark.parametrize('second, rows', [
    ((1, 10, 10), [0, 1]), ((1, 17, 17), [0, 1]), ((1, 3, 17), [0, 1]),
    ((1, 18, 10), []), ((1, 10, 2), []), ((2, 10, 10), [])])
def test_regions_of_different_splits_that_share_voxels_are_found(second, rows):
  assert splits.overlapping_rows(overlapping(second)) == rows
  same = overlapping(second, ('train', 'train', 'val'))
  assert splits.overlapping_rows(same) == []
  if rows:
    with pytest.raises(InputError, match='2 of 3 that share .* rows 0, 1, .*overlap='):
      splits.check_apart(overlapping(second))
  else:
    splits.check_apart(overlapping(second))


def test_overlap_counts_voxels_that_both_label():
  left, right = (np.full((8, 8), 255, np.uint8) for _ in range(2))
  left[:, :4], right[:, 4:] = 0, 1
  both = [left, right, np.zeros((8, 8), np.uint8)]
  assert splits.overlapping_rows(overlapping((1, 10, 10), masks=both)) == []
  assert splits.overlapping_rows(overlapping((1, 10, 6), masks=both)) == [0, 1]


def test_masks_that_a_table_names_are_files_of_the_folder(tmp_path):
  (tmp_path / 'm').mkdir()
  for name in ('m/a.npy', 'secret.npy'):
    np.save(tmp_path / name, np.zeros((4, 4), np.uint8))
  row = {'volume': 'film', 'z': 0, 'y': 0, 'x': 0}
  assert len(import_masks([row | {'mask': 'a.npy'}], tmp_path / 'm', 'paper').volume)
  for bad in ('../secret.npy', str(tmp_path / 'secret.npy'), '..', 'm/a.npy'):
    with pytest.raises(InputError, match='regions row 0: got mask'):
      import_masks([row | {'mask': bad}], tmp_path / 'm', 'paper')
  with pytest.raises(InputError, match='regions row 1: got mask None'):
    import_masks([row | {'mask': 'a.npy'}, row], tmp_path / 'm', 'paper')


@pytest.mark.parametrize('allow_overlap', [False, True])
def test_a_run_takes_splits_that_overlap_only_when_told(tmp_path, allow_overlap):
  with new_volume(tmp_path / 'a.ome.zarr', (6, 40, 40), np.uint8, None) as volume:
    write_box(volume, (0, 0, 0), np.ones((6, 40, 40), np.uint8))
  masks = [np.tile(np.uint8([0, 1]), (8, 4))] * 3
  save_regions(tmp_path / 'r', overlapping((1, 12, 12), masks=masks))
  config = base()
  config.data.volumes, config.data.regions = ((str(tmp_path / name),) for name in (
      'a.ome.zarr', 'r'))
  config.split.allow_overlap = allow_overlap

  def collected():
    return collect.collect(config.data, config.split, (1, 9, 9), RunFolder(tmp_path))
  if allow_overlap:
    assert collected()[1].split == ('train', 'test', 'val')
  else:
    with pytest.raises(InputError, match='share labelled voxels'):
      collected()
