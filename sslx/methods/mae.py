"""MAE: predicts the pixels of masked patches from the visible patches.

He, Chen, Xie, Li, Dollar and Girshick, Masked Autoencoders Are Scalable Vision
Learners, CVPR 2022.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from sslx import config as config_lib
from sslx import models
from sslx.axis import Axis
from sslx.data import augment
from sslx.data.views import Slot, unshuffled
from sslx.methods import base
from sslx.methods.base import Aux, Batch, ModelState, Output, Params
from sslx.models import decoder as decoder_lib
from sslx.models import patches as patches_lib
from sslx.models import vit


@dataclasses.dataclass(frozen=True)
class MAE:
  """Section 3: asymmetric encoder and decoder, random masking per image.

  Attributes:
    backbone: the encoder, which sees only the visible patches.
    decoder: predicts all patches from the tokens of the visible patches.
    mask_ratio: fraction of masked patches, rounded up to a whole patch.
    norm_pix: whether to normalise each target patch by its own mean and
      standard deviation (section 3, "Reconstruction target").
  """

  # The loss is a mean over independent examples.
  accumulates: ClassVar[bool] = True

  backbone: models.BACKBONE
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
    possible = 0 < self.mask_ratio < 1
    config_lib.require(self, "mask_ratio", possible, "between 0 and 1")

  def slots(self, views: int) -> tuple[Slot, ...]:
    """Returns a slot for the one view."""
    if views != 1:
      raise config_lib.ConfigError(
        f"config.data.views are {views} views of each image; MAE takes 1."
      )
    return unshuffled(1)

  def init(
    self, rng: jax.Array, batch: Batch
  ) -> tuple[Params, ModelState, Aux]:
    """Draws encoder and decoder.

    Raises:
      ConfigError: the mask leaves no patch visible, or masks none.
    """
    images = batch["views"][0]
    visible, patches = self.visible(images)
    if not 0 < visible < patches:
      raise config_lib.ConfigError(
        f"config.model.mask_ratio is {self.mask_ratio}, which leaves"
        f" {visible} of {patches} patches to see; it must be some, not all."
      )
    rng_encoder, rng_decoder = jax.random.split(rng)
    params, model_state = base.init(
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
    return params, model_state | {"decoder": {}}, {}

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
    """Computes the mean squared error over the masked patches."""
    del step
    images = batch["views"][0]
    # One key per example: the mask does not depend on the number of devices.
    keys = augment.example_keys(rng, axis.positions(len(images)))
    tokens, predicted, masked = self._reconstruct(
      params, model_state, images, keys, axis
    )
    target = self._target(images)
    error = jnp.mean(jnp.square(predicted - target), axis=-1)  # [b, n]
    # Every image has the same number of masked patches, so the mean over
    # devices is the mean over the global batch.
    loss = jnp.sum(error * masked) / jnp.sum(masked)
    seen = jnp.sum(error * (1 - masked)) / jnp.sum(1 - masked)
    features = patches_lib.pooled(tokens)[self.backbone.features]
    output = Output(
      model_state=model_state,
      aux=aux,
      # Features of the visible patches only: encoding all patches would cost
      # four times as much.
      features=features,
      metrics={"visible_error": seen},
    )
    return loss, output

  def _reconstruct(
    self,
    params: Params,
    model_state: ModelState,
    images: jax.Array,
    keys: jax.Array,
    axis: Axis,
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Encodes the visible patches and predicts all of them.

    Returns:
      Tokens f32[b, 1 + k, d]; predicted patches f32[b, n, p p 3]; mask
      f32[b, n], 1 for a masked patch.
    """
    visible, patches = self.visible(images)
    order, restore = random_order(keys, patches)
    masked = (restore >= visible).astype(jnp.float32)
    tokens, _ = base.apply(
      self.backbone,
      "backbone",
      params,
      model_state,
      images,
      axis,
      method="tokens",
      keep=order[:, :visible],
      keys=augment.fold(keys, 1),  # Only drop path uses them.
    )
    predicted, _ = base.apply(
      self.decoder,
      "decoder",
      params,
      model_state,
      tokens,
      axis,
      restore=restore,
      **self.decoded(images),
    )
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
    """Returns the patches to predict, f32[b, n, p p 3]."""
    target = patches_lib.patchify(images, self.backbone.patch_size)
    if not self.norm_pix:
      return target
    mean, std = _moments(target)
    return (target - mean) / std

  def pictures(
    self,
    params: Params,
    model_state: ModelState,
    images: jax.Array,
    rng: jax.Array,
  ) -> dict[str, jax.Array]:
    """Draws the images, their visible patches, and their reconstructions.

    A reconstruction keeps the visible patches of the image. With `norm_pix`, a
    predicted patch is given the mean and standard deviation of the true patch.

    Args:
      params: parameters of the method.
      model_state: BatchNorm statistics of the method.
      images: f32[b, s, s, 3], normalised.
      rng: key of the mask.

    Returns:
      "reconstructions": f32[3, b, s, s, 3], normalised like the images.
    """
    size, grid = self.backbone.patch_size, self.backbone.grid(images)
    keys = augment.example_keys(rng, jnp.arange(len(images)))
    _, predicted, masked = self._reconstruct(
      params, model_state, images, keys, Axis()
    )
    original = patches_lib.patchify(images, size)
    if self.norm_pix:
      mean, std = _moments(original)
      predicted = predicted * std + mean
    masked = masked[..., None]
    rows = (
      original,
      original * (1 - masked),
      original * (1 - masked) + predicted * masked,
    )
    rows = [patches_lib.unpatchify(x, size, grid) for x in rows]
    return {"reconstructions": jnp.stack(rows)}

  def after_update(
    self, params: Params, aux: Aux, step: jax.Array
  ) -> tuple[Params, Aux]:
    """Changes nothing."""
    del step
    return params, aux

  def encode(
    self, params: Params, model_state: ModelState, images: jax.Array
  ) -> dict[str, jax.Array]:
    """Computes the encoder's features of all patches; the decoder is unused."""
    return base.encode(self.backbone, params, model_state, images)


def random_order(keys: jax.Array, patches: int) -> tuple[jax.Array, jax.Array]:
  """Draws a random order of the patches of each example.

  Args:
    keys: [b] keys of the examples.
    patches: n, the number of patches.

  Returns:
    i32[b, n], the patches in that order, the visible ones first; i32[b, n], the
    inverse: the place of each patch in that order.
  """
  noise = jax.vmap(lambda key: jax.random.uniform(key, (patches,)))(keys)
  order = jnp.argsort(noise, axis=1)
  return order, jnp.argsort(order, axis=1)


def _moments(patches: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns mean and standard deviation of each patch [b, n, d]: f32[b, n, 1].

  The variance is unbiased (divided by d - 1): torch's default, which the
  official code uses.
  """
  mean = jnp.mean(patches, axis=-1, keepdims=True)
  var = jnp.var(patches, axis=-1, keepdims=True, ddof=1)
  return mean, jnp.sqrt(var + 1e-6)
