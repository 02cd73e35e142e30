"""The data axis, over which the batch is sharded, in both modes of `parallel`.

Import `Axis` from `sslx.axis`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

DATA = "data"


@dataclasses.dataclass(frozen=True)
class Axis:
  """The data axis, as the code of a step sees it.

  Attributes:
    name: None for the global view, where arrays hold the whole batch `B` and
      every operation here is the identity. In the per-device view, the name of
      the mesh axis; arrays hold the `b = B / size` examples of this device.
    sharding: sharding of a global array over the data axis, for the global
      view.
    part: (i, n) if the arrays hold only the i-th of n micro-batches.
    float32_gradients: whether gradients are summed over devices in float32,
      even if the compute dtype is bfloat16; see `models.linear`.
  """

  name: str | None = None
  sharding: NamedSharding | None = None
  part: tuple[Any, int] = dataclasses.field(default=(0, 1), compare=False)
  float32_gradients: bool = False

  @property
  def size(self) -> int:
    """Number of devices on the axis; 1 in the global view."""
    return 1 if self.name is None else lax.axis_size(self.name)

  def index(self) -> jax.Array:
    """Returns this device's place on the axis, int32 scalar."""
    return jnp.int32(0) if self.name is None else lax.axis_index(self.name)

  @property
  def shards(self) -> int:
    """Number of devices that hold the rows of an array of this view."""
    return self.sharding.mesh.shape[DATA] if self.sharding is not None else 1

  def positions(self, b: int) -> jax.Array:
    """Returns the places of these examples in the global batch, int32[b]."""
    i, parts = self.part
    rows = jnp.arange(b, dtype=jnp.int32)
    if parts > 1:  # Each device holds the i-th part of its rows.
      run = b // self.shards
      rows = rows // run * (parts * run) + i * run + rows % run
    return self.index() * (b * parts) + rows

  def micro_batch(self, x: jax.Array, i: jax.Array, parts: int) -> jax.Array:
    """Takes the i-th part of each device's rows of x[b, ...].

    Returns:
      [b / parts, ...].
    """
    runs = x.reshape(self.shards, parts, -1, *x.shape[1:])
    one = lax.dynamic_index_in_dim(runs, i, axis=1, keepdims=False)
    return self.spread(one.reshape(-1, *x.shape[1:]))

  def whole_batch(self, x: jax.Array) -> jax.Array:
    """Joins the rows of micro-batches x[parts, b / parts, ...] to [b, ...].

    It is the inverse of `micro_batch`.
    """
    parts, _, *rest = x.shape
    runs = x.reshape(parts, self.shards, -1, *rest).swapaxes(0, 1)
    return self.spread(runs.reshape(-1, *rest))

  def psum(self, x: Any) -> Any:
    """Sums every array in `x` over devices."""
    return x if self.name is None else lax.psum(x, self.name)

  def pmean(self, x: Any) -> Any:
    """Averages every array in `x` over devices."""
    return x if self.name is None else lax.pmean(x, self.name)

  def pmax(self, x: Any) -> Any:
    """Takes the maximum over devices of every array in `x`."""
    return x if self.name is None else lax.pmax(x, self.name)

  def all_gather(self, x: jax.Array) -> jax.Array:
    """Gathers [b, ...] of each device to [B, ...], in global batch order.

    Differentiable: the gradient is that of the global function.
    """
    if self.name is None:
      return x
    return lax.all_gather(x, self.name, axis=0, tiled=True)

  def replicate(self, x: jax.Array) -> jax.Array:
    """Like `all_gather`, but the result is replicated; use it for the state.

    The whole array moves between devices, in the global view as well.
    """
    if self.name is None:
      if self.sharding is None:
        return x
      whole = NamedSharding(self.sharding.mesh, P())
      return lax.with_sharding_constraint(x, whole)
    return lax.all_gather(x, self.name, axis=0, tiled=True, to="invarying")

  def spread(self, x: jax.Array) -> jax.Array:
    """Keeps an array of examples sharded over the data axis.

    In the global view this is a sharding constraint. Without it, XLA might move
    activations between devices instead of sharded parameters.
    """
    if self.sharding is None:
      return x
    return lax.with_sharding_constraint(x, self.sharding)

  def by_example(
    self, function: Callable[..., jax.Array], *arrays: jax.Array
  ) -> jax.Array:
    """Applies a function that treats each example independently.

    In the global view each device applies it to its own rows. XLA cannot know
    that a loop over the batch can be split over the devices.
    """
    if self.shards == 1:
      return function(*arrays)
    mesh, spec = self.sharding.mesh, self.sharding.spec
    return jax.shard_map(function, mesh=mesh, in_specs=spec, out_specs=spec)(
      *arrays
    )

  def share(self, x: jax.Array) -> jax.Array:
    """Returns this device's rows of a replicated array.

    The number of rows must be a multiple of the number of devices. In the
    global view it returns all rows, sharded over the devices.
    """
    if self.name is None:
      if self.sharding is None:
        return x
      return lax.with_sharding_constraint(x, self.sharding)
    rows = len(x) // self.size
    return lax.dynamic_slice_in_dim(x, self.index() * rows, rows)
