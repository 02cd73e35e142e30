"""LeJEPA: views agree, and the embeddings of each are normally distributed.

Balestriero and LeCun, LeJEPA: Provable and Scalable Self-Supervised Learning
Without the Heuristics, 2025.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from sslx import config as config_lib
from sslx import losses, monitors
from sslx.methods import multicrop
from sslx.methods.base import Method
from sslx.methods.run import Run
from sslx.models import heads


@dataclasses.dataclass(frozen=True, kw_only=True)
class LeJEPA(Method):
  """Section 5: every view predicts the mean of the global views.

  There is no teacher and no stopped gradient: SIGReg alone keeps the embeddings
  from collapsing. The global views are the first ones, of one size; smaller
  views after them are local. Views of one size are all global, as the paper has
  them for ResNets. The distance to the mean is itself a mean over components,
  as in the official code.

  Attributes:
    projector: maps features to embeddings. They are compared as they are:
      without a last BatchNorm and without normalisation.
    sigreg_weight: lambda, SIGReg's share of the loss; the distance of the views
      has the rest.
    directions: M, random directions along which the distribution is compared;
      others at each step, the same for all views.
  """

  num_views = (2, None)

  projector: heads.MLP
  sigreg_weight: float = 0.05
  directions: int = 1024

  def __post_init__(self):
    share = 0 <= self.sigreg_weight <= 1
    config_lib.require(self, "sigreg_weight", share, "in [0, 1]")
    config_lib.require(self, "directions", self.directions >= 1, "at least 1")

  def loss(self, run: Run) -> jax.Array:
    """Computes the loss of algorithm 2."""
    z = self._embeddings(run)
    centre = jnp.mean(z[0], axis=1, keepdims=True)
    z = jnp.concatenate(z, axis=1)
    invariance = jnp.mean(jnp.square(z - centre))
    shape = (self.directions, z.shape[-1])
    directions = losses.l2_normalize(jax.random.normal(run.key, shape))
    sigreg = losses.sigreg(z, directions, run.axis)
    run.metrics = {
      "invariance_loss": invariance,
      "sigreg_loss": sigreg,
      "embedding_std": monitors.feature_std(z[:, 0], run.axis),
    }
    weight = self.sigreg_weight
    return (1 - weight) * invariance + weight * sigreg

  def _embeddings(self, run: Run) -> list[jax.Array]:
    """Computes embeddings f32[b, v, d] of the v views of each size.

    The networks run once per size, so that BatchNorm sees all views of it. The
    features of the first view are set.
    """
    z, b = [], len(run.views[0])
    for numbers, x in multicrop.groups(run.views):
      h = run("backbone", x, **run.drop(*numbers))
      if 0 in numbers:
        run.features = h.reshape(b, len(numbers), -1)[:, 0]
      z.append(run("projector", h).reshape(b, len(numbers), -1))
    return z
