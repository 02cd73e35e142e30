"""Relative location against MMSelfSup's algorithm, written out."""

import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sslx.axis import Axis
from sslx.config import ConfigError
from sslx.methods.run import Run
from tests import naive, official, tiny

BATCH, GROUPS, HIDDEN = tiny.BATCH, 8, 24
# Base rate of 8, for a batch of 512.
DECAY, PEAK, EPOCH = 0.02, 8.0 * BATCH / 512, 4


def build(devices=1, **changes):
  return tiny.build_method(
    tiny.method_config("relative_loc", **changes), devices
  )


def groups_of(mistake):
  return 1 if mistake == "BatchNorm of the whole batch" else GROUPS


def loss_of(params, patches, mistake):
  """Cross-entropy of the places, and what each BatchNorm is given."""
  groups = groups_of(mistake)
  x = patches.reshape(-1, *patches.shape[2:])
  h, given = naive.convs(x, params["backbone"], groups)
  h = h.reshape(BATCH, 9, -1)
  places = (0, 1, 2, 3, 5, 6, 7, 8)
  if mistake == "places column by column":
    places = (0, 3, 6, 1, 7, 2, 5, 8)
  pair = [jnp.repeat(h[:, 4:5], 8, axis=1), h[:, np.array(places)]]
  if mistake == "the neighbour first":
    pair = pair[::-1]
  pairs = jnp.concatenate(pair, axis=-1).reshape(8 * BATCH, -1)
  labels = np.tile(np.arange(8), BATCH)
  logits, of_head = naive.head(pairs, params["head"], groups)
  p = jnp.exp(logits) / jnp.exp(logits).sum(axis=1, keepdims=True)
  right = p[np.arange(len(labels)), labels]
  return -jnp.log(right).mean(), (given, of_head)


gradient = naive.gradient(loss_of)


def official_steps(taken, mistake=""):
  """MMSelfSup's model, its optimiser and its schedule."""
  decays = {"backbone": DECAY, "head": 5 * DECAY}
  if mistake == "one decay for all":
    decays["head"] = DECAY
  directions = {
    name: functools.partial(lambda g, p, decay: g + decay * p, decay=decay)
    for name, decay in decays.items()
  }
  kept = 0.9 if mistake == "the head's BatchNorm forgets as any" else 0.997
  params, stats = taken.start.params, taken.start.model_state
  velocity = jax.tree.map(np.zeros_like, params)
  losses, rates, gradients = [], [], []
  for i, (patches,) in enumerate(taken.views):
    (loss, (given, of_head)), grads = gradient(params, patches, mistake)
    groups = groups_of(mistake)
    stats = {
      "backbone": naive.running(stats["backbone"], given, groups),
      "head": naive.running(stats["head"], of_head, groups, kept),
    }
    # One epoch of warm-up from a tenth, then a tenth from epoch 2 on.
    rate = PEAK * (0.1 if i >= 2 * EPOCH else 1)
    if i < EPOCH:
      climbed = 0 if mistake == "a warm-up by epochs" else i / EPOCH
      rate = PEAK * (0.1 + 0.9 * climbed)
    for name, direction in directions.items():
      new = naive.descend(
        params[name], velocity[name], grads[name], rate, direction
      )
      params = params | {name: new[0]}
      velocity = velocity | {name: new[1]}
    losses.append(loss)
    rates.append(rate)
    gradients.append(grads)
  return {
    "loss": losses,
    "rate": rates,
    "gradient": gradients,
    "parameters": params,
    "statistics": stats,
  }


OFFICIAL = official.Case(
  "relative_loc",
  "open-mmlab/mmselfsup: models/algorithms/relative_loc.py,"
  " configs/selfsup/relative_loc; dropout apart",
  lambda: tiny.method_config(
    "relative_loc",
    model__dropout=0.0,
    schedule__epochs=3,
    schedule__lr__warmup=1.0,
    schedule__lr__milestones=(2,),
    schedule__optimizer__lr=8.0,
    schedule__optimizer__weight_decay=DECAY,
  ),
  10,  # Through the warm-up and past a step of the rate.
  official_steps,
  {
    "places column by column": "",
    "the neighbour first": "",
    "BatchNorm of the whole batch": "",
    "one decay for all": "",
    "the head's BatchNorm forgets as any": "",
    "a warm-up by epochs": "",
  },
)


@pytest.fixture(scope="module")
def taken():
  return OFFICIAL.take()


def test_ten_steps_equal_the_official_algorithm(taken):
  found = OFFICIAL.differences(taken)
  assert OFFICIAL.fits(found), found
  assert set(taken.start.params["head"]) == {"fc1", "bn1", "fc2"}


@pytest.mark.slow
@pytest.mark.parametrize("mistake", OFFICIAL.mistakes)
def test_a_known_mistake_is_seen(taken, mistake):
  assert OFFICIAL.catches(OFFICIAL.differences(taken, mistake))


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
