"""Groups of figures: what each compares, and how it is measured.

Machines are shared and noisy, so a figure is a ratio of medians of alternating runs in
one process, wherever there is something to compare with; times in microseconds are
given for orientation. Figures assert nothing.
"""
import functools
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fibjax.analysis import permeability
from fibjax.bench.workloads import (
  default_network,
  median_seconds,
  step_inputs,
  training_data,
)
from fibjax.inference import network_scorer
from fibjax.methods import scale_space
from fibjax.methods.forest import fit_forest, score_block
from fibjax.models import conv
from fibjax.models.windows import gather_windows
from fibjax.simulation import structure
from fibjax.simulation.fields import Spectrum
from fibjax.system import progress
from fibjax.system.cluster import HERE
from fibjax.system.devices import map_images, put_everywhere
from fibjax.training import loss_expression, optim
from fibjax.training.step import TrainData, init_state, train_step

_GEMM = 4096  # side of the matrices whose product is the measure of a machine
_N_XY, _N_Z = 113, 3
_SHARD_YX, _EXACT_TILE, _VOXELS = (1024, 1024), 64, 64
# name, side of the output, dilation, kernel, channels, features
_LAYERS = (('1b', 128, 1, 3, 16, 16), ('2b', 128, 2, 3, 32, 32),
           ('3b', 128, 4, 3, 64, 64), ('4b', 128, 8, 3, 80, 80),
           ('fc1', 128, 16, 7, 80, 128))
_USEFUL_FLOP = 2 * 685_552  # per voxel at (113, 3): weights without biases (§9.4)


def _training_step(n_xy: int, n_z: int, padding: str, crop_px: int, batch: int):
  """A training step, and the gathering of its windows, as functions of nothing."""
  model = default_network(n_xy, n_z, padding)
  optimizer = optim.make_optimizer('sgd', 0.99)
  state = init_state(model, optimizer, 0)
  regions, samples = training_data(model, crop_px, batch)
  loss = loss_expression.make_loss('bce')
  step = jax.jit(functools.partial(train_step, model=model, optimizer=optimizer,
                                   loss=loss, crop_px=crop_px))
  gather = jax.jit(lambda r, b: gather_windows(
      r.context_ryxc, b.corners_b3, model.window_px))
  return (functools.partial(step, state, step_inputs(samples, loss),
                            TrainData(regions)),
          functools.partial(gather, regions, samples))


def gather_share() -> dict[str, float]:
  """Share of a training step on 128 patches that gathering their windows takes."""
  figures = {}
  for n_xy, n_z in ((33, 3), (113, 3)):
    step, gather = _training_step(n_xy, n_z, 'same', 1, 128)
    seconds = median_seconds({'gather': gather, 'step': step})
    figures[f'gather_share_{n_xy}_{n_z}'] = seconds['gather'] / seconds['step']
  return figures


class _DenseForms(NamedTuple):
  """Forms of the network (113, 3) to compare.

  Attributes:
    functions: by name; each scores some voxels, 'gemm' multiplies two matrices.
    voxels: how many voxels a function scores.
    params: weights of the context network.
    windows: [2, y, x, n_z] images of the form 'dense'.
    patches: [2, b, y, x, n_z] images of the form 'patch'.
    tile_yx: voxels that are scored of one of the windows.
    reach_px: what a window has more than its tile, at least.
  """
  functions: dict[str, Callable]
  voxels: dict[str, int]
  params: dict
  windows: np.ndarray
  patches: np.ndarray
  tile_yx: tuple[int, int]
  reach_px: int


def _dense_forms() -> _DenseForms:
  context = default_network(_N_XY, _N_Z, 'context')
  published = default_network(_N_XY, _N_Z, 'same')
  params = jax.jit(context.init)(jax.random.key(0))
  tile_yx = network_scorer.choose_tile(_SHARD_YX, context, HERE.memory_gb)
  random = np.random.default_rng(0)
  windows = random.random((2, *map(context.dense_px, tile_yx), _N_Z), np.float32)
  boxes = random.random((2, *(_EXACT_TILE + _N_XY - 1,) * 2, _N_Z), np.float32)
  patches = random.random((2, _VOXELS, _N_XY, _N_XY, _N_Z), np.float32)
  square = jnp.asarray(random.random((_GEMM, _GEMM), np.float32))
  on_devices = put_everywhere(params)
  score_dense = network_scorer.make_score_fn(context, 'dense', tile_yx, 1)
  score_exact = network_scorer.make_score_fn(published, 'dense', (_EXACT_TILE,) * 2, 1)
  score_patch = map_images(published.apply)
  product = jax.jit(jnp.matmul)
  functions = {
      'dense': lambda: list(score_dense(on_devices, windows)),
      'exact': lambda: list(score_exact(on_devices, boxes)),
      'patch': lambda: list(score_patch(on_devices, patches)),
      'gemm': lambda: product(square, square)}
  voxels = {'dense': 2 * math.prod(tile_yx), 'exact': 2 * _EXACT_TILE ** 2,
            'patch': 2 * _VOXELS}
  return _DenseForms(functions, voxels, params, windows, patches, tile_yx,
                     context.window_px - 1)


def dense_forward() -> dict[str, float]:
  """Dense evaluation compared with one patch per voxel, at (113, 3).

  The base is the published, zero-padded network voxel by voxel ('patch'). 'dense' is
  the context network on tiles of the size that `segment` chooses, 'exact' the published
  network with shared work, which gives the same scores. All three run as in `segment`,
  with several images in work.
  """
  forms = _dense_forms()
  return _dense_figures(forms.voxels, median_seconds(forms.functions))


def _dense_figures(voxels: dict[str, int], seconds: dict) -> dict[str, float]:
  voxel_s = {name: seconds[name] / count for name, count in voxels.items()}
  gemm_flops = 2 * _GEMM ** 3 / seconds['gemm']
  figures = {'dense_over_patch': voxel_s['patch'] / voxel_s['dense'],
             'exact_over_patch': voxel_s['patch'] / voxel_s['exact'],
             'dense_fraction_of_gemm': _USEFUL_FLOP / voxel_s['dense'] / gemm_flops,
             'gemm_gflops': gemm_flops / 1e9}
  return figures | {f'{name}_us_per_voxel': 1e6 * value
                    for name, value in voxel_s.items()}


def dense_and_torch() -> dict[str, float]:
  """`dense_forward`, with both forms of the context network in PyTorch beside it."""
  from fibjax.bench import torch_peer
  forms = _dense_forms()
  weights = torch_peer.convert(forms.params, _N_XY // 16)
  rows, columns = (t + forms.reach_px for t in forms.tile_yx)
  window_yxc = forms.windows[0, :rows, :columns]
  seconds = median_seconds(forms.functions | {
      'torch': lambda: torch_peer.apply_dense(weights, window_yxc),
      'torch_patch': lambda: torch_peer.apply_patches(weights, forms.patches[0])})
  figures = _dense_figures(
      forms.voxels | {'torch': math.prod(forms.tile_yx), 'torch_patch': _VOXELS},
      seconds)
  return figures | {
      'dense_over_torch':
          figures['torch_us_per_voxel'] / figures['dense_us_per_voxel'],
      'patch_over_torch':
          figures['torch_patch_us_per_voxel'] / figures['patch_us_per_voxel']}


def dense_train() -> dict[str, float]:
  """Labelled voxels per second of a training step, dense over patch, at (113, 3)."""
  steps = {'dense': _training_step(_N_XY, _N_Z, 'context', 128, 2)[0],
           'patch': _training_step(_N_XY, _N_Z, 'same', 1, 128)[0]}
  seconds = median_seconds(steps)
  dense_s, patch_s = seconds['dense'] / (2 * 128 ** 2), seconds['patch'] / 128
  return {'dense_train_over_patch_train': patch_s / dense_s,
          'dense_train_us_per_voxel': 1e6 * dense_s,
          'patch_train_us_per_voxel': 1e6 * patch_s}


def convolutions() -> dict[str, float]:
  """Seconds of `lax.conv` over those of the product form that conv.py chooses on CPU.

  Per layer of (113, 3), forward and with its gradient, one network and four members:
  below 1, `lax.conv` would be the better choice.
  """
  figures = {}
  for layer, side, dilation, size, channels, width in _LAYERS:
    reach = dilation * (size - 1)
    maps = jnp.ones((1, side + reach, side + reach, channels))
    kernel = jnp.ones((size, size, channels, width)) / channels
    functions = {}
    for form, function in (('lax', conv.conv_lax), ('product', conv.conv_strips)):
      apply = functools.partial(function, dilation=dilation)
      gradient = jax.grad(lambda m, k, f=apply: jnp.sum(f(m, k) ** 2), (0, 1))
      for work, network in (('forward', apply), ('gradient', gradient)):
        members = jax.jit(jax.vmap(network, (None, 0)))
        functions |= {
            (work, 1, form): functools.partial(jax.jit(network), maps, kernel),
            (work, 4, form): functools.partial(members, maps, jnp.stack([kernel] * 4))}
    seconds = median_seconds(functions)
    for work in ('forward', 'gradient'):
      for count in (1, 4):
        figures[f'conv_{layer}_{work}_{count}'] = (
            seconds[work, count, 'lax'] / seconds[work, count, 'product'])
  return figures


def segment() -> dict[str, float]:
  """Memory, overhead and speed of `segment` at (113, 3), each in its own process.

  Peak memory for a volume of two shards and for one of eight; wall time of scoring over
  the time in which scores are computed; share of the wall time that post-processing
  takes; time of one slice of the paper's size.
  """
  # Two shards at least: one is read ahead while another is computed.
  shapes = {'1': (8, 1024, 2048), '4': (8, 2048, 4096), 'slice': (1, 2247, 3372)}
  figures = {}
  with tempfile.TemporaryDirectory() as folder:
    for name, shape in progress.track(shapes.items(), 'segment', 'volume', len(shapes)):
      figures[name] = _in_process('segment', folder, name, *map(str, shape))
  large = figures['4']
  return {'segment_peak_rss_gb': figures['1']['peak_rss_gb'],
          'segment_peak_rss_gb_4': large['peak_rss_gb'],
          'score_io_overhead': large['score_s'] / large['compute_s'],
          'postprocess_share': 1 - large['score_s'] / large['wall_s'],
          'segment_slice_s': figures['slice']['wall_s']}


def members() -> dict[str, float]:
  """Speed of training 8 members over one, on one CPU device and on two."""
  cases = [(sampling, n_xy, devices) for sampling in ('patch', 'dense')
           for n_xy in (33, 65) for devices in (1, 2)]
  figures = {}
  for sampling, n_xy, devices in progress.track(cases, 'members', 'case', len(cases)):
    measured = _in_process('members', sampling, str(n_xy),
                           JAX_NUM_CPU_DEVICES=str(devices))
    name = f'members_over_solo_{sampling}_{n_xy}' + '_pmap' * (devices > 1)
    figures[name] = measured['members_over_solo']
  return figures


def resume() -> dict[str, float]:
  """Time of a sweep stopped five times over one that is not; takes 20 minutes."""
  with tempfile.TemporaryDirectory() as folder:
    return _in_process('members', 'resume', folder)


def forest() -> dict[str, float]:
  """Speed of scoring by a forest of 50 trees on 56 features, including the features.

  Its trees are as deep as those of real films: 100 000 voxels of a noisy image, whose
  labels are half chance, smallest leaf 5.
  """
  random = np.random.default_rng(0)
  margins = scale_space.margin_zyx('F1')
  shape_zyx = 8, 512, 512
  block_zyx = random.random(
      [n + 2 * m for n, m in zip(shape_zyx, margins, strict=True)], np.float32)
  features_nf = scale_space.compute_features(block_zyx, 'F1')[0].reshape(-1, 56)
  chosen = random.choice(len(features_nf), 120_000, replace=False)
  features_nf = features_nf[chosen]
  solid_n = (features_nf[:, 26] + random.normal(0, 0.02, len(chosen)) > 0.5)
  solid_n = solid_n.astype(np.uint8)
  trained, _ = fit_forest(features_nf[:100_000], solid_n[:100_000],
                          features_nf[100_000:], solid_n[100_000:], feature_set='F1',
                          trees=50, min_leaves=(5,))
  seconds = median_seconds({'score': lambda: score_block(trained, block_zyx)})
  return {'forest_mvoxel_per_s': math.prod(shape_zyx) / 1e6 / seconds['score'],
          'forest_nodes_per_tree': len(trained.left_k) / 50}


def permeabilities() -> dict[str, float]:
  """Time of the permeability of 128^3 voxels: half pore, chords of 16 voxels."""
  solid = structure.level_cut((128, 128, 128), Spectrum(length_px=6.), 0.5, 2)
  labels_zyx = structure.whole(solid).astype(np.uint8)
  flow = functools.partial(permeability.permeability, labels_zyx, (10., 10., 10.))
  return {'permeability_s': median_seconds({'flow': flow})['flow'],
          'permeability_iterations': flow().iterations}


def _in_process(module: str, *words: str, **environment: str) -> dict[str, float]:
  """Runs a module of this package in its own process; returns the JSON it prints."""
  command = [sys.executable, '-m', f'fibjax.bench.{module}', *words]
  with subprocess.Popen(command, stdout=subprocess.PIPE, text=True,
                        env={**os.environ, **environment}) as process:
    try:
      printed, _ = process.communicate()
    except BaseException:
      process.terminate()  # not kill: it ends the processes that it has started
      raise
  if process.returncode:
    raise subprocess.CalledProcessError(process.returncode, command)
  return json.loads(printed)


# Figures by group, in the order in which they are measured.
GROUPS: dict[str, Callable[[], dict[str, float]]] = {
    'gather': gather_share, 'dense': dense_forward, 'train': dense_train,
    'conv': convolutions, 'members': members, 'resume': resume, 'segment': segment,
    'forest': forest, 'permeability': permeabilities}
# Groups that another framework can be measured beside, by its package.
PEERS: dict[str, dict[str, Callable[[], dict[str, float]]]] = {
    'torch': {'dense': dense_and_torch}}
