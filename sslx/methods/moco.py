"""MoCo v2: contrasts queries with a queue of keys of past batches.

He, Fan, Wu, Xie and Girshick, Momentum Contrast for Unsupervised Visual
Representation Learning, CVPR 2020; Chen, Fan, Girshick and He, Improved
Baselines with Momentum Contrastive Learning, 2020.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from sslx import config as config_lib
from sslx import losses, monitors, schedules
from sslx.data.views import Slot, View
from sslx.methods.base import Method
from sslx.methods.run import Aux, Batch, ModelState, Params, Run
from sslx.models import heads
from sslx.schedules import Value


@dataclasses.dataclass(frozen=True, kw_only=True)
class MoCo(Method):
  """Sections 3.2 and 3.3 of the first paper, with the head of the second.

  The student is the query encoder, the teacher the key encoder.

  Attributes:
    projector: maps features to the queries and keys that the loss compares.
    temperature: tau of eq. 1.
    momentum: m of eq. 2. The official code updates the key encoder before the
      next forward pass of the keys. The recursion is the same: its first update
      acts on an exact copy and changes nothing.
    queue_size: K, the number of negatives.
    symmetric: whether each view is the query once and the loss is the sum of
      both, as in the official code for CIFAR-10.
    shuffle: whether to shuffle the keys among BatchNorm groups, so that a key
      does not share its group with the neighbours of its query (section 3.3).
      No effect with one group.
  """

  teachers = ("backbone", "projector")

  projector: heads.MLP
  temperature: Value = 0.2
  momentum: Value = 0.999
  queue_size: int = 65536
  symmetric: bool = False
  shuffle: bool = True

  def __post_init__(self):
    schedules.require_positive(self, "temperature")
    schedules.require_between(self, "momentum", 0, 1, "in [0, 1]")
    config_lib.require(self, "queue_size", self.queue_size >= 1, "positive")
    keys = self.plan.batch_size * (2 if self.symmetric else 1)
    whole = f"a multiple of the {keys} keys of a batch, such as"
    near = max(1, self.queue_size // keys) * keys
    fits = self.queue_size % keys == 0
    config_lib.require(self, "queue_size", fits, f"{whole} {near}")

  def slots(self, views: tuple[View, ...]) -> tuple[Slot, ...]:
    """Returns query slots, then key slots; both are the same if unshuffled."""
    queries = super().slots(views)
    if not self.shuffle or self.projector.norm_groups == 1:
      return queries
    keys = tuple(Slot(slot.view, shuffled=True) for slot in queries)
    return queries + keys if self.symmetric else (queries[0], keys[1])

  def draw(
    self, rng: jax.Array, batch: Batch
  ) -> tuple[Params, ModelState, Aux]:
    """Draws the query encoder and a random queue."""
    rng_encoder, rng_queue = jax.random.split(rng)
    params, model_state, buffers = super().draw(rng_encoder, batch)
    shape = (self.queue_size, self.projector.dims[-1])
    queue = losses.l2_normalize(jax.random.normal(rng_queue, shape))
    return (
      params,
      model_state,
      {**buffers, "queue": queue, "pointer": jnp.int32(0)},
    )

  def loss(self, run: Run) -> jax.Array:
    """Computes the loss of algorithm 1."""
    count = 2 if self.symmetric else 1
    # One forward pass per view, as in the official code: BatchNorm sees B
    # examples at a time, and updates its running statistics once per view.
    q, k, h = [], [], []
    for x in run.views[:count]:
      h.append(run("backbone", x))
      q.append(losses.l2_normalize(run("projector", h[-1])))
    # If symmetric, a query's key is the other view.
    for x in run.views[-count:][::-1]:
      key = run.teacher("projector", run.teacher("backbone", x))
      k.append(_in_order(losses.l2_normalize(key), run))

    queue, at = run.buffers["queue"], run.buffers["pointer"]
    temperature = run.at(self.temperature)
    loss, accuracy, similarity = 0.0, 0.0, 0.0
    for query, (key, _) in zip(q, k, strict=True):
      positives = jnp.sum(query * key, axis=-1)
      one, found = losses.info_nce(query, positives, queue, temperature)
      loss += one
      accuracy += found / len(q)
      similarity += jnp.mean(positives) / len(q)

    # Enqueue after the loss: a key is never a negative of its own query.
    new = jnp.concatenate([everyones for _, everyones in k[::-1]])
    run.buffers = {
      "queue": jax.lax.dynamic_update_slice(queue, new, (at, 0)),
      "pointer": (at + len(new)) % self.queue_size,
    }
    held = jnp.minimum(run.step, self.queue_size // len(new))  # Batches held.
    run.features = h[0]
    run.metrics = {
      "contrast_accuracy": accuracy,
      "positive_similarity": similarity,
      # Mean age of the keys in the queue, in steps. The batches in it are
      # 1, 2, ... steps old; the random initial keys do not count.
      "queue_age": jnp.where(held > 0, (held + 1) / 2, 0.0),
      "embedding_std": monitors.feature_std(q[0], run.axis),
    }
    return loss


def _in_order(keys: jax.Array, run: Run) -> tuple[jax.Array, jax.Array]:
  """Puts shuffled keys back in batch order.

  Returns:
    Keys [b, d] of these examples, and replicated keys [B, d] of the global
    batch.
  """
  everyones = run.axis.replicate(keys)
  if run.back is None:
    return keys, everyones
  # Unshuffling moves only B x d numbers between devices, no images.
  return everyones[run.back], everyones[run.axis.replicate(run.back)]
