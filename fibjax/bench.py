"""Speed figures as ratios: what is compared runs in turn, in one process.

Machines are shared and noisy, so a figure is a ratio of medians of at least five
alternating runs; times in microseconds stand beside it for orientation. One flat JSON
object. A figure asserts nothing.
"""
import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from fibjax import config, optim, patches, sampling, train, workdir
from fibjax.checks import InputError
from fibjax.models import dense, make_model

_REPEATS = 5
_GEMM = 4096
_USEFUL_FLOP = 2 * 685_552  # per voxel at (113, 3): weights without biases (§9.4)


def _model(n_xy: int, n_z: int, padding: str):
  settings = config.base().model
  settings.update(n_xy=n_xy, n_z=n_z, padding=padding)
  return make_model(settings)


def median_seconds(functions: dict) -> dict[str, float]:
  """Median seconds of each function, run in turn after one warm-up."""
  for function in functions.values():
    jax.block_until_ready(function())
  seconds: dict[str, list[float]] = {name: [] for name in functions}
  for _ in range(_REPEATS):
    for name, function in functions.items():
      start = time.perf_counter()
      jax.block_until_ready(function())
      seconds[name].append(time.perf_counter() - start)
  return {name: float(np.median(values)) for name, values in seconds.items()}


def gather_share() -> dict[str, float]:
  """Share of a patch training step that cutting the neighbourhoods takes (128)."""
  figures = {}
  for n_xy, n_z in ((33, 3), (113, 3)):
    model = _model(n_xy, n_z, 'same')
    optimizer = optim.make_optimizer('sgd', 0.99)
    state = train.init_state(model, optimizer, 0)
    random = np.random.default_rng(0)
    side = 256 + 2 * model.before_px
    regions = sampling.put_regions(
        random.random((8, side, side, n_z), np.float32),
        random.integers(0, 2, (8, 256, 256)).astype(np.uint8), balanced=False)
    corners = random.integers(0, (8, 256, 256), (128, 3)).astype(np.int32)
    samples = sampling.Samples(jnp.asarray(corners), jnp.ones(128))
    hyper = train.Hyper(*(jnp.float32(0.1),) * len(train.Hyper._fields))
    step = jax.jit(lambda s, r, b, h, m=model, o=optimizer: train.train_step(
        s, r, b, h, 0.01, jax.random.key(0), model=m, optimizer=o, crop_px=1))
    gather = jax.jit(lambda r, b, m=model: patches.gather_windows(
        r.context_ryxc, b.corners_b3, m.window_px))
    seconds = median_seconds({
        'gather': lambda: gather(regions, samples),  # noqa: B023
        'step': lambda: step(state, regions, samples, hyper)})  # noqa: B023
    figures[f'gather_share_{n_xy}_{n_z}'] = seconds['gather'] / seconds['step']
  return figures


def dense_forward() -> dict[str, float]:
  """Dense evaluation against one patch per voxel, at (113, 3).

  The base is the published, zero-padded network voxel by voxel: `dense` is the context
  network by fragments, `exact` the published network with shared work, the same scores.
  """
  tile, exact_tile, voxels, n_xy, n_z = 256, 64, 64, 113, 3
  fast, paper = _model(n_xy, n_z, 'context'), _model(n_xy, n_z, 'same')
  params = jax.jit(fast.init)(jax.random.key(0))
  random = np.random.default_rng(0)
  side = dense.window_px(n_xy // 16, tile)
  window = jnp.asarray(random.random((1, side, side, n_z), np.float32))
  exact_side = exact_tile + n_xy - 1
  patches_byxc = jnp.asarray(random.random((voxels, n_xy, n_xy, n_z), np.float32))
  square = jnp.asarray(random.random((_GEMM, _GEMM), np.float32))
  apply_dense, apply_exact, apply = map(jax.jit, (fast.apply_dense, paper.apply_dense,
                                                  paper.apply))
  product = jax.jit(jnp.matmul)
  seconds = median_seconds({
      'dense': lambda: apply_dense(params, window),
      'exact': lambda: apply_exact(params, window[:, :exact_side, :exact_side]),
      'patch': lambda: apply(params, patches_byxc),
      'gemm': lambda: product(square, square)})
  per_voxel = seconds['dense'] / tile ** 2
  gemm_flops = 2 * _GEMM ** 3 / seconds['gemm']
  per_exact = seconds['exact'] / exact_tile ** 2
  return {'dense_over_patch': seconds['patch'] / voxels / per_voxel,
          'exact_over_patch': seconds['patch'] / voxels / per_exact,
          'exact_us_per_voxel': 1e6 * per_exact,
          'dense_us_per_voxel': 1e6 * per_voxel,
          'dense_fraction_of_gemm': _USEFUL_FLOP / per_voxel / gemm_flops,
          'patch_us_per_voxel': 1e6 * seconds['patch'] / voxels,
          'gemm_gflops': gemm_flops / 1e9}


GROUPS = {'gather': gather_share, 'dense': dense_forward}


def main(out=None, only: str | None = None) -> dict[str, float]:
  """Measures, prints the JSON object and writes it to out.

  Args:
    out: file, or None.
    only: comma-separated groups; None for all.

  Raises:
    InputError: for an unknown group.
  """
  chosen = only.split(',') if only else list(GROUPS)
  unknown = sorted(set(chosen) - set(GROUPS))
  if unknown:
    raise InputError('--only', got=', '.join(unknown), expected=', '.join(GROUPS),
                     remedy='name groups of figures')
  if out and (Path(out).is_dir() or not Path(out).absolute().parent.is_dir()):
    raise InputError('--out', got=str(out), expected='a file in a folder that exists',
                     remedy='name another file')
  figures: dict[str, float] = {}
  for name in chosen:
    figures |= GROUPS[name]()
  print(json.dumps(figures, indent=2))
  if out:
    workdir.write_json(out, figures)
  return figures
