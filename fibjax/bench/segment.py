"""One measurement of scoring and segmenting a volume, in a process of its own.

  python -m fibjax.bench.segment FOLDER NAME Z Y X     one JSON object on stdout

`fibjax bench` runs it. It writes a random volume of the shape Z, Y, X to FOLDER, and
prints peak memory, wall time, the time of scoring, and how much of that was spent in
computing scores.
"""
import json
import sys
import time
from pathlib import Path

import jax
import numpy as np

from fibjax.bench.workloads import default_network
from fibjax.inference.network_scorer import network_scorer
from fibjax.inference.score import BlockScorer, Scorer, score_volume
from fibjax.inference.segment import Postprocessing, segment_scores
from fibjax.system import memory
from fibjax.volumes.blockwise import shard_boxes
from fibjax.volumes.volume import Volume, new_volume, open_volume, write_box


def timed(scorer: Scorer) -> tuple[Scorer, list[float]]:
  """The same scorer, and a list of the seconds that each block takes to compute."""
  seconds: list[float] = []

  def open_timed(memory_gb):
    opened = scorer.open(memory_gb)

    def score(shape_zyx, image_zyx):
      start = time.perf_counter()
      scores = opened.score(shape_zyx, image_zyx)
      seconds.append(time.perf_counter() - start)
      return scores
    return BlockScorer(opened.reads, score)
  return scorer._replace(open=open_timed), seconds


def measure(folder: Path, name: str, shape_zyx, n_xy: int = 113) -> dict[str, float]:
  """Scores and segments a random volume with a network of random weights.

  Args:
    folder: for the volumes.
    name: of the volume.
    shape_zyx: its voxels.
    n_xy: size of the network.

  Returns:
    wall_s, score_s, compute_s: seconds of everything, of scoring, and of computing
    scores; peak_rss_gb: memory, 10^9 bytes.
  """
  network = default_network(n_xy, 3, 'context')
  params = jax.jit(network.init)(jax.random.key(0))
  scorer, block_seconds = timed(network_scorer((network,), (params,)))
  source = _write_noise(folder / name, shape_zyx)
  with memory.watch_peak() as peak_bytes:
    start = time.perf_counter()
    scores = score_volume(scorer, source, folder / f'{name}.scores')
    score_s = time.perf_counter() - start
    segment_scores(scores, folder / f'{name}.labels', Postprocessing(2.63, 0.402))
    return {'wall_s': time.perf_counter() - start, 'score_s': score_s,
            'compute_s': sum(block_seconds), 'peak_rss_gb': peak_bytes() / 1e9}


def _write_noise(path: Path, shape_zyx) -> Volume:
  random = np.random.default_rng(0)
  with new_volume(path, shape_zyx, np.float32, None) as volume:
    for start, stop in shard_boxes(volume):
      write_box(volume, start, random.random(
          [b - a for a, b in zip(start, stop, strict=True)], np.float32))
  return open_volume(path)


if __name__ == '__main__':
  folder_word, name_word, *shape_words = sys.argv[1:]
  print(json.dumps(measure(Path(folder_word), name_word,
                           tuple(map(int, shape_words)))))
