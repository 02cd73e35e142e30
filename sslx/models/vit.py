"""Vision Transformer, equal to timm's layer by layer.

See `transformer` for the names of parameters.
"""

from __future__ import annotations

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from sslx.axis import Axis
from sslx.config import ConfigError, require
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
  """A ViT: maps images to features of the class token or of the patches.

  Attributes:
    variant: sets width, depth and heads; each can be overridden.
    width: width of the tokens.
    depth: number of blocks.
    heads: number of attention heads; MoCo v3's ViT-S has 12, not 6.
    mlp_ratio: width of the hidden layer of a block's MLP, divided by `width`.
    mlp: "gelu", or "swiglu" as in DINOv2's ViT-g, whose hidden layer has two
      thirds of that width, rounded up to a multiple of 8.
    patch_size: in pixels; must divide the image's size.
    image_size: training resolution; positions of other grids are rescaled to
      its grid, so that the network accepts images of other sizes.
    weight_init: "xavier": Xavier's uniform rule, query, key and value as one
      matrix; class token N(0, 0.02^2); bias of the patch projection as torch's
      of a convolution (MAE). "xavier_qkv": three matrices, N(0, 1e-6^2), bias 0
      (MoCo v3). "normal": N(0, 0.02^2) but for the patch projection, which is
      as torch's convolution (DINO); "normal_all": that too, bias 0 (I-JEPA).
    positions: "sincos" are fixed sines and cosines, none for the class token;
      "learned" are parameters `pos_embed`, one for each token, which are
      resized to the grid of an image of another size.
    position_order: whether fixed positions begin with the sines and cosines of
      the "column" (MAE) or of the "row" (MoCo v3).
    class_token: whether there is one; I-JEPA has none. Without it `features`
      must be "pooled".
    registers: number of register tokens (`reg_token`): tokens like the class
      token, without positions, that no feature contains.
    mask_token: whether there is a learned token for the patches that a `mask`
      hides; it starts at 0, as in iBOT and DINOv2.
    layer_scale: initial value of a factor per channel on each branch (`ls1`,
      `ls2`), or None for no factor; DINOv2 has 1e-5.
    frozen_patches: whether the patch projection is never trained: it has no
      gradient, no optimiser state and no decay (MoCo v3, section 4.1).
    features: which features are the "final" ones.
    pool_norm: whether the last LayerNorm comes after the pooling (`fc_norm`)
      instead of before it (`norm`), as in MAE's fine-tuning; "pooled" are then
      the only features.
    drop_path: probability, per example, to drop a branch of the last block.
    drop_path_schedule: "linear": the probability grows linearly from 0 at the
      first block; "uniform": it is the same in all blocks, as in DINOv2.
    remat: whether to recompute the blocks in the backward pass instead of
      keeping their activations.
    attention: "cudnn" is a fused kernel for NVIDIA GPUs, only for bfloat16.
    dtype: compute dtype. Parameters, LayerNorm, softmax and features are
      float32.

  References:
    Dosovitskiy et al., An Image is Worth 16x16 Words, ICLR 2021.
    Darcet et al., Vision Transformers Need Registers, ICLR 2024.
    Zhou et al., iBOT, ICLR 2022, section 3.1 (mask token).
    Huang et al., Deep Networks with Stochastic Depth, 2016 (drop path).
  """

  variant: Literal["tiny", "small", "base", "large", "huge"] = "base"
  width: int | None = None
  depth: int | None = None
  heads: int | None = None
  mlp_ratio: float = 4.0
  mlp: Literal["gelu", "swiglu"] = "gelu"
  patch_size: int = 16
  image_size: int = 224
  weight_init: patches_lib.WeightInit = "xavier"
  positions: Literal["sincos", "learned"] = "sincos"
  position_order: Literal["column", "row"] = "column"
  class_token: bool = True
  registers: int = 0
  mask_token: bool = False
  layer_scale: float | None = None
  frozen_patches: bool = False
  features: Literal["cls", "pooled", "cls+pooled"] = "cls"
  pool_norm: bool = False
  drop_path: float = 0.0
  drop_path_schedule: Literal["linear", "uniform"] = "linear"
  remat: bool = False
  attention: Literal["xla", "cudnn"] = "xla"
  dtype: Literal["float32", "bfloat16"] = "float32"

  tensor_rules = transformer.TENSOR_RULES

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
    has_features = self.class_token or self.features == "pooled"
    require(self, "features", has_features, "'pooled' without a class token")
    can = not self.pool_norm or self.features == "pooled"
    require(self, "features", can, "'pooled' with pool_norm")
    require(self, "registers", self.registers >= 0, "at least 0")
    scale = self.layer_scale
    require(self, "layer_scale", scale is None or scale > 0, "above 0, or None")
    require(self, "drop_path", 0 <= self.drop_path < 1, "in [0, 1)")
    transformer.require_kernel(self)
    super().__post_init__()

  @property
  def sizes(self) -> tuple[int, int, int]:
    """Width, depth and number of heads."""
    given = (self.width, self.depth, self.heads)
    pairs = zip(given, VARIANTS[self.variant], strict=True)
    return tuple(own if x is None else x for x, own in pairs)

  @property
  def frozen(self) -> tuple[str, ...]:
    """Patterns of the parameters that are never trained."""
    return ("patch_embed/",) if self.frozen_patches else ()

  @property
  def before(self) -> int:
    """Number of tokens before the patches: class token and registers."""
    return int(self.class_token) + self.registers

  @property
  def trained_grid(self) -> int:
    """Rows and columns of patches of an image of `image_size`."""
    return self.image_size // self.patch_size

  def grid(self, images: Any) -> tuple[int, int]:
    """Returns the rows and columns of patches of images [b, h, w, 3].

    Raises:
      ConfigError: the images' size is not a multiple of the patch size.
    """
    h, w = images.shape[1:3]
    if h % self.patch_size or w % self.patch_size:
      raise ConfigError(
        f"config.model.backbone.patch_size is {self.patch_size}, which does"
        f" not divide images of {h} x {w} pixels."
      )
    return h // self.patch_size, w // self.patch_size

  def __call__(
    self, x: jax.Array, *, every: bool = False, **arguments: Any
  ) -> jax.Array | dict[str, jax.Array]:
    """Computes features of images.

    Args:
      x: [b, h, w, 3], normalised.
      every: whether to return "final" and all available `patches.FEATURES`.
      **arguments: those of `tokens`.

    Returns:
      f32[b, d] after the last LayerNorm: the class token, the mean of the patch
      tokens, or both concatenated; with `every`, a dict of them. With `every`
      and `last=4` it has also "cls4", the class tokens of the last 4 blocks
      (DINO's linear evaluation), and "cls4+pooled" (DINOv2's).
    """
    tokens = self.tokens(x, **arguments)
    features = self.pooled(tokens[..., -self.sizes[0] :])
    if self.pool_norm:
      features = {"pooled": self.fc_norm(features["pooled"])}
    final = features[self.features]
    last = arguments.get("last") or 1
    if last > 1 and self.class_token and not self.pool_norm:
      cls = tokens[:, 0]
      both = jnp.concatenate([cls, features["pooled"]], axis=-1)
      features |= {f"cls{last}": cls, f"cls{last}+pooled": both}
    return {"final": final, **features} if every else final

  def pooled(self, tokens: jax.Array) -> dict[str, jax.Array]:
    """Computes `patches.FEATURES` of tokens [b, t, d], as `tokens` has them."""
    return patches_lib.pooled(tokens, self.class_token, self.before)

  def setup(self):
    """Makes the LayerNorm that follows the pooling, if any."""
    if self.pool_norm:
      self.fc_norm = transformer.layer_norm()

  @nn.compact
  def tokens(
    self,
    x: jax.Array,
    *,
    train: bool,
    axis: Axis = Axis(),
    keep: jax.Array | None = None,
    valid: jax.Array | None = None,
    mask: jax.Array | None = None,
    keys: jax.Array | None = None,
    last: int | None = None,
  ) -> jax.Array:
    """Computes the tokens: class token, registers, and patches row by row.

    Args:
      x: [b, h, w, 3], normalised.
      train: whether to apply drop path.
      axis: the data axis that the batch is split over.
      keep: i32[b, k], the patches to encode; the others are skipped and cost
        nothing.
      valid: bool[b, k], the encoded patches that tokens attend to; the others
        are padding, so that images may have different numbers of patches.
      mask: bool[b, k], the encoded patches that are replaced by the mask token;
        their positions stay.
      keys: [b] keys of the examples, for drop path.
      last: return the outputs of the last n blocks, each after the last
        LayerNorm, not only that of the last block. They are concatenated along
        the channels, that of the last block at the end (DINO's linear
        evaluation takes 4).

    Returns:
      f32[b, before + k, d], where d is the width, or `last` times the width;
      with `pool_norm`, without a last LayerNorm.
      The first `before` tokens are the class token, if any, and then the
      registers. With `keep`, the patches are in its order; without, k is the
      number of all patches.

    Raises:
      ConfigError: there are no keys for drop path, or no mask token; or see
        `grid`.
      ValueError: the mask has another shape, or there are not `last` blocks.
    """
    width, depth, heads = self.sizes
    if last is not None and not 1 <= last <= depth:
      raise ValueError(f"last is {last}; it must be 1 to {depth}, the depth.")
    first, positions = self._positions(self.grid(x), width)
    patches = patches_lib.patchify(x, self.patch_size)
    if keep is not None:
      patches = patches_lib.taken(patches, keep)
      positions = positions[keep]

    patches = patches_lib.PatchEmbed(
      width, self.weight_init, self.dtype, axis, name="patch_embed"
    )(patches)
    if self.frozen_patches:
      patches = jax.lax.stop_gradient(patches)
    before = self._before(first, width)
    tokens = self._masked(patches, mask, axis) + positions
    if before:
      tokens = patches_lib.prepend(jnp.concatenate(before, axis=1), tokens)
      if valid is not None:
        added = ((0, 0), (self.before, 0))
        valid = jnp.pad(valid, added, constant_values=True)
    return transformer.blocks(
      self,
      tokens,
      depth=depth,
      drop=self._drop(depth, train, keys),
      axis=axis,
      valid=valid,
      last=last,
      last_norm=not self.pool_norm,
      heads=heads,
      mlp_ratio=self.mlp_ratio,
      mlp=self.mlp,
      weight_init=self.weight_init,
      layer_scale=self.layer_scale,
    )

  def _before(self, position: jax.Array | float, width: int) -> list[jax.Array]:
    """Returns class token f32[1, 1, d] and registers f32[1, r, d], if any."""
    normal, found = nn.initializers.normal, []
    if self.class_token:
      init = normal(1e-6 if self.weight_init == "xavier_qkv" else 0.02)
      cls = self.param("cls_token", init, (1, 1, width))
      found.append(cls + position)
    if self.registers:
      shape = (1, self.registers, width)
      found.append(self.param("reg_token", normal(1e-6), shape))
    return found

  def _masked(
    self, patches: jax.Array, mask: jax.Array | None, axis: Axis
  ) -> jax.Array:
    """Replaces the masked patches of [b, k, d] by the mask token."""
    if not self.mask_token:
      if mask is not None:
        raise ConfigError(
          "config.model.backbone.mask_token is False, but this method masks"
          " patches; use True."
        )
      return patches
    shape = (1, 1, patches.shape[-1])
    token = self.param("mask_token", nn.initializers.zeros, shape)
    if mask is None:
      return patches
    return patches_lib.masked(patches, mask, token, axis)

  def _positions(
    self, grid: tuple[int, int], width: int
  ) -> tuple[jax.Array | float, jax.Array]:
    """Returns positions of the class token, f32[1, d], and a grid, f32[n, d].

    With "sincos", the class token's is 0.0; without a class token, its
    positions are empty.
    """
    if self.positions == "sincos":
      places = patches_lib.scaled(*grid, self.trained_grid)
      table = patches_lib.sincos(places, width, self.position_order)
      return 0.0, jnp.asarray(table)
    side, before = self.trained_grid, int(self.class_token)
    table = self.param(
      "pos_embed",
      nn.initializers.truncated_normal(0.02),
      (1, before + side**2, width),
    )[0]
    rest = patches_lib.resized(table[before:], (side, side), grid)
    return table[:before], rest

  def _drop(
    self, depth: int, train: bool, keys: jax.Array | None
  ) -> jax.Array | None:
    """Draws the branches' factors f32[b, depth, 2]; None if all are 1."""
    if not train or not self.drop_path:
      return None
    if keys is None:
      raise ConfigError(
        f"config.model.backbone.drop_path is {self.drop_path}, but this method"
        " has no drop path; use 0."
      )
    first = 0 if self.drop_path_schedule == "linear" else self.drop_path
    left = 1 - jnp.linspace(first, self.drop_path, depth)[:, None]
    draw = lambda key: jax.random.bernoulli(key, left, (depth, 2))
    return jax.vmap(draw)(keys) / left
