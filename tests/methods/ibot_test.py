"""iBOT against the official algorithm written out, and its known mistakes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sslx.config import ConfigError
from tests import dino_loop, naive, official, tiny
from tests.dino_loop import cross_entropy, softmax

STEPS, EPOCH, TOTAL, CLIP = 6, 4, 8, 0.05
PROTOTYPES = 24
# By epoch, of class tokens and patches: as `np.linspace(0.04, 0.07, 2)`.
TEACHER_TEMPERATURE = (0.04, 0.07)


def teach(teacher, views, masks):
  """Outputs of both global crops: class tokens and patches."""
  tokens = dino_loop.vit(teacher, views[:2], masks)
  x = naive.prototypes(jnp.stack(tokens), teacher["head"])
  return x[:, :, 0], x[:, :, 1:]


teach = naive.compiled(teach)


def loss_of(student, views, masks, cls_targets, patch_targets, mistake):
  """`iBOTLoss.forward`; and its parts."""
  output = lambda x: naive.prototypes(x, student["head"])
  tokens = dino_loop.vit(student, views, masks)
  patches = [output(x[:, 1:]) for x in tokens[:2]]
  if mistake == "class tokens of whole crops":
    tokens = dino_loop.vit(student, views)
  cls = [output(x[:, 0]) for x in tokens]
  loss1 = loss2 = terms1 = terms2 = 0
  for q in range(2):
    for v in range(len(views)):
      if v == q:
        other = 1 - v if mistake == "patches of the other crop" else v
        loss = cross_entropy(patch_targets[q], patches[other])
        number = jnp.maximum(masks[v].sum(-1), 1)
        each = jnp.sum(loss * masks[v], -1) / number
        if mistake == "a mean over all masked patches":
          each = jnp.sum(loss * masks[v]) / jnp.maximum(masks[v].sum(), 1)
        if mistake == "a mean over the masked crops":
          each = each.sum() / jnp.maximum(masks[v].any(-1).sum(), 1)
        loss2 += jnp.mean(each)
        terms2 += 1
      else:
        loss1 += jnp.mean(cross_entropy(cls_targets[q], cls[v]))
        terms1 += 1
  loss1, loss2 = loss1 / terms1, loss2 / terms2
  return loss1 + loss2, (loss1, loss2)


gradient = naive.gradient(loss_of)
OF_LOSS = (
  "class tokens of whole crops",
  "patches of the other crop",
  "a mean over all masked patches",
  "a mean over the masked crops",
)


def official_steps(taken, mistake=""):
  """`train_one_epoch` and `iBOTLoss`, step by step."""
  loop = dino_loop.Loop(taken, mistake, total=TOTAL, freeze=1, clip=CLIP)
  centers = [np.zeros(PROTOTYPES)] * 2
  masks = dino_loop.masks(taken)
  for step, (crops, mask) in enumerate(zip(taken.views, masks, strict=True)):
    seen = mask if mistake == "a teacher that sees masks" else mask & False
    outputs = teach(loop.teacher, crops, seen)
    temperature = TEACHER_TEMPERATURE[step // EPOCH]
    if mistake == "a temperature by step":
      temperature = 0.04 + 0.03 * step / EPOCH
    targets = [
      softmax((x - center) / temperature)
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
    of_loss = mistake if mistake in OF_LOSS else ""
    (loss, _), grads = gradient(loop.student, crops, mask, *targets, of_loss)
    loop.update(loss, grads)
  return loop.reached(center=centers[0], patch_center=centers[1])


RISING = {
  "kind": "linear",
  "start": 0.04,
  "final": 0.07,
  "over": 1.0,
  "per": "epoch",
}
OFFICIAL = official.Case(
  "ibot",
  "bytedance/ibot: main_ibot.py, utils.py, models/head.py",
  lambda: dino_loop.vit_config(
    "ibot", RISING, schedule__optimizer__rules__0__1__clip=CLIP
  ),
  STEPS,
  official_steps,
  {
    **dict.fromkeys(OF_LOSS, ""),
    "a teacher that sees masks": "",
    "a temperature by step": "",
    "a centre of masked patches": "DINOv2, lightly",
    "one centre": "",
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
  masks, crops, start = dino_loop.masks(taken), taken.views[0], taken.start
  with jax.enable_x64(True):
    outputs = teach(start.params, crops, masks[0] & False)
    targets = [softmax(x / TEACHER_TEMPERATURE[0]) for x in outputs]
    (_, parts), _ = gradient(start.params, crops, masks[0], *targets, "")
  first = taken.metrics[0]
  found = first["cls_loss"], first["patch_loss"]
  np.testing.assert_allclose(found, parts, rtol=1e-5)
  drawn = np.stack(masks)
  ratios = [x["masked_ratio"] for x in taken.metrics]
  np.testing.assert_allclose(ratios, drawn.mean((1, 2, 3)), rtol=1e-5)
  # About half of the crops have a mask, of at most half of the patches.
  number = drawn.sum(-1)
  assert 0.3 < np.mean(number > 0) < 0.7 and number.max() <= 8


@pytest.mark.slow
@pytest.mark.parametrize("mistake", OFFICIAL.mistakes)
def test_a_known_mistake_is_seen(taken, mistake):
  assert OFFICIAL.catches(OFFICIAL.differences(taken, mistake))


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
