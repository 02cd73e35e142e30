"""Checksums of arrays, computed where the arrays live."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from sslx import parallel


def of(tree: Any) -> dict[str, int]:
  """The checksum of each array of a tree.

  The sum of the bits of each element times an odd number that depends on its
  place, modulo 2^32. A change of one element is always noticed; of any other
  change, one in 2^32 is not. The sum does not depend on how an array is spread
  over devices, and only it moves to the host.

  Args:
    tree: arrays of at most 32 bits an element, on any number of devices.

  Returns:
    A number in [0, 2^32) by the path of each array, `a/b/c`.
  """
  leaves = {
    jax.tree_util.keystr(path, simple=True, separator="/"): leaf
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
  }
  sums = {key: _checksum(_platform(x))(x) for key, x in leaves.items()}
  return {key: int(x) for key, x in parallel.to_host(sums).items()}


def _platform(x: jax.Array) -> str:
  return next(iter(x.devices())).platform


@functools.cache
def _checksum(platform: str):
  # It reads memory once: on a CPU, LLVM would optimise it for longer than that.
  options = {"xla_backend_optimization_level": 0} if platform == "cpu" else None
  return jax.jit(_sum, compiler_options=options)


def _sum(x: jax.Array) -> jax.Array:
  """uint32[], of one array."""
  if x.dtype == jnp.bool_:
    x = x.astype(jnp.uint8)
  unsigned = jnp.dtype(f"uint{8 * x.dtype.itemsize}")
  bits = jax.lax.bitcast_convert_type(x, unsigned).astype(jnp.uint32)
  place = jax.lax.iota(jnp.uint32, x.size).reshape(x.shape)
  factor = place * jnp.uint32(0x9E3779B1)  # Spreads neighbours (Knuth).
  factor = (factor ^ (factor >> 15)) | 1
  return jnp.sum(bits * factor, dtype=jnp.uint32)
