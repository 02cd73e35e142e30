"""Relative location against MMSelfSup's algorithm, written out."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sslx.axis import Axis
from sslx.config import ConfigError
from sslx.methods.run import Run
from sslx.step import step_keys
from tests import tiny

BATCH, GROUPS, HIDDEN = tiny.BATCH, 8, 24
DECAY, PEAK = 1e-4, BATCH / 512  # A base rate of 1, for a batch of 512.


def build(devices=1, **changes):
  settings = {"schedule__epochs": 3, **changes}
  settings = {
    "schedule__lr__warmup": 1.0,
    "schedule__lr__milestones": (2,),
    **settings,
  }
  return tiny.build_method(
    tiny.method_config("relative_loc", **settings), devices
  )


def mmselfsup(experiment, state, batches):
  """Losses and states, with the head and the optimiser written out."""
  method = experiment.step.method
  decays = {"backbone": DECAY, "head": 5 * DECAY}

  def head(p, stats, pairs):
    """Linear, BatchNorm of each group alone, ReLU, Linear."""
    hidden, means, variances = [], [], []
    for group in jnp.split(pairs @ p["fc1"]["kernel"], GROUPS):
      mean, n = group.sum(axis=0) / len(group), len(group)
      square = ((group - mean) ** 2).sum(axis=0)
      normed = (group - mean) / jnp.sqrt(square / n + 1e-5)
      hidden.append(normed * p["bn1"]["scale"] + p["bn1"]["bias"])
      means.append(mean)
      variances.append(square / (n - 1))  # Unbiased, as in torch.
    x = jnp.maximum(jnp.concatenate(hidden), 0)
    new = {
      "mean": 0.997 * stats["bn1"]["mean"] + 0.003 * sum(means) / GROUPS,
      "var": 0.997 * stats["bn1"]["var"] + 0.003 * sum(variances) / GROUPS,
    }
    return x @ p["fc2"]["kernel"] + p["fc2"]["bias"], {"bn1": new}

  @jax.jit
  def loss_of(params, stats, patches):
    x = patches.reshape(-1, *patches.shape[2:])
    h, new = method.backbone.apply(
      {"params": params["backbone"], "batch_stats": stats["backbone"]},
      x, train=True, mutable="batch_stats",
    )  # fmt: skip
    pairs, labels = [], []
    for image in h.reshape(BATCH, 9, -1):
      places = (0, 1, 2, 3, 5, 6, 7, 8)
      for label, place in enumerate(places):
        pairs.append(jnp.concatenate([image[4], image[place]]))
        labels.append(label)
    logits, head_stats = head(params["head"], stats["head"], jnp.stack(pairs))
    p = jnp.exp(logits) / jnp.exp(logits).sum(axis=1, keepdims=True)
    right = p[jnp.arange(len(labels)), jnp.array(labels)]
    correct = p.argmax(axis=1) == jnp.array(labels)
    stats = {"backbone": new["batch_stats"], "head": head_stats}
    return -jnp.log(right).mean(), (stats, correct.mean())

  grad = jax.jit(jax.value_and_grad(loss_of, has_aux=True))
  params, stats = state.params, state.model_state
  velocity = jax.tree.map(np.zeros_like, params)
  rng = jax.random.wrap_key_data(state.rng)
  for i, batch in enumerate(batches):
    key = step_keys(rng, i)[0]
    (patches,) = experiment.step.preprocess(batch, key, Axis())
    (loss, (stats, accuracy)), gradient = grad(params, stats, patches)
    # One epoch of warm-up from a tenth, then a tenth from epoch 2 on.
    lr = PEAK * (0.1 + 0.9 * i / 4 if i < 4 else 0.1 if i >= 8 else 1)

    def update(p, g, v, decay, lr=lr):
      v = 0.9 * v + g + decay * p
      return p - lr * v, v

    new = {
      name: jax.tree.map(
        lambda p, g, v, decay=decay: update(p, g, v, decay),
        params[name],
        gradient[name],
        velocity[name],
      )
      for name, decay in decays.items()
    }
    pick = lambda n, new=new: jax.tree.map(
      lambda x: x[n], new, is_leaf=lambda x: isinstance(x, tuple)
    )
    params, velocity = pick(0), pick(1)
    yield {
      "loss": loss,
      "accuracy": accuracy,
      "params": params,
      "velocity": velocity,
      "model_state": stats,
    }


@pytest.mark.slow
def test_ten_steps_are_those_of_mmselfsup():
  """Through the warm-up and past a step of the rate; dropout apart."""
  experiment = build(model__dropout=0.0)
  batches = tiny.batches(experiment, 10)
  step = tiny.compile_step(experiment, batches[0])
  state = jax.device_get(experiment.init_state())
  assert set(state.params["head"]) == {"fc1", "bn1", "fc2"}
  expected = mmselfsup(experiment, state, batches)
  for batch, want in zip(batches, expected, strict=True):
    (metrics,), state = tiny.run_steps(experiment, state, [batch], step)
    got = {
      "loss": metrics["loss"],
      "accuracy": metrics["pretext_accuracy"],
      "params": state.params,
      "velocity": optax.tree.get(state.opt_state, "trace"),
      "model_state": state.model_state,
    }
    tiny.assert_close(got, want, 1e-4)


class Answers:
  """A head that is told the answers, and keeps the dropout it is given."""

  hidden = HIDDEN
  classes = 8

  def __init__(self, places):
    self.places = places

  def apply(self, variables, pairs, *, mask, **_):
    self.pairs, self.mask = np.asarray(pairs), np.asarray(mask)
    logits = 5.0 * jax.nn.one_hot(jnp.array(self.places), 8)
    return logits + 0 * pairs[:, :1], {}


@pytest.fixture(scope="module")
def method():
  return build().step.method


def outputs(method, places, seed=0):
  """Loss, metrics and head, where a patch is nothing but its number."""
  head = Answers(places)
  backbone = types.SimpleNamespace(
    apply=lambda _, x, **__: (x[:, 0, 0, :2], {"batch_stats": {}})
  )
  told = dataclasses.replace(method, backbone=backbone, head=head)
  numbers = np.arange(2 * 9).reshape(2, 9, 1, 1, 1)
  patches = np.float32(np.broadcast_to(numbers, (2, 9, 5, 5, 3)))
  empty = {"backbone": {}, "head": {}}
  loss, output = Run(
    told,
    empty,
    empty,
    {},
    {"views": (patches,)},
    jax.random.key(seed),
    0,
    Axis(),
  ).loss()
  return float(loss), output, head


def test_pairs_are_of_the_centre_with_each_neighbour_row_by_row(method):
  _, _, head = outputs(method, list(range(8)) * 2)
  neighbours = [0, 1, 2, 3, 5, 6, 7, 8]
  expected = [[4, n] for n in neighbours] + [[13, 9 + n] for n in neighbours]
  np.testing.assert_array_equal(head.pairs[:, [0, 2]], expected)


def test_pretext_accuracy_is_the_share_of_places_that_are_right(method):
  places = list(range(8)) * 2
  loss, output, _ = outputs(method, places)
  assert float(output.metrics["pretext_accuracy"]) == 1
  assert loss == pytest.approx(np.log(1 + 7 * np.exp(-5)), rel=1e-4)
  places[:4] = [7, 6, 5, 4]
  _, output, _ = outputs(method, places)
  assert float(output.metrics["pretext_accuracy"]) == 0.75


def test_dropout_scales_what_it_keeps_and_is_drawn_for_each_pair(method):
  _, _, head = outputs(method, [0] * 16)
  mask = head.mask
  assert mask.shape == (16, HIDDEN)
  assert set(np.unique(mask)) == {0, 2}
  assert 0.35 < (mask > 0).mean() < 0.65
  assert len({row.tobytes() for row in mask}) == 16
  _, _, other = outputs(method, [0] * 16, seed=1)
  assert (other.mask != mask).any()


def test_the_head_is_decayed_five_times_as_much():
  config = tiny.method_config("relative_loc")
  ((pattern, rule),) = config.schedule.optimizer.rules
  assert pattern == "head/"
  said = {key: x for key, x in rule.items() if x is not None}
  assert said == {"weight_decay": 5.0}


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"model__head__classes": 9}, "classes is 9; it must be 8"),
    (
      {"views": ({"size": 12, "count": 1},)},
      "has a view of kind 'crop'; RelativeLoc",
    ),
    ({"views": ({"size": 12, "count": 2},)}, "takes views of kind 'patches'"),
  ],
)
def test_what_cannot_be_is_refused(changes, message):
  with pytest.raises(ConfigError, match=message):
    build(**changes)
