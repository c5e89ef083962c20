"""Losses: pure functions of (logits, labels, weights) -> scalar.

Logits are of P(solid). Labels are 0 (pore), 1 (solid) or 255 (unlabelled); a weight of
0 takes a voxel out, exactly, and unlabelled voxels must have weight 0. All arrays have
one shape, any shape.
"""
import jax
import jax.numpy as jnp
import optax


def bce_terms(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Binary cross-entropy of each voxel in nats, finite for unlabelled ones too."""
  return optax.sigmoid_binary_cross_entropy(logits, jnp.minimum(labels, 1).astype(
      logits.dtype))


def bce(logits: jax.Array, labels: jax.Array, weights: jax.Array) -> jax.Array:
  """Weighted mean binary cross-entropy in nats (§1.7); 0 where all weights are 0."""
  total = jnp.sum(weights)
  return jnp.sum(weights * bce_terms(logits, labels)) / jnp.where(total > 0, total, 1.)


def kernel_penalty(params) -> jax.Array:
  """||w||^2 over all kernels, biases left out, without the factor 1/2 (§1.7)."""
  leaves = jax.tree_util.tree_leaves_with_path(params)
  return sum(jnp.sum(leaf ** 2) for path, leaf in leaves if path[-1].key == 'kernel')
