"""Work shared by the devices of this machine: the only user of jax.pmap."""
from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

_AXIS = 'device'


def map_images(function: Callable, shared) -> Callable:
  """Builds images -> results that gives every local device an image at a time.

  Args:
    function: pure, (shared, image) -> array.
    shared: pytree, put on every device once.

  Returns:
    A function of a list of equal images [..] to the list of numpy results, in order.
    The last images share the devices with copies of themselves.
  """
  devices = jax.local_devices()
  if len(devices) == 1:
    single = jax.jit(function)
    held = jax.device_put(shared, devices[0])
    return lambda images: [np.asarray(single(held, image)) for image in images]
  mapped = jax.pmap(function, axis_name=_AXIS, in_axes=(None, 0))
  held = jax.device_put(shared, NamedSharding(Mesh(np.array(devices), (_AXIS,)),
                                              PartitionSpec()))

  def map_all(images):
    results = []
    for first in range(0, len(images), len(devices)):
      part = images[first:first + len(devices)]
      filled = [part[i % len(part)] for i in range(len(devices))]
      results += list(np.asarray(mapped(held, np.stack(filled))))[:len(part)]
    return results
  return map_all
