"""Random forest on scale-space features (§2): training, storage, scoring of blocks.

Roding et al. 2021 segmented the same films with a random forest on Gaussian
scale-space features. Their list of features and their settings are not public: the
feature sets (scale_space.py), the number of trees and the choice of the smallest leaf
are fibjax's.

Trees are CART with Gini impurity, grown by scikit-learn on bootstrap samples with
sqrt(f) features tried per node and unlimited depth. The score of a voxel is the mean
over the trees of the fraction of solid among the training voxels of its leaf: P(solid),
float32.

A trained forest is a set of flat arrays (forest_traversal.py), stored as one npz file
without pickle. Blocks are scored tile by tile.
"""
import functools
import json
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from sklearn.ensemble import RandomForestClassifier

from fibjax.errors import InputError, check_shape
from fibjax.methods import scale_space
from fibjax.methods.forest_traversal import Forest, descend, put_forest
from fibjax.metrics import confusion
from fibjax.system import checksums, devices, files, progress, refusals

MIN_LEAVES = (1, 5, 20, 50, 100)
# Voxels that descend together. On CPU their features and a tree stay in the cache.
_CHUNK = 16384
_CHUNK_GPU = 1 << 18
_DTYPES = {'feature_k': np.int32, 'threshold_k': np.float32, 'left_k': np.int32,
           'value_k': np.float32, 'root_t': np.int32}


def fit_forest(features_nf: np.ndarray, solid_n: np.ndarray,
               val_features_nf: np.ndarray, val_solid_n: np.ndarray, *,
               feature_set: str | None, trees: int = 100, min_leaves=MIN_LEAVES,
               seed: int = 0) -> tuple[Forest, list[dict]]:
  """Trains a forest for each smallest leaf and keeps the best on validation.

  Args:
    features_nf: [n, f] float32 features of training voxels.
    solid_n: [n] their labels, 0 pore and 1 solid.
    val_features_nf: [n, f] float32 features of validation voxels.
    val_solid_n: [n] their labels.
    feature_set: a set of `scale_space`, or None for other features, which `score_block`
      cannot compute.
    trees: number of trees.
    min_leaves: candidates for the least number of training voxels in a leaf; the
      highest validation mIoU decides, of equal ones the largest leaf.
    seed: seed of the bootstrap and of the features tried.

  Returns:
    The forest, and a JSON-able row for each smallest leaf: min_leaf, nodes, train_miou,
    train_accuracy, val_miou, val_accuracy (solid where P > 0.5).

  Raises:
    InputError: for shapes that disagree, values that are not finite, labels other than
      0 and 1, a missing class, or numbers of trees and leaves below 1.
  """
  _check_samples('training', features_nf, solid_n, feature_set)
  _check_samples('validation', val_features_nf, val_solid_n, feature_set)
  _check_width('validation', val_features_nf, features_nf.shape[1])
  if not min_leaves or min(*min_leaves, trees) < 1:
    raise InputError('forest', got=f'{trees} trees, smallest leaves {min_leaves}',
                     expected='at least one of each, and all at least 1',
                     remedy='correct the settings')
  best, rows = None, []
  leaves = sorted(map(int, min_leaves), reverse=True)
  for min_leaf in progress.track(leaves, 'forests', 'forest', len(leaves)):
    classifier = RandomForestClassifier(
        trees, min_samples_leaf=min_leaf, max_features='sqrt', n_jobs=-1,
        random_state=seed).fit(features_nf, solid_n)
    forest = _flatten(classifier, {
        'feature_set': feature_set, 'n_features': features_nf.shape[1], 'trees': trees,
        'min_leaf': min_leaf, 'seed': seed, 'n_samples': len(solid_n)})
    row = {'min_leaf': min_leaf, 'nodes': len(forest.left_k)}
    for split, split_features_nf, label_n in (('train', features_nf, solid_n),
                                              ('val', val_features_nf, val_solid_n)):
      scores = confusion.summarise(confusion.confusion(
          label_n, (predict(forest, split_features_nf) > 0.5).astype(np.uint8)))
      row.update({f'{split}_{key}': scores[key] for key in ('miou', 'accuracy')})
    if best is None or row['val_miou'] > max(r['val_miou'] for r in rows):
      best = forest
    rows.append(row)
  return best, rows[::-1]


def predict(forest: Forest, features_nf: np.ndarray) -> np.ndarray:
  """P(solid) of voxels from their features.

  Args:
    forest: trained forest.
    features_nf: [n, f] float32.

  Returns:
    [n] float32.

  Raises:
    InputError: for a wrong number of features, or values that are not finite.
  """
  _check_width('features', features_nf, forest.settings['n_features'])
  _check_finite('features', features_nf)
  # Chunks padded to a power of two: each size is compiled once, and there are few.
  size = min(_chunk(), 1 << (len(features_nf) - 1).bit_length())
  chunks = (np.pad(chunk_nf, ((0, size - len(chunk_nf)), (0, 0))).T for chunk_nf in (
      np.asarray(features_nf[start:start + size], np.float32)
      for start in range(0, len(features_nf), size)))
  scores = list(_predict_fn()(put_forest(forest), chunks))
  return np.concatenate([np.empty(0, np.float32), *scores])[:len(features_nf)]


def score_block(forest: Forest, block_zyx: np.ndarray, chunk: int = 0) -> np.ndarray:
  """P(solid) of the inner voxels of a block, tile by tile on all devices.

  A voxel's score has the same bits in every block. The cost per inner voxel falls with
  the depth of the block, since each slice is smoothed once for all slices that need it.

  Args:
    forest: trained on a feature set of `scale_space`.
    block_zyx: [z, y, x] float32 grey values of a prepared volume, with
      `scale_space.margin_zyx(forest.settings['feature_set'])` voxels on each side,
      mirrored at the faces of the volume (`volume.read_mirrored`).
    chunk: voxels of a slice that descend the trees together; 0 suits the device.

  Returns:
    [z, y, x] float32 scores of the block without its margin.

  Raises:
    InputError: for a forest on other features, or as `scale_space.compute_features`.
  """
  feature_set = forest.settings['feature_set']
  inner_zyx, tile_zyx = scale_space.plan_tiles(block_zyx, feature_set)
  score_zyx = np.empty(inner_zyx, np.float32)
  starts = scale_space.tile_starts(inner_zyx, tile_zyx)
  tiles = scale_space.cut_tiles(block_zyx, feature_set, tile_zyx, starts)
  tile_scores = _score_fn(feature_set, tile_zyx, chunk or _chunk())(
      put_forest(forest), tiles)
  for start, score_zn in zip(starts, tile_scores, strict=True):
    box = tuple(slice(a, a + n) for a, n in zip(start, tile_zyx, strict=True))
    score_zyx[box] = score_zn.reshape(tile_zyx)
  return score_zyx


def save_forest(path, forest: Forest) -> None:
  """Writes a forest as one npz file, which appears complete or not at all."""
  with files.whole_file(path, checked=True) as partial:
    np.savez(partial, **{**forest._asdict(), 'settings': json.dumps(forest.settings)})


def load_forest(path) -> Forest:
  """Reads a forest written by `save_forest`.

  Raises:
    InputError: when the file is missing, damaged or not a forest.
  """
  checksums.check(path)
  try:
    # Opened here, since numpy leaves a damaged file open.
    with open(path, 'rb') as stream, np.load(stream, allow_pickle=False) as file:
      arrays = {name: file[name] for name in _DTYPES}
      settings = json.loads(str(file['settings']))
    forest = Forest(**arrays, settings=settings)
    fault = _find_fault(forest)
  except (OSError, EOFError, ValueError, KeyError, TypeError, RuntimeError,
          zipfile.BadZipFile) as error:  # raised by numpy and zipfile for damage
    refusal = refusals.refused(error, str(path))
    if refusal is not None:
      raise refusal from None
    fault = f'{type(error).__name__}: {error}'
  if fault:
    raise InputError(str(path), got=fault, expected='a forest of fibjax',
                     remedy='check the path, or train the forest again')
  return forest


def _check_samples(name: str, features_nf, solid_n, feature_set: str | None) -> None:
  if feature_set is not None:
    _check_width(name, features_nf, len(scale_space.feature_names(feature_set)))
  check_shape(f'{name} features', features_nf, (None, None))
  check_shape(f'{name} labels', solid_n, (len(features_nf),))
  _check_finite(f'{name} features', features_nf)
  labels = np.unique(solid_n).tolist()
  if labels != [0, 1]:
    raise InputError(f'{name} labels', got=f'codes {labels[:5]}',
                     expected='both 0 pore and 1 solid, and no other',
                     remedy='sample labelled voxels of both classes')


def _check_width(name: str, features_nf, count: int) -> None:
  if features_nf.ndim != 2 or features_nf.shape[1] != count:
    raise InputError(name, got=f'features of shape {features_nf.shape}',
                     expected=f'[n, {count}]',
                     remedy='compute the feature set of the forest')


def _check_finite(name: str, features_nf) -> None:
  if not np.isfinite(features_nf).all():
    raise InputError(name, got='NaN or infinite values', expected='finite values',
                     remedy='repair the volume')


def _flatten(classifier: RandomForestClassifier, settings: dict) -> Forest:
  """Converts a fitted forest of scikit-learn."""
  tree_arrays, roots, root = [], [], 0
  for tree in (estimator.tree_ for estimator in classifier.estimators_):
    tree_arrays.append(_flatten_tree(tree, root))
    roots.append(root)
    root += tree.node_count
  arrays = [np.concatenate(column) for column in zip(*tree_arrays, strict=True)]
  dtypes = list(_DTYPES.values())
  return Forest(*(array.astype(dtype) for array, dtype in
                  zip([*arrays, np.array(roots)], dtypes, strict=True)), settings)


def _flatten_tree(tree, root: int):
  """Arrays of a tree in the order of Forest, with its root at node `root`.

  scikit-learn numbers nodes depth first. Here they are numbered level by level, with
  siblings next to each other, so that a node needs the index of its left child only,
  and the nodes near the root, which all voxels visit, share cache lines.
  """
  levels = [np.zeros(1, int)]
  while len(levels[-1]):
    inner = levels[-1][tree.children_left[levels[-1]] >= 0]
    levels.append(np.stack([tree.children_left[inner], tree.children_right[inner]], 1)
                  .reshape(-1))
  order = np.concatenate(levels)  # scikit-learn's number of each node
  position = np.empty(len(order), int)  # its inverse
  position[order] = np.arange(len(order))
  left = tree.children_left[order]
  leaf = left < 0
  # For a float32 feature, feature <= exact holds just when it holds for the largest
  # float32 not above exact; rounding to nearest may go above.
  exact = tree.threshold[order]
  threshold = exact.astype(np.float32)
  threshold = np.where(threshold > exact, np.nextafter(threshold, np.float32(-np.inf)),
                       threshold)
  counts = tree.value[order, 0]
  return (np.where(leaf, 0, tree.feature[order]), np.where(leaf, np.inf, threshold),
          root + np.where(leaf, np.arange(len(order)), position[left]),
          np.where(leaf, counts[:, 1] / counts.sum(1), 0))


def _find_fault(forest: Forest) -> str:
  """The first fault of arrays read from a file as a forest; '' when there is none.

  Traversal gathers without a test of bounds, so every index is checked here.
  """
  for name, dtype in _DTYPES.items():
    array = getattr(forest, name)
    if array.dtype != dtype or array.ndim != 1 or not len(array):
      return f'{name} {array.dtype} of shape {array.shape}'
  nodes, left = len(forest.left_k), forest.left_k
  if {len(a) for a in forest[:4]} != {nodes}:
    return 'arrays of differing lengths'
  root, ends = forest.root_t, np.append(forest.root_t[1:], nodes)
  if root[0] != 0 or (ends <= root).any():
    return 'roots out of order'
  node = np.arange(nodes)
  leaf, end = left == node, np.repeat(ends, ends - root)
  # Children after their parent: a descent cannot run in circles.
  if (left < node).any() or (left + ~leaf >= end).any():
    return 'children outside their tree'
  n_features, n_trees = forest.settings['n_features'], len(root)
  if (forest.feature_k < 0).any() or (forest.feature_k >= n_features).any():
    return 'unknown features'
  if (np.isposinf(forest.threshold_k) != leaf).any() or np.isnan(
      forest.threshold_k).any():
    return 'bad thresholds'
  if not ((forest.value_k >= 0) & (forest.value_k <= 1)).all():
    return 'fractions outside [0, 1]'
  if forest.settings['trees'] != n_trees:
    return f'{n_trees} trees, {forest.settings["trees"]} in the settings'
  feature_set = forest.settings['feature_set']
  if feature_set and len(scale_space.feature_names(feature_set)) != n_features:
    return f'{n_features} features of set {feature_set}'
  return ''


def _chunk() -> int:
  """Number of voxels that descend together on this kind of device."""
  return _CHUNK if jax.default_backend() == 'cpu' else _CHUNK_GPU


@functools.cache
def _predict_fn():
  """Compiles (tables, features [f, n]) -> scores [n] of each chunk."""
  return devices.map_images(descend)


@functools.cache
def _score_fn(feature_set: str, tile_zyx, chunk: int):
  """Compiles (tables, tiles with margins) -> scores [z, n] of each tile.

  Features are gathered chunk by chunk right before the descent and never stored for a
  whole tile: they are 56 or more float32 per voxel, the levels of F1 are 8.
  """
  depth, *tile_yx = tile_zyx
  count = tile_yx[0] * tile_yx[1]
  size = min(chunk, count)

  def score(tables, block_zyx):
    levels = scale_space.make_levels(block_zyx, feature_set, tuple(tile_yx))

    def score_chunk(k, score_zn):
      # The last chunk of a slice overlaps the one before it, so that all have one size.
      z, start = k // chunks, jnp.minimum(k % chunks * size, count - size)
      features_fn = scale_space.gather_features(levels, feature_set, z, start, size)
      return lax.dynamic_update_slice(score_zn, descend(tables, features_fn)[None],
                                      (z, start))
    chunks = -(-count // size)
    return lax.fori_loop(0, depth * chunks, score_chunk,
                         jnp.zeros((depth, count), jnp.float32))
  return devices.map_images(score)
