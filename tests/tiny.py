"""A config small enough to compile in seconds, and the batches for it."""

import pathlib

import numpy as np
from ml_collections import ConfigDict

from sslx import config as config_lib
from sslx.data import shapes

ROOT = pathlib.Path(__file__).parent.parent
BATCH = 16


def config(**changes) -> ConfigDict:
  """SimCLR, ResNet-18 of width 8, 16-px views, batch 16.

  Args:
    **changes: dotted keys, dots as double underscores.
  """
  tiny = {
    "model.backbone.width": 0.125,
    "model.backbone.stem": "cifar",
    # Small gradients, which rounding moves little.
    "model.backbone.zero_init_residual": True,
    "model.projector.dims": (16, 8),
    "data.batch_size": BATCH,
    "data.views.0.size": 16,
    "schedule.epochs": 1,
    "schedule.lr.warmup_epochs": 0.0,
    "runtime.log_every": 1,
    "runtime.evaluate.pixels": False,
  }
  tiny |= {key.replace("__", "."): value for key, value in changes.items()}
  return config_lib.load(
    f"{ROOT}/configs/simclr.py:quickstart",
    [(key, repr(value)) for key, value in tiny.items()],
  )


def batch(seed: int, size: int = 32) -> dict[str, np.ndarray]:
  """A random batch as the loader gives it."""
  rng = np.random.default_rng(seed)
  return {
    "image": rng.integers(0, 256, (BATCH, size, size, 3), dtype=np.uint8),
    "label": rng.integers(0, shapes.NUM_CLASSES, BATCH, dtype=np.int32),
  }
