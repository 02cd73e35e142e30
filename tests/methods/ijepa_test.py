"""I-JEPA against the official algorithm written out, and its known mistakes."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sslx import experiment as experiment_lib
from sslx import methods, settings
from sslx import step as step_lib
from sslx.axis import Axis
from sslx.benchmark import work
from sslx.config import ConfigError
from sslx.data import augment
from sslx.methods.ijepa import normalized
from sslx.methods.run import Run
from sslx.models import regions
from tests import naive, tiny
from tests.models.vit_test import official_positions

GRID, PATCHES, HEADS = (8, 8), 64, 2
STEPS, TOTAL = 3, 8
LR, DECAY, EMA = 2e-3, (0.4, 20.0), 0.9
PLAN = methods.Plan(batch_size=16, steps_per_epoch=4, total_steps=TOTAL)


def config_of(**changes):
  return tiny.vit_config("ijepa", model__backbone__depth=1, **changes)


def build(**changes):
  return methods.build(config_of(**changes).model, PLAN)


def run_of(method, views, key, state=({}, {}, {}), step=0):
  batch = {"views": views}
  return Run(method, *state, batch, key, jnp.int32(step), Axis())


@functools.partial(jax.jit, static_argnums=0)
def drawn(method, images, key):
  return method.blocks(run_of(method, (images,), key))


def official_size(grid, scale, aspect, u):
  """As `src/masks/multiblock.py`: one number for scale and aspect ratio."""
  low, high = scale
  area = math.floor(grid[0] * grid[1] * (low + u * (high - low)))
  ratio = aspect[0] + u * (aspect[1] - aspect[0])
  sides = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
  return tuple(min(side, n - 1) for side, n in zip(sides, grid, strict=True))


@pytest.mark.parametrize(
  ("grid", "scale", "aspect"),
  [
    ((14, 14), (0.15, 0.2), (0.75, 1.5)),
    ((16, 16), (0.85, 1.0), (1.0, 1.0)),
    ((8, 12), (0.1, 0.6), (0.3, 3.0)),
  ],
)
def test_sizes_are_those_of_the_official_rule(grid, scale, aspect):
  found = regions.sizes(grid, scale, aspect)
  for i in range(0, 4096, 37):
    expected = official_size(grid, scale, aspect, (i + 0.5) / 4096)
    assert tuple(found[i]) == expected


def masks(blocks):
  """What the lists say: bool[b, n] contexts, and bool[b, m, n] targets."""
  contexts, targets = (np.asarray(x) for x in (blocks.context, blocks.targets))
  b, m, _ = targets.shape
  context, target = np.zeros((b, PATCHES)), np.zeros((b, m, PATCHES))
  for i in range(b):
    np.add.at(context[i], contexts[i][np.asarray(blocks.shown[i])], 1)
    for j in range(m):
      np.add.at(target[i, j], targets[i, j][np.asarray(blocks.asked)], 1)
  assert context.max() == 1 and target.max() == 1  # No patch twice.
  return context.astype(bool), target.astype(bool)


def corner_and_size(mask):
  """Of a mask bool[8, 8] that is a rectangle."""
  rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
  size = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
  assert mask.sum() == size[0] * size[1]
  return (rows[0], columns[0]), size


def test_blocks_are_drawn_as_in_the_official_code():
  images = jnp.zeros((256, 16, 16, 3))
  method = build(model__context_limit=1.0)
  places, steps = set(), set()
  for seed in range(12):
    blocks = drawn(method, images, jax.random.key(seed))
    context, targets = masks(blocks)
    found = [corner_and_size(mask.reshape(GRID)) for x in targets for mask in x]
    sizes = {size for _, size in found}
    assert len(sizes) == 1  # One size in all images of a step.
    steps |= sizes
    places |= {(*place, *size) for place, size in found}
    # A context begins in the corner: 7 x 7 of 8 x 8 patches fit one place.
    block = np.zeros(GRID, bool)
    block[:7, :7] = True
    hidden = targets.any(axis=1)
    np.testing.assert_array_equal(blocks.hidden, hidden)
    left = block.reshape(-1) & ~hidden
    enough = left.sum(1) > 5
    assert enough.mean() > 0.97
    np.testing.assert_array_equal(context[enough], left[enough])
    # Then the last target does not count.
    assert np.all(context.sum(1) > 5)
    fewer = block.reshape(-1) & ~targets[:, :3].any(axis=1)
    fine = ~enough & (fewer.sum(1) > 5)
    np.testing.assert_array_equal(context[fine], fewer[fine])
  # 9 or 12 patches; all places but those that end at the last row or column.
  assert steps == {(3, 3), (4, 3)}
  assert places == {
    (row, column, *size)
    for size in steps
    for row in range(8 - size[0])
    for column in range(8 - size[1])
  }


def test_places_depend_on_the_place_in_the_batch_alone():
  method, key = build(), jax.random.key(5)
  whole = drawn(method, jnp.zeros((6, 16, 16, 3)), key)
  part = run_of(method, (jnp.zeros((3, 16, 16, 3)),), key)
  part.keys = augment.example_keys(key, jnp.arange(3, 6))
  part = method.blocks(part)
  for name in ("context", "shown", "targets", "hidden"):
    whole_rows = getattr(whole, name)[3:]
    np.testing.assert_array_equal(getattr(part, name), whole_rows)
  np.testing.assert_array_equal(part.asked, whole.asked)


def test_chance_decides_what_too_large_a_context_loses():
  mask = jnp.arange(20) % 4 != 3  # 15 of 20
  keys = jax.random.split(jax.random.key(0), 3000)
  choose = jax.vmap(lambda key: regions.chosen(key, mask, 6))
  patches, valid = choose(keys)
  assert np.all(valid)
  counts = np.bincount(np.asarray(patches).reshape(-1), minlength=20)
  assert np.all(counts[3::4] == 0)
  np.testing.assert_allclose(counts[mask] / 3000, 6 / 15, atol=0.05)
  patches, valid = regions.chosen(keys[0], mask, 18)
  assert valid.sum() == 15 and np.all(valid[:15])
  assert sorted(patches[:15].tolist()) == np.flatnonzero(mask).tolist()


def official_loss(params, target, images, context, targets, mistake=""):
  """`train_step` of `src/train.py`, for images [b, 16, 16, 3] and masks.

  Instead of lists of patches, all patches are there, and attention is to those
  of the mask.
  """
  x = images.reshape(len(images), 8, 2, 8, 2, 3).transpose(0, 1, 3, 2, 4, 5)
  x = x.reshape(len(images), PATCHES, 12)
  embedded = lambda p: (
    naive.linear(x, p["patch_embed"]["proj"])
    + official_positions(32, 8, "column")
  )
  online, predictor = params["backbone"], params["predictor"]
  h = naive.blocks(embedded(target), target, HEADS)
  h = jax.lax.stop_gradient(h)
  if mistake != "targets as they are":
    mean = h.mean(-1, keepdims=True)
    h = (h - mean) / jnp.sqrt(((h - mean) ** 2).mean(-1, keepdims=True) + 1e-5)
  everything = jnp.ones_like(context)
  leaks = mistake == "the context encoder sees all"
  seen = everything if leaks else context
  z = naive.blocks(embedded(online), online, HEADS, seen)

  places = official_positions(16, 8, "column")
  z = naive.linear(z, predictor["embed"]) + places
  asked = predictor["mask_token"] + places
  asked = jnp.broadcast_to(asked, z.shape)

  def predicted(target):
    keys = everything if mistake == "padding is seen" else context
    y = jnp.concatenate([z, asked], axis=1)
    y = naive.blocks(y, predictor, HEADS, jnp.concatenate([keys, target], 1))
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


gradient = jax.jit(jax.value_and_grad(official_loss))


def listed_loss(params, target, image, context, targets):
  """The same of one image, with lists of patches as in the official code."""
  x = image.reshape(8, 2, 8, 2, 3).transpose(0, 2, 1, 3, 4).reshape(64, 12)
  online, predictor = params["backbone"], params["predictor"]
  places = official_positions(32, 8, "column")
  embed = lambda p: naive.linear(x, p["patch_embed"]["proj"]) + places
  h = naive.blocks(embed(target)[None], target, HEADS)[0]
  h = (h - h.mean(-1, keepdims=True)) / jnp.sqrt(
    h.var(-1, keepdims=True) + 1e-5
  )
  z = naive.blocks(embed(online)[context][None], online, HEADS)[0]
  places = official_positions(16, 8, "column")
  z = naive.linear(z, predictor["embed"]) + places[context]
  total = 0.0
  for target in targets:
    y = jnp.concatenate([z, predictor["mask_token"][0] + places[target]])
    y = naive.blocks(y[None], predictor, HEADS)[0, len(context) :]
    d = jnp.abs(naive.linear(y, predictor["pred"]) - h[target])
    total += jnp.where(d < 1, d**2 / 2, d - 0.5).mean() / len(targets)
  return total


@pytest.fixture(scope="module")
def case():
  """A method, parameters away from their initial values, and images."""
  method = build()
  images = np.random.default_rng(0).normal(size=(6, 16, 16, 3))
  views = (jnp.asarray(images, jnp.float32),)
  init = jax.jit(method.init)
  params, state, aux = init(jax.random.key(0), {"views": views})
  leaves, tree = jax.tree.flatten((params, aux["params"]))
  keys = jax.random.split(jax.random.key(1), len(leaves))
  moved = [
    x + 0.1 * jax.random.normal(key, x.shape)
    for x, key in zip(leaves, keys, strict=True)
  ]
  params, teacher = tree.unflatten(moved)
  return method, params, state, {**aux, "params": teacher}, views


def test_loss_and_gradients_equal_the_official_formulas(case):
  method, params, state, aux, views = case
  key = jax.random.key(3)
  blocks = drawn(method, views[0], key)
  context, targets = masks(blocks)

  def ours(params):
    return run_of(method, views, key, (params, state, aux)).loss()

  (loss, output), grads = jax.jit(jax.value_and_grad(ours, has_aux=True))(
    params
  )
  teacher = aux["params"]["backbone"]
  given = views[0], context, targets
  expected, expected_grads = gradient(params, teacher, *given)
  np.testing.assert_allclose(loss, expected, rtol=1e-5)
  tiny.assert_close(grads, expected_grads, 1e-4)
  for mistake in (
    "targets as they are",
    "the context encoder sees all",
    "padding is seen",
    "all targets at once",
    "squares",
  ):
    wrong = official_loss(params, teacher, *given, mistake)
    assert abs(wrong - expected) > 1e-4 * expected, mistake

  one = [
    listed_loss(
      params,
      teacher,
      views[0][i],
      np.flatnonzero(context[i]),
      [np.flatnonzero(x) for x in targets[i]],
    )
    for i in range(2)
  ]
  both = official_loss(params, teacher, *(x[:2] for x in given))
  np.testing.assert_allclose(np.mean(one), both, rtol=1e-5)

  shares = context.mean(), targets.any(1).mean()
  found = output.metrics["context_ratio"], output.metrics["masked_ratio"]
  np.testing.assert_allclose(found, shares, rtol=1e-6)
  # What is evaluated: the mean of the teacher's tokens.
  features = method.encode({"backbone": teacher}, state, views[0])["final"]
  np.testing.assert_allclose(output.features, features, atol=1e-5)


def test_padding_and_hidden_pixels_reach_neither_loss_nor_gradient(case):
  method, params, *_, views = case
  key = jax.random.key(3)
  context, _ = masks(drawn(method, views[0], key))
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
    return jnp.sum(jnp.where(blocks.shown[..., None], tokens, 0) ** 2)

  blocks = drawn(method, views[0], key)
  gradient = np.asarray(jax.grad(seen)(views[0]))
  assert np.all(gradient[~pixels] == 0)
  assert np.all(np.abs(gradient[pixels]).max(-1) > 0)


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


def decay_of(step, mistake):
  """The official one, one step later."""
  if mistake == "constant decay":
    return DECAY[0]
  cosine = (1 + math.cos(math.pi * step / TOTAL)) / 2
  return DECAY[1] + (DECAY[0] - DECAY[1]) * cosine


def ema_of(step, mistake):
  if mistake == "momentum along a cosine":
    return 1 - (1 - EMA) * (1 + math.cos(math.pi * step / TOTAL)) / 2
  return EMA + (1 - EMA) * step / TOTAL


def official_steps(start, batches, mistake=""):
  """`train.py`'s loop with its AdamW and schedules.

  Args:
    start: the state of step 0.
    batches: images, contexts and targets of each step.
    mistake: what to do wrong.
  """
  params, target = start.params, start.aux["params"]["backbone"]
  zeros = jax.tree.map(np.zeros_like, params)
  first, second, losses = zeros, zeros, []
  for step, batch in enumerate(batches):
    loss, grads = jax.device_get(gradient(params, target, *batch))
    losses.append(loss)
    before = params
    first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, grads)
    second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, second, grads)
    rate = LR * (1e-3 + (1 - 1e-3) * (1 + math.cos(math.pi * step / TOTAL)) / 2)
    corrected = 1 - 0.9 ** (step + 1), 1 - 0.999 ** (step + 1)
    settings = rate, corrected, decay_of(step, mistake)

    def update(path, p, m, v, settings=settings):
      rate, corrected, decay = settings
      name = jax.tree_util.keystr(path)
      spared = "bias" in name or p.ndim == 1
      if mistake == "all decayed":
        spared = False
      if mistake == "the mask token is spared":
        spared = spared or "mask_token" in name
      step = m / corrected[0] / (np.sqrt(v / corrected[1]) + 1e-3)
      return p - rate * (step + (0 if spared else decay * p))

    params = jax.tree.map_with_path(update, params, first, second)
    followed = before if mistake == "before the optimiser" else params
    tau = ema_of(step, mistake)
    target = jax.tree.map(
      lambda old, new, tau=tau: tau * old + (1 - tau) * new,
      target,
      followed["backbone"],
    )
  return losses, params, target


def trajectory(**changes):
  config = config_of(
    data__batch_size=16,
    schedule__epochs=2,
    schedule__optimizer__lr=LR,
    schedule__optimizer__weight_decay__start=DECAY[0],
    schedule__optimizer__weight_decay__final=DECAY[1],
    model__momentum__start=EMA,
    **changes,
  )
  experiment = tiny.build_method(config)
  assert experiment.total_steps == TOTAL
  return experiment


@pytest.fixture(scope="module")
def ours():
  """Start, batches, losses and end of three steps."""
  experiment = trajectory()
  method = experiment.step.method
  start = jax.device_get(experiment.init_state())
  # Larger weights: an update by the decay is then one that can be seen.
  grown = jax.tree.map(lambda x: 4 * x, start.params["predictor"])
  start = start.replace(params={**start.params, "predictor": grown})
  batches = tiny.batches(experiment, STEPS)
  rng = jax.random.wrap_key_data(start.rng)
  make = jax.jit(lambda b, k: experiment.step.preprocess(b, k, Axis()))
  given = []
  for i, batch in enumerate(batches):
    rng_augment, rng_loss = step_lib.step_keys(rng, i)
    views = make(batch, rng_augment)
    blocks = drawn(method, views[0], rng_loss)
    given.append((views[0], *masks(blocks)))
  metrics, end = tiny.run_steps(experiment, start, batches)
  return start, given, metrics, end, batches


def compare(ours, mistake=""):
  start, given, metrics, end, _ = ours
  losses, params, target = official_steps(start, given, mistake)
  np.testing.assert_allclose([x["loss"] for x in metrics], losses, rtol=1e-4)
  moved = lambda new, old: jax.tree.map(np.subtract, new, old)
  naive.assert_near(
    moved(end.params, start.params), moved(params, start.params), 5e-3
  )
  first = start.aux["params"]["backbone"]
  naive.assert_near(
    moved(end.aux["params"]["backbone"], first), moved(target, first), 5e-3
  )


def test_three_steps_equal_the_official_algorithm(ours):
  compare(ours)
  start, _, metrics, end, _ = ours
  assert set(end.aux["params"]) == {"backbone"}
  assert set(start.params) == {"backbone", "predictor"}
  assert all(0 < x["target_std"] < 1.01 for x in metrics)


@pytest.mark.parametrize(
  "mistake",
  [
    "constant decay",
    "all decayed",
    "the mask token is spared",
    "momentum along a cosine",
    "before the optimiser",
  ],
)
def test_a_known_mistake_is_seen(ours, mistake):
  with pytest.raises(AssertionError):
    compare(ours, mistake)


def test_bfloat16_is_close_to_float32(ours):
  start, _, metrics, end, batches = ours
  experiment = trajectory(model__dtype="bfloat16")
  found, state = tiny.run_steps(experiment, start, batches)
  for name in ("loss", "feature_std", "target_std"):
    np.testing.assert_allclose(
      [x[name] for x in found], [x[name] for x in metrics], rtol=0.03
    )
  moved = lambda new: jax.tree.map(np.subtract, new.params, start.params)
  naive.assert_near(moved(state), moved(end), 0.3)


def test_targets_are_normalised_without_parameters():
  x = np.random.default_rng(0).normal(2, 3, size=(2, 5, 40))
  found = np.asarray(normalized(jnp.asarray(x)), np.float64)
  np.testing.assert_allclose(found.mean(-1), 0, atol=1e-6)
  np.testing.assert_allclose(found.std(-1), 1, atol=1e-5)


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
