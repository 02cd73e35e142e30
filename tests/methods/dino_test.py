"""DINO against the official algorithm written out, and its known mistakes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sslx import step as step_lib
from sslx.axis import Axis
from sslx.config import ConfigError
from tests import naive, tiny
from tests.dino_loop import Loop
from tests.naive import assert_near

STEPS, EPOCH, TOTAL = 6, 4, 12
LR, TEMPERATURE, CLIP = 0.1 * tiny.BATCH / 256, 0.1, 0.05
TARGETS, CROPS, PROTOTYPES = 2, 5, 12
# By epoch: as `np.linspace(0.04, 0.07, 3)`.
TEACHER_TEMPERATURE = (0.04, 0.055, 0.07)


def embed(params, views):
  """Scores of all views, [views, B, K], and what each BatchNorm is given.

  One size at a time, image by image.
  """
  scores, seen = [], []
  for same in (views[:TARGETS], views[TARGETS:]):
    if not same:
      continue
    x = jnp.stack(same, axis=1).reshape(-1, *same[0].shape[1:])
    h, given = naive.convs(x, params["backbone"])
    seen.append(given)
    h = h.reshape(-1, len(same), h.shape[-1])
    scores += list(naive.prototypes(h, params["head"]).swapaxes(0, 1))
  return jnp.stack(scores), seen


@jax.jit
def teach(teacher, views):
  return embed(teacher, views[:TARGETS])


@functools.partial(jax.jit, static_argnames="mistake")
def gradient(student, views, targets, mistake):
  """Of `DINOLoss.forward`, with what BatchNorm is given."""

  def loss_of(params):
    scores, seen = embed(params, views)
    total, pairs = 0.0, 0
    for i, q in enumerate(targets):
      for v, score in enumerate(scores):
        if v == i and not mistake:
          continue
        x = score / TEMPERATURE
        log_p = x - jnp.log(jnp.sum(jnp.exp(x), -1, keepdims=True))
        total -= jnp.mean(jnp.sum(q * log_p, -1))
        pairs += 1
    return total / pairs, seen

  return jax.value_and_grad(loss_of, has_aux=True)(student)


def softmax(x):
  x = np.exp(np.float64(x) - np.max(x, -1, keepdims=True))
  return x / x.sum(-1, keepdims=True)


def official_steps(start, views, mistake=""):
  """`train_one_epoch` and `DINOLoss`, step by step.

  Returns:
    The losses; parameters, teacher's, running statistics of both; the centre.
  """
  loop = Loop(
    start, total=TOTAL, lr=LR, ema=0.8, freeze=2, clip=CLIP, mistake=mistake
  )
  stats, teacher_stats = start.model_state, start.aux["model_state"]
  center, losses = np.zeros(PROTOTYPES), []
  for step, crops in enumerate(views):
    outputs, seen = jax.device_get(teach(loop.teacher, crops))
    for given in seen:
      new = naive.running(teacher_stats["backbone"], given)
      teacher_stats = teacher_stats | {"backbone": new}
    temperature = TEACHER_TEMPERATURE[step // EPOCH]
    if mistake == "a temperature by step":
      temperature = 0.04 + 0.03 * step / 8
    mean = outputs.mean((0, 1))
    if mistake == "one view moves the centre":
      mean = outputs[0].mean(0)
    moved = 0.9 * center + 0.1 * mean
    first = mistake == "the centre first"
    targets = softmax((outputs - (moved if first else center)) / temperature)
    center = moved
    (loss, seen), grads = jax.device_get(
      gradient(loop.student, crops, targets, mistake=mistake == "the same view")
    )
    losses.append(loss)
    for given in seen:
      new = naive.running(stats["backbone"], given)
      stats = stats | {"backbone": new}
    loop.update(grads)
  return losses, loop.student, loop.teacher, stats, teacher_stats, center


@pytest.fixture(scope="module")
def ours():
  """Start, views, metrics and end of the steps."""
  config = tiny.method_config(
    "dino",
    schedule__epochs=3,
    schedule__optimizer__lr=0.1,
    schedule__optimizer__rules__0__1__clip=CLIP,
  )
  with config.unlocked(), config.ignore_type():
    config.model.teacher_temperature = {
      "kind": "linear",
      "start": 0.04,
      "final": 0.07,
      "over": 2.0,
      "per": "epoch",
    }
  experiment = tiny.build_method(config)
  assert experiment.total_steps == TOTAL
  start = jax.device_get(experiment.init_state())
  batches = tiny.batches(experiment, STEPS)
  rng = jax.random.wrap_key_data(start.rng)
  make = jax.jit(lambda b, k: experiment.step.preprocess(b, k, Axis()))
  views = [
    make(batch, step_lib.step_keys(rng, i)[0])
    for i, batch in enumerate(batches)
  ]
  metrics, end = tiny.run_steps(experiment, start, batches)
  return start, views, metrics, end


def compare(ours, mistake=""):
  start, views, metrics, end = ours
  losses, student, teacher, stats, teacher_stats, center = official_steps(
    start, views, mistake
  )
  found = [x["loss"] for x in metrics]
  np.testing.assert_allclose(found, losses, rtol=1e-4)
  moved = lambda new, old: jax.tree.map(np.subtract, new, old)
  assert_near(
    moved(end.params, start.params), moved(student, start.params), 0.02
  )
  assert_near(
    moved(end.aux["params"], start.params), moved(teacher, start.params), 0.02
  )
  assert_near(end.model_state, stats, 1e-3)
  assert_near(end.aux["model_state"], teacher_stats, 1e-3)
  np.testing.assert_allclose(end.aux["center"], center, rtol=1e-3, atol=1e-5)


def test_six_steps_equal_the_official_algorithm(ours):
  compare(ours)
  _, views, metrics, _ = ours
  assert len(views[0]) == CROPS
  # At first the teacher is the student, so far from sharp that each target is
  # spread; the divergence is what the loss is more than the entropy.
  for x in metrics:
    entropy = x["teacher_entropy"] * np.log(PROTOTYPES)
    np.testing.assert_allclose(x["teacher_kl"], x["loss"] - entropy, rtol=1e-4)
    assert 0 < x["teacher_entropy"] <= 1 and x["teacher_kl"] > 0
  assert metrics[0]["center_norm"] == 0 < metrics[1]["center_norm"]


@pytest.mark.parametrize(
  "mistake",
  [
    "a temperature by step",
    "one view moves the centre",
    "the centre first",
    "the same view",
    "clipped as a whole",
    "not frozen",
    "all decayed",
    "before the optimiser",
  ],
)
def test_a_known_mistake_is_seen(ours, mistake):
  with pytest.raises(AssertionError):
    compare(ours, mistake)


@pytest.mark.parametrize("key", ["temperature", "teacher_temperature"])
def test_a_temperature_of_zero_is_refused(key):
  with pytest.raises(ConfigError, match=rf"model.{key} is 0.0; .* positive"):
    tiny.method_config("dino", **{f"model__{key}": 0.0})


def test_one_view_is_refused():
  view = {"size": 12, "crop_scale": (0.4, 1.0)}
  with pytest.raises(ConfigError, match="DINO takes 2 or more"):
    tiny.build_method(tiny.method_config("dino", views=(view,)))


def test_a_vits_teacher_drops_no_branch_and_is_what_is_evaluated():
  config = tiny.vit_config("dino", model__backbone__drop_path=0.5)
  experiment = tiny.build_method(config)
  state = experiment.init_state()
  teacher = jax.tree.map(lambda x: 1.1 * x, state.aux["params"])
  state = state.replace(aux=state.aux | {"params": teacher})
  (batch,) = tiny.batches(experiment, 1)
  rng = jax.random.wrap_key_data(state.rng)
  step = experiment.step
  (loss, output), grads = jax.jit(lambda s, b: step.gradients(s, b, Axis()))(
    state, batch
  )
  views = step.preprocess(batch, step_lib.step_keys(rng, 0)[0], Axis())
  network = step.method.of_network(state.params, state.model_state, state.aux)
  expected = step.method.encode(*network, views[0])["final"]
  np.testing.assert_allclose(output.features, expected, rtol=1e-4, atol=1e-5)
  assert np.isfinite(loss) and np.any(grads["backbone"]["pos_embed"])
  # The student does drop some: without, the loss is another.
  config.model.backbone.drop_path = 0.0
  whole = tiny.build_method(config).step
  (other, _), _ = jax.jit(lambda s, b: whole.gradients(s, b, Axis()))(
    state, batch
  )
  assert abs(other - loss) > 1e-4
