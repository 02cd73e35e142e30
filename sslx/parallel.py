"""The device mesh, the two parallel modes, and where every array lives.

The only file that knows about sharding. A training step is written once, over
an `Axis`, and runs in either of two modes:

* `pjit`: `jax.jit` over global arrays. The step sees the whole batch, every
  `Axis` operation is the identity, and XLA inserts the collectives. Parameters
  may be sharded by rules.
* `pmap`: `jax.jit(jax.shard_map(...))`, which is what `jax.pmap` itself is
  today. The step sees the examples of one device and `Axis` operations are
  explicit collectives. Parameters are replicated.

The state is one tree of global arrays in both, so a checkpoint of one mode
restores in the other, on any number of devices.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from sslx.config import ConfigError

DATA = "data"


@dataclasses.dataclass(frozen=True)
class Axis:
  """The data axis, as the code of a step sees it.

  Attributes:
    name: None for the global view, where arrays hold the whole batch `B` and
      every operation here is the identity; the mesh axis for the per-device
      view, where they hold the `b = B / size` examples of this device.
    sharding: of a global array over the data axis, for the global view.
  """

  name: str | None = None
  sharding: NamedSharding | None = None

  @property
  def size(self) -> int:
    """Devices that the batch is spread over; 1 in the global view."""
    return 1 if self.name is None else lax.axis_size(self.name)

  def index(self) -> jax.Array:
    """int32 scalar: which of them this is."""
    return jnp.int32(0) if self.name is None else lax.axis_index(self.name)

  def positions(self, b: int) -> jax.Array:
    """int32[b]: places of these examples in the global batch."""
    return self.index() * b + jnp.arange(b, dtype=jnp.int32)

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
    """Like `all_gather`, for what goes into the state: the same everywhere."""
    if self.name is None:
      return x
    return lax.all_gather(x, self.name, axis=0, tiled=True, to="invarying")

  def spread(self, x: jax.Array) -> jax.Array:
    """An array of the batch's examples, which stay where they are.

    In the global view XLA is told so: with sharded parameters it might move
    activations between devices rather than parameters.
    """
    if self.sharding is None:
      return x
    return lax.with_sharding_constraint(x, self.sharding)

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


@dataclasses.dataclass(frozen=True)
class Parallel:
  """How a run is spread over devices; config section `runtime.parallel`.

  Attributes:
    mode: see the module's docstring.
    rules: `replicated`, or `fsdp`: each parameter, its optimiser state and its
      EMA sharded over the data axis along their largest dimension that divides.
  """

  mode: Literal["pjit", "pmap"] = "pjit"
  rules: Literal["replicated", "fsdp"] = "replicated"

  def __post_init__(self):
    if self.mode == "pmap" and self.rules != "replicated":
      raise ValueError(
        f"rules={self.rules!r} need mode='pjit': in 'pmap' mode every device"
        " holds all parameters. Use mode='pjit', or rules='replicated'."
      )


# Sharding smaller arrays saves no memory worth its all-gathers.
FSDP_MIN_SIZE = 2**14


@dataclasses.dataclass(frozen=True)
class Partitioner:
  """A mesh, a mode and the rules; makes shardings and compiled steps."""

  mesh: Mesh
  settings: Parallel

  @classmethod
  def create(
    cls, settings: Parallel, devices: Sequence[jax.Device] | None = None
  ) -> Partitioner:
    """A partitioner over `devices`, or over all there are."""
    devices = jax.devices() if devices is None else list(devices)
    mesh = jax.make_mesh(
      (len(devices),), (DATA,), (AxisType.Auto,), devices=devices
    )
    return cls(mesh, settings)

  @property
  def num_devices(self) -> int:
    """Devices over which the batch is spread."""
    return self.mesh.shape[DATA]

  @property
  def replicated(self) -> NamedSharding:
    """An array that every device holds whole."""
    return NamedSharding(self.mesh, P())

  @property
  def batch(self) -> NamedSharding:
    """An array whose first dimension is the global batch."""
    return NamedSharding(self.mesh, P(DATA))

  def state_shardings(self, abstract_state: Any) -> Any:
    """The sharding of every array of a state.

    Args:
      abstract_state: tree of arrays or ShapeDtypeStructs.

    Returns:
      The same tree, of NamedShardings.
    """
    if self.settings.rules == "replicated":
      return jax.tree.map(lambda _: self.replicated, abstract_state)
    return jax.tree.map(lambda x: self._fsdp(x.shape), abstract_state)

  def _fsdp(self, shape: tuple[int, ...]) -> NamedSharding:
    n = self.num_devices
    divisible = [d for d, size in enumerate(shape) if size % n == 0]
    if math.prod(shape) < FSDP_MIN_SIZE or not divisible:
      return self.replicated
    largest = max(divisible, key=lambda d: shape[d])
    return NamedSharding(self.mesh, P(*[None] * largest, DATA))

  def compile(self, step: Callable, state_shardings: Any) -> Callable:
    """Makes `step(state, batch, axis)` a compiled `(state, batch)` function.

    The state is donated; batches are sharded over the data axis; the second
    result of `step` (metrics) must be the same on all devices.
    """
    if self.settings.mode == "pjit":
      axis = Axis(sharding=self.batch)
      function = lambda state, batch: step(state, batch, axis)
    else:
      function = jax.shard_map(
        lambda state, batch: step(state, batch, Axis(DATA)),
        mesh=self.mesh,
        in_specs=(P(), P(DATA)),
        out_specs=(P(), P()),
      )
    return jax.jit(
      function,
      in_shardings=(state_shardings, self.batch),
      out_shardings=(state_shardings, self.replicated),
      donate_argnums=0,
    )

  def local_rows(self, global_batch: int) -> slice:
    """Which rows of a global batch this process loads."""
    spans = [
      index[0].indices(global_batch)[:2]
      for index in self.batch.addressable_devices_indices_map(
        (global_batch,)
      ).values()
    ]
    first, last = min(a for a, _ in spans), max(b for _, b in spans)
    assert sum(b - a for a, b in spans) == last - first, spans
    return slice(first, last)

  def put(self, local_batch: Any) -> Any:
    """Global arrays of the rows that each process loaded, on the devices."""
    return jax.tree.map(
      lambda x: jax.make_array_from_process_local_data(self.batch, x),
      local_batch,
    )

  def check_batch(self, global_batch: int, groups: int) -> None:
    """Raises ConfigError if the batch cannot be spread, or grouped, evenly."""
    n = self.num_devices
    if global_batch % n:
      near = max(n, global_batch // n * n)
      raise ConfigError(
        f"config.data.batch_size is {global_batch}, which does not divide"
        f" evenly over {n} devices; use a multiple of {n}, such as {near}."
      )
    if global_batch % groups:
      raise ConfigError(
        f"config.model.norm_groups is {groups}, which does not divide"
        f" config.data.batch_size {global_batch}; BatchNorm needs groups of"
        " equal size."
      )
    if groups % n and n % groups:
      raise ConfigError(
        f"config.model.norm_groups is {groups}, which fits {n} devices"
        f" neither way: groups must be a multiple or a divisor of the number"
        " of devices, so that none is cut."
      )


def is_main_process() -> bool:
  """Whether this process writes logs."""
  return jax.process_index() == 0


def to_host(tree: Any) -> Any:
  """Replicated device arrays as numpy, in any number of processes.

  Other leaves are left as they are.
  """
  first = lambda x: x.addressable_data(0) if isinstance(x, jax.Array) else x
  return jax.device_get(jax.tree.map(first, tree))
