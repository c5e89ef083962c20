"""Random forest: scikit-learn as oracle, XOR, file, blocks, a simulated film."""
import json

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier

from fibjax.annotation.regions import make_regions, select_regions
from fibjax.errors import InputError
from fibjax.methods import scale_space
from fibjax.methods.forest import (
  fit_forest,
  load_forest,
  predict,
  save_forest,
  score_block,
)
from fibjax.metrics import confusion
from fibjax.simulation import films
from fibjax.system import checksums
from fibjax.training import sampling
from fibjax.volumes.volume import (
  new_volume,
  open_volume,
  read_box,
  read_mirrored,
  write_box,
)

SLICES_AND_MARGIN = np.array((3, 256, 256))


def xor_samples(n, seed, f=6):
  """Features on a coarse grid (ties) of which two decide together."""
  features_nf = np.random.default_rng(seed).random((n, f)).astype(np.float32)
  features_nf = np.round(features_nf, 2)
  solid_n = ((features_nf[:, 0] > 0.5) ^ (features_nf[:, 3] > 0.5)).astype(np.uint8)
  return features_nf, solid_n


def fit(train, val, feature_set=None, trees=10, min_leaves=(1,), seed=0):
  return fit_forest(*train, *val, feature_set=feature_set, trees=trees,
                    min_leaves=min_leaves, seed=seed)


@pytest.fixture(scope='module')
def noisy():
  """Samples of which a fifth has the wrong label, so that trees grow deep."""
  features_nf, solid_n = xor_samples(1500, 1)
  wrong_n = np.random.default_rng(2).random(len(solid_n)) < 0.2
  return features_nf, solid_n ^ wrong_n


@pytest.fixture(scope='module')
def forest(noisy):
  return fit(noisy, noisy, trees=7)[0]


def test_xor_is_learnt():
  _, (row,) = fit(xor_samples(2000, 1), xor_samples(1000, 2))
  assert row['val_accuracy'] > 0.95 and row['val_miou'] > 0.9


def test_permuted_labels_teach_nothing():
  train, val = xor_samples(2000, 1), xor_samples(2000, 2)
  shuffled = np.random.default_rng(3).permutation(train[1])
  _, (row,) = fit((train[0], shuffled), val)
  assert abs(row['val_accuracy'] - 0.5) < 0.05 and row['train_accuracy'] > 0.9


@pytest.mark.parametrize('min_leaf', [1, 20, 1400])
def test_probabilities_are_scikit_learns(noisy, min_leaf):
  found, _ = fit(noisy, noisy, trees=9, min_leaves=(min_leaf,), seed=4)
  oracle = RandomForestClassifier(9, min_samples_leaf=min_leaf, max_features='sqrt',
                                  random_state=4).fit(*noisy)
  assert (len(found.left_k) == 9) == (min_leaf == 1400)  # nothing but roots
  asked_nf = np.random.default_rng(5).normal(0.5, 1, (20011, 6)).astype(np.float32)
  # Features right at thresholds, and the next numbers to each side.
  inner = np.isfinite(found.threshold_k)
  edge_k = found.threshold_k[inner][:6000]
  sides = edge_k, np.nextafter(edge_k, np.float32(9)), np.nextafter(edge_k, edge_k - 1)
  for part, values in enumerate(sides):
    rows = np.arange(len(edge_k)) + 6000 * part
    asked_nf[rows, found.feature_k[inner][:6000]] = values
  got = predict(found, asked_nf)
  assert got.dtype == np.float32 and got.shape == (len(asked_nf),)
  np.testing.assert_allclose(got, oracle.predict_proba(asked_nf)[:, 1], rtol=0,
                             atol=1e-6)
  for n in (0, 1, 3):
    np.testing.assert_array_equal(predict(found, asked_nf[:n]), got[:n])


def test_forest_follows_the_seed(noisy):
  first, again, other = (fit(noisy, noisy, trees=3, seed=seed)[0] for seed in (5, 5, 6))
  for one, two in zip(first[:5], again[:5], strict=True):
    np.testing.assert_array_equal(one, two)
  assert not np.array_equal(first.threshold_k, other.threshold_k)


def test_leaf_of_best_validation_miou_is_kept(noisy):
  val = xor_samples(1000, 9)
  chosen, rows = fit(noisy, val, min_leaves=(5, 1, 1490, 1400))
  assert [row['min_leaf'] for row in rows] == [1, 5, 1400, 1490]
  assert chosen.settings['min_leaf'] == 5
  assert rows[1]['val_miou'] > max(rows[0]['val_miou'], rows[2]['val_miou'])
  assert rows[2]['val_miou'] == rows[3]['val_miou']
  assert fit(noisy, val, min_leaves=(1400, 1490))[0].settings['min_leaf'] == 1490
  miou = confusion.summarise(confusion.confusion(
      val[1], predict(chosen, val[0]) > 0.5))['miou']
  assert rows[1]['val_miou'] == miou
  json.dumps(rows)


def test_a_loaded_forest_gives_the_same_bits(forest, noisy, tmp_path):
  path = tmp_path / 'new' / 'forest.npz'
  save_forest(path, forest)
  loaded = load_forest(path)
  assert loaded.settings == forest.settings
  np.testing.assert_array_equal(predict(loaded, noisy[0]),
                                predict(forest, noisy[0]))
  with np.load(path, allow_pickle=False) as file:
    assert all(file[name].dtype != object for name in file.files)
  assert {p.name for p in path.parent.iterdir()} == {'forest.npz', checksums.LIST}


def put(array_k, index, value):
  changed_k = array_k.copy()
  changed_k[index] = value
  return changed_k


@pytest.mark.parametrize('damage', [
    lambda f: f._replace(left_k=put(f.left_k, 1, 0)),
    lambda f: f._replace(left_k=put(f.left_k, 0, f.root_t[1])),
    lambda f: f._replace(left_k=put(f.left_k, 0, f.root_t[1] - 1)),
    lambda f: f._replace(left_k=put(f.left_k, -1, 2**30)),
    lambda f: f._replace(feature_k=put(f.feature_k, 0, 6)),
    lambda f: f._replace(feature_k=put(f.feature_k, 0, -1)),
    lambda f: f._replace(threshold_k=put(f.threshold_k, 0, np.nan)),
    lambda f: f._replace(threshold_k=put(f.threshold_k, -1, 0.5)),
    lambda f: f._replace(value_k=put(f.value_k, -1, 1.5)),
    lambda f: f._replace(value_k=f.value_k[1:]),
    lambda f: f._replace(value_k=f.value_k.astype(np.float64)),
    lambda f: f._replace(root_t=f.root_t[::-1].copy()),
    lambda f: f._replace(root_t=f.root_t[:-1].copy()),
    lambda f: f._replace(settings=[1]),
    lambda f: f._replace(settings={**f.settings, 'feature_set': 'F1'}),
    lambda f: f._replace(settings={**f.settings, 'n_features': None})])
def test_a_file_that_holds_no_forest_is_named(forest, tmp_path, damage):
  save_forest(tmp_path / 'f.npz', damage(forest))
  with pytest.raises(InputError, match=r'f\.npz: got .*, expected a forest of fibjax'):
    load_forest(tmp_path / 'f.npz')


def test_a_damaged_file_is_named_or_gives_the_same_forest(tmp_path):
  features_nf, solid_n = xor_samples(40, 1)
  small, _ = fit((features_nf, solid_n), (features_nf, solid_n), trees=2)
  path = tmp_path / 'f.npz'
  save_forest(path, small)
  (tmp_path / checksums.LIST).unlink()  # as for a forest from elsewhere
  whole, refused = path.read_bytes(), 0
  contents = [whole[:n] for n in range(0, len(whole), 97)]
  for place in range(0, len(whole), 5):
    contents.append(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1:])
  for content in contents:
    path.write_bytes(content)
    try:
      loaded = load_forest(path)
    except InputError as error:
      refused += str(path) in str(error)
      continue
    assert loaded.settings == small.settings  # times and the like are not checked
    for one, two in zip(loaded[:5], small[:5], strict=True):
      np.testing.assert_array_equal(one, two)
  assert refused > 0.5 * len(contents)
  np.save(tmp_path / 'array.npy', features_nf)
  for other in ('array.npy', 'none.npz', ''):
    with pytest.raises(InputError, match='expected a (forest|path)'):
      load_forest(tmp_path / other)


def test_mistakes_in_samples_are_named(forest, noisy):
  features_nf, solid_n = noisy
  bad_nf = put(features_nf, (5, 2), np.nan)
  for train, val, options, message in (
      ((features_nf, 0 * solid_n), noisy, {}, r'training labels: got codes \[0\], exp'),
      (noisy, (features_nf, 0 * solid_n + 1), {}, r'validation labels: got codes \[1'),
      ((features_nf, solid_n + 254), noisy, {}, r'training labels: got codes \[254, '),
      ((bad_nf, solid_n), noisy, {}, 'training features: got NaN'),
      (noisy, (bad_nf, solid_n), {}, 'validation features: got NaN'),
      ((features_nf, solid_n[1:]), noisy, {}, r'training labels: got shape \(1499'),
      (noisy, (features_nf[:, 1:], solid_n), {}, r'validation: got .* \(1500, 5\)'),
      (noisy, noisy, {'feature_set': 'F1'}, r'training: got features .* \[n, 56\]'),
      (noisy, noisy, {'feature_set': 'F9'}, "feature set: got 'F9'"),
      (noisy, noisy, {'trees': 0}, 'forest: got 0 trees'),
      (noisy, noisy, {'min_leaves': (5, 0)}, r'smallest leaves \(5, 0\)'),
      (noisy, noisy, {'min_leaves': ()}, r'smallest leaves \(\)')):
    with pytest.raises(InputError, match=message):
      fit(train, val, **options)
  with pytest.raises(InputError, match=r'features: got .* 5\), expected \[n, 6\]'):
    predict(forest, features_nf[:, 1:])
  with pytest.raises(InputError, match='features: got NaN'):
    predict(forest, bad_nf)
  with pytest.raises(InputError, match='feature set: got None'):
    score_block(forest, np.zeros((7, 513, 513), np.float32))
  many = forest._replace(feature_k=forest.feature_k + np.int32(256))
  with pytest.raises(InputError, match='at most 256 features'):
    predict(many, features_nf)


# Volumes.

@pytest.fixture(scope='module')
def film(tmp_path_factory):
  """A simulated film: prepared volume, truth, and regions in slices apart."""
  simulated = films.simulate_film('HPC30', (16, 160, 160), 3)
  grey_zyx = (simulated.image_zyx / 65535).astype(np.float32)
  path = tmp_path_factory.mktemp('film') / 'HPC30'
  with new_volume(path, grey_zyx.shape, np.float32, None) as volume:
    write_box(volume, (0, 0, 0), grey_zyx)
  places = [(z, y, x) for z in (1, 4, 7) for y, x in ((0, 0), (70, 80))]
  places += [(10, 20, 40)]
  masks = [simulated.truth_zyx[z, y:y + 80, x:x + 80] for z, y, x in places]
  table = make_regions(('HPC30',) * len(places), places, masks,
                       ['train'] * 6 + ['val'])
  return {'HPC30': open_volume(path)}, simulated.truth_zyx, table


def sample(opened, table, feature_set, split, fraction):
  regions = select_regions(table, split=split)
  voxels_n3 = sampling.sample_voxels(regions.masks_ryx, fraction, seed=1)
  features_nf = scale_space.sample_features(opened, regions, voxels_n3, feature_set)
  return features_nf, regions.masks_ryx[tuple(voxels_n3.T)]


def read_block(volume, start, stop):
  return read_mirrored(volume, np.subtract(start, SLICES_AND_MARGIN),
                       np.add(stop, SLICES_AND_MARGIN))


def test_sampled_features_are_those_of_the_volume(film):
  opened, _, table = film
  volume = opened['HPC30']
  whole = scale_space.compute_features(read_block(volume, (0, 0, 0), volume.shape),
                                       'F3')
  random = np.random.default_rng(0)
  voxels_n3 = np.stack([random.integers(0, n, 60) for n in (7, 80, 80)], 1)
  z, y, x = (axis[voxels_n3[:, 0]] for axis in (table.z, table.y, table.x))
  expected = whole[z, y + voxels_n3[:, 1], x + voxels_n3[:, 2]]
  for side in (512, 30):  # a region at once, and by tiles of which the last overlap
    found = scale_space.sample_features(opened, table, voxels_n3, 'F3', side)
    np.testing.assert_array_equal(found, expected)
  none_nf = scale_space.sample_features(opened, table, voxels_n3[:0], 'F3')
  assert none_nf.shape == (0, 74)


def test_nan_in_a_volume_names_the_region(film, monkeypatch):
  opened, _, table = film

  def broken(*box):
    return put(read_mirrored(*box), (0, 0, 0), np.nan)
  monkeypatch.setattr(scale_space, 'read_mirrored', broken)
  with pytest.raises(InputError, match='region 2 of volume HPC30: got grey values'):
    scale_space.sample_features(opened, table, np.array([[2, 0, 0]]), 'F1')


@pytest.mark.parametrize('feature_set', ['F2', 'F3'])  # F1 is in both
def test_a_score_does_not_depend_on_the_block(film, feature_set):
  opened, _, table = film
  train = sample(opened, table, feature_set, 'train', 0.03)
  forest, _ = fit(train, train, feature_set, trees=5)

  def score(start, stop):  # tiles in parts, of which the last overlap
    return score_block(forest, read_block(opened['HPC30'], start, stop),
                       chunk=1000)

  whole = score((2, 0, 0), (12, 90, 70))
  assert whole.shape == (10, 90, 70) and whole.dtype == np.float32
  for start, stop in (((2, 0, 0), (3, 90, 70)), ((5, 13, 22), (8, 80, 41))):
    np.testing.assert_array_equal(score(start, stop), whole[tuple(
        slice(a - o, b - o) for a, b, o in zip(start, stop, (2, 0, 0), strict=True))])
  features = scale_space.compute_features(
      read_block(opened['HPC30'], (6, 0, 0), (7, 90, 70)), feature_set)
  np.testing.assert_array_equal(
      whole[4].reshape(-1), predict(forest, features.reshape(90 * 70, -1)))


def test_the_forest_beats_the_best_threshold_on_other_slices(film):
  opened, truth_zyx, table = film
  train, val = (sample(opened, table, 'F1', split, 0.15) for split in ('train', 'val'))
  forest, rows = fit(train, val, 'F1', trees=20, min_leaves=(1, 20, 100))
  volume, slices = opened['HPC30'], slice(13, 16)
  score_zyx = score_block(forest, read_block(volume, (13, 0, 0), volume.shape))
  counts = confusion.confusion(truth_zyx[slices], score_zyx > 0.5)
  miou = confusion.summarise(counts)['miou']
  grey_zyx = read_box(volume, (13, 0, 0), volume.shape)
  bar = confusion.best_global_threshold(grey_zyx, truth_zyx[slices])['miou']
  assert miou > bar + 0.05, (miou, bar)
  gaps = [row['train_miou'] - row['val_miou'] for row in rows]
  assert gaps[0] > gaps[1] + 0.02 > gaps[2] + 0.04, gaps
