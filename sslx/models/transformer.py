"""Transformer blocks: what an encoder and a decoder of patches are made of.

Parameters are named as in timm, a `/` for each dot and a `_` before a number:
`blocks.0.attn.proj.weight` is `blocks_0/attn/proj/kernel`. There, `qkv` is one
matrix to 3 d outputs; here its kernel is [d, 3, heads, d / heads], the same
numbers in the same order, so that heads can be sharded.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from sslx import parallel
from sslx.config import ConfigError, require
from sslx.models import linear


class Block(nn.Module):
  """Attention and MLP, each on a residual branch with a LayerNorm before."""

  heads: int
  mlp_ratio: float
  style: str
  attention: str
  dtype: str
  axis: parallel.Axis
  layer_scale: float | None = None

  @nn.compact
  def __call__(self, x: jax.Array, drop: jax.Array | None) -> jax.Array:
    """Maps tokens [b, t, d]; `drop` f32[b, 2] are factors of the branches."""
    branches = (
      Attention(
        self.heads,
        self.style,
        self.attention,
        self.dtype,
        self.axis,
        name="attn",
      ),
      MLP(
        round(x.shape[-1] * self.mlp_ratio), self.dtype, self.axis, name="mlp"
      ),
    )
    for i, branch in enumerate(branches):
      y = branch(norm(x, self.dtype, f"norm{i + 1}"))
      if self.layer_scale is not None:
        y = LayerScale(self.layer_scale, name=f"ls{i + 1}")(y)
      if drop is not None:
        y = y * drop[:, i, None, None].astype(y.dtype)
      x = self.axis.spread(x + y)
    return x


class LayerScale(nn.Module):
  """A learned factor `gamma` for each channel (Touvron et al., CaiT, 2021)."""

  start: float

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [..., d] to the same."""
    start = nn.initializers.constant(self.start)
    return x * self.param("gamma", start, x.shape[-1:]).astype(x.dtype)


class Attention(nn.Module):
  """Self-attention of several heads, all tokens to all."""

  heads: int
  style: str
  attention: str
  dtype: str
  axis: parallel.Axis

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [b, t, d] to the same; logits and softmax are float32.

    Raises:
      ConfigError: there is no GPU for the fused kernel.
    """
    if self.attention == "cudnn" and jax.default_backend() != "gpu":
      raise ConfigError(
        "config.model: attention is 'cudnn', a kernel for NVIDIA GPUs, but this"
        f" runs on {jax.default_backend()}; use 'xla'."
      )
    width = x.shape[-1]
    # MAE draws q, k and v as the one matrix that they are, MoCo v3 as three.
    matrices = 1 if self.style == "mae" else 3
    qkv = nn.DenseGeneral(
      (3, self.heads, width // self.heads),
      kernel_init=xavier(matrices),
      dtype=self.dtype,
      name="qkv",
      **linear.dense(self.axis),
    )(x).astype(self.dtype)
    q, k, v = (qkv[:, :, i] for i in range(3))
    x = jax.nn.dot_product_attention(q, k, v, implementation=self.attention)
    return nn.DenseGeneral(
      width,
      axis=(-2, -1),
      kernel_init=xavier(),
      dtype=self.dtype,
      name="proj",
      **linear.dense(self.axis),
    )(x).astype(self.dtype)


class MLP(nn.Module):
  """Two linear layers with an exact GELU between them."""

  hidden: int
  dtype: str
  axis: parallel.Axis

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [b, t, d] to the same."""
    y = dense(self.hidden, self.dtype, "fc1", self.axis)(x)
    y = gelu(y)
    return dense(x.shape[-1], self.dtype, "fc2", self.axis)(y)


@jax.custom_jvp
def gelu(x: jax.Array) -> jax.Array:
  """The exact GELU, x Phi(x); computed in float32, returned in x's dtype.

  Its derivative, Phi(x) + x phi(x), is written out since `shard_map` refuses
  that of `lax.erfc` in jax 0.12.
  """
  y = x.astype(jnp.float32)
  return (y * _normal_cdf(y)).astype(x.dtype)


@gelu.defjvp
def _gelu_jvp(primals, tangents):
  (x,), (dx,) = primals, tangents
  y = x.astype(jnp.float32)
  pdf = jnp.exp(-0.5 * y * y) / math.sqrt(2 * math.pi)
  return gelu(x), (_normal_cdf(y) + y * pdf).astype(x.dtype) * dx


def _normal_cdf(x):
  return 0.5 * jax.lax.erfc(-x * math.sqrt(0.5))


def blocks(
  module: Any,
  x: jax.Array,
  *,
  depth: int,
  drop: jax.Array | None,
  axis: parallel.Axis,
  **settings: Any,
) -> jax.Array:
  """The blocks and the last LayerNorm of a module, f32[b, t, d]."""
  kind = nn.remat(Block) if module.remat else Block
  x = axis.spread(x.astype(module.dtype))
  for i in range(depth):
    x = kind(
      **settings,
      attention=module.attention,
      dtype=module.dtype,
      axis=axis,
      name=f"blocks_{i}",
    )(x, None if drop is None else drop[:, i])
  return norm(x, "float32", "norm")


def norm(x: jax.Array, dtype: str, name: str) -> jax.Array:
  """LayerNorm, computed in float32."""
  layer = nn.LayerNorm(
    epsilon=1e-6, use_fast_variance=False, dtype=jnp.float32, name=name
  )
  return layer(x).astype(dtype)


def dense(
  features: int, dtype: str, name: str, axis: parallel.Axis, **settings: Any
) -> Callable[[jax.Array], jax.Array]:
  """A linear layer, drawn by Xavier's rule, that puts out `dtype`."""
  layer = nn.Dense(
    features,
    kernel_init=xavier(),
    dtype=dtype,
    name=name,
    **linear.dense(axis),
    **settings,
  )
  return lambda x: layer(x).astype(dtype)


def require_width(settings: Any, width: int, heads: int) -> None:
  """Heads must divide it, and so must the 4 waves of a position."""
  accepted = f"such that the width, {width}, is a multiple of it"
  require(settings, "heads", width % heads == 0, accepted)
  if width % 4:
    raise ValueError(f"width is {width}; it must be a multiple of 4.")


def require_kernel(settings: Any) -> None:
  """The fused kernel is of bfloat16 alone."""
  can = settings.attention == "xla" or settings.dtype == "bfloat16"
  require(settings, "attention", can, "'xla', unless dtype is 'bfloat16'")


def xavier(matrices: int = 1) -> nn.initializers.Initializer:
  """Xavier's uniform, of one that is several matrices side by side."""

  def init(key, shape, dtype=jnp.float32):
    bound = math.sqrt(6 / (shape[0] + shape[1] / matrices))
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return init
