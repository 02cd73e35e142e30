"""Processes of several hosts that talk through one store."""

import concurrent.futures
import socket
import threading
import types

import pytest
from jax._src import distributed

from sslx import agree, peers, settings
from sslx.config import ConfigError
from sslx.data import sets
from sslx.job import Job


class Store:
  """The key-value store of JAX's coordination service, in memory."""

  def __init__(self):
    self.values, self.changed = {}, threading.Condition()

  def key_value_set(self, key, value, allow_overwrite=False):
    with self.changed:
      assert allow_overwrite or key not in self.values
      self.values[key] = value
      self.changed.notify_all()

  def blocking_key_value_get(self, key, timeout_in_ms):
    with self.changed:
      found = self.changed.wait_for(
        lambda: key in self.values, timeout_in_ms / 1000
      )
      assert found, key
      return self.values[key]


@pytest.fixture
def each(monkeypatch):
  """Calls a function with the peers of each process, in a thread of its own."""
  store, hosts = Store(), ("host-a", "host-b", "host-c")
  found = []
  for index, host in enumerate(hosts):
    state = types.SimpleNamespace(
      client=store, process_id=index, num_processes=len(hosts)
    )
    with monkeypatch.context() as patch:
      patch.setattr(distributed, "global_state", state)
      patch.setattr(socket, "gethostname", lambda host=host: host)
      found.append(peers.Peers(heartbeat_timeout=10))

  def call(function):
    with concurrent.futures.ThreadPoolExecutor(len(hosts)) as pool:
      futures = [pool.submit(function, i, x) for i, x in enumerate(found)]
      return [future.exception() or future.result() for future in futures]

  return call


VALUES = [{"a": {"b": 1}}, {"host": "mine"}, [1, None], "text", None, 7]


@pytest.mark.parametrize("value", VALUES, ids=str)
def test_a_value_arrives_as_it_was_given(each, value):
  assert each(lambda i, x: x.broadcast("n", value, 5.0)) == [value] * 3
  assert each(lambda i, x: x.gather("n", value, 5.0)) == [
    [value] * 3,
    None,
    None,
  ]


def test_a_difference_is_told_to_all(each):
  differs = lambda ours, theirs: f"{theirs}, not {ours}" * (ours != theirs)
  told = each(lambda i, x: x.check_same("n", {"lr": i // 2}, differs, 5.0))
  assert all(isinstance(error, ConfigError) for error in told)
  assert len({str(error) for error in told}) == 1
  assert "process 2: {'lr': 1}, not {'lr': 0}\n" in str(told[0])
  assert "process 1" not in str(told[0])


class Set(sets.Images):
  num_classes = 3

  def __len__(self):
    return 7

  def fingerprint(self):
    return {"names": "0f"}


def test_hosts_that_are_alike_may_start(each, monkeypatch):
  """Only their names differ."""
  monkeypatch.setattr(agree, "_TOGETHER", 5.0)
  config = settings.load("sslx:simclr.py:quickstart")
  experiment = types.SimpleNamespace(train=Set(), test=None)

  def start(index, found):
    job = Job(peers=found)
    agree.check_processes(job, config)
    return agree.on_data(job, experiment)

  data = {"training set": {"images": 7, "classes": 3, "names": "0f"}}
  assert each(start) == [data] * 3
