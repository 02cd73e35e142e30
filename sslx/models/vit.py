"""Vision Transformer, equal to timm's layer by layer; and MAE's decoder.

See `transformer` for the names of parameters.
"""

from __future__ import annotations

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from sslx import parallel
from sslx.config import ConfigError, require
from sslx.models import heads as heads_lib
from sslx.models import patches as patches_lib
from sslx.models import transformer

# (width, depth, heads)
VARIANTS = {
  "tiny": (192, 12, 3),
  "small": (384, 12, 6),
  "base": (768, 12, 12),
  "large": (1024, 24, 16),
  "huge": (1280, 32, 16),
}


class ViT(nn.Module):
  """A ViT with a class token and fixed sine-cosine positions.

  Attributes:
    variant: width, depth and heads, each of which may be given instead.
    width: of the tokens.
    depth: number of blocks.
    heads: of the attention; MoCo v3's ViT-S has 12, not 6.
    mlp_ratio: width of the hidden layer of a block's MLP, over `width`.
    patch_size: in pixels, which must divide the image's size.
    image_size: that positions are counted on; the grid of another size is
      scaled to it, so that a network can be used on images it was not trained
      on.
    style: whose initialisation and order of positions.
    frozen_patches: no gradient for the patch projection, which then is in
      neither the optimiser's state nor its decay (MoCo v3, section 4.1).
    features: the "final" ones.
    drop_path: probability that a branch of the last block is left out, for an
      example; it grows linearly from 0 at the first.
    remat: whether blocks are computed anew in the backward pass, rather than
      their activations kept.
    attention: "cudnn" is a fused kernel for NVIDIA GPUs, of bfloat16 alone.
    dtype: compute dtype. Parameters, LayerNorm, softmax and features are
      float32.

  References:
    Dosovitskiy et al., An Image is Worth 16x16 Words, ICLR 2021.
    Huang et al., Deep Networks with Stochastic Depth, 2016 (drop path).
  """

  variant: Literal["tiny", "small", "base", "large", "huge"] = "base"
  width: int | None = None
  depth: int | None = None
  heads: int | None = None
  mlp_ratio: float = 4.0
  patch_size: int = 16
  image_size: int = 224
  style: Literal["mae", "mocov3"] = "mae"
  frozen_patches: bool = False
  features: Literal["cls", "pooled", "cls+pooled"] = "cls"
  drop_path: float = 0.0
  remat: bool = False
  attention: Literal["xla", "cudnn"] = "xla"
  dtype: Literal["float32", "bfloat16"] = "float32"

  def __post_init__(self):
    known = f"one of {list(VARIANTS)}"
    require(self, "variant", self.variant in VARIANTS, known)
    for key in ("width", "depth", "heads"):
      v = getattr(self, key)
      require(self, key, v is None or v >= 1, "at least 1, or None")
    transformer.require_width(self, self.sizes[0], self.sizes[2])
    require(self, "mlp_ratio", self.mlp_ratio > 0, "above 0")
    require(self, "patch_size", self.patch_size >= 1, "at least 1")
    divides = self.image_size >= 1 and self.image_size % self.patch_size == 0
    multiple = f"a multiple of patch_size, {self.patch_size}"
    require(self, "image_size", divides, multiple)
    require(self, "drop_path", 0 <= self.drop_path < 1, "in [0, 1)")
    transformer.require_kernel(self)
    super().__post_init__()

  @property
  def sizes(self) -> tuple[int, int, int]:
    """Width, depth and heads."""
    given = (self.width, self.depth, self.heads)
    pairs = zip(given, VARIANTS[self.variant], strict=True)
    return tuple(own if x is None else x for x, own in pairs)

  @property
  def frozen(self) -> tuple[str, ...]:
    """Patterns of the parameters that are never trained."""
    return ("patch_embed/",) if self.frozen_patches else ()

  @property
  def trained_grid(self) -> int:
    """Rows and columns of patches of an image of `image_size`."""
    return self.image_size // self.patch_size

  def grid(self, images: Any) -> tuple[int, int]:
    """Rows and columns of patches of images [b, h, w, 3].

    Raises:
      ConfigError: the size is not a multiple of the patch's.
    """
    h, w = images.shape[1:3]
    if h % self.patch_size or w % self.patch_size:
      raise ConfigError(
        f"config.model.backbone.patch_size is {self.patch_size}, which does"
        f" not divide images of {h} x {w} pixels."
      )
    return h // self.patch_size, w // self.patch_size

  def __call__(
    self,
    x: jax.Array,
    *,
    train: bool,
    axis: parallel.Axis = parallel.Axis(),
    every: bool = False,
    keep: jax.Array | None = None,
    keys: jax.Array | None = None,
  ) -> jax.Array | dict[str, jax.Array]:
    """Features of images.

    Args:
      x: [b, h, w, 3], normalised.
      train: with drop path.
      axis: the data axis that the batch is split over.
      every: whether to return all of `patches.FEATURES`, and "final".
      keep: see `tokens`.
      keys: see `tokens`.

    Returns:
      f32[b, d]: the class token, the mean of the others, or both, after the
      last LayerNorm; with `every` a dictionary of them.
    """
    tokens = self.tokens(x, train=train, axis=axis, keep=keep, keys=keys)
    features = patches_lib.pooled(tokens)
    final = features[self.features]
    return {"final": final, **features} if every else final

  @nn.compact
  def tokens(
    self,
    x: jax.Array,
    *,
    train: bool,
    axis: parallel.Axis = parallel.Axis(),
    keep: jax.Array | None = None,
    keys: jax.Array | None = None,
  ) -> jax.Array:
    """The class token and those of the patches, row by row.

    Args:
      x: [b, h, w, 3], normalised.
      train: with drop path.
      axis: the data axis that the batch is split over.
      keep: i32[b, k], the patches to look at; the others cost nothing.
      keys: [b] keys of the examples, for drop path.

    Returns:
      f32[b, 1 + k, d]; without `keep`, k is the number of all patches.

    Raises:
      ConfigError: drop path without keys; or see `grid`.
    """
    width, depth, heads = self.sizes
    rows, columns = self.grid(x)
    places = patches_lib.scaled(rows, columns, self.trained_grid)
    positions = jnp.asarray(patches_lib.sincos(places, width, self.style))
    patches = patches_lib.patchify(x, self.patch_size)
    if keep is not None:
      patches = patches_lib.taken(patches, keep)
      positions = positions[keep]

    patches = PatchEmbed(
      width, self.style, self.dtype, axis, name="patch_embed"
    )(patches)
    if self.frozen_patches:
      patches = jax.lax.stop_gradient(patches)
    std = 0.02 if self.style == "mae" else 1e-6
    cls = self.param("cls_token", nn.initializers.normal(std), (1, 1, width))
    tokens = patches_lib.with_class(cls, patches + positions)
    return transformer.blocks(
      self,
      tokens,
      depth=depth,
      drop=self._drop(depth, train, keys),
      axis=axis,
      heads=heads,
      mlp_ratio=self.mlp_ratio,
      style=self.style,
    )

  def _drop(
    self, depth: int, train: bool, keys: jax.Array | None
  ) -> jax.Array | None:
    """Factors f32[b, depth, 2] of the branches; None for 1."""
    if not train or not self.drop_path:
      return None
    if keys is None:
      raise ConfigError(
        f"config.model.backbone.drop_path is {self.drop_path}, but this method"
        " has no drop path; use 0."
      )
    left = 1 - jnp.linspace(0, self.drop_path, depth)[:, None]
    draw = lambda key: jax.random.bernoulli(key, left, (depth, 2))
    return jax.vmap(draw)(keys) / left


class Decoder(nn.Module):
  """MAE's decoder: all patches, out of the tokens of the visible ones.

  Attributes:
    width: of its tokens.
    depth: number of blocks.
    heads: of the attention.
    mlp_ratio: width of the hidden layer of a block's MLP, over `width`.
    remat: see `ViT`.
    attention: see `ViT`.
    dtype: compute dtype. Parameters, LayerNorm, softmax and output are float32.

  References:
    He et al., Masked Autoencoders, CVPR 2022, section 3.
  """

  width: int = 512
  depth: int = 8
  heads: int = 16
  mlp_ratio: float = 4.0
  remat: bool = False
  attention: Literal["xla", "cudnn"] = "xla"
  dtype: Literal["float32", "bfloat16"] = "float32"

  def __post_init__(self):
    for key in ("width", "depth", "heads"):
      require(self, key, getattr(self, key) >= 1, "at least 1")
    transformer.require_width(self, self.width, self.heads)
    require(self, "mlp_ratio", self.mlp_ratio > 0, "above 0")
    transformer.require_kernel(self)
    super().__post_init__()

  @nn.compact
  def __call__(
    self,
    tokens: jax.Array,
    restore: jax.Array,
    *,
    grid: tuple[int, int],
    trained: int,
    outputs: int,
    train: bool,
    axis: parallel.Axis = parallel.Axis(),
  ) -> jax.Array:
    """Predicts every patch.

    Args:
      tokens: [b, 1 + k, d], the class token and those of the visible patches.
      restore: i32[b, n], for each patch its place in the row of the visible
        ones followed by the masked ones.
      grid: rows and columns of patches, n in all.
      trained: rows and columns that positions are counted on.
      outputs: numbers that a patch has.
      train: makes no difference.
      axis: the data axis that the batch is split over.

    Returns:
      f32[b, n, outputs].
    """
    del train
    positions = jnp.asarray(
      patches_lib.sincos(patches_lib.scaled(*grid, trained), self.width, "mae")
    )
    x = transformer.dense(self.width, self.dtype, "embed", axis)(
      tokens.astype(self.dtype)
    )
    hidden = self.param(
      "mask_token", nn.initializers.normal(0.02), (1, 1, self.width)
    )
    masked = (len(x), restore.shape[1] - (x.shape[1] - 1), self.width)
    shown = x[:, 1:]
    if not axis.float32_gradients:
      hidden = hidden.astype(x.dtype)
    hidden = jnp.broadcast_to(hidden, masked).astype(x.dtype)
    row = jnp.concatenate([shown, hidden], axis=1)
    x = patches_lib.with_class(
      x[:, :1], patches_lib.taken(row, restore) + positions
    )
    x = transformer.blocks(
      self,
      x,
      depth=self.depth,
      drop=None,
      axis=axis,
      heads=self.heads,
      mlp_ratio=self.mlp_ratio,
      style="mae",
    )
    x = transformer.dense(outputs, self.dtype, "pred", axis)(
      x[:, 1:].astype(self.dtype)
    )
    return x.astype(jnp.float32)


class PatchEmbed(nn.Module):
  """The projection of patches, [b, n, p * p * 3] to [b, n, width]."""

  width: int
  style: str
  dtype: str
  axis: parallel.Axis

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Projects; as a matrix product, since patches do not overlap."""
    bias = nn.initializers.zeros
    if self.style == "mae":  # Its convolution keeps torch's bias.
      bias = heads_lib.uniform(x.shape[-1] ** -0.5)
    dense = transformer.dense(
      self.width, self.dtype, "proj", self.axis, bias_init=bias
    )
    return dense(x.astype(self.dtype))
