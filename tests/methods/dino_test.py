"""DINO against the official algorithm written out, and its known mistakes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sslx import step as step_lib
from sslx.axis import Axis
from sslx.config import ConfigError
from tests import dino_loop, naive, official, tiny

STEPS, EPOCH, TOTAL, CLIP = 6, 4, 12, 0.05
TARGETS, CROPS, PROTOTYPES = 2, 5, 12
# By epoch: as `np.linspace(0.04, 0.07, 3)`.
TEACHER_TEMPERATURE = (0.04, 0.055, 0.07)


def scores_of(params, views):
  """Scores of all views, [views, B, K], and what each BatchNorm is given.

  One size at a time, image by image.
  """
  scores, seen = [], []
  for same in (views[:TARGETS], views[TARGETS:]):
    if not same:
      continue
    x = jnp.stack(same, axis=1).reshape(-1, *same[0].shape[1:])
    h, given = naive.convs(x, params["backbone"])
    seen.append({"backbone": given})
    h = h.reshape(-1, len(same), h.shape[-1])
    scores += list(naive.prototypes(h, params["head"]).swapaxes(0, 1))
  return jnp.stack(scores), seen


teach = naive.compiled(scores_of)


def loss_of(student, views, targets, mistake):
  """`DINOLoss.forward`, with what BatchNorm is given."""
  scores, seen = scores_of(student, views)
  total, pairs = 0.0, 0
  for i, q in enumerate(targets):
    for v, score in enumerate(scores):
      if v == i and mistake != "the same view":
        continue
      total += jnp.mean(dino_loop.cross_entropy(q, score))
      pairs += 1
  return total / pairs, seen


gradient = naive.gradient(loss_of)


def official_steps(taken, mistake=""):
  """`train_one_epoch` and `DINOLoss`, step by step."""
  loop = dino_loop.Loop(taken, mistake, total=TOTAL, freeze=2, clip=CLIP)
  start = taken.start
  stats, teacher_stats = start.model_state, start.aux["model_state"]
  center = np.zeros(PROTOTYPES)
  for step, crops in enumerate(taken.views):
    outputs, seen = teach(loop.teacher, crops[:TARGETS])
    for given in seen:
      teacher_stats = naive.moments(teacher_stats, given)
    temperature = TEACHER_TEMPERATURE[step // EPOCH]
    if mistake == "a temperature by step":
      temperature = 0.04 + 0.03 * step / 8
    mean = outputs.mean((0, 1))
    if mistake == "one view moves the centre":
      mean = outputs[0].mean(0)
    moved = 0.9 * center + 0.1 * mean
    first = mistake == "the centre first"
    targets = outputs - (moved if first else center)
    targets = dino_loop.softmax(targets / temperature)
    center = moved
    of_loss = mistake if mistake == "the same view" else ""
    (loss, seen), grads = gradient(loop.student, crops, targets, of_loss)
    for given in seen:
      stats = naive.moments(stats, given)
    loop.update(loss, grads)
  return loop.reached(stats, teacher_stats, center=center)


def configured():
  config = tiny.method_config(
    "dino",
    schedule__epochs=3,
    schedule__optimizer__lr=dino_loop.PEAK,
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
  return config


OFFICIAL = official.Case(
  "dino",
  "facebookresearch/dino: main_dino.py, utils.py, vision_transformer.py",
  configured,
  STEPS,
  official_steps,
  {
    "a temperature by step": "",
    "one view moves the centre": "",
    "the centre first": "",
    "the same view": "",
    **dino_loop.MISTAKES,
  },
)


@pytest.fixture(scope="module")
def taken():
  return OFFICIAL.take()


def test_six_steps_equal_the_official_algorithm(taken):
  found = OFFICIAL.differences(taken)
  assert OFFICIAL.fits(found), found
  assert taken.experiment.total_steps == TOTAL
  assert len(taken.views[0]) == CROPS
  # At first the teacher is the student, so far from sharp that each target is
  # spread; the divergence is what the loss is more than the entropy.
  for x in taken.metrics:
    entropy = x["teacher_entropy"] * np.log(PROTOTYPES)
    np.testing.assert_allclose(x["teacher_kl"], x["loss"] - entropy, rtol=1e-4)
    assert 0 < x["teacher_entropy"] <= 1 and x["teacher_kl"] > 0
  first, second = (x["center_norm"] for x in taken.metrics[:2])
  assert first == 0 < second


@pytest.mark.slow
@pytest.mark.parametrize("mistake", OFFICIAL.mistakes)
def test_a_known_mistake_is_seen(taken, mistake):
  assert OFFICIAL.catches(OFFICIAL.differences(taken, mistake))


@pytest.mark.parametrize("key", ["temperature", "teacher_temperature"])
def test_a_temperature_of_zero_is_refused(key):
  with pytest.raises(ConfigError, match=rf"model.{key} is 0.0; .* positive"):
    tiny.method_config("dino", **{f"model__{key}": 0.0})


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"koleo_groups": 3}, "koleo_groups is 3; .* a divisor of the batch, 16"),
    ({"koleo_weight": -0.1}, "koleo_weight is -0.1; it must be at least 0"),
  ],
)
def test_a_koleo_that_does_not_fit_is_refused(changes, message):
  changes = {f"model__{key}": value for key, value in changes.items()}
  with pytest.raises(ConfigError, match=message):
    tiny.build_method(tiny.method_config("dino", **changes))


def test_a_batch_is_not_cut_where_koleo_compares_its_images():
  accumulate = {"schedule__accumulate": 2, "model__norm_groups": 2}
  tiny.build_method(tiny.method_config("dino", **accumulate))
  config = tiny.method_config("dino", model__koleo_weight=0.1, **accumulate)
  with pytest.raises(ConfigError, match="DINO does not declare `accumulates`"):
    tiny.build_method(config)


def test_one_view_is_refused():
  view = {"size": 12, "crop_scale": (0.4, 1.0)}
  with pytest.raises(ConfigError, match="DINO takes 2 or more"):
    tiny.build_method(tiny.method_config("dino", views=(view,)))


@pytest.mark.slow
def test_a_vits_teacher_drops_no_branch_and_is_what_is_evaluated():
  config = tiny.vit_config("dino", model__backbone__drop_path=0.5)
  experiment = tiny.build_method(config)
  state = experiment.init_state()
  teacher = jax.tree.map(lambda x: 1.1 * x, state.aux["params"])
  state = state.replace(aux=state.aux | {"params": teacher})
  (batch,) = tiny.batches(experiment, 1)
  key, _ = step_lib.step_keys(jax.random.wrap_key_data(state.rng), 0)
  step = experiment.step
  (loss, output), grads = jax.jit(lambda s, b: step.gradients(s, b, Axis()))(
    state, batch
  )

  @jax.jit
  def evaluated(state):
    views = step.preprocess(batch, key, Axis())
    network = step.method.of_network(state.params, state.model_state, state.aux)
    return step.method.encode(*network, views[0])["final"]

  expected = evaluated(state)
  np.testing.assert_allclose(output.features, expected, rtol=1e-4, atol=1e-5)
  assert np.isfinite(loss) and np.any(grads["backbone"]["pos_embed"])
  # The student does drop some: without, the loss is another.
  config.model.backbone.drop_path = 0.0
  whole = tiny.build_method(config).step
  other = jax.jit(lambda s, b: whole.gradients(s, b, Axis())[0][0])(
    state, batch
  )
  assert abs(other - loss) > 1e-4
