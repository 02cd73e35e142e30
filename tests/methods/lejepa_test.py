"""LeJEPA against the paper's algorithms, and rbalestr-lab/lejepa@eddffdd."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from sslx import losses
from sslx.axis import Axis
from sslx.config import ConfigError
from sslx.data import augment
from sslx.methods.lejepa import LeJEPA
from sslx.methods.run import Run
from sslx.models import heads, vit
from sslx.parallel import Parallel, Partitioner
from sslx.step import step_keys
from tests import naive, tiny
from tests.methods import barlow_twins_test as barlow

GLOBAL, LAMBDA, STEPS = 2, 0.05, 4


def unit_rows(key, shape):
  x = np.asarray(jax.random.normal(key, shape))
  return x / np.linalg.norm(x, axis=1, keepdims=True)


def official_sigreg(
  z, directions, np=np, slices=1, others=(), half=2, factor=None
):
  """Of embeddings [b, d] of one view. Other defaults are wrong.

  Args:
    z: in numpy, or in jax.numpy.
    directions: [M, d].
    np: numpy or jax.numpy.
    slices: devices that square their own means.
    others: the directions of each device.
    half: 1 for one half of the integral.
    factor: instead of N.
  """
  n = len(z) if factor is None else factor
  if slices > 1:
    parts = np.split(z, slices)
    return sum(official_sigreg(x, directions, factor=n) for x in parts) / slices
  shares = others or (directions,)
  parts = zip(np.split(z, len(shares)), shares, strict=True)
  x = np.concatenate([part @ a.T for part, a in parts])
  t = np.linspace(-3, 3, 33)[:, None]
  normal = np.exp(-(t**2) / 2)
  phases = t[:, None] * x
  errors = (np.cos(phases).mean(1) - normal) ** 2 + np.sin(phases).mean(1) ** 2
  widths = 6 / 32 * (1 - (abs(t) == 3) / 2)
  return n * (widths * normal * errors).sum(0).mean() * half / 2


def official_loss(
  *z, directions, weight=LAMBDA, np=np, inv=None, centred=GLOBAL, centre=None,
  local=False, flat=False, **wrong,
):  # fmt: skip
  """Of the embeddings of all views, the global ones first.

  Args:
    *z: [b, d] of each view.
    directions: [M, d].
    weight: lambda.
    np: numpy or jax.numpy.
    inv: weight of the distance; other than 1 - lambda is wrong.
    centred: how many views have the centre as their mean.
    centre: it, without a gradient.
    local: whether the loss leaves out the global views.
    flat: whether all views are one sample.
    **wrong: of `official_sigreg`.
  """
  if centre is None:
    centre = sum(z[:centred]) / centred
  z = z[GLOBAL:] if local else z
  distance = sum(((x - centre) ** 2).mean() for x in z) / len(z)
  samples = [np.concatenate(z)] if flat else z
  parts = [official_sigreg(x, directions, np, **wrong) for x in samples]
  inv = 1 - weight if inv is None else inv
  return inv * distance + weight * sum(parts) / len(parts)


def test_loss_and_gradients_are_the_official_ones_of_the_global_batch():
  rng = np.random.default_rng(0)
  image = rng.normal(size=(16, 2, 2, 3))
  noisy = lambda: np.float32(image + 0.5 * rng.normal(size=image.shape) + 0.2)
  views = [noisy() for _ in range(4)]
  # Local ones have another shape, but as many numbers: a linear layer sees all.
  views[GLOBAL:] = [x.reshape(16, 1, 4, 3) for x in views[GLOBAL:]]
  method = LeJEPA(
    backbone=tiny.Flat(), projector=heads.MLP((6,)), directions=40
  )
  found = barlow.loss_and_gradients(method, views, 8)
  # The key of the step in `loss_and_gradients`.
  directions = unit_rows(jax.random.key(0), (40, 6))
  official = lambda **wrong: (
    lambda *z: official_loss(*z, directions=directions, **wrong)
  )
  barlow.check_loss(found, views, official())
  others = [unit_rows(jax.random.key(i), (40, 6)) for i in range(8)]
  _, _, params, embed = found
  centre = sum(embed(params, x) for x in views[:GLOBAL]) / GLOBAL
  for wrong in (
    {"local": True},  # lightly, before its pull request 2023
    {"inv": 1.0},  # stable-pretraining, its issue 413
    {"flat": True},  # stable-pretraining, its issue 413
    {"centred": 4},  # the minimal example, issue 46
    {"slices": 8},  # squared on each device, then averaged
    {"others": others},  # devices that draw their own
    {"factor": 1},  # without N
    {"factor": 2},  # with the N of a device
    {"half": 1},
    {"centre": centre},  # a stopped gradient
  ):
    with pytest.raises(AssertionError):
      barlow.check_loss(found, views, official(**wrong))


def test_views_of_one_size_are_all_global():
  views = [
    np.float32(x)
    for x in np.random.default_rng(0).normal(size=(3, 16, 2, 2, 3))
  ]
  method = LeJEPA(backbone=tiny.Flat(), projector=heads.MLP((6,)), directions=8)
  value, _, params, embed = barlow.loss_and_gradients(method, views, 1)
  z = [embed(params, x) for x in views]
  directions = unit_rows(jax.random.key(0), (8, 6))
  loss = lambda n: official_loss(*z, directions=directions, centred=n)
  np.testing.assert_allclose(value, loss(3), rtol=1e-4)
  assert abs(loss(2) - loss(3)) > 1e-2


def test_normal_embeddings_have_a_statistic_of_about_one():
  """By the formula of its expectation, which does not depend on N."""
  draw = lambda n: np.random.default_rng(n).normal(size=(n, 40, 16))
  directions = unit_rows(jax.random.key(0), (64, 16))
  t = np.linspace(-3, 3, 33)
  normal = np.exp(-(t**2) / 2)
  expected = np.trapezoid(normal * (1 - normal**2), t)
  assert abs(expected - 1.05) < 5e-3  # As the docstring says.
  for n in (64, 512):
    statistic = losses.sigreg(np.float32(draw(n)), directions, Axis())
    np.testing.assert_allclose(statistic, expected, rtol=0.1)
  collapsed = losses.sigreg(jnp.zeros((64, 1, 16)), directions, Axis())
  assert collapsed > 10 * expected


@pytest.mark.parametrize("mode", ["pjit", "pmap"])
def test_devices_meet_once_for_two_sums_of_each_knot(mode):
  mesh = Partitioner.create(Parallel(), jax.devices()).mesh
  rows = NamedSharding(mesh, P("data"))
  views, m = 3, 40
  directions = unit_rows(jax.random.key(0), (m, 5))
  if mode == "pjit":
    loss = lambda z: losses.sigreg(z, directions, Axis(sharding=rows))
  else:
    loss = jax.shard_map(
      lambda z: losses.sigreg(z, directions, Axis("data")),
      mesh=mesh,
      in_specs=P("data"),
      out_specs=P(),
    )
  z = jax.ShapeDtypeStruct((16, views, 5), jnp.float32, sharding=rows)
  compiled = jax.jit(jax.value_and_grad(loss)).lower(z).compile()
  moved = tiny.collectives(compiled)
  assert {kind for kind, _ in moved} == {"all-reduce"}
  assert sum(elements for _, elements in moved) == 2 * 17 * views * m


def test_memory_is_that_of_a_few_knots():
  b, views, d, m = 512, 4, 16, 256
  shapes = [(b, views, d), (m, d)]
  z, directions = (jax.ShapeDtypeStruct(x, jnp.float32) for x in shapes)
  gradient = jax.jit(jax.grad(lambda z, a: losses.sigreg(z, a, Axis())))
  memory = gradient.lower(z, directions).compile().memory_analysis()
  assert memory.temp_size_in_bytes < 5 * 4 * b * views * m  # Of 34 or more.


@functools.cache
def official_gradient(**wrong):
  """Of parameters, running statistics, views and directions.

  The networks, on all views of a size at once, are those of `naive`.
  """

  def loss(params, stats, views, directions):
    z = []
    for same in (views[:GLOBAL], views[GLOBAL:]):
      y, given = naive.siamese(jnp.concatenate(same), params)
      stats = {k: naive.running(stats[k], x) for k, x in given.items()}
      z += jnp.split(y, len(same))
    return official_loss(*z, directions=directions, np=jnp, **wrong), stats

  return jax.jit(jax.value_and_grad(loss, has_aux=True))


def official_steps(start, views, keys, *, total, warmup=2, **wrong):
  """Yields loss, parameters and statistics of AdamW's steps."""
  gradient = official_gradient(**wrong)
  params, stats = start.params, start.model_state
  mu = nu = jax.tree.map(np.zeros_like, params)
  for i, (x, key) in enumerate(zip(views, keys, strict=True)):
    directions = unit_rows(key, (24, 8))
    (value, stats), grads = gradient(params, stats, x, directions)
    params, grads = jax.device_get((params, grads))
    if i < warmup:
      rate = 0.01 + 0.99 * i / warmup
    else:
      cosine = np.cos(np.pi * (i - warmup) / (total - warmup))
      rate = 0.001 + 0.999 * (1 + cosine) / 2
    rate *= 0.02
    mu = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, mu, grads)
    nu = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, nu, grads)
    # Both are divided by what they would be of ones.
    ones = 1 - 0.9 ** (i + 1), 1 - 0.999 ** (i + 1)
    step = jax.tree.map(
      lambda m, v, a=ones[0], b=ones[1]: m / a / (np.sqrt(v / b) + 1e-2), mu, nu
    )
    params = jax.tree.map(
      lambda p, u, rate=rate: p - rate * (u + 0.05 * p), params, step
    )
    yield value, params, stats


def test_steps_are_the_official_ones_and_wrong_ones_are_found():
  alone = tiny.build_method(tiny.method_config("lejepa"))
  config = tiny.method_config("lejepa", runtime__parallel__mode="pmap")
  many = tiny.build_method(config, 8)
  start = jax.device_get(alone.init_state())
  found = tiny.run_steps(many, start, tiny.batches(many, STEPS))
  rng = jax.random.wrap_key_data(start.rng)
  make = jax.jit(lambda b, k: alone.step.preprocess(b, k, Axis()))
  keys = [step_keys(rng, i) for i in range(STEPS)]
  batches = zip(tiny.batches(alone, STEPS), keys, strict=True)
  views = [make(batch, key) for batch, (key, _) in batches]
  steps = lambda **wrong: official_steps(
    start, views, [key for _, key in keys], total=alone.total_steps, **wrong
  )
  barlow.check_steps(start, found, steps())
  for wrong in ({"warmup": 3}, {"centred": 5}):
    with pytest.raises(AssertionError):
      barlow.check_steps(start, found, steps(**wrong))


def vit_config(**changes):
  """The ViT-S recipe with one block of width 32."""
  config = tiny.method_config("lejepa", **changes)
  small = {"name": "vit", "width": 32, "depth": 1, "heads": 2}
  small |= {"patch_size": 4, "image_size": 12}
  small |= {"drop_path": 0.3, "drop_path_schedule": "uniform"}
  with config.unlocked():
    config.model.backbone = ConfigDict(small)
  return config


def test_a_vit_drops_the_same_branches_on_any_devices_in_bfloat16_too():
  alone = tiny.build_method(vit_config())
  start = jax.device_get(alone.init_state())
  steps = lambda it: tiny.run_steps(it, start, tiny.batches(it, 3))[0]
  taken = lambda metrics, key: np.array([m[key] for m in metrics])
  expected = steps(alone)
  found = steps(tiny.build_method(vit_config(), 8))
  half = steps(tiny.build_method(vit_config(model__dtype="bfloat16")))
  for key in ("loss", "invariance_loss", "sigreg_loss"):
    old = taken(expected, key)
    np.testing.assert_allclose(taken(found, key), old, rtol=1e-3)
    np.testing.assert_allclose(taken(half, key), old, rtol=0.05)


def test_each_view_drops_branches_of_its_own():
  sizes = {"width": 8, "depth": 1, "heads": 1, "patch_size": 4, "image_size": 8}
  backbone = vit.ViT(**sizes, drop_path=0.5, drop_path_schedule="uniform")
  method = LeJEPA(backbone=backbone, projector=heads.MLP((4,)), directions=4)
  rng = np.random.default_rng(0)
  views = [np.float32(rng.normal(size=(6, s, s, 3))) for s in (8, 8, 4)]
  key = jax.random.key(1)

  @jax.jit
  def both(views):
    batch = {"views": tuple(views)}
    params, stats, aux = method.init(jax.random.key(0), batch)
    run = Run(method, params, stats, aux, batch, key, jnp.int32(0), Axis())
    large = method._embeddings({0: views[0], 1: views[1]}, run)
    small = method._embeddings({2: views[2]}, run)
    keys = augment.example_keys(key, jnp.arange(6))
    of_view = lambda n: backbone.apply(
      {"params": params["backbone"]},
      views[n],
      train=True,
      keys=augment.fold(keys, n),
    )
    alone = jnp.stack([of_view(n) for n in range(3)], axis=1)
    expected = alone @ params["projector"]["fc1"]["kernel"]
    return jnp.concatenate([large, small], axis=1), expected

  np.testing.assert_allclose(*both(views), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
  "changes", [{"model__sigreg_weight": 1.5}, {"model__directions": 0}]
)
def test_impossible_settings_are_refused(changes):
  (key,) = changes
  with pytest.raises(ConfigError, match=key.rpartition("__")[2]):
    tiny.method_config("lejepa", **changes)
