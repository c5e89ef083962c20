"""Units on workers: real processes on loopback, some of which die."""
import errno
import gc
import os
import pickle
import signal
import socket
import ssl
import stat
import subprocess
import sys
import time
import warnings
from pathlib import Path

import distributed
import pytest

from fibjax.errors import InputError
from fibjax.system import cluster, progress
from fibjax.system.cluster import Resources
from fibjax.system.refusals import RefusedError

ROOT = Path(__file__).parents[1]
# Dask leaves its connection to a worker that died to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    'ignore:unclosed <ssl.SSLSocket:ResourceWarning')


@pytest.fixture(autouse=True)
def _collected():
  yield
  gc.collect()


def add(shared, unit):
  return shared + unit


def add_slowly(shared, unit):
  time.sleep(0.2)
  return os.getpid()


def die_once(marker, unit):
  """Kills its process at unit 3, the first time."""
  if unit == 3 and not marker.exists():
    marker.touch()
    os.kill(os.getpid(), signal.SIGKILL)
  return unit


def die_always(_, unit):
  os.kill(os.getpid(), signal.SIGKILL)


def complain(_, unit):
  raise InputError('thing', got=unit, expected='none', remedy='stop')


def test_here_units_come_in_order_and_nothing_is_started():
  assert list(cluster.run_units(add, 10, [1, 2, 3], cluster.HERE)) == [
      (1, 11), (2, 12), (3, 13)]


def test_an_error_arrives_whole_from_another_process():
  error = InputError('a', got=1, expected=2, remedy='b')
  copy = pickle.loads(pickle.dumps(error))
  assert isinstance(copy, InputError)
  assert (str(copy), copy.name) == (str(error), 'a')


@pytest.mark.long
def test_two_local_workers_share_the_units_and_leave():
  found = dict(cluster.run_units(add_slowly, 0, list(range(8)), Resources(workers=2)))
  assert sorted(found) == list(range(8))
  pids = set(found.values())
  assert len(pids) == 2 and os.getpid() not in pids
  for _ in range(50):
    if not any(os.path.exists(f'/proc/{pid}') for pid in pids):
      break
    time.sleep(0.2)
  assert not any(os.path.exists(f'/proc/{pid}') for pid in pids)


@pytest.mark.long
def test_the_units_of_a_killed_worker_run_elsewhere(tmp_path):
  found = dict(cluster.run_units(die_once, tmp_path / 'dead', list(range(6)),
                                 Resources(workers=2)))
  assert (tmp_path / 'dead').exists()
  assert found == {unit: unit for unit in range(6)}


@pytest.mark.long
def test_a_unit_that_kills_every_worker_is_an_error():
  with pytest.raises(InputError, match='workers.*died'):
    list(cluster.run_units(die_always, 0, [1], Resources(workers=1)))


@pytest.mark.long
def test_what_a_unit_raises_arrives():
  with pytest.raises(InputError, match='thing: got 1, expected none; stop'):
    list(cluster.run_units(complain, 0, [1], Resources(workers=1)))


def refuse(kind, unit):
  raise {'refused': RefusedError('disk', got='a', expected='b', remedy='c'),
         'system': OSError(errno.ENOSPC, 'full', '/some/file')}[kind]


@pytest.mark.long
def test_what_the_system_refuses_a_worker_is_no_lost_connection():
  with pytest.raises(RefusedError, match='disk: got a'):
    list(cluster.run_units(refuse, 'refused', [1], Resources(workers=1)))
  with pytest.raises(OSError, match='full') as caught:
    list(cluster.run_units(refuse, 'system', [1], Resources(workers=1)))
  assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, '/some/file')


def babble(_, unit):
  """Prints in all the ways in which a library does, and a line of progress."""
  warnings.warn('a warning', stacklevel=1)
  print('a print', file=sys.stderr)
  os.write(2, b'from C\n')
  progress.say(f'unit {unit}')
  return unit


BABBLING = """
import logging, signal
from fibjax.system import cluster, signals
from tests import test_cluster
signal.signal(signal.SIGINT, signal.default_int_handler)
logging.basicConfig(level=logging.INFO)  # as a library does
if __name__ == '__main__':
  with signals.end_at_signals('resume'):
    list(cluster.run_units(test_cluster.{function}, 0, [1],
                           cluster.Resources(workers=1)))
"""


def start(function):
  return subprocess.Popen(
      [sys.executable, '-c', BABBLING.format(function=function)], cwd=ROOT, text=True,
      stderr=subprocess.PIPE, start_new_session=True,
      env={**os.environ, 'PYTHONPATH': str(ROOT)})


@pytest.mark.long
def test_workers_print_progress_alone():
  process = start('babble')
  assert process.communicate(timeout=60)[1] == 'unit 1\n'
  assert process.returncode == 0


def say_and_wait(_, unit):
  babble(_, unit)
  time.sleep(60)


@pytest.mark.long
def test_ctrl_c_in_a_terminal_prints_one_line():
  process = start('say_and_wait')
  assert process.stderr.readline() == 'unit 1\n'
  os.killpg(process.pid, signal.SIGINT)  # as a terminal does: workers get it, too
  assert process.communicate(timeout=30)[1] == 'fibjax: interrupted; resume\n'
  assert process.returncode == 130


def print_and_die(_, unit):
  os.write(2, b'a last word\n')
  os._exit(1)


@pytest.mark.long
def test_the_log_of_workers_that_died_is_kept_and_named(monkeypatch, tmp_path, capfd):
  monkeypatch.setattr('tempfile.tempdir', str(tmp_path))
  with pytest.raises(InputError, match='fibjax-workers-.*log') as caught:
    list(cluster.run_units(print_and_die, 0, [1], Resources(workers=1)))
  log, = tmp_path.iterdir()  # and nothing else is left
  assert str(log) in str(caught.value)
  assert 'a last word' in log.read_text()
  assert capfd.readouterr().err == ''


def connects(address, security) -> bool:
  """Whether a client of that security reaches a scheduler or a worker."""
  try:
    with distributed.Client(address, security=security, timeout=2,
                            set_as_default=False):
      return True
  except (OSError, TimeoutError, RuntimeError):
    return False


def speaks_tls(address, certificates=None) -> bool:
  """Whether a server accepts a bare TLS connection."""
  context = ssl.create_default_context()
  context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
  if certificates:
    context.load_cert_chain(certificates / 'cert.pem', certificates / 'key.pem')
  host, port = address.removeprefix('tls://').split(':')
  try:
    with (socket.create_connection((host, int(port)), 5) as plain,
          context.wrap_socket(plain) as channel):
      return bool(channel.recv(1))  # Dask's server speaks first
  except (ssl.SSLError, ConnectionError):
    return False


@pytest.mark.long
def test_local_workers_listen_to_the_holder_of_the_certificate_alone(tmp_path):
  cluster.write_certificates(tmp_path / 'other')
  with cluster._client(Resources(workers=1)) as (client, _):
    scheduler = client.scheduler.address
    worker, = client.scheduler_info()['workers']
    assert scheduler.startswith('tls://127.0.0.1:')
    assert worker.startswith('tls://127.0.0.1:')
    assert connects(scheduler, client.security)
    assert not connects(scheduler.replace('tls', 'tcp'), None)
    assert not connects(scheduler, distributed.Security.temporary())
    for address in (scheduler, worker):
      assert not speaks_tls(address)
      assert not speaks_tls(address, tmp_path / 'other')


def test_certificates_are_for_their_owner_alone(tmp_path):
  folder = tmp_path / 'tls'
  cluster.write_certificates(folder)
  assert sorted(path.name for path in folder.iterdir()) == [
      'ca.pem', 'cert.pem', 'key.pem']
  if os.name == 'posix':
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
  with pytest.raises(InputError, match='already exists'):
    cluster.write_certificates(folder)


def secured(folder, address):
  return Resources(scheduler=address, **{
      f'tls_{name}': str(folder / f'{name}.pem') for name in ('ca', 'cert', 'key')})


@pytest.mark.long
def test_a_scheduler_with_the_written_certificates_works(tmp_path):
  folder = tmp_path / 'tls'
  cluster.write_certificates(folder)
  own = {f'tls_{role}_{name}': str(folder / f'{name}.pem')
         for role in ('scheduler', 'worker', 'client') for name in ('cert', 'key')}
  security = distributed.Security(tls_ca_file=str(folder / 'ca.pem'),
                                  require_encryption=True, **own)
  with distributed.LocalCluster(
      n_workers=1, host='127.0.0.1', dashboard_address='127.0.0.1:0',
      security=security, silence_logs=50) as running:
    here = secured(folder, running.scheduler_address)
    assert dict(cluster.run_units(add, 1, [1, 2], here)) == {1: 2, 2: 3}


def free_address() -> str:
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    return f'127.0.0.1:{free.getsockname()[1]}'


@pytest.mark.parametrize('limit_s', [
    1, pytest.param(cluster.CONNECT_S, marks=pytest.mark.long)])
def test_a_scheduler_that_is_not_there_is_named_in_time(monkeypatch, limit_s):
  assert cluster.CONNECT_S < 10
  monkeypatch.setattr(cluster, 'CONNECT_S', limit_s)
  address = f'tcp://{free_address()}'
  start = time.monotonic()
  with pytest.raises(InputError, match=f'--scheduler {address}.*start one'):
    list(cluster.run_units(add, 1, [1], Resources(scheduler=address, insecure=True)))
  assert time.monotonic() - start < limit_s + 2


@pytest.mark.long
def test_a_server_that_never_answers_is_named_within_ten_seconds(tmp_path):
  cluster.write_certificates(tmp_path / 'tls')
  with socket.create_server(('127.0.0.1', 0)) as silent:  # accepts, and says nothing
    address = f'tls://127.0.0.1:{silent.getsockname()[1]}'
    start = time.monotonic()
    with pytest.raises(InputError, match=f'--scheduler {address}'):
      list(cluster.run_units(add, 1, [1], secured(tmp_path / 'tls', address)))
    assert time.monotonic() - start < 10


def test_an_insecure_scheduler_has_to_be_named_so():
  with pytest.raises(InputError, match='without TLS.*--insecure.*runs code as you'):
    list(cluster.run_units(add, 1, [1], Resources(scheduler='tcp://10.0.0.1:8786')))
  with pytest.raises(InputError, match='--tls_ca.*tls://HOST:PORT'):
    cluster.check_resources(Resources(tls_ca='ca.pem'))


def test_missing_tls_files_are_named(tmp_path):
  resources = Resources(scheduler='tls://127.0.0.1:1', tls_ca=str(tmp_path / 'ca.pem'))
  with pytest.raises(InputError, match='--tls_ca.*ca.pem'):
    list(cluster.run_units(add, 1, [1], resources))
