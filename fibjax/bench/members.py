"""Figures of member-parallel training, each in a process of its own.

  python -m fibjax.bench_members SAMPLING N_XY     one JSON object on stdout
  python -m fibjax.bench_members resume FOLDER     the same

The first compares a step of 8 members with steps of one alone, on as many devices as
JAX_NUM_CPU_DEVICES says. The second stops a small sweep five times and compares its
time with that of one which is left alone.
"""
import functools
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np

from fibjax.bench import bench
from fibjax.system import devices
from fibjax.training import loss_expression, optim
from fibjax.training.step import init_state, train_step

_MEMBERS, _STOPS = 8, 5
_N_Z = 3
# Ten minutes of 8 members; what is timed is the whole command.
_SWEEP = ('sweep', '--config=configs/skarberg2021.py:sweep_tiny',
          '--config.sweep.sizes=33x1', '--config.sweep.members=8',
          '--config.sweep.group=8', '--config.train.epochs=120',
          '--config.train.voxel_fraction=0.25')


def members_over_solo(sampling: str, n_xy: int) -> dict[str, float]:
  """(members x steps per second of 8) over (steps per second of one)."""
  padding, crop_px, batch = {'dense': ('context', 64, 2),
                             'patch': ('same', 1, 128)}[sampling]
  model = bench.bench_model(n_xy, _N_Z, padding)
  optimizer, loss = optim.make_optimizer('sgd', 0.99), loss_expression.make_loss('bce')
  regions, samples = bench.training_data(model, crop_px, batch)
  step = functools.partial(train_step, model=model, optimizer=optimizer,
                           loss=loss, crop_px=crop_px)
  start = jax.jit(functools.partial(init_state, model, optimizer))
  functions = {}
  for count in (1, _MEMBERS):
    states = devices.put_members(
        [jax.device_get(start(np.uint32(k))) for k in range(count)])
    inputs = devices.put_members(
        [jax.device_get(bench.step_inputs(samples, loss, k)) for k in range(count)])
    functions[count] = functools.partial(
        devices.map_members(step, count), states, inputs,
        devices.put_shared(regions, count))
  seconds = bench.median_seconds(functions)
  return {'members_over_solo': _MEMBERS * seconds[1] / seconds[_MEMBERS],
          'solo_step_ms': 1e3 * seconds[1]}


def resume_overhead(folder: Path) -> dict[str, float]:
  """Seconds of a sweep stopped five times over those of one that is not."""
  whole = _run_for(folder / 'whole', None)
  times = [_run_for(folder / 'stopped', whole / (_STOPS + 1)) for _ in range(_STOPS)]
  return {'resume_overhead': (sum(times) + _run_for(folder / 'stopped', None)) / whole,
          'sweep_s': whole}


def _run_for(workdir: Path, limit_s: float | None) -> float:
  start = time.perf_counter()
  with subprocess.Popen(
      [sys.executable, '-m', 'fibjax', *_SWEEP, f'--workdir={workdir}'],
      stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
    try:
      process.wait(limit_s)
    except subprocess.TimeoutExpired:
      process.send_signal(signal.SIGTERM)
      process.wait()
  if process.returncode not in (0, 128 + signal.SIGTERM):
    raise RuntimeError(f'the sweep ended with status {process.returncode}')
  return time.perf_counter() - start


if __name__ == '__main__':
  kind, what = sys.argv[1:]
  print(json.dumps(resume_overhead(Path(what)) if kind == 'resume'
                   else members_over_solo(kind, int(what))))
