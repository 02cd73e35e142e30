"""MoCo v2: contrasts queries with a queue of keys of past batches.

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
from sslx.axis import Axis
from sslx.data.views import Slot
from sslx.evaluate import monitors
from sslx.methods import base
from sslx.methods.base import Aux, Batch, ModelState, Output, Params
from sslx.models import heads


@dataclasses.dataclass(frozen=True)
class MoCo:
  """Sections 3.2 and 3.3 of the first paper, with the head of the second.

  Attributes:
    backbone: maps images to features f32[b, d].
    projector: maps features to the queries and keys that the loss compares.
    temperature: tau of eq. 1.
    momentum: m of eq. 2.
    queue_size: K, the number of negatives.
    symmetric: whether each view is the query once and the loss is the sum of
      both, as in the official code for CIFAR-10.
    shuffle: whether to shuffle the keys among BatchNorm groups, so that a key
      does not share its group with the neighbours of its query (section 3.3).
      No effect with one group.
    batch_size: global batch size.
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
    """Returns query slots, then key slots; both are the same if unshuffled."""
    queries = base.two_views("MoCo", views)
    if not self._shuffled:
      return queries
    keys = tuple(Slot(slot.view, shuffled=True) for slot in queries)
    return queries + keys if self.symmetric else (queries[0], keys[1])

  def init(
    self, rng: jax.Array, batch: Batch
  ) -> tuple[Params, ModelState, Aux]:
    """Draws the query encoder and a random queue; copies the key encoder."""
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
    """Returns `aux` with a copy of the query encoder as the key encoder."""
    # A real copy in memory, because each buffer can be donated only once.
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
    """Computes the loss of algorithm 1."""
    del rng
    count = 2 if self.symmetric else 1
    queries, others = batch["views"][:count], batch["views"][-count:]

    # One forward pass per view, as in the official code: BatchNorm sees B
    # examples at a time, and updates its running statistics once per view.
    q, k, h = [], [], []
    for x in queries:
      features, z, model_state = self._encode(params, model_state, x, axis)
      h.append(features)
      q.append(losses.l2_normalize(z))
    key_state = aux["model_state"]
    for x in others[::-1]:  # If symmetric, a query's key is the other view.
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

    # Enqueue after the loss: a key is never a negative of its own query.
    new = jnp.concatenate([everyones for _, everyones in k[::-1]])
    at = aux["pointer"]
    queue = jax.lax.dynamic_update_slice(aux["queue"], new, (at, 0))
    held = jnp.minimum(step, self.queue_size // len(new))  # Batches held.
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
        # Mean age of the keys in the queue, in steps. The batches in it are
        # 1, 2, ... steps old; the random initial keys do not count.
        "queue_age": jnp.where(held > 0, (held + 1) / 2, 0.0),
        "embedding_std": monitors.feature_std(q[0], axis),
      },
    )
    return loss, output

  def _encode(
    self, params: Params, model_state: ModelState, x: jax.Array, axis: Axis
  ) -> tuple[jax.Array, jax.Array, ModelState]:
    """Computes features, projection and new statistics of one view."""
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
    """Puts keys back in batch order.

    Returns:
      Keys [b, d] of these examples, and replicated keys [B, d] of the global
      batch.
    """
    everyones = axis.replicate(keys)
    if not self._shuffled:
      return keys, everyones
    # Unshuffling moves only B x d numbers between devices, no images.
    back = axis.replicate(batch["back"])
    return everyones[batch["back"]], everyones[back]

  def after_update(
    self, params: Params, aux: Aux, step: jax.Array
  ) -> tuple[Params, Aux]:
    """Updates the key encoder by eq. 2.

    The official code does this before the next forward pass of the keys. The
    recursion is the same: its first update acts on an exact copy and changes
    nothing.
    """
    del step
    followed = optax.incremental_update(
      params, aux["params"], 1 - self.momentum
    )
    return params, {**aux, "params": followed}

  def encode(
    self, params: Params, model_state: ModelState, images: jax.Array
  ) -> dict[str, jax.Array]:
    """Computes features of the query encoder, with running statistics."""
    return base.encode(self.backbone, params, model_state, images)
