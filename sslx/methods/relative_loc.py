"""Relative location: predicts where a patch lies around the centre patch.

Doersch, Gupta and Efros, Unsupervised Visual Representation Learning by Context
Prediction, ICCV 2015, in MMSelfSup's version: with a ResNet, and with all eight
pairs of an image in the same batch.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import optax

from sslx import config as config_lib
from sslx.methods.base import Method, chain
from sslx.methods.run import Aux, Batch, ModelState, Params, Run
from sslx.models import heads

CENTRE, PATCHES = 4, 9  # Patches are numbered row by row.


@dataclasses.dataclass(frozen=True, kw_only=True)
class RelativeLoc(Method):
  """Section 3: a siamese encoder, and a classifier of pairs of features.

  MMSelfSup encodes the centre again for each of its eight neighbours; here each
  of the nine patches is encoded once. The loss differs only through BatchNorm:
  here the centre has the same weight in its statistics as any other patch.
  Of the backbone's features "stage3" are best for this method.

  Attributes:
    head: maps pairs of features to logits of the eight places.
    dropout: probability that a hidden unit of the head is dropped.
  """

  num_views = (1, 1)
  takes = "patches"
  # The loss is a mean over pairs; only BatchNorm groups couple them.
  accumulates = True

  head: heads.PairHead
  dropout: float = 0.5

  def __post_init__(self):
    config_lib.require(self, "dropout", 0 <= self.dropout < 1, "in [0, 1)")
    right = self.head.classes == PATCHES - 1
    config_lib.require(self.head, "classes", right, "8, one for each place")

  def draw(
    self, rng: jax.Array, batch: Batch
  ) -> tuple[Params, ModelState, Aux]:
    """Draws the backbone, which takes a patch, and the head, for a pair."""
    patch = batch["views"][0][:, 0]
    rng_backbone, rng_head = jax.random.split(rng)
    params, model_state = chain(
      {"backbone": self.backbone}, rng_backbone, patch
    )
    h = jax.eval_shape(self.encode, params, model_state, patch)["final"]
    pair = jnp.zeros((2, 2 * h.shape[-1]))
    head_params, head_state = chain({"head": self.head}, rng_head, pair)
    return params | head_params, model_state | head_state, {}

  def loss(self, run: Run) -> jax.Array:
    """Computes the cross-entropy of the place of each neighbour."""
    (patches,) = run.views  # [b, 9, s, s, c]
    b = len(patches)
    h = run("backbone", patches.reshape(-1, *patches.shape[2:]))
    h = h.reshape(b, PATCHES, -1)
    neighbours = jnp.delete(
      h, CENTRE, axis=1, assume_unique_indices=True
    )  # [b, 8, d]
    centre = jnp.broadcast_to(h[:, CENTRE, None], neighbours.shape)
    pairs = jnp.concatenate([centre, neighbours], axis=-1)

    keep, shape = 1 - self.dropout, (PATCHES - 1, self.head.hidden)
    draw = lambda key: jax.random.bernoulli(key, keep, shape)
    kept = jax.vmap(draw)(run.keys)
    logits = run(
      "head",
      pairs.reshape(-1, pairs.shape[-1]),
      mask=kept.reshape(-1, self.head.hidden) / keep,
    )
    places = jnp.tile(jnp.arange(PATCHES - 1), b)
    correct = jnp.argmax(logits, axis=-1) == places
    # The mean over patches is closest to the features of a whole image.
    run.features = jnp.mean(h, axis=1)
    run.metrics = {"pretext_accuracy": jnp.mean(correct.astype(jnp.float32))}
    entropy = optax.softmax_cross_entropy_with_integer_labels(logits, places)
    return jnp.mean(entropy)
