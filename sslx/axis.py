"""The data axis, as the code of a step sees it in either mode of `parallel`.

The batch is spread over it. Whoever needs an `Axis` takes it from `parallel`.
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
      every operation here is the identity; the mesh axis for the per-device
      view, where they hold the `b = B / size` examples of this device.
    sharding: of a global array over the data axis, for the global view.
    part: (i, n) if the arrays hold the i-th of n micro-batches only.
    float32_gradients: whether gradients are summed over devices in float32,
      where the compute is bfloat16 too; see `models.linear`.
  """

  name: str | None = None
  sharding: NamedSharding | None = None
  part: tuple[Any, int] = dataclasses.field(default=(0, 1), compare=False)
  float32_gradients: bool = False

  @property
  def size(self) -> int:
    """Devices that the batch is spread over; 1 in the global view."""
    return 1 if self.name is None else lax.axis_size(self.name)

  def index(self) -> jax.Array:
    """int32 scalar: which of them this is."""
    return jnp.int32(0) if self.name is None else lax.axis_index(self.name)

  @property
  def _shards(self) -> int:
    """Devices that the rows of an array are of, as this view sees it."""
    return self.sharding.mesh.shape[DATA] if self.sharding is not None else 1

  def positions(self, b: int) -> jax.Array:
    """int32[b]: places of these examples in the global batch."""
    i, parts = self.part
    rows = jnp.arange(b, dtype=jnp.int32)
    if parts > 1:  # Each device's i-th run of so many rows.
      run = b // self._shards
      rows = rows // run * (parts * run) + i * run + rows % run
    return self.index() * (b * parts) + rows

  def micro_batch(self, x: jax.Array, i: jax.Array, parts: int) -> jax.Array:
    """The i-th part of each device's rows of x[b, ...]: [b / parts, ...]."""
    runs = x.reshape(self._shards, parts, -1, *x.shape[1:])
    one = lax.dynamic_index_in_dim(runs, i, axis=1, keepdims=False)
    return self.spread(one.reshape(-1, *x.shape[1:]))

  def whole_batch(self, x: jax.Array) -> jax.Array:
    """The rows of all micro-batches x[parts, b / parts, ...]: [b, ...]."""
    parts, _, *rest = x.shape
    runs = x.reshape(parts, self._shards, -1, *rest).swapaxes(0, 1)
    return self.spread(runs.reshape(-1, *rest))

  def psum(self, x: Any) -> Any:
    """Sum over devices, of every array in `x`."""
    return x if self.name is None else lax.psum(x, self.name)

  def pmean(self, x: Any) -> Any:
    """Mean over devices, of every array in `x`."""
    return x if self.name is None else lax.pmean(x, self.name)

  def pmax(self, x: Any) -> Any:
    """Maximum over devices, of every array in `x`."""
    return x if self.name is None else lax.pmax(x, self.name)

  def all_gather(self, x: jax.Array) -> jax.Array:
    """[b, ...] of each device to [B, ...], in the order of the global batch.

    Differentiable: the gradient is that of the global function.
    """
    if self.name is None:
      return x
    return lax.all_gather(x, self.name, axis=0, tiled=True)

  def replicate(self, x: jax.Array) -> jax.Array:
    """Like `all_gather`, for what goes into the state: the same everywhere.

    Its size is what moves between devices, in the global view as well.
    """
    if self.name is None:
      if self.sharding is None:
        return x
      whole = NamedSharding(self.sharding.mesh, P())
      return lax.with_sharding_constraint(x, whole)
    return lax.all_gather(x, self.name, axis=0, tiled=True, to="invarying")

  def spread(self, x: jax.Array) -> jax.Array:
    """An array of the batch's examples, which stay where they are.

    In the global view XLA is told so: with sharded parameters it might move
    activations between devices rather than parameters.
    """
    if self.sharding is None:
      return x
    return lax.with_sharding_constraint(x, self.sharding)

  def by_example(
    self, function: Callable[..., jax.Array], *arrays: jax.Array
  ) -> jax.Array:
    """`function` of arrays of examples, each of which it treats on its own.

    In the global view every device is given its rows. XLA cannot know that a
    loop over the batch may be cut into one for each device.
    """
    if self._shards == 1:
      return function(*arrays)
    mesh, spec = self.sharding.mesh, self.sharding.spec
    return jax.shard_map(function, mesh=mesh, in_specs=spec, out_specs=spec)(
      *arrays
    )

  def share(self, x: jax.Array) -> jax.Array:
    """This device's rows of an array that all devices hold whole.

    The number of rows must be a multiple of the devices. In the global view all
    rows, with the work on them spread over the devices.
    """
    if self.name is None:
      if self.sharding is None:
        return x
      return lax.with_sharding_constraint(x, self.sharding)
    rows = len(x) // self.size
    return lax.dynamic_slice_in_dim(x, self.index() * rows, rows)
