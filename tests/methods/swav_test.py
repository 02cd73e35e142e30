"""SwAV against its official algorithm, written out; queue and prototypes."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sslx.config import ConfigError
from tests import naive, official, tiny

BATCH, QUEUE, FREEZE, START = tiny.BATCH, 2 * tiny.BATCH, 2, 4
STEPS = 8
TEMPERATURE, EPSILON, DECAY, PEAK = 0.1, 0.05, 1e-6, 200 * BATCH / 256


def build(devices=1, **changes):
  # From the second epoch on, which is step 4.
  settings = {"model__queue_start": 1, **changes}
  return tiny.build_method(tiny.method_config("swav", **settings), devices)


def scores_of(params, views):
  """Embeddings and scores of all views, and what BatchNorm is given."""
  passes = [
    naive.convs(jnp.concatenate(x), params["backbone"])
    for x in (views[:2], views[2:])
  ]
  h = jnp.concatenate([x for x, _ in passes])
  z, given = naive.head(h, params["projector"])
  z = naive.unit(z)
  return z, z @ params["prototypes"].T, [x for _, x in passes], given


def codes_of(scores, past, mistake):
  """Codes of a view's scores, with those of its queue."""
  both = scores if past is None else jnp.concatenate([past, scores])
  if mistake == "each device's own codes":
    parts = [naive.sinkhorn(x, 3) for x in jnp.split(both / EPSILON, 2)]
    return jnp.concatenate(parts)[-BATCH:]
  if mistake == "rows and columns changed":
    return naive.sinkhorn(both.T / EPSILON, 3).T[-BATCH:]
  return naive.sinkhorn(both / EPSILON, 3)[-BATCH:]


def loss_of(params, views, queue, mistake):
  """The loss of `main_swav.py`, and what the loop keeps of the batch."""
  if mistake == "prototypes normalised with a gradient":
    prototypes = naive.unit(params["prototypes"])
    params = params | {"prototypes": prototypes}
  embedding, output, passes, given = scores_of(params, views)
  rows = lambda v: output[BATCH * v : BATCH * (v + 1)]
  fixed = jax.lax.stop_gradient
  if mistake == "a gradient through the codes":
    fixed = lambda x: x
  loss, crops = 0.0, len(views)
  for i in range(2):
    past = None
    if queue is not None:
      past = fixed(queue[i] @ params["prototypes"].T)
    q = codes_of(fixed(rows(i)), past, mistake)
    others = np.delete(np.arange(crops), i)
    if mistake == "a view predicts its own code":
      others = np.arange(crops)
    subloss = 0.0
    for v in others:
      p = jnp.exp(rows(v) / TEMPERATURE)
      p = p / p.sum(axis=1, keepdims=True)
      subloss -= jnp.mean(jnp.sum(q * jnp.log(p), axis=1))
    loss += subloss / len(others)
  return loss / 2, (embedding, passes, given)


gradient = naive.gradient(loss_of)
unit = naive.compiled(naive.unit)


def direction(g, p):
  """LARC(trust_coefficient=0.001, clip=False)."""
  norms = np.linalg.norm(p), np.linalg.norm(g)
  if min(norms) == 0:
    return g
  return (
    0.001 * norms[0] / (norms[1] + norms[0] * DECAY + 1e-8) * (g + DECAY * p)
  )


def official_steps(taken, mistake=""):
  """The training loop of `main_swav.py`: a line of it for each of its lines."""
  start, total = taken.start, taken.experiment.total_steps
  params, stats = dict(start.params), start.model_state
  velocity = jax.tree.map(np.zeros_like, params)
  queue = None
  losses, rates, gradients = [], [], []
  for iteration, views in enumerate(taken.views):
    if mistake != "prototypes of any length":
      params["prototypes"] = unit(params["prototypes"])
    if queue is None and iteration >= START:
      queue = np.zeros((2, QUEUE, 8))
    full = queue is not None and (queue[:, -1] != 0).any()
    if mistake == "a queue that is not full":
      full = queue is not None
    (loss, (embedding, passes, given)), grads = gradient(
      params, views, queue if full else None, mistake
    )
    if queue is not None:
      new = embedding[: 2 * BATCH].reshape(2, BATCH, -1)
      queue = np.concatenate([new, queue[:, :-BATCH]], axis=1)
    for one in passes:
      stats = naive.moments(stats, {"backbone": one})
    stats = naive.moments(stats, {"projector": given})
    gradients.append(grads)

    rate = PEAK * (0.001 + 0.999 * naive.cosine(iteration / total))
    moved, momentum = naive.descend(params, velocity, grads, rate, direction)
    if iteration < FREEZE and mistake != "prototypes that are never frozen":
      moved["prototypes"] = params["prototypes"]
      if mistake != "momentum of frozen prototypes":
        momentum["prototypes"] = velocity["prototypes"]
    params, velocity = moved, momentum
    losses.append(loss)
    rates.append(rate)
  filled = min(max(len(losses) - START, 0) * BATCH, QUEUE)
  if mistake != "prototypes of any length":
    params["prototypes"] = unit(params["prototypes"])
  return {
    "loss": losses,
    "rate": rates,
    "gradient": gradients,
    "parameters": params,
    "statistics": stats,
    "queue": queue,
    "filled": filled,
  }


OFFICIAL = official.Case(
  "swav",
  "facebookresearch/swav: main_swav.py; apex/parallel/LARC.py",
  # The queue is filled from the second epoch on, which is step 4.
  lambda: tiny.method_config("swav", model__queue_start=1),
  STEPS,
  official_steps,
  {
    "prototypes of any length": "",
    "prototypes normalised with a gradient": "solo-learn",
    "prototypes that are never frozen": "",
    "momentum of frozen prototypes": "optax.set_to_zero after the optimiser",
    "rows and columns changed": "",
    "each device's own codes": "MMSelfSup",
    "a gradient through the codes": "",
    "a view predicts its own code": "",
    "a queue that is not full": "",
  },
)


@pytest.fixture(scope="module")
def taken():
  return OFFICIAL.take()


def test_eight_steps_equal_the_official_algorithm(taken):
  """Prototypes frozen, then not; no queue, one that fills, one in use."""
  found = OFFICIAL.differences(taken)
  assert OFFICIAL.fits(found), found


@pytest.mark.slow
@pytest.mark.parametrize("mistake", OFFICIAL.mistakes)
def test_a_known_mistake_is_seen(taken, mistake):
  assert OFFICIAL.catches(OFFICIAL.differences(taken, mistake))


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
