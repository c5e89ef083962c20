"""Fingerprint of trained weights."""
import hashlib

import jax
import numpy as np


def hash_params(params) -> str:
  """Short hash of all weights of a pytree and of their names.

  It identifies the model that scores were computed with.
  """
  digest = hashlib.sha256()
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    digest.update(jax.tree_util.keystr(path).encode())
    digest.update(np.asarray(leaf).tobytes())
  return digest.hexdigest()[:16]
