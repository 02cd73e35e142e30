"""Compiles the training step of an experiment for TPUs, without any TPU."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import importlib.metadata
import json
import os
import pathlib
import re

import jax
from ml_collections import ConfigDict

from sslx import config as config_lib
from sslx import experiment as experiment_lib
from sslx.aot import absent
from sslx.aot.chips import Slice
from sslx.benchmark import work
from sslx.data.pipeline import Data
from sslx.experiment import Experiment


class DoesNotFit(Exception):
  """The step does not fit in the chip's memory.

  Attributes:
    needed: bytes per chip that the step needs, by XLA's message.
    limit: bytes per chip that XLA may use.
  """

  def __init__(self, needed: float, limit: float):
    super().__init__(f"{needed} bytes of {limit}")
    self.needed, self.limit = needed, limit


@dataclasses.dataclass(frozen=True)
class Program:
  """A compiled step; sizes are bytes per chip.

  Attributes:
    text: optimised HLO of one chip.
    flops: FLOPs per chip, by XLA's cost analysis.
    arguments: size of state and batch.
    outputs: size of state and metrics.
    aliased: size of outputs that reuse the memory of donated arguments.
    temporaries: size of activations, gradients and other arrays that exist only
      within the step.
    code: size of the program itself.
  """

  text: str
  flops: float
  arguments: int
  outputs: int
  aliased: int
  temporaries: int
  code: int

  @property
  def peak(self) -> int:
    """Bytes of HBM that the step uses."""
    held = self.arguments + self.outputs - self.aliased
    return held + self.temporaries + self.code


def build(config: ConfigDict, where: Slice) -> Experiment:
  """Builds the experiment of a config over the described chips of a slice.

  Raises:
    ConfigError: the config cannot run on this slice.
  """
  data = config_lib.build(Data, config.data, "data")
  return experiment_lib.build(config, where.devices(), absent.sets(data))


def compile_step(
  experiment: Experiment, cache: pathlib.Path | None = None
) -> Program:
  """Compiles the real training step for the devices of the experiment.

  Args:
    experiment: an experiment from `build`.
    cache: folder of compiled programs, or None. JAX's own cache cannot read a
      program without a device of its kind.

  Raises:
    DoesNotFit: the chip's memory is too small.
  """
  arguments = (experiment.abstract_state, experiment.abstract_batch)
  lowered = experiment.compiled_step().lower(*arguments)
  size = work.tree_bytes(arguments)
  if cache is None:
    return _compile(lowered, size)
  path = cache / f"{_key(experiment, lowered)}.json.gz"
  if path.exists():
    found = json.loads(gzip.decompress(path.read_bytes()))
    if "needed" in found:
      raise DoesNotFit(**found)
    return Program(**found)
  try:
    program = _compile(lowered, size)
  except DoesNotFit as error:
    _write(path, {"needed": error.needed, "limit": error.limit})
    raise
  _write(path, dataclasses.asdict(program))
  return program


def _compile(lowered: jax.stages.Lowered, arguments: int) -> Program:
  try:
    compiled = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    raise _does_not_fit(str(error), arguments) or error from None
  memory = compiled.memory_analysis()
  return Program(
    text=compiled.as_text(),
    flops=compiled.cost_analysis()["flops"],
    arguments=memory.argument_size_in_bytes,
    outputs=memory.output_size_in_bytes,
    aliased=memory.alias_size_in_bytes,
    temporaries=memory.temp_size_in_bytes,
    code=memory.generated_code_size_in_bytes,
  )


def _does_not_fit(message: str, arguments: int) -> DoesNotFit | None:
  """Parses XLA's message about too little memory; None for other messages.

  Args:
    message: message of the error.
    arguments: bytes of state and batch, which one form of the message excludes.
  """
  unit = {"K": 2**10, "M": 2**20, "G": 2**30}
  size = lambda number, prefix: float(number) * unit[prefix]
  if found := re.search(
    r"Used ([\d.]+)([KMG]) of ([\d.]+)([KMG]) hbm", message
  ):
    return DoesNotFit(size(*found.groups()[:2]), size(*found.groups()[2:]))
  if found := re.search(
    r"HLO temporaries \(([\d.]+)([KMG])\) exceeds available HBM"
    r" \(([\d.]+)([KMG])\)",
    message,
  ):
    temporaries, limit = size(*found.groups()[:2]), size(*found.groups()[2:])
    return DoesNotFit(temporaries + arguments, limit)
  return None


def _key(experiment: Experiment, lowered: jax.stages.Lowered) -> str:
  """A hash of everything that the compiled program depends on."""
  devices = experiment.partitioner.mesh.devices.flat
  parts = [
    lowered.as_text(),
    [(d.device_kind, d.num_cores, d.id, d.coords) for d in devices],
    [importlib.metadata.version(name) for name in ("jax", "libtpu")],
    [os.environ.get(name) for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS")],
  ]
  return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _write(path: pathlib.Path, content: dict) -> None:
  """Writes compressed JSON. Atomic."""
  path.parent.mkdir(parents=True, exist_ok=True)
  part = path.with_suffix(f".{os.getpid()}")
  part.write_bytes(gzip.compress(json.dumps(content).encode()))
  part.replace(path)
