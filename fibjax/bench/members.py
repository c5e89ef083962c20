"""Figures of member-parallel training, each in a process of its own.

  python -m fibjax.bench.members SAMPLING N_XY     one JSON object on stdout
  python -m fibjax.bench.members resume FOLDER     the same

`fibjax bench` runs it. The first compares a step of 8 members with a step of one, on
JAX_NUM_CPU_DEVICES devices. The second stops a small sweep five times and compares its
time with that of an undisturbed one.
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

from fibjax.bench.workloads import (
  default_network,
  median_seconds,
  step_inputs,
  training_data,
)
from fibjax.system import devices, progress
from fibjax.training import loss_expression, optim
from fibjax.training.step import TrainData, init_state, train_step

_MEMBERS, _STOPS = 8, 5
_N_Z = 3
_CONFIG = Path(__file__).parents[2] / 'configs' / 'skarberg2021.py'
# Ten minutes of 8 members; the whole command is timed.
_SWEEP = ('sweep', f'--config={_CONFIG}:sweep_tiny',
          '--config.sweep.sizes=33x1', '--config.sweep.members=8',
          '--config.sweep.group=8', '--config.train.epochs=120',
          '--config.train.voxel_fraction=0.25')


def members_over_solo(sampling: str, n_xy: int) -> dict[str, float]:
  """(members x steps per second of 8) over (steps per second of one)."""
  padding, crop_px, batch = {'dense': ('context', 64, 2),
                             'patch': ('same', 1, 128)}[sampling]
  model = default_network(n_xy, _N_Z, padding)
  optimizer, loss = optim.make_optimizer('sgd', 0.99), loss_expression.make_loss('bce')
  regions, samples = training_data(model, crop_px, batch)
  step = functools.partial(train_step, model=model, optimizer=optimizer,
                           loss=loss, crop_px=crop_px)
  start = jax.jit(functools.partial(init_state, model, optimizer))
  functions = {}
  for count in (1, _MEMBERS):
    states = devices.put_members(
        [jax.device_get(start(np.uint32(k))) for k in range(count)])
    inputs = devices.put_members(
        [jax.device_get(step_inputs(samples, loss, k)) for k in range(count)])
    functions[count] = functools.partial(
        devices.map_members(step, count), states, inputs,
        devices.put_shared(TrainData(regions), count))
  seconds = median_seconds(functions)
  return {'members_over_solo': _MEMBERS * seconds[1] / seconds[_MEMBERS],
          'solo_step_ms': 1e3 * seconds[1]}


def resume_overhead(folder: Path) -> dict[str, float]:
  """Seconds of a sweep that is stopped five times over those of an undisturbed one."""
  progress.say('resume: a sweep of about ten minutes, undisturbed')
  undisturbed_s = _run_sweep(folder / 'undisturbed', None)
  stopped_s = 0.
  limits_s = [undisturbed_s / (_STOPS + 1)] * _STOPS + [None]
  for limit_s in progress.track(limits_s, 'resume', 'part', len(limits_s)):
    stopped_s += _run_sweep(folder / 'stopped', limit_s)
  return {'resume_overhead': stopped_s / undisturbed_s, 'sweep_s': undisturbed_s}


def _run_sweep(workdir: Path, limit_s: float | None) -> float:
  """Seconds of a sweep that ends by itself, or is sent SIGTERM after limit_s."""
  start = time.perf_counter()
  with subprocess.Popen(
      [sys.executable, '-m', 'fibjax', *_SWEEP, f'--workdir={workdir}'],
      stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
    try:
      process.wait(limit_s)
    except subprocess.TimeoutExpired:
      process.terminate()
    except BaseException:
      process.terminate()
      raise
  if process.returncode not in (0, 128 + signal.SIGTERM):
    raise RuntimeError(f'the sweep ended with status {process.returncode}')
  return time.perf_counter() - start


if __name__ == '__main__':
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
  figure, argument = sys.argv[1:]
  print(json.dumps(resume_overhead(Path(argument)) if figure == 'resume'
                   else members_over_solo(figure, int(argument))))
