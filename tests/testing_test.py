"""`check_method` finds what is wrong with a method."""

import dataclasses

import jax.numpy as jnp
import pytest

from sslx import methods, testing
from sslx.methods.base import Method
from sslx.models import heads
from tests import tiny

pytestmark = pytest.mark.slow


@dataclasses.dataclass(frozen=True, kw_only=True)
class Faulty(Method):
  """A method of one view with a fault, or with none."""

  num_views = (1, 1)

  projector: heads.MLP
  fault: str = ""

  def loss(self, run):
    run.features = run("backbone", run.views[0])
    z = run.features if self.fault == "dead" else run("projector", run.features)
    if self.fault == "nan":
      z = jnp.sqrt(z - 1e3)
    if self.fault == "device":  # The mean of the device, not of the batch.
      return jnp.sum(jnp.square(jnp.mean(z, axis=0)))
    return jnp.mean(jnp.square(z))


def check(monkeypatch, fault):
  monkeypatch.setitem(methods.METHODS, "faulty", Faulty)
  config = tiny.method_config("simclr")
  with config.unlocked(), config.ignore_type():
    config.model = {
      "method": "faulty",
      "backbone": {"name": "flat"},
      "projector": {"dims": (16, 8), "last_norm": "none"},
      "fault": fault,
      "norm_groups": 1,
      "dtype": "float32",
    }
    config.data.views = ({**config.data.views[0], "count": 1},)
  lines = []
  testing.check_method(config, devices=(1, 2), note=lines.append)
  return lines


def test_a_method_without_a_fault_passes(monkeypatch):
  told = check(monkeypatch, "")
  assert [line.split(":")[0] for line in told] == [
    "finite",
    "gradients",
    "pjit on 2 devices",
    "pmap on 1 device",
    "pmap on 2 devices",
    "micro-batches are refused",
    "resumed from a checkpoint",
  ]


@pytest.mark.parametrize(
  ("fault", "message"),
  [
    ("nan", "loss or gradient is not finite: nan"),
    ("dead", "no gradient reaches projector/"),
    ("device", r"pmap on 2 devices: metrics/\w+ differs after one step"),
  ],
)
def test_a_fault_is_found_and_named(monkeypatch, fault, message):
  with pytest.raises(testing.CheckError, match=message):
    check(monkeypatch, fault)
