"""Eight simulated CPU devices, and usual signals, for the whole suite."""

import os
import signal

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
