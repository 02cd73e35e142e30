"""MoCo v3: contrasts queries with the keys of the same batch; no queue.

Chen, Xie and He, An Empirical Study of Training Self-Supervised Vision
Transformers, ICCV 2021.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from sslx import config as config_lib
from sslx import losses, models
from sslx.axis import Axis
from sslx.data import augment
from sslx.data.views import Slot
from sslx.evaluate import monitors
from sslx.methods import base
from sslx.methods.base import Aux, Batch, ModelState, Output, Params
from sslx.models import heads


@dataclasses.dataclass(frozen=True)
class MoCoV3:
  """Section 3: encoder with a predictor, and a momentum encoder without.

  Attributes:
    backbone: maps images to features f32[b, d]; a ViT with `frozen_patches`
      (section 4.1), or a ResNet.
    projector: maps features to projections; those of the momentum encoder are
      the keys.
    predictor: maps the encoder's projections to queries.
    temperature: tau of eq. 1.
    momentum: m of the first update; it rises to 1 along half a cosine.
    total_steps: optimiser steps of the run.
  """

  backbone: models.BACKBONE
  projector: heads.MLP
  predictor: heads.MLP
  temperature: float = 0.2
  momentum: float = 0.99
  total_steps: int = 1

  def __post_init__(self):
    config_lib.require(self, "temperature", self.temperature > 0, "positive")
    config_lib.require(self, "momentum", 0 <= self.momentum <= 1, "in [0, 1]")
    queries, keys = self.predictor.dims[-1], self.projector.dims[-1]
    if queries != keys:
      raise ValueError(
        f"predictor.dims ends in {queries}, and projector.dims in {keys};"
        " queries and keys must be of one width."
      )

  def slots(self, views: int) -> tuple[Slot, ...]:
    """Returns the slots of two views."""
    return base.two_views("MoCo v3", views)

  def init(
    self, rng: jax.Array, batch: Batch
  ) -> tuple[Params, ModelState, Aux]:
    """Draws the encoder; the momentum encoder is a copy, less the predictor."""
    params, model_state = base.init(
      {
        "backbone": self.backbone,
        "projector": self.projector,
        "predictor": self.predictor,
      },
      rng,
      batch["views"][0],
    )
    return params, model_state, self.adopt(params, model_state, {})

  def adopt(self, params: Params, model_state: ModelState, aux: Aux) -> Aux:
    """Returns `aux` with a copy of the encoder as the momentum encoder."""
    # A real copy in memory, because each buffer can be donated only once.
    copy = lambda tree: jax.tree.map(jnp.copy, _encoder(tree))
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
    """Computes the loss of algorithm 1: ctr(q1, k2) + ctr(q2, k1)."""
    del step
    # One forward pass per view: BatchNorm sees B examples at a time, and
    # updates its running statistics once per view.
    q, k, h, key_state = [], [], [], aux["model_state"]
    for n, x in enumerate(batch["views"]):
      drop = self._drop_path(rng, n, len(x), axis)
      features, z, encoder_state = self._encode(
        params, model_state, x, axis, **drop
      )
      z, p_state = base.apply(
        self.predictor, "predictor", params, model_state, z, axis
      )
      model_state = encoder_state | {"predictor": p_state}
      q.append(losses.l2_normalize(z))
      h.append(features)
      _, z, key_state = self._encode(aux["params"], key_state, x, axis, **drop)
      k.append(jax.lax.stop_gradient(losses.l2_normalize(z)))

    pairs = [
      losses.batch_nce(query, key, self.temperature, axis)
      for query, key in zip(q, k[::-1], strict=True)
    ]
    # The factor 2 tau keeps the gradient's size for any tau (official code).
    loss = 2 * self.temperature * sum(one for one, _ in pairs)
    similarity = sum(jnp.vdot(a, b) for a, b in zip(q, k[::-1], strict=True))
    output = Output(
      model_state=model_state,
      aux={"params": aux["params"], "model_state": key_state},
      features=h[0],
      metrics={
        "contrast_accuracy": sum(found for _, found in pairs) / 2,
        "positive_similarity": similarity / (2 * len(q[0])),
        "embedding_std": monitors.feature_std(q[0], axis),
      },
    )
    return loss, output

  def _encode(
    self,
    params: Params,
    model_state: ModelState,
    x: jax.Array,
    axis: Axis,
    **arguments: Any,
  ) -> tuple[jax.Array, jax.Array, ModelState]:
    """Computes features, projection and new statistics of one view."""
    h, f_state = base.apply(
      self.backbone, "backbone", params, model_state, x, axis, **arguments
    )
    z, g_state = base.apply(
      self.projector, "projector", params, model_state, h, axis
    )
    return h, z, {"backbone": f_state, "projector": g_state}

  def _drop_path(
    self, rng: jax.Array, view: int, b: int, axis: Axis
  ) -> dict[str, jax.Array]:
    """Returns the keys of the examples if the backbone has drop path."""
    if not getattr(self.backbone, "drop_path", 0):
      return {}
    keys = augment.example_keys(rng, axis.positions(b))
    return {"keys": augment.fold(keys, view)}

  def after_update(
    self, params: Params, aux: Aux, step: jax.Array
  ) -> tuple[Params, Aux]:
    """Updates the momentum encoder.

    The official code does this before the next forward pass of the keys, with
    the momentum of that step. Its first update acts on an exact copy and
    changes nothing.
    """
    followed = optax.incremental_update(
      _encoder(params), aux["params"], 1 - self.momentum_at(step + 1)
    )
    return params, {**aux, "params": followed}

  def momentum_at(self, step: jax.Array) -> jax.Array:
    """Returns the momentum at a step, f32 scalar from `momentum` to 1."""
    done = jnp.float32(step) / self.total_steps
    return 1 - 0.5 * (1 + jnp.cos(jnp.pi * done)) * (1 - self.momentum)

  def encode(
    self, params: Params, model_state: ModelState, images: jax.Array
  ) -> dict[str, jax.Array]:
    """Computes features of the encoder that the optimiser trains."""
    return base.encode(self.backbone, params, model_state, images)


def _encoder(tree: Any) -> Any:
  """Returns the tree without the predictor."""
  return {name: tree[name] for name in ("backbone", "projector")}
