"""BYOL: predicts the target network's projection of the other view.

Grill et al., Bootstrap Your Own Latent: A New Approach to Self-Supervised
Learning, NeurIPS 2020.
"""

from __future__ import annotations

import dataclasses

import jax

from sslx import losses, monitors, schedules
from sslx.methods.base import Method
from sslx.methods.run import Run
from sslx.models import heads
from sslx.schedules import Schedule, Value


@dataclasses.dataclass(frozen=True, kw_only=True)
class BYOL(Method):
  """Section 3.1: an online network with a predictor, a target without.

  The backbone is f, a ResNet or a ViT. The target network is the teacher. It
  normalises by the statistics of its own batch, as the official code does, and
  it follows the online network after each optimiser step.

  Attributes:
    projector: g, maps features to projections; those of the target network are
      what is predicted.
    predictor: q, maps the online network's projections to predictions.
    momentum: tau. It rises to 1 along half a cosine.
  """

  teachers = ("backbone", "projector")

  projector: heads.MLP
  predictor: heads.MLP
  momentum: Value = Schedule("cosine", start=0.996, final=1.0)

  def __post_init__(self):
    schedules.require_between(self, "momentum", 0, 1, "in [0, 1]")
    heads.require_same_width(self.predictor, self.projector)

  def loss(self, run: Run) -> jax.Array:
    """Computes eq. 2 in both directions, a number in [0, 8]."""
    # One forward pass per view: BatchNorm sees B examples at a time, and
    # updates its running statistics once per view.
    q, z, h = [], [], []
    for n, x in enumerate(run.views):
      drop = run.drop(n)
      h.append(run("backbone", x, **drop))
      q.append(run("predictor", run("projector", h[-1])))
      z.append(run.teacher("projector", run.teacher("backbone", x, **drop)))

    similarity = losses.cosine(q[0], z[1]) + losses.cosine(q[1], z[0])
    run.features = h[0]
    run.metrics = {
      "positive_similarity": similarity / 2,
      "embedding_std": monitors.feature_std(z[0], run.axis),
    }
    # |a - b|^2 of unit vectors is 2 - 2 a b; the mean over the batch of both.
    return 4 - 2 * similarity
