"""Losses of the methods: pure functions over a data axis, without parameters.

All logits and reductions are float32. A loss is the mean over the examples it
was given, so that `axis.pmean` of it is the loss of the global batch in either
view.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from sslx.parallel import Axis


def l2_normalize(x: jax.Array, eps: float = 1e-12) -> jax.Array:
  """Rows of unit length, float32; a row shorter than `eps` is divided by it."""
  x = x.astype(jnp.float32)
  # max() inside the root: the gradient at a zero row is zero, not NaN.
  square = jnp.sum(x * x, axis=-1, keepdims=True)
  return x * jax.lax.rsqrt(jnp.maximum(square, eps * eps))


def nt_xent(
  z: jax.Array, temperature: float, axis: Axis
) -> tuple[jax.Array, jax.Array]:
  """NT-Xent: each view finds the other view of its image among the batch.

  Negatives are all 2B - 2 other views of the global batch. The gradient is
  that of the global mean: it is not divided by the number of devices, as it is
  in implementations that gather without differentiating (pitfall 2).

  Args:
    z: [b, 2, d] embeddings, two views of each image; normalised here.
    temperature: divides the cosine similarities.
    axis: the batch axis.

  Returns:
    f32 scalar loss, the mean over the 2b views given; f32 scalar accuracy, how
    often the positive has the highest similarity.

  References:
    Chen et al., A Simple Framework for Contrastive Learning of Visual
    Representations, 2020, eq. 1.
  """
  b = z.shape[0]
  anchors = l2_normalize(z)
  candidates = axis.all_gather(anchors).reshape(-1, z.shape[-1])  # [2B, d]
  positives = jnp.sum(anchors[:, 0] * anchors[:, 1], axis=-1) / temperature
  positives = jnp.repeat(positives, 2)  # [2b]
  logits = (
    jnp.matmul(
      anchors.reshape(2 * b, -1),
      candidates.T,
      precision=jax.lax.Precision.HIGHEST,
    )
    / temperature
  )  # [2b, 2B]
  # Views of image i are rows 2i and 2i + 1 in the order of the global batch.
  rows = (2 * axis.positions(b)[:, None] + jnp.arange(2)).reshape(-1)
  itself = rows[:, None] == jnp.arange(candidates.shape[0])
  logits = jnp.where(itself, -jnp.inf, logits)
  loss = jnp.mean(jax.nn.logsumexp(logits, axis=-1) - positives)
  correct = jnp.argmax(logits, axis=-1) == rows ^ 1  # The other of the pair.
  return loss, jnp.mean(correct.astype(jnp.float32))
