"""Suggests changes for a step that does not fit in memory."""

from __future__ import annotations

import dataclasses

import jax
from ml_collections import ConfigDict

from sslx.aot.chips import FLAT, Slice
from sslx.aot.compile import DoesNotFit
from sslx.aot.report import GIB
from sslx.benchmark import work
from sslx.experiment import Experiment
from sslx.parallel import Partitioner

_MOST = 10  # exclusive limit of doublings


def lines(
  experiment: Experiment, config: ConfigDict, where: Slice, error: DoesNotFit
) -> list[str]:
  """Changes that need less memory, with estimates of the memory that they need.

  Memory beside the state is taken to be proportional to the images per chip.
  XLA has already tried to save memory, so the estimates are rough.

  Args:
    experiment: the experiment that did not fit.
    config: config of the experiment.
    where: the slice.
    error: the error from XLA.
  """
  limit, needed = error.limit, error.needed
  state = work.tree_bytes(experiment.abstract_state)
  rest = needed - state
  shown = lambda size: (
    f"about {size / GIB:.1f} GiB: {'fits' if size <= limit else 'not enough'}"
  )
  found = []

  settings = experiment.partitioner.settings
  sharded = state
  if settings.mode == "pjit" and settings.rules == "replicated":
    sharded = _sharded(experiment)
    if sharded < 0.9 * state:
      found.append(
        f"--config.runtime.parallel.rules=fsdp: {shown(rest + sharded)}"
      )
  backbone = config.model.backbone
  if backbone.get("remat") is False:
    found.append(
      "--config.model.backbone.remat=True: keeps the input of each block"
      " only; not estimated"
    )
  per_chip = experiment.data.batch_size // experiment.partitioner.num_devices
  enough = lambda parts: state + rest / parts <= limit
  doublings = [2**n for n in range(1, _MOST)]
  if experiment.step.method.accumulates:
    parts = next((n for n in doublings if enough(n)), None)
    total = (parts or 0) * experiment.step.accumulate
    if parts and per_chip * experiment.step.accumulate % total == 0:
      found.append(
        f"--config.schedule.accumulate={total}: {shown(state + rest / parts)}"
      )
  parts = next((n for n in doublings if enough(n)), None)
  if parts and per_chip % parts == 0:
    chips = where.chips * parts
    kind = where.name.split(":")[0]
    shape = FLAT.get(chips) if where.chip.axes == 2 else None
    name = f"--topology={kind}:{shape}" if shape else f"{chips} chips"
    found.append(f"{name}: {shown(state + rest / parts)}")
  return found or ["nothing that sslx.aot knows of; use a smaller batch"]


def _sharded(experiment: Experiment) -> int:
  """Bytes of the state on one chip if it were sharded by fsdp."""
  partitioner = experiment.partitioner
  settings = dataclasses.replace(partitioner.settings, rules="fsdp")
  shardings = Partitioner(partitioner.mesh, settings).state_shardings(
    experiment.abstract_state, experiment.step.method.tensor_rules
  )
  return work.tree_bytes(
    jax.tree.map(
      lambda x, s: x.update(sharding=s), experiment.abstract_state, shardings
    )
  )
