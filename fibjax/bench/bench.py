"""Speed figures as ratios: what is compared runs in turn, in one process.

Machines are shared and noisy, so a figure is a ratio of medians of at least five
alternating runs; times in microseconds stand beside it for orientation. One flat JSON
object. A figure asserts nothing.
"""
import functools
import importlib.util
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from fibjax.config import base
from fibjax.errors import InputError, unknown
from fibjax.inference import score
from fibjax.methods import scale_space
from fibjax.methods.forest import fit_forest, score_block
from fibjax.models import conv, make_model
from fibjax.models.windows import gather_windows
from fibjax.system import files
from fibjax.system.cluster import HERE
from fibjax.system.devices import map_images, put_everywhere
from fibjax.training import loss_expression, optim, sampling
from fibjax.training.step import Hyper, Moment, init_state, train_step

_REPEATS = 5
_GEMM = 4096
_N_XY, _N_Z = 113, 3
_SHARD_YX, _EXACT_TILE, _VOXELS = (1024, 1024), 64, 64
# name, side of the output, dilation, kernel, channels, features
_LAYERS = (('1b', 128, 1, 3, 16, 16), ('2b', 128, 2, 3, 32, 32),
           ('3b', 128, 4, 3, 64, 64), ('4b', 128, 8, 3, 80, 80),
           ('fc1', 128, 16, 7, 80, 128))
_USEFUL_FLOP = 2 * 685_552  # per voxel at (113, 3): weights without biases (§9.4)


def bench_model(n_xy: int, n_z: int, padding: str):
  """A network of the default settings but for its size and padding."""
  settings = base().model
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


def _training_step(n_xy: int, n_z: int, padding: str, crop_px: int, batch: int):
  """A step of training as a function of nothing, and the cutting of its samples."""
  model = bench_model(n_xy, n_z, padding)
  optimizer = optim.make_optimizer('sgd', 0.99)
  state = init_state(model, optimizer, 0)
  regions, samples = training_data(model, crop_px, batch)
  loss = loss_expression.make_loss('bce')
  step = jax.jit(functools.partial(train_step, model=model, optimizer=optimizer,
                                   loss=loss, crop_px=crop_px))
  gather = jax.jit(lambda r, b: gather_windows(
      r.context_ryxc, b.corners_b3, model.window_px))
  return (functools.partial(step, state, moment(samples, loss), regions),
          functools.partial(gather, regions, samples))


def training_data(model, crop_px: int, batch: int):
  """Regions of noise on the device, and a batch of their windows."""
  random = np.random.default_rng(0)
  side = 256 + 2 * model.before_px
  regions = sampling.put_regions(
      random.random((8, side, side, model.n_z), np.float32),
      random.integers(0, 2, (8, 256, 256)).astype(np.uint8), balanced=False)
  corners = random.integers(0, (8, 257 - crop_px, 257 - crop_px), (batch, 3))
  return regions, sampling.Samples(jnp.asarray(corners, jnp.int32), jnp.ones(batch))


def moment(samples, loss, seed: int = 0) -> Moment:
  """What a step needs besides its state and the regions."""
  hyper = Hyper(*(np.float32(0.1),) * 5, np.asarray(loss.factors, np.float32))
  return Moment(samples, np.uint32(seed), hyper, np.float32(0.01), np.float32(0))


def gather_share(_: str = '') -> dict[str, float]:
  """Share of a patch training step that cutting the neighbourhoods takes (128)."""
  figures = {}
  for n_xy, n_z in ((33, 3), (113, 3)):
    step, gather = _training_step(n_xy, n_z, 'same', 1, 128)
    seconds = median_seconds({'gather': gather, 'step': step})
    figures[f'gather_share_{n_xy}_{n_z}'] = seconds['gather'] / seconds['step']
  return figures


def dense_forward(peer: str = '') -> dict[str, float]:
  """Dense evaluation against one patch per voxel, at (113, 3).

  The base is the published, zero-padded network voxel by voxel: `dense` is the context
  network on tiles as `segment` chooses them, `exact` the published network with shared
  work, the same scores; all three as `segment` runs them, several images in work. With
  peer 'torch' both forms of the context network in PyTorch as well.
  """
  fast, paper = bench_model(_N_XY, _N_Z, 'context'), bench_model(_N_XY, _N_Z, 'same')
  params = jax.jit(fast.init)(jax.random.key(0))
  tile_yx = score.choose_tile(_SHARD_YX, fast, HERE.memory_gb)
  random = np.random.default_rng(0)
  windows = random.random((2, *map(fast.dense_px, tile_yx), _N_Z), np.float32)
  boxes = random.random((2, *(_EXACT_TILE + _N_XY - 1,) * 2, _N_Z), np.float32)
  patches_byxc = random.random((2, _VOXELS, _N_XY, _N_XY, _N_Z), np.float32)
  square = jnp.asarray(random.random((_GEMM, _GEMM), np.float32))
  held = put_everywhere(params)
  score_dense = score.make_score_fn(fast, 'dense', tile_yx, 1)
  score_exact = score.make_score_fn(paper, 'dense', (_EXACT_TILE,) * 2, 1)
  score_patch = map_images(paper.apply)
  product = jax.jit(jnp.matmul)
  functions = {
      'dense': lambda: list(score_dense(held, windows)),
      'exact': lambda: list(score_exact(held, boxes)),
      'patch': lambda: list(score_patch(held, patches_byxc)),
      'gemm': lambda: product(square, square)}
  voxels = {'dense': 2 * math.prod(tile_yx), 'exact': 2 * _EXACT_TILE ** 2,
            'patch': 2 * _VOXELS}
  if peer == 'torch':
    from fibjax.bench import torch_peer
    weights = torch_peer.convert(params, _N_XY // 16)
    rows, columns = (t + fast.window_px - 1 for t in tile_yx)
    functions |= {
        'torch': lambda: torch_peer.apply_dense(weights, windows[0, :rows, :columns]),
        'torch_patch': lambda: torch_peer.apply_patches(weights, patches_byxc[0])}
    voxels |= {'torch': math.prod(tile_yx), 'torch_patch': _VOXELS}
  seconds = median_seconds(functions)
  each = {name: seconds[name] / count for name, count in voxels.items()}
  gemm_flops = 2 * _GEMM ** 3 / seconds['gemm']
  figures = {'dense_over_patch': each['patch'] / each['dense'],
             'exact_over_patch': each['patch'] / each['exact'],
             'dense_fraction_of_gemm': _USEFUL_FLOP / each['dense'] / gemm_flops,
             'gemm_gflops': gemm_flops / 1e9}
  figures |= {f'{name}_us_per_voxel': 1e6 * value for name, value in each.items()}
  if peer == 'torch':
    figures['dense_over_torch'] = each['torch'] / each['dense']
    figures['patch_over_torch'] = each['torch_patch'] / each['patch']
  return figures


def dense_train(_: str = '') -> dict[str, float]:
  """Labelled voxels per second of a training step, dense over patch, at (113, 3)."""
  steps = {'dense': _training_step(_N_XY, _N_Z, 'context', 128, 2)[0],
           'patch': _training_step(_N_XY, _N_Z, 'same', 1, 128)[0]}
  seconds = median_seconds(steps)
  dense_s, patch_s = seconds['dense'] / (2 * 128 ** 2), seconds['patch'] / 128
  return {'dense_train_over_patch_train': patch_s / dense_s,
          'dense_train_us_per_voxel': 1e6 * dense_s,
          'patch_train_us_per_voxel': 1e6 * patch_s}


def convolutions(_: str = '') -> dict[str, float]:
  """Seconds of `lax.conv` over those of the product form that conv.py chooses on CPU.

  Per layer of (113, 3), forward and with its gradient, one network and four members:
  below 1, the choice would be better the other way round.
  """
  figures = {}
  for name, side, step, size, channels, width in _LAYERS:
    reach = step * (size - 1)
    maps = jnp.ones((1, side + reach, side + reach, channels))
    kernel = jnp.ones((size, size, channels, width)) / channels
    functions = {}
    for form, function in (('lax', conv.conv_lax), ('product', conv.conv_strips)):
      apply = functools.partial(function, dilation=step)
      gradient = jax.grad(lambda m, k, f=apply: jnp.sum(f(m, k) ** 2), (0, 1))
      for kind, one in (('forward', apply), ('gradient', gradient)):
        members = jax.jit(jax.vmap(one, (None, 0)))
        functions |= {
            (kind, 1, form): functools.partial(jax.jit(one), maps, kernel),
            (kind, 4, form): functools.partial(members, maps, jnp.stack([kernel] * 4))}
    seconds = median_seconds(functions)
    for kind in ('forward', 'gradient'):
      for members in (1, 4):
        figures[f'conv_{name}_{kind}_{members}'] = (
            seconds[kind, members, 'lax'] / seconds[kind, members, 'product'])
  return figures


def segment(_: str = '') -> dict[str, float]:
  """Memory, overhead and speed of `segment`, at (113, 3), each in its own process.

  Peak memory for a volume of two shards and for one of eight; wall time over the time
  in which something is computed; the time of one slice of the paper's size.
  """
  figures = {}
  with tempfile.TemporaryDirectory() as folder:
    # Two shards at least: one is read ahead while another is computed.
    for name, shape in (('1', (8, 1024, 2048)), ('4', (8, 2048, 4096)),
                        ('slice', (1, 2247, 3372))):
      figures[name] = _in_process('bench_segment', folder, name, *map(str, shape))
  return {'segment_peak_rss_gb': figures['1']['peak_rss_gb'],
          'segment_peak_rss_gb_4': figures['4']['peak_rss_gb'],
          'segment_io_overhead': figures['4']['wall_s'] / figures['4']['compute_s'],
          'segment_slice_s': figures['slice']['wall_s']}


def members(_: str = '') -> dict[str, float]:
  """Training 8 members at once over training one, on one CPU device and on two."""
  figures = {}
  for sampling_kind in ('patch', 'dense'):
    for n_xy in (33, 65):
      for devices in (1, 2):
        found = _in_process('bench_members', sampling_kind, str(n_xy),
                            JAX_NUM_CPU_DEVICES=str(devices))
        name = f'members_over_solo_{sampling_kind}_{n_xy}'
        figures[name + '_pmap' * (devices > 1)] = found['members_over_solo']
  return figures


def resume(_: str = '') -> dict[str, float]:
  """A sweep stopped five times over one that is not; a quarter of an hour."""
  with tempfile.TemporaryDirectory() as folder:
    return _in_process('bench_members', 'resume', folder)


def forest(_: str = '') -> dict[str, float]:
  """Speed of scoring by a forest of 50 trees on 56 features, these included.

  Its trees are as deep as those of real films: 100 000 voxels of a noisy image, whose
  labels are half chance, smallest leaf 5.
  """
  random = np.random.default_rng(0)
  margins = scale_space.margin_zyx('F1')
  inner = 8, 512, 512
  block_zyx = random.random([n + 2 * m for n, m in zip(inner, margins, strict=True)],
                            np.float32)
  smooth_yx = scale_space.compute_features(block_zyx, 'F1')[0].reshape(-1, 56)
  chosen = random.choice(len(smooth_yx), 120_000, replace=False)
  solid = (smooth_yx[chosen, 26] + random.normal(0, 0.02, len(chosen)) > 0.5)
  grown, _ = fit_forest(
      smooth_yx[chosen[:100_000]], solid[:100_000].astype(np.uint8),
      smooth_yx[chosen[100_000:]], solid[100_000:].astype(np.uint8), feature_set='F1',
      trees=50, min_leaves=(5,))
  seconds = median_seconds({'score': lambda: score_block(grown, block_zyx)})
  return {'forest_mvoxel_per_s': math.prod(inner) / 1e6 / seconds['score'],
          'forest_nodes_per_tree': len(grown.left_k) / 50}


def _in_process(module: str, *words: str, **environment: str) -> dict[str, float]:
  done = subprocess.run([sys.executable, '-m', f'fibjax.{module}', *words], check=True,
                        stdout=subprocess.PIPE, env={**os.environ, **environment})
  return json.loads(done.stdout)


GROUPS = {'gather': gather_share, 'dense': dense_forward, 'train': dense_train,
          'conv': convolutions, 'members': members, 'resume': resume,
          'segment': segment, 'forest': forest}


def main(out=None, only: str | None = None, peer: str = '') -> dict[str, float]:
  """Measures, prints the JSON object and writes it to out.

  Args:
    out: file, or None.
    only: comma-separated groups; None for all.
    peer: 'torch' to measure PyTorch beside the group 'dense'.

  Raises:
    InputError: for an unknown group, a peer that is not installed, a bad out.
  """
  chosen = only.split(',') if only else list(GROUPS)
  for name in chosen:
    if name not in GROUPS:
      raise unknown('--only', name, GROUPS, 'name groups of figures')
  if peer and importlib.util.find_spec(peer) is None:
    raise InputError(f'--peer {peer}', got='a package that is not installed',
                     expected='it beside fibjax', remedy='pip install -e .[torch]')
  if out and (Path(out).is_dir() or not Path(out).absolute().parent.is_dir()):
    raise InputError('--out', got=str(out), expected='a file in a folder that exists',
                     remedy='name another file')
  figures: dict[str, float] = {}
  for name in chosen:
    figures |= GROUPS[name](peer)
  print(json.dumps(figures, indent=2))
  if out:
    files.write_json(out, figures)
  return figures
