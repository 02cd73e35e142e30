"""The two parallel modes, and the sharding of every array.

A training step is written once, over an `Axis`, and runs in either mode:

* `pjit`: `jax.jit` over global arrays. The step sees the whole batch, every
  `Axis` operation is the identity, and XLA inserts the collectives. Parameters
  may be sharded by rules, over the data axis and over a model axis.
* `pmap`: `jax.jit(jax.shard_map(...))`; today `jax.pmap` itself does the same.
  The step sees the examples of one device, and `Axis` operations are explicit
  collectives. Parameters are replicated.

In both modes the state is one tree of global arrays. So a checkpoint of one
mode can be restored in the other, on any number of devices.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from sslx import mesh as mesh_lib
from sslx.axis import DATA, Axis
from sslx.config import ConfigError
from sslx.mesh import MODEL
from sslx.state import TrainState


@dataclasses.dataclass(frozen=True)
class Parallel:
  """How a run is sharded over devices; config section `runtime.parallel`.

  Attributes:
    mode: see the module's docstring.
    rules: `replicated`; or `fsdp`, which shards each parameter, its optimiser
      state and its EMA over the data axis, along the largest dimension that the
      number of devices divides.
    mesh: axes and their sizes, such as (("data", 4), ("model", 2)); if empty,
      all devices are on the data axis. The batch is sharded over the data axis,
      the heads and hidden units of a Transformer over the model axis.
    grad_sum: dtype in which gradients are summed over devices: `compute` is
      `model.dtype`; `float32` moves twice the bytes of bfloat16.
  """

  mode: Literal["pjit", "pmap"] = "pjit"
  rules: Literal["replicated", "fsdp"] = "replicated"
  mesh: tuple[tuple[str, int], ...] = ()
  grad_sum: Literal["compute", "float32"] = "compute"

  def __post_init__(self):
    names = [name for name, _ in self.mesh]
    known = set(names) <= {DATA, MODEL} and len(set(names)) == len(names)
    if self.mesh and not (known and DATA in names):
      raise ValueError(
        f"mesh has the axes {', '.join(map(repr, names))}; it must have"
        f" {DATA!r}, and may have {MODEL!r}, each once."
      )
    if any(size < 1 for _, size in self.mesh):
      raise ValueError(f"mesh is {self.mesh}; sizes must be at least 1.")
    if self.mode == "pmap" and self.rules != "replicated":
      raise ValueError(
        f"rules={self.rules!r} need mode='pjit': in 'pmap' mode every device"
        " holds all parameters. Use mode='pjit', or rules='replicated'."
      )
    if self.mode == "pmap" and dict(self.mesh).get(MODEL, 1) > 1:
      raise ValueError(
        f"mesh={self.mesh} needs mode='pjit': in 'pmap' mode every device holds"
        f" all parameters. Use mode='pjit', or leave {MODEL!r} out."
      )


# For smaller arrays, the memory saved by sharding is not worth the all-gathers.
FSDP_MIN_SIZE = 2**14

# Which dimension of a parameter is sharded over the model axis, by pattern of
# its path. In attention and in the MLP, the first matrix is sharded by outputs
# and the second by inputs, so that each pair needs one sum over devices
# (Shoeybi et al., Megatron-LM, 2019, section 3).
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


@dataclasses.dataclass(frozen=True)
class Partitioner:
  """A mesh, a mode and the rules; makes shardings and compiled steps."""

  mesh: Mesh
  settings: Parallel

  @classmethod
  def create(
    cls, settings: Parallel, devices: Sequence[jax.Device] | None = None
  ) -> Partitioner:
    """Makes a partitioner over `devices`; over all devices by default.

    Raises:
      ConfigError: the mesh does not fit the devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    return cls(mesh_lib.make(settings.mesh, devices), settings)

  @property
  def num_devices(self) -> int:
    """Number of devices on the data axis."""
    return self.mesh.shape[DATA]

  @property
  def replicated(self) -> NamedSharding:
    """Sharding of an array that every device holds whole."""
    return NamedSharding(self.mesh, P())

  @property
  def batch(self) -> NamedSharding:
    """Sharding of an array whose first dimension is the global batch."""
    return NamedSharding(self.mesh, P(DATA))

  def state_shardings(self, state: TrainState) -> TrainState:
    """Returns the sharding of every array of a state.

    The rules apply to parameters, and to the optimiser state and EMA of each
    parameter, whose paths end in the path of the parameter. All other arrays
    are replicated.

    Args:
      state: arrays or ShapeDtypeStructs.

    Returns:
      A tree of NamedShardings with the structure of `state`.

    Raises:
      ConfigError: the model axis does not divide the heads or hidden units, or
        the model has no parameters to shard over it.
    """
    named = lambda tree: {
      jax.tree_util.keystr(path, simple=True, separator="/"): x.shape
      for path, x in jax.tree_util.tree_flatten_with_path(tree)[0]
    }
    params = named(state.params)
    specs = {name: self._spec(name, shape) for name, shape in params.items()}
    if self.mesh.shape.get(MODEL, 1) > 1 and not any(
      MODEL in spec for spec in specs.values()
    ):
      raise ConfigError(
        f"config.runtime.parallel.mesh is {self.settings.mesh}, but this model"
        f" has no Transformer block to spread over {MODEL!r}; leave it out."
      )

    def sharding(path: str, shape: tuple[int, ...]) -> NamedSharding:
      parts = path.split("/")
      ends = ("/".join(parts[i:]) for i in range(len(parts)))
      own = next((end for end in ends if params.get(end) == shape), None)
      return NamedSharding(self.mesh, specs.get(own, P()))

    leaves = [sharding(*item) for item in named(state).items()]
    return jax.tree.structure(state).unflatten(leaves)

  def _spec(self, path: str, shape: tuple[int, ...]) -> P:
    """Returns the PartitionSpec of a parameter."""
    axes = [None] * len(shape)
    model = self.mesh.shape.get(MODEL, 1)
    for pattern, d in TENSOR_RULES if model > 1 else ():
      if re.search(pattern, path):
        if shape[d] % model:
          raise ConfigError(
            f"config.runtime.parallel.mesh has {model} devices on {MODEL!r},"
            f" which do not divide the {shape[d]} heads or hidden units of"
            f" {path}; use a divisor."
          )
        axes[d] = MODEL
    n = self.num_devices
    free = [d for d, x in enumerate(shape) if axes[d] is None and x % n == 0]
    large = math.prod(shape) >= FSDP_MIN_SIZE
    if self.settings.rules == "fsdp" and large and free:
      axes[max(free, key=lambda d: shape[d])] = DATA
    while axes and axes[-1] is None:
      axes.pop()
    return P(*axes)

  def compile(self, step: Callable, state_shardings: Any) -> Callable:
    """Compiles `step(state, batch, axis)` to a function of `(state, batch)`.

    The state is donated. Batches are sharded over the data axis. The second
    result of `step`, its metrics, must be the same on all devices.
    """
    wide = self.settings.grad_sum == "float32"
    if self.settings.mode == "pjit":
      axis = Axis(sharding=self.batch, float32_gradients=wide)
      function = lambda state, batch: step(state, batch, axis)
    else:
      function = jax.shard_map(
        lambda state, batch: step(
          state, batch, Axis(DATA, float32_gradients=wide)
        ),
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

  @functools.cached_property
  def _local_shards(self) -> np.ndarray:
    """The places on the data axis where this process has a device, int[n]."""
    mine = mesh_lib.processes(self.mesh) == jax.process_index()
    return np.flatnonzero(mine.any(axis=1))

  def local_rows(self, global_batch: int) -> np.ndarray:
    """Returns the rows of a global batch that this process loads.

    The rows need not be consecutive: on a v5e:4x4 with 256 rows, process 0
    loads rows 0-31, 96-111 and 240-255. JAX lays the data axis along the torus
    of the slice, and each host has a square of that torus. Ordering the devices
    by process would make the rows consecutive, but then rings and a model axis
    might not be on neighbouring chips. It would gain nothing: the images of a
    batch are drawn at random, so every row costs the same to load. The result
    is the same too: a row is the same example on any process.

    If a model axis spans processes, they load the same rows, each for its own
    devices.

    Args:
      global_batch: a multiple of the number of devices on the data axis.

    Returns:
      int64[rows], ascending.
    """
    rows = np.arange(global_batch).reshape(self.num_devices, -1)
    return rows[self._local_shards].reshape(-1)

  def put(self, local_batch: Any) -> Any:
    """Puts a batch on the devices, as global arrays.

    Args:
      local_batch: arrays of the rows that `local_rows` returns, in its order.
    """
    shards = self._local_shards

    def spread(x: np.ndarray) -> jax.Array:
      size = len(x) // len(shards)  # rows of a device

      def rows(index: tuple[slice, ...]) -> np.ndarray:
        first = np.searchsorted(shards, (index[0].start or 0) // size) * size
        return x[first : first + size]

      shape = (size * self.num_devices, *x.shape[1:])
      return jax.make_array_from_callback(shape, self.batch, rows)

    return jax.tree.map(spread, local_batch)

  def of_each_process(self, numbers: Sequence[float]) -> Any:
    """Gathers numbers from every process.

    All processes must call it, at the same step. It costs one all-gather of a
    few bytes per device. The host does not wait: the devices gather when they
    have finished the steps before.

    Args:
      numbers: k numbers of this process.

    Returns:
      f32[processes, k], replicated.
    """
    row = np.asarray(numbers, np.float32)[None]
    if jax.process_count() == 1:
      return row
    spread = NamedSharding(self.mesh, P(self.mesh.axis_names))
    shape = (self.mesh.size, len(numbers))
    rows = jax.make_array_from_callback(shape, spread, lambda _: row)
    return self._first_rows(rows)

  @functools.cached_property
  def _first_rows(self) -> Callable[[jax.Array], jax.Array]:
    """Takes one row per process from an array with one row per device."""
    owners = [device.process_index for device in self.mesh.devices.flat]
    _, first = np.unique(owners, return_index=True)
    return jax.jit(lambda rows: rows[first], out_shardings=self.replicated)

  def check_batch(self, global_batch: int, groups: int) -> None:
    """Raises ConfigError if the batch cannot be split evenly.

    The numbers of devices and of BatchNorm groups must divide the batch, and
    one of them must divide the other.
    """
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
  """Returns whether this process writes the logs."""
  return jax.process_index() == 0


def barrier(name: str) -> None:
  """Waits until all processes have reached this point."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


def to_host(tree: Any) -> Any:
  """Copies replicated device arrays to numpy, in any number of processes.

  Other leaves are returned unchanged.
  """
  first = lambda x: x.addressable_data(0) if isinstance(x, jax.Array) else x
  return jax.device_get(jax.tree.map(first, tree))
