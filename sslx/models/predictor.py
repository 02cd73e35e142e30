"""I-JEPA's predictor; see `transformer` for the names of parameters."""

from __future__ import annotations

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from sslx.axis import Axis
from sslx.config import require
from sslx.models import patches as patches_lib
from sslx.models import transformer


class Predictor(nn.Module):
  """A narrow ViT that predicts tokens of some places from those of others.

  Attributes:
    width: width of its tokens.
    depth: number of blocks.
    heads: number of attention heads; in the paper, those of the encoder.
    mlp_ratio: width of the hidden layer of a block's MLP, divided by `width`.
    remat: see `ViT`.
    dtype: compute dtype. Parameters, LayerNorm, softmax and output are float32.

  References:
    Assran et al., I-JEPA, CVPR 2023, section 3, "Prediction".
  """

  width: int = 384
  depth: int = 12
  heads: int = 12
  mlp_ratio: float = 4.0
  remat: bool = False
  dtype: Literal["float32", "bfloat16"] = "float32"

  tensor_rules = transformer.TENSOR_RULES
  attention = "xla"  # The fused kernel takes no padding between tokens.

  def __post_init__(self):
    for key in ("width", "depth", "heads"):
      require(self, key, getattr(self, key) >= 1, "at least 1")
    transformer.require_width(self, self.width, self.heads)
    require(self, "mlp_ratio", self.mlp_ratio > 0, "above 0")
    super().__post_init__()

  @nn.compact
  def __call__(
    self,
    tokens: jax.Array,
    *,
    places: jax.Array,
    valid: jax.Array,
    targets: jax.Array,
    predicted: jax.Array,
    grid: tuple[int, int],
    trained: int,
    train: bool,
    axis: Axis = Axis(),
  ) -> jax.Array:
    """Predicts each target of an image on its own.

    Args:
      tokens: [b, k, d], the tokens of the context.
      places: i32[b, k], which patches they are of.
      valid: bool[b, k], which of them are not padding.
      targets: i32[b, m, t], the patches of m targets.
      predicted: bool[t], which of them are not padding.
      grid: rows and columns of patches.
      trained: rows and columns of the training grid; positions of other grids
        are rescaled to it.
      train: unused.
      axis: the data axis that the batch is split over.

    Returns:
      f32[b, m, t, d]; of padding, any numbers.
    """
    del train
    b, m, t = targets.shape
    outputs = tokens.shape[-1]
    scaled = patches_lib.scaled(*grid, trained)
    positions = jnp.asarray(patches_lib.sincos(scaled, self.width, "column"))
    normal = nn.initializers.normal(0.02)
    dense = lambda width, name: transformer.dense(
      width, self.dtype, name, axis, normal
    )
    context = dense(self.width, "embed")(tokens.astype(self.dtype))
    token = self.param("mask_token", normal, (1, 1, self.width))
    shape = (b * m, t, self.width)
    asked = transformer.repeated(token, shape, self.dtype, axis)
    # One sequence for each target: the context, and what is asked for.
    each = lambda x: jnp.repeat(x, m, axis=0)
    asked = asked + positions[targets.reshape(b * m, t)]
    x = jnp.concatenate([each(context + positions[places]), asked], axis=1)
    shown = jnp.broadcast_to(predicted, (b * m, t))
    x = transformer.blocks(
      self,
      x,
      depth=self.depth,
      drop=None,
      axis=axis,
      valid=jnp.concatenate([each(valid), shown], axis=1),
      heads=self.heads,
      mlp_ratio=self.mlp_ratio,
      mlp="gelu",
      weight_init="normal",
    )
    x = dense(outputs, "pred")(x[:, -t:].astype(self.dtype))
    return x.astype(jnp.float32).reshape(b, m, t, outputs)
