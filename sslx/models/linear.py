"""Settings of Flax's linear layers: float32 gradients, and 1x1 convolutions.

A layer that computes in bfloat16 casts its float32 weights. In the backward
pass, their gradient is bfloat16 until it reaches that cast, and it is summed
over devices in bfloat16: each device's part is rounded before the sum, and the
sum is rounded at every step. With `Axis.float32_gradients` the matrix product
of the gradient outputs float32. A matrix unit does so at no extra cost, but
twice as many bytes move between devices. The forward pass is the same except
for the bias, which is added in float32, so the caller must cast the result.

On CPU, a 1x1 convolution is written as a matrix product, which is two to three
times as fast, and its weight gradient five times. XLA writes it so by itself on
a TPU, where the product would only change the layouts of arrays.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from sslx.axis import Axis


def dense(axis: Axis) -> dict[str, Any]:
  """Returns settings for `nn.Dense` and `nn.DenseGeneral`."""
  if not axis.float32_gradients:
    return {}
  return {
    "promote_dtype": _cast_inputs,
    "dot_general": functools.partial(_dot_general, axis),
  }


def conv(axis: Axis) -> dict[str, Any]:
  """Returns settings for `nn.Conv`."""
  if not axis.float32_gradients:
    return {"conv_general_dilated": convolution}
  return {
    "promote_dtype": _cast_inputs,
    "conv_general_dilated": _conv_general_dilated,
  }


def _cast_inputs(
  inputs: jax.Array,
  kernel: jax.Array,
  bias: jax.Array | None,
  *,
  dtype: Any,
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
  """Casts the inputs only; Flax's own function casts all three."""
  return inputs.astype(dtype), kernel, bias


def _dot_general(
  axis: Axis,
  x: jax.Array,
  kernel: jax.Array,
  dimension_numbers: Any,
  precision: Any = None,
) -> jax.Array:
  """`lax.dot_general` of a layer, with a float32 gradient of the kernel.

  There are no batch dimensions; the kernel's first dimensions are contracted.
  """
  ((summed, _), _) = dimension_numbers
  kept = tuple(d for d in range(x.ndim) if d not in summed)

  def gradient(x: jax.Array, w: jax.Array, g: jax.Array) -> jax.Array:
    del w  # The product is linear in w.
    over = ((kept, tuple(range(len(kept)))), ((), ()))
    part = lax.dot_general(
      x, g, over, precision, preferred_element_type=jnp.float32
    )
    return axis.psum(part)

  product = lambda x, w: lax.dot_general(x, w, dimension_numbers, precision)
  return _product(product, gradient)(x, kernel)


def convolution(
  x: jax.Array,
  kernel: jax.Array,
  strides: tuple[int, int],
  padding: Any,
  **settings: Any,
) -> jax.Array:
  """`lax.conv_general_dilated` of x[b, h, w, c] and a kernel [h', w', c, d].

  A 1x1 kernel must have no padding, no dilation and one group.
  """
  conv = lambda x, kernel: lax.conv_general_dilated(
    x, kernel, strides, padding, **settings
  )
  if kernel.shape[:2] != (1, 1):
    return conv(x, kernel)

  def product(x, kernel):
    x = x[:, :: strides[0], :: strides[1]]
    y = jnp.dot(
      x.reshape(-1, x.shape[-1]),
      kernel[0, 0],
      precision=settings.get("precision"),
    )
    return y.reshape(*x.shape[:-1], -1)

  return lax.platform_dependent(x, kernel, cpu=product, default=conv)


def _conv_general_dilated(
  x: jax.Array, kernel: jax.Array, *arguments: Any, **settings: Any
) -> jax.Array:
  """`convolution`, with a float32 gradient of the kernel."""
  product = lambda x, w: convolution(x, w, *arguments, **settings)

  def gradient(x: jax.Array, w: jax.Array, g: jax.Array) -> jax.Array:
    # JAX has no bfloat16 convolution with a float32 gradient. The operands hold
    # bfloat16 values, and a TPU multiplies them as bfloat16.
    wide = lambda w: product(x.astype(jnp.float32), w)
    (found,) = jax.vjp(wide, w)[1](g.astype(jnp.float32))
    return found

  return _product(product, gradient)(x, kernel)


def _product(
  product: Callable[[jax.Array, jax.Array], jax.Array],
  gradient: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
) -> Callable[[jax.Array, jax.Array], jax.Array]:
  """Returns a product of inputs and float32 weights with a custom gradient.

  Args:
    product: function of inputs and weights of the same dtype; linear in both.
    gradient: the float32 gradient of the weights, as a function of inputs,
      weights and the gradient of the product.
  """

  @jax.custom_vjp
  def apply(x, w):
    return product(x, w.astype(x.dtype))

  def forward(x, w):
    return apply(x, w), (x, w)

  def backward(saved, g):
    x, w = saved
    (to_x,) = jax.vjp(lambda x: product(x, w.astype(x.dtype)), x)[1](g)
    return to_x, gradient(x, w, g)

  apply.defvjp(forward, backward)
  return apply
