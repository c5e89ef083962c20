"""A trained forest as flat arrays, and its traversal by JAX.

The arrays run over the nodes k of all trees, tree after tree, each level by level: the
children of a node are neighbours and come after it, the right one at left + 1, and a
leaf is its own left child. All voxels descend a tree together, with one gather of a
node and one of a feature per level.

Own traversal instead of scikit-learn's, which would need its private classes rebuilt
from the file: on CPU `forest.predict` takes about 1.3 times the processor time of
predict_proba (2.4 and 1.9 us per voxel, 50 trees, 56 features; 2026-11, measured
alternately); `forest.score_block` takes 2.0 us, features included.
"""
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fibjax.errors import InputError
from fibjax.system import devices

_FEATURE_BITS = 8  # of the 32 bits that hold a node's feature and left child


class Forest(NamedTuple):
  """A trained forest; k runs over the nodes of all trees, t over trees.

  Attributes:
    feature_k: [k] int32 feature compared; 0 in a leaf.
    threshold_k: [k] float32; a voxel goes left where feature <= threshold; infinity in
      a leaf. It is scikit-learn's float64 threshold rounded down, which is the same
      test for a float32 feature.
    left_k: [k] int32 left child, followed by the right one; a leaf is its own.
    value_k: [k] float32 fraction of solid in a leaf; 0 in other nodes.
    root_t: [t] int32 first node of each tree, ascending.
    settings: JSON-able: feature_set (None: other features), n_features, trees,
      min_leaf, seed, n_samples.
  """
  feature_k: np.ndarray
  threshold_k: np.ndarray
  left_k: np.ndarray
  value_k: np.ndarray
  root_t: np.ndarray
  settings: dict


class Tables(NamedTuple):
  """A forest in the form that the device traverses.

  Attributes:
    word_k2: [k, 2] int32: the distance from a node to its left child and the feature,
      in 24 and 8 bits, and the bits of the threshold. A single gather of 64 bits
      fetches a whole node: descending is limited by the number of gathers.
    value_k: [k] float32 of Forest.
    root_t: [t] int32 of Forest.
    depth_t: [t] int32 levels below the root of each tree.
  """
  word_k2: np.ndarray
  value_k: np.ndarray
  root_t: np.ndarray
  depth_t: np.ndarray


def put_forest(forest: Forest) -> Tables:
  """Packs a forest and puts it on all devices.

  Raises:
    InputError: for more than 256 features, or 2^23 nodes in a tree.
  """
  step = forest.left_k - np.arange(len(forest.left_k), dtype=np.int32)
  if forest.feature_k.max() >> _FEATURE_BITS or step.max() >> (31 - _FEATURE_BITS):
    raise InputError('forest', got=f'{forest.settings["n_features"]} features and '
                     f'{len(forest.left_k)} nodes',
                     expected='at most 256 features, and 2^23 nodes per tree',
                     remedy='train with fewer voxels or a larger min_leaf')
  # Depths of all trees at once: level has the nodes of a level of every tree, and tree
  # the tree of each.
  depth_t, level = np.zeros(len(forest.root_t), np.int32), forest.root_t
  tree = np.arange(len(level))
  while len(level):
    inner = forest.left_k[level] != level
    level, tree = forest.left_k[level[inner]], tree[inner]
    depth_t[tree] += 1  # once per tree, however often it is in the index
    level, tree = np.append(level, level + 1), np.append(tree, tree)
  word_k2 = np.stack([step << _FEATURE_BITS | forest.feature_k,
                      forest.threshold_k.view(np.int32)], 1)
  return devices.put_everywhere(
      Tables(word_k2, forest.value_k, forest.root_t, depth_t))


def descend(tables: Tables, features_fn: jax.Array) -> jax.Array:
  """P(solid), [n] float32, of voxels from their features [f, n].

  Every voxel takes as many steps as its tree is deep, without a branch: the threshold
  of a leaf is infinity and its left child is itself, so a voxel that has reached its
  leaf stays there.
  """
  count = features_fn.shape[1]
  flat, voxel_n = features_fn.reshape(-1), jnp.arange(count, dtype=jnp.int32)
  # int64 for the packed nodes, float64 for the sum over trees: the mean is rounded to
  # float32 only once.
  with jax.enable_x64(True):
    word_k = lax.bitcast_convert_type(tables.word_k2, jnp.int64)

    def step(_, node_n):
      word_n = _take(word_k, node_n)
      low_n = word_n.astype(jnp.int32)  # distance and feature; above it the threshold
      threshold_n = lax.bitcast_convert_type((word_n >> 32).astype(jnp.int32),
                                             jnp.float32)
      feature_n = low_n & ((1 << _FEATURE_BITS) - 1)
      right_n = _take(flat, feature_n * count + voxel_n) > threshold_n
      return node_n + (low_n >> _FEATURE_BITS) + right_n.astype(jnp.int32)

    def add_tree(total_n, tree):
      root, depth = tree
      leaf_n = lax.fori_loop(0, depth, step, jnp.full((count,), root, jnp.int32))
      return total_n + _take(tables.value_k, leaf_n).astype(jnp.float64), None
    total_n, _ = lax.scan(add_tree, jnp.zeros(count, jnp.float64),
                          (tables.root_t, tables.depth_t))
    return (total_n / len(tables.root_t)).astype(jnp.float32)


def _take(table_k: jax.Array, index_n: jax.Array) -> jax.Array:
  """table_k[index_n] without a test of bounds, for indices known to be inside."""
  numbers = lax.GatherDimensionNumbers(
      offset_dims=(), collapsed_slice_dims=(0,), start_index_map=(0,))
  return lax.gather(table_k, index_n[:, None], numbers, (1,),
                    mode=lax.GatherScatterMode.PROMISE_IN_BOUNDS)
