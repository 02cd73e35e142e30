"""Relative location: predicts where a patch lies around the centre patch.

Doersch, Gupta and Efros, Unsupervised Visual Representation Learning by Context
Prediction, ICCV 2015, in MMSelfSup's version: with a ResNet, and with all eight
pairs of an image in the same batch.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import optax

from sslx import config as config_lib
from sslx import models
from sslx.axis import Axis
from sslx.data import augment
from sslx.data.views import Slot, unshuffled
from sslx.methods import base
from sslx.methods.base import Aux, Batch, ModelState, Output, Params
from sslx.models import heads

CENTRE, PATCHES = 4, 9  # Patches are numbered row by row.


@dataclasses.dataclass(frozen=True)
class RelativeLoc:
  """Section 3: a siamese encoder, and a classifier of pairs of features.

  MMSelfSup encodes the centre again for each of its eight neighbours; here each
  of the nine patches is encoded once. The loss differs only through BatchNorm:
  here the centre has the same weight in its statistics as any other patch.

  Attributes:
    backbone: maps patches to features f32[n, d].
    head: maps pairs of features to logits of the eight places.
    dropout: probability that a hidden unit of the head is dropped.
  """

  # The loss is a mean over pairs; only BatchNorm groups couple them.
  accumulates: ClassVar[bool] = True

  backbone: models.BACKBONE
  head: heads.PairHead
  dropout: float = 0.5

  def __post_init__(self):
    config_lib.require(self, "dropout", 0 <= self.dropout < 1, "in [0, 1)")
    right = self.head.classes == PATCHES - 1
    config_lib.require(self.head, "classes", right, "8, one for each place")

  def slots(self, views: int) -> tuple[Slot, ...]:
    """Returns a slot for the one view, of nine patches."""
    if views != 1:
      raise config_lib.ConfigError(
        f"config.data.views are {views}; relative location takes one, of kind"
        " 'patches'."
      )
    return unshuffled(1)

  def init(
    self, rng: jax.Array, batch: Batch
  ) -> tuple[Params, ModelState, Aux]:
    """Draws the backbone and the head."""
    patches = batch["views"][0]
    if patches.ndim != 5:
      raise config_lib.ConfigError(
        "config.data.views is a crop; relative location takes a view of kind"
        " 'patches'."
      )
    rng_backbone, rng_head = jax.random.split(rng)
    params, model_state = base.init(
      {"backbone": self.backbone}, rng_backbone, patches[:, 0]
    )
    h = jax.eval_shape(self.encode, params, model_state, patches[:, 0])
    pair = jnp.zeros((2, 2 * h["final"].shape[-1]))
    head_params, head_state = base.init({"head": self.head}, rng_head, pair)
    return params | head_params, model_state | head_state, {}

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
    """Computes the cross-entropy of the place of each neighbour."""
    del step
    patches = batch["views"][0]  # [b, 9, s, s, 3]
    b = len(patches)
    h, f_state = base.apply(
      self.backbone,
      "backbone",
      params,
      model_state,
      patches.reshape(-1, *patches.shape[2:]),
      axis,
    )
    h = h.reshape(b, PATCHES, -1)
    neighbours = jnp.delete(
      h, CENTRE, axis=1, assume_unique_indices=True
    )  # [b, 8, d]
    centre = jnp.broadcast_to(h[:, CENTRE, None], neighbours.shape)
    pairs = jnp.concatenate([centre, neighbours], axis=-1)

    # One key per example: dropout does not depend on the number of devices.
    keys = augment.example_keys(rng, axis.positions(b))
    keep = 1 - self.dropout
    shape = (PATCHES - 1, self.head.hidden)
    kept = jax.vmap(lambda key: jax.random.bernoulli(key, keep, shape))(keys)
    logits, head_state = base.apply(
      self.head,
      "head",
      params,
      model_state,
      pairs.reshape(-1, pairs.shape[-1]),
      axis,
      mask=kept.reshape(-1, self.head.hidden) / keep,
    )
    places = jnp.tile(jnp.arange(PATCHES - 1), b)
    entropy = optax.softmax_cross_entropy_with_integer_labels(logits, places)
    correct = jnp.argmax(logits, axis=-1) == places
    output = Output(
      model_state={"backbone": f_state, "head": head_state},
      aux=aux,
      # The mean over patches is closest to the features of a whole image.
      features=jnp.mean(h, axis=1),
      metrics={"pretext_accuracy": jnp.mean(correct.astype(jnp.float32))},
    )
    return jnp.mean(entropy), output

  def after_update(
    self, params: Params, aux: Aux, step: jax.Array
  ) -> tuple[Params, Aux]:
    """Changes nothing."""
    del step
    return params, aux

  def encode(
    self, params: Params, model_state: ModelState, images: jax.Array
  ) -> dict[str, jax.Array]:
    """Computes features of the backbone; "stage3" is best for this method."""
    return base.encode(self.backbone, params, model_state, images)
