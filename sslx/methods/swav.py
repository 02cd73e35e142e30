"""SwAV: predicts the cluster assignment of one view from the other views.

Caron, Misra, Mairal, Goyal, Bojanowski and Joulin, Unsupervised Learning of
Visual Features by Contrasting Cluster Assignments, NeurIPS 2020.
"""

from __future__ import annotations

import dataclasses
import itertools

import jax
import jax.numpy as jnp
from jax import lax

from sslx import config as config_lib
from sslx import losses, monitors, schedules
from sslx.methods.base import Method
from sslx.methods.run import Aux, Batch, ModelState, Params, Run
from sslx.models import heads
from sslx.schedules import Length, Value

CODE_VIEWS = 2  # Only the first two views get codes; all views predict them.


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

  num_views = (CODE_VIEWS, None)

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
    """Checks that the queue is full, and so used, before the run ends."""
    super().check_durations()
    full = self._queue_start + self._held // self.plan.batch_size
    if self._held and full >= self.plan.total_steps:
      raise config_lib.ConfigError(
        f"config.model.queue_size is {self.queue_size}: with queue_start"
        f" {self.queue_start}, the queue is full after {full} steps, and the"
        f" run has {self.plan.total_steps}, so it would never be used. Set a"
        " smaller queue, or 0 for none."
      )

  @property
  def _held(self) -> int:
    """Embeddings that the queue holds: `queue_size` in whole batches."""
    return self.queue_size // self.plan.batch_size * self.plan.batch_size

  @property
  def _queue_start(self) -> int:
    return schedules.steps(self.queue_start, self.plan)

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
    if self._held:
      buffers["queue"] = jnp.zeros((CODE_VIEWS, self._held, d))
      buffers["filled"] = jnp.int32(0)
    return params, model_state, buffers

  def loss(self, run: Run) -> jax.Array:
    """Computes the swapped prediction loss, eq. 1, 2 and (all crops) 6."""
    z = self._embeddings(run)
    scores = _scores(z, run)  # [b, views, K]
    log_p = jax.nn.log_softmax(scores / run.at(self.temperature))
    views = z.shape[1]

    loss, metrics = 0.0, []
    for i in range(CODE_VIEWS):
      codes = losses.sinkhorn(
        lax.stop_gradient(scores[:, i]) / self.epsilon,
        self._past_scores(i, run),
        self.sinkhorn_iterations,
        run.axis,
      )
      others = sum(log_p[:, v] for v in range(views) if v != i) / (views - 1)
      loss -= jnp.mean(jnp.sum(codes * others, axis=-1)) / CODE_VIEWS
      metrics.append(monitors.code_usage(codes, run.axis))

    self._push(lax.stop_gradient(z), run)
    run.metrics = {
      "embedding_std": monitors.feature_std(z[:, 0], run.axis),
      **jax.tree.map(lambda *x: sum(x) / len(x), *metrics),
    }
    return loss

  def _embeddings(self, run: Run) -> jax.Array:
    """Computes embeddings of unit length, f32[b, views, d]; sets the features.

    The backbone runs once per resolution, so that its BatchNorm sees images of
    one size. The projector runs once, so that its BatchNorm sees all crops.
    The official code does the same. The views of an image stay adjacent, which
    keeps them on its device.
    """
    b, h = len(run.views[0]), []
    for _, same in itertools.groupby(run.views, key=lambda x: x.shape[1:]):
      x = jnp.stack(list(same), axis=1)
      one = run("backbone", x.reshape(-1, *x.shape[2:]))
      h.append(one.reshape(b, x.shape[1], -1))
    h = jnp.concatenate(h, axis=1)
    run.features = h[:, 0]
    z = run("projector", h.reshape(-1, h.shape[-1]))
    return losses.l2_normalize(z.reshape(*h.shape[:2], -1))

  def _past_scores(self, i: int, run: Run) -> jax.Array | None:
    """Scores this device's share of a queue; -inf until the queue is full.

    The scores are divided by epsilon. They use the current prototypes, which
    have changed since the embeddings were queued.
    """
    if not self._held:
      return None
    return lax.cond(
      run.buffers["filled"] == self._held,
      lambda x: lax.stop_gradient(_scores(x, run)) / self.epsilon,
      # Derived from x, so that both branches vary over the devices.
      lambda x: x[:, :1] * 0 + jnp.full(self.prototypes, -jnp.inf),
      run.axis.share(run.buffers["queue"][i]),
    )

  def _push(self, z: jax.Array, run: Run) -> None:
    """Puts the batch's embeddings at the front of the queue, after use."""
    if not self._held:
      return
    old = run.buffers
    new = run.axis.replicate(z[:, :CODE_VIEWS]).swapaxes(0, 1)  # [2, B, d]
    kept = self._held - new.shape[1]
    queue = jnp.concatenate([new, old["queue"][:, :kept]], axis=1)
    filled = jnp.minimum(old["filled"] + new.shape[1], self._held)
    started = run.step >= self._queue_start
    run.buffers = {
      "queue": jnp.where(started, queue, old["queue"]),
      "filled": jnp.where(started, filled, old["filled"]),
    }

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
