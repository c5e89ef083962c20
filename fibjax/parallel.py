"""Work shared by the devices of this machine: the only user of jax.pmap."""
import collections
import functools
import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

_AXIS = 'device'


def count_in_work() -> int:
  """How many images `map_images` has in work at once on one device.

  On CPU two: an image alone leaves a third of two cores idle, between its operations
  and in those too small to be shared (2026-11, jaxlib 0.10).
  """
  return 2 if jax.default_backend() == 'cpu' and len(jax.local_devices()) == 1 else 1


def map_images(function: Callable, shared) -> Callable:
  """Builds images -> results that gives every local device an image at a time.

  Args:
    function: pure, (shared, image) -> array.
    shared: pytree, put on every device once.

  Returns:
    A function of an iterable of equal images [..] to an iterator of numpy results, in
    order. The last images share the devices with copies of themselves.
  """
  devices = jax.local_devices()
  if len(devices) == 1:
    single = jax.jit(function)
    held = jax.device_put(shared, devices[0])
    return functools.partial(_in_turn, lambda image: np.asarray(single(held, image)))
  mapped = jax.pmap(function, axis_name=_AXIS, in_axes=(None, 0))
  held = jax.device_put(shared, NamedSharding(Mesh(np.array(devices), (_AXIS,)),
                                              PartitionSpec()))

  def map_all(images):
    images = iter(images)
    while part := list(itertools.islice(images, len(devices))):
      filled = [part[i % len(part)] for i in range(len(devices))]
      yield from list(np.asarray(mapped(held, np.stack(filled))))[:len(part)]
  return map_all


def _in_turn(function: Callable, images):
  """Yields function(image) in order, `count_in_work` images at a time."""
  with ThreadPoolExecutor(count_in_work()) as pool:
    waiting = collections.deque()
    for image in images:
      waiting.append(pool.submit(function, image))
      if len(waiting) == count_in_work():
        yield waiting.popleft().result()
    while waiting:
      yield waiting.popleft().result()
