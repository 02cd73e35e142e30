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


def vit_config(method: str, **changes) -> ConfigDict:
  """A method on a ViT of width 32, with 16 patches of 4 px, batch 16.

  Args:
    method: "mae" or "mocov3".
    **changes: as of `config`.
  """
  tiny = {
    "model.backbone.width": 32,
    "model.backbone.depth": 2,
    "model.backbone.heads": 2,
    "model.backbone.patch_size": 4,
    "model.backbone.image_size": 16,
    "data.batch_size": BATCH,
    "data.views.0.size": 16,
    "schedule.epochs": 1,
    "schedule.lr.warmup_epochs": 0.0,
    "runtime.log_every": 1,
    "runtime.evaluate.pixels": False,
  }
  if method == "mae":
    tiny |= {
      "model.decoder.width": 16,
      "model.decoder.depth": 1,
      "model.decoder.heads": 2,
    }
  else:
    tiny |= {
      "model.projector.dims": (32, 32, 16),
      "model.predictor.dims": (32, 16),
    }
  tiny |= {key.replace("__", "."): value for key, value in changes.items()}
  config = config_lib.load(
    f"{ROOT}/configs/{method}.py:quickstart",
    [(key, repr(value)) for key, value in tiny.items()],
  )
  # Adam divides the gradient by its size. That of the keys' bias is zero but
  # for rounding, which would make its sign, and so its update, a random one.
  config.schedule.optimizer.eps = 1e-3
  return config


def batch(seed: int, size: int = 32) -> dict[str, np.ndarray]:
  """A random batch as the loader gives it."""
  rng = np.random.default_rng(seed)
  return {
    "image": rng.integers(0, 256, (BATCH, size, size, 3), dtype=np.uint8),
    "label": rng.integers(0, shapes.NUM_CLASSES, BATCH, dtype=np.int32),
  }
