"""LeJEPA against the paper's algorithms, and rbalestr-lab/lejepa@eddffdd."""

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
from tests import naive, official, tiny
from tests.methods import barlow_twins_test as barlow

GLOBAL, LAMBDA = 2, 0.05
STEPS, TOTAL, WARMUP, DEVICES = 4, 12, 2, 8
LR, DECAY, EPS = 0.02, 0.05, 1e-2


def unit_rows(key, shape):
  x = np.asarray(jax.random.normal(key, shape, np.float32))
  return x / np.linalg.norm(x, axis=1, keepdims=True)


def official_sigreg(z, directions, mistake=""):
  """Algorithm 1, over both halves of the integral.

  Args:
    z: [b, d], embeddings of one view.
    directions: [1, M, d]; those of each device are wrong.
    mistake: see `OFFICIAL`.
  """
  n, d = z.shape
  x = z.reshape(len(directions), -1, d) @ directions.swapaxes(1, 2)
  devices = DEVICES if mistake == "squared before the mean of devices" else 1
  x = x.reshape(devices, -1, x.shape[-1])
  t = np.linspace(-3, 3, 33)[:, None, None]
  normal = np.exp(-(t**2) / 2)
  phases = t[..., None] * x
  errors = (jnp.cos(phases).mean(2) - normal) ** 2
  errors += jnp.sin(phases).mean(2) ** 2
  widths = 6 / 32 * (1 - (abs(t) == 3) / 2)
  statistic = (widths * normal * errors).sum(0).mean()
  if mistake == "half of the integral":
    statistic = statistic / 2
  if mistake == "no factor of the batch":
    return statistic
  if mistake == "the factor of one device's batch":
    return n / DEVICES * statistic
  return n * statistic


def official_loss(z, directions, mistake="", views=GLOBAL):
  """Algorithm 2.

  Args:
    z: [V, b, d], embeddings of all views, the global ones first.
    directions: of `official_sigreg`.
    mistake: see `OFFICIAL`.
    views: how many are global.
  """
  seen = len(z) if mistake == "a centre of all views" else views
  centre = z[:seen].mean(0)
  if mistake == "no gradient of the centre":
    centre = jax.lax.stop_gradient(centre)
  if mistake == "no loss of the global views":
    z = z[views:]
  distance = ((z - centre) ** 2).mean()
  if mistake == "all views in one sample":
    z = z.reshape(1, -1, z.shape[-1])
  sigreg = sum(official_sigreg(x, directions, mistake) for x in z) / len(z)
  share = 1 if mistake == "the distance in full" else 1 - LAMBDA
  return share * distance + LAMBDA * sigreg


def networks(params, views, groups):
  """Embeddings of all views, those of one size at once.

  Args:
    params: all parameters.
    views: the global ones first.
    groups: of the batch of each size, see `naive.batch_norm`.

  Returns:
    Embeddings [V, b, d]; and what each BatchNorm is given, for each size.
  """
  z, seen = [], []
  for same, n in zip((views[:GLOBAL], views[GLOBAL:]), groups, strict=True):
    y, given = naive.siamese(jnp.concatenate(same), params, n)
    z.append(y.reshape(len(same), -1, y.shape[-1]))
    seen.append(given)
  return jnp.concatenate(z), seen


embed = naive.compiled(networks)
# Without the networks, which compile much longer than any variant of it.
loss_and_slopes = naive.compiled(jax.value_and_grad(official_loss))


@naive.compiled
def pull_back(params, views, slopes, groups):
  """The gradient, of that of the embeddings."""
  z = lambda params: networks(params, views, groups)[0]
  return jax.vjp(z, params)[1](slopes)[0]


def official_steps(taken, mistake=""):
  """Algorithm 2 and torch's AdamW.

  The warm-up is that of MINIMAL.md, the last rate the README's.
  """
  params, stats, moments = taken.start.params, taken.start.model_state, None
  groups = (1, 1)
  if mistake == "BatchNorm of each view alone":
    groups = (GLOBAL, len(taken.views[0]) - GLOBAL)
  warmup = 3 if mistake == "another warm-up" else WARMUP

  def decay(p):
    spared = mistake == "biases and norms without decay" and p.ndim == 1
    return 0 if spared else DECAY

  out = {"loss": [], "rate": [], "gradient": []}
  for i, views in enumerate(taken.views):
    key = taken.keys[0 if mistake == "the same directions at each step" else i]
    keys = [key]
    if mistake == "directions of each device":
      keys = jax.random.split(key, DEVICES)
    directions = np.stack([unit_rows(key, (24, 8)) for key in keys])
    z, seen = embed(params, views, groups)
    loss, slopes = loss_and_slopes(z, directions, mistake)
    grads = pull_back(params, views, slopes, groups)
    for given, n in zip(seen, groups, strict=True):
      stats = naive.moments(stats, given, n)
    rate = 0.01 + 0.99 * i / warmup
    if i >= warmup:
      left = naive.cosine((i - warmup) / (TOTAL - warmup))
      rate = 0.001 + 0.999 * left
    params, moments = naive.adamw(
      params, moments, grads, i, LR * rate, b2=0.999, decay=decay, eps=EPS
    )
    out["loss"].append(loss)
    out["rate"].append(LR * rate)
    out["gradient"].append(grads)
  return out | {"parameters": params, "statistics": stats}


OFFICIAL = official.Case(
  "lejepa",
  "Balestriero and LeCun 2025: algorithms 1 and 2;"
  " rbalestr-lab/lejepa@eddffdd: README.md, MINIMAL.md",
  lambda: tiny.method_config("lejepa"),
  STEPS,
  official_steps,
  {
    "no loss of the global views": "lightly before #2023",
    "the distance in full": "stable-pretraining#413",
    "all views in one sample": "stable-pretraining#413",
    "a centre of all views": "MINIMAL.md, lejepa#46",
    "no gradient of the centre": "",
    "half of the integral": "",
    "no factor of the batch": "",
    "the factor of one device's batch": "",
    "squared before the mean of devices": "",
    "directions of each device": "",
    "the same directions at each step": "",
    "BatchNorm of each view alone": "",
    "biases and norms without decay": "",
    "another warm-up": "",
  },
)


@pytest.fixture(scope="module")
def taken():
  return OFFICIAL.take()


def test_four_steps_equal_the_official_algorithm(taken):
  found = OFFICIAL.differences(taken)
  assert OFFICIAL.fits(found), found
  assert taken.experiment.total_steps == TOTAL


@pytest.mark.slow
@pytest.mark.parametrize("mistake", OFFICIAL.mistakes)
def test_a_known_mistake_is_seen(taken, mistake):
  assert OFFICIAL.catches(OFFICIAL.differences(taken, mistake))


def test_eight_devices_of_pmap_take_the_official_steps_too(taken):
  config = tiny.method_config("lejepa", runtime__parallel__mode="pmap")
  many = tiny.build_method(config, DEVICES)
  batches = tiny.batches(many, STEPS)
  metrics, end = tiny.run_steps(many, many.init_state(), batches)
  found = OFFICIAL.differences(taken._replace(metrics=metrics, end=end))
  assert OFFICIAL.fits(found), found


def test_views_of_one_size_are_all_global():
  views = [
    np.float32(x)
    for x in np.random.default_rng(0).normal(size=(3, 16, 2, 2, 3))
  ]
  method = LeJEPA(backbone=tiny.Flat(), projector=heads.MLP((6,)), directions=8)
  value, _, params, embed = barlow.loss_and_gradients(method, views, 1)
  z = jnp.stack([embed(params, x) for x in views])
  directions = unit_rows(jax.random.key(0), (8, 6))[None]
  loss = lambda n: official_loss(z, directions, views=n)
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


def vit_config(**changes):
  """The ViT-S recipe with one block of width 32."""
  config = tiny.method_config("lejepa", **changes)
  small = {"name": "vit", "width": 32, "depth": 1, "heads": 2}
  small |= {"patch_size": 4, "image_size": 12}
  small |= {"drop_path": 0.3, "drop_path_schedule": "uniform"}
  with config.unlocked():
    config.model.backbone = ConfigDict(small)
  return config


@pytest.mark.slow
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
    found = jnp.concatenate(method._embeddings(run), axis=1)
    keys = augment.example_keys(key, jnp.arange(6))
    of_view = lambda n: backbone.apply(
      {"params": params["backbone"]},
      views[n],
      train=True,
      keys=augment.fold(keys, n),
    )
    alone = jnp.stack([of_view(n) for n in range(3)], axis=1)
    expected = alone @ params["projector"]["fc1"]["kernel"]
    return found, expected

  np.testing.assert_allclose(*both(views), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
  "changes", [{"model__sigreg_weight": 1.5}, {"model__directions": 0}]
)
def test_impossible_settings_are_refused(changes):
  (key,) = changes
  with pytest.raises(ConfigError, match=key.rpartition("__")[2]):
    tiny.method_config("lejepa", **changes)
