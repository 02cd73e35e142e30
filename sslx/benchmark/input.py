"""Measures the speed of the input: the whole loader and each of its stages."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import statistics
import time
from collections.abc import Callable

import jax
import numpy as np
from ml_collections import ConfigDict

from sslx import config as config_lib
from sslx.benchmark import compare
from sslx.benchmark.measure import (
  CORES,
  device_part,
  in_turns,
  on_cpu,
  one_device,
  pin,
  spread,
)
from sslx.data import crops, pictures, pipeline, sets, sources
from sslx.data import views as views_lib
from sslx.data.order import Order

_ROWS_ON_CPU = 32  # rows of a batch; more would take as long per image
_SMALL = 20  # factor of `steps` for in-memory sets, whose batches are fast


def bench_input(
  config: ConfigDict,
  *,
  threads: list[int] | None,
  steps: int,
  rounds: int,
  wanted: float | None,
  peers: bool,
) -> None:
  """Prints the speed of a config's input and the time of its stages.

  Args:
    config: the config of a run, with all its sections.
    threads: numbers of threads to compare; one and all cores by default.
    steps: number of batches per round.
    rounds: number of rounds; medians over them are printed.
    wanted: images/s that an accelerator consumes; None omits the estimate of
      the host cores that it needs.
    peers: whether to measure the same work in other libraries.

  Raises:
    ConfigError: the data cannot be loaded, or not compared with the peers.
  """
  data = config_lib.build(pipeline.Data, config.data, "data")
  images = sources.load(data.records, "train")
  loader = Loader(images, data, config.runtime.seed)
  views = " + ".join(
    f"{view.count} x {view.kind} {view.size}"
    + ("" if view.link is None else f" linked to views.{view.link}")
    for view in data.views
  )
  print(f"{data.source}: {len(images):,} images, views {views}")
  print(f"{len(CORES)} cores, load {os.getloadavg()[0]:.1f}\n")
  if isinstance(images, sets.Arrays):
    _in_memory(loader, steps * _SMALL, rounds, wanted)
  else:
    why = "" if crops._native else "; the native one was not built"
    print(f"JPEG decoder: {crops.decoder()}{why}\n")
    _encoded(loader, threads, steps, rounds, wanted)
  if peers:
    print()
    pin(1)
    compare.compare(data, images, rounds)


@dataclasses.dataclass(frozen=True)
class Loader:
  """The loader that is measured.

  Attributes:
    images: the set to train on.
    data: config section.
    seed: seed of the order and the boxes.
  """

  images: sets.Images
  data: pipeline.Data
  seed: int

  def order(self, steps: int) -> Order:
    """An order of `steps` batches."""
    return Order(len(self.images), self.data.batch_size, steps, self.seed)

  def seconds(
    self, steps: int, put: Callable | None = None
  ) -> tuple[float, float]:
    """Measures the time of an iterator over `steps` batches.

    The iterator ends with the last batch, so nothing is prefetched beyond it.

    Args:
      steps: number of batches.
      put: turns a host batch into device arrays; None keeps batches on the
        host.

    Returns:
      Wall time, and the total core time of all cores, in seconds.
    """
    order, b = self.order(steps), self.data.batch_size
    start = len(order) - steps
    began = time.perf_counter(), time.process_time()
    batches = pipeline.host_batches(
      self.images, order, np.arange(b), self.data, start=start
    )
    if put is None:
      taken = sum(1 for _ in batches)
    else:
      with contextlib.closing(pipeline.Batches(batches, put)) as batches:
        taken = sum(1 for x in batches if jax.block_until_ready(x))
    assert taken == steps, (taken, steps)
    return time.perf_counter() - began[0], time.process_time() - began[1]


def _encoded(
  loader: Loader,
  threads: list[int] | None,
  steps: int,
  rounds: int,
  wanted: float | None,
) -> None:
  threads = threads or sorted({1, len(CORES)})
  seconds = {n: [] for n in threads}
  for turn in range(rounds + 1):
    for n in threads:
      pin(n)
      data = dataclasses.replace(loader.data, threads=n, workers=0)
      with_n = dataclasses.replace(loader, data=data)
      # The first batch is not counted: it imports modules and starts threads.
      times = with_n.seconds(steps if turn else 1)
      seconds[n] += [times] if turn else []
  images = steps * loader.data.batch_size
  print("the loader, each number of threads on as many cores, images/s")
  reference = [wall for wall, _ in seconds[threads[0]]]
  for n, times in seconds.items():
    walls, cores = zip(*times, strict=True)
    per_core = images / statistics.median(cores)
    gain = [a / b for a, b in zip(reference, walls, strict=True)]
    # Other processes can only slow a round, so the best rounds are affected
    # least.
    best = min(reference) / min(walls)
    print(
      f"  {n:3} thread{'s' if n > 1 else ' '}"
      f" {spread([images / x for x in walls])}; {per_core:,.1f} per second of"
      f" core time;\n              {statistics.median(gain):.2f} of"
      f" {threads[0]} thread, {best:.2f} by the best rounds"
    )
  if wanted:
    print(
      f"  an accelerator that takes {wanted:,.0f} images/s needs"
      f" {wanted / per_core:.1f}, so {math.ceil(wanted / per_core)} host cores"
    )
  print()
  pin(1)
  _stages(loader, rounds)


def _stages(loader: Loader, rounds: int) -> None:
  """Prints the core time per image of each stage of a batch."""
  data, b = loader.data, loader.data.batch_size
  order = loader.order(rounds)
  n = views_lib.uniforms_per_image(data.views)
  uniforms = np.random.default_rng(loader.seed).random((b, n))
  kept = {}  # results that a stage passes to the next

  def read(turn):
    kept["encoded"], kept["labels"] = loader.images.read(order[turn])

  def headers(turn):
    del turn
    found = [crops.readable(x, data.exif) for x in kept["encoded"]]
    kept["pictures"] = [picture for picture in found if picture]
    sizes = [picture.size for picture in kept["pictures"]]
    kept["sizes"] = np.array(sizes, np.int64).reshape(-1, 2)
    kept["bad"] = b - len(sizes)

  def boxes(turn):
    del turn
    mine = uniforms[: len(kept["sizes"])]
    kept["cuts"] = views_lib.random_cuts(data.views, mine, *kept["sizes"].T)

  def cut(turn):
    del turn
    channels = loader.images.channels
    outs = tuple(
      np.empty((b, *view.shape(channels)), np.uint8)
      for view in views_lib.each(data.views)
    )
    for row, picture in enumerate(kept["pictures"]):
      single = [x for o in outs for x in o[row].reshape(-1, *o.shape[-3:])]
      cuts = [x for view in kept["cuts"][row] for x in view]
      try:
        crops.cut(picture, cuts, single)
      except crops.BadImage:
        kept["bad"] += 1
    kept["views"] = outs

  def entropy(turn):
    del turn
    for picture in kept["pictures"]:
      with contextlib.suppress(ValueError):  # Damage, which `cut` counts.
        crops._native.entropy(picture.data)

  host = {
    "read": read, "headers": headers, "boxes": boxes, "decode and cut": cut,
  }  # fmt: skip
  encoded = loader.images.read(order[0])[0]
  jpegs = all(isinstance(x, bytes) and x[:2] == pictures.JPEG for x in encoded)
  floor = {"floor": entropy} if crops._native and jpegs else {}
  seconds = in_turns(host | floor, rounds)
  alone = seconds.pop("floor", None)
  micros = {k: statistics.median(x) / b * 1e6 for k, x in seconds.items()}
  total = sum(micros.values())
  print("stages, us of one core an image")
  for name, each in micros.items():
    print(f"  {name:15} {each:10,.1f}  {each / total:4.0%}")
  print(f"  {'all of these':15} {total:10,.1f}  {1e6 / total:,.1f} images/s")
  if alone:
    each = statistics.median(alone) / b * 1e6
    print(
      f"  entropy decoding alone takes {each:,.1f}, which allows"
      f" {1e6 / each:,.1f} images/s; the loader reaches {each / total:.0%}"
    )
  if kept["bad"]:
    print(f"  {kept['bad']} of {b} images cannot be decoded, and took no time")

  put, preprocess = device_part(data)
  batch = {"views": kept["views"], "label": kept["labels"]}
  small = jax.tree.map(lambda x: x[:_ROWS_ON_CPU], batch) if on_cpu() else batch
  small = put(small)
  device = {
    "to the device": lambda turn: jax.block_until_ready(put(batch)),
    "on the device": lambda turn: jax.block_until_ready(preprocess(small)),
  }
  wall = in_turns(device, rounds, clock=time.perf_counter)
  rows = {"to the device": b, "on the device": len(small["label"])}
  print(f"the device's part, us of one {one_device()} an image")
  for name, times in wall.items():
    print(f"  {name:15} {statistics.median(times) / rows[name] * 1e6:10,.1f}")


def _in_memory(
  loader: Loader, steps: int, rounds: int, wanted: float | None
) -> None:
  b = loader.data.batch_size
  put, preprocess = device_part(loader.data)
  batch = put(next(pipeline.host_batches(
      loader.images, loader.order(1), np.arange(b), loader.data
  )).arrays)  # fmt: skip
  loads = [steps * b / loader.seconds(steps, put)[0] for _ in range(rounds)]
  made = in_turns(
    {"views": lambda turn: jax.block_until_ready(preprocess(batch))},
    rounds,
    clock=time.perf_counter,
    least=0.2,
  )["views"]
  kind = "as the device too" if on_cpu() else f"one {one_device()}"
  print(f"images/s, all {len(CORES)} cores, {kind}")
  print(f"  the loader, into device memory {spread(loads)}")
  print(f"  all views, on the device       {spread([b / x for x in made])}")
  if wanted:
    share = wanted / statistics.median(loads)
    print(
      f"  an accelerator that takes {wanted:,.0f} images/s needs"
      f" {share:.1%} of what the loader gives"
    )
