"""Checksums against a sum written out in Python, and what they notice."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sslx.checkpoint import checksum
from sslx.parallel import Parallel, Partitioner


def reference(x):
  """The sum in Python's integers."""
  x = np.asarray(x)
  x = x.astype(np.uint8) if x.dtype == bool else x
  total = 0
  for place, bits in enumerate(x.reshape(-1).view(f"u{x.dtype.itemsize}")):
    factor = place * 0x9E3779B1 % 2**32
    total += int(bits) * ((factor ^ (factor >> 15)) | 1)
  return total % 2**32


ARRAYS = {
  "f32": jnp.linspace(-1, 1, 64).reshape(16, 4),
  "bf16": jnp.linspace(-1, 1, 24, dtype=jnp.bfloat16).reshape(8, 3),
  "i32": jnp.arange(-4, 4),
  "bool": jnp.arange(8) % 3 == 0,
  "scalar": jnp.float32(3),
}


@pytest.mark.parametrize("devices", [1, 8])
def test_equals_the_sum_written_out_on_any_devices(devices):
  partitioner = Partitioner.create(Parallel(), jax.devices()[:devices])
  for name, array in ARRAYS.items():
    spread = partitioner.batch if array.ndim else partitioner.replicated
    found = checksum.of({"a": {"b": jax.device_put(array, spread)}})
    assert found == {"a/b": reference(array)}, name


def test_every_change_of_one_element_is_noticed():
  array = np.linspace(-1, 1, 32, dtype=np.float32)
  whole = checksum.of([jnp.array(array)])
  for place in range(32):
    for bit in range(32):
      changed = array.copy()
      changed.view(np.uint32)[place] ^= np.uint32(1 << bit)
      assert reference(changed) != reference(array)
  changed = array.copy()
  changed[[3, 4]] = changed[[4, 3]]
  assert checksum.of([jnp.array(changed)]) != whole
