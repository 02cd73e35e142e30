"""iBOT against the official algorithm written out, and its known mistakes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sslx import step as step_lib
from sslx.axis import Axis
from sslx.config import ConfigError
from sslx.methods.run import Run
from tests import naive, tiny
from tests.dino_loop import Loop
from tests.naive import assert_near

STEPS, TOTAL, LR, CLIP = 4, 8, 0.1 * tiny.BATCH / 256, 0.05
TEMPERATURE, TEACHER_TEMPERATURE, PROTOTYPES = 0.1, 0.04, 24
PATCH, HEADS = 4, 2

vit = functools.partial(naive.vit, patch=PATCH, heads=HEADS)


@jax.jit
def teach(teacher, views, mask):
  """Outputs of both global crops: class tokens and patches."""
  found = []
  for view, one in zip(views, mask, strict=True):
    x = vit(view, teacher["backbone"], mask=one)
    found.append(naive.prototypes(x, teacher["head"]))
  x = jnp.stack(found)
  return x[:, :, 0], x[:, :, 1:]


def cross_entropy(q, score):
  return -jnp.sum(q * jax.nn.log_softmax(score / TEMPERATURE), -1)


@functools.partial(jax.jit, static_argnames="mistake")
def gradient(student, views, mask, cls_targets, patch_targets, mistake):
  """Of `iBOTLoss.forward`; the parts of the loss."""

  def loss_of(params):
    cls, patches = [], []
    for v, view in enumerate(views):
      one = mask[v] if v < 2 else None
      x = vit(view, params["backbone"], mask=one)
      patches.append(naive.prototypes(x[:, 1:], params["head"]))
      if mistake == "class tokens of whole crops":
        x = vit(view, params["backbone"])
      cls.append(naive.prototypes(x[:, 0], params["head"]))
    loss1 = loss2 = terms1 = terms2 = 0
    for q in range(2):
      for v in range(len(views)):
        if v == q:
          other = 1 - v if mistake == "patches of the other crop" else v
          one = mask[v].astype(jnp.float32)
          loss = cross_entropy(patch_targets[q], patches[other])
          number = jnp.maximum(one.sum(-1), 1)
          if mistake == "a mean over all masked patches":
            loss2 += jnp.sum(loss * one) / jnp.maximum(jnp.sum(one), 1)
          elif mistake == "a mean over the masked crops":
            some = jnp.maximum(jnp.sum(one.any(-1)), 1)
            loss2 += jnp.sum(jnp.sum(loss * one, -1) / number) / some
          else:
            loss2 += jnp.mean(jnp.sum(loss * one, -1) / number)
          terms2 += 1
        else:
          loss1 += jnp.mean(cross_entropy(cls_targets[q], cls[v]))
          terms1 += 1
    return loss1 / terms1 + loss2 / terms2, (loss1 / terms1, loss2 / terms2)

  return jax.value_and_grad(loss_of, has_aux=True)(student)


def softmax(x):
  x = np.exp(np.float64(x) - np.max(x, -1, keepdims=True))
  return x / x.sum(-1, keepdims=True)


def official_steps(start, views, drawn, mistake=""):
  """`train_one_epoch` and `iBOTLoss`, step by step.

  Returns:
    Losses, their parts; parameters, the teacher's; both centres.
  """
  loop = Loop(start, total=TOTAL, lr=LR, ema=0.8, freeze=1, clip=CLIP)
  centers, losses = [np.zeros(PROTOTYPES)] * 2, []
  for crops, mask in zip(views, drawn, strict=True):
    seen = mask if mistake == "a teacher that sees masks" else mask & False
    outputs = jax.device_get(teach(loop.teacher, crops[:2], seen))
    targets = [
      softmax((x - center) / TEACHER_TEMPERATURE)
      for x, center in zip(outputs, centers, strict=True)
    ]
    means = [outputs[0].mean((0, 1)), outputs[1].mean(2).mean((0, 1))]
    if mistake == "a centre of masked patches":
      means[1] = outputs[1][mask].mean(0)
    if mistake == "one centre":
      means[1] = means[0]
    centers = [
      0.9 * old + 0.1 * new for old, new in zip(centers, means, strict=True)
    ]
    (loss, parts), grads = jax.device_get(
      gradient(
        loop.student, crops, mask, *targets,
        mistake=mistake if mistake in OF_LOSS else "",
      )
    )  # fmt: skip
    losses.append((loss, *parts))
    loop.update(grads)
  return losses, loop.student, loop.teacher, centers


@pytest.fixture(scope="module")
def ours():
  """Start, views, masks, metrics and end of the steps."""
  # Larger weights, so that images have features apart.
  config = tiny.vit_config(
    "ibot", schedule__epochs=2, model__backbone__weight_init="xavier"
  )
  with config.unlocked(), config.ignore_type():
    config.model.momentum.start = 0.8
    config.schedule.lr.final = 1e-3
    optimizer = config.schedule.optimizer
    optimizer.lr, optimizer.rules[0][1].clip = 0.1, CLIP
    optimizer.weight_decay = {"kind": "cosine", "start": 0.04, "final": 0.4}
  experiment = tiny.build_method(config)
  assert experiment.total_steps == TOTAL
  start = jax.device_get(experiment.init_state())
  # Far from the start, where every mask token is 0.
  rng = np.random.default_rng(0)
  token = start.params["backbone"]["mask_token"]
  token = rng.normal(size=token.shape).astype(np.float32)
  start.params["backbone"]["mask_token"] = token
  batches = tiny.batches(experiment, STEPS)
  views, drawn = [], []
  made = jax.jit(functools.partial(inputs, experiment.step))
  for i, batch in enumerate(batches):
    found = jax.device_get(made(start, batch, i))
    views.append(found[0])
    drawn.append(found[1])
  metrics, end = tiny.run_steps(experiment, start, batches)
  return start, views, drawn, metrics, end


def inputs(step, state, batch, i):
  """The views of a step, and its masks [2, B, n]."""
  rng = jax.random.wrap_key_data(state.rng)
  augment, of_loss = step_lib.step_keys(rng, i)
  views = step.preprocess(batch, augment, Axis())
  run = Run(
    step.method, state.params, state.model_state, state.aux, {"views": views},
    of_loss, jnp.int32(i), Axis(),
  )  # fmt: skip
  return views, step.method._mask(run).swapaxes(0, 1)


def compare(ours, mistake=""):
  start, views, drawn, metrics, end = ours
  losses, student, teacher, centers = official_steps(
    start, views, drawn, mistake
  )
  found = [(x["loss"], x["cls_loss"], x["patch_loss"]) for x in metrics]
  np.testing.assert_allclose(found, losses, rtol=1e-4)
  moved = lambda new, old: jax.tree.map(np.subtract, new, old)
  assert_near(
    moved(end.params, start.params), moved(student, start.params), 0.02
  )
  assert_near(
    moved(end.aux["params"], start.aux["params"]),
    moved(teacher, start.aux["params"]),
    0.02,
  )
  for name, center in zip(("center", "patch_center"), centers, strict=True):
    np.testing.assert_allclose(end.aux[name], center, rtol=1e-3, atol=1e-5)


def test_four_steps_equal_the_official_algorithm(ours):
  compare(ours)
  _, _, drawn, metrics, _ = ours
  drawn = np.stack(drawn)
  ratios = [x["masked_ratio"] for x in metrics]
  np.testing.assert_allclose(ratios, drawn.mean((1, 2, 3)), rtol=1e-5)
  # About half of the crops have a mask, of at most half of the patches.
  number = drawn.sum(-1)
  assert 0.3 < np.mean(number > 0) < 0.7 and number.max() <= 8


OF_LOSS = (
  "class tokens of whole crops",
  "patches of the other crop",
  "a mean over all masked patches",
  "a mean over the masked crops",
)


@pytest.mark.parametrize(
  "mistake",
  [
    *OF_LOSS,
    "a teacher that sees masks",
    "a centre of masked patches",
    "one centre",
  ],
)
def test_a_known_mistake_is_seen(ours, mistake):
  with pytest.raises(AssertionError):
    compare(ours, mistake)


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"backbone__mask_token": False}, "backbone.mask_token is False; .* True"),
    ({"backbone__pool_norm": True, "backbone__features": "pooled"},
     "backbone.pool_norm is True; it must be False"),
    ({"head__norm": True}, "head.norm is True; it must be False for IBOT"),
    ({"mask_ratio": (0.5, 0.1)}, "mask_ratio is .* two ascending shares"),
    ({"mask_probability": 0.0}, r"mask_probability is 0.0; .* \(0, 1\]"),
  ],
)  # fmt: skip
def test_settings_that_do_not_fit_are_refused(changes, message):
  changes = {f"model__{key}": value for key, value in changes.items()}
  with pytest.raises(ConfigError, match=message):
    tiny.build_method(tiny.vit_config("ibot", **changes))


def test_backbones_and_views_that_do_not_fit_are_refused():
  config = tiny.vit_config("ibot")
  config.data.views[1]["size"] = 8
  with pytest.raises(ConfigError, match="views of 16 and 8 px; IBOT takes"):
    tiny.build_method(config)
  with config.ignore_type():
    config.model.backbone = {"name": "convs"}
  with pytest.raises(ConfigError, match="must be 'vit' for IBOT"):
    tiny.build_method(config)
