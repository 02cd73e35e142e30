"""A data source that fails in one process of a job; see `job_test`.

The environment says how. FAULT is `error`, `bug`, `stall` or `kill`, FAULT_AT
is `train` or `evaluation`, FAULT_IN is the process, and FAULT_AFTER the number
of batches that are read before.
"""

import dataclasses
import os
import time

import jax
import numpy as np

from sslx.config import ConfigError
from sslx.data import sets, sources


@dataclasses.dataclass(frozen=True)
class Faulty(sets.Images):
  """64 images of noise."""

  reads: dict
  num_classes: int | None = 4

  def __len__(self):
    return 64

  def read(self, indices):
    # An evaluation reads the images in their order.
    in_order = list(indices) == list(range(indices[0], indices[-1] + 1))
    at = "evaluation" if in_order and len(indices) > 1 else "train"
    self.reads[at] = self.reads.get(at, 0) + 1
    if (
      at == os.environ.get("FAULT_AT", "train")
      and jax.process_index() == int(os.environ.get("FAULT_IN", 0))
      and self.reads[at] > int(os.environ.get("FAULT_AFTER", 0))
    ):
      fault(os.environ.get("FAULT"))
    images = [
      np.random.default_rng(i).integers(0, 256, (24, 24, 3), np.uint8)
      for i in indices
    ]
    return images, np.asarray(indices, np.int32) % 4


def fault(kind):
  if kind == "error":
    raise ConfigError("the disk of this host is gone")
  if kind == "bug":
    raise ZeroDivisionError("a bug")
  if kind == "stall":
    time.sleep(1000)
  if kind == "kill":
    os.kill(os.getpid(), 9)


def load(source, split):
  return Faulty({}) if split == "train" else None


sources.SOURCES["faulty"] = load
