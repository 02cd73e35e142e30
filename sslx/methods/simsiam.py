"""SimSiam: predicts the projection of the other view; no gradient into it.

Chen and He, Exploring Simple Siamese Representation Learning, CVPR 2021.
"""

from __future__ import annotations

import dataclasses

import jax

from sslx import losses, monitors
from sslx.methods.base import Method
from sslx.methods.run import Run
from sslx.models import heads


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimSiam(Method):
  """Section 3: one encoder for both views, a predictor, and a stop-gradient.

  Encoder f is the backbone with the projector. The paper keeps the learning
  rate of the predictor at its first value; a rule of the optimiser does so:
  `("predictor/", {"schedule": {"kind": "constant"}})`.

  Attributes:
    projector: maps features to projections z.
    predictor: h, maps projections to predictions p.
  """

  projector: heads.MLP
  predictor: heads.MLP

  def __post_init__(self):
    heads.require_same_width(self.predictor, self.projector)

  def loss(self, run: Run) -> jax.Array:
    """Computes the loss of algorithm 1, a number in [-1, 1]."""
    # One forward pass per view: BatchNorm sees B examples at a time, and
    # updates its running statistics once per view.
    p, z, h = [], [], []
    for n, x in enumerate(run.views):
      h.append(run("backbone", x, **run.drop(n)))
      z.append(run("projector", h[-1]))
      p.append(run("predictor", z[-1]))

    run.features = h[0]
    run.metrics = {
      # 1 / sqrt(d) in the paper, which has no factor: section 4.1.
      "embedding_std": monitors.feature_std(z[0], run.axis),
    }
    return -(losses.cosine(p[0], z[1]) + losses.cosine(p[1], z[0])) / 2
