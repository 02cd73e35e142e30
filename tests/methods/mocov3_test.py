"""MoCo v3 against the official algorithm written out, and on any devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sslx import experiment as experiment_lib
from sslx import step as step_lib
from sslx.axis import Axis
from sslx.config import ConfigError
from sslx.methods.run import Run
from tests import naive, tiny
from tests.models.vit_test import official_positions
from tests.naive import assert_near
from tests.step_test import three_steps

HEADS, TEMPERATURE = 2, 0.2


def encoder(params, images):
  """Keys, or queries before the predictor."""
  b = len(images)
  x = images.reshape(b, 4, 4, 4, 4, 3).transpose(0, 1, 3, 2, 4, 5)
  vit = params["backbone"]
  x = naive.linear(x.reshape(b, 16, 48), vit["patch_embed"]["proj"])
  x = x + official_positions(32, 4, "row")
  cls = jnp.tile(vit["cls_token"], (b, 1, 1))
  x = naive.blocks(jnp.concatenate([cls, x], 1), vit, HEADS)
  return naive.mlp(x[:, 0], params["projector"])


def contrast(q, k):
  normal = lambda x: x / jnp.linalg.norm(x, axis=1, keepdims=True)
  logits = normal(q) @ normal(k).T / TEMPERATURE
  log_p = logits - jax.scipy.special.logsumexp(logits, 1, keepdims=True)
  return -jnp.diag(log_p).mean() * 2 * TEMPERATURE


def official_steps(params, views, total, *, lr, decay):
  """`moco/builder.py` and torch's AdamW, one batch of views after another."""
  trained = lambda tree: {
    **tree,
    "backbone": {k: v for k, v in tree["backbone"].items() if k[:5] != "patch"},
  }
  momentum_encoder = {k: params[k] for k in ("backbone", "projector")}
  frozen = params["backbone"]["patch_embed"]
  params = trained(params)
  first = second = jax.tree.map(jnp.zeros_like, params)
  whole = lambda tree: {
    **tree,
    "backbone": {**tree["backbone"], "patch_embed": frozen},
  }
  losses, grads_of = [], []
  for t, (x1, x2) in enumerate(views):
    m = 1 - 0.5 * (1 + np.cos(np.pi * t / total)) * (1 - 0.99)
    online = {k: whole(params)[k] for k in ("backbone", "projector")}
    momentum_encoder = jax.tree.map(
      lambda k, q, m=m: m * k + (1 - m) * q, momentum_encoder, online
    )
    k1, k2 = encoder(momentum_encoder, x1), encoder(momentum_encoder, x2)

    def loss_of(params, x1=x1, x2=x2, k1=k1, k2=k2):
      q1, q2 = (
        naive.mlp(encoder(whole(params), x), params["predictor"])
        for x in (x1, x2)
      )
      return contrast(q1, k2) + contrast(q2, k1)

    loss, grads = jax.jit(jax.value_and_grad(loss_of))(params)
    rate = lr * 0.5 * (1 + np.cos(np.pi * t / total))
    first = jax.tree.map(lambda a, g: 0.9 * a + 0.1 * g, first, grads)
    second = jax.tree.map(lambda a, g: 0.999 * a + 0.001 * g * g, second, grads)
    params = jax.tree.map(
      lambda p, a, b, t=t, rate=rate: (
        p * (1 - rate * decay * (p.ndim > 1))
        - rate
        * (a / (1 - 0.9 ** (t + 1)))
        / (jnp.sqrt(b / (1 - 0.999 ** (t + 1))) + 1e-3)
      ),
      params,
      first,
      second,
    )
    losses.append(loss)
    grads_of.append(grads)
  return losses, grads_of, whole(params), momentum_encoder


@pytest.fixture(scope="module")
def reference():
  return three_steps(tiny.vit_config("mocov3"), 1)


def test_three_steps_equal_the_official_algorithm(reference):
  experiment = experiment_lib.build(
    tiny.vit_config("mocov3"), jax.devices()[:1]
  )
  start, metrics, state = reference
  rng = jax.random.wrap_key_data(start.rng)
  make = jax.jit(lambda b, k: experiment.step.preprocess(b, k, Axis()))
  views = [make(tiny.batch(i), step_lib.step_keys(rng, i)[0]) for i in range(3)]
  total = experiment.total_steps
  optimizer = experiment.schedule.optimizer
  lr = optimizer.lr * tiny.BATCH / optimizer.lr_batch
  losses, grads, params, momentum_encoder = official_steps(
    start.params, views, total, lr=lr, decay=optimizer.weight_decay
  )
  for i in range(3):
    norm = jnp.sqrt(sum(jnp.sum(g * g) for g in jax.tree.leaves(grads[i])))
    np.testing.assert_allclose(metrics[i]["loss"], losses[i], rtol=1e-4)
    np.testing.assert_allclose(metrics[i]["grad_norm"], norm, rtol=1e-3)
  assert_near(
    jax.tree.map(jnp.subtract, state.params, start.params),
    jax.tree.map(jnp.subtract, params, start.params),
    2e-2,
  )
  # The state is ready for the next step: the reference is one update behind.
  method = experiment.step.method
  m = method.momentum_at(3 / method.plan.total_steps)
  online = {k: params[k] for k in ("backbone", "projector")}
  followed = jax.tree.map(
    lambda k, q: m * k + (1 - m) * q, momentum_encoder, online
  )
  keys = {k: start.params[k] for k in ("backbone", "projector")}
  assert_near(
    jax.tree.map(jnp.subtract, state.aux["params"], keys),
    jax.tree.map(jnp.subtract, followed, keys),
    2e-2,
  )


def test_gradients_equal_the_official_algorithm(reference):
  experiment = experiment_lib.build(
    tiny.vit_config("mocov3"), jax.devices()[:1]
  )
  method, start = experiment.step.method, reference[0]
  rng = np.random.default_rng(0)
  views = tuple(
    jnp.asarray(rng.normal(size=(8, 16, 16, 3)), jnp.float32) for _ in range(2)
  )
  ours = jax.jit(
    jax.grad(
      lambda params: Run(
        method,
        params,
        start.model_state,
        start.aux,
        {"views": views},
        jax.random.key(0),
        jnp.int32(0),
        Axis(),
      ).loss()[0]
    )
  )(start.params)
  _, grads, _, _ = official_steps(start.params, [views], 10, lr=0.1, decay=0)
  assert not any(
    np.any(x) for x in jax.tree.leaves(ours["backbone"].pop("patch_embed"))
  )
  assert_near(ours, grads[0], 1e-3)


def test_the_frozen_projection_stays_and_has_no_optimiser_state(reference):
  start, _, state = reference
  before, after = (
    x.params["backbone"]["patch_embed"]["proj"] for x in (start, state)
  )
  jax.tree.map(np.testing.assert_array_equal, before, after)
  names = [
    jax.tree_util.keystr(path)
    for path, _ in jax.tree_util.tree_flatten_with_path(state.opt_state)[0]
  ]
  assert any("cls_token" in name for name in names)
  assert not any("patch_embed" in name for name in names)


def test_momentum_rises_to_one():
  method = experiment_lib.build(
    tiny.vit_config("mocov3"), jax.devices()[:1]
  ).step.method
  rises = [float(method.momentum_at(t / 10)) for t in range(11)]
  assert rises[0] == pytest.approx(0.99)
  assert rises[5] == pytest.approx(0.995, abs=1e-5)
  assert rises[-1] == 1
  assert rises == sorted(rises)


def test_batch_statistics_move_once_for_each_view(reference):
  start, _, state = reference
  for tree in (state.model_state, state.aux["model_state"]):
    moved = jax.tree.leaves(tree["projector"])
    assert all(np.any(x) for x in moved)
  assert "predictor" not in state.aux["model_state"]
  assert "predictor" not in start.aux["params"]


def test_other_widths_of_queries_and_keys_are_refused():
  with pytest.raises(ConfigError, match=r"predictor.dims ends in 8, .* in 16"):
    tiny.vit_config("mocov3", model__predictor__dims=(32, 8))


@pytest.mark.slow
def test_a_resnet_is_a_backbone_too():
  config = tiny.vit_config("mocov3", runtime__parallel__mode="pmap")
  config.model.backbone = {"name": "resnet", "depth": 18, "width": 0.125}
  config.model.temperature = 1.0
  config.model.predictor.last_norm = "none"
  config.runtime.evaluate.features = ("stage3",)
  _, metrics, _ = three_steps(config, 2)
  assert np.isfinite(metrics[-1]["loss"])
  assert metrics[-1]["loss"] < 2 * 2 * np.log(16) * 1.2
