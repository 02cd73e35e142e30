"""A queue of embeddings of past batches."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from sslx.config import ConfigError
from sslx.methods.run import Run
from sslx.schedules import Plan


@dataclasses.dataclass(frozen=True)
class Queue:
  """A first-in, first-out queue in the buffers `queue` and `filled`.

  Attributes:
    size: K, rows of the queue; whole batches.
    start: the step from which it is filled.
  """

  size: int
  start: int

  @classmethod
  def of(cls, size: int, start: int, plan: Plan) -> Queue:
    """Returns a queue whose size is rounded down to whole batches."""
    return cls(size // plan.batch_size * plan.batch_size, start)

  def draw(self, groups: int, width: int) -> dict[str, jax.Array]:
    """Returns the empty buffers of `groups` queues; none without a queue."""
    if not self.size:
      return {}
    zeros = jnp.zeros((groups, self.size, width))
    return {"queue": zeros, "filled": jnp.int32(0)}

  def is_full(self, run: Run) -> jax.Array:
    """Whether the queue is full before this step, bool scalar."""
    return run.buffers["filled"] == self.size

  def push(self, rows: jax.Array, run: Run) -> None:
    """Puts the rows of the whole batch at the front, from `start` on.

    Args:
      rows: f32[b, groups, d], of the examples of this device.
      run: its buffers are replaced.
    """
    if not self.size:
      return
    old = run.buffers
    new = run.axis.replicate(rows).swapaxes(0, 1)  # [groups, B, d]
    kept = self.size - new.shape[1]
    queue = jnp.concatenate([new, old["queue"][:, :kept]], axis=1)
    filled = jnp.minimum(old["filled"] + new.shape[1], self.size)
    started = run.step >= self.start
    run.buffers = {
      **old,
      "queue": jnp.where(started, queue, old["queue"]),
      "filled": jnp.where(started, filled, old["filled"]),
    }

  def check_duration(self, plan: Plan) -> None:
    """Checks that the queue is full, and so used, before the run ends.

    Raises:
      ConfigError: it is not.
    """
    full = self.start + self.size // plan.batch_size
    if self.size and full >= plan.total_steps:
      raise ConfigError(
        f"config.model.queue_size, {self.size} in whole batches, is filled from"
        f" step {self.start} on (config.model.queue_start): it is full after"
        f" {full} steps, and the run has {plan.total_steps}, so it would never"
        " be used. Set a smaller queue, or 0 for none."
      )
