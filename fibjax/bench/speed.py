"""Time per voxel of a segmentation on this machine, measured within seconds.

A stack is inspected before there is a network for it, so the default network stands in:
its weights are random, which changes no time. Larger networks take longer.
"""
import time

import jax
import numpy as np

from fibjax.config import base
from fibjax.inference.network_scorer import make_score_fn
from fibjax.models import make_model
from fibjax.system import devices

_TILE_PX = 128
_REPEATS = 3


def measure_us_per_voxel() -> float:
  """Times the dense scoring of the default network, as `fibjax segment` runs it.

  Returns:
    Microseconds per voxel; the median of a few tiles after one that compiles.
  """
  model = make_model(base().model)
  params = devices.put_everywhere(jax.jit(model.init)(jax.random.key(0)))
  score = make_score_fn(model, 'dense', (_TILE_PX,) * 2, 1)
  image_px = model.image_px(_TILE_PX)
  count = devices.count_in_work()
  images = np.random.default_rng(0).random((count, image_px, image_px, model.n_z),
                                           np.float32)
  seconds = []
  for _ in range(1 + _REPEATS):
    start = time.perf_counter()
    for scores_yx in score(params, images):
      np.asarray(scores_yx)  # waits for the device
    seconds.append(time.perf_counter() - start)
  return float(np.median(seconds[1:])) / (count * _TILE_PX ** 2) * 1e6
