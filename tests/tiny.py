"""Experiments small enough to compile in seconds, and the batches for them."""

import contextlib
import functools
import itertools
import math
import os
import pathlib
import re
from typing import Literal

import flax.linen as nn
import jax
import numpy as np
from ml_collections import ConfigDict

from sslx import experiment as experiment_lib
from sslx import models, settings
from sslx.axis import Axis
from sslx.data import sets, shapes
from sslx.models import norm

ROOT = pathlib.Path(__file__).parent.parent
BATCH = 16
IMAGES, SIDE = 64, 20  # of `Pixels`: four steps an epoch


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
    "schedule.lr.warmup": 0.0,
    "runtime.log_every": 1,
    "runtime.evaluate.pixels": False,
  }
  return _load("simclr.py:quickstart", tiny, changes)


def vit_config(method: str, **changes) -> ConfigDict:
  """A method on a ViT of width 32, with 16 patches of 4 px, batch 16.

  Those of DINO's family are as in the papers, where the quickstarts are not.

  Args:
    method: "mae", "mocov3", "dino", "ibot", "dinov2", or "ijepa", which has 64
      patches of 2 px.
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
    "schedule.lr.warmup": 0.0,
    "runtime.log_every": 1,
    "runtime.evaluate.pixels": False,
  }
  if method == "mae":
    tiny |= {
      "model.decoder.width": 16,
      "model.decoder.depth": 1,
      "model.decoder.heads": 2,
    }
  elif method == "ijepa":
    tiny |= {
      "model.backbone.patch_size": 2,
      "model.predictor.width": 16,
      "model.predictor.depth": 1,
      "model.predictor.heads": 2,
    }
  elif method in ("dino", "ibot", "dinov2"):
    tiny |= {
      "data.views.1.size": 16,
      "data.views.2.size": 8,
      "data.views.2.count": 2,
      "model.head.dims": (32, 32, 8),
      "model.head.prototypes": 24,
      "schedule.optimizer.rules.1.1.freeze": 0.25,
    }
    if method == "dinov2":
      tiny |= {
        "model.patch_head.dims": (32, 16),
        "model.patch_head.prototypes": 20,
        "model.backbone.layer_scale": 0.5,
      }
    else:
      tiny["model.koleo_weight"] = 0.0
  else:
    tiny |= {
      "model.projector.dims": (32, 32, 16),
      "model.predictor.dims": (32, 16),
    }
  config = _load(f"{method}.py:quickstart", tiny, changes).unlock()
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


class Convs(nn.Module):
  """A backbone that compiles in a second, and is smooth.

  Rounding moves no value across the zero of a ReLU, so that methods can be
  compared closely over several steps.
  """

  norm_groups: int = 1
  dtype: Literal["float32", "bfloat16"] = "float32"

  @nn.compact
  def __call__(self, x, *, train, axis=Axis(), every=False):
    bn = functools.partial(norm.BatchNorm, groups=self.norm_groups, axis=axis)
    x = nn.Conv(8, (3, 3), 2, use_bias=False, name="conv1")(x)
    x = nn.softplus(bn(name="bn1")(x, train))
    middle = x.mean((1, 2))
    x = nn.Conv(12, (3, 3), 2, use_bias=False, name="conv2")(x)
    x = nn.softplus(bn(name="bn2")(x, train)).mean((1, 2))
    return {"final": x, "stage3": middle} if every else x


class Flat(nn.Module):
  """A linear backbone: the features of an image depend on no other image."""

  norm_groups: int = 1
  dtype: Literal["float32", "bfloat16"] = "float32"

  @nn.compact
  def __call__(self, x, *, train, axis=Axis(), every=False):
    x = nn.Dense(12, use_bias=False)(x.reshape(len(x), -1))
    return {"final": x} if every else x


models.BACKBONES |= {"convs": Convs, "flat": Flat}

_VIEW = {
  "size": 12,
  "count": 2,
  "crop_scale": (0.4, 1.0),
  "interpolation": "bilinear",
  "flip": 0.5,
}
_METHODS = {
  "simclr": (
    "selfsup/simclr_resnet50_8xb32-coslr-200e_in1k.py",
    (_VIEW,),
    {"model.projector.dims": (16, 8)},
  ),
  "mocov2": (
    "selfsup/mocov2_resnet50_8xb32-coslr-200e_in1k.py",
    (_VIEW,),
    {
      "model.projector.dims": (16, 8),
      "model.queue_size": 4 * BATCH,
      "model.momentum": 0.9,
    },
  ),
  "swav": (
    "selfsup/swav_resnet50_8xb32-mcrop-2-6-coslr-200e_in1k-224-96.py",
    (_VIEW, _VIEW | {"size": 8, "crop_scale": (0.1, 0.4)}),
    {
      "model.projector.dims": (16, 8),
      "model.prototypes": 12,
      "model.queue_size": 2 * BATCH,
      "model.queue_start": 0,
      "schedule.optimizer.rules.0.1.freeze.steps": 2,
      "schedule.optimizer.lr": 200.0,  # Of which LARC takes a thousandth.
    },
  ),
  "byol": (
    "selfsup/byol_resnet50_16xb256-coslr-100e_in1k.py",
    (_VIEW,),
    {
      "model.projector.dims": (16, 8),
      "model.predictor.dims": (16, 8),
      "model.momentum.start": 0.8,
      "schedule.lr.warmup": 0.0,
      "schedule.optimizer.lr": 200.0,  # Of which LARC takes a thousandth.
    },
  ),
  "simsiam": (
    "selfsup/simsiam_resnet50_8xb64-coslr-100e_in1k.py",
    (_VIEW,),
    {"model.projector.dims": (16, 16, 8), "model.predictor.dims": (4, 8)},
  ),
  "relative_loc": (
    "selfsup/relative-loc_resnet50_8xb64-steplr-70e_in1k.py",
    ({"kind": "patches", "size": 5, "resize": 20, "crop": 18, "grey": 0.5},),
    {"model.head.hidden": 24},
  ),
  "barlow_twins": (
    "selfsup/barlow-twins_resnet50_16xb128-bf16-coslr-1000e_in1k.py",
    (_VIEW,),
    {
      "model.projector.dims": (16, 8),
      "model.dtype": "float32",
      "schedule.epochs": 3,
      "schedule.lr.warmup": 0.5,
      "schedule.optimizer.lr": 40.0,  # Of which LARS takes a thousandth.
    },
  ),
  "dino": (
    "selfsup/dino_vit-small-p16_8xb64-mcrop-2-8-bf16-coslr-100e_in1k-224-96.py",
    (_VIEW, _VIEW | {"size": 8, "crop_scale": (0.1, 0.4), "count": 3}),
    {
      "model.head": {"dims": (16, 16, 8), "prototypes": 12},
      "model.momentum.start": 0.8,
      "model.dtype": "float32",
      "schedule.lr.warmup": 0.0,
      "schedule.optimizer.rules.1.1.freeze": 0.5,
      "schedule.optimizer.eps": 1e-3,
    },
  ),
  "vicreg": (
    "selfsup/vicreg_resnet50_8xb64-bf16-coslr-100e_in1k.py",
    (_VIEW,),
    {
      "model.projector.dims": (16, 8),
      "model.dtype": "float32",
      "schedule.epochs": 3,
      "schedule.lr.warmup": 0.5,
      "schedule.optimizer.lr": 2.0,
    },
  ),
  "lejepa": (
    "selfsup/lejepa_vit-small-p16_8xb64-mcrop-2-6-bf16-coslr-100e_in1k-224-96.py",
    (_VIEW, _VIEW | {"size": 8, "count": 3, "crop_scale": (0.1, 0.4)}),
    {
      "model.projector.dims": (16, 8),
      "model.directions": 24,
      "model.dtype": "float32",
      "schedule.epochs": 3,
      "schedule.lr.warmup": 0.5,
      "schedule.optimizer.lr": 0.02,
      "schedule.optimizer.eps": 1e-2,
    },
  ),
}
METHODS = tuple(_METHODS)
_ONE_VIEW = _VIEW | {"count": 1}
# The methods that evaluate a network.
_METHODS |= {
  "linear": (
    "benchmarks/resnet50_linear-swav-8xb32-coslr-100e_in1k.py",
    (_ONE_VIEW,),
    {"model.features": ("final", "stage3"), "model.classifier.norm": True},
  ),
  "finetune": (
    "benchmarks/resnet18_ft-quick-1xb256-coslr-10e_cifar10.py",
    (_ONE_VIEW,),
    {"schedule.optimizer.lr": 0.01, "schedule.optimizer.eps": 1e-3},
  ),
}


def method_config(method: str, backbone: str = "convs", **changes):
  """The ImageNet recipe of a method, with a tiny network and tiny views.

  Args:
    method: one of METHODS, "linear" or "finetune".
    backbone: `convs` or `flat`.
    **changes: dotted keys, dots as double underscores; `views`, new ones.
  """
  recipe, views, tiny = _METHODS[method]
  views = changes.pop("views", views)
  # A rate at which three steps change the parameters visibly.
  shared = {
    "data.batch_size": BATCH,
    "schedule.optimizer.lr": 1.0,
  }
  if recipe.startswith("selfsup"):
    shared["runtime.evaluate.knn.k"] = (5,)
  else:
    shared["model.classifier.classes"] = Pixels.num_classes
  made = _load(recipe, shared | tiny, changes)
  with made.unlocked(), made.ignore_type():
    made.model.backbone = ConfigDict({"name": backbone})
    made.data.views = views
    made.runtime.evaluate.probe = None
  return made


class Pixels(sets.Images):
  """64 random images of ten classes, cut on the host like ImageNet's."""

  num_classes = 10

  def __init__(self):
    rng = np.random.default_rng(0)
    self.pixels = rng.integers(0, 256, (IMAGES, SIDE, SIDE, 3), dtype=np.uint8)

  def __len__(self):
    return IMAGES

  def read(self, indices):
    labels = np.asarray(indices, np.int32) % self.num_classes
    return [self.pixels[i] for i in indices], labels


def says_saved(output: str) -> bool:
  """Whether a run that a signal ended says that all of it is saved.

  Where the signal finds it is chance: between two steps it saves, while it
  evaluates there is nothing to save.
  """
  return "is saved" in output or "while evaluating; nothing is lost" in output


def environment(devices: int = 1, cache: pathlib.Path | None = None):
  """That of a new process.

  Args:
    devices: how many to simulate.
    cache: of compiled programs, for processes that run the same ones.
  """
  # What runs there runs longer than it compiles: no flag against optimisation.
  flags = f"--xla_force_host_platform_device_count={devices}"
  found = os.environ | {"XLA_FLAGS": flags}
  if cache:
    found["JAX_COMPILATION_CACHE_DIR"] = str(cache)
    found["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
  return found


def build_method(config: ConfigDict, devices: int = 1):
  """An experiment of a config from `method_config`, on `Pixels`."""
  sets = Pixels(), Pixels()
  return experiment_lib.build(config, jax.devices()[:devices], sets)


def batches(experiment, count: int, start: int = 0) -> list:
  """Batches of a run, on its devices."""
  with contextlib.closing(experiment.batches(start)) as taken:
    return list(itertools.islice(taken, count))


def compile_step(experiment, batch):
  """The step of an experiment, for more than one trajectory."""
  step = experiment.compiled_step()
  return step.lower(experiment.abstract_state, batch).compile()


def run_steps(experiment, state, batches, step=None):
  """Metrics of each step, and the state after, on the host.

  Args:
    experiment: what to run.
    state: where to start, on the host or anywhere.
    batches: one for each step.
    step: the compiled step, if there is one already.
  """
  step = step or compile_step(experiment, batches[0])
  state = jax.device_put(jax.device_get(state), experiment.state_shardings)
  metrics = []
  for batch in batches:
    state, out = step(state, batch)
    metrics.append(jax.device_get(out))
  return metrics, jax.device_get(state)


def collectives(compiled) -> list[tuple[str, int]]:
  """(kind, elements) of each array that a compiled step moves."""
  kinds = "all-gather|all-to-all|collective-permute|all-reduce|reduce-scatter"
  pattern = rf"= (\S+|\([^=]*?\)) ({kinds})(?:-start)?\("
  return [
    (kind, math.prod(int(n) for n in shape.split(",") if n))
    for shapes, kind in re.findall(pattern, compiled.as_text())
    for shape in re.findall(r"\w+\[([\d,]*)\]", shapes)
  ]


def assert_close(new, old, tolerance):
  """Each array's error is below `tolerance` of its norm."""

  def check(path, a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    error, norm = np.linalg.norm(a - b), np.linalg.norm(b)
    name = jax.tree_util.keystr(path)
    assert error <= tolerance * (norm + 1e-6), f"{name}: {error} of {norm}"

  jax.tree.map_with_path(check, new, old)


def _load(spec: str, *layers: dict) -> ConfigDict:
  """A config, with dots of keys as they are or as double underscores."""
  merged = {}
  for layer in layers:
    merged |= {key.replace("__", "."): value for key, value in layer.items()}
  return settings.load(
    f"{ROOT}/configs/{spec}", [(k, repr(v)) for k, v in merged.items()]
  )
