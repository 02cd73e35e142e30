"""MoCo v3: contrasts queries with the keys of the same batch; no queue.

Chen, Xie and He, An Empirical Study of Training Self-Supervised Vision
Transformers, ICCV 2021.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from sslx import losses, monitors, schedules
from sslx.methods.base import Method
from sslx.methods.run import Run
from sslx.models import heads
from sslx.schedules import Schedule, Value


@dataclasses.dataclass(frozen=True, kw_only=True)
class MoCoV3(Method):
  """Section 3: encoder with a predictor, and a momentum encoder without.

  The backbone is a ViT with `frozen_patches` (section 4.1), or a ResNet. The
  momentum encoder is the teacher.

  Attributes:
    projector: maps features to projections; those of the momentum encoder are
      the keys.
    predictor: maps the encoder's projections to queries.
    temperature: tau of eq. 1.
    momentum: m. It rises to 1 along half a cosine.
  """

  teachers = ("backbone", "projector")

  projector: heads.MLP
  predictor: heads.MLP
  temperature: Value = 0.2
  momentum: Value = Schedule("cosine", start=0.99, final=1.0)

  def __post_init__(self):
    schedules.require_positive(self, "temperature")
    schedules.require_between(self, "momentum", 0, 1, "in [0, 1]")
    heads.require_same_width(self.predictor, self.projector)

  def loss(self, run: Run) -> jax.Array:
    """Computes the loss of algorithm 1: ctr(q1, k2) + ctr(q2, k1)."""
    # One forward pass per view: BatchNorm sees B examples at a time, and
    # updates its running statistics once per view.
    q, k, h = [], [], []
    for n, x in enumerate(run.views):
      drop = run.drop(n)
      h.append(run("backbone", x, **drop))
      z = run("predictor", run("projector", h[-1]))
      q.append(losses.l2_normalize(z))
      z = run.teacher("projector", run.teacher("backbone", x, **drop))
      k.append(losses.l2_normalize(z))

    temperature = run.at(self.temperature)
    pairs = [
      losses.batch_nce(query, key, temperature, run.axis)
      for query, key in zip(q, k[::-1], strict=True)
    ]
    similarity = sum(jnp.vdot(a, b) for a, b in zip(q, k[::-1], strict=True))
    run.features = h[0]
    run.metrics = {
      "contrast_accuracy": sum(found for _, found in pairs) / 2,
      "positive_similarity": similarity / (2 * len(q[0])),
      "embedding_std": monitors.feature_std(q[0], run.axis),
    }
    # The factor 2 tau keeps the gradient's size for any tau (official code).
    return 2 * temperature * sum(one for one, _ in pairs)

  def momentum_at(self, step: jax.Array) -> jax.Array | float:
    """Returns the momentum of the next step.

    The official code updates the momentum encoder before the next forward pass
    of the keys, with the momentum of that step. Its first update acts on an
    exact copy and changes nothing.
    """
    return super().momentum_at(step + 1)
