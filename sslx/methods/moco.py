"""MoCo v2: a query finds its key among the keys of the last many batches.

He, Fan, Wu, Xie and Girshick, Momentum Contrast for Unsupervised Visual
Representation Learning, CVPR 2020; Chen, Fan, Girshick and He, Improved
Baselines with Momentum Contrastive Learning, 2020.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import optax

from sslx import config as config_lib
from sslx import losses, models
from sslx.data.views import Slot
from sslx.evaluate import monitors
from sslx.methods import base
from sslx.methods.base import Aux, Batch, ModelState, Output, Params
from sslx.models import heads
from sslx.parallel import Axis


@dataclasses.dataclass(frozen=True)
class MoCo:
  """Section 3.2 and 3.3 of the first paper, with the head of the second.

  Attributes:
    backbone: images to f32[b, d].
    projector: features to the queries and keys that the loss compares.
    temperature: tau of eq. 1.
    momentum: m of eq. 2.
    queue_size: K, the number of negatives.
    symmetric: whether each view is the query once, and the loss the sum of
      both; official code for CIFAR-10.
    shuffle: whether keys are computed with other neighbours in their BatchNorm
      group than their queries have (section 3.3). Of one group there are no
      other neighbours.
    batch_size: global, of the run.
  """

  backbone: models.BACKBONE
  projector: heads.MLP
  temperature: float = 0.2
  momentum: float = 0.999
  queue_size: int = 65536
  symmetric: bool = False
  shuffle: bool = True
  batch_size: int = 1

  def __post_init__(self):
    config_lib.require(self, "temperature", self.temperature > 0, "positive")
    config_lib.require(self, "momentum", 0 <= self.momentum <= 1, "in [0, 1]")
    config_lib.require(self, "queue_size", self.queue_size >= 1, "positive")
    keys = self.batch_size * (2 if self.symmetric else 1)
    whole = f"a multiple of the {keys} keys of a batch, such as"
    near = max(1, self.queue_size // keys) * keys
    fits = self.queue_size % keys == 0
    config_lib.require(self, "queue_size", fits, f"{whole} {near}")

  @property
  def _shuffled(self) -> bool:
    return self.shuffle and self.projector.norm_groups > 1

  def slots(self, views: int) -> tuple[Slot, ...]:
    """Queries, then keys; keys are the queries' own views if not shuffled."""
    queries = base.two_views("MoCo", views)
    if not self._shuffled:
      return queries
    keys = tuple(Slot(slot.view, shuffled=True) for slot in queries)
    return queries + keys if self.symmetric else (queries[0], keys[1])

  def init(
    self, rng: jax.Array, batch: Batch
  ) -> tuple[Params, ModelState, Aux]:
    """The key encoder starts as a copy; the queue as random directions."""
    rng_encoder, rng_queue = jax.random.split(rng)
    params, model_state = base.init(
      {"backbone": self.backbone, "projector": self.projector},
      rng_encoder,
      batch["views"][0],
    )
    shape = (self.queue_size, self.projector.dims[-1])
    aux = {
      "queue": losses.l2_normalize(jax.random.normal(rng_queue, shape)),
      "pointer": jnp.int32(0),
    }
    return params, model_state, self.adopt(params, model_state, aux)

  def adopt(self, params: Params, model_state: ModelState, aux: Aux) -> Aux:
    """The key encoder becomes a copy of the query encoder."""
    # In memory too: each is donated on its own.
    copy = lambda tree: jax.tree.map(jnp.copy, tree)
    return {**aux, "params": copy(params), "model_state": copy(model_state)}

  def loss(
    self,
    params: Params,
    model_state: ModelState,
    aux: Aux,
    batch: Batch,
    rng: jax.Array,
    step: jax.Array,
    axis: Axis,
  ) -> tuple[jax.Array, Output]:
    """Algorithm 1."""
    del rng
    count = 2 if self.symmetric else 1
    queries, others = batch["views"][:count], batch["views"][-count:]

    # Views pass on their own, as in the official code: BatchNorm sees B
    # examples, and its running statistics move once for each.
    q, k, h = [], [], []
    for x in queries:
      features, z, model_state = self._encode(params, model_state, x, axis)
      h.append(features)
      q.append(losses.l2_normalize(z))
    key_state = aux["model_state"]
    for x in others[::-1]:  # Of two, the key of a query is of the other view.
      _, z, key_state = self._encode(aux["params"], key_state, x, axis)
      k.append(self._in_order(losses.l2_normalize(z), batch, axis))

    loss, accuracy, similarity = 0.0, 0.0, 0.0
    for query, (key, _) in zip(q, k, strict=True):
      positives = jnp.sum(query * key, axis=-1)
      one, found = losses.info_nce(
        query, positives, aux["queue"], self.temperature
      )
      loss += one
      accuracy += found / len(q)
      similarity += jnp.mean(positives) / len(q)

    # After the loss: a key is never among the negatives of its own query.
    new = jnp.concatenate([everyones for _, everyones in k[::-1]])
    at = aux["pointer"]
    queue = jax.lax.dynamic_update_slice(aux["queue"], new, (at, 0))
    held = jnp.minimum(step, self.queue_size // len(new))  # Batches in it.
    output = Output(
      model_state=model_state,
      aux={
        "params": aux["params"],
        "model_state": key_state,
        "queue": queue,
        "pointer": (at + len(new)) % self.queue_size,
      },
      features=h[0],
      metrics={
        "contrast_accuracy": accuracy,
        "positive_similarity": similarity,
        # Steps since a key was computed, on average over those in the queue:
        # 1, 2, ... batch by batch. The random ones of the start do not count.
        "queue_age": jnp.where(held > 0, (held + 1) / 2, 0.0),
        "embedding_std": monitors.feature_std(q[0], axis),
      },
    )
    return loss, output

  def _encode(
    self, params: Params, model_state: ModelState, x: jax.Array, axis: Axis
  ) -> tuple[jax.Array, jax.Array, ModelState]:
    """Features, projection and new statistics of one view."""
    h, f_state = base.apply(
      self.backbone, "backbone", params, model_state, x, axis
    )
    z, g_state = base.apply(
      self.projector, "projector", params, model_state, h, axis
    )
    return h, z, {"backbone": f_state, "projector": g_state}

  def _in_order(
    self, keys: jax.Array, batch: Batch, axis: Axis
  ) -> tuple[jax.Array, jax.Array]:
    """Keys [b, d] of these examples, and [B, d] of all, the same everywhere."""
    everyones = axis.replicate(keys)
    if not self._shuffled:
      return keys, everyones
    # All that shuffling moves between devices: B x d numbers, no image.
    back = axis.replicate(batch["back"])
    return everyones[batch["back"]], everyones[back]

  def after_update(
    self, params: Params, aux: Aux, step: jax.Array
  ) -> tuple[Params, Aux]:
    """The key encoder follows, eq. 2.

    Official code does this before the next forward of the keys; the recursion
    is the same, since its first update, of a copy, changes nothing.
    """
    del step
    followed = optax.incremental_update(
      params, aux["params"], 1 - self.momentum
    )
    return params, {**aux, "params": followed}

  def encode(
    self, params: Params, model_state: ModelState, images: jax.Array
  ) -> dict[str, jax.Array]:
    """Features of the query encoder, with running statistics."""
    return base.encode(self.backbone, params, model_state, images)
