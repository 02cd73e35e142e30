"""Simulated CPU devices, usual signals and bounded memory, for all tests."""

import ctypes
import gc
import os
import signal

import psutil
import pytest

os.environ["JAX_PLATFORMS"] = "cpu"
# LLVM's optimisations take longer than all that these tests compute.
os.environ["XLA_FLAGS"] = (
  os.environ.get("XLA_FLAGS", "")
  + " --xla_force_host_platform_device_count=8"
  + " --xla_backend_optimization_level=0"
)

# `nohup`, and a shell that starts the tests in the background, ignore some
# signals. The jobs that tests start would inherit that, and wait for ever.
for _signum in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
  if signal.getsignal(_signum) is signal.SIG_IGN:
    signal.signal(_signum, signal.SIG_DFL)

_HELD = 3 * 2**29  # bytes that a worker may keep between two files


@pytest.fixture(autouse=True, scope="module")
def _free_compiled_programs():
  """Frees what the tests of a file have compiled, if a worker holds much."""
  yield
  if psutil.Process().memory_info().rss < _HELD:
    return
  import jax

  jax.clear_caches()
  gc.collect()
  # glibc keeps freed memory; this gives it back.
  getattr(ctypes.CDLL(None), "malloc_trim", lambda _: 0)(0)
