"""MAE's decoder; see `transformer` for the names of parameters."""

from __future__ import annotations

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from sslx.axis import Axis
from sslx.config import require
from sslx.models import patches as patches_lib
from sslx.models import transformer


class Decoder(nn.Module):
  """MAE's decoder: predicts all patches from the tokens of the visible ones.

  Attributes:
    width: width of its tokens.
    depth: number of blocks.
    heads: number of attention heads.
    mlp_ratio: width of the hidden layer of a block's MLP, divided by `width`.
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

  tensor_rules = transformer.TENSOR_RULES

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
    axis: Axis = Axis(),
  ) -> jax.Array:
    """Predicts every patch.

    Args:
      tokens: [b, 1 + k, d], the class token and the visible patches' tokens.
      restore: i32[b, n], the place of each patch in the sequence of all visible
        patches followed by all masked patches.
      grid: rows and columns of patches, n in all.
      trained: rows and columns of the training grid; positions of other grids
        are rescaled to it.
      outputs: numbers per patch.
      train: unused.
      axis: the data axis that the batch is split over.

    Returns:
      f32[b, n, outputs].
    """
    del train
    positions = jnp.asarray(
      patches_lib.sincos(
        patches_lib.scaled(*grid, trained), self.width, "column"
      )
    )
    dense = lambda width, name: transformer.dense(
      width, self.dtype, name, axis, transformer.xavier()
    )
    x = dense(self.width, "embed")(tokens.astype(self.dtype))
    hidden = self.param(
      "mask_token", nn.initializers.normal(0.02), (1, 1, self.width)
    )
    masked = (len(x), restore.shape[1] - (x.shape[1] - 1), self.width)
    shown = x[:, 1:]
    hidden = transformer.repeated(hidden, masked, x.dtype, axis)
    row = jnp.concatenate([shown, hidden], axis=1)
    x = patches_lib.prepend(
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
      mlp="gelu",
      weight_init="xavier",
    )
    x = dense(outputs, "pred")(x[:, 1:].astype(self.dtype))
    return x.astype(jnp.float32)
