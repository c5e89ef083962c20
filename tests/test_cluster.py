"""Units on workers: real processes on loopback, some of which die."""
import os
import pickle
import signal
import socket
import time

import pytest

from fibjax.errors import InputError
from fibjax.system import cluster
from fibjax.system.cluster import Resources


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


def test_a_scheduler_that_is_not_there_is_named(monkeypatch):
  monkeypatch.setattr(cluster, 'CONNECT_S', 1)
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    address = f'tcp://127.0.0.1:{free.getsockname()[1]}'
  with pytest.raises(InputError, match=f'--scheduler {address}.*start one'):
    list(cluster.run_units(add, 1, [1], Resources(scheduler=address)))


def test_missing_tls_files_are_named(tmp_path):
  resources = Resources(scheduler='tls://127.0.0.1:1', tls_ca=str(tmp_path / 'ca.pem'))
  with pytest.raises(InputError, match='--tls_ca.*ca.pem'):
    list(cluster.run_units(add, 1, [1], resources))
