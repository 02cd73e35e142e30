"""What a run prints at its start and at its end."""

from __future__ import annotations

import math

import jax
from etils import epath

from sslx import metrics, optim
from sslx.experiment import Experiment


def of_start(experiment: Experiment, workdir: epath.Path) -> str:
  """Describes a run before its first step: model, data, devices."""
  state, data = experiment.abstract_state, experiment.data
  count = sum(math.prod(x.shape) for x in jax.tree.leaves(state.params))
  mesh, spread = experiment.partitioner.mesh, experiment.partitioner.num_devices
  sizes = " x ".join(f"{n} {axis}" for axis, n in mesh.shape.items())
  parallel_, decoder = experiment.runtime.parallel, experiment.decoder
  return (
    f"{type(experiment.step.method).__name__}, {count:,} parameters, on"
    f" {data.source}: {len(experiment.train):,} images"
    f"{f', JPEG decoder: {decoder}' if decoder else ''}\n"
    f"{experiment.schedule.length}, {experiment.order.steps_per_epoch} steps"
    f" per epoch, batch {data.batch_size} ="
    f" {spread} x {data.batch_size // spread}"
    f" ({mesh.devices.flat[0].device_kind}, {parallel_.mode},"
    f" {parallel_.rules}{', mesh ' + sizes if len(mesh.shape) > 1 else ''})\n"
    f"peak learning rate"
    f" {optim.peak_lr(experiment.schedule.optimizer, data.batch_size):.4g};"
    f" workdir {workdir}"
  )


def of_end(workdir: epath.Path, k: int | None) -> str:
  """Reports the last accuracy, beside the untrained encoder and raw pixels.

  Args:
    workdir: workdir of the run.
    k: number of neighbours of the kNN accuracy; None if there is no kNN.
  """
  rows = metrics.read(workdir)
  top1 = [row["eval/top1"] for row in rows if "eval/top1" in row]
  if top1:
    return f"top-1 accuracy after training: {100 * top1[-1]:.1f} %"
  rows = [row for row in rows if f"eval/knn_{k}" in row]
  if not rows:
    return "no kNN accuracy: the data has no labels to evaluate with"
  first, last = rows[0], rows[-1]
  final = 100 * last[f"eval/knn_{k}"]
  lines = [f"kNN accuracy (k={k}) after training: {final:.1f} %"]
  for name, key in (
    ("untrained encoder", f"eval/knn_{k}"),
    ("raw pixels", f"eval/pixels_knn_{k}"),
  ):
    if first["step"] == 0 and key in first:
      base = 100 * first[key]
      lines.append(f"  {name}: {base:.1f} % ({final - base:+.1f} points)")
  return "\n".join(lines)
