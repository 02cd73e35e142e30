"""A job small enough to train in seconds, for tests of how it is started."""

import contextlib
import http.server
import json
import os
import pathlib
import random
import subprocess
import sys
import threading

from tests import tiny

# Four steps, and a checkpoint after each second one; of a model
# that compiles fast.
ARGS = [
  "--config=configs/mae.py:quickstart",
  "--config.model.backbone.width=16",
  "--config.model.backbone.depth=1",
  "--config.model.backbone.heads=2",
  "--config.model.backbone.patch_size=8",
  "--config.model.decoder.width=16",
  "--config.model.decoder.depth=1",
  "--config.model.decoder.heads=2",
  "--config.data.batch_size=1024",
  "--config.schedule.epochs=1",
  "--config.schedule.lr.warmup=0",
  "--config.runtime.log_every=1",
  "--config.runtime.checkpoint.every_epochs=0.5",
  "--config.runtime.evaluate.every_epochs=1",
  "--config.runtime.evaluate.knn.k=(20,)",
  "--config.runtime.evaluate.pixels=False",
]


def environment(cache: pathlib.Path) -> dict[str, str]:
  """What a process adds to its environment to run such a job on a CPU."""
  settings = tiny.environment(1, cache)
  kept = {k: v for k, v in settings.items() if k.startswith("JAX")}
  # LLVM's optimisations take longer than all that is computed.
  fast = "--xla_backend_optimization_level=0"
  return kept | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": fast}


def port() -> int:
  """One that is hardly anybody's."""
  return random.randint(20000, 40000)


def start(command, environments, cache, cwd=tiny.ROOT):
  """Starts the command in each of the environments."""
  return [
    subprocess.Popen(
      command,
      cwd=cwd,
      env=os.environ | environment(cache) | added,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    for added in environments
  ]


def train(workdir, environments, cache, *flags, program=("-m", "sslx.main")):
  """Runs sslx.main in each of the environments to its end; returns outputs."""
  command = [sys.executable, *program, *ARGS, f"--workdir={workdir}"]
  started = start([*command, "--distributed", *flags], environments, cache)
  outputs = [process.communicate(timeout=900)[0] for process in started]
  codes = [process.returncode for process in started]
  assert not any(codes), "\n".join(outputs)
  return outputs


def losses(workdir) -> dict[int, float]:
  """The loss of each step, each of which must be there once."""
  lines = (pathlib.Path(workdir) / "metrics.jsonl").read_text().splitlines()
  rows = [row for row in map(json.loads, lines) if "loss" in row]
  steps = [row["step"] for row in rows]
  assert len(steps) == len(set(steps)), steps
  return {row["step"]: row["loss"] for row in rows}


@contextlib.contextmanager
def metadata(attributes: dict[str, str]):
  """A metadata server of a Compute Engine host; yields host:port."""

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
      key = self.path.rpartition("/attributes/")[2]
      found = attributes.get(key)
      asked_well = self.headers["Metadata-Flavor"] == "Google"
      self.send_response(200 if found is not None and asked_well else 404)
      self.end_headers()
      self.wfile.write((found or "").encode())

    def log_message(self, *_):
      pass

  server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
  thread = threading.Thread(target=server.serve_forever)
  thread.start()
  try:
    yield f"127.0.0.1:{server.server_port}"
  finally:
    server.shutdown()
    thread.join()
    server.server_close()
