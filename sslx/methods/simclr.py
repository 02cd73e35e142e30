"""SimCLR: two views of an image attract, views of different images repel.

Chen, Kornblith, Norouzi and Hinton, A Simple Framework for Contrastive Learning
of Visual Representations, ICML 2020.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from sslx import config as config_lib
from sslx import losses, models
from sslx.axis import Axis
from sslx.data.views import Slot
from sslx.evaluate import monitors
from sslx.methods import base
from sslx.methods.base import Aux, Batch, ModelState, Output, Params
from sslx.models import heads


@dataclasses.dataclass(frozen=True)
class SimCLR:
  """Section 2.1: encoder f, projection head g, and NT-Xent on g(f(x)).

  Attributes:
    backbone: f, maps images to features f32[b, d].
    projector: g, maps features to the embeddings that the loss compares.
    temperature: tau of NT-Xent, eq. 1.
  """

  backbone: models.BACKBONE
  projector: heads.MLP
  temperature: float = 0.1

  def __post_init__(self):
    config_lib.require(self, "temperature", self.temperature > 0, "positive")

  def slots(self, views: int) -> tuple[Slot, ...]:
    """Returns the slots of two views; NT-Xent needs exactly two."""
    return base.two_views("SimCLR", views)

  def init(
    self, rng: jax.Array, batch: Batch
  ) -> tuple[Params, ModelState, Aux]:
    """Draws the backbone and the projector."""
    params, model_state = base.init(
      {"backbone": self.backbone, "projector": self.projector},
      rng,
      batch["views"][0],
    )
    return params, model_state, {}

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
    """Computes the loss of algorithm 1."""
    del rng, step  # The only randomness of SimCLR is in the views.
    x = jnp.stack(batch["views"], axis=1)  # [b, 2, s, s, 3]
    b = len(x)
    # Both views in one forward pass: BatchNorm sees 2B examples, as in the
    # official code. The views of an image stay adjacent, so that merging the
    # two dimensions moves no image to another device or BatchNorm group.
    x = x.reshape(2 * b, *x.shape[2:])
    h, f_state = base.apply(
      self.backbone, "backbone", params, model_state, x, axis
    )
    z, g_state = base.apply(
      self.projector, "projector", params, model_state, h, axis
    )
    loss, accuracy = losses.nt_xent(z.reshape(b, 2, -1), self.temperature, axis)
    output = Output(
      model_state={"backbone": f_state, "projector": g_state},
      aux=aux,
      features=h.reshape(b, 2, -1)[:, 0],
      metrics={
        "contrast_accuracy": accuracy,
        "embedding_std": monitors.feature_std(z, axis),
      },
    )
    return loss, output

  def after_update(
    self, params: Params, aux: Aux, step: jax.Array
  ) -> tuple[Params, Aux]:
    """Changes nothing: there is no momentum encoder, and no prototypes."""
    del step
    return params, aux

  def encode(
    self, params: Params, model_state: ModelState, images: jax.Array
  ) -> dict[str, jax.Array]:
    """Computes h = f(x) with running statistics, without g (section 4.2)."""
    return base.encode(self.backbone, params, model_state, images)
