"""MoCo against its official algorithm, written out; shuffling and its cost."""

import dataclasses
import functools
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sslx import train
from sslx.axis import Axis
from sslx.config import ConfigError
from sslx.data.views import unshuffled
from sslx.step import step_keys
from sslx.weights import load, names
from sslx.weights.source import Taken
from tests import tiny

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


def official(experiment, state, batches):
  """The official training loop: a line of it for each of its lines.

  The networks are ours, on one device; so is the augmentation. Yields what the
  state holds after each step.
  """
  method, axis = experiment.step.method, Axis()
  plain = dataclasses.replace(experiment.step, slots=unshuffled(2))

  @jax.jit
  def forward(params, stats, x):
    """Output before normalisation, and new running statistics."""
    h, new_f = method.backbone.apply(
      {"params": params["backbone"], "batch_stats": stats["backbone"]},
      x, train=True, mutable="batch_stats",
    )  # fmt: skip
    z = method.projector.apply({"params": params["projector"]}, h, train=True)
    return z, {"backbone": new_f["batch_stats"], "projector": {}}

  def normalized(z):
    return z / jnp.sqrt(jnp.sum(z**2, axis=1, keepdims=True))

  @jax.jit
  @jax.value_and_grad
  def query_loss(params, stats, x, k, queue):
    q = normalized(forward(params, stats, x)[0])
    l_pos = jnp.einsum("nc,nc->n", q, k)[:, None]
    l_neg = jnp.einsum("nc,kc->nk", q, queue)
    logits = jnp.concatenate([l_pos, l_neg], axis=1) / TEMPERATURE
    softmax = jnp.exp(logits) / jnp.exp(logits).sum(axis=1, keepdims=True)
    return -jnp.log(softmax[:, 0]).mean()

  def contrast(im_q, im_k, place):
    """Loss, gradient and keys of one direction."""
    z, stats["k"] = forward(key_params, stats["k"], im_k[place])
    k = normalized(z)[np.argsort(place)]
    loss, gradient = query_loss(params, stats["q"], im_q, k, queue)
    stats["q"] = forward(params, stats["q"], im_q)[1]
    return loss, gradient, k

  params, queue, pointer = state.params, state.aux["queue"], 0
  key_params = state.aux["params"]
  stats = {"q": state.model_state, "k": state.model_state}
  velocity = jax.tree.map(np.zeros_like, params)
  rng = jax.random.wrap_key_data(state.rng)
  for i, batch in enumerate(batches):
    key_params = jax.tree.map(
      lambda k, q: MOMENTUM * k + (1 - MOMENTUM) * q, key_params, params
    )
    place = np.asarray(batch["place"])
    # In the order of the batch: the loader put the keys in that of `place`.
    first, last = batch["views"][0], batch["views"][-1][np.argsort(place)]
    order = {"views": (first, last), "label": batch["label"]}
    views = plain.preprocess(order, step_keys(rng, i)[0], axis)
    loss, gradient, k = contrast(*views, place)
    if method.symmetric:
      loss_2, gradient_2, k1 = contrast(*views[::-1], place)
      loss += loss_2
      gradient = jax.tree.map(np.add, gradient, gradient_2)
      k = np.concatenate([k1, k])
    queue = np.array(queue)
    queue[pointer : pointer + len(k)] = k
    pointer = (pointer + len(k)) % QUEUE

    # torch.optim.SGD; a cosine that falls once an epoch of four steps.
    lr = 1.0 * BATCH / 256 * 0.5 * (1 + math.cos(math.pi * (i // 4) / 200))
    gradient = jax.tree.map(lambda g, p: g + 1e-4 * p, gradient, params)
    velocity = jax.tree.map(lambda v, g: 0.9 * v + g, velocity, gradient)
    change = jax.tree.map(functools.partial(np.multiply, -lr), velocity)
    params = jax.tree.map(np.add, params, change)
    followed = jax.tree.map(  # The update at the head of the next step.
      lambda k, q: MOMENTUM * k + (1 - MOMENTUM) * q, key_params, params
    )
    yield {
      "loss": loss,
      "params": params,
      "velocity": velocity,
      "model_state": stats["q"],
      "key params": followed,
      "key model_state": stats["k"],
      "queue": queue,
      "pointer": pointer,
    }


@pytest.mark.parametrize(
  ("symmetric", "groups"), [(False, 8), (True, 8), (False, 1)]
)
def test_five_steps_are_those_of_the_official_code(symmetric, groups):
  """The queue of four batches (two, if symmetric) goes round."""
  experiment = build(model__symmetric=symmetric, model__norm_groups=groups)
  state = jax.device_get(experiment.init_state())
  batches = tiny.batches(experiment, 5)
  step = tiny.compile_step(experiment, batches[0])
  if groups == 1:  # Nothing is shuffled; any permutation would do.
    place = np.roll(np.arange(BATCH), 3)
    shuffled = [
      b | {"place": place, "views": (b["views"][0], b["views"][1][place])}
      for b in batches
    ]
  expected = official(experiment, state, shuffled if groups == 1 else batches)
  sharded = jax.device_put(state, experiment.state_shardings)
  for batch, want in zip(batches, expected, strict=True):
    sharded, metrics = step(sharded, batch)
    found = jax.device_get(sharded)
    got = {
      "loss": metrics["loss"],
      "params": found.params,
      "velocity": optax.tree.get(found.opt_state, "trace"),
      "model_state": found.model_state,
      "key params": found.aux["params"],
      "key model_state": found.aux["model_state"],
      "queue": found.aux["queue"],
      "pointer": found.aux["pointer"],
    }
    tiny.assert_close(got, want, 1e-4)


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
