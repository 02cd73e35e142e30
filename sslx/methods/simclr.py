"""SimCLR: two views of an image attract, views of different images repel.

Chen, Kornblith, Norouzi and Hinton, A Simple Framework for Contrastive Learning
of Visual Representations, ICML 2020.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from sslx import losses, monitors, schedules
from sslx.methods.base import Method
from sslx.methods.run import Run
from sslx.models import heads
from sslx.schedules import Value


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimCLR(Method):
  """Section 2.1: encoder f, projection head g, and NT-Xent on g(f(x)).

  The backbone is f; it is evaluated without g (section 4.2).

  Attributes:
    projector: g, maps features to the embeddings that the loss compares.
    temperature: tau of NT-Xent, eq. 1.
  """

  projector: heads.MLP
  temperature: Value = 0.1

  def __post_init__(self):
    schedules.require_positive(self, "temperature")

  def loss(self, run: Run) -> jax.Array:
    """Computes the loss of algorithm 1."""
    x = jnp.stack(run.views, axis=1)  # [b, 2, s, s, c]
    b = len(x)
    # Both views in one forward pass: BatchNorm sees 2B examples, as in the
    # official code. The views of an image stay adjacent, so that merging the
    # two dimensions moves no image to another device or BatchNorm group.
    h = run("backbone", x.reshape(2 * b, *x.shape[2:]))
    z = run("projector", h)
    loss, accuracy = losses.nt_xent(
      z.reshape(b, 2, -1), run.at(self.temperature), run.axis
    )
    run.features = h.reshape(b, 2, -1)[:, 0]
    run.metrics = {
      "contrast_accuracy": accuracy,
      "embedding_std": monitors.feature_std(z, run.axis),
    }
    return loss
