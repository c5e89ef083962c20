"""Random forest on scale-space features: train, store, score blocks.

Roding et al. 2021 segmented the same films with a random forest on Gaussian
scale-space features. Their list of features and their settings are not public: the
feature sets (scale_space.py), the number of trees and the choice of the smallest leaf
here are fibjax's own.

Trees are CART with Gini impurity, grown by scikit-learn on bootstrap samples, sqrt(f)
features tried per node, unlimited depth. The score of a voxel is the mean over the
trees of the share of solid among the training voxels of its leaf: P(solid), float32.

A trained forest is flat arrays over the nodes k of all trees, tree after tree, each
level by level: the children of a node stand side by side after it, the right one at
left + 1, and a leaf is its own left child. Stored as one npz without pickle, and
traversed by JAX: all voxels go down a tree together, one gather of a node and one of a
feature per level. On CPU `predict` takes about 1.3 times the processor time of
scikit-learn's predict_proba (2.4 and 1.9 us per voxel, 50 trees, 56 features; 2026-11,
alternating), which would need scikit-learn's private classes rebuilt from the file;
`score_block` takes 2.0 us, features included.
"""
import functools
import json
import zipfile
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from sklearn.ensemble import RandomForestClassifier

from fibjax.errors import InputError, check_shape
from fibjax.methods import scale_space
from fibjax.metrics import confusion
from fibjax.system import devices, files, progress

MIN_LEAVES = (1, 5, 20, 50, 100)
_CHUNK = 16384  # voxels at once on CPU: their features and a tree stay in the cache
_CHUNK_GPU = 1 << 18
_FEATURE_BITS = 8  # of the 32 that name a node's feature and left child
_DTYPES = {'feature_k': np.int32, 'threshold_k': np.float32, 'left_k': np.int32,
           'value_k': np.float32, 'root_t': np.int32}


class Forest(NamedTuple):
  """A trained forest; k runs over the nodes of all trees, t over trees.

  Attributes:
    feature_k: [k] int32 feature compared, 0 in a leaf.
    threshold_k: [k] float32; a voxel goes left where feature <= threshold. A leaf has
      infinity. scikit-learn's float64 threshold rounded down, which is the same test
      for a float32 feature.
    left_k: [k] int32 left child, the right one is the next; a leaf is its own.
    value_k: [k] float32 share of solid, in leaves; 0 elsewhere.
    root_t: [t] int32 first node of each tree, ascending.
    settings: JSON: feature_set (None: other features), n_features, trees, min_leaf,
      seed, n_samples.
  """
  feature_k: np.ndarray
  threshold_k: np.ndarray
  left_k: np.ndarray
  value_k: np.ndarray
  root_t: np.ndarray
  settings: dict


def fit_forest(features_nf: np.ndarray, solid_n: np.ndarray,
               val_features_nf: np.ndarray, val_solid_n: np.ndarray, *,
               feature_set: str | None, trees: int = 100, min_leaves=MIN_LEAVES,
               seed: int = 0) -> tuple[Forest, list[dict]]:
  """Trains a forest per smallest leaf and keeps that of highest validation mIoU.

  Args:
    features_nf: [n, f] float32 of training voxels.
    solid_n: [n] labels, 0 pore and 1 solid.
    val_features_nf, val_solid_n: the same of validation voxels.
    feature_set: what the features are; None: anything else, not for `score_block`.
    trees: number of trees.
    min_leaves: fewest training voxels of a leaf to choose from; of equals the largest
      is kept.
    seed: of bootstrap and features tried.

  Returns:
    The forest, and a JSON-able row per smallest leaf: min_leaf, nodes, train_miou,
    train_accuracy, val_miou, val_accuracy (solid where P > 0.5).

  Raises:
    InputError: for differing shapes, values that are not finite, other labels, a class
      without a voxel, or bad numbers of trees and leaves.
  """
  _check_samples('training', features_nf, solid_n, feature_set)
  _check_samples('validation', val_features_nf, val_solid_n, feature_set)
  _check_width('validation', val_features_nf, features_nf.shape[1])
  if not min_leaves or min(*min_leaves, trees) < 1:
    raise InputError('forest', got=f'{trees} trees, smallest leaves {min_leaves}',
                     expected='at least one, all of at least 1', remedy='correct it')
  best, rows = None, []
  leaves = sorted(map(int, min_leaves), reverse=True)
  for min_leaf in progress.track(leaves, 'forests', 'forest', len(leaves)):
    grown = RandomForestClassifier(
        trees, min_samples_leaf=min_leaf, max_features='sqrt', n_jobs=-1,
        random_state=seed).fit(features_nf, solid_n)
    forest = _flatten(grown, {
        'feature_set': feature_set, 'n_features': features_nf.shape[1], 'trees': trees,
        'min_leaf': min_leaf, 'seed': seed, 'n_samples': len(solid_n)})
    row = {'min_leaf': min_leaf, 'nodes': len(forest.left_k)}
    for name, found_nf, label_n in (('train', features_nf, solid_n),
                                    ('val', val_features_nf, val_solid_n)):
      scores = confusion.summarise(confusion.confusion(
          label_n, (predict(forest, found_nf) > 0.5).astype(np.uint8)))
      row.update({f'{name}_{key}': scores[key] for key in ('miou', 'accuracy')})
    if best is None or row['val_miou'] > max(r['val_miou'] for r in rows):
      best = forest
    rows.append(row)
  return best, rows[::-1]


def predict(forest: Forest, features_nf: np.ndarray) -> np.ndarray:
  """P(solid) of voxels by their features: [n, f] float32 -> [n] float32.

  Raises:
    InputError: for another number of features, or values that are not finite.
  """
  _check_width('features', features_nf, forest.settings['n_features'])
  _check_finite('features', features_nf)
  size = min(_chunk(), 1 << (len(features_nf) - 1).bit_length())  # few programs
  chunks = (np.pad(part, ((0, size - len(part)), (0, 0))).T for part in (
      np.asarray(features_nf[start:start + size], np.float32)
      for start in range(0, len(features_nf), size)))
  found = list(_predict_fn()(_put(forest), chunks))
  return np.concatenate([np.empty(0, np.float32), *found])[:len(features_nf)]


def score_block(forest: Forest, block_zyx: np.ndarray, chunk: int = 0) -> np.ndarray:
  """P(solid) of the inner voxels of a block, tile by tile on all devices.

  A voxel's score has the same bits whatever the block; its cost per inner voxel falls
  with the depth of the block, since each slice is smoothed once for all that need it.

  Args:
    forest: trained on a feature set.
    block_zyx: [z, y, x] float32 grey values of a prepared volume, with
      `scale_space.margin_zyx(forest.settings['feature_set'])` voxels on each side,
      mirrored at the faces of the volume (`volume.read_mirrored`).
    chunk: voxels of a slice that descend the trees at once; 0: as suits the device.

  Returns:
    [z, y, x] float32 scores of the block without its margin.

  Raises:
    InputError: for a forest of other features, or as `scale_space.compute_features`.
  """
  feature_set = forest.settings['feature_set']
  inner_zyx, tile_zyx = scale_space.plan_tiles(block_zyx, feature_set)
  score_zyx = np.empty(inner_zyx, np.float32)
  starts = scale_space.tile_starts(inner_zyx, tile_zyx)
  tiles = scale_space.cut_tiles(block_zyx, feature_set, tile_zyx, starts)
  found = _score_fn(feature_set, tile_zyx, chunk or _chunk())(_put(forest), tiles)
  for start, score_zn in zip(starts, found, strict=True):
    where = tuple(slice(a, a + n) for a, n in zip(start, tile_zyx, strict=True))
    score_zyx[where] = score_zn.reshape(tile_zyx)
  return score_zyx


def save_forest(path, forest: Forest) -> None:
  """Writes a forest as one npz; it appears whole or not."""
  with files.whole_file(path) as partial:
    np.savez(partial, **{**forest._asdict(), 'settings': json.dumps(forest.settings)})


def load_forest(path) -> Forest:
  """Reads what `save_forest` wrote.

  Raises:
    InputError: when the file is missing, damaged or no forest.
  """
  try:
    with np.load(path, allow_pickle=False) as file:
      arrays = {name: file[name] for name in _DTYPES}
      settings = json.loads(str(file['settings']))
    forest = Forest(**arrays, settings=settings)
    fault = _find_fault(forest)
  except (OSError, EOFError, ValueError, KeyError, TypeError, RuntimeError,
          zipfile.BadZipFile) as error:  # what numpy and zipfile raise for damage
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
  found = np.unique(solid_n).tolist()
  if found != [0, 1]:
    raise InputError(f'{name} labels', got=f'codes {found[:5]}',
                     expected='both 0 pore and 1 solid, and no other',
                     remedy='sample labelled voxels of both classes')


def _check_width(name: str, features_nf, count: int) -> None:
  if features_nf.ndim != 2 or features_nf.shape[1] != count:
    raise InputError(name, got=f'features of shape {features_nf.shape}',
                     expected=f'[n, {count}]',
                     remedy='compute the feature set that the forest is for')


def _check_finite(name: str, features_nf) -> None:
  if not np.isfinite(features_nf).all():
    raise InputError(name, got='NaN or infinite values', expected='finite values',
                     remedy='repair the volume')


def _flatten(grown: RandomForestClassifier, settings: dict) -> Forest:
  parts, roots, first = [], [], 0
  for tree in (estimator.tree_ for estimator in grown.estimators_):
    parts.append(_flatten_tree(tree, first))
    roots.append(first)
    first += tree.node_count
  arrays = [np.concatenate(column) for column in zip(*parts, strict=True)]
  dtypes = list(_DTYPES.values())
  return Forest(*(array.astype(dtype) for array, dtype in
                  zip([*arrays, np.array(roots)], dtypes, strict=True)), settings)


def _flatten_tree(tree, first: int):
  """Arrays of one tree in the order of Forest, its root at node `first`."""
  levels = [np.zeros(1, int)]
  while len(levels[-1]):
    inner = levels[-1][tree.children_left[levels[-1]] >= 0]
    levels.append(np.stack([tree.children_left[inner], tree.children_right[inner]], 1)
                  .reshape(-1))
  order = np.concatenate(levels)
  place = np.empty(len(order), int)
  place[order] = np.arange(len(order))
  left = tree.children_left[order]
  leaf = left < 0
  exact = tree.threshold[order]
  threshold = exact.astype(np.float32)
  threshold = np.where(threshold > exact, np.nextafter(threshold, np.float32(-np.inf)),
                       threshold)
  counts = tree.value[order, 0]
  return (np.where(leaf, 0, tree.feature[order]), np.where(leaf, np.inf, threshold),
          first + np.where(leaf, np.arange(len(order)), place[left]),
          np.where(leaf, counts[:, 1] / counts.sum(1), 0))


def _find_fault(forest: Forest) -> str:
  """What keeps arrays from a file from being a forest; '' when nothing does."""
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
  own = np.arange(nodes)
  leaf, end = left == own, np.repeat(ends, ends - root)
  if (left < own).any() or (left + ~leaf >= end).any():
    return 'children outside their tree'
  counts = forest.settings['n_features'], len(root)
  if (forest.feature_k < 0).any() or (forest.feature_k >= counts[0]).any():
    return 'unknown features'
  if (np.isposinf(forest.threshold_k) != leaf).any() or np.isnan(
      forest.threshold_k).any():
    return 'bad thresholds'
  if not ((forest.value_k >= 0) & (forest.value_k <= 1)).all():
    return 'shares outside [0, 1]'
  if forest.settings['trees'] != counts[1]:
    return f'{counts[1]} trees, {forest.settings["trees"]} in the settings'
  feature_set = forest.settings['feature_set']
  if feature_set and len(scale_space.feature_names(feature_set)) != counts[0]:
    return f'{counts[0]} features of set {feature_set}'
  return ''


class _Tables(NamedTuple):
  """A forest as the device reads it.

  Attributes:
    word_k2: [k, 2] int32: left child minus own index and feature, in 24 and 8 bits;
      bits of the threshold. One gather of 64 bits brings both.
    value_k: [k] float32.
    root_t: [t] int32.
    depth_t: [t] int32 levels below the root.
  """
  word_k2: np.ndarray
  value_k: np.ndarray
  root_t: np.ndarray
  depth_t: np.ndarray


def _put(forest: Forest) -> _Tables:
  step = forest.left_k - np.arange(len(forest.left_k), dtype=np.int32)
  if forest.feature_k.max() >> _FEATURE_BITS or step.max() >> (31 - _FEATURE_BITS):
    raise InputError('forest', got=f'{forest.settings["n_features"]} features and '
                     f'{len(forest.left_k)} nodes',
                     expected='at most 256 features, and 2^23 nodes per tree',
                     remedy='train with fewer voxels or a larger min_leaf')
  depth_t, level = np.zeros(len(forest.root_t), np.int32), forest.root_t
  tree = np.arange(len(level))
  while len(level):
    inner = forest.left_k[level] != level
    level, tree = forest.left_k[level[inner]], tree[inner]
    depth_t[tree] += 1
    level, tree = np.append(level, level + 1), np.append(tree, tree)
  word_k2 = np.stack([step << _FEATURE_BITS | forest.feature_k,
                      forest.threshold_k.view(np.int32)], 1)
  return devices.put_everywhere(
      _Tables(word_k2, forest.value_k, forest.root_t, depth_t))


def _chunk() -> int:
  return _CHUNK if jax.default_backend() == 'cpu' else _CHUNK_GPU


@functools.cache
def _predict_fn():
  return devices.map_images(_descend)


@functools.cache
def _score_fn(feature_set: str, tile_zyx, chunk: int):
  """(tables, tiles with margins) -> scores [z, n] of each, for one size of tile."""
  depth, *tile_yx = tile_zyx
  count = tile_yx[0] * tile_yx[1]
  size = min(chunk, count)

  def score(tables, block_zyx):
    levels = scale_space.make_levels(block_zyx, feature_set, tuple(tile_yx))

    def score_chunk(k, score_zn):
      z, start = k // chunks, jnp.minimum(k % chunks * size, count - size)
      features_fn = scale_space.gather_features(levels, feature_set, z, start, size)
      return lax.dynamic_update_slice(score_zn, _descend(tables, features_fn)[None],
                                      (z, start))
    chunks = -(-count // size)
    return lax.fori_loop(0, depth * chunks, score_chunk,
                         jnp.zeros((depth, count), jnp.float32))
  return devices.map_images(score)


def _descend(tables: _Tables, features_fn: jax.Array) -> jax.Array:
  """P(solid) [n] float32 of voxels by their features [f, n]."""
  count = features_fn.shape[1]
  flat, own_n = features_fn.reshape(-1), jnp.arange(count, dtype=jnp.int32)
  with jax.enable_x64(True):
    word_k = lax.bitcast_convert_type(tables.word_k2, jnp.int64)

    def step(_, node_n):
      word_n = _take(word_k, node_n)
      low_n = word_n.astype(jnp.int32)
      threshold_n = lax.bitcast_convert_type((word_n >> 32).astype(jnp.int32),
                                             jnp.float32)
      feature_n = low_n & ((1 << _FEATURE_BITS) - 1)
      right_n = _take(flat, feature_n * count + own_n) > threshold_n
      return node_n + (low_n >> _FEATURE_BITS) + right_n.astype(jnp.int32)

    def add_tree(total_n, tree):
      root, depth = tree
      leaf_n = lax.fori_loop(0, depth, step, jnp.full((count,), root, jnp.int32))
      return total_n + _take(tables.value_k, leaf_n).astype(jnp.float64), None
    total_n, _ = lax.scan(add_tree, jnp.zeros(count, jnp.float64),
                          (tables.root_t, tables.depth_t))
    return (total_n / len(tables.root_t)).astype(jnp.float32)


def _take(table_k: jax.Array, index_n: jax.Array) -> jax.Array:
  """table_k[index_n] for indices that are inside, without a test of that."""
  numbers = lax.GatherDimensionNumbers(
      offset_dims=(), collapsed_slice_dims=(0,), start_index_map=(0,))
  return lax.gather(table_k, index_n[:, None], numbers, (1,),
                    mode=lax.GatherScatterMode.PROMISE_IN_BOUNDS)
