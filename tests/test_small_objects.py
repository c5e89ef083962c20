"""Small objects: in memory against scipy, streamed against in memory, bit for bit."""
import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from fibjax.errors import InputError
from fibjax.inference import small_objects
from fibjax.system import cluster
from fibjax.system.cluster import HERE
from fibjax.volumes import blockwise, ome_zarr
from fibjax.volumes.volume import new_volume, open_volume, read_box, write_box

CONNECTIVITIES = ((3, 26), (3, 18), (3, 6), (2, 8), (2, 4))


def remove_small_oracle(labels, min_size, structure, order):
  labels = labels.copy()
  for value in order:
    components, n = ndimage.label(labels == value, structure)
    sizes = np.bincount(components.ravel(), minlength=n + 1)
    small = sizes < min_size
    small[0] = False
    labels[small[components]] = 1 - value
  return labels


@pytest.mark.parametrize(('connectivity', 'rank'), [(26, 3), (18, 2), (6, 1)])
@pytest.mark.parametrize('order', [('pore', 'solid'), ('solid', 'pore'), ('pore',)])
def test_remove_small_against_scipy(connectivity, rank, order):
  noise = np.random.default_rng(6).normal(size=(20, 34, 30))
  labels = (ndimage.gaussian_filter(noise, 0.8) > 0.08).astype(np.uint8)
  got = small_objects.remove_small(labels, 25, connectivity=connectivity, order=order)
  structure = ndimage.generate_binary_structure(3, rank)
  codes = [{'pore': 0, 'solid': 1}[name] for name in order]
  oracle = remove_small_oracle(labels, 25, structure, codes)
  np.testing.assert_array_equal(got, oracle)
  assert (got != labels).any()
  assert got.dtype == np.uint8


@pytest.mark.parametrize(('connectivity', 'rank'), [(8, 2), (4, 1)])
def test_remove_small_in_each_slice_against_scipy(connectivity, rank):
  noise = np.random.default_rng(7).normal(size=(4, 40, 50))
  labels = (ndimage.gaussian_filter(noise, (0, 1, 1)) > 0.05).astype(np.uint8)
  got = small_objects.remove_small(labels, 30, ndim=2, connectivity=connectivity)
  structure = ndimage.generate_binary_structure(2, rank)
  for plane, cleaned in zip(labels, got, strict=True):
    oracle = remove_small_oracle(plane, 30, structure, (0, 1))
    np.testing.assert_array_equal(cleaned, oracle)


@pytest.mark.parametrize(('ndim', 'connectivity', 'rank'), [
    (3, 26, 3), (3, 18, 2), (3, 6, 1), (2, 8, 2), (2, 4, 1)])
def test_odd_and_thin_volumes_against_scipy(ndim, connectivity, rank):
  """Sides that are odd, or 1, are where labelling by blocks of voxels goes wrong."""
  structure = ndimage.generate_binary_structure(3, rank)
  if ndim == 2:
    structure[[0, 2]] = False
  for seed in range(400):
    rng = np.random.default_rng(seed)
    shape = rng.integers(1, 16 if ndim == 2 else 6, 3)
    if seed % 4 == 0:
      shape[rng.permutation(3)[:2]] = 1
    labels = (rng.random(shape) < rng.random()).astype(np.uint8)
    got = small_objects.remove_small(labels, 4, ndim=ndim, connectivity=connectivity)
    expected = remove_small_oracle(labels, 4, structure, (0, 1))
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize('phase', [0, 1])
def test_an_object_of_exactly_the_minimum_stays(phase):
  labels = np.full((12, 12, 12), 1 - phase, np.uint8)
  labels[1:5, 1:6, 1:6] = phase  # 100 voxels
  labels[7:11, 1:6, 1:6] = phase
  labels[7, 1, 1] = 1 - phase  # 99
  got = small_objects.remove_small(labels)
  assert np.sum(got == phase) == 100 and got[1, 1, 1] == phase


def test_objects_joined_across_slices_are_one():
  labels = np.zeros((100, 5, 5), np.uint8)
  labels[:, 2, 2] = 1
  np.testing.assert_array_equal(small_objects.remove_small(labels, 100), labels)
  assert small_objects.remove_small(labels, 101).sum() == 0
  assert small_objects.remove_small(labels, 2, ndim=2).sum() == 0


def test_remove_small_of_one_phase_and_bad_input():
  for value in (0, 1):
    labels = np.full((3, 4, 5), value, np.uint8)
    np.testing.assert_array_equal(small_objects.remove_small(labels, 60), labels)
  zeros = np.zeros((2, 2, 2), np.uint8)
  for kwargs in ({'ndim': 4}, {'connectivity': 8}, {'ndim': 2, 'connectivity': 26},
                 {'order': ('void',)}):
    with pytest.raises(InputError):
      small_objects.remove_small(zeros, **kwargs)
  with pytest.raises(InputError, match='code 255'):
    small_objects.remove_small(np.full((2, 2, 2), 255, np.uint8))
  with pytest.raises(InputError, match='code -1'):
    small_objects.remove_small(np.full((2, 2, 2), -1))
  with pytest.raises(InputError, match='shape'):
    small_objects.remove_small(zeros[0])
  for scores in (np.full((2, 2, 2), 0.7), np.full((2, 2, 2), np.nan, np.float32)):
    with pytest.raises(InputError, match='dtype float'):
      small_objects.remove_small(scores)
  with pytest.raises(InputError, match='order'):
    small_objects.remove_small(zeros, order='pore')


@pytest.fixture
def tiny_shards(monkeypatch):
  monkeypatch.setattr(ome_zarr, 'SHARD_ZYX', (2, 3, 4))
  monkeypatch.setattr(ome_zarr, 'CHUNK_ZYX', (1, 1, 2))


def save(path, labels_zyx, **options):
  with new_volume(path, labels_zyx.shape, np.uint8, None, **options) as volume:
    write_box(volume, (0, 0, 0), labels_zyx)
  return open_volume(path)


def stream(folder, labels_zyx, size, ndim, connectivity, order=('pore', 'solid')):
  """Cleans a volume phase by phase on disk and returns it as an array."""
  volume = save(folder / 'labels', labels_zyx)
  for phase in order:
    volume = small_objects.remove_small_streamed(
        volume, folder / phase, size, ndim=ndim, connectivity=connectivity,
        phase=phase, fingerprint={'size': size}, resources=HERE)
  assert volume.dtype == np.uint8
  return read_box(volume, (0, 0, 0), volume.shape)


def check(folder, labels_zyx, size, ndim, connectivity, order=('pore', 'solid')):
  got = stream(folder, labels_zyx, size, ndim, connectivity, order)
  whole = small_objects.remove_small(labels_zyx, size, ndim=ndim,
                                     connectivity=connectivity, order=order)
  np.testing.assert_array_equal(got, whole)
  return whole


@pytest.mark.long
@pytest.mark.usefixtures('tiny_shards')
@settings(deadline=None, max_examples=60, derandomize=True)
@given(st.data())
def test_streamed_equals_whole_on_random_volumes(tmp_path_factory, data):
  shape = data.draw(st.tuples(*(st.integers(1, n) for n in (7, 10, 13))))
  ndim, connectivity = data.draw(st.sampled_from(CONNECTIVITIES))
  noise = np.random.default_rng(data.draw(st.integers(0, 999))).random(shape)
  smoothing = data.draw(st.sampled_from([0, 0.6, 1.0]))
  noise = ndimage.gaussian_filter(noise, smoothing)
  solid = noise > np.quantile(noise, data.draw(st.floats(0.02, 0.98)))
  check(tmp_path_factory.mktemp('v'), solid.astype(np.uint8),
        data.draw(st.integers(1, 60)), ndim, connectivity)


@pytest.mark.usefixtures('tiny_shards')
@pytest.mark.parametrize(('ndim', 'connectivity'), CONNECTIVITIES)
def test_streamed_equals_whole_near_the_percolation_threshold(tmp_path, ndim,
                                                              connectivity):
  """Objects of all sizes, many of them through several shards."""
  density = {26: 0.1, 18: 0.14, 6: 0.31, 8: 0.41, 4: 0.59}[connectivity]
  for seed, size in enumerate((2, 7, 25)):
    solid = np.random.default_rng(seed).random((5, 11, 17)) < density
    changed = check(tmp_path / str(size), solid.astype(np.uint8), size, ndim,
                    connectivity)
    assert (changed != solid).any()


def snake(shape):
  """Voxels of a line through every other row of every other slice, to and fro."""
  rows = [[(y, x) for x in range(shape[2])][::1 if y % 4 == 0 else -1]
          for y in range(0, shape[1], 2)]
  plane = sum(([*row, (row[-1][0] + 1, row[-1][1])] for row in rows), [])[:-1]
  line = []
  for z in range(0, shape[0], 2):
    line += [(z, y, x) for y, x in plane] + [(z + 1, *plane[-1])]
    plane = plane[::-1]
  return line[:-1]


@pytest.mark.usefixtures('tiny_shards')
@pytest.mark.parametrize(('ndim', 'connectivity'), [(3, 6), (3, 26), (2, 4)])
@pytest.mark.parametrize('phase', [0, 1])
def test_a_snake_through_all_shards_is_one_object(tmp_path, ndim, connectivity, phase):
  line = snake((5 if ndim == 3 else 1, 11, 13))
  labels = np.full((5, 11, 13), 1 - phase, np.uint8)
  labels[tuple(np.transpose(line))] = phase
  order = (('pore', 'solid')[phase],)
  kept = check(tmp_path / 'kept', labels, len(line), ndim, connectivity, order)
  np.testing.assert_array_equal(kept, labels)
  gone = check(tmp_path / 'gone', labels, len(line) + 1, ndim, connectivity, order)
  assert (gone == 1 - phase).all()


@pytest.mark.usefixtures('tiny_shards')
@pytest.mark.parametrize('connectivity', [26, 18, 6])
@pytest.mark.parametrize('step', [(a, b, c) for a in (0, 1) for b in (-1, 0, 1)
                                  for c in (-1, 0, 1) if (a, b, c) > (0, 0, 0)])
def test_two_voxels_that_touch_across_a_corner_of_shards(tmp_path, connectivity, step):
  """The first is at the corner of its shard that the step leaves it by."""
  corner = np.subtract((4, 6, 8), [s > 0 for s in step])
  labels = np.zeros((6, 12, 16), np.uint8)
  labels[tuple(corner)] = labels[tuple(np.add(corner, step))] = 1
  touch = sum(map(abs, step)) <= {26: 3, 18: 2, 6: 1}[connectivity]
  got = check(tmp_path, labels, 2, 3, connectivity, ('solid',))
  assert got.sum() == 2 * touch


@pytest.mark.usefixtures('tiny_shards')
@pytest.mark.parametrize('size', [0, 1])
def test_nothing_is_smaller_than_one_voxel(tmp_path, size):
  labels = (np.random.default_rng(0).random((3, 7, 9)) < 0.5).astype(np.uint8)
  np.testing.assert_array_equal(stream(tmp_path, labels, size, 3, 26), labels)


@pytest.mark.usefixtures('tiny_shards')
def test_the_order_of_the_shards_does_not_matter(tmp_path, monkeypatch):
  def shuffled(function, shared, units, _):
    for i in np.random.default_rng(1).permutation(len(units)):
      yield units[i], function(shared, units[i])
  monkeypatch.setattr(cluster, 'run_units', shuffled)
  labels = (np.random.default_rng(2).random((5, 16, 19)) < 0.1).astype(np.uint8)
  check(tmp_path, labels, 8, 3, 26)


@pytest.mark.usefixtures('tiny_shards')
def test_a_finished_volume_is_not_searched_again(tmp_path, monkeypatch):
  labels = (np.random.default_rng(2).random((3, 7, 9)) < 0.1).astype(np.uint8)
  stream(tmp_path, labels, 8, 3, 26)
  monkeypatch.setattr(cluster, 'run_units', None)
  again = functools.partial(
      small_objects.remove_small_streamed, open_volume(tmp_path / 'labels'),
      tmp_path / 'pore', ndim=3, connectivity=26, phase='pore', resources=HERE)
  again(min_size_vox=8, fingerprint={'size': 8})
  with pytest.raises(InputError, match="pore: got parts made with {'size': 8}"):
    again(min_size_vox=9, fingerprint={'size': 9})


@pytest.mark.usefixtures('tiny_shards')
def test_bad_input_of_the_streamed_form_is_refused(tmp_path):
  zeros = save(tmp_path / 'zeros', np.zeros((2, 2, 2), np.uint8))
  codes = save(tmp_path / 'codes', np.full((2, 2, 2), 255, np.uint8))
  other = save(tmp_path / 'other', np.zeros((4, 4, 4), np.uint8), shard_zyx=(4, 4, 4))
  good = {'ndim': 3, 'connectivity': 26, 'phase': 'pore'}
  for volume, wrong, match in (
      (zeros, {'ndim': 4}, 'ndim'), (zeros, {'connectivity': 8}, 'connectivity'),
      (zeros, {'phase': 'void'}, 'void'), (codes, {}, 'codes: got code 255'),
      (other, {}, r'other: got shards \(4, 4, 4\)')):
    with pytest.raises(InputError, match=match):
      small_objects.remove_small_streamed(volume, tmp_path / 'out', 5, fingerprint={},
                                          resources=HERE, **{**good, **wrong})
  assert not (tmp_path / 'out').exists()


@pytest.mark.usefixtures('tiny_shards')
def test_a_shard_summarises_its_open_pieces_only(tmp_path):
  """Inner and large pieces have no entry."""
  labels = np.zeros((4, 6, 8), np.uint8)
  labels[0, 0, 0] = 1  # inside the first shard
  labels[0, 2, 3] = 1  # in it too, without a shared voxel
  labels[1, :, 5:] = 1  # large
  labels[0, 3, 0] = 1  # first in the shard after
  volume = save(tmp_path / 'labels', labels)
  search = small_objects._Search(volume.path, 1, 5, 3, 26)
  summaries = {box[0]: small_objects._summarise(search, box)
               for box in blockwise.shard_boxes(volume)}
  assert {start: s.sizes_vox.tolist() for start, s in summaries.items()
          if len(s.pieces)} == {(0, 0, 0): [0], (0, 3, 0): [1]}
