"""MoCo v3 against the official algorithm written out, and on any devices."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sslx import experiment as experiment_lib
from sslx import methods
from sslx.config import ConfigError
from tests import naive, official, tiny
from tests.models.vit_test import official_positions
from tests.step_test import three_steps

HEADS, TEMPERATURE = 2, 0.2
STEPS, TOTAL, WARMUP = 4, 8, 2
LR, DECAY, EPS, BASE = 0.03 * tiny.BATCH / 256, 0.1, 1e-3, 0.8


def encoder(params, images, mistake):
  """Keys, or queries before the predictor; and what BatchNorm is given."""
  b = len(images)
  x = images.reshape(b, 4, 4, 4, 4, 3).transpose(0, 1, 3, 2, 4, 5)
  vit = params["backbone"]
  x = naive.linear(x.reshape(b, 16, 48), vit["patch_embed"]["proj"])
  order = "column" if mistake == "MAE's order of positions" else "row"
  x = x + official_positions(32, 4, order)
  cls = jnp.tile(vit["cls_token"], (b, 1, 1))
  activation = naive.gelu
  if mistake == "GELU by tanh":
    activation = jax.nn.gelu
  x = jnp.concatenate([cls, x], 1)
  x = naive.blocks(x, vit, HEADS, activation=activation)
  return naive.head(x[:, 0], params["projector"], plain=True)


def contrast(q, k, mistake):
  logits = naive.unit(q) @ naive.unit(k).T / TEMPERATURE
  log_p = logits - jax.scipy.special.logsumexp(logits, 1, keepdims=True)
  loss = -jnp.diag(log_p).mean()
  if mistake == "no factor of twice the temperature":
    return loss
  return loss * 2 * TEMPERATURE


@naive.compiled
def gradient(params, frozen, views, keys, mistake):
  """Of the loss in both directions, with what BatchNorm is given."""

  def loss_of(params):
    q, seen = [], []
    whole = with_patches(params, frozen)
    for x in views:
      z, given = encoder(whole, x, mistake)
      z, last = naive.head(z, params["predictor"], plain=True)
      q.append(z)
      seen.append({"projector": given, "predictor": last})
    pairs = zip(q, keys[::-1], strict=True)
    return sum(contrast(*x, mistake) for x in pairs), seen

  return jax.value_and_grad(loss_of, has_aux=True)(params)


def with_patches(params, patches):
  """All parameters, of the trained ones and the projection of patches."""
  if patches is None:
    return params
  return params | {"backbone": params["backbone"] | {"patch_embed": patches}}


encode = naive.compiled(encoder)
predict = naive.compiled(naive.head)


def official_steps(taken, mistake=""):
  """`moco/builder.py` and `main_moco.py`, with torch's AdamW."""
  start = taken.start
  params, frozen = start.params, None
  if mistake != "a trained projection of patches":
    backbone = dict(params["backbone"])
    frozen = backbone.pop("patch_embed")
    params = params | {"backbone": backbone}
  momentum_encoder = start.aux["params"]
  stats, key_stats = start.model_state, start.aux["model_state"]
  moments = None
  losses, rates, gradients = [], [], []

  def follow(step):
    done = 0 if mistake == "a constant momentum" else step / TOTAL
    kept = 1 - naive.cosine(done) * (1 - BASE)
    whole = with_patches(params, frozen)
    online = {name: whole[name] for name in momentum_encoder}
    return naive.follow(momentum_encoder, online, kept)

  def decay(p):
    return 0 if p.ndim == 1 and mistake == "norms without decay" else DECAY

  for step, views in enumerate(taken.views):
    momentum_encoder = follow(step)
    keys = []
    for x in views:
      k, given = encode(momentum_encoder, x, mistake)
      key_stats = naive.moments(key_stats, {"projector": given})
      if mistake == "a predictor of the keys":
        k, _ = predict(k, params["predictor"], plain=True)
      keys.append(k)
    (loss, seen), grads = gradient(params, frozen, views, keys, mistake)
    for given in seen:
      stats = naive.moments(stats, given)
    rate = LR * step / WARMUP
    if step >= WARMUP:
      rate = LR * naive.cosine((step - WARMUP) / (TOTAL - WARMUP))
    params, moments = naive.adamw(
      params, moments, grads, step, rate, b2=0.999, decay=decay, eps=EPS
    )
    losses.append(loss)
    rates.append(rate)
    if frozen is not None:  # Its gradient is zero.
      grads = with_patches(grads, jax.tree.map(np.zeros_like, frozen))
    gradients.append(grads)
  return {
    "loss": losses,
    "rate": rates,
    "gradient": gradients,
    "parameters": with_patches(params, frozen),
    "statistics": stats,
    # The update at the head of the next step.
    "teacher": follow(STEPS),
    "teacher's statistics": key_stats,
  }


OFFICIAL = official.Case(
  "mocov3",
  "facebookresearch/moco-v3: main_moco.py, moco/builder.py, vits.py",
  lambda: tiny.vit_config(
    "mocov3",
    model__backbone__depth=1,
    model__momentum__start=BASE,
    schedule__epochs=2,
    schedule__lr__warmup=0.5,
    schedule__optimizer__lr=0.03,
    schedule__optimizer__lr_scaling="linear",
    schedule__optimizer__weight_decay=DECAY,
    schedule__optimizer__exclude_1d=False,
  ),
  STEPS,
  official_steps,
  {
    "no factor of twice the temperature": "",
    "a predictor of the keys": "",
    "a trained projection of patches": "",
    "a constant momentum": "",
    "norms without decay": "",
    "MAE's order of positions": "",
    "GELU by tanh": "jax.nn.gelu's default",
  },
)


@pytest.fixture(scope="module")
def taken():
  return OFFICIAL.take()


def test_four_steps_equal_the_official_algorithm(taken):
  found = OFFICIAL.differences(taken)
  assert OFFICIAL.fits(found), found


@pytest.mark.slow
@pytest.mark.parametrize("mistake", OFFICIAL.mistakes)
def test_a_known_mistake_is_seen(taken, mistake):
  assert OFFICIAL.catches(OFFICIAL.differences(taken, mistake))


def test_the_frozen_projection_stays_and_has_no_optimiser_state(taken):
  start, state = taken.start, taken.end
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
  method = dataclasses.replace(method, plan=methods.Plan(16, 5, 10))
  rises = [float(method.momentum_at(t - 1)) for t in range(11)]
  assert rises[0] == pytest.approx(0.99)
  assert rises[5] == pytest.approx(0.995, abs=1e-5)
  assert rises[-1] == 1
  assert rises == sorted(rises)


def test_batch_statistics_move_once_for_each_view(taken):
  start, state = taken.start, taken.end
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
