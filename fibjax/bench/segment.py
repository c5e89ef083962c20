"""One measurement of `segment` in a process of its own; `fibjax bench` runs it.

Arguments: a folder for volumes, a name, and the shape z, y, x of a random volume.
Prints JSON: peak memory, wall time, and the time spent in computing shards.
"""
import functools
import json
import sys
import time
from pathlib import Path

import jax
import numpy as np

from fibjax.config import base
from fibjax.inference import score
from fibjax.inference.segment import segment_scores
from fibjax.models import make_model
from fibjax.system.cluster import HERE
from fibjax.volumes import blockwise
from fibjax.volumes.volume import new_volume, open_volume, write_box

_COMPUTED_S = []


def _timed(open_steps) -> blockwise.Steps:
  read, compute = open_steps()

  def timed(box, block):
    start = time.perf_counter()
    result = compute(box, block)
    _COMPUTED_S.append(time.perf_counter() - start)
    return result
  return blockwise.Steps(read, timed)


def main(folder: str, name: str, *shape: str) -> None:
  """Scores and segments a random volume by the network (113, 3)."""
  settings = base()
  settings.model.n_xy = 113
  model = make_model(settings.model)
  params = jax.jit(model.init)(jax.random.key(0))
  random = np.random.default_rng(0)
  source = Path(folder) / name
  shape_zyx = tuple(map(int, shape))
  with new_volume(source, shape_zyx, np.float32, None) as volume:
    for start, stop in blockwise.shard_boxes(volume):
      write_box(volume, start, random.random(
          [b - a for a, b in zip(start, stop, strict=True)], np.float32))
  make = blockwise.make_volume

  def make_timed(out, of, dtype, open_steps, *rest, **options):
    return make(out, of, dtype, functools.partial(_timed, open_steps), *rest, **options)

  blockwise.make_volume = make_timed
  start = time.perf_counter()
  scores = score.score_volume(score.Predictor((model,), (params,)),
                              open_volume(source),
                              Path(folder) / f'{name}.scores')
  segment_scores(scores, Path(folder) / f'{name}.labels', 2.63, 0.402,
                 settings.postprocess, HERE)
  print(json.dumps({
      'wall_s': time.perf_counter() - start, 'compute_s': sum(_COMPUTED_S),
      'peak_rss_gb': _peak_rss_gb()}))


def _peak_rss_gb() -> float:
  """Peak of this program alone; getrusage counts the parent's before the exec too."""
  status = Path('/proc/self/status').read_text(encoding='utf-8')
  return int(status.partition('VmHWM:')[2].split()[0]) * 1024 / 1e9


if __name__ == '__main__':
  main(*sys.argv[1:])
