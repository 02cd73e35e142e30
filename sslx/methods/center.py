"""Centring: a teacher's outputs, less their running mean, as probabilities."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from sslx.methods.run import Run


@dataclasses.dataclass(frozen=True)
class Center:
  """The running mean of a teacher's outputs, in a buffer.

  Attributes:
    momentum: share of the old mean that a step keeps.
    name: name of the buffer.

  References:
    Caron et al., DINO, ICCV 2021, eq. 4.
  """

  momentum: float
  name: str = "center"

  def draw(self, width: int) -> dict[str, jax.Array]:
    """Returns the buffer before the first step: zeros."""
    return {self.name: jnp.zeros(width)}

  def probabilities(
    self, logits: jax.Array, temperature: jax.Array | float, run: Run
  ) -> jax.Array:
    """Maps a teacher's outputs f32[..., K] to probabilities of that shape.

    The centre is that of past steps.
    """
    centred = logits - run.buffers[self.name]
    return jax.nn.softmax(centred / temperature)

  def update(
    self, logits: jax.Array, run: Run, valid: jax.Array | None = None
  ) -> jax.Array:
    """Moves the centre towards the mean of all outputs of the global batch.

    Args:
      logits: f32[..., K], of the examples of this device.
      run: its buffer is replaced.
      valid: bool[...], which outputs count; None for all.

    Returns:
      f32 scalar, the norm of the centre before, for the log.
    """
    old = run.buffers[self.name]
    rows = logits.reshape(-1, logits.shape[-1])
    if valid is None:
      mean = run.axis.pmean(jnp.mean(rows, axis=0))
    else:
      counted = valid.reshape(-1, 1).astype(rows.dtype)
      total = run.axis.psum(jnp.sum(rows * counted, axis=0))
      mean = total / jnp.maximum(run.axis.psum(jnp.sum(counted)), 1)
    new = self.momentum * old + (1 - self.momentum) * mean
    run.buffers = {**run.buffers, self.name: new}
    return jnp.linalg.norm(old)
