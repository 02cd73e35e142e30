"""MoCo against its official algorithm, written out; shuffling and its cost."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sslx import train
from sslx.axis import Axis
from sslx.config import ConfigError
from sslx.data.views import unshuffled
from sslx.weights import load, names
from sslx.weights.source import Taken
from tests import naive, official, tiny

BATCH, QUEUE, MOMENTUM, TEMPERATURE = tiny.BATCH, 64, 0.9, 0.2

# A view that is the image itself.
IDENTITY = {
  "size": tiny.SIDE,
  "count": 2,
  "crop_scale": (1.0, 1.0),
  "crop_ratio": (1.0, 1.0),
  "flip": 0.0,
}


def build(devices=1, backbone="convs", **changes):
  return tiny.build_method(
    tiny.method_config("mocov2", backbone, **changes), devices
  )


def first_step(experiment):
  """Metrics of the first step, and the state after it."""
  (batch,) = tiny.batches(experiment, 1)
  step = tiny.compile_step(experiment, batch)
  state, metrics = step(experiment.init_state(), batch)
  return jax.device_get(metrics), jax.device_get(state)


STEPS, EPOCHS, EPOCH, PEAK, DECAY = 5, 2, 4, 20.0 * BATCH / 256, 0.01


def in_order(experiment, batch, key):
  """Views in the order of the batch: the loader shuffled the second one."""
  if "place" not in batch:
    return official.preprocess(experiment, batch, key)
  back = jnp.argsort(batch["place"])
  first, last = batch["views"][0], batch["views"][-1][back]
  ordered = {"views": (first, last), "label": batch["label"]}
  plain = dataclasses.replace(experiment.step, slots=unshuffled(2))
  return plain.preprocess(ordered, key, Axis())


def loss_of(params, x, keys, queue, groups, mistake):
  """Cross-entropy with the positive in the first place."""
  z, given = naive.siamese(x, params, groups)
  q = naive.unit(z)
  l_pos = jnp.einsum("nc,nc->n", q, keys)[:, None]
  l_neg = jnp.einsum("nc,kc->nk", q, queue)
  if mistake == "no positive in the denominator":
    losses = jax.nn.logsumexp(l_neg / TEMPERATURE, axis=1)
    return (losses - l_pos[:, 0] / TEMPERATURE).mean(), given
  logits = jnp.concatenate([l_pos, l_neg], axis=1) / TEMPERATURE
  softmax = jnp.exp(logits) / jnp.exp(logits).sum(axis=1, keepdims=True)
  return -jnp.log(softmax[:, 0]).mean(), given


encode = naive.compiled(naive.siamese)
gradient = naive.gradient(loss_of)


def official_steps(taken, mistake=""):
  """The training loop of `main_moco.py`: a line of it for each of its lines."""
  start, method = taken.start, taken.experiment.step.method
  groups = method.projector.norm_groups
  if mistake == "BatchNorm of the whole batch":
    groups = 1
  params, key_params = start.params, start.aux["params"]
  stats, key_stats = start.model_state, start.aux["model_state"]
  queue, pointer = start.aux["queue"], 0
  velocity = jax.tree.map(np.zeros_like, params)
  losses, rates, gradients = [], [], []
  spared = mistake == "norms without decay"
  direction = lambda g, p: g + (0 if spared and p.ndim == 1 else DECAY) * p
  for i, views in enumerate(taken.views):
    # Any permutation would do, if nothing is shuffled.
    place = taken.batches[i].get("place", np.roll(np.arange(BATCH), 3))
    if mistake == "keys in the order of the batch":
      place = np.arange(BATCH)
    late = mistake == "keys before the momentum update"
    if not late:
      key_params = naive.follow(key_params, params, MOMENTUM)
    pairs = [views, views[::-1]] if method.symmetric else [views]
    loss, grads, new = 0.0, jax.tree.map(np.zeros_like, params), []
    for im_q, im_k in pairs:
      z, given = encode(im_k[place], key_params, groups)
      key_stats = naive.moments(key_stats, given, groups)
      k = z[np.argsort(place)]
      new.append(k if mistake == "a queue of any length" else naive.unit(k))
      held = queue
      if mistake == "enqueued before the loss":
        held = np.concatenate([queue[:pointer], k, queue[pointer + len(k) :]])
        held = naive.unit(held)
      (one, given), more = gradient(
        params, im_q, naive.unit(k), held, groups, mistake
      )
      stats = naive.moments(stats, given, groups)
      loss, grads = loss + one, jax.tree.map(np.add, grads, more)
    if late:
      key_params = naive.follow(key_params, params, MOMENTUM)
    new = np.concatenate(new[::-1])
    queue = np.array(queue)
    queue[pointer : pointer + len(new)] = new
    pointer = (pointer + len(new)) % QUEUE

    whole = i if mistake == "a rate by steps" else i // EPOCH * EPOCH
    rate = PEAK * naive.cosine(whole / (EPOCHS * EPOCH))
    params, velocity = naive.descend(params, velocity, grads, rate, direction)
    losses.append(loss)
    rates.append(rate)
    gradients.append(grads)
  # The update at the head of the next step.
  followed = key_params if late else naive.follow(key_params, params, MOMENTUM)
  return {
    "loss": losses,
    "rate": rates,
    "gradient": gradients,
    "parameters": params,
    "statistics": stats,
    "teacher": followed,
    "teacher's statistics": key_stats,
    "queue": queue,
    "pointer": pointer,
  }


def config(**changes):
  return tiny.method_config(
    "mocov2",
    schedule__epochs=EPOCHS,
    schedule__optimizer__lr=20.0,
    schedule__optimizer__weight_decay=DECAY,
    **changes,
  )


OFFICIAL = official.Case(
  "mocov2",
  "facebookresearch/moco: main_moco.py, moco/builder.py",
  config,
  STEPS,
  official_steps,
  {
    "enqueued before the loss": "lightly#564",
    "keys before the momentum update": "",
    "a queue of any length": "",
    "keys in the order of the batch": "",
    "BatchNorm of the whole batch": "",
    "no positive in the denominator": "",
    "norms without decay": "",
    "a rate by steps": "",
  },
  views=in_order,
)


@pytest.fixture(scope="module")
def taken():
  return OFFICIAL.take()


def test_five_steps_equal_the_official_algorithm(taken):
  """The queue of four batches goes round."""
  found = OFFICIAL.differences(taken)
  assert OFFICIAL.fits(found), found


@pytest.mark.slow
@pytest.mark.parametrize("mistake", OFFICIAL.mistakes)
def test_a_known_mistake_is_seen(taken, mistake):
  assert OFFICIAL.catches(OFFICIAL.differences(taken, mistake))


@pytest.mark.parametrize(
  "changes", [{"model__symmetric": True}, {"model__norm_groups": 1}]
)
def test_so_do_five_steps_of_the_other_forms(changes):
  """The queue holds two batches, if symmetric."""
  case = dataclasses.replace(OFFICIAL, config=lambda: config(**changes))
  found = case.differences(case.take())
  assert case.fits(found), found


def test_the_key_encoder_starts_as_a_copy_and_the_queue_on_the_sphere():
  state = build().init_state()
  jax.tree.map(np.testing.assert_array_equal, state.aux["params"], state.params)
  length = np.linalg.norm(state.aux["queue"], axis=1)
  np.testing.assert_allclose(length, 1, rtol=1e-6)
  assert abs(np.asarray(state.aux["queue"]).mean()) < 0.1


def test_the_key_encoder_starts_with_the_weights_of_another_run(monkeypatch):
  experiment = build(runtime__init_from="elsewhere")
  state = jax.device_get(experiment.init_state())
  weights = jax.tree.map(lambda x: x + 1, (state.params, state.model_state))
  taken = Taken(*map(names.flat, weights), notes=[])
  monkeypatch.setattr(load.of_file, "take", lambda *_: taken)
  none = types.SimpleNamespace(restore=lambda *_: None)
  found, _ = train._start(experiment, none, {}, lambda _: None)
  for name, old in zip(("params", "model_state"), weights, strict=True):
    jax.tree.map(np.testing.assert_array_equal, found.aux[name], old)
  (batch,) = tiny.batches(experiment, 1)
  tiny.compile_step(experiment, batch)(found, batch)  # May be donated.


def test_with_one_group_shuffling_changes_no_bit():
  results = []
  for shuffle in (True, False):
    experiment = build(model__norm_groups=1, model__shuffle=shuffle)
    batches = tiny.batches(experiment, 3)
    assert "place" not in batches[0]
    results.append(tiny.run_steps(experiment, experiment.init_state(), batches))
  jax.tree.map(np.testing.assert_array_equal, *results)


@pytest.mark.parametrize(
  ("mode", "symmetric"), [("pjit", False), ("pmap", True), ("pmap", False)]
)
def test_shuffled_keys_are_put_back_in_order(mode, symmetric):
  """With no BatchNorm to tell neighbours, the key of an image is its query."""
  experiment = build(
    8,
    backbone="flat",
    views=(IDENTITY,),
    model__symmetric=symmetric,
    runtime__parallel__mode=mode,
  )
  assert any(slot.shuffled for slot in experiment.step.slots)
  metrics, state = first_step(experiment)
  np.testing.assert_allclose(metrics["positive_similarity"], 1, rtol=1e-6)
  # In the queue as well, for all of the batch.
  queries = encoded(experiment)
  for i in range(2 if symmetric else 1):
    rows = state.aux["queue"][i * BATCH : (i + 1) * BATCH]
    np.testing.assert_allclose(rows, queries, atol=1e-5)


def encoded(experiment):
  """Normalised queries of the first batch, with the parameters of step 0."""
  (batch,) = tiny.batches(experiment, 1)
  batch = jax.device_get(batch)
  method = experiment.step.method
  params = jax.device_get(experiment.init_state().params)
  rgb = np.asarray(batch["views"][0], np.float32) / 255
  x = (rgb - experiment.data.mean) / np.asarray(experiment.data.std)
  h = method.backbone.apply({"params": params["backbone"]}, x, train=False)
  z = method.projector.apply({"params": params["projector"]}, h, train=False)
  return z / np.linalg.norm(z, axis=1, keepdims=True)


@pytest.mark.slow
def test_shuffled_keys_have_other_neighbours_in_their_group():
  """The leak that it closes: a query and its key normalised as one."""
  similarity = {}
  for shuffle in (False, True):
    experiment = build(8, views=(IDENTITY,), model__shuffle=shuffle)
    metrics, _ = first_step(experiment)
    similarity[shuffle] = float(metrics["positive_similarity"])
  assert similarity[False] == pytest.approx(1, abs=1e-6)
  assert 0.5 < similarity[True] < 1 - 1e-5


def test_the_step_moves_no_image_between_devices():
  smallest_image = 12 * 12 * 3
  for mode in ("pjit", "pmap"):
    experiment = build(8, runtime__parallel__mode=mode)
    (batch,) = tiny.batches(experiment, 1)
    moved = tiny.collectives(tiny.compile_step(experiment, batch))
    sizes = {x.size for x in jax.tree.leaves(experiment.abstract_state.params)}
    assert moved, "no collective found in the step"
    for kind, size in moved:
      if size >= smallest_image:  # A gradient.
        assert (kind, size in sizes) == ("all-reduce", True), (kind, size)
    gathered = [size for kind, size in moved if kind == "all-gather"]
    # The keys, and in what order they go back.
    assert sorted(gathered) == [BATCH, BATCH * 8], mode


def test_a_step_that_moves_images_would_be_found():
  experiment = build(8)
  (batch,) = tiny.batches(experiment, 1)
  partitioner = experiment.partitioner

  def shuffled(state, batch, axis):
    return state, jnp.mean(axis.replicate(batch["views"][0])[batch["back"]])

  step = partitioner.compile(shuffled, experiment.state_shardings)
  compiled = step.lower(experiment.abstract_state, batch).compile()
  assert ("all-gather", BATCH * 12 * 12 * 3) in tiny.collectives(compiled)


def test_queue_age_counts_steps_since_the_keys_were_computed():
  experiment = build(model__queue_size=3 * BATCH)
  batches = tiny.batches(experiment, 5)
  metrics, _ = tiny.run_steps(experiment, experiment.init_state(), batches)
  # Nothing; 1; 1 and 2; 1, 2 and 3 from then on.
  ages = [float(m["queue_age"]) for m in metrics]
  assert ages == [0, 1, 1.5, 2, 2]


@pytest.mark.parametrize(
  ("symmetric", "size", "better"), [(False, 40, 32), (True, 48, 32)]
)
def test_a_queue_of_partial_batches_is_refused(symmetric, size, better):
  message = f"queue_size is {size}; it must be a multiple .* as {better}"
  with pytest.raises(ConfigError, match=message):
    build(model__queue_size=size, model__symmetric=symmetric)
