"""Barlow Twins: the cross-correlation of two views becomes the identity.

Zbontar, Jing, Misra, LeCun and Deny, Barlow Twins: Self-Supervised Learning via
Redundancy Reduction, ICML 2021.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from sslx import config as config_lib
from sslx.axis import Axis
from sslx.methods.base import Method
from sslx.methods.run import Run
from sslx.models import heads


@dataclasses.dataclass(frozen=True, kw_only=True)
class BarlowTwins(Method):
  """Section 2.1: embeddings that agree, and whose components do not repeat.

  Attributes:
    projector: maps features to embeddings. Its last BatchNorm, without scale
      and bias, is the normalisation along the batch in eq. 2. In the official
      code it is a module of its own, called for both views.
    redundancy_weight: lambda of eq. 1.
  """

  projector: heads.MLP
  redundancy_weight: float = 0.0051

  def __post_init__(self):
    weight = self.redundancy_weight
    config_lib.require(self, "redundancy_weight", weight >= 0, "at least 0")
    if self.projector.last_norm != "plain":
      raise ValueError(
        f"projector.last_norm is {self.projector.last_norm!r}; it must be"
        " 'plain': correlations are of normalised embeddings."
      )

  def loss(self, run: Run) -> jax.Array:
    """Computes eq. 1, a sum over all pairs of components."""
    # One forward pass per view: BatchNorm sees B examples at a time, and
    # updates its running statistics once per view.
    h = [run("backbone", x) for x in run.views]
    z1, z2 = (run("projector", x) for x in h)
    c = cross_correlation(z1, z2, run.axis)
    diagonal = jnp.diagonal(c)
    others = c * (1 - jnp.eye(len(c)))
    run.features = h[0]
    run.metrics = {
      "view_correlation": jnp.mean(diagonal),
      "redundancy": jnp.sqrt(jnp.mean(jnp.square(others))),
    }
    invariance = jnp.sum(jnp.square(1 - diagonal))
    return invariance + self.redundancy_weight * jnp.sum(jnp.square(others))


def cross_correlation(z1: jax.Array, z2: jax.Array, axis: Axis) -> jax.Array:
  """Correlates each component of one view with each of the other (eq. 2).

  It is that of the global batch, and so is its gradient. (The official code
  sums it over devices outside of the gradient: with N devices, its gradient is
  1 / N of this one. LARS divides by the gradient's norm; biases and scales of
  norms take steps that are 1 / N as long there.)

  Args:
    z1: f32[b, d], embeddings of a view, with mean 0 and variance 1 over the
      global batch.
    z2: f32[b, d], the same of the other view.
    axis: the batch axis.

  Returns:
    f32[d, d].
  """
  # Each device multiplies its own examples; only [d, d] moves between devices.
  # The off-diagonal entries are small and many: bfloat16 would lose them.
  c = jnp.matmul(z1.T, z2, precision=jax.lax.Precision.HIGHEST)
  return axis.psum(c) / (len(z1) * axis.size)
