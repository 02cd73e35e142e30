"""DINOv2 against the official algorithm written out, and its known mistakes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sslx.axis import Axis
from sslx.config import ConfigError
from sslx.methods.run import Run
from sslx.models import masks
from tests import naive, tiny
from tests.dino_loop import Loop
from tests.losses_test import official_sinkhorn
from tests.methods.ibot_test import cross_entropy, inputs, softmax
from tests.naive import assert_near

STEPS, TOTAL, LR, CLIP = 3, 8, 0.1 * tiny.BATCH / 256, 0.5
BATCH, GROUPS, DECAY, BEFORE = tiny.BATCH, 2, 0.8, 3

vit = functools.partial(naive.vit, patch=4, heads=2)


def heads(params):
  return params["head"], params.get("patch_head", params["head"])


@jax.jit
def teach(teacher, views):
  """Outputs of both global crops: class tokens and patches."""
  of_cls, of_patches = heads(teacher)
  x = jnp.stack([vit(view, teacher["backbone"]) for view in views[:2]])
  return (
    naive.prototypes(x[:, :, 0], of_cls),
    naive.prototypes(x[:, :, BEFORE:], of_patches),
  )


def koleo(x, groups):
  total = 0
  for group in jnp.split(naive.unit(x), groups):
    dots = group @ group.T - 3 * jnp.eye(len(group))
    near = group[jax.lax.stop_gradient(dots).argmax(1)]
    distances = jnp.sqrt(jnp.sum((group - near + 1e-8) ** 2, -1))
    total -= jnp.mean(jnp.log(distances + 1e-8))
  return total / groups


@functools.partial(jax.jit, static_argnames="mistake")
def gradient(student, views, mask, cls_targets, patch_targets, mistake):
  """Of `SSLMetaArch.forward_backward`; the parts of the loss."""

  def loss_of(params):
    of_cls, of_patches = heads(params)
    tokens = [
      vit(view, params["backbone"], mask=mask[v] if v < 2 else None)
      for v, view in enumerate(views)
    ]
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
      one = mask[crop].astype(jnp.float32)
      each = naive.prototypes(tokens[crop][:, BEFORE:], of_patches)
      each = cross_entropy(patch_targets[crop], each) * one
      patch_loss += jnp.sum(each / jnp.maximum(one.sum(-1, keepdims=True), 1))
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

  return jax.value_and_grad(loss_of, has_aux=True)(student)


def factor(name):
  """Of the learning rate: layers, and the patch projection."""
  if name.startswith("backbone/blocks_"):
    return DECAY ** (2 - int(name.split("/")[1][7:]))
  if "patch_embed" in name:
    return DECAY**3 * 0.2
  if name.endswith(("token", "pos_embed")):
    return DECAY**3
  return 1.0


def official_steps(start, views, drawn, centering, mistake=""):
  """`do_train`, step by step.

  Returns:
    Losses and their parts; parameters, the teacher's; both centres.
  """
  loop = Loop(
    start, total=TOTAL, lr=LR, ema=0.8, freeze=1, clip=CLIP, whole=True,
    factor=(lambda name: 1) if mistake == "one rate" else factor,
  )  # fmt: skip
  centers, losses = [0, 0], []
  for step, (crops, mask) in enumerate(zip(views, drawn, strict=True)):
    temperature = 0.04 + 0.03 * step / 4
    cls, patches = jax.device_get(teach(loop.teacher, crops))
    patch_targets = np.zeros_like(patches)
    if centering == "center":
      targets = softmax((cls - centers[0]) / temperature)
      patch_targets[:] = softmax((patches - centers[1]) / temperature)
      some = patches[mask]
      if mistake == "a centre of all patches":
        some = patches
      means = [x.reshape(-1, x.shape[-1]).mean(0) for x in (cls, some)]
      centers = [0.9 * a + 0.1 * b for a, b in zip(centers, means, strict=True)]
    else:
      rows = cls.reshape(-1, cls.shape[-1])
      blocks = np.split(rows, 2) if mistake == "Sinkhorn of a crop" else [rows]
      targets = np.concatenate(
        [official_sinkhorn(x / temperature, 3) for x in blocks]
      ).reshape(cls.shape)
      if mistake == "Sinkhorn of all patches":
        rows = patches.reshape(-1, patches.shape[-1])
        patch_targets = official_sinkhorn(rows / temperature, 3)
        patch_targets = patch_targets.reshape(patches.shape)
      else:
        patch_targets[mask] = official_sinkhorn(patches[mask] / temperature, 3)
    (loss, parts), grads = jax.device_get(
      gradient(
        loop.student, crops, mask, np.float32(targets),
        np.float32(patch_targets),
        mistake=mistake if mistake in OF_LOSS else "",
      )
    )  # fmt: skip
    losses.append((loss, *parts))
    loop.update(grads)
  return losses, loop.student, loop.teacher, centers


def configured(centering):
  config = tiny.vit_config(
    "dinov2",
    schedule__epochs=2,
    model__centering=centering,
    model__koleo_groups=GROUPS,
    model__backbone__registers=BEFORE - 1,
    # Larger weights, so that images have features apart.
    model__backbone__weight_init="xavier",
  )
  with config.unlocked(), config.ignore_type():
    if centering == "center":
      config.model.patch_head = None
    config.model.momentum.start = 0.8
    config.model.teacher_temperature = {
      "kind": "constant",
      "start": 0.07,
      "warmup": 1.0,
      "warmup_from": 0.04,
    }
    config.schedule.lr.final = 1e-3
    optimizer = config.schedule.optimizer
    optimizer.lr, optimizer.clip_norm, optimizer.layer_decay = 0.1, CLIP, DECAY
    optimizer.weight_decay = {"kind": "cosine", "start": 0.04, "final": 0.4}
    optimizer.rules = (("patch_embed", {"lr": 0.2}), optimizer.rules[1])
  return config


@pytest.fixture(scope="module", params=["center", "sinkhorn"])
def ours(request):
  """How targets are made, start, views, masks, metrics and end of the steps."""
  experiment = tiny.build_method(configured(request.param))
  assert experiment.total_steps == TOTAL
  start = jax.device_get(experiment.init_state())
  rng = np.random.default_rng(0)
  token = start.params["backbone"]["mask_token"]
  token = rng.normal(size=token.shape).astype(np.float32)
  start.params["backbone"]["mask_token"] = token
  batches = tiny.batches(experiment, STEPS)
  made = jax.jit(functools.partial(inputs, experiment.step))
  found = [
    jax.device_get(made(start, batch, i)) for i, batch in enumerate(batches)
  ]
  views, drawn = zip(*found, strict=True)
  metrics, end = tiny.run_steps(experiment, start, batches)
  return request.param, start, views, drawn, metrics, end


def compare(ours, mistake=""):
  centering, start, views, drawn, metrics, end = ours
  losses, student, teacher, centers = official_steps(
    start, views, drawn, centering, mistake
  )
  found = [(x["loss"], x["cls_loss"], x["patch_loss"]) for x in metrics]
  np.testing.assert_allclose(found, losses, rtol=2e-4)
  moved = lambda new, old: jax.tree.map(np.subtract, new, old)
  assert_near(
    moved(end.params, start.params), moved(student, start.params), 0.02
  )
  assert_near(
    moved(end.aux["params"], start.aux["params"]),
    moved(teacher, start.aux["params"]),
    0.02,
  )
  if centering == "center":
    for name, center in zip(("center", "patch_center"), centers, strict=True):
      np.testing.assert_allclose(end.aux[name], center, rtol=1e-3, atol=1e-5)
  else:
    assert set(end.aux) == {"params", "model_state"}


def test_three_steps_equal_the_official_algorithm(ours):
  compare(ours)
  centering, start, _, drawn, metrics, _ = ours
  assert ("patch_head" in start.aux["params"]) == (centering == "sinkhorn")
  for mask, out in zip(drawn, metrics, strict=True):
    np.testing.assert_allclose(out["masked_ratio"], mask.mean(), rtol=1e-5)
    # Of each image at most one crop has a mask.
    assert not (mask[0].any(1) & mask[1].any(1)).any()
    assert 0 < out["koleo_distance"] < 2


OF_LOSS = (
  "a mean over the masked crops",
  "neighbours of the whole batch",
  "KoLeo after the head",
  "KoLeo over both crops",
)


@pytest.mark.parametrize(
  "ours, mistake",
  [
    *(("center", mistake) for mistake in OF_LOSS),
    ("center", "one rate"),
    ("center", "a centre of all patches"),
    ("sinkhorn", "Sinkhorn of a crop"),
    ("sinkhorn", "Sinkhorn of all patches"),
  ],
  indirect=["ours"],
)
def test_a_known_mistake_is_seen(ours, mistake):
  with pytest.raises(AssertionError):
    compare(ours, mistake)


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
    ({"koleo_groups": 3}, "koleo_groups is 3; .* a divisor of the batch, 16"),
    ({"koleo_weight": -0.1}, "koleo_weight is -0.1; it must be at least 0"),
    ({"sinkhorn_iterations": 0}, "sinkhorn_iterations is 0; .* at least 1"),
    ({"patch_head__norm": True}, "patch_head.norm is True; it must be False"),
  ],
)
def test_settings_that_do_not_fit_are_refused(changes, message):
  changes = {f"model__{key}": value for key, value in changes.items()}
  with pytest.raises(ConfigError, match=message):
    tiny.build_method(tiny.vit_config("dinov2", **changes))
