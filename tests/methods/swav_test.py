"""SwAV against its official algorithm, written out; queue and prototypes."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sslx.axis import Axis
from sslx.config import ConfigError
from sslx.step import step_keys
from tests import tiny
from tests.losses_test import official_sinkhorn

BATCH, QUEUE, FREEZE, START = tiny.BATCH, 2 * tiny.BATCH, 2, 4
STEPS = 8
TEMPERATURE, EPSILON, DECAY = 0.1, 0.05, 1e-6


def build(devices=1, **changes):
  # From the second epoch on, which is step 4.
  settings = {"model__queue_start": 1, **changes}
  return tiny.build_method(tiny.method_config("swav", **settings), devices)


def official(experiment, state, batches):
  """The official training loop: a line of it for each of its lines.

  The networks are ours, on one device; so is the augmentation. Yields what the
  state holds after each step, with the prototypes as the next one has them.
  """
  method = experiment.step.method
  unit = lambda x: x / np.sqrt((x**2).sum(axis=1, keepdims=True))

  @jax.jit
  def forward(params, stats, views):
    """Embeddings and scores, [views * B, ...], view by view, and statistics."""
    f_stats, h = stats["backbone"], []
    for x in (jnp.concatenate(views[:2]), jnp.concatenate(views[2:])):
      y, new = method.backbone.apply(
        {"params": params["backbone"], "batch_stats": f_stats},
        x, train=True, mutable="batch_stats",
      )  # fmt: skip
      f_stats = new["batch_stats"]
      h.append(y)
    z, new = method.projector.apply(
      {
        "params": params["projector"],
        "batch_stats": stats["projector"],
      },
      jnp.concatenate(h), train=True, mutable="batch_stats",
    )  # fmt: skip
    z = z / jnp.sqrt((z**2).sum(axis=1, keepdims=True))
    stats = {"backbone": f_stats, "projector": new["batch_stats"]}
    return z, z @ params["prototypes"].T, stats

  @jax.jit
  @jax.value_and_grad
  def loss_of(params, stats, views, codes):
    _, output, _ = forward(params, stats, views)
    loss, crops = 0.0, len(views)
    for i, q in enumerate(codes):
      subloss = 0.0
      for v in np.delete(np.arange(crops), i):
        p = jnp.exp(output[BATCH * v : BATCH * (v + 1)] / TEMPERATURE)
        p = p / p.sum(axis=1, keepdims=True)
        subloss -= jnp.mean(jnp.sum(q * jnp.log(p), axis=1))
      loss += subloss / (crops - 1)
    return loss / len(codes)

  params, stats = dict(state.params), state.model_state
  velocity = jax.tree.map(np.zeros_like, params)
  queue, rng = None, jax.random.wrap_key_data(state.rng)
  for iteration, batch in enumerate(batches):
    params["prototypes"] = unit(params["prototypes"])
    views = experiment.step.preprocess(
      batch, step_keys(rng, iteration)[0], Axis()
    )
    embedding, output, new_stats = map(
      jax.device_get, forward(params, stats, views)
    )
    if queue is None and iteration >= START:
      queue = np.zeros((2, QUEUE, embedding.shape[1]), np.float32)
    codes = []
    for i in range(2):
      rows = slice(i * BATCH, (i + 1) * BATCH)
      out = output[rows]
      if queue is not None:
        if not (queue[i, -1] == 0).all():
          out = np.concatenate([queue[i] @ params["prototypes"].T, out])
        queue[i, BATCH:] = queue[i, :-BATCH].copy()
        queue[i, :BATCH] = embedding[rows]
      codes.append(np.float32(official_sinkhorn(out / EPSILON, 3)[-BATCH:]))
    loss, gradient = loss_of(params, stats, views, codes)
    stats = new_stats

    # LARC(SGD(momentum=0.9), trust_coefficient=0.001, clip=False).
    total = experiment.total_steps
    wave = 0.5 * (1 + math.cos(math.pi * iteration / total))
    lr = 200.0 * BATCH / 256 * (0.001 + 0.999 * wave)

    def update(path, p, g, v, frozen=iteration < FREEZE, lr=lr):
      if frozen and "prototypes" in jax.tree_util.keystr(path):
        return p, v
      p_norm, g_norm = np.linalg.norm(p), np.linalg.norm(g)
      if p_norm and g_norm:
        ratio = 0.001 * p_norm / (g_norm + p_norm * DECAY + 1e-8)
        g = ratio * (g + DECAY * p)
      v = 0.9 * v + g
      return p - lr * v, v

    both = jax.tree.map_with_path(update, params, gradient, velocity)
    is_pair = lambda x: isinstance(x, tuple)
    params = jax.tree.map(lambda x: np.asarray(x[0]), both, is_leaf=is_pair)
    velocity = jax.tree.map(lambda x: x[1], both, is_leaf=is_pair)
    filled = min(max(iteration + 1 - START, 0) * BATCH, QUEUE)
    yield {
      "loss": loss,
      "params": params | {"prototypes": unit(params["prototypes"])},
      "velocity": velocity,
      "model_state": stats,
      "queue": np.zeros((2, QUEUE, 8)) if queue is None else queue.copy(),
      "filled": filled,
    }


@pytest.fixture(scope="module")
def trajectory():
  """An experiment, its compiled step and batches, and every state and loss."""
  experiment = build()
  batches = tiny.batches(experiment, STEPS)
  step = tiny.compile_step(experiment, batches[0])
  states, metrics = [jax.device_get(experiment.init_state())], []
  for batch in batches:
    new, out = tiny.run_steps(experiment, states[-1], [batch], step)
    states.append(out)
    metrics += new
  return experiment, step, batches, states, metrics


def velocity(state):
  """The momentum of all parameters, the prototypes' apart from the others'."""
  *_, (_, late), (_, trained) = sorted(
    optax.tree.get_all_with_path(state.opt_state, "trace"),
    key=lambda x: str(x[0]),
  )
  return trained | {"prototypes": late["prototypes"]}


def test_eight_steps_are_those_of_the_official_code(trajectory):
  """Prototypes frozen, then not; no queue, one that fills, one in use."""
  experiment, _, batches, states, metrics = trajectory
  expected = official(experiment, states[0], batches)
  for state, out, want in zip(states[1:], metrics, expected, strict=True):
    got = {
      "loss": out["loss"],
      "params": state.params,
      "velocity": velocity(state),
      "model_state": state.model_state,
      **state.aux,
    }
    tiny.assert_close(got, want, 1e-4)


def test_frozen_prototypes_do_not_move_and_gather_no_momentum(trajectory):
  _, _, _, states, _ = trajectory
  start = states[0].params["prototypes"]
  for state in states[1 : FREEZE + 1]:
    np.testing.assert_array_equal(state.params["prototypes"], start)
    assert not velocity(state)["prototypes"].any()
    assert velocity(state)["backbone"]["conv1"]["kernel"].any()
  for old, new in itertools.pairwise(states[FREEZE:]):
    moved = new.params["prototypes"] - old.params["prototypes"]
    assert np.linalg.norm(moved) > 1e-3 * np.linalg.norm(start)
    assert velocity(new)["prototypes"].any()
    length = np.linalg.norm(new.params["prototypes"], axis=1)
    np.testing.assert_allclose(length, 1, rtol=1e-5)


def test_prototypes_start_on_the_unit_sphere(trajectory):
  start = trajectory[3][0].params["prototypes"]
  np.testing.assert_allclose(np.linalg.norm(start, axis=1), 1, rtol=1e-6)


def test_the_queue_is_filled_from_its_epoch_on_the_newest_first(trajectory):
  _, _, _, states, _ = trajectory
  for state in states[: START + 1]:
    assert not state.aux["queue"].any() and state.aux["filled"] == 0
  filled = [int(state.aux["filled"]) for state in states[START:]]
  assert filled == [0, BATCH, QUEUE, QUEUE, QUEUE]
  for old, new in itertools.pairwise(states[START:]):
    np.testing.assert_array_equal(
      new.aux["queue"][:, BATCH:], old.aux["queue"][:, :-BATCH]
    )
    length = np.linalg.norm(new.aux["queue"][:, :BATCH], axis=-1)
    np.testing.assert_allclose(length, 1, rtol=1e-5)


def test_the_queue_is_used_only_when_it_is_full(trajectory):
  experiment, step, batches, states, _ = trajectory
  rows = np.random.default_rng(0).normal(size=states[0].aux["queue"].shape)
  rows = np.float32(rows / np.linalg.norm(rows, axis=-1, keepdims=True))

  def loss(queue, filled):
    aux = {"queue": queue, "filled": np.int32(filled)}
    start = states[-1].replace(aux=aux)
    (metrics,), _ = tiny.run_steps(experiment, start, batches[-1:], step)
    return metrics["loss"]

  assert loss(rows, QUEUE - BATCH) == loss(0 * rows, 0)
  assert loss(rows, QUEUE) != loss(0 * rows, 0)


def test_the_queue_keeps_the_embeddings_not_their_scores(trajectory):
  """Old rows are scored with the prototypes of now."""
  experiment, step, batches, states, _ = trajectory

  def loss(prototypes):
    params = states[-1].params | {"prototypes": prototypes}
    start = states[-1].replace(params=params)
    (metrics,), _ = tiny.run_steps(experiment, start, batches[-1:], step)
    return metrics["loss"]

  # The same prototypes in another order are the same problem.
  now = states[-1].params["prototypes"]
  np.testing.assert_allclose(loss(now[::-1].copy()), loss(now), rtol=1e-5)


@pytest.mark.parametrize("mode", ["pjit", "pmap"])
def test_no_scores_move_between_devices(mode):
  """All that does: embeddings for the queue, sums, and gradients."""
  experiment = build(8, runtime__parallel__mode=mode, model__prototypes=27)
  (batch,) = tiny.batches(experiment, 1)
  moved = tiny.collectives(tiny.compile_step(experiment, batch))
  assert {kind for kind, _ in moved} == {"all-reduce", "all-gather"}
  gathered = [size for kind, size in moved if kind == "all-gather"]
  assert gathered == [2 * BATCH * 8]
  sizes = {x.size for x in jax.tree.leaves(experiment.abstract_state.params)}
  for _, size in moved:
    assert size < BATCH * 27 or size in sizes, size


def test_the_queue_is_rounded_down_to_whole_batches():
  built = build(model__queue_size=3 * BATCH + 5, model__queue_start=1)
  assert built.abstract_state.aux["queue"].shape[1] == 3 * BATCH
  assert built.step.method.plan.steps_per_epoch == 4


def test_without_a_queue_the_state_has_none():
  assert build(model__queue_size=0).abstract_state.aux == {}


def test_a_queue_that_is_never_full_is_refused():
  """In a run of three epochs of four steps."""
  longer = {"schedule__epochs": 3, "model__queue_size": 2 * BATCH}
  build(model__queue_start=2, **longer)
  message = r"after 14 steps, and the run has 12, so it would never be used"
  with pytest.raises(ConfigError, match=message):
    build(model__queue_start=3, **longer)


def test_what_cannot_be_is_refused():
  with pytest.raises(
    ConfigError, match="queue_size is 9; it must be 0 .* or at least a batch"
  ):
    build(model__queue_size=9)
  one = {"size": 12, "count": 1}
  with pytest.raises(ConfigError, match="1 view of each image; SwAV takes 2"):
    build(views=(one,))


def test_prototypes_that_are_frozen_to_the_end_are_refused():
  with pytest.raises(
    ConfigError, match="freeze is 12 steps, until step 12; the run has 12"
  ):
    build(
      schedule__epochs=3, schedule__optimizer__rules__0__1__freeze__steps=12
    )
