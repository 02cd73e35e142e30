"""Checksums of arrays, computed on the devices that hold the arrays."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils


def of(tree: Any) -> dict[str, int]:
  """Computes the checksum of each array of a tree; all processes must call it.

  The checksum is the sum, modulo 2^32, of each element's bits times an odd
  number that depends on the element's place. It always detects a change of one
  element, and misses one in 2^32 of other changes. It does not depend on the
  sharding. Each device sums its own shard, and only the sums move.

  Args:
    tree: arrays of at most 32 bits per element, on any number of devices.

  Returns:
    A number in [0, 2^32) for the path of each array, `a/b/c`.
  """
  leaves = {
    jax.tree_util.keystr(path, simple=True, separator="/"): leaf
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
  }
  parts = jax.device_get([_parts(x) for x in leaves.values()])
  sums = np.array([sum(map(int, x)) % 2**32 for x in parts], np.uint32)
  if jax.process_count() > 1:
    sums = multihost_utils.process_allgather(sums).astype(np.uint64).sum(axis=0)
  return {key: int(x) % 2**32 for key, x in zip(leaves, sums, strict=True)}


def _parts(x: jax.Array) -> list[jax.Array]:
  """Sums the shards on this process's devices; skips copies of a shard.

  Each program runs on a single device. Many concurrent programs that sum over
  devices can deadlock on simulated devices.
  """
  parts = []
  for shard in x.addressable_shards:
    if shard.replica_id == 0:
      start = [s.start or 0 for s in shard.index]
      add = _compiled(shard.device.platform, x.shape)
      parts.append(add(shard.data, np.array(start, np.uint32)))
  return parts


@functools.cache
def _compiled(platform: str, shape: tuple[int, ...]):
  # It reads memory only once. On a CPU, LLVM would optimise it for longer than
  # it runs.
  options = {"xla_backend_optimization_level": 0} if platform == "cpu" else None
  return jax.jit(functools.partial(_sum, shape), compiler_options=options)


def _sum(shape: tuple[int, ...], x: jax.Array, start: jax.Array) -> jax.Array:
  """Computes the checksum uint32[] of one shard.

  Args:
    shape: shape of the whole array.
    x: the shard.
    start: uint32[ndim], indices of the shard's first element.
  """
  if x.dtype == jnp.bool_:
    x = x.astype(jnp.uint8)
  unsigned = jnp.dtype(f"uint{8 * x.dtype.itemsize}")
  bits = jax.lax.bitcast_convert_type(x, unsigned).astype(jnp.uint32)
  place = jnp.uint32(0)
  for axis, size in enumerate(shape):
    along = jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
    place = place * jnp.uint32(size) + along + start[axis]
  factor = place * jnp.uint32(0x9E3779B1)  # Knuth's multiplicative hash.
  factor = (factor ^ (factor >> 15)) | 1
  return jnp.sum(bits * factor, dtype=jnp.uint32)
