"""VICReg: variance, invariance and covariance of the embeddings of two views.

Bardes, Ponce and LeCun, VICReg: Variance-Invariance-Covariance Regularization
for Self-Supervised Learning, ICLR 2022.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from sslx import config as config_lib
from sslx import monitors
from sslx.axis import Axis
from sslx.methods.base import Method
from sslx.methods.run import Run
from sslx.models import heads


@dataclasses.dataclass(frozen=True, kw_only=True)
class VICReg(Method):
  """Section 4: two views agree, and nothing else keeps them from collapsing.

  The terms are those of the official code. It halves the sum of the variance
  terms of both views, which eq. 6 does not, and its distance of the views is a
  mean over components, where eq. 5 has a sum.

  Attributes:
    projector: the expander, maps features to embeddings. They are compared as
      they are: without a last BatchNorm and without normalisation.
    invariance: lambda, weight of the distance between the views.
    variance: mu, weight of the hinge on the standard deviations.
    covariance: nu, weight of the squared covariances.
  """

  projector: heads.MLP
  invariance: float = 25.0
  variance: float = 25.0
  covariance: float = 1.0

  def __post_init__(self):
    for key in ("invariance", "variance", "covariance"):
      config_lib.require(self, key, getattr(self, key) >= 0, "at least 0")

  def loss(self, run: Run) -> jax.Array:
    """Computes eq. 6."""
    # One forward pass per view: BatchNorm sees B examples at a time, and
    # updates its running statistics once per view.
    h = [run("backbone", x) for x in run.views]
    z1, z2 = (run("projector", x) for x in h)
    invariance = jnp.mean(jnp.square(z1 - z2))
    (v1, c1), (v2, c2) = (regularizers(z, run.axis) for z in (z1, z2))
    variance, covariance = (v1 + v2) / 2, c1 + c2
    run.features = h[0]
    run.metrics = {
      "invariance_loss": invariance,
      "variance_loss": variance,
      "covariance_loss": covariance,
      "embedding_std": monitors.feature_std(z1, run.axis),
    }
    return (
      self.invariance * invariance
      + self.variance * variance
      + self.covariance * covariance
    )


def regularizers(z: jax.Array, axis: Axis) -> tuple[jax.Array, jax.Array]:
  """Computes eq. 1 and eq. 4 over the global batch.

  Args:
    z: f32[b, d], embeddings of one view.
    axis: the batch axis.

  Returns:
    f32 scalar v, the mean hinge of standard deviations below 1; f32 scalar c,
    the sum of squared covariances of different components, over d.
  """
  z = z - axis.pmean(jnp.mean(z, axis=0))
  degrees = len(z) * axis.size - 1  # Both are unbiased.
  squares = axis.psum(jnp.sum(jnp.square(z), axis=0))
  # 1e-4 in the root: the gradient is finite where a component has collapsed.
  v = jnp.mean(jax.nn.relu(1 - jnp.sqrt(squares / degrees + 1e-4)))
  products = jnp.matmul(z.T, z, precision=jax.lax.Precision.HIGHEST)
  covariance = axis.psum(products) / degrees
  others = covariance * (1 - jnp.eye(len(covariance)))
  return v, jnp.sum(jnp.square(others)) / len(covariance)
