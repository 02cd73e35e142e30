"""MAE against its formulas written out, and on any devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sslx import experiment as experiment_lib
from sslx import methods
from sslx.axis import Axis
from sslx.config import ConfigError
from sslx.data import augment
from sslx.methods.run import Run
from sslx.models import patches
from tests import naive, official, tiny
from tests.models.vit_test import official_positions

PLAN = methods.Plan(batch_size=16, steps_per_epoch=10, total_steps=10)


def build(**changes):
  return methods.build(tiny.vit_config("mae", **changes).model, PLAN)


@pytest.fixture(scope="module")
def case():
  """A method, its parameters away from their initial values, and a batch."""
  method = build()
  images = np.random.default_rng(0).normal(size=(6, 16, 16, 3))
  batch = {"views": (jnp.asarray(images, jnp.float32),)}
  params, state, aux = method.init(jax.random.key(0), batch)
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(1), len(leaves))
  moved = [
    x + 0.1 * jax.random.normal(key, x.shape)
    for x, key in zip(leaves, keys, strict=True)
  ]
  return method, tree.unflatten(moved), state, aux, batch


def official_loss(
  params, images, rng, *, ratio=0.75, norm_pix=True, mistake=""
):
  """As `models_mae.py` has it: every patch embedded, then most thrown away."""
  heads = 2
  b, n, d = len(images), 16, 32
  noise = jnp.stack(
    [
      jax.random.uniform(jax.random.fold_in(rng, i), (n,), np.float32)
      for i in range(b)
    ]
  )
  shuffle = jnp.argsort(noise, axis=1)
  restore = jnp.argsort(shuffle, axis=1)
  visible = int(n * (1 - ratio))
  gather = lambda x, ids: jnp.take_along_axis(x, ids[..., None], axis=1)
  mask = restore >= visible

  # patchify: nchpwq->nhwpqc
  x = images.reshape(b, 4, 4, 4, 4, 3)
  x = jnp.einsum("nhpwqc->nhwpqc", x)
  target = x.reshape(b, n, 48)

  encoder, decoder = params["backbone"], params["decoder"]
  order = "row" if mistake == "MoCo v3's order of positions" else "column"
  activation = jax.nn.gelu if mistake == "GELU by tanh" else naive.gelu
  x = naive.linear(target, encoder["patch_embed"]["proj"])
  x = x + official_positions(d, 4, order)
  x = gather(x, shuffle[:, :visible])
  cls = jnp.tile(encoder["cls_token"], (b, 1, 1))
  x = jnp.concatenate([cls, x], 1)
  x = naive.blocks(x, encoder, heads, activation=activation)

  x = naive.linear(x, decoder["embed"])
  hidden = jnp.tile(decoder["mask_token"], (b, n - visible, 1))
  whole = jnp.concatenate([x[:, 1:], hidden], 1)
  if mistake != "tokens left in their random order":
    whole = gather(whole, restore)
  x = jnp.concatenate([x[:, :1], whole], 1)
  places = official_positions(16, 4, order)
  x = x + np.concatenate([np.zeros((1, 16)), places])
  x = naive.blocks(x, decoder, heads, activation=activation)
  predicted = naive.linear(x, decoder["pred"])[:, 1:]

  if norm_pix and mistake != "pixels as they are":
    mean = target.mean(-1, keepdims=True)
    degrees = 48 if mistake == "a biased variance" else 48 - 1
    var = ((target - mean) ** 2).sum(-1, keepdims=True) / degrees
    target = (target - mean) / (var + 1e-6) ** 0.5
  error = ((predicted - target) ** 2).mean(-1)
  if mistake == "the loss of all patches":
    return error.mean()
  return (error * mask).sum() / mask.sum()


gradient = naive.compiled(jax.value_and_grad(official_loss))
STEPS, TOTAL, WARMUP = 4, 8, 2
LR, DECAY, EPS = 0.1 * tiny.BATCH / 256, 0.05, 1e-3


def official_steps(taken, mistake=""):
  """`main_pretrain.py` and `util/lr_sched.py`, with torch's AdamW."""
  params, moments = taken.start.params, None
  losses, rates, gradients = [], [], []

  def decay(path, p):
    spared = "bias" in jax.tree_util.keystr(path) or p.ndim == 1
    if mistake == "decay of biases and norms":
      spared = False
    return 0 if spared else DECAY

  b2 = 0.999 if mistake == "the second beta of AdamW" else 0.95
  for step, (images,) in enumerate(taken.views):
    loss, grads = gradient(params, images, taken.keys[step], mistake=mistake)
    rate = LR * step / WARMUP
    if step >= WARMUP:
      rate = LR * naive.cosine((step - WARMUP) / (TOTAL - WARMUP))
    decays = jax.tree.map_with_path(decay, params)
    params, moments = naive.adamw(
      params, moments, grads, step, rate, b2=b2, decay=decays, eps=EPS
    )
    losses.append(loss)
    rates.append(rate)
    gradients.append(grads)
  return {
    "loss": losses,
    "rate": rates,
    "gradient": gradients,
    "parameters": params,
    "statistics": taken.start.model_state,  # There is no BatchNorm.
  }


OFFICIAL = official.Case(
  "mae",
  "facebookresearch/mae: models_mae.py, main_pretrain.py, util/lr_sched.py",
  lambda: tiny.vit_config(
    "mae",
    model__backbone__depth=1,
    schedule__epochs=2,
    schedule__lr__warmup=0.5,
    schedule__optimizer__lr=0.1,
    schedule__optimizer__lr_scaling="linear",
    schedule__optimizer__b2=0.95,
    schedule__optimizer__weight_decay=DECAY,
  ),
  STEPS,
  official_steps,
  {
    "the loss of all patches": "",
    "a biased variance": "jnp.var's default",
    "pixels as they are": "",
    "tokens left in their random order": "",
    "MoCo v3's order of positions": "",
    "GELU by tanh": "jax.nn.gelu's default",
    "decay of biases and norms": "",
    "the second beta of AdamW": "",
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


@pytest.mark.parametrize(("ratio", "norm_pix"), [(0.75, True), (0.5, False)])
def test_loss_and_gradients_equal_the_official_formulas(case, ratio, norm_pix):
  _, params, state, aux, batch = case
  method = build(model__mask_ratio=ratio, model__norm_pix=norm_pix)
  rng = jax.random.key(3)

  def ours(params):
    step, axis = jnp.int32(0), Axis()
    return Run(method, params, state, aux, batch, rng, step, axis).loss()[0]

  theirs = lambda params: official_loss(
    params, batch["views"][0], rng, ratio=ratio, norm_pix=norm_pix
  )
  loss, grads = jax.jit(jax.value_and_grad(ours))(params)
  expected, expected_grads = jax.jit(jax.value_and_grad(theirs))(params)
  np.testing.assert_allclose(loss, expected, rtol=1e-5)
  tiny.assert_close(grads, expected_grads, 1e-4)


def test_masks_are_drawn_per_image_and_keep_a_quarter():
  keys = augment.example_keys(jax.random.key(0), jnp.arange(500))
  order, restore = patches.random_order(keys, 16)
  masked = np.asarray(restore) >= 4
  np.testing.assert_array_equal(masked.sum(1), 12)
  # Every patch is hidden as often, and images differ.
  np.testing.assert_allclose(masked.mean(0), 0.75, atol=0.08)
  assert len(np.unique(masked, axis=0)) > 400
  np.testing.assert_array_equal(
    np.take_along_axis(np.asarray(order), np.asarray(restore), 1),
    np.arange(16)[None].repeat(500, 0),
  )
  # A later part of the batch on its own.
  later = augment.example_keys(jax.random.key(0), jnp.arange(100, 200))
  np.testing.assert_array_equal(
    patches.random_order(later, 16)[0], order[100:200]
  )


def test_normalised_targets_have_the_unbiased_variance(case):
  method, *_, batch = case
  target = np.asarray(method._target(batch["views"][0]))
  np.testing.assert_allclose(target.mean(-1), 0, atol=1e-6)
  np.testing.assert_allclose(target.var(-1, ddof=1), 1, atol=1e-4)


def test_the_encoder_sees_49_of_196_patches():
  """In the operations of the compiled encoder, against the full one."""
  module = build(
    model__backbone__patch_size=16,
    model__backbone__image_size=224,
    model__backbone__width=192,
  )
  images = jax.ShapeDtypeStruct((4, 224, 224, 3), jnp.float32)
  assert module.visible(images) == (49, 196)
  init = lambda x: module.backbone.init(jax.random.key(0), x, train=False)
  variables = jax.eval_shape(init, images)
  flops = {}
  for name, seen in (("all", None), ("visible", 49)):
    keep = None if seen is None else jnp.zeros((4, seen), jnp.int32)
    encode = lambda v, x, keep=keep: module.backbone.apply(
      v, x, train=True, keep=keep, method="tokens"
    )
    lowered = jax.jit(encode).lower(variables, images)
    flops[name] = lowered.compile().cost_analysis()["flops"]
  # 50 of 197 tokens, and attention's share falls with the square.
  assert 0.15 < flops["visible"] / flops["all"] < 50 / 197


def test_pictures_show_the_image_its_visible_part_and_what_was_made(case):
  method, params, state, aux, batch = case
  images, key = batch["views"][0], jax.random.key(0)
  run = Run(method, params, state, aux, batch, key, jnp.int32(0), Axis())
  rows = method.pictures(run)
  original, seen, made = rows["reconstructions"]
  np.testing.assert_array_equal(original, images)
  hidden = np.all(np.asarray(seen) == 0, axis=-1)
  assert hidden.mean() == 0.75
  np.testing.assert_array_equal(seen[~hidden], images[~hidden])
  np.testing.assert_array_equal(made[~hidden], images[~hidden])
  assert np.abs(made - images)[hidden].min() > 0


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"model__mask_ratio": 0.99}, "mask_ratio is 0.99, which leaves 0 of 16"),
    ({"model__mask_ratio": 1.0}, "mask_ratio is 1.0; it must be between"),
    ({"model__decoder__heads": 3}, "config.model.decoder.heads is 3"),
    ({"data__views__0__count": 2}, "are 2 views of each image; MAE takes 1"),
  ],
)
def test_what_cannot_run_is_refused(changes, message):
  with pytest.raises(ConfigError, match=message):
    experiment_lib.build(tiny.vit_config("mae", **changes), jax.devices()[:1])


def test_a_resnet_is_refused():
  config = tiny.vit_config("mae").model.to_dict()
  config["backbone"] = {"name": "resnet"}
  with pytest.raises(ConfigError, match=r"backbone.name must be 'vit' for MAE"):
    methods.build(config, PLAN)


@pytest.mark.parametrize(
  ("key", "value", "needed"),
  [("class_token", False, True), ("pool_norm", True, False)],
)
def test_what_the_encoder_must_have(key, value, needed):
  message = f"{key} is {value}; it must be {needed} for MAE"
  with pytest.raises(ConfigError, match=message):
    build(
      model__backbone__features="pooled", **{f"model__backbone__{key}": value}
    )
