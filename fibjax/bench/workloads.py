"""Networks, training data and the timer that the figures share."""
import time
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from fibjax.config import base
from fibjax.models import Model, make_model
from fibjax.system import progress
from fibjax.training import loss_expression, sampling
from fibjax.training.step import STEP_SETTINGS, StepInputs, make_hyper

REPEATS = 5


def default_network(n_xy: int, n_z: int, padding: str) -> Model:
  """The network of the default settings, with another size and padding."""
  settings = base().model
  settings.update(n_xy=n_xy, n_z=n_z, padding=padding)
  return make_model(settings)


def median_seconds(functions: Mapping[object, Callable[[], object]]
                   ) -> dict[object, float]:
  """Median seconds of each function, run in turn REPEATS times after a warm-up.

  Args:
    functions: by name; what they return is waited for.
  """
  seconds: dict[object, list[float]] = {name: [] for name in functions}
  rounds = [name for _ in range(1 + REPEATS) for name in functions]
  for name in progress.track(rounds, 'measure', 'run', len(rounds)):
    start = time.perf_counter()
    jax.block_until_ready(functions[name]())
    seconds[name].append(time.perf_counter() - start)
  # The first run of each compiles.
  return {name: float(np.median(times[1:])) for name, times in seconds.items()}


def training_data(model: Model, crop_px: int, batch: int
                  ) -> tuple[sampling.DeviceRegions, sampling.Samples]:
  """Regions of noise on the device, and a batch of their windows.

  Args:
    model: network that is trained.
    crop_px: side of the square of labels in a window.
    batch: windows.
  """
  random = np.random.default_rng(0)
  side = 256 + 2 * model.before_px
  regions = sampling.put_regions(
      random.random((8, side, side, model.n_z), np.float32),
      random.integers(0, 2, (8, 256, 256)).astype(np.uint8), balanced=False)
  corners = random.integers(0, (8, 257 - crop_px, 257 - crop_px), (batch, 3))
  return regions, sampling.Samples(jnp.asarray(corners, jnp.int32), jnp.ones(batch))


def step_inputs(samples: sampling.Samples, loss: loss_expression.Loss,
                seed: int = 0) -> StepInputs:
  """Inputs of a training step beside its state and the regions."""
  hyper = make_hyper(dict.fromkeys(STEP_SETTINGS, 0.1), loss.factors)
  return StepInputs(samples, np.uint32(seed), hyper, np.float32(0.01), np.float32(0))
