"""What every method has from `Method`, and what is refused of one."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sslx import methods
from sslx.axis import Axis
from sslx.config import ConfigError
from sslx.methods.base import Method, Plan
from sslx.methods.run import Run
from sslx.models import heads
from tests import tiny

PLAN = Plan(batch_size=16, steps_per_epoch=4, total_steps=8)
MLP = {"dims": (16, 8)}
PATCHES = {"kind": "patches", "size": 5, "resize": 20, "crop": 18}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Follower(Method):
  """A student that its teacher follows, faster at the end."""

  teachers = ("backbone", "projector")
  evaluated = "teacher"

  projector: heads.MLP
  wrong: str = ""

  def draw(self, rng, batch):
    params, model_state, buffers = super().draw(rng, batch)
    return params, model_state, {**buffers, "calls": jnp.float32(0)}

  def momentum_at(self, step):
    return 1 - (step + 1) / self.plan.total_steps

  def loss(self, run):
    h = run("backbone", run.views[0])
    z = run("projector", h)
    target = run.teacher("projector", run.teacher("backbone", run.views[1]))
    run.buffers["calls"] += 1
    run.features = z.mean() if self.wrong == "features" else h
    run.metrics["progress"] = z if self.wrong == "metric" else run.progress
    return jnp.square(z - target) if self.wrong == "loss" else jnp.mean(z)


@pytest.fixture
def known(monkeypatch):
  """Adds a class to METHODS, and builds it."""

  def build(cls, **section):
    monkeypatch.setitem(methods.METHODS, "mine", cls)
    section = {"backbone": {"name": "convs"}, "projector": MLP} | section
    return methods.build({"method": "mine"} | section, PLAN)

  return build


def run_of(method, seed=0):
  """A run on a drawn batch, and the trees that it starts from."""
  rng = np.random.default_rng(seed)
  draw = lambda: jnp.asarray(rng.normal(size=(16, 12, 12, 3)), jnp.float32)
  batch = {"views": (draw(), draw())}
  trees = method.init(jax.random.key(seed), batch)
  step = jnp.int32(2)
  return Run(method, *trees, batch, jax.random.key(1), step, Axis()), trees


def test_the_teacher_is_a_copy_that_follows_the_student(known):
  method = known(Follower)
  run, (params, model_state, aux) = run_of(method)
  assert set(aux) == {"params", "model_state", "calls"}
  jax.tree.map(np.testing.assert_array_equal, aux["params"], params)
  loss, output = run.loss()
  assert loss.shape == ()
  assert float(output.metrics["progress"]) == 2 / 8
  assert float(output.aux["calls"]) == 1
  # Each network's statistics move by its own images.
  for new in (output.model_state, output.aux["model_state"]):
    moved = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), new, model_state)
    assert all(jax.tree.leaves(moved))
  there = output.model_state, output.aux["model_state"]
  assert bool(jnp.any(there[0]["backbone"]["bn1"]["mean"]
                      != there[1]["backbone"]["bn1"]["mean"]))  # fmt: skip

  updated = jax.tree.map(lambda x: x + 1.0, params)
  _, after = method.after_update(updated, aux, output.aux, jnp.int32(2))
  # The momentum of the third update is 1 - 3 / 8.
  expected = jax.tree.map(lambda x: x + 3 / 8, params)
  tiny.assert_close(after["params"], expected, 1e-6)
  assert float(after["calls"]) == 1


def test_no_gradient_reaches_the_teacher_s_input(known):
  method = known(Follower)
  run, _ = run_of(method)
  through = lambda x: jnp.sum(run.teacher("backbone", x) ** 2)
  assert not np.any(jax.grad(through)(run.views[0]))


def test_the_evaluated_network_may_be_the_teacher(known):
  method = known(Follower)
  _, (params, model_state, aux) = run_of(method)
  aux = {**aux, "params": jax.tree.map(jnp.zeros_like, aux["params"])}
  chosen = method.of_network(params, model_state, aux)
  images = jnp.ones((2, 12, 12, 3))
  zero = method.encode(*chosen, images)["final"]
  assert np.ptp(zero) == 0
  assert np.ptp(method.encode(params, model_state, images)["final"]) > 0


def test_features_of_the_projector_can_be_evaluated(known):
  method = known(Follower)
  _, (params, model_state, _) = run_of(method)
  images = jnp.ones((2, 12, 12, 3)) * jnp.array([1.0, 2]).reshape(2, 1, 1, 1)
  found = method.encode(params, model_state, images)
  assert set(found) == {"final", "stage3", "projector"}
  variables = {
    "params": params["projector"],
    "batch_stats": model_state["projector"],
  }
  expected = method.projector.apply(variables, found["final"], train=False)
  np.testing.assert_array_equal(found["projector"], expected)
  # Of an exported backbone alone there are the others.
  alone = {"backbone": params["backbone"]}
  assert set(method.encode(alone, model_state, images)) == {"final", "stage3"}


@pytest.mark.parametrize(
  ("wrong", "message"),
  [
    ("features", r"Follower.loss must set run.features to f32\[b, d\]"),
    ("metric", r"run.metrics\['progress'\] of shape \(16, 8\); a metric is a"),
    ("loss", r"Follower.loss has shape \(16, 8\); it is a scalar"),
  ],
)
def test_a_loss_that_gives_something_else_is_told(known, wrong, message):
  run, _ = run_of(known(Follower, wrong=wrong))
  with pytest.raises(TypeError, match=message):
    run.loss()


class NoMethod:
  pass


@dataclasses.dataclass(frozen=True)
class OfItsOwn:
  backbone: str = "convs"


class Undecorated(Follower):
  pass


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoLoss(Method):
  projector: heads.MLP


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoMomentum(NoLoss):
  teachers = ("backbone",)

  def loss(self, run):
    return jnp.float32(0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoTeacher(NoMomentum):
  teachers = ()
  evaluated = "teacher"


@dataclasses.dataclass(frozen=True, kw_only=True)
class OtherTeacher(Follower):
  teachers = ("backbone", "predictor")


@pytest.mark.parametrize(
  ("cls", "message"),
  [
    (NoMethod, "base_test.NoMethod, which is not a subclass of methods.base"),
    (OfItsOwn, "base_test.OfItsOwn, which is not a subclass"),
    (Undecorated, "Undecorated, which is not a dataclass.*Decorate it with"),
    (NoLoss, "NoLoss, which does not define `loss`"),
    (NoMomentum, "which has `teachers`, but neither a field `momentum`"),
    (NoTeacher, "`evaluated` is 'teacher', but 'backbone' is not among"),
    (OtherTeacher, "has 'predictor' among its `teachers`; .* 'projector'"),
  ],
)
def test_a_class_that_is_no_method_is_one_clear_error(known, cls, message):
  with pytest.raises(ConfigError, match=message):
    known(cls)


def test_a_class_without_keys_is_an_error_of_the_config(monkeypatch):
  monkeypatch.setitem(methods.METHODS, "mine", NoMethod)
  with pytest.raises(ConfigError, match="base_test.NoMethod is not a dataclas"):
    tiny.config(model__method="mine")


@pytest.mark.parametrize(
  ("method", "views", "message"),
  [
    ("simclr", PATCHES, "of kind 'patches'; SimCLR takes .* 'crop'"),
    ("swav", PATCHES, "of kind 'patches'; SwAV takes .* 'crop'"),
    ("simclr", {"size": 12, "count": 3}, "are 3 views of each image; SimCLR t"),
    ("mocov2", {"size": 12}, "is 1 view of each image; MoCo takes 2"),
    ("swav", {"size": 12}, "is 1 view of each image; SwAV takes 2 or more"),
  ],
)
def test_views_that_a_method_cannot_use_are_refused(method, views, message):
  with pytest.raises(ConfigError, match=message):
    tiny.build_method(tiny.method_config(method, views=(views,)))
