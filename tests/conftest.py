"""Eight simulated CPU devices for the whole suite."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
# LLVM's optimisations take longer than all that these tests compute.
os.environ["XLA_FLAGS"] = (
  os.environ.get("XLA_FLAGS", "")
  + " --xla_force_host_platform_device_count=8"
  + " --xla_backend_optimization_level=0"
)
