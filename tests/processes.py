"""One process of several: `python -m tests.processes FOLDER PROCESS`.

`FOLDER/job.json` says what to do, see `Job`; `processes_test` starts them.
"""

import contextlib
import dataclasses
import json
import pathlib
import sys
import time
from typing import Literal

import jax
import numpy as np

from sslx import experiment as experiment_lib
from sslx import parallel, train
from sslx.checkpoint import Checkpoint, Checkpoints
from sslx.data import sets, sources
from tests import tiny

METHODS = ("simclr", "mocov2", "swav", "mae")
STEPS = 3


class Named(tiny.Pixels):
  """The label of an image is its number: no other image can be taken for it."""

  num_classes = tiny.IMAGES


def _small(source: sources.Source, split: str) -> sets.Arrays:
  """As large as `tiny.Pixels`, but in memory."""
  rng = np.random.default_rng(split == "test")
  pixels = rng.integers(0, 256, (tiny.IMAGES, 16, 16, 3), dtype=np.uint8)
  return sets.Arrays(pixels, np.arange(tiny.IMAGES, dtype=np.int32) % 8, 8)


sources.SOURCES |= {"small": _small, "named": lambda source, split: Named()}


@dataclasses.dataclass(frozen=True)
class Job:
  """What some processes do together.

  Attributes:
    port: of the coordinator.
    processes: how many there are.
    order: of the devices, over those of all processes.
    task: `steps` of every method, or `train`, which is `train.run`.
    mode: of `train`.
  """

  port: int
  processes: int
  order: tuple[int, ...]
  task: Literal["steps", "train"]
  mode: Literal["pjit", "pmap"] = "pjit"


def steps_config(method: str, **changes):
  """A tiny recipe: images cut on the host, or in memory for MAE."""
  if method == "mae":
    return tiny.vit_config(
      method,
      data__source="small",
      runtime__evaluate__knn__k=(5,),
      **changes,
    )
  probe = {"runtime.evaluate.probe": {"lr": 1e-3}} if method == "simclr" else {}
  return tiny.method_config(method, data__source="named", **probe, **changes)


def train_config(**changes):
  """SimCLR, twelve epochs of four steps, a checkpoint every five steps."""
  return tiny.method_config(
    "simclr",
    data__source="named",
    schedule__epochs=12,
    schedule__lr__warmup=0.0,
    schedule__optimizer__lr=0.05,
    runtime__log_every=1,
    runtime__checkpoint__every_epochs=1.25,
    runtime__evaluate__every_epochs=4.0,
    **changes,
  )


def take_steps(method: str, devices: list, folder: pathlib.Path, **changes):
  """Three steps from the start of a run; the state goes into a checkpoint.

  Returns:
    Metrics of each step, an evaluation of the last state, and its pictures.
  """
  experiment = experiment_lib.build(steps_config(method, **changes), devices)
  state, step = experiment.init_state(), experiment.compiled_step()
  metrics = []
  for batch in tiny.batches(experiment, STEPS):
    state, found = step(state, batch)
    metrics.append({k: float(v) for k, v in parallel.to_host(found).items()})
  with contextlib.closing(checkpoints(folder / method)) as opened:
    opened.save(STEPS, state, {"next_index": STEPS})
    opened.wait()
  return metrics, *experiment.online.run(state)


def checkpoints(folder: pathlib.Path) -> Checkpoints:
  """Those of a method."""
  return Checkpoints(folder, Checkpoint(), tiny.IMAGES // tiny.BATCH)


def record_labels(path: pathlib.Path) -> None:
  """Lets every step write which images it is given, and in which row."""
  compile_step = parallel.Partitioner.compile

  def compile_recorded(partitioner, *arguments):
    step = compile_step(partitioner, *arguments)

    def recorded(state, batch):
      time.sleep(0.2)  # Or the job may end before a kill comes in between.
      number = int(parallel.to_host(state.step)) + 1
      for shard in batch["label"].addressable_shards:
        row, labels = shard.index[0].start or 0, np.asarray(shard.data)
        file.write(json.dumps([number, row, labels.tolist()]) + "\n")
      return step(state, batch)

    return recorded

  file = path.open("a", buffering=1)
  parallel.Partitioner.compile = compile_recorded


def main(folder: pathlib.Path, process: int) -> None:
  """Does this process's part of a job."""
  job = Job(**json.loads((folder / "job.json").read_text()))
  if job.processes > 1:
    address = f"localhost:{job.port}"
    jax.distributed.initialize(address, job.processes, process)
  devices = [jax.devices()[i] for i in job.order]
  if job.task == "train":
    record_labels(folder / f"labels-{process}.jsonl")
    config = train_config(runtime__parallel__mode=job.mode)
    train.run(config, str(folder.parent / "run"), devices=devices)
    return
  parallel.FSDP_MIN_SIZE = 64  # Tiny parameters are sharded, too.
  results = {}
  for method in METHODS:
    changes = {}
    if method == "mae":
      changes = {"runtime__parallel__rules": "fsdp"}
    elif method == "mocov2":
      changes = {"runtime__parallel__mode": "pmap"}
    metrics, evaluated, pictures = take_steps(
      method, devices, folder, **changes
    )
    results[method] = metrics, evaluated
    if process == 0:
      np.savez(folder / f"{method}.npz", **pictures)
  if process == 0:
    (folder / "results.json").write_text(json.dumps(results))


if __name__ == "__main__":
  main(pathlib.Path(sys.argv[1]), int(sys.argv[2]))
