"""Simulated CPU devices, usual signals and bounded memory, for all tests."""

import ctypes
import gc
import os
import pathlib
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

# Programs that several tests, or the jobs that they start, have in common are
# compiled once. With a limit of its size JAX locks the folder.
_CACHE = pathlib.Path(__file__).parent.parent / ".pytest_cache" / "xla"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_COMPILATION_CACHE_MAX_SIZE", str(4 * 2**30))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")

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
