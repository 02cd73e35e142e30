"""The online probe against a loop in numpy, in both views."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from sslx.axis import Axis
from sslx.evaluate.probe import OnlineProbe, Probe
from sslx.parallel import Parallel, Partitioner

CLASSES, DIM, BATCH, STEPS = 5, 6, 32, 3
LR = 0.01
PROBE = OnlineProbe(CLASSES, Probe(lr=LR))


def batches():
  """Features of uneven scale that drift; labels missing unevenly."""
  rng = np.random.default_rng(0)
  result = []
  for step in range(STEPS):
    x = rng.normal(size=(BATCH, DIM)) * 10.0 ** np.arange(-2, 4) + step
    labels = rng.integers(0, CLASSES, BATCH)
    labels[rng.random(BATCH) < 0.3] = -1
    labels[:6] = -1  # a whole device of 8 without labels
    result.append((x.astype(np.float32), labels.astype(np.int32)))
  return result


def numpy_loop(kernel, data):
  """Standardise, softmax cross-entropy, Adam: written out in float64."""
  params = [kernel.astype(np.float64), np.zeros(CLASSES)]
  first = [np.zeros_like(p) for p in params]
  second = [np.zeros_like(p) for p in params]
  weights, xs, metrics = np.zeros(0), np.zeros((0, DIM)), []
  for t, (x, labels) in enumerate(data, start=1):
    x, labels = x[labels >= 0].astype(np.float64), labels[labels >= 0]
    # The first ten batches weigh the same, however many rows they hold.
    xs = np.concatenate([xs, x])
    weights = np.concatenate([weights, np.full(len(x), 1 / len(x))])
    mean = np.average(xs, axis=0, weights=weights)
    var = np.average((xs - mean) ** 2, axis=0, weights=weights)
    x = (x - mean) / np.sqrt(var + 1e-6)

    logits = x @ params[0] + params[1]
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    rows = np.arange(len(x))
    metrics.append(
      (
        -np.log(p[rows, labels]).mean(),
        np.mean(logits.argmax(1) == labels),
      )
    )
    p[rows, labels] -= 1
    for i, g in enumerate([x.T @ p / len(x), p.mean(0)]):
      first[i] = 0.9 * first[i] + 0.1 * g
      second[i] = 0.999 * second[i] + 0.001 * g**2
      params[i] = params[i] - LR * (first[i] / (1 - 0.9**t)) / (
        np.sqrt(second[i] / (1 - 0.999**t)) + 1e-8
      )
  return params, mean, var, metrics


def updater(view, devices):
  mesh = Partitioner.create(Parallel(), jax.devices()[:devices]).mesh
  if view == "global":
    update = lambda *args: PROBE.update(*args, Axis())
  else:
    update = jax.shard_map(
      lambda *args: PROBE.update(*args, Axis("data")),
      mesh=mesh,
      in_specs=(P(), P("data"), P("data")),
      out_specs=P(),
    )
  sharding = NamedSharding(mesh, P("data"))
  update = jax.jit(update)
  return lambda state, *batch: update(state, *jax.device_put(batch, sharding))


@pytest.mark.parametrize(
  "view, devices",
  [("global", 1), ("global", 8), ("per-device", 2), ("per-device", 8)],
)
def test_equals_numpy_loop(view, devices):
  state = PROBE.init(jax.random.key(0), DIM)
  update = updater(view, devices)
  data = batches()
  params, mean, var, metrics = numpy_loop(
    np.asarray(state.params["kernel"]), data
  )
  found = []
  for x, labels in data:
    state, m = update(state, x, labels)
    found.append((m["probe_loss"], m["probe_accuracy"]))
  np.testing.assert_allclose(found, metrics, rtol=1e-5)
  np.testing.assert_allclose(state.mean, mean, rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(state.var, var, rtol=1e-4)
  np.testing.assert_allclose(state.params["kernel"], params[0], atol=1e-5)
  np.testing.assert_allclose(state.params["bias"], params[1], atol=1e-5)
  assert int(state.step) == STEPS


def test_no_gradient_reaches_the_features():
  state = PROBE.init(jax.random.key(0), DIM)
  x, labels = batches()[0]

  def everything(x):
    outputs = PROBE.update(state, x, labels, Axis())
    return sum(
      jnp.sum(y)
      for y in jax.tree.leaves(outputs)
      if jnp.issubdtype(y.dtype, jnp.floating)
    )

  assert not np.any(jax.jit(jax.grad(everything))(x))


def test_memory_is_short():
  """After a jump of the features only 0.9^n of the past is left."""
  state = PROBE.init(jax.random.key(0), DIM)
  update = jax.jit(lambda *args: PROBE.update(*args, Axis())[0])
  labels = np.zeros(BATCH, np.int32)
  for _ in range(10):
    state = update(state, np.zeros((BATCH, DIM), np.float32), labels)
  for _ in range(20):
    state = update(state, np.ones((BATCH, DIM), np.float32), labels)
  past = 0.9**20  # the share of zeros in a mixture with ones
  np.testing.assert_allclose(state.mean, 1 - past, rtol=1e-5)
  np.testing.assert_allclose(state.var, past * (1 - past), rtol=1e-4)


def test_batch_without_labels_changes_nothing():
  state = PROBE.init(jax.random.key(0), DIM)
  x, labels = batches()[0]
  update = jax.jit(lambda *args: PROBE.update(*args, Axis()))
  state, _ = update(state, x, labels)
  after, metrics = update(state, x + np.nan, np.full(BATCH, -1, np.int32))
  jax.tree.map(np.testing.assert_array_equal, after, state)
  assert metrics == {"probe_loss": 0, "probe_accuracy": 0}


@pytest.mark.parametrize("scale, shift", [(1, 0), (1e-2, 5), (1e3, -1e3)])
def test_learns_what_a_line_can_separate(scale, shift):
  rng = np.random.default_rng(4)
  centres = rng.normal(size=(CLASSES, 64))

  def draw(rows):
    labels = rng.integers(0, CLASSES, rows)
    x = centres[labels] + 0.5 * rng.normal(size=(rows, 64))
    return (scale * x + shift).astype(np.float32), labels.astype(np.int32)

  probe = OnlineProbe(CLASSES)
  state = probe.init(jax.random.key(0), 64)
  update = jax.jit(lambda *args: probe.update(*args, Axis())[0])
  for _ in range(60):
    state = update(state, *draw(128))
  x, labels = draw(512)
  logits = probe.logits(state, x.reshape(4, 128, 64))
  assert logits.shape == (4, 128, CLASSES)
  assert np.mean(np.argmax(logits, axis=-1).reshape(-1) == labels) > 0.98


def test_bfloat16_features_are_handled_in_float32():
  state = PROBE.init(jax.random.key(0), DIM)
  x, labels = batches()[0]
  x = jnp.asarray(x, jnp.bfloat16)
  update = jax.jit(lambda *args: PROBE.update(*args, Axis()))
  low = update(state, x, labels)
  high = update(state, x.astype(jnp.float32), labels)
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)
  jax.tree.map(close, low, high)
  assert low[0].mean.dtype == jnp.float32


@pytest.mark.parametrize("lr", [0.0, -1.0])
def test_settings_refuse(lr):
  with pytest.raises(ValueError, match="lr"):
    Probe(lr=lr)
