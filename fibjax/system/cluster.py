"""Independent units of work, in this process or on other processes and machines.

`Resources` selects where: in this process, on local worker processes, or on the workers
of a Dask scheduler that is already running (launch/slurm.sbatch starts one). A unit
whose worker dies runs again on another one, so a unit must give the same result when it
runs twice. Workers are spawned, never forked, because JAX and TensorStore have threads
that a fork would lose. The ports that Dask opens listen on loopback only.

No other module uses Dask.
"""
import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from fibjax.errors import InputError
from fibjax.system.files import check_file

CONNECT_S = 20
_TRIES = 3  # workers that may die on one unit before it is given up


class Resources(NamedTuple):
  """What a computation may use; results do not depend on it.

  Attributes:
    memory_gb: memory (10^9 bytes) that one process may use for the tiles it works on;
      device memory where the device has its own.
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
  """Whether units run in this process."""
  return not (resources.workers or resources.scheduler)


def run_units(function: Callable, shared: Any, units: list,
              resources: Resources) -> Iterator[tuple[Any, Any]]:
  """Yields (unit, function(shared, unit)) as units finish, in any order.

  Args:
    function: defined at the top level of a module, so that workers can import it.
    shared: input that all units have in common; sent to each worker once.
    units: input of each call.
    resources: where to run.

  Raises:
    InputError: when the scheduler cannot be reached or refuses, and when workers keep
      dying. Errors of the function are passed on.
  """
  if is_here(resources):
    for unit in units:
      yield unit, function(shared, unit)
    return
  if not units:
    return
  import distributed  # here, since the import takes a second and most runs need none
  with _client(resources) as client:
    # Submitted as a task, not scattered: Dask repeats a task when the worker with its
    # result dies.
    shared_future = client.submit(_keep, shared, pure=False)
    futures = {client.submit(function, shared_future, unit, pure=False): unit
               for unit in units}
    try:
      for future in distributed.as_completed(futures, loop=client.loop):
        yield futures.pop(future), future.result()
    except distributed.scheduler.KilledWorker as error:
      raise InputError('the workers', got=f'{error.task}: {_TRIES + 1} of them died',
                       expected='workers that survive',
                       remedy='look at their logs; where memory ran out, lower '
                       '--memory_gb') from None
    except (OSError, TimeoutError, distributed.CancelledError) as error:
      raise InputError(resources.scheduler or 'the workers', got=f'a lost connection '
                       f'({type(error).__name__})', expected='a running scheduler',
                       remedy='finished units are kept: start it, then run the command '
                       'again') from None
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
        'distributed.scheduler.worker-ttl': None,  # a unit may keep a worker busy long
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
      # No memory limit by Dask, which would kill workers: tiles are planned to fit.
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
