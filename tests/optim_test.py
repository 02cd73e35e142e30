"""Optimisers and schedules against formulas written out in numpy."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from sslx import config, optim, schedules
from sslx.optim import Optimizer, Rule
from sslx.schedules import Duration, Plan, Schedule

# Changes from step to step, so that its place relative to the momentum shows.
RATES = np.array([0.1, 0.3, 0.5, 0.2, 0.05])
PLAN = Plan(batch_size=256, steps_per_epoch=2, total_steps=len(RATES))
SHAPES = {
  "body/conv/kernel": (8, 4),
  "body/conv/bias": (4,),
  "body/bn/scale": (4,),
  "head/kernel": (4, 3),
  "head/zeros": (4, 3),
  "head/unused": (2, 2),
}
# Steps large enough for the tolerance to tell one form from another.
Large = functools.partial(
  Optimizer, lr=1.0, weight_decay=0.1, trust_coefficient=0.1
)


def lr_fn(count):
  return jnp.asarray(RATES, jnp.float32)[count]


def nest(flat):
  return traverse_util.unflatten_dict(jax.tree.map(jnp.float32, flat), sep="/")


def flatten(tree):
  return traverse_util.flatten_dict(jax.device_get(tree), sep="/")


def problem():
  """Flat parameters and gradients of five steps, zeros among both."""
  rng = np.random.default_rng(0)
  draw = lambda zero: {
    k: rng.normal(size=s) * (k != zero) for k, s in SHAPES.items()
  }
  return draw("head/zeros"), [draw("head/unused") for _ in RATES]


def run(tx, params, grads, update=None, state=None):
  """Flat parameters after each step, and the last state."""
  params = nest(params)
  state = tx.init(params) if state is None else state
  history = []
  for g in grads:
    updates, state = (update or tx.update)(nest(g), state, params)
    params = optax.apply_updates(params, updates)
    history.append(flatten(params))
  return history, state


def make(settings):
  return optim.make(settings, lr_fn, nest(problem()[0]), PLAN)


def by_hand(settings, params, grads, first=0):
  """The same in numpy: torch's SGD, apex's LARC, SimCLR's LARS, AdamW."""
  o, norm = settings, np.linalg.norm
  params = dict(params)
  v, v2 = ({k: 0 * x for k, x in params.items()} for _ in range(2))
  history = []
  for t, grad in enumerate(grads, start=1):
    for k, p in params.items():
      mine = {}
      for pattern, rule in reversed(o.rules):
        if re.search(pattern, k):
          mine |= {key: x for key, x in vars(rule).items() if x is not None}
      one_d = p.ndim < 2 or k.endswith("bias")
      skip = mine.get("exclude", o.exclude_1d and one_d)
      g, rate = grad[k], RATES[first + t - 1]
      if "schedule" in mine:
        rate = o.lr * mine["schedule"].start  # Constant.
      rate = rate * mine.get("lr", 1)
      if "clip" in mine:
        g = g * min(1, mine["clip"] / max(norm(g), 1e-12))
      decay = o.weight_decay
      if isinstance(decay, Schedule):  # A line over the run, without warm-up.
        change = decay.final - decay.start
        decay = decay.start + change * (first + t - 1) / len(RATES)
      decay = decay * mine.get("weight_decay", 1)
      decayed = g if skip else g + decay * p
      if o.name == "adamw":
        v[k] = o.b1 * v[k] + (1 - o.b1) * g
        v2[k] = o.b2 * v2[k] + (1 - o.b2) * g**2
        m_hat, v_hat = v[k] / (1 - o.b1**t), v2[k] / (1 - o.b2**t)
        step = m_hat / (np.sqrt(v_hat) + o.eps) + decayed - g
        params[k] = p - rate * step
        continue
      u, adapt = decayed, not skip and norm(p)
      adapt = adapt and norm(decayed if o.name == "lars" else g)
      if o.name == "larc":
        below = norm(g) + decay * norm(p) + o.eps
        trust = o.trust_coefficient * norm(p) / below
        trust = min(trust / rate, 1) if o.trust_clip else trust
        u = trust * decayed if adapt else g
      if o.name == "lars":
        trust = o.trust_coefficient * norm(p) / norm(decayed) if adapt else 1
        u, rate = rate * trust * decayed, 1  # the buffer remembers the rate
      v[k] = o.momentum * v[k] + u
      params[k] = p - rate * (u + o.momentum * v[k] if o.nesterov else v[k])
    history.append(dict(params))
  return history


def assert_close(actual, expected):
  for step, (a, e) in enumerate(zip(actual, expected, strict=True)):
    for k in e:
      np.testing.assert_allclose(a[k], e[k], 2e-5, 2e-5, err_msg=f"{k} {step}")


@pytest.mark.parametrize(
  "settings",
  [
    Large("sgd"),
    Large("sgd", nesterov=True, exclude_1d=True),
    Large("sgd", rules=(("head", Rule(weight_decay=5.0)),)),
    Large("sgd", rules=(("head", Rule(clip=0.5)), ("conv", Rule(clip=1.0)))),
    # SimSiam's predictor, whose rate stays.
    Large("sgd", rules=(("head", Rule(schedule=Schedule("constant"))),)),
    Large("adamw", b2=0.95, rules=(("bias|bn/", Rule(exclude=True)),)),
    # The first rule counts that sets a key.
    Large("adamw", rules=(("head", Rule(lr=0.2)), (".", Rule(lr=1.0)))),
    Large("adamw", rules=(("head", Rule(lr=0.2)), (".", Rule(exclude=True)))),
    Large("adamw", weight_decay=Schedule("linear", start=0.04, final=0.4)),
    # Layer-wise decay, of DINO's and of fine-tuning's kind.
    Large("adamw", rules=(("conv", Rule(lr=0.75**2)), ("bn", Rule(lr=0.75)))),
    Large("lars", exclude_1d=True),
    Large("lars", exclude_1d=True, rules=(("bn/", Rule(exclude=False)),)),
    Large("lars", nesterov=True, rules=(("body", Rule(lr=0.5)),)),
    Large("lars", rules=(("head", Rule(schedule=Schedule("constant"))),)),
    Large("larc"),
    Large("larc", rules=(("^head|bias$", Rule(exclude=True)),)),
    Large("larc", trust_clip=True, rules=(("body", Rule(lr=0.5)),)),
  ],
  ids=lambda settings: settings.name,
)
def test_updates_follow_the_formula(settings):
  params, grads = problem()
  actual, _ = run(make(settings), params, grads)
  assert_close(actual, by_hand(settings, params, grads))


def test_lars_is_optax_lars():
  params, grads = problem()
  mask = jax.tree.map(lambda p: p.ndim > 1, nest(params))
  reference = optax.lars(lr_fn, 0.1, mask, 0.1, trust_ratio_mask=mask)
  actual, _ = run(make(Large("lars", exclude_1d=True)), params, grads)
  assert_close(actual, run(reference, params, grads)[0])


def test_norms_are_float32():
  # The sums of squares, 6e7 and 2e8, are infinite in float16.
  params, grads = jnp.full(64, 1e3, "float16"), jnp.full(64, 2e3, "float16")
  one = lambda _: jnp.float32(1)
  tx = optim.make(Optimizer("lars", 1.0), one, params, PLAN)
  updates, _ = tx.update(grads, tx.init(params), params)
  np.testing.assert_allclose(updates, -0.001 * 1e3, rtol=1e-3)


@pytest.mark.parametrize("name", ["lars", "adamw"])
@pytest.mark.parametrize("freeze", [1.0, Duration(steps=2), True])
def test_frozen_parameters_are_out_of_everything(name, freeze):
  params, grads = problem()
  decay = Schedule("linear", start=0.1, final=0.2)
  rules = (("^head", Rule(freeze=freeze)),)
  settings = Large(name, weight_decay=decay, rules=rules)
  tx = make(settings)
  actual, state = run(tx, params, grads, jax.jit(tx.update))
  # The head's own optimiser starts at the rate of that step, with its moments
  # and bias correction fresh.
  held = len(grads) if freeze is True else 2
  head = {k: v for k, v in params.items() if k.startswith("head")}
  body = {k: v for k, v in params.items() if k not in head}
  moved = [head] * held + by_hand(settings, head, grads[held:], first=held)
  trained = by_hand(settings, body, grads)
  expected = [h | b for h, b in zip(moved, trained, strict=True)]
  assert_close(actual, expected)
  for k in head:
    np.testing.assert_array_equal(actual[held - 1][k], np.float32(head[k]))
  has_state = (4, 3) in {leaf.shape for leaf in jax.tree.leaves(state)}
  assert has_state == (freeze is not True)


def test_parameters_may_be_frozen_for_different_times():
  params, grads = problem()
  rules = (
    ("head/zeros", Rule(freeze=Duration(steps=3))),
    ("bn", Rule(freeze=True)),
    ("head", Rule(freeze=Duration(share=0.2))),
    (".", Rule(freeze=False)),
  )
  tx = make(Large("adamw", rules=rules))
  actual, _ = run(tx, params, grads, jax.jit(tx.update))
  for k, p in params.items():
    moved = [bool((step[k] != np.float32(p)).any()) for step in actual]
    held = 5 if "bn" in k else 3 if k == "head/zeros" else 1
    held = held if "head" in k or "bn" in k else 0
    if k != "head/unused":
      assert moved == [t >= held for t in range(5)], k


def test_clip_scales_all_gradients_by_the_global_norm():
  params, grads = problem()
  norm = np.sqrt(sum((g**2).sum() for g in grads[0].values()))
  for limit in (norm / 4, norm * 4):
    settings = Large("sgd", clip_norm=limit)
    scaled = {k: g * min(1, limit / norm) for k, g in grads[0].items()}
    actual, _ = run(make(settings), params, grads[:1])
    assert_close(actual, by_hand(settings, params, [scaled]))


@pytest.mark.parametrize("name", ["lars", "adamw"])
def test_resumes_exactly_from_saved_state(name):
  params, grads = problem()
  tx = make(Large(name, rules=(("conv", Rule(freeze=Duration(steps=3))),)))
  update = jax.jit(tx.update)
  straight, _ = run(tx, params, grads, update)
  first, state = run(tx, params, grads[:2], update)
  second, _ = run(tx, first[-1], grads[2:], update, jax.device_get(state))
  for k in SHAPES:
    np.testing.assert_array_equal(second[-1][k], straight[-1][k])


@pytest.mark.parametrize("view", ["sharded", "shard_map"])
def test_same_on_many_devices(view):
  params, grads = problem()
  rules = (("conv", Rule(freeze=1.0)), ("head", Rule(clip=1.0)))
  tx = make(Large("lars", clip_norm=3.0, rules=rules))
  mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))

  def split(x):
    spec = P("data") if x.shape[0] % 4 == 0 else P()
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))

  def sharded(grads, state, params):
    grads, params = jax.tree.map(split, (grads, params))
    return tx.update(grads, state, params)

  per_device = jax.shard_map(tx.update, mesh=mesh, in_specs=P(), out_specs=P())
  update = jax.jit(sharded if view == "sharded" else per_device)
  actual, _ = run(tx, params, grads, update)
  assert_close(actual, run(tx, params, grads, jax.jit(tx.update))[0])


def test_a_bias_counts_as_one_dimensional_however_heads_split_it():
  o = Large("adamw", exclude_1d=True)
  shape = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
  assert o.excludes("attn/qkv/bias", shape(3, 4, 8))
  assert o.excludes("norm/scale", shape(8))
  assert not o.excludes("attn/qkv/kernel", shape(8, 3, 4, 8))
  assert not o.excludes("cls_token", shape(1, 1, 8))


@pytest.mark.parametrize(
  "rules, message",
  [
    (("kernel", "norm"), r"1\.0 is 'norm', which .*: body/bn/scale"),
    (("(bn",), r"0\.0 is '\(bn', no regular .*subpattern"),
  ],
)
def test_pattern_without_a_match_is_an_error(rules, message):
  message = rf"config\.schedule\.optimizer\.rules\.{message}"
  rules = tuple((pattern, Rule(lr=1.0)) for pattern in rules)
  with pytest.raises(config.ConfigError, match=message):
    make(Large("sgd", rules=rules))


OUTSIDE = {"lr": -0.1, "weight_decay": -1.0, "momentum": 1.0, "clip_norm": 0.0}
BEYOND = {"warmup": -1.0, "over": -0.1, "gamma": 0.0, "milestones": ()}
RULE = {"lr": -1.0, "weight_decay": -0.1, "clip": 0.0, "freeze": -1.0}


@pytest.mark.parametrize(
  "cls, key, value",
  [
    *((Optimizer, *pair) for pair in OUTSIDE.items()),
    *((Schedule, *pair) for pair in BEYOND.items()),
    *((Rule, *pair) for pair in RULE.items()),
  ],
)
def test_impossible_settings_are_errors(cls, key, value):
  given = {"name": "sgd", "lr": 0.1} if cls is Optimizer else {}
  given = {"kind": "step", "milestones": (1.0,)} if cls is Schedule else given
  message = rf"config\.s\.{key} is {re.escape(repr(value))}; it must be"
  with pytest.raises(config.ConfigError, match=message):
    config.build(cls, given | {key: value}, "s")


def cosine(x):
  return 0.5 * (1 + np.cos(np.pi * x))


def warm(e, epochs, start, peak, after):
  return np.where(e < epochs, start + (peak - start) * e / epochs, after)


# Optimiser, global batch, epochs, schedule, and the rate at fractional epoch e.
RECIPES = {
  "mocov2": (
    (Optimizer("sgd", 0.03), 256, 200, Schedule(per="epoch")),
    lambda e: 0.03 * cosine(np.floor(e) / 200),
  ),
  "simclr": (
    (Optimizer("lars", 0.3), 4096, 200, Schedule(warmup=10)),
    lambda e: warm(e, 10, 0, 4.8, 4.8 * cosine((e - 10) / 190)),
  ),
  "simclr-mmselfsup": (
    (
      Optimizer("lars", 0.3),
      512,
      200,
      Schedule(warmup=10, warmup_from=1e-4, per="epoch"),
    ),
    lambda e: warm(e, 10, 6e-5, 0.6, 0.6 * cosine((np.floor(e) - 10) / 190)),
  ),
  "swav-256": (
    (Optimizer("larc", 0.6), 256, 200, Schedule(final=0.0006 / 0.6)),
    lambda e: 0.0006 + 0.5994 * cosine(e / 200),
  ),
  "swav-4096": (
    (
      Optimizer("larc", 0.3),
      4096,
      400,
      Schedule(warmup=10, warmup_from=0.3 / 4.8, final=0.001),
    ),
    lambda e: warm(e, 10, 0.3, 4.8, 0.0048 + 4.7952 * cosine((e - 10) / 390)),
  ),
  "relative-loc": (
    (
      Optimizer("sgd", 0.1),
      512,
      70,
      Schedule("step", warmup=5, warmup_from=0.1, milestones=(30, 50)),
    ),
    lambda e: warm(e, 5, 0.02, 0.2, 0.2 * 0.1 ** np.digitize(e, [30, 50])),
  ),
  "mae": (
    (Optimizer("adamw", 1.5e-4), 4096, 800, Schedule(warmup=40)),
    lambda e: warm(e, 40, 0, 2.4e-3, 2.4e-3 * cosine((e - 40) / 760)),
  ),
  "constant": (
    (Optimizer("sgd", 0.1), 256, 2, Schedule("constant", warmup=0.5)),
    lambda e: 0.1 * np.minimum(1, e / 0.5),
  ),
}


@pytest.mark.parametrize("name", RECIPES)
def test_schedule_of_every_recipe(name):
  (settings, batch, epochs, schedule), expected = RECIPES[name]
  n = 1280000 // batch
  plan = Plan(batch, n, n * epochs)
  schedules.check(schedule, plan, "schedule.lr")
  rate = optim.learning_rate(settings, schedule, plan)
  # Every side of every change, and places between.
  turns = n * np.array([0, 0.5, 1, 5, 10, 30, 40, 50, epochs / 2, epochs])
  steps = np.concatenate([turns - 1, turns, turns + 1])
  steps = np.unique(np.clip(steps, 0, epochs * n - 1).astype(np.int32))
  actual = jax.jit(jax.vmap(rate))(steps)
  peak = optim.peak_lr(settings, batch)
  np.testing.assert_allclose(actual, expected(steps / n), 2e-5, 1e-6 * peak)
  outside = rate(int(steps[3]))
  assert outside.shape == () and outside.dtype == jnp.float32
  np.testing.assert_allclose(outside, actual[3], rtol=1e-6)


def test_peak_rate_scales_with_the_batch():
  rate = lambda *settings: optim.peak_lr(Optimizer("sgd", *settings), 4096)
  assert rate(0.3, "linear") == pytest.approx(4.8)
  assert rate(0.075 * 16, "sqrt") == pytest.approx(4.8)
  assert rate(0.06, "linear", 2048) == pytest.approx(0.12)
  assert rate(30.0, "none") == pytest.approx(30)


def test_freezing_beyond_the_end():
  plan = Plan(1, 4, 12)
  check = lambda freeze: optim.check(
    Optimizer("sgd", 0.1, rules=(("prototypes", Rule(freeze=freeze)),)),
    Schedule(),
    plan,
  )
  check(Duration(steps=11)), check(True), check(False), check(2.75)
  message = (
    r"config\.schedule\.optimizer\.rules\.0\.1\.freeze is 3\.0, until step 12;"
    " the run has 12 steps: .*'prototypes' would never be trained"
  )
  with pytest.raises(config.ConfigError, match=message):
    check(3.0)


def test_schedules_of_decay_and_rules_are_checked():
  late = Schedule(warmup=9.0)
  for key, o in (
    ("weight_decay", Optimizer("sgd", 0.1, weight_decay=late)),
    (
      "rules.0.1.schedule",
      Optimizer("sgd", 0.1, rules=((".", Rule(schedule=late)),)),
    ),
  ):
    message = f"config.schedule.optimizer.{key}.warmup is 9.0, until step 36"
    with pytest.raises(config.ConfigError, match=message):
      optim.check(o, Schedule(), Plan(1, 4, 12))


def test_layer_decay_lowers_the_rates_of_the_lower_layers():
  """MAE's layer ids: 0 of the tokens, i + 1 of block i, n + 1 of the rest."""
  layers = {
    "backbone/cls_token": 0,
    "backbone/pos_embed": 0,
    "backbone/patch_embed/kernel": 0,
    "backbone/blocks_0/attn/kernel": 1,
    "backbone/blocks_1/norm1/scale": 2,
    "backbone/blocks_10/mlp/bias": 11,
    "backbone/norm/scale": 12,
    "classifier/final_0/kernel": 12,
  }
  params = nest(dict.fromkeys(layers, np.ones(3)))
  rules = (("patch_embed", Rule(lr=0.2)),)
  settings = Optimizer("sgd", 1.0, momentum=0.0, layer_decay=0.65, rules=rules)
  tx = optim.make(settings, lr_fn, params, PLAN)
  updates, _ = tx.update(params, tx.init(params), params)
  for path, found in flatten(updates).items():
    rate = RATES[0] * 0.65 ** (12 - layers[path])
    rate *= 0.2 if "patch_embed" in path else 1
    np.testing.assert_allclose(found, -rate, rtol=1e-6, err_msg=path)
  with pytest.raises(
    config.ConfigError, match=r"layer_decay is 0.65, but this"
  ):
    resnet = nest({"backbone/patch_embed": np.ones(3)})
    optim.make(settings, lr_fn, resnet, PLAN)
