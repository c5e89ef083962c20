"""Work spread over the devices of this machine; the only user of jax.pmap.

`map_images` gives every device one image at a time. `map_members` runs one function for
many members of a sweep or ensemble (a member is a seed with its hyper-parameters).

Members are spread in one of two ways:
* Several devices, or one that is not a CPU: members are stacked to arrays
  [device, local member, ..], padded with copies of the last member, and one program is
  pmapped over the devices. On a CPU it is unrolled over the local members, elsewhere it
  loops over them.
* One CPU device: a list of members, each of which runs the program of a solo run, two
  at a time in threads. There this is faster than vmap, a loop or an unrolled program
  (2026-11), and every bit is that of the solo run.
"""
import collections
import functools
import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fibjax.system import memory

_AXIS = 'device'


def count_in_work() -> int:
  """How many images or members run at once on one device.

  Two on a CPU: a single one leaves a third of two cores idle, between its operations
  and in those that are too small to be shared by threads (2026-11, jaxlib 0.10).
  """
  return 2 if jax.default_backend() == 'cpu' and len(jax.local_devices()) == 1 else 1


def map_images(function: Callable) -> Callable:
  """Builds (shared, images) -> results, one image at a time on every local device.

  Args:
    function: pure, (shared, image) -> array.

  Returns:
    A function that takes a pytree from `put_everywhere` and an iterable of images of
    one shape, and returns an iterator over numpy results in the same order. Where fewer
    images than devices are left, copies of them fill the other devices. Build it once:
    it keeps the compiled program.
  """
  devices = jax.local_devices()
  if len(devices) == 1:
    single = jax.jit(function)
    return lambda shared, images: _in_turn(
        lambda image: np.asarray(single(shared, image)), images)
  mapped = jax.pmap(function, axis_name=_AXIS, in_axes=(None, 0))

  def map_all(shared, images):
    images = iter(images)
    while batch := list(itertools.islice(images, len(devices))):
      filled = [batch[i % len(batch)] for i in range(len(devices))]
      yield from list(np.asarray(mapped(shared, np.stack(filled))))[:len(batch)]
  return map_all


def put_everywhere(tree: Any) -> Any:
  """Puts a pytree of arrays once on every local device, for `map_images`."""
  return put_shared(tree, len(jax.local_devices()))


def _in_turn(function: Callable, images):
  """Yields function(image) in order, `count_in_work` images at a time."""
  pool, waiting = _pool(count_in_work()), collections.deque()
  for image in images:
    waiting.append(pool.submit(function, image))
    if len(waiting) == count_in_work():
      yield waiting.popleft().result()
  while waiting:
    yield waiting.popleft().result()


@functools.cache
def _pool(count: int) -> ThreadPoolExecutor:
  """A pool that is kept: with new threads in every call, the C library's memory grows
  from call to call."""
  return ThreadPoolExecutor(count)


def put_members(trees: list) -> Any:
  """Puts members on the devices.

  Args:
    trees: one pytree of arrays per member; all of the same structure and shapes.

  Returns:
    The members as `map_members` takes them: a list of pytrees on one CPU device, else
    one pytree of arrays [device, local member, ..], padded with copies of the last
    member.
  """
  devices = _member_devices(len(trees))
  if _one_by_one(devices):
    return [jax.device_put(tree, devices[0]) for tree in trees]
  local = -(-len(trees) // len(devices))
  filled = trees + trees[-1:] * (len(devices) * local - len(trees))
  stacked = jax.tree.map(
      lambda leaf: leaf.reshape(len(devices), local, *leaf.shape[1:]), stack(filled))
  return jax.device_put(stacked, NamedSharding(_mesh(devices), PartitionSpec(_AXIS)))


def put_shared(tree: Any, count: int) -> Any:
  """Puts a pytree of arrays once on every device that `count` members use."""
  devices = _member_devices(count)
  return jax.device_put(tree, devices[0] if _one_by_one(devices) else
                        NamedSharding(_mesh(devices), PartitionSpec()))


def fetch_members(members: Any, count: int) -> list:
  """Returns host copies of the first `count` members, one pytree each; no padding."""
  if isinstance(members, list):
    return jax.device_get(members)
  return unstack(jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]),
                              jax.device_get(members)), count)


def stack(trees: list) -> Any:
  """Stacks one pytree per member to one pytree of host arrays [member, ..]."""
  return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def unstack(stacked: Any, count: int) -> list:
  """Undoes `stack`: one pytree for each of the first `count` members."""
  return [jax.tree.map(lambda leaf, k=k: leaf[k], stacked) for k in range(count)]


def unzip(members: Any) -> tuple:
  """Turns members that are tuples into a tuple of members, one for each entry."""
  if isinstance(members, list):
    return tuple(list(entries) for entries in zip(*members, strict=True))
  return members


def map_members(function: Callable, count: int, donate: bool = False,
                unroll: bool | None = None) -> Callable:
  """Builds (members, each, shared) -> results, for all members at once.

  Args:
    function: pure, (member, each, shared) -> result.
    count: number of members.
    donate: whether the result may reuse the buffers of the member, which is then lost.
    unroll: whether the members of a device stand one after the other in its program,
      instead of in a loop; None: as suits the device.

  Returns:
    A function of members and each, both from `put_members` (each may be None), and
    shared, from `put_shared`. It returns the results, which are members again. Build it
    once: it keeps the compiled program.
  """
  devices, donated = _member_devices(count), (0,) if donate else ()
  if _one_by_one(devices):
    single = jax.jit(function, donate_argnums=donated)

    def run(members, each, shared):
      each = [None] * len(members) if each is None else each
      return list(_in_turn(lambda pair: jax.block_until_ready(single(*pair, shared)),
                           zip(members, each, strict=True)))
    return run

  def local(members, each, shared):
    if not (_unrolled(devices) if unroll is None else unroll):
      return lax.map(lambda pair: function(*pair, shared), (members, each))
    local_count = jax.tree.leaves(members)[0].shape[0]
    results = [function(*jax.tree.map(lambda leaf, k=k: leaf[k], (members, each)),
                        shared) for k in range(local_count)]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *results)
  return jax.pmap(local, axis_name=_AXIS, in_axes=(0, 0, None), devices=devices,
                  donate_argnums=donated)


def _member_devices(count: int) -> list:
  """The devices that `count` members are spread over; at most one per member."""
  return jax.local_devices()[:count]


def _one_by_one(devices: list) -> bool:
  """Whether each member runs its solo program."""
  return len(devices) == 1 and devices[0].platform == 'cpu'


def _unrolled(devices: list) -> bool:
  """Whether the program of a device repeats its code for every local member.

  On a CPU, XLA's gradients of convolutions are many times slower inside a loop
  (2026-11). On other devices a loop runs as fast and compiles once for all members.
  """
  return devices[0].platform == 'cpu'


def _mesh(devices: list) -> Mesh:
  return Mesh(np.array(devices), (_AXIS,))



def device_memory_bytes() -> int:
  """Memory of the first device; on CPU that of the machine."""
  statistics = jax.local_devices()[0].memory_stats()
  if statistics and 'bytes_limit' in statistics:
    return statistics['bytes_limit']
  return memory.total_bytes()
