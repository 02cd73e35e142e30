"""The page on writing a method: its code runs, from outside the package."""

import inspect
import pathlib
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sslx import methods, settings, testing
from sslx.axis import Axis
from sslx.methods.base import Method, Plan
from sslx.methods.run import Run
from tests import tiny

PAGE = pathlib.Path(methods.__file__).parent / "README.md"
MODULE, CONFIG = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
BACKBONE = '{"name": "resnet", "depth": 18, "stem": "cifar"}'


@pytest.fixture
def spec(tmp_path, monkeypatch):
  """Writes the page's module, and its config with one of the backbones."""
  (tmp_path / "my_byol.py").write_text(MODULE)
  monkeypatch.syspath_prepend(tmp_path)
  monkeypatch.setitem(methods.METHODS, "my_byol", None)
  del methods.METHODS["my_byol"]

  def spec(backbone):
    assert CONFIG.count(BACKBONE) == 1
    file = tmp_path / "mine.py"
    file.write_text(CONFIG.replace(BACKBONE, repr({"name": backbone})))
    return str(file)

  yield spec
  sys.modules.pop("my_byol", None)


def load(spec):
  small = {
    "data.batch_size": 16,
    "data.views.0.size": 12,
    "model.projector.dims": (16, 8),
    "model.predictor.dims": (16, 8),
    # The first update is zero.
    "schedule.epochs": 2,
    "schedule.lr.warmup": 1.0,
    "schedule.optimizer.lr": 1.0,
  }
  return settings.load(spec, [(k, repr(v)) for k, v in small.items()])


def test_a_method_takes_at_most_sixty_lines():
  assert len(MODULE.splitlines()) <= 60


def test_the_tables_name_what_there_is():
  rows = re.findall(r"^\| (`.*?`) \|", PAGE.read_text(), re.M)
  names = re.findall(r"`(\w+)", " ".join(rows))
  own = [name for name in names if name != "run"]
  assert len(own) == 15
  assert all(hasattr(Method, name) for name in own)
  members = {m for row in rows for m in re.findall(r"`run\.(\w+)", row)}
  assert len(members) == 16
  inside = inspect.getsource(Run)
  assert all(f"self.{name}" in inside or hasattr(Run, name) for name in members)


@pytest.mark.slow
def test_it_does_what_every_method_must(spec):
  lines = []
  testing.check_method(load(spec("convs")), note=lines.append)
  assert any(line.startswith("pmap on 8 devices: the same") for line in lines)
  assert any("BYOL does not declare `accumulates`" in line for line in lines)
  assert lines[-1] == "resumed from a checkpoint: bitwise the same"


def test_its_loss_and_target_are_those_of_the_paper(spec):
  """Eq. 1 and 2 in numpy, from the outputs of the networks."""
  method = methods.build(load(spec("flat")).model, Plan(16, 4, 8))
  rng = np.random.default_rng(0)
  draw = lambda: jnp.asarray(rng.normal(size=(16, 12, 12, 3)), jnp.float32)
  views = draw(), draw()
  params, state, aux = method.init(jax.random.key(0), {"views": views})
  aux = {**aux, "params": jax.tree.map(lambda x: x * 1.1, aux["params"])}
  run = Run(
    method, params, state, aux, {"views": views}, jax.random.key(0),
    jnp.int32(0), Axis(),
  )  # fmt: skip
  loss, output = run.loss()

  def unit(x):
    x = np.asarray(x, np.float64)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)

  def outputs(params, x, *names):
    for name in names:
      variables = {"params": params[name], "batch_stats": state[name]}
      x = getattr(method, name).apply(
        variables, x, train=True, mutable=["batch_stats"]
      )[0]
    return unit(x)

  online = [
    outputs(params, x, "backbone", "projector", "predictor") for x in views
  ]
  target = [outputs(aux["params"], x, "backbone", "projector") for x in views]
  expected = sum(
    np.mean(np.sum((q - z) ** 2, axis=-1))
    for q, z in zip(online, target[::-1], strict=True)
  )
  np.testing.assert_allclose(loss, expected, rtol=1e-5)
  # The momentum after the fourth of 8 steps, of which three came before.
  tau = 1 - (1 - 0.996) * (np.cos(np.pi * 3 / 8) + 1) / 2
  _, after = method.after_update(params, aux, output.aux, jnp.int32(3))
  follow = lambda old, new: tau * old + (1 - tau) * new
  trained = {name: params[name] for name in ("backbone", "projector")}
  tiny.assert_close(
    after["params"], jax.tree.map(follow, aux["params"], trained), 1e-6
  )
