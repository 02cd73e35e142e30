"""Attention of a trained ViT: what the class token looks at."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from sslx.data import operations
from sslx.features.extract import without_remat
from sslx.weights.run import Run


def attention(run: Run, pixels: jax.Array) -> jax.Array:
  """Computes the attention of the last block to the patches of images.

  The query is the class token. Without a class token it is the mean over the
  queries of all patches. The weights of the class token and the registers are
  left out, so a map may sum to less than 1.

  Args:
    run: a run whose backbone is a ViT.
    pixels: uint8[b, h, w, c].

  Returns:
    f32[b, heads, rows, columns], by the patches of the image.

  References:
    Caron et al., DINO, ICCV 2021, figure 1.
  """
  vit = without_remat(run.backbone).clone(attention="xla")
  images = operations.normalize(pixels, run.data.mean, run.data.std)
  last = f"blocks_{vit.sizes[1] - 1}"
  _, captured = vit.apply(
    run.variables,
    images,
    train=False,
    capture_intermediates=lambda module, _: (
      module.path == (last, "attn", "qkv")
    ),
    mutable=["intermediates"],
  )
  (qkv,) = captured["intermediates"][last]["attn"]["qkv"]["__call__"]
  weights = attention_weights(qkv.astype(vit.dtype))
  if vit.class_token:
    weights = weights[:, :, 0]
  else:
    weights = jnp.mean(weights[:, :, vit.before :], axis=2)
  return weights[..., vit.before :].reshape(
    *weights.shape[:2], *vit.grid(images)
  )


def attention_weights(qkv: jax.Array) -> jax.Array:
  """Computes the weights by which `transformer.Attention` averages the values.

  Args:
    qkv: [b, t, 3, heads, d], the output of the layer "qkv".

  Returns:
    f32[b, heads, t, t]: for each query the weights of all tokens, which sum to
    1 (Vaswani et al., Attention Is All You Need, 2017, eq. 1).
  """
  q, k = (qkv[:, :, i].astype(jnp.float32) for i in range(2))
  logits = jnp.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(q.shape[-1])
  return jax.nn.softmax(logits, axis=-1)
