"""MAE: predicts the pixels of masked patches from the visible patches.

He, Chen, Xie, Li, Dollar and Girshick, Masked Autoencoders Are Scalable Vision
Learners, CVPR 2022.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from sslx import config as config_lib
from sslx.data import augment
from sslx.methods.base import Method, chain
from sslx.methods.run import Aux, Batch, ModelState, Params, Run
from sslx.models import decoder as decoder_lib
from sslx.models import patches as patches_lib
from sslx.models import vit


@dataclasses.dataclass(frozen=True, kw_only=True)
class MAE(Method):
  """Section 3: asymmetric encoder and decoder, random masking per image.

  The backbone is the encoder, which sees only the visible patches.

  Attributes:
    decoder: predicts all patches from the tokens of the visible patches.
    mask_ratio: fraction of masked patches, rounded up to a whole patch.
    norm_pix: whether to normalise each target patch by its own mean and
      standard deviation (section 3, "Reconstruction target").
  """

  num_views = (1, 1)
  # The loss is a mean over independent examples.
  accumulates = True

  decoder: decoder_lib.Decoder
  mask_ratio: float = 0.75
  norm_pix: bool = True

  def __post_init__(self):
    if not isinstance(self.backbone, vit.ViT):
      raise ValueError(
        "backbone.name must be 'vit' for MAE, whose encoder looks at some of"
        " the patches of an image."
      )
    if not self.backbone.class_token:
      raise ValueError(
        "backbone.class_token is False; it must be True for MAE, whose decoder"
        " is given that token too."
      )
    if self.backbone.pool_norm:
      raise ValueError(
        "backbone.pool_norm is True; it must be False for MAE, whose decoder is"
        " given normalised tokens."
      )
    possible = 0 < self.mask_ratio < 1
    config_lib.require(self, "mask_ratio", possible, "between 0 and 1")

  def draw(
    self, rng: jax.Array, batch: Batch
  ) -> tuple[Params, ModelState, Aux]:
    """Draws encoder and decoder.

    Raises:
      ConfigError: the mask leaves no patch visible, or masks none.
    """
    (images,) = batch["views"]
    visible, patches = self.visible(images)
    if not 0 < visible < patches:
      raise config_lib.ConfigError(
        f"config.model.mask_ratio is {self.mask_ratio}, which leaves"
        f" {visible} of {patches} patches to see; it must be some, not all."
      )
    rng_encoder, rng_decoder = jax.random.split(rng)
    params, model_state = chain(
      {"backbone": self.backbone}, rng_encoder, images
    )
    decoder = self.decoder.init(
      rng_decoder,
      jnp.zeros((2, 1 + visible, self.backbone.sizes[0])),
      jnp.zeros((2, patches), jnp.int32),
      train=False,
      **self.decoded(images),
    )
    params["decoder"] = decoder["params"]
    return params, {**model_state, "decoder": {}}, {}

  def loss(self, run: Run) -> jax.Array:
    """Computes the mean squared error over the masked patches."""
    tokens, predicted, masked = self._reconstruct(run)
    target = self._target(run.views[0])
    error = jnp.mean(jnp.square(predicted - target), axis=-1)  # [b, n]
    # Features of the visible patches only: encoding all patches would cost
    # four times as much.
    run.features = self.backbone.pooled(tokens)[self.backbone.features]
    seen = jnp.sum(error * (1 - masked)) / jnp.sum(1 - masked)
    run.metrics = {"visible_error": seen}
    # Every image has the same number of masked patches, so the mean over
    # devices is the mean over the global batch.
    return jnp.sum(error * masked) / jnp.sum(masked)

  def _reconstruct(self, run: Run) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Encodes the visible patches and predicts all of them.

    Returns:
      Tokens f32[b, t, d], as `ViT.tokens` has them; predicted patches
      f32[b, n, p p c]; mask f32[b, n], 1 for a masked patch.
    """
    (images,) = run.views
    visible, patches = self.visible(images)
    order, restore = patches_lib.random_order(run.keys, patches)
    masked = (restore >= visible).astype(jnp.float32)
    tokens = run(
      "backbone",
      images,
      method="tokens",
      keep=order[:, :visible],
      keys=augment.fold(run.keys, 1),  # Only drop path uses them.
    )
    shown = patches_lib.without_registers(tokens, self.backbone.registers)
    predicted = run("decoder", shown, restore=restore, **self.decoded(images))
    return tokens, predicted, masked

  def visible(self, images: jax.Array) -> tuple[int, int]:
    """Returns the numbers of visible patches and of all patches."""
    rows, columns = self.backbone.grid(images)
    return int(rows * columns * (1 - self.mask_ratio)), rows * columns

  def decoded(self, images: jax.Array) -> dict[str, Any]:
    """Returns the decoder's arguments that describe its output."""
    return {
      "grid": self.backbone.grid(images),
      "trained": self.backbone.trained_grid,
      "outputs": images.shape[-1] * self.backbone.patch_size**2,
    }

  def _target(self, images: jax.Array) -> jax.Array:
    """Returns the patches to predict, f32[b, n, p p c]."""
    target = patches_lib.patchify(images, self.backbone.patch_size)
    if not self.norm_pix:
      return target
    mean, std = patches_lib.moments(target)
    return (target - mean) / std

  def pictures(self, run: Run) -> dict[str, jax.Array]:
    """Draws the images, their visible patches, and their reconstructions.

    A reconstruction keeps the visible patches of the image. With `norm_pix`, a
    predicted patch is given the mean and standard deviation of the true patch.

    Returns:
      "reconstructions": f32[3, b, s, s, c], normalised like the images.
    """
    (images,) = run.views
    _, predicted, masked = self._reconstruct(run)
    if self.norm_pix:
      original = patches_lib.patchify(images, self.backbone.patch_size)
      mean, std = patches_lib.moments(original)
      predicted = predicted * std + mean
    rows = patches_lib.completed(images, predicted, masked)
    return {"reconstructions": rows}
