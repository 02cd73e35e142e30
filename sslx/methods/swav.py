"""SwAV: predicts the cluster assignment of one view from the other views.

Caron, Misra, Mairal, Goyal, Bojanowski and Joulin, Unsupervised Learning of
Visual Features by Contrasting Cluster Assignments, NeurIPS 2020.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from sslx import config as config_lib
from sslx import losses, models
from sslx.axis import Axis
from sslx.data.views import Slot, unshuffled
from sslx.evaluate import monitors
from sslx.methods import base
from sslx.methods.base import Aux, Batch, ModelState, Output, Params
from sslx.models import heads

CODE_VIEWS = 2  # Only the first two views get codes; all views predict them.


@dataclasses.dataclass(frozen=True)
class SwAV:
  """Section 3, with multi-crop (section 3.2) and the queue (section 4.1).

  Attributes:
    backbone: maps images to features f32[b, d].
    projector: maps features to embeddings.
    prototypes: K, the number of prototypes.
    temperature: tau of eq. 2.
    epsilon: of eq. 3; larger values give smoother assignments.
    sinkhorn_iterations: number of iterations of section 3.1.
    queue_size: how many embeddings of past batches, for each of the two views,
      are assigned together with those of the batch; 0 for no queue. Rounded
      down to whole batches, as in the official code.
    queue_start_epoch: the epoch from which embeddings are queued; they are used
      once the queue is full.
    batch_size: global batch size.
    steps_per_epoch: optimiser steps per epoch.
  """

  backbone: models.BACKBONE
  projector: heads.MLP
  prototypes: int = 3000
  temperature: float = 0.1
  epsilon: float = 0.05
  sinkhorn_iterations: int = 3
  queue_size: int = 0
  queue_start_epoch: int = 0
  batch_size: int = 1
  steps_per_epoch: int = 1

  def __post_init__(self):
    for key in ("temperature", "epsilon"):
      config_lib.require(self, key, getattr(self, key) > 0, "positive")
    for key in ("prototypes", "sinkhorn_iterations"):
      config_lib.require(self, key, getattr(self, key) >= 1, "at least 1")
    fits = self.queue_size == 0 or self.queue_size >= self.batch_size
    one = f"0 for no queue, or at least a batch, {self.batch_size}"
    config_lib.require(self, "queue_size", fits, one)
    start = self.queue_start_epoch
    config_lib.require(self, "queue_start_epoch", start >= 0, "0 or more")

  @property
  def _held(self) -> int:
    """Embeddings that the queue holds: `queue_size` in whole batches."""
    return self.queue_size // self.batch_size * self.batch_size

  def slots(self, views: int) -> tuple[Slot, ...]:
    """Returns the slots of two views with codes and any number without."""
    if views < CODE_VIEWS:
      raise config_lib.ConfigError(
        f"config.data.views is {views} view of each image; SwAV needs 2 or"
        " more. Set its count."
      )
    return unshuffled(views)

  def init(
    self, rng: jax.Array, batch: Batch
  ) -> tuple[Params, ModelState, Aux]:
    """Draws all weights; prototypes like torch's `nn.Linear`, normalised."""
    rng_encoder, rng_prototypes = jax.random.split(rng)
    params, model_state = base.init(
      {"backbone": self.backbone, "projector": self.projector},
      rng_encoder,
      batch["views"][0],
    )
    d = self.projector.dims[-1]
    prototypes = jax.random.uniform(
      rng_prototypes, (self.prototypes, d), minval=-1, maxval=1
    )  # Normalisation removes the scale.
    params["prototypes"] = losses.l2_normalize(prototypes)
    aux = {}
    if self._held:
      aux = {
        "queue": jnp.zeros((CODE_VIEWS, self._held, d)),
        "filled": jnp.int32(0),
      }
    return params, model_state, aux

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
    """Computes the swapped prediction loss, eq. 1, 2 and (all crops) 6."""
    del rng
    h, z, model_state = self._encode(params, model_state, batch["views"], axis)
    score = lambda x: jnp.matmul(
      x, params["prototypes"].T, precision=lax.Precision.HIGHEST
    )
    scores = score(z)  # [b, views, K]
    log_p = jax.nn.log_softmax(scores / self.temperature)
    views = z.shape[1]

    loss, metrics = 0.0, []
    for i in range(CODE_VIEWS):
      past = self._past_scores(aux, i, score, axis)
      codes = losses.sinkhorn(
        lax.stop_gradient(scores[:, i]) / self.epsilon,
        past,
        self.sinkhorn_iterations,
        axis,
      )
      others = sum(log_p[:, v] for v in range(views) if v != i) / (views - 1)
      loss -= jnp.mean(jnp.sum(codes * others, axis=-1)) / CODE_VIEWS
      metrics.append(_usage(codes, axis))

    output = Output(
      model_state=model_state,
      aux=self._push(aux, lax.stop_gradient(z), step, axis),
      features=h[:, 0],
      metrics={
        "embedding_std": monitors.feature_std(z[:, 0], axis),
        **jax.tree.map(lambda *x: sum(x) / len(x), *metrics),
      },
    )
    return loss, output

  def _encode(
    self,
    params: Params,
    model_state: ModelState,
    views: tuple[jax.Array, ...],
    axis: Axis,
  ) -> tuple[jax.Array, jax.Array, ModelState]:
    """Computes features f32[b, views, d], and embeddings of unit length.

    The backbone runs once per resolution, so that its BatchNorm sees images of
    one size. The projector runs once, so that its BatchNorm sees all crops.
    The official code does the same. The views of an image stay adjacent, which
    keeps them on its device.
    """
    b, features, f_state = len(views[0]), [], model_state["backbone"]
    for _, same in itertools.groupby(views, key=lambda x: x.shape[1:]):
      x = jnp.stack(list(same), axis=1)
      h, f_state = base.apply(
        self.backbone,
        "backbone",
        params,
        {"backbone": f_state},
        x.reshape(-1, *x.shape[2:]),
        axis,
      )
      features.append(h.reshape(b, x.shape[1], -1))
    h = jnp.concatenate(features, axis=1)
    z, g_state = base.apply(
      self.projector,
      "projector",
      params,
      model_state,
      h.reshape(-1, h.shape[-1]),
      axis,
    )
    z = losses.l2_normalize(z.reshape(*h.shape[:2], -1))
    return h, z, {"backbone": f_state, "projector": g_state}

  def _past_scores(
    self, aux: Aux, i: int, score: Any, axis: Axis
  ) -> jax.Array | None:
    """Scores this device's share of a queue; -inf until the queue is full.

    The scores are divided by epsilon. They use the current prototypes, which
    have changed since the embeddings were queued.
    """
    if not self._held:
      return None
    rows = axis.share(aux["queue"][i])
    return lax.cond(
      aux["filled"] == self._held,
      lambda x: lax.stop_gradient(score(x)) / self.epsilon,
      # Derived from x, so that both branches vary over the devices.
      lambda x: x[:, :1] * 0 + jnp.full(self.prototypes, -jnp.inf),
      rows,
    )

  def _push(self, aux: Aux, z: jax.Array, step: jax.Array, axis: Axis) -> Aux:
    """Puts the batch's embeddings at the front of the queue, after use."""
    if not self._held:
      return aux
    new = axis.replicate(z[:, :CODE_VIEWS]).swapaxes(0, 1)  # [2, B, d]
    kept = self._held - new.shape[1]
    queue = jnp.concatenate([new, aux["queue"][:, :kept]], axis=1)
    filled = jnp.minimum(aux["filled"] + new.shape[1], self._held)
    started = step >= self.queue_start_epoch * self.steps_per_epoch
    return {
      "queue": jnp.where(started, queue, aux["queue"]),
      "filled": jnp.where(started, filled, aux["filled"]),
    }

  def after_update(
    self, params: Params, aux: Aux, step: jax.Array
  ) -> tuple[Params, Aux]:
    """Normalises the prototypes, without a gradient.

    The official code does so before each forward pass, which is equivalent.
    """
    del step
    old = params["prototypes"]
    norm = jnp.linalg.norm(old, axis=-1, keepdims=True)
    # Unit prototypes keep their bits: rounding must not move frozen ones.
    moved = jnp.abs(norm - 1) > 1e-6
    new = jnp.where(moved, losses.l2_normalize(old), old)
    return {**params, "prototypes": new}, aux

  def encode(
    self, params: Params, model_state: ModelState, images: jax.Array
  ) -> dict[str, jax.Array]:
    """Computes features of the backbone, with running statistics."""
    return base.encode(self.backbone, params, model_state, images)


def _usage(codes: jax.Array, axis: Axis) -> dict[str, jax.Array]:
  """Measures how evenly codes f32[b, K] use the prototypes.

  Returns:
    `prototype_entropy`, the entropy of the mean code divided by log K: 1 if all
    are used equally; `sinkhorn_marginal`, K times the share of the batch that
    the most used prototype has.
  """
  used = axis.pmean(jnp.mean(codes, axis=0))
  k = codes.shape[-1]
  entropy = -jnp.sum(jax.scipy.special.xlogy(used, used))
  return {
    "prototype_entropy": entropy / jnp.log(k),
    "sinkhorn_marginal": k * jnp.max(used),
  }
