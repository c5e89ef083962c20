"""Independent units of work, here or on other processes and machines.

`Resources` says where: in this process, on local worker processes, or on the workers of
a Dask scheduler that runs already (launch/slurm.sbatch starts one). A unit whose worker
dies runs again elsewhere, so a unit must give the same when it is done twice. Workers
are spawned, never forked: JAX and TensorStore hold threads. What Dask opens listens on
loopback.

This is the only module that knows Dask.
"""
import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from fibjax.errors import InputError
from fibjax.system.files import check_file

CONNECT_S = 20
_TRIES = 3  # deaths of workers that one unit survives


class Resources(NamedTuple):
  """What a computation may use; it changes no result.

  Attributes:
    memory_gb: memory (10^9 bytes) of one process for the tiles in work, on the device
      where it has memory of its own.
    workers: local worker processes; 0 computes in this process.
    scheduler: address of a running Dask scheduler, e.g. 'tcp://10.0.0.1:8786'.
    tls_ca, tls_cert, tls_key: PEM files for a 'tls://' scheduler.
  """
  memory_gb: float = 1.5
  workers: int = 0
  scheduler: str = ''
  tls_ca: str = ''
  tls_cert: str = ''
  tls_key: str = ''


HERE = Resources()


def is_here(resources: Resources) -> bool:
  """Whether units are done in this process."""
  return not (resources.workers or resources.scheduler)


def run_units(function: Callable, shared: Any, units: list,
              resources: Resources) -> Iterator[tuple[Any, Any]]:
  """Yields (unit, function(shared, unit)) as they are finished, in any order.

  Args:
    function: of the package's top level, so that workers find it.
    shared: what all units need; it is sent to a worker once.
    units: what is different.
    resources: where to work.

  Raises:
    InputError: when the scheduler is not there or not ours, when workers keep dying,
      and what the function raises.
  """
  if is_here(resources):
    for unit in units:
      yield unit, function(shared, unit)
    return
  if not units:
    return
  import distributed  # takes a second, which most calls can do without
  with _client(resources) as client:
    # As the result of a task it is made again when the worker that holds it dies.
    held = client.submit(_keep, shared, pure=False)
    futures = {client.submit(function, held, unit, pure=False): unit for unit in units}
    try:
      for future in distributed.as_completed(futures, loop=client.loop):
        yield futures.pop(future), future.result()
    except distributed.scheduler.KilledWorker as error:
      raise InputError('the workers', got=f'{error.task}: {_TRIES + 1} of them died',
                       expected='workers that live', remedy='look at their logs; with '
                       'too little memory lower --memory_gb') from None
    except (OSError, TimeoutError, distributed.CancelledError) as error:
      raise InputError(resources.scheduler or 'the workers', got=f'a lost connection '
                       f'({type(error).__name__})', expected='a running scheduler',
                       remedy='what is finished is kept: start it and call again'
                       ) from None
    finally:
      with contextlib.suppress(Exception):  # the scheduler may be gone
        client.cancel(list(futures))


def _keep(shared):
  return shared


@contextlib.contextmanager
def _client(resources: Resources):
  import dask
  import distributed
  with contextlib.ExitStack() as stack:
    stack.enter_context(dask.config.set({
        'distributed.worker.multiprocessing-method': 'spawn',
        'distributed.scheduler.allowed-failures': _TRIES,
        'distributed.scheduler.worker-ttl': None,  # a unit may hold its worker long
        'distributed.comm.timeouts.connect': f'{CONNECT_S}s',
        'distributed.admin.large-graph-warning-threshold': '1GB'}))
    if resources.scheduler:
      security = _security(resources)
      try:
        client = stack.enter_context(distributed.Client(
            resources.scheduler, security=security, timeout=CONNECT_S,
            set_as_default=False))
        client.wait_for_workers(1, timeout=CONNECT_S)
      except (OSError, TimeoutError, ValueError, RuntimeError) as error:
        raise InputError(
            f'--scheduler {resources.scheduler}',
            got=f'{type(error).__name__}: {error}'.partition('\n')[0],
            expected='a Dask scheduler with workers',
            remedy='start one, or leave it out to compute here') from None
    else:
      # Dask must not stop a worker for its memory: a tile's memory is planned.
      local = stack.enter_context(distributed.LocalCluster(
          n_workers=resources.workers, threads_per_worker=1, host='127.0.0.1',
          dashboard_address='127.0.0.1:0', memory_limit=0, silence_logs=50))
      client = stack.enter_context(distributed.Client(local, set_as_default=False))
    yield client


def _security(resources: Resources):
  import distributed
  files = {name: getattr(resources, name) for name in ('tls_ca', 'tls_cert', 'tls_key')}
  if not any(files.values()):
    return None
  for name, file in files.items():
    check_file(f'--{name}', file)
  return distributed.Security(
      tls_ca_file=resources.tls_ca, tls_client_cert=resources.tls_cert,
      tls_client_key=resources.tls_key, require_encryption=True)
