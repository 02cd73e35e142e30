"""SwAV: predicts the cluster assignment of one view from the other views.

Caron, Misra, Mairal, Goyal, Bojanowski and Joulin, Unsupervised Learning of
Visual Features by Contrasting Cluster Assignments, NeurIPS 2020.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from sslx import config as config_lib
from sslx import losses, monitors, schedules
from sslx.methods import multicrop
from sslx.methods.base import Method
from sslx.methods.multicrop import TARGETS
from sslx.methods.queue import Queue
from sslx.methods.run import Aux, Batch, ModelState, Params, Run
from sslx.models import heads
from sslx.schedules import Length, Value


@dataclasses.dataclass(frozen=True, kw_only=True)
class SwAV(Method):
  """Section 3, with multi-crop (section 3.2) and the queue (section 4.1).

  Attributes:
    projector: maps features to embeddings.
    prototypes: K, the number of prototypes.
    temperature: tau of eq. 2.
    epsilon: of eq. 3; larger values give smoother assignments.
    sinkhorn_iterations: number of iterations of section 3.1.
    queue_size: how many embeddings of past batches, for each of the two views,
      are assigned together with those of the batch; 0 for no queue. Rounded
      down to whole batches, as in the official code.
    queue_start: when embeddings are first queued; they are used once the queue
      is full.
  """

  num_views = (TARGETS, None)

  projector: heads.MLP
  prototypes: int = 3000
  temperature: Value = 0.1
  epsilon: float = 0.05
  sinkhorn_iterations: int = 3
  queue_size: int = 0
  queue_start: Length = 0.0

  def __post_init__(self):
    schedules.require_positive(self, "temperature")
    config_lib.require(self, "epsilon", self.epsilon > 0, "positive")
    for key in ("prototypes", "sinkhorn_iterations"):
      config_lib.require(self, key, getattr(self, key) >= 1, "at least 1")
    schedules.require_length(self, "queue_start")
    fits = self.queue_size == 0 or self.queue_size >= self.plan.batch_size
    one = f"0 for no queue, or at least a batch, {self.plan.batch_size}"
    config_lib.require(self, "queue_size", fits, one)

  def check_durations(self) -> None:
    """Checks also that the queue is used before the run ends."""
    super().check_durations()
    self._queue.check_duration(self.plan)

  @property
  def _queue(self) -> Queue:
    start = schedules.steps(self.queue_start, self.plan)
    return Queue.of(self.queue_size, start, self.plan)

  def draw(
    self, rng: jax.Array, batch: Batch
  ) -> tuple[Params, ModelState, Aux]:
    """Draws all weights; prototypes like torch's `nn.Linear`, normalised."""
    rng_encoder, rng_prototypes = jax.random.split(rng)
    params, model_state, buffers = super().draw(rng_encoder, batch)
    d = self.projector.dims[-1]
    prototypes = jax.random.uniform(
      rng_prototypes, (self.prototypes, d), minval=-1, maxval=1
    )  # Normalisation removes the scale.
    params["prototypes"] = losses.l2_normalize(prototypes)
    queue = self._queue.draw(TARGETS, d)
    return params, model_state, {**buffers, **queue}

  def loss(self, run: Run) -> jax.Array:
    """Computes the swapped prediction loss, eq. 1, 2 and (all crops) 6."""
    z = self._embeddings(run)
    scores = _scores(z, run)  # [b, views, K]
    log_p = jax.nn.log_softmax(scores / run.at(self.temperature))
    views = z.shape[1]

    loss, metrics = 0.0, []
    for i in range(TARGETS):
      codes = losses.sinkhorn(
        lax.stop_gradient(scores[:, i]) / self.epsilon,
        self._past_scores(i, run),
        self.sinkhorn_iterations,
        run.axis,
      )
      others = sum(log_p[:, v] for v in range(views) if v != i) / (views - 1)
      loss -= jnp.mean(jnp.sum(codes * others, axis=-1)) / TARGETS
      metrics.append(monitors.code_usage(codes, run.axis))

    self._queue.push(lax.stop_gradient(z[:, :TARGETS]), run)
    run.metrics = {
      "embedding_std": monitors.feature_std(z[:, 0], run.axis),
      **jax.tree.map(lambda *x: sum(x) / len(x), *metrics),
    }
    return loss

  def _embeddings(self, run: Run) -> jax.Array:
    """Computes embeddings of unit length, f32[b, views, d]; sets the features.

    The projector runs once, so that its BatchNorm sees all crops, as in the
    official code.
    """
    h = multicrop.features(run)
    run.features = h[:, 0]
    z = run("projector", h.reshape(-1, h.shape[-1]))
    return losses.l2_normalize(z.reshape(*h.shape[:2], -1))

  def _past_scores(self, i: int, run: Run) -> jax.Array | None:
    """Scores this device's share of a queue; -inf until the queue is full.

    The scores are divided by epsilon. They use the current prototypes, which
    have changed since the embeddings were queued.
    """
    if not self._queue.size:
      return None
    return lax.cond(
      self._queue.is_full(run),
      lambda x: lax.stop_gradient(_scores(x, run)) / self.epsilon,
      # Derived from x, so that both branches vary over the devices.
      lambda x: x[:, :1] * 0 + jnp.full(self.prototypes, -jnp.inf),
      run.axis.share(run.buffers["queue"][i]),
    )

  def project(self, params: Params) -> Params:
    """Normalises the prototypes, without a gradient.

    The official code does so before each forward pass, which is equivalent.
    """
    old = params["prototypes"]
    norm = jnp.linalg.norm(old, axis=-1, keepdims=True)
    # Unit prototypes keep their bits: rounding must not move frozen ones.
    moved = jnp.abs(norm - 1) > 1e-6
    new = jnp.where(moved, losses.l2_normalize(old), old)
    return {**params, "prototypes": new}


def _scores(z: jax.Array, run: Run) -> jax.Array:
  """Returns the similarities of embeddings and prototypes, f32[..., K]."""
  return jnp.matmul(
    z, run.params["prototypes"].T, precision=lax.Precision.HIGHEST
  )
