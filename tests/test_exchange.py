"""From proposals to painted masks and back: exact, or refused with the reason."""
import functools
import itertools
import json
import shutil

import numpy as np
import pytest
import tifffile

from fibjax.annotation import exchange, experts, frame, proposals
from fibjax.annotation.regions import (
  check_regions,
  load_regions,
  make_regions,
  region_mask,
)
from fibjax.annotation.sizes import Sizes
from fibjax.errors import InputError
from fibjax.formats.label_codes import LABEL_CODES
from fibjax.metrics.calibration import binary_entropy
from fibjax.simulation import films
from fibjax.simulation.annotator import Annotator, annotate
from fibjax.volumes.volume import new_volume, open_volume, read_box, write_box

SHAPE = (12, 160, 176)
SMALL = Sizes(32, 64, 5)


def write_volume(path, array, size=(50., 10., 10.), **options):
  with new_volume(path, array.shape[-3:], array.dtype, size, **options) as new:
    write_box(new, (0, 0, 0), array)
  return open_volume(path)


@pytest.fixture(scope='module')
def film():
  return films.simulate_film('HPC30', SHAPE, 2)


@pytest.fixture(scope='module')
def volume(film, tmp_path_factory):
  return write_volume(tmp_path_factory.mktemp('v') / 'film.ome.zarr', film.image_zyx)


@pytest.fixture
def exported(volume, tmp_path):
  """A folder of four regions for two experts, and their places."""
  places = proposals.propose(volume, 4, 'random', seed=9, sizes=SMALL)
  exchange.export_regions({'film': volume}, places, tmp_path / 'e', sizes=SMALL,
                          experts=('anna', 'ben'))
  return tmp_path / 'e', places


def file_of(folder, k, expert='anna'):
  return folder / 'labels' / expert / f'region_{k:03d}.tif'


def truth_of(film, place):
  z, y, x = (place[a] for a in 'zyx')
  return film.truth_zyx[z, y:y + 32, x:x + 32]


CODES = {'napari': (1, 2), 'fiji': (0, 255), 'porespy': (1, 0), 'fibjax': (0, 1)}


def paint(file, labels_yx, profile='napari'):
  """Paints labels 0/1/255 into the core as a tool would save them."""
  mask = tifffile.imread(file)
  codes = np.select([labels_yx == 0, labels_yx == 1], CODES[profile], 0)
  mask[frame.core_box(SMALL)] = codes
  tifffile.imwrite(file, mask)
  return mask


def paint_all(film, folder, places, profile='napari', expert='anna'):
  for k, place in enumerate(places):
    paint(file_of(folder, k, expert), truth_of(film, place), profile)


# --- There and back ------------------------------------------------------------------

@pytest.mark.parametrize('profile', CODES)
def test_labels_come_back_as_they_were_painted(film, exported, tmp_path, profile):
  folder, places = exported
  paint_all(film, folder, places, profile)
  found = exchange.import_annotations(folder, profile, tmp_path / 'r')
  assert (found['places'], found['rows'], found['experts']) == (4, 4, {'anna': 4})
  assert found['left_out'] == [f'labels/ben/region_{k:03d}.tif' for k in range(4)]
  assert found['agreement'] is None and found['changed_images'] == []
  regions = load_regions(tmp_path / 'r')
  assert regions.volume == ('film',) * 4
  for r, place in enumerate(places):
    assert [int(a[r]) for a in (regions.z, regions.y, regions.x)] == [
        place[a] for a in 'zyx']
    np.testing.assert_array_equal(region_mask(regions, r),
                                  truth_of(film, place))
  check_regions(regions, {'film': SHAPE})


def test_images_are_cut_from_the_volume_and_labels_are_framed(film, exported):
  folder, places = exported
  manifest = json.loads((folder / 'manifest.json').read_text())
  for k, place in enumerate(places):
    with tifffile.TiffFile(folder / 'images' / f'region_{k:03d}.tif') as tif:
      image = tif.asarray()
      assert tif.imagej_metadata['spacing'] == 50
      assert tif.imagej_metadata['unit'] == 'nm'
    z, y, x = (place[a] for a in 'zyx')
    np.testing.assert_array_equal(
        image, film.image_zyx[z - 2:z + 3, y - 16:y + 48, x - 16:x + 48])
    blank = tifffile.imread(file_of(folder, k))
    assert blank.shape == image.shape and blank.dtype == np.uint8
    core = np.zeros(blank.shape, bool)
    core[2, 16:48, 16:48] = True
    np.testing.assert_array_equal(blank == 0, core)
    assert {key: manifest['regions'][k][key] for key in place} == place
  assert (manifest['region_px'], manifest['core_start_zyx']) == (32, [2, 16, 16])
  assert '32 x 32 core of slice 2' in (folder / 'README.txt').read_text()


def test_the_frame_is_no_label_code_and_the_same_in_no_other_orientation():
  used = {code for codes in LABEL_CODES.values() for code in codes}
  assert not used & {frame.FRAME, frame.MARK}
  for sizes in (SMALL, Sizes(), Sizes(17, 40, 1), Sizes(64, 81, 3)):
    blank = frame.blank_label(sizes)
    for change in frame._IN_PLANE.values():
      changed = change(blank)
      if sizes.context_slices > 1 or change(np.arange(3)[:, None, None])[0] == 0:
        assert changed.shape != blank.shape or (changed != blank).any()


def test_a_context_beyond_the_volume_is_mirrored(film, volume, tmp_path):
  exchange.export_regions(
      {'film': volume}, [{'volume': 'film', 'z': 0, 'y': 0, 'x': 144}], tmp_path / 'e',
      sizes=SMALL)
  padded = np.pad(film.image_zyx, ((2, 2), (16, 16), (16, 16)), 'reflect')
  np.testing.assert_array_equal(tifffile.imread(tmp_path / 'e/images/region_000.tif'),
                                padded[:5, :64, 144:208])


def test_partly_painted_left_out_and_over_the_edge(film, exported, tmp_path):
  folder, places = exported
  labels = truth_of(film, places[0]).copy()
  labels[:10] = 255
  mask = paint(file_of(folder, 0), labels)
  mask[2, 47:50, 20:24] = 2  # a brush over the lower edge
  tifffile.imwrite(file_of(folder, 0), mask.astype(np.int32))
  file_of(folder, 1).unlink()
  found = exchange.import_annotations(folder, 'napari', tmp_path / 'r')
  labels[31, 4:8] = 1
  regions = load_regions(tmp_path / 'r')
  np.testing.assert_array_equal(regions.masks_ryx, [labels])
  assert found['over_the_edge'] == {'labels/anna/region_000.tif': 8}
  assert found['left_out'][:3] == [f'labels/anna/region_{k:03d}.tif' for k in (1, 2, 3)]


def test_a_tool_without_the_frame_may_label_the_whole_core(film, exported, tmp_path):
  folder, places = exported
  mask = np.zeros(SMALL.context_zyx, np.uint8)
  mask[frame.core_box(SMALL)] = truth_of(film, places[0]) + 1
  file_of(folder, 0).unlink()
  np.save(file_of(folder, 0).with_suffix('.npy'), mask)
  exchange.import_annotations(folder, 'ilastik', tmp_path / 'r')
  regions = load_regions(tmp_path / 'r')
  np.testing.assert_array_equal(regions.masks_ryx, [truth_of(film, places[0])])


def test_single_slices_and_a_folder_that_moved(film, volume, tmp_path):
  sizes = Sizes(32, 64, 1)
  places = proposals.propose(volume, 2, 'random', sizes=sizes)
  exchange.export_regions({'film': volume}, places, tmp_path / 'e', sizes=sizes)
  shutil.move(tmp_path / 'e', tmp_path / 'moved')
  file = file_of(tmp_path / 'moved', 1, 'expert1')
  mask = tifffile.imread(file)
  mask[16:48, 16:48] = truth_of(film, places[1]) + 1
  tifffile.imwrite(file, mask)
  exchange.import_annotations(tmp_path / 'moved', 'napari', tmp_path / 'r')
  regions = load_regions(tmp_path / 'r')
  np.testing.assert_array_equal(regions.masks_ryx, [truth_of(film, places[1])])


# --- What is refused -----------------------------------------------------------------

def moved_by(a, shift):
  """Content moved within the image, zeros where nothing is known."""
  out = np.zeros_like(a)
  into = tuple(slice(max(d, 0), n + min(d, 0)) for d, n in zip(shift, a.shape,
                                                               strict=True))
  from_ = tuple(slice(max(-d, 0), n + min(-d, 0)) for d, n in zip(shift, a.shape,
                                                                  strict=True))
  out[into] = a[from_]
  return out


CHANGES = {
    'shifted by 0, 3, 0': lambda a: moved_by(a, (0, 3, 0)),
    'shifted by 0, -1, 5': lambda a: np.roll(a, (-1, 5), (1, 2)),
    'shifted by 1, 0, 0': lambda a: moved_by(a, (1, 0, 0)),
    'shifted by 0, 0, 1': lambda a: moved_by(a, (0, 0, 1)),
    'rescaled 2 times': lambda a: a.repeat(2, 1).repeat(2, 2),
    'rescaled 0.25 times': lambda a: a[:, ::4, ::4],
    'cropped to the core': lambda a: a[:, 16:48, 16:48],
    'cropped or padded': lambda a: a[:, 1:, :],
    'a single slice': lambda a: a[2],
    'axes exchanged': lambda a: a.transpose(1, 2, 0),
    'transposed': lambda a: a.transpose(0, 2, 1),
    'mirrored along y': lambda a: a[:, ::-1],
    'mirrored along x': lambda a: a[:, :, ::-1],
    'reversed along z': lambda a: a[::-1],
    'turned by 90': lambda a: np.rot90(a, axes=(1, 2)),
    'perhaps rescaled': lambda a: a.repeat(2, 1).repeat(2, 2)[:, 32:96, 32:96],
    'outside of the core only': lambda a: np.where(
        np.arange(5)[:, None, None] == 2, frame.blank_label(SMALL),
        np.where(np.arange(64) == 30, 1, a))}


@pytest.mark.parametrize('said', CHANGES)
@pytest.mark.parametrize('profile', ['napari', 'fiji'])
def test_a_mask_that_was_moved_is_refused_and_told(film, exported, tmp_path, said,
                                                   profile):
  folder, places = exported
  mask = paint(file_of(folder, 2), truth_of(film, places[2]), profile)
  tifffile.imwrite(file_of(folder, 2), np.ascontiguousarray(CHANGES[said](mask)),
                   photometric='minisblack')
  if said == 'perhaps rescaled':
    said = 'a (frame|mask)'
  with pytest.raises(InputError, match=said) as error:
    exchange.import_annotations(folder, profile, tmp_path / 'r')
  assert 'labels/anna/region_002.tif' in str(error.value)
  assert 'paint' in str(error.value).rpartition(';')[2]
  assert not (tmp_path / 'r').exists()


@pytest.mark.parametrize('shift', list(itertools.product((-2, 0, 2), repeat=2)))
def test_every_small_shift_is_seen_with_and_without_the_frame(film, exported, tmp_path,
                                                              shift):
  folder, places = exported
  framed = paint(file_of(folder, 0), truth_of(film, places[0]))
  bare = np.where(framed > 100, 0, framed)
  for mask in (framed, bare):
    tifffile.imwrite(file_of(folder, 0), moved_by(mask, (0, *shift)))
    if shift == (0, 0):
      exchange.import_annotations(folder, 'napari', tmp_path / f'r{mask.max()}')
    else:
      with pytest.raises(InputError, match=f'shifted by 0, {shift[0]}, {shift[1]} '):
        exchange.import_annotations(folder, 'napari', tmp_path / 'r')


def test_without_a_frame_unlabelled_must_be_known_and_the_core_reached(
    film, exported, tmp_path):
  folder, places = exported
  mask = paint(file_of(folder, 0), truth_of(film, places[0]), 'fiji')
  tifffile.imwrite(file_of(folder, 0), np.where(mask == 255, mask, 0))
  with pytest.raises(InputError, match='no frame.*profile fiji has no unlabelled'):
    exchange.import_annotations(folder, 'fiji', tmp_path / 'r')
  scribble = np.zeros(SMALL.context_zyx, np.uint8)
  scribble[2, 20:30, 20:30] = 1
  tifffile.imwrite(file_of(folder, 0), scribble)
  with pytest.raises(InputError, match=r'labels in \[2, 20, 20\] to \[3, 30, 30\]'):
    exchange.import_annotations(folder, 'ilastik', tmp_path / 'r')


def damage(folder, key, value):
  manifest = json.loads((folder / 'manifest.json').read_text())
  (folder / 'manifest.json').write_text(json.dumps({**manifest, key: value}))


@pytest.mark.parametrize('break_it, said', [
    (lambda f: tifffile.imwrite(file_of(f, 0), np.where(
        tifffile.imread(file_of(f, 0)) == 0, 7, tifffile.imread(file_of(f, 0)))),
     'region_000.tif: got codes 7'),
    (lambda f: shutil.copy(file_of(f, 0), f / 'labels/anna/copy.tif'), 'copy.tif'),
    (lambda f: np.save(f / 'labels/anna/region_000.npy', np.zeros(3)), 'region_000'),
    (lambda f: shutil.copy(file_of(f, 0), f / 'labels/x.tif'), 'one folder per expert'),
    (lambda f: file_of(f, 0).write_bytes(b'II*\0rubbish'), 'region_000.tif'),
    (lambda f: (f / 'manifest.json').unlink(), 'no such file'),
    (lambda f: (f / 'manifest.json').write_text('{"format": "else"}'), 'another file'),
    (functools.partial(damage, key='regions', value=None), 'another file'),
    (functools.partial(damage, key='regions', value=[{}]), 'another file'),
    (functools.partial(damage, key='region_px', value='x'), 'another file'),
    (lambda f: shutil.rmtree(f / 'labels'), 'no label image'),
    (lambda f: None, 'no label image that was painted')])
def test_what_else_is_refused(exported, tmp_path, break_it, said):
  folder, _ = exported
  break_it(folder)
  with pytest.raises(InputError, match=said):
    exchange.import_annotations(folder, 'napari', tmp_path / 'r')
  with pytest.raises(InputError, match='label codes'):
    exchange.import_annotations(folder, 'unknown', tmp_path / 'r')
  assert not (tmp_path / 'r').exists()


def test_an_image_that_was_saved_over_is_reported(film, exported, tmp_path):
  folder, places = exported
  paint_all(film, folder, places)
  tifffile.imwrite(folder / 'images' / 'region_001.tif', np.zeros((3, 3)))
  (folder / 'images' / 'region_002.tif').unlink()
  found = exchange.import_annotations(folder, 'napari', tmp_path / 'r')
  assert found['changed_images'] == ['region_001.tif']


@pytest.mark.parametrize('change, said', [
    ({'z': 12}, 'place 0: got z, y, x'), ({'y': -1}, 'place 0'),
    ({'x': 145}, 'place 0'),
    ({'volume': 'other'}, "place 0: volume: got 'other'")])
def test_places_outside_are_refused(volume, tmp_path, change, said):
  place = {'volume': 'film', 'z': 5, 'y': 50, 'x': 50} | change
  with pytest.raises(InputError, match=said):
    exchange.export_regions({'film': volume}, [place], tmp_path / 'e', sizes=SMALL)
  assert not (tmp_path / 'e').exists()


@pytest.mark.parametrize('options, said', [
    ({'sizes': Sizes(32, 40, 5)}, 'for the frame'), ({'experts': ('../x',)}, 'experts'),
    ({'experts': ('a', 'a')}, 'experts'), ({'experts': ()}, 'experts')])
def test_bad_options_of_export(volume, tmp_path, options, said):
  place = {'volume': 'film', 'z': 5, 'y': 50, 'x': 50}
  with pytest.raises(InputError, match=said):
    exchange.export_regions({'film': volume}, [place], tmp_path / 'e',
                            **{'sizes': SMALL} | options)


# --- Several experts -----------------------------------------------------------------

def brute_miou(one, other):
  both = (one != 255) & (other != 255)
  a, b = one[both], other[both]
  return np.mean([np.sum((a == c) & (b == c)) / np.sum((a == c) | (b == c))
                  for c in (0, 1)])


@pytest.mark.parametrize('count', [2, 3])
def test_agreement_equals_the_brute_force_value(film, exported, tmp_path, count):
  folder, places = exported
  names = ['anna', 'ben', 'carl'][:count]
  if count == 3:
    shutil.copytree(folder / 'labels' / 'ben', folder / 'labels' / 'carl')
  drawn = {name: {} for name in names}
  for j, name in enumerate(names):
    for k, place in enumerate(places):
      if (name, k) == ('ben', 3):
        continue  # left out
      labels = annotate(truth_of(film, place), (j, k), Annotator(bias_px=j - 1.0))
      labels[:j + k] = 255
      drawn[name][k] = labels
      paint(file_of(folder, k, name), labels)
  found = exchange.import_annotations(folder, 'napari', tmp_path / 'r')
  pairs = {}
  for one, other in itertools.combinations(names, 2):
    common = sorted(set(drawn[one]) & set(drawn[other]))
    pairs[one, other] = brute_miou(*(np.concatenate(
        [drawn[n][k].ravel() for k in common]) for n in (one, other)))
  agreement = found['agreement']
  assert agreement['places'] == (3 if count == 2 else 4)
  assert agreement['miou'] == pytest.approx(np.mean(list(pairs.values())))
  assert {tuple(p['experts']): p['miou'] for p in agreement['pairs']} == pytest.approx(
      pairs)
  assert (agreement['staple'] is None) == (count == 2)
  if count == 3:
    none = np.full((32, 32), 255, np.uint8)
    votes = np.stack([np.concatenate([drawn[name].get(k, none) for k in range(4)])
                      for name in names])
    expected = experts.staple(votes)
    for key, values in (('sensitivity', expected.sensitivity_j),
                        ('specificity', expected.specificity_j)):
      assert [agreement['staple'][name][key] for name in names] == pytest.approx(values)
  regions = load_regions(tmp_path / 'r')
  rows = json.loads((tmp_path / 'r' / 'annotation.json').read_text())['row_files']
  assert len(rows) == len(regions.volume) == found['rows'] == 4 * count - 1
  assert [row['expert'] for row in rows[:2 * count]] == names * 2  # place by place
  again = exchange.agreement(regions, [row['expert'] for row in rows])
  assert again == agreement


def test_agreement_needs_one_name_per_row_and_one_mask_per_expert():
  mask = np.zeros((4, 4), np.uint8)
  regions = make_regions(['v'] * 2, [(0, 0, 0)] * 2, [mask] * 2)
  with pytest.raises(InputError, match='two masks of anna'):
    exchange.agreement(regions, ['anna', 'anna'])
  with pytest.raises(InputError, match='1 names'):
    exchange.agreement(regions, ['anna'])


# --- Where ---------------------------------------------------------------------------

def inside(places, sizes=SMALL, shape=SHAPE):
  starts = np.array([[p[a] for a in 'zyx'] for p in places]) - sizes.core_zyx
  return (starts >= 0).all() and (starts + sizes.context_zyx <= shape).all()


@pytest.fixture(scope='module')
def scores(tmp_path_factory):
  random = np.random.default_rng(0).uniform(0.9, 1, SHAPE).astype(np.float32)
  random[7, 60:100, 80:120] = 0.5
  random[3, 30:70, 100:140] = 0.55
  folder = tmp_path_factory.mktemp('s')
  channels = np.stack([random, binary_entropy(random).astype(np.float32), random * 0])
  return (write_volume(folder / 'one.ome.zarr', random),
          write_volume(folder / 'several.ome.zarr', channels,
                       channels=('solid', 'entropy', 'mutual_information')))


@pytest.mark.parametrize('how', proposals.HOW)
@pytest.mark.parametrize('count', [1, 5, 12])
def test_proposals_lie_inside_and_are_reproducible(volume, scores, how, count):
  def again(seed):
    return proposals.propose(volume, count, how, seed=seed, sizes=SMALL,
                             scores=scores[0])
  places = again(1)
  assert len(places) == count and inside(places) and again(1) == places
  assert {p['volume'] for p in places} == {'film'}
  assert (again(2) == places) == (how == 'uncertain')


def test_random_proposals_reach_all_that_is_allowed(volume):
  places = proposals.propose(volume, 3000, 'random', sizes=Sizes(150, 156, 9))
  found = np.array([[p[a] for a in 'zyx'] for p in places])
  np.testing.assert_array_equal(found.min(0), (4, 3, 3))
  np.testing.assert_array_equal(found.max(0), (7, 7, 23))


def test_the_paper_s_sizes():
  sizes = Sizes()
  assert sizes.context_zyx == (7, 384, 384) and sizes.core_zyx == (3, 64, 64)


@pytest.mark.parametrize('count', [4, 9, 11])
def test_all_depths_are_covered(volume, count):
  places = proposals.propose(volume, count, 'stratified', seed=4, sizes=SMALL)
  assert len(places) == count and inside(places)
  bands = round(count ** 0.5)
  edges = np.rint(np.linspace(2, 10, bands + 1))  # z of 2 to 9 is allowed
  depth = np.searchsorted(edges, [p['z'] for p in places], 'right') - 1
  levels = -(-count // bands)
  for b in range(bands):
    assert np.count_nonzero(depth == b) in (levels, levels - 1)


def test_every_depth_has_all_levels_of_brightness(tmp_path):
  # Brightness rises along x alone, so that its levels are ranges of x.
  ramp = np.broadcast_to(np.arange(176, dtype=np.uint16) * 300, SHAPE).copy()
  volume = write_volume(tmp_path / 'v.ome.zarr', ramp)

  def scatter(how):
    """sd over slices of their mean x, which is that of their brightness."""
    places = proposals.propose(volume, 64, how, seed=4, sizes=SMALL)
    return np.std([np.mean([p['x'] for p in places if p['z'] == z])
                   for z in range(2, 10)])
  assert scatter('stratified') < 0.5 * scatter('random')


def test_the_most_uncertain_places_come_first_and_apart(volume, scores):
  for volume_of_scores in scores:
    places = proposals.propose(volume, 6, 'uncertain', sizes=SMALL,
                               scores=volume_of_scores)
    boxes = [np.array([p[a] for a in 'zyx']) for p in places]
    np.testing.assert_array_less(abs(boxes[0] - (7, 64, 84)), (1, 8, 8))
    np.testing.assert_array_less(abs(boxes[1] - (3, 34, 104)), (1, 8, 8))
    for a, b in itertools.combinations(boxes, 2):
      assert (abs(a - b) >= (5, 32, 32)).any()
  entropy = binary_entropy(read_box(scores[0], (0, 0, 0), SHAPE))
  best = max(entropy[z, y:y + 32, x:x + 32].mean() for z in range(2, 10)
             for y in range(16, 113, 8) for x in range(16, 129, 8))
  z, y, x = boxes[0]
  assert entropy[z, y:y + 32, x:x + 32].mean() == pytest.approx(best)


@pytest.mark.parametrize('options, said', [
    ({'count': 0}, 'count'), ({'seed': -1}, 'seed: got -1'),
    ({'how': 'best'}, "'best'"),
    ({'sizes': Sizes()}, 'context'), ({'sizes': Sizes(64, 32, 5)}, 'context'),
    ({'how': 'uncertain', 'scores': None}, 'scores'),
    ({'how': 'uncertain', 'count': 200}, 'at most')])
def test_bad_requests_for_proposals(volume, scores, options, said):
  arguments = {'count': 3, 'how': 'random', 'sizes': SMALL,
               'scores': scores[0]} | options
  count, how = arguments.pop('count'), arguments.pop('how')
  with pytest.raises(InputError, match=said):
    proposals.propose(volume, count, how, **arguments)


def test_scores_of_another_volume_are_refused(volume, tmp_path):
  other = write_volume(tmp_path / 's.ome.zarr', np.zeros((3, 99, 99), np.float32))
  with pytest.raises(InputError, match=r'\(3, 99, 99\)'):
    proposals.propose(volume, 1, 'uncertain', sizes=SMALL, scores=other)


def test_grey_values_are_no_scores(volume, tmp_path):
  nan = write_volume(tmp_path / 'n.ome.zarr', np.full(SHAPE, np.nan, np.float32))
  for other in (volume, nan):
    with pytest.raises(InputError, match='expected scores from 0 to 1'):
      proposals.propose(volume, 1, 'uncertain', sizes=SMALL, scores=other)


def test_places_are_a_table(volume, tmp_path):
  places = proposals.propose(volume, 3, 'random', sizes=SMALL)
  sizes = Sizes(64, 128, 3)
  proposals.save_places(tmp_path / 'p.csv', places, sizes)
  assert proposals.load_places(tmp_path / 'p.csv') == (places, sizes)
  with pytest.raises(InputError, match='already'):
    proposals.save_places(tmp_path / 'p.csv', places, sizes)
  (tmp_path / 'own.csv').write_text('volume,z,y,x\nfilm,1,2,3\n')
  assert proposals.load_places(tmp_path / 'own.csv') == (
      [{'volume': 'film', 'z': 1, 'y': 2, 'x': 3}], Sizes())
  for text in ('', 'volume,z,y,x\n', 'volume,z,y\na,1,2\n', 'volume,z,y,x\na,1,2,b\n',
               'volume,z,y,x\na,1\n', 'volume,z,y,x,region_px\na,1,2,3,q\n',
               'volume,z,y,x,region_px\na,1,2,3,64\na,1,2,3,65\n'):
    (tmp_path / 'q.csv').write_text(text)
    with pytest.raises(InputError, match='q.csv'):
      proposals.load_places(tmp_path / 'q.csv')
