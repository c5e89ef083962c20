"""Independent units of work, in this process or on other processes and machines.

`Resources` selects where: in this process, on local worker processes, or on the workers
of a Dask scheduler that is already running (launch/slurm.sbatch starts one). A unit
whose worker dies runs again on another one, so a unit must give the same result when it
runs twice. Workers are spawned, never forked, because JAX and TensorStore have threads
that a fork would lose.

Dask unpickles what it receives: whoever can talk to a scheduler or a worker runs code
as its user. The ports of local workers therefore listen on loopback only, and even
there accept only a client with the certificate that is made for the call. A scheduler
of the user has to be a 'tls://' one, or be named insecure.

What workers and their libraries print goes to a log in the temporary folder, which is
kept when workers die; lines of progress (`progress.say`) reach stderr.

No other module uses Dask.
"""
import concurrent.futures
import contextlib
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, NamedTuple

from fibjax.errors import InputError
from fibjax.system import progress
from fibjax.system.files import check_absent, check_file, write_text

CONNECT_S = 8  # to reach a scheduler
_WORKERS_S = 60  # until its first worker is there, or local ones
_TRIES = 3  # workers that may die on one unit before it is given up
_MAX_WORKERS = 4096
_CERTIFICATES = ('ca', 'cert', 'key')
_LOG = 'FIBJAX_WORKER_LOG'  # environment variable of local workers, and its file


class Resources(NamedTuple):
  """What a computation may use; results do not depend on it.

  Attributes:
    memory_gb: memory (10^9 bytes) that one process may use for the tiles it works on;
      device memory where the device has its own.
    workers: local worker processes; 0 computes in this process.
    scheduler: address of a running Dask scheduler, e.g. 'tls://10.0.0.1:8786'.
    tls_ca, tls_cert, tls_key: PEM files for it (`write_certificates`).
    insecure: whether the scheduler may be one without TLS.
  """
  memory_gb: float = 1.5
  workers: int = 0
  scheduler: str = ''
  tls_ca: str = ''
  tls_cert: str = ''
  tls_key: str = ''
  insecure: bool = False


HERE = Resources()


def is_here(resources: Resources) -> bool:
  """Whether units run in this process."""
  return not (resources.workers or resources.scheduler)


def check_resources(resources: Resources) -> None:
  """Checks what can be checked without a connection, so before any work.

  Raises:
    InputError: for a negative number of workers, workers and a scheduler, a scheduler
      without TLS that is not allowed to be insecure, or missing PEM files.
  """
  workers, scheduler = resources.workers, resources.scheduler
  if not 0 <= workers <= _MAX_WORKERS or (workers and scheduler):
    raise InputError('--workers', got=f'{workers} with --scheduler={scheduler!r}',
                     expected=f'0 to {_MAX_WORKERS}, and only one of both',
                     remedy='leave one of them out')
  files = {name: getattr(resources, f'tls_{name}') for name in _CERTIFICATES}
  if not scheduler.startswith('tls://'):
    if scheduler and not resources.insecure:
      raise InputError(
          f'--scheduler {scheduler}', got='a scheduler without TLS',
          expected='tls://HOST:PORT with --tls_ca, --tls_cert and --tls_key',
          remedy='use TLS, or add --insecure where nobody else can reach its port: '
          'whoever can runs code as you')
    if any(files.values()):
      raise InputError('--tls_ca, --tls_cert, --tls_key',
                       got=f'--scheduler={scheduler!r}', expected='tls://HOST:PORT',
                       remedy='leave them out, or use a scheduler with TLS')
    return
  for name, file in files.items():
    check_file(f'--tls_{name}', file)


def write_certificates(folder) -> None:
  """Writes ca.pem, cert.pem and key.pem for a scheduler, its workers and its clients.

  Whoever can read key.pem can use the cluster. They are valid for a year.

  Args:
    folder: must not exist; is made for its owner only.

  Raises:
    InputError: when folder exists or cannot be written.
  """
  import distributed
  security = distributed.Security.temporary()
  contents = (security.tls_ca_file, security.tls_client_cert, security.tls_client_key)
  folder = Path(folder)
  check_absent(folder)
  folder.mkdir(mode=0o700)
  for name, content in zip(_CERTIFICATES, contents, strict=True):
    write_text(folder / f'{name}.pem', content)


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
  check_resources(resources)
  import distributed  # here, since the import takes a second and most runs need none
  with _client(resources) as (client, log):
    # Submitted as a task, not scattered: Dask repeats a task when the worker with its
    # result dies.
    shared_future = client.submit(_keep, shared, pure=False)
    futures = {client.submit(_call, function, shared_future, unit, pure=False): unit
               for unit in units}
    try:
      for future in distributed.as_completed(futures, loop=client.loop):
        result, error = future.result()
        if error is not None:
          raise _UnitError from error
        yield futures.pop(future), result
    except _UnitError as error:
      raise error.__cause__ from None
    except distributed.scheduler.KilledWorker:
      raise InputError('the workers', got=f'{_TRIES + 1} that died on one unit',
                       expected='workers that survive',
                       remedy=f'look at {_keep_log(log)}; where memory ran out, lower '
                       '--memory_gb') from None
    except (OSError, TimeoutError, distributed.CancelledError) as error:
      raise InputError(resources.scheduler or 'the workers', got='a lost connection '
                       f'({type(error).__name__})', expected='a running scheduler',
                       remedy='finished units are kept: start it, then run the command '
                       'again') from None
    finally:
      with contextlib.suppress(Exception):  # the scheduler may be gone
        client.cancel(list(futures))


def dask_setup(worker) -> None:
  """Keeps the terminal free of a local worker's output; Dask calls it at its start."""
  del worker
  progress.divert_stderr(os.environ[_LOG])


class _UnitError(Exception):
  """Raised from an error of a unit, to tell it from those of the connection."""


def _call(function, shared, unit):
  """(result, None) or, for an error that Dask's own could be, (None, error)."""
  try:
    return function(shared, unit), None
  except (OSError, concurrent.futures.CancelledError) as error:
    return None, error


def _keep(shared):
  return shared


@contextlib.contextmanager
def _client(resources: Resources):
  """Yields a client and the log of its workers; None where they have their own."""
  import dask
  import distributed
  with contextlib.ExitStack() as stack:
    stack.enter_context(dask.config.set({
        'distributed.worker.multiprocessing-method': 'spawn',
        'distributed.scheduler.allowed-failures': _TRIES,
        'distributed.scheduler.worker-ttl': None,  # a unit may keep a worker busy long
        'distributed.comm.timeouts.connect': f'{CONNECT_S}s',
        'distributed.admin.large-graph-warning-threshold': '1GB',
        # Pages about the cluster, which would have no password.
        'distributed.scheduler.http.routes': [], 'distributed.worker.http.routes': []}))
    stack.enter_context(_silent_loggers())
    if not resources.scheduler:
      folder = Path(stack.enter_context(
          tempfile.TemporaryDirectory(prefix='fibjax-', ignore_cleanup_errors=True)))
      stack.enter_context(dask.config.set({'temporary-directory': str(folder)}))
      security = distributed.Security.temporary()
      local = stack.enter_context(_local_cluster(resources.workers, security, folder))
      yield stack.enter_context(distributed.Client(
          local, security=security, set_as_default=False)), folder / _LOG
      return
    try:
      client = stack.enter_context(distributed.Client(
          resources.scheduler, security=_security(resources), timeout=CONNECT_S,
          set_as_default=False))
      client.wait_for_workers(1, timeout=_WORKERS_S)
    except (OSError, TimeoutError, ValueError, RuntimeError) as error:
      raise InputError(
          f'--scheduler {resources.scheduler}',
          got=f'{type(error).__name__}: {error}'.partition('\n')[0],
          expected='a Dask scheduler with workers',
          remedy='start one, or leave it out to compute here') from None
    yield client, None


@contextlib.contextmanager
def _silent_loggers():
  """Keeps what Dask logs in this process off stderr, whoever listens to all loggers."""
  loggers = [logging.getLogger(name) for name in ('distributed', 'tornado', 'asyncio')]
  before = [(logger.propagate, list(logger.handlers)) for logger in loggers]
  for logger in loggers:
    # Not none, or Python would print warnings and errors itself.
    logger.propagate, logger.handlers[:] = False, [logging.NullHandler()]
  try:
    yield
  finally:
    for logger, (propagates, handlers) in zip(loggers, before, strict=True):
      logger.propagate, logger.handlers[:] = propagates, handlers


def _local_cluster(workers: int, security, folder: Path):
  """Starts workers on this machine; their log and files are in folder."""
  import distributed
  # Threads and processes that are started here inherit that SIGINT is blocked: Ctrl-C
  # in a terminal reaches all processes, and it is this one that ends the workers.
  block = getattr(signal, 'pthread_sigmask', lambda *_: set())
  before = block(getattr(signal, 'SIG_BLOCK', 0), {signal.SIGINT})
  # Its process warns about what a worker that died has left.
  sys.warnoptions.append('ignore::UserWarning:multiprocessing.resource_tracker')
  try:
    resource_tracker.ensure_running()
    # No memory limit by Dask, which would kill workers: tiles are planned to fit.
    return distributed.LocalCluster(
        n_workers=workers, threads_per_worker=1, host='127.0.0.1', memory_limit=0,
        security=security, dashboard_address='127.0.0.1:0',
        silence_logs=logging.CRITICAL, local_directory=str(folder),
        preload=[__name__], env={_LOG: str(folder / _LOG)})
  except (OSError, TimeoutError, RuntimeError) as error:
    raise InputError(f'--workers {workers}', got=f'{type(error).__name__}: {error}',
                     expected=f'{workers} processes that start',
                     remedy=f'look at {_keep_log(folder / _LOG)}, or use fewer'
                     ) from None
  finally:
    sys.warnoptions.pop()
    block(getattr(signal, 'SIG_SETMASK', 2), before)


def _keep_log(log: Path | None) -> str:
  """Copies the log of local workers out of their folder; how a message names it."""
  if log is None or not log.exists():
    return 'their logs'
  handle, kept = tempfile.mkstemp(prefix='fibjax-workers-', suffix='.log')
  with open(handle, 'wb') as file:
    file.write(log.read_bytes())
  return kept


def _security(resources: Resources):
  import distributed
  if not resources.tls_ca:
    return None
  return distributed.Security(
      tls_ca_file=resources.tls_ca, tls_client_cert=resources.tls_cert,
      tls_client_key=resources.tls_key, require_encryption=True)
