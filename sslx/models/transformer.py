"""Transformer blocks, of the ViT, of MAE's decoder and of I-JEPA's predictor.

Parameters have timm's names, with `/` between modules and `_` before a block
number: `blocks.0.attn.proj.weight` is `blocks_0/attn/proj/kernel`. In timm
`qkv` is one matrix with 3 d outputs. Here its kernel is
[d, 3, heads, d / heads], so that heads can be sharded; the numbers and their
order are the same.

SwiGLU has DINOv2's names. Its `w12/kernel` is [d, 2, hidden], the gate first;
timm calls it `fc1` with 2 hidden outputs, and `w3` `fc2`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from sslx.axis import Axis
from sslx.config import ConfigError, require
from sslx.models import linear

# Which dimension of a parameter of a block is sharded over a model axis, by
# pattern of its path. In attention and in the MLP, the first matrix is sharded
# by outputs and the second by inputs, so that each pair needs one sum over
# devices (Shoeybi et al., Megatron-LM, 2019, section 3).
TENSOR_RULES = (
  (r"/attn/qkv/kernel$", 2),  # [d, 3, heads, d / heads]
  (r"/attn/qkv/bias$", 1),
  (r"/attn/proj/kernel$", 0),  # [heads, d / heads, d]
  (r"/mlp/fc1/kernel$", 1),
  (r"/mlp/fc1/bias$", 0),
  (r"/mlp/fc2/kernel$", 0),
  (r"/mlp/w12/kernel$", 2),  # [d, 2, hidden]
  (r"/mlp/w12/bias$", 1),
  (r"/mlp/w3/kernel$", 0),
)


class Block(nn.Module):
  """Attention and MLP, each in a residual branch that starts with LayerNorm."""

  heads: int
  mlp_ratio: float
  mlp: str
  weight_init: str
  attention: str
  dtype: str
  axis: Axis
  layer_scale: float | None = None

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    drop: jax.Array | None,
    valid: jax.Array | None = None,
  ) -> jax.Array:
    """Maps tokens [b, t, d] to the same shape.

    `drop` f32[b, 2] has drop path's factors of the branches; see `Attention`.
    """
    branches = (
      Attention(
        self.heads,
        self.weight_init,
        self.attention,
        self.dtype,
        self.axis,
        name="attn",
      ),
      MLPS[self.mlp](
        round(x.shape[-1] * self.mlp_ratio),
        self.weight_init,
        self.dtype,
        self.axis,
        name="mlp",
      ),
    )
    for i, branch in enumerate(branches):
      seen = () if i else (valid,)
      y = branch(norm(x, self.dtype, f"norm{i + 1}"), *seen)
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
    """Maps [..., d] to the same shape."""
    start = nn.initializers.constant(self.start)
    return x * self.param("gamma", start, x.shape[-1:]).astype(x.dtype)


class Attention(nn.Module):
  """Multi-head self-attention, to all tokens or to `valid` bool[b, t] ones."""

  heads: int
  weight_init: str
  attention: str
  dtype: str
  axis: Axis

  @nn.compact
  def __call__(self, x: jax.Array, valid: jax.Array | None = None) -> jax.Array:
    """Maps [b, t, d] to the same shape; logits and softmax are float32.

    Raises:
      ConfigError: the fused kernel was requested without a GPU.
    """
    if self.attention == "cudnn" and jax.default_backend() != "gpu":
      raise ConfigError(
        "config.model: attention is 'cudnn', a kernel for NVIDIA GPUs, but this"
        f" runs on {jax.default_backend()}; use 'xla'."
      )
    width = x.shape[-1]
    matrices = 3 if self.weight_init == "xavier_qkv" else 1
    qkv = nn.DenseGeneral(
      (3, self.heads, width // self.heads),
      kernel_init=initial(self.weight_init, matrices),
      dtype=self.dtype,
      name="qkv",
      **linear.dense(self.axis),
    )(x).astype(self.dtype)
    q, k, v = (qkv[:, :, i] for i in range(3))
    mask = None if valid is None else valid[:, None, None, :]
    x = jax.nn.dot_product_attention(
      q, k, v, mask=mask, implementation=self.attention
    )
    return nn.DenseGeneral(
      width,
      axis=(-2, -1),
      kernel_init=initial(self.weight_init),
      dtype=self.dtype,
      name="proj",
      **linear.dense(self.axis),
    )(x).astype(self.dtype)


class MLP(nn.Module):
  """Two linear layers with an exact GELU between them."""

  hidden: int
  weight_init: str
  dtype: str
  axis: Axis

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [b, t, d] to the same shape."""
    init = initial(self.weight_init)
    y = dense(self.hidden, self.dtype, "fc1", self.axis, init)(x)
    y = gelu(y)
    return dense(x.shape[-1], self.dtype, "fc2", self.axis, init)(y)


class SwiGLU(nn.Module):
  """Two linear layers; SiLU of one half of the first gates the other half.

  It has `swiglu_units` hidden units, so that there are about as many parameters
  as in `MLP`. SiLU is computed in float32.

  References:
    Shazeer, GLU Variants Improve Transformer, 2020, eq. 6; the number of units
    is that of DINOv2's code.
  """

  hidden: int
  weight_init: str
  dtype: str
  axis: Axis

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [b, t, d] to the same shape."""
    units = swiglu_units(self.hidden)
    init = initial(self.weight_init)
    y = nn.DenseGeneral(
      (2, units),
      kernel_init=init,
      dtype=self.dtype,
      name="w12",
      **linear.dense(self.axis),
    )(x).astype(self.dtype)
    gate = jax.nn.silu(y[..., 0, :].astype(jnp.float32)).astype(self.dtype)
    y = gate * y[..., 1, :]
    return dense(x.shape[-1], self.dtype, "w3", self.axis, init)(y)


MLPS = {"gelu": MLP, "swiglu": SwiGLU}


def swiglu_units(hidden: int) -> int:
  """Returns two thirds of `hidden`, rounded up to a multiple of 8."""
  return -(-int(hidden * 2 / 3) // 8) * 8


@jax.custom_jvp
def gelu(x: jax.Array) -> jax.Array:
  """The exact GELU, x Phi(x); computed in float32, returned in x's dtype.

  The derivative, Phi(x) + x phi(x), is given explicitly, since `shard_map`
  rejects the derivative of `lax.erfc` in jax 0.12.
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
  axis: Axis,
  valid: jax.Array | None = None,
  last: int | None = None,
  last_norm: bool = True,
  **settings: Any,
) -> jax.Array:
  """Applies the blocks and the last LayerNorm of `module`: f32[b, t, d].

  With `last`, the LayerNorm is applied to the output of each of the last blocks
  and the results are concatenated: f32[b, t, last * d]. Without `last_norm`
  there is none.
  """
  kind = nn.remat(Block) if module.remat else Block
  x, outputs = axis.spread(x.astype(module.dtype)), []
  for i in range(depth):
    x = kind(
      **settings,
      attention=module.attention,
      dtype=module.dtype,
      axis=axis,
      name=f"blocks_{i}",
    )(x, None if drop is None else drop[:, i], valid)
    outputs.append(x)
  x = x if last is None else jnp.stack(outputs[-last:], axis=2)
  x = norm(x, "float32", "norm") if last_norm else x.astype(jnp.float32)
  return x if last is None else x.reshape(*x.shape[:2], -1)


def norm(x: jax.Array, dtype: str, name: str) -> jax.Array:
  """Applies LayerNorm, computed in float32; returns `dtype`."""
  return layer_norm(name=name)(x).astype(dtype)


def layer_norm(**settings: Any) -> nn.LayerNorm:
  """Returns the LayerNorm of all transformers here, computed in float32."""
  return nn.LayerNorm(
    epsilon=1e-6, use_fast_variance=False, dtype=jnp.float32, **settings
  )


def dense(
  features: int,
  dtype: str,
  name: str,
  axis: Axis,
  kernel_init: nn.initializers.Initializer,
  **settings: Any,
) -> Callable[[jax.Array], jax.Array]:
  """Returns a linear layer whose output has `dtype`."""
  layer = nn.Dense(
    features,
    kernel_init=kernel_init,
    dtype=dtype,
    name=name,
    **linear.dense(axis),
    **settings,
  )
  return lambda x: layer(x).astype(dtype)


def repeated(
  token: jax.Array, shape: tuple[int, ...], dtype: Any, axis: Axis
) -> jax.Array:
  """Repeats a parameter f32[1, 1, d] to a shape [b, t, d] of a dtype.

  Its gradient is a sum over all copies, in `dtype` or in float32; see `linear`.
  """
  if not axis.float32_gradients:
    token = token.astype(dtype)
  return jnp.broadcast_to(token, shape).astype(dtype)


def require_width(settings: Any, width: int, heads: int) -> None:
  """Checks that the width is a multiple of `heads` and of 4.

  Positions need the 4: a sine and a cosine for each of row and column.
  """
  accepted = f"such that the width, {width}, is a multiple of it"
  require(settings, "heads", width % heads == 0, accepted)
  if width % 4:
    raise ValueError(f"width is {width}; it must be a multiple of 4.")


def require_kernel(settings: Any) -> None:
  """Checks that the fused kernel is only used with bfloat16."""
  can = settings.attention == "xla" or settings.dtype == "bfloat16"
  require(settings, "attention", can, "'xla', unless dtype is 'bfloat16'")


def initial(weight_init: str, matrices: int = 1) -> nn.initializers.Initializer:
  """Returns the initialiser of a block's matrices; see `ViT.weight_init`."""
  if weight_init in ("normal", "normal_all"):
    # torch's `trunc_normal_` cuts at 2, which is 100 deviations away.
    return nn.initializers.normal(0.02)
  return xavier(matrices)


def xavier(matrices: int = 1) -> nn.initializers.Initializer:
  """Returns Xavier's uniform initialiser.

  Args:
    matrices: number of matrices that the kernel holds side by side; the bound
      is that of a single one.
  """

  def init(key, shape, dtype=jnp.float32):
    bound = math.sqrt(6 / (shape[0] + shape[1] / matrices))
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return init
