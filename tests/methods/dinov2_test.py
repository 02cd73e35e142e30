"""DINOv2 against the official algorithm written out, and its known mistakes."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sslx.axis import Axis
from sslx.config import ConfigError
from sslx.methods.run import Run
from sslx.models import masks
from tests import dino_loop, naive, official, tiny
from tests.dino_loop import cross_entropy, koleo, softmax

STEPS, TOTAL, CLIP = 6, 8, 0.5
BATCH, GROUPS, DECAY, DEPTH, BEFORE = tiny.BATCH, 2, 0.8, 2, 3
# As `np.linspace(0.04, 0.07, 5)`, and then the last.
RISING = {"kind": "constant", "start": 0.07, "warmup": 1.0, "warmup_from": 0.04}


def heads(params):
  return params["head"], params.get("patch_head", params["head"])


def outputs_of(teacher, views):
  """Outputs of both global crops: class tokens and patches."""
  of_cls, of_patches = heads(teacher)
  x = jnp.stack(dino_loop.vit(teacher, views[:2]))
  return (
    naive.prototypes(x[:, :, 0], of_cls),
    naive.prototypes(x[:, :, BEFORE:], of_patches),
  )


teach = naive.compiled(outputs_of)


def loss_of(student, views, mask, cls_targets, patch_targets, mistake):
  """`SSLMetaArch.forward_backward`; and parts of its loss."""
  of_cls, of_patches = heads(student)
  tokens = dino_loop.vit(student, views, mask)
  scores = [naive.prototypes(x[:, 0], of_cls) for x in tokens]
  terms = 2 + 2 * (len(views) - 2)
  cls_loss = 0
  for local in scores[2:]:
    cls_loss += sum(cross_entropy(q, local).mean() for q in cls_targets)
  for q, score in zip(cls_targets[::-1], scores[:2], strict=True):
    cls_loss += cross_entropy(q, score).mean()
  cls_loss = cls_loss / terms

  patch_loss = 0
  for crop in range(2):
    each = naive.prototypes(tokens[crop][:, BEFORE:], of_patches)
    each = cross_entropy(patch_targets[crop], each) * mask[crop]
    number = jnp.maximum(mask[crop].sum(-1, keepdims=True), 1)
    patch_loss += jnp.sum(each / number)
  crops = BATCH if mistake == "a mean over the masked crops" else 2 * BATCH
  patch_loss = patch_loss / crops

  groups = 1 if mistake == "neighbours of the whole batch" else GROUPS
  spread = [x[:, 0] for x in tokens[:2]]
  if mistake == "KoLeo after the head":
    spread = scores[:2]
  if mistake == "KoLeo over both crops":
    spread = [jnp.concatenate(spread)]
  regulariser = sum(koleo(x, groups) for x in spread)
  loss = cls_loss + patch_loss + 0.1 * regulariser
  return loss, (cls_loss, patch_loss)


gradient = naive.gradient(loss_of)
OF_LOSS = (
  "a mean over the masked crops",
  "neighbours of the whole batch",
  "KoLeo after the head",
  "KoLeo over both crops",
)


def factor(name):
  """Of the learning rate: layers, and the patch projection."""
  if name.startswith("backbone/blocks_"):
    return DECAY ** (DEPTH - int(name.split("/")[1][7:]))
  if "patch_embed" in name:
    return DECAY ** (DEPTH + 1) * 0.2
  if name.endswith(("token", "pos_embed")):
    return DECAY ** (DEPTH + 1)
  return 1.0


def targets_of(outputs, mask, centers, temperature, mistake=""):
  """Of class tokens and of patches; without centres by Sinkhorn-Knopp."""
  if centers:
    pairs = zip(outputs, centers, strict=True)
    return [softmax((x - center) / temperature) for x, center in pairs]

  def codes(x):
    rows = x.reshape(-1, x.shape[-1]) / temperature
    return naive.sinkhorn(rows, 3).reshape(x.shape)

  cls, patches = outputs
  targets = codes(cls)
  if mistake == "Sinkhorn of a crop":
    targets = np.stack([codes(x) for x in cls])
  if mistake == "Sinkhorn of all patches":
    return targets, codes(patches)
  patch_targets = np.zeros_like(patches)
  patch_targets[mask] = codes(patches[mask])
  return targets, patch_targets


def official_steps(taken, mistake="", centering="center"):
  """`do_train`, step by step; clip and freeze are those of our recipes."""
  rates = factor
  if mistake == "one rate":
    rates = lambda name: 1.0
  loop = dino_loop.Loop(
    taken, mistake, total=TOTAL, freeze=1, clip=CLIP, whole=True, factor=rates
  )
  centers = [0, 0] if centering == "center" else None
  drawn = dino_loop.masks(taken)
  for step, (crops, mask) in enumerate(zip(taken.views, drawn, strict=True)):
    temperature = 0.04 + 0.03 * min(step / 4, 1)
    if mistake == "a temperature by epoch":
      temperature = (0.04, 0.07)[step // 4]
    outputs = teach(loop.teacher, crops)
    targets = targets_of(outputs, mask, centers, temperature, mistake)
    if centers:
      some = outputs[1][mask]
      if mistake == "a centre of all patches":
        some = outputs[1]
      means = [x.reshape(-1, x.shape[-1]).mean(0) for x in (outputs[0], some)]
      centers = [0.9 * a + 0.1 * b for a, b in zip(centers, means, strict=True)]
    of_loss = mistake if mistake in OF_LOSS else ""
    (loss, _), grads = gradient(loop.student, crops, mask, *targets, of_loss)
    loop.update(loss, grads)
  if centers:
    return loop.reached(center=centers[0], patch_center=centers[1])
  return loop.reached()


def configured(centering):
  config = dino_loop.vit_config(
    "dinov2",
    RISING,
    model__centering=centering,
    model__koleo_groups=GROUPS,
    model__backbone__depth=DEPTH,
    model__backbone__registers=BEFORE - 1,
    schedule__optimizer__clip_norm=CLIP,
    schedule__optimizer__layer_decay=DECAY,
  )
  with config.unlocked(), config.ignore_type():
    if centering == "center":
      config.model.patch_head = None
    optimizer = config.schedule.optimizer
    optimizer.rules = (("patch_embed", {"lr": 0.2}), optimizer.rules[1])
  return config


OFFICIAL = official.Case(
  "dinov2",
  "facebookresearch/dinov2: train/train.py, train/ssl_meta_arch.py, loss/",
  lambda: configured("center"),
  STEPS,
  official_steps,
  {
    **dict.fromkeys(OF_LOSS, ""),
    "one rate": "",
    "a temperature by epoch": "DINO, iBOT",
    "a centre of all patches": "iBOT",
    **{k: x for k, x in dino_loop.MISTAKES.items() if "clipped" not in k},
  },
)
SINKHORN = dataclasses.replace(
  OFFICIAL,
  config=lambda: configured("sinkhorn"),
  reference=functools.partial(official_steps, centering="sinkhorn"),
  mistakes={"Sinkhorn of a crop": "", "Sinkhorn of all patches": ""},
)
CASES = {"center": OFFICIAL, "sinkhorn": SINKHORN}


@pytest.fixture(
  scope="module",
  params=["center", pytest.param("sinkhorn", marks=pytest.mark.slow)],
)
def centering(request):
  return request.param


@pytest.fixture(scope="module")
def taken(centering):
  return CASES[centering].take()


def test_six_steps_equal_the_official_algorithm(centering, taken):
  case, start, crops = CASES[centering], taken.start, taken.views[0]
  found = case.differences(taken)
  assert case.fits(found), found
  assert taken.experiment.total_steps == TOTAL
  apart = centering == "sinkhorn"
  assert ("patch_head" in start.aux["params"]) == apart
  drawn = dino_loop.masks(taken)
  for mask, out in zip(drawn, taken.metrics, strict=True):
    np.testing.assert_allclose(out["masked_ratio"], mask.mean(), rtol=1e-5)
    # Of each image at most one crop has a mask.
    assert not (mask[0].any(1) & mask[1].any(1)).any()
    assert 0 < out["koleo_distance"] < 2
  with jax.enable_x64(True):
    outputs = teach(start.params, crops)
    targets = targets_of(outputs, drawn[0], None if apart else [0, 0], 0.04)
    (_, parts), _ = gradient(start.params, crops, drawn[0], *targets, "")
  first = taken.metrics[0]
  found = first["cls_loss"], first["patch_loss"]
  np.testing.assert_allclose(found, parts, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
  "centering, mistake",
  [(name, x) for name, case in CASES.items() for x in case.mistakes],
  indirect=["centering"],
)
def test_a_known_mistake_is_seen(centering, taken, mistake):
  case = CASES[centering]
  assert case.catches(case.differences(taken, mistake))


def test_each_image_has_a_part_of_the_ratios_for_itself(monkeypatch):
  """As the official collate function: `linspace(0.1, 0.5, masks + 1)`."""
  method = tiny.build_method(configured("center")).step.method
  given = []

  def blocks(keys, counts, grid, least, axis):
    assert grid == (25, 25) and least == 4
    given.append(counts)
    return jnp.ones((len(keys), 625), bool)

  monkeypatch.setattr(masks, "blocks", blocks)
  views = tuple(jnp.zeros((BATCH, 100, 100, 3)) for _ in range(4))
  run = Run(
    method, {}, {}, {}, {"views": views}, jax.random.key(3), jnp.int32(0),
    Axis(),
  )  # fmt: skip
  mask = np.asarray(method._mask(run))
  edges = np.linspace(0.1, 0.5, BATCH + 1) * 625
  counts = np.asarray(given[0])
  assert not np.all(np.diff(counts) > 0)  # In a random order.
  counts = np.sort(counts)
  assert np.all(counts == np.floor(counts))
  assert np.all(counts <= edges[1:]) and np.all(counts >= np.floor(edges[:-1]))
  assert np.all(mask.any(2).sum(1) == 1) and 2 < mask[:, 0, 0].sum() < 14


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"sinkhorn_iterations": 0}, "sinkhorn_iterations is 0; .* at least 1"),
    ({"patch_head__norm": True}, "patch_head.norm is True; it must be False"),
  ],
)
def test_settings_that_do_not_fit_are_refused(changes, message):
  changes = {f"model__{key}": value for key, value in changes.items()}
  with pytest.raises(ConfigError, match=message):
    tiny.build_method(tiny.vit_config("dinov2", **changes))
