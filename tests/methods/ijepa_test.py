"""I-JEPA against the official algorithm written out, and its known mistakes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sslx import experiment as experiment_lib
from sslx import methods, settings
from sslx.benchmark import work
from sslx.config import ConfigError
from tests import naive, official, tiny
from tests.models.regions_test import (
  PATCHES,
  PLAN,
  config_of,
  drawn,
  masks,
  official_masks,
  run_of,
)
from tests.models.vit_test import official_positions

HEADS = 2
STEPS, TOTAL, WARMUP = 4, 8, 2
LR, DECAY, EPS, EMA = 1e-2, (0.4, 20.0), 1e-4, 0.6


def official_loss(params, target, images, context, targets, mistake=""):
  """`train_step` of `src/train.py`, for images [b, 16, 16, 3] and masks.

  Instead of lists of patches, all patches are there, and attention is to those
  of the mask.
  """
  order = "row" if mistake == "MoCo v3's order of positions" else "column"
  activation = jax.nn.gelu if mistake == "GELU by tanh" else naive.gelu
  x = images.reshape(len(images), 8, 2, 8, 2, 3).transpose(0, 1, 3, 2, 4, 5)
  x = x.reshape(len(images), PATCHES, 12)

  def encoded(p, seen):
    tokens = naive.linear(x, p["patch_embed"]["proj"])
    tokens = tokens + official_positions(32, 8, order)
    return naive.blocks(tokens, p, HEADS, seen, activation=activation)

  online, predictor = params["backbone"], params["predictor"]
  everything = jnp.ones_like(context)
  alone = mistake == "targets encoded without the rest"
  h = encoded(target, targets.any(1) if alone else everything)
  if mistake != "targets as they are":
    mean = h.mean(-1, keepdims=True)
    h = (h - mean) / jnp.sqrt(((h - mean) ** 2).mean(-1, keepdims=True) + 1e-5)
  leaks = mistake == "the context encoder sees all"
  z = encoded(online, everything if leaks else context)

  places = official_positions(16, 8, order)
  z = naive.linear(z, predictor["embed"]) + places
  asked = predictor["mask_token"] + places
  asked = jnp.broadcast_to(asked, z.shape)

  def predicted(target):
    keys = everything if mistake == "padding is seen" else context
    y = jnp.concatenate([z, asked], axis=1)
    seen = jnp.concatenate([keys, target], axis=1)
    y = naive.blocks(y, predictor, HEADS, seen, activation=activation)
    return naive.linear(y[:, PATCHES:], predictor["pred"])

  total = 0.0
  for j in range(targets.shape[1]):
    mask = targets[:, j]
    shown = targets.any(1) if mistake == "all targets at once" else mask
    error = jnp.abs(predicted(shown) - h)
    if mistake == "squares":
      error = error**2
    else:
      error = jnp.where(error < 1, 0.5 * error**2, error - 0.5)
    error = error.mean(-1)
    total += (error * mask).sum() / mask.sum() / targets.shape[1]
  return total


loss_of = naive.compiled(official_loss)
gradient = naive.compiled(jax.value_and_grad(official_loss))


def official_steps(taken, mistake=""):
  """`src/train.py` and `src/utils/schedulers.py`, with torch's AdamW.

  Learning rate and weight decay are those of the official step before.
  """
  start = taken.start
  params, target = start.params, start.aux["params"]["backbone"]
  moments = None
  losses, rates, gradients = [], [], []
  for step, (images,) in enumerate(taken.views):
    blocks = official_masks(taken.keys[step], len(images), mistake=mistake)
    loss, grads = gradient(params, target, images, *blocks, mistake=mistake)
    rate = LR * (0.2 + 0.8 * step / WARMUP)
    if step >= WARMUP:
      done = naive.cosine((step - WARMUP) / (TOTAL - WARMUP))
      rate = LR * (1e-3 + (1 - 1e-3) * done)
    weight = DECAY[1] + (DECAY[0] - DECAY[1]) * naive.cosine(step / TOTAL)
    if mistake == "constant decay":
      weight = DECAY[0]

    def decay(path, p, weight=weight):
      name = jax.tree_util.keystr(path)
      spared = "bias" in name or p.ndim == 1
      if mistake == "decay of biases and norms":
        spared = False
      if mistake == "the mask token without decay":
        spared = spared or "mask_token" in name
      return 0 if spared else weight

    before, decays = params, jax.tree.map_with_path(decay, params)
    params, moments = naive.adamw(
      params, moments, grads, step, rate, b2=0.999, decay=decays, eps=EPS
    )
    kept = EMA + (1 - EMA) * step / TOTAL
    if mistake == "momentum along a cosine":
      kept = 1 - (1 - EMA) * naive.cosine(step / TOTAL)
    followed = before if mistake == "before the optimiser" else params
    target = naive.follow(target, followed["backbone"], kept)
    losses.append(loss)
    rates.append(rate)
    gradients.append(grads)
  return {
    "loss": losses,
    "rate": rates,
    "gradient": gradients,
    "parameters": params,
    "statistics": start.model_state,  # There is no BatchNorm.
    "teacher": {"backbone": target},
    "teacher's statistics": start.aux["model_state"],
  }


def run_config(**changes):
  config = config_of(
    model__backbone__weight_init="xavier",  # Beyond GELU's linear part.
    model__context_limit=1.0,
    model__momentum__start=EMA,
    schedule__epochs=2,
    schedule__lr__warmup=0.5,
    schedule__optimizer__lr=LR,
    schedule__optimizer__weight_decay__start=DECAY[0],
    schedule__optimizer__weight_decay__final=DECAY[1],
    **changes,
  )
  config.schedule.optimizer.eps = EPS
  return config


OFFICIAL = official.Case(
  "ijepa",
  "facebookresearch/ijepa: src/train.py, src/masks/multiblock.py,"
  " src/utils/schedulers.py",
  run_config,
  STEPS,
  official_steps,
  {
    "targets as they are": "",
    "targets encoded without the rest": "",
    "the context encoder sees all": "",
    "a context with the targets": "",
    "blocks at the last row and column": "",
    "padding is seen": "",
    "all targets at once": "",
    "squares": "",
    "MoCo v3's order of positions": "",
    "GELU by tanh": "jax.nn.gelu's default",
    "constant decay": "",
    "decay of biases and norms": "",
    "the mask token without decay": "",
    "momentum along a cosine": "",
    "before the optimiser": "",
  },
  accepted={"loss": 2e-5, "gradient": 5e-5},
)


@pytest.fixture(scope="module")
def taken():
  return OFFICIAL.take()


def test_four_steps_equal_the_official_algorithm(taken):
  found = OFFICIAL.differences(taken)
  assert OFFICIAL.fits(found), found
  assert taken.experiment.total_steps == TOTAL
  assert set(taken.end.aux["params"]) == {"backbone"}
  assert set(taken.start.params) == {"backbone", "predictor"}
  for key, metrics in zip(taken.keys, taken.metrics, strict=True):
    context, targets = official_masks(key, tiny.BATCH)
    shares = context.mean(), targets.any(1).mean()
    told = metrics["context_ratio"], metrics["masked_ratio"]
    np.testing.assert_allclose(told, shares, rtol=1e-6)
    assert 0 < metrics["target_std"] < 1.01


@pytest.mark.slow
@pytest.mark.parametrize("mistake", OFFICIAL.mistakes)
def test_a_known_mistake_is_seen(taken, mistake):
  assert OFFICIAL.catches(OFFICIAL.differences(taken, mistake))


@naive.compiled
def listed_loss(params, target, image, context, targets):
  """Of one image, with lists of patches as in the official code."""
  x = image.reshape(8, 2, 8, 2, 3).transpose(0, 2, 1, 3, 4).reshape(64, 12)
  online, predictor = params["backbone"], params["predictor"]
  places = official_positions(32, 8, "column")
  embed = lambda p: naive.linear(x, p["patch_embed"]["proj"]) + places
  h = naive.blocks(embed(target)[None], target, HEADS)[0]
  h = (h - h.mean(-1, keepdims=True)) / jnp.sqrt(
    h.var(-1, keepdims=True) + 1e-5
  )
  z = naive.blocks(embed(online)[context][None], online, HEADS)[0]
  places = jnp.asarray(official_positions(16, 8, "column"))
  z = naive.linear(z, predictor["embed"]) + places[context]
  total = 0.0
  for target in targets:
    y = jnp.concatenate([z, predictor["mask_token"][0] + places[target]])
    y = naive.blocks(y[None], predictor, HEADS)[0, len(context) :]
    d = jnp.abs(naive.linear(y, predictor["pred"]) - h[target])
    total += jnp.where(d < 1, d**2 / 2, d - 0.5).mean() / len(targets)
  return total


def test_masks_in_the_reference_are_as_good_as_lists(taken):
  (images,) = taken.views[0]
  context, targets = official_masks(taken.keys[0], 1)
  # Away from its initial value, where the mask token is almost zero.
  params = jax.tree.map(lambda x: 2 * np.float64(x), taken.end.params)
  networks = params, taken.start.aux["params"]["backbone"]
  with jax.enable_x64(True):
    masked = loss_of(*networks, images[:1], context, targets)
    lists = [np.flatnonzero(x) for x in targets[0]]
    found = listed_loss(*networks, images[0], np.flatnonzero(context), lists)
  np.testing.assert_allclose(found, masked, rtol=1e-9)


def test_what_is_evaluated_is_the_mean_of_the_teachers_tokens(taken):
  method, end = taken.experiment.step.method, taken.end
  views = tuple(jnp.float32(x) for x in taken.views[0])
  state = end.params, end.model_state, end.aux
  features = lambda: (
    run_of(method, views, taken.keys[0], state).loss()[1].features
  )
  teacher = {"backbone": end.aux["params"]["backbone"]}
  expected = method.encode(teacher, end.model_state, views[0])["final"]
  np.testing.assert_allclose(jax.jit(features)(), expected, atol=1e-5)


def test_padding_and_hidden_pixels_reach_no_token_of_the_context(taken):
  method, params = taken.experiment.step.method, taken.end.params
  images = jnp.float32(taken.views[0][0][:6])
  blocks = drawn(method, images, jax.random.key(3))
  context, _ = masks(blocks)
  pixels = np.repeat(np.repeat(context.reshape(-1, 8, 8), 2, 1), 2, 2)

  def seen(images):
    tokens = method.backbone.apply(
      {"params": params["backbone"]},
      images,
      train=True,
      method="tokens",
      keep=blocks.context,
      valid=blocks.shown,
    )
    return jnp.sum(jnp.where(blocks.shown[..., None], tokens, 0) ** 3)

  reached = np.asarray(jax.jit(jax.grad(seen))(images))
  assert np.all(reached[~pixels] == 0)
  assert np.all(np.abs(reached[pixels]).max(-1) > 0)


def test_networks_compute_on_no_more_than_their_tokens():
  """Products of a ViT-B/16's step, counted by hand: most of 13 x 13 patches."""
  config = settings.load(
    f"{tiny.ROOT}/configs/selfsup/ijepa_vit-base-p16_16xb128-bf16-coslr-600e_in1k.py"
  )
  method = methods.build(config.model, PLAN)
  images = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)
  abstract = jax.eval_shape(
    method.init, jax.random.key(0), {"views": (images,)}
  )

  def loss(params, state, aux, images):
    key, state = jax.random.key(0), (params, state, aux)
    return run_of(method, (images,), key, state).loss()[0]

  def vit(t, width, depth):
    return depth * (24 * t * width**2 + 4 * t**2 * width)

  room, targets = 117, 40  # 0.6 of 196; 5 x 8.
  embed = lambda t: 2 * t * 768 * 768  # A patch has as many numbers.
  encoder = lambda t: embed(t) + vit(t, 768, 12)
  outside = 2 * 768 * 384 * (room + 4 * targets)
  predictor = outside + 4 * vit(room + targets, 384, 6)
  needed = 2 * (encoder(room) + encoder(196) + predictor)
  counted = sum(work._counts(jax.make_jaxpr(loss)(*abstract, images).jaxpr))
  np.testing.assert_allclose(counted, needed, rtol=1e-6)


@pytest.mark.slow
def test_bfloat16_is_close_to_float32(taken):
  experiment = tiny.build_method(run_config(model__dtype="bfloat16"))
  start = experiment.init_state()
  found, state = tiny.run_steps(experiment, start, taken.batches)
  for name in ("loss", "feature_std", "target_std"):
    np.testing.assert_allclose(
      [x[name] for x in found], [x[name] for x in taken.metrics], rtol=0.03
    )
  moved = lambda x: jax.tree.map(np.subtract, x.params, taken.start.params)
  naive.assert_near(moved(state), moved(taken.end), 0.3)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"model__targets": 0}, "targets is 0; it must be at least 1"),
    ({"model__target_scale": (0.3, 0.2)}, r"target_scale is \(0.3, 0.2\)"),
    ({"model__context_limit": 0.0}, r"context_limit is 0.0; .* in \(0, 1\]"),
    ({"model__context_least": 32}, "context_least is 32; for 8 x 8 patches it"),
    ({"model__target_scale": (0.001, 0.1)}, "target_scale is .* have no patch"),
    ({"model__predictor__heads": 3}, "config.model.predictor.heads is 3"),
    ({"model__momentum__final": 1.1}, "momentum"),
    ({"data__views__0__count": 2}, "are 2 views of each image; IJEPA takes 1"),
    ({"model__backbone__class_token": True}, "class_token is True; it must be"),
    (
      {"model__backbone__attention": "cudnn", "model__dtype": "bfloat16"},
      "attention is 'cudnn'; it must be 'xla'",
    ),
  ],
)
def test_what_cannot_run_is_refused(changes, message):
  with pytest.raises(ConfigError, match=message):
    experiment_lib.build(config_of(**changes), jax.devices()[:1])


def test_a_resnet_is_refused():
  config = config_of().model.to_dict()
  config["backbone"] = {"name": "resnet"}
  with pytest.raises(ConfigError, match=r"backbone.name must be 'vit' for I-"):
    methods.build(config, PLAN)
