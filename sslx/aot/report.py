"""The report on a compiled step: memory, work, traffic, and their bounds."""

from __future__ import annotations

import dataclasses
import math

from sslx.aot import flops, hlo, traffic
from sslx.aot.chips import Slice
from sslx.aot.compile import Program
from sslx.benchmark import work
from sslx.experiment import Experiment

GIB = 2**30
_NAMES = {"bf16": "bfloat16", "f32": "float32", "s32": "int32", "u8": "uint8"}


@dataclasses.dataclass(frozen=True)
class Report:
  """The figures of one step, per chip.

  Attributes:
    slice: the slice.
    batch_size: global batch size.
    state: bytes of each part of the state and of the batch.
    program: the compiled step.
    repeated: FLOPs of loops that XLA's count leaves out, see `flops`.
    needed: FLOPs that the method needs.
    hbm_bytes: bytes read from and written to HBM.
    collectives: exchanges between chips.
    recomputed: number of fusions that XLA computes twice to save memory.
  """

  slice: Slice
  batch_size: int
  state: dict[str, float]
  program: Program
  repeated: float
  needed: float
  hbm_bytes: float
  collectives: list[traffic.Collective]
  recomputed: int

  @classmethod
  def of(cls, experiment: Experiment, where: Slice, program: Program) -> Report:
    """Makes the report of a compiled experiment."""
    module = hlo.parse(program.text)
    return cls(
      where,
      experiment.data.batch_size,
      state_bytes(experiment),
      program,
      flops.repeated(module),
      work.required(experiment) / where.chips,
      traffic.hbm_bytes(module),
      traffic.collectives(module, where.chips),
      sum(".remat" in x.name for x, _, _ in module.run() if x.op == "fusion"),
    )

  @property
  def flops(self) -> float:
    """FLOPs of a step."""
    return self.program.flops + self.repeated

  @property
  def sent(self) -> float:
    """Bytes sent to other chips in a step."""
    return sum(x.sent for x in self.collectives)

  @property
  def seconds(self) -> dict[str, float]:
    """Minimum seconds of a step by compute, memory and network."""
    chip = self.slice.chip
    calls = sum(x.times for x in self.collectives)
    return {
      "compute": self.flops / chip.flops,
      "memory": self.hbm_bytes / chip.hbm_bandwidth,
      "network": self.sent / (self.slice.bandwidth or math.inf)
      + calls * self.slice.latency,
    }

  @property
  def bound(self) -> str:
    """The key of the longest time in `seconds`."""
    return max(self.seconds, key=self.seconds.get)

  @property
  def images_per_second(self) -> float:
    """Maximum images per second, over all chips."""
    return self.batch_size / max(self.seconds.values())

  def sums(self, backward: bool) -> dict[str, float]:
    """Bytes summed over chips, by dtype, largest first.

    Args:
      backward: whether to count the sums of the backward pass, or all others.
    """
    found: dict[str, float] = {}
    for x in self.collectives:
      if x.kind in ("all-reduce", "reduce-scatter") and x.backward == backward:
        found[x.dtype] = found.get(x.dtype, 0) + x.payload * x.times
    return dict(sorted(found.items(), key=lambda item: -item[1]))

  def lines(self, host_images_per_second: float | None) -> list[str]:
    """The lines of the whole report.

    Args:
      host_images_per_second: images/s of one host core, from `benchmark input`,
        or None.
    """
    return [
      *self._memory(),
      *self._work(),
      *self._exchanged(),
      *self._bounds(),
      self._hosts(host_images_per_second),
    ]

  def _memory(self) -> list[str]:
    program = self.program
    size = self.slice.chip.hbm
    held = dict(self.state) | {
      "within the step": program.temporaries,
      "program": program.code,
    }
    # The rest of arguments and outputs: padding of tiles, and outputs that do
    # not reuse an argument's memory.
    held["padding and metrics"] = program.peak - sum(held.values())
    return [
      "memory, GiB a chip",
      *(f"  {name:20} {x / GIB:8.2f}" for name, x in held.items()),
      f"  {'all':20} {program.peak / GIB:8.2f} of {size / GIB:.0f}"
      f" ({program.peak / size:.0%})",
    ]

  def _work(self) -> list[str]:
    lines = [
      f"FLOPs a chip: {self.flops / 1e12:.3f} T; the method needs"
      f" {self.needed / 1e12:.3f} ({self.flops / self.needed:.3f} times)"
    ]
    if self.recomputed:
      lines.append(
        f"  XLA does {self.recomputed} fusions a second time to save memory"
      )
    return [*lines, f"HBM traffic a chip: {self.hbm_bytes / 1e9:.1f} GB"]

  def _exchanged(self) -> list[str]:
    if not self.collectives:
      return ["between chips: nothing"]
    lines = ["between chips, a chip and step"]
    for (kind, dtype), (calls, payload, sent) in self.exchanged().items():
      lines.append(
        f"  {kind:20} {_NAMES.get(dtype, dtype):9} {calls:5} times"
        f" {payload / 1e6:10.2f} MB, sends {sent / 1e6:10.2f} MB"
      )
    sums = [
      f"{_NAMES.get(dtype, dtype)} ({size / 1e6:.1f} MB)"
      for dtype, size in self.sums(backward=True).items()
    ]
    if sums:
      lines.append(f"  the backward pass is summed in {', '.join(sums)}")
    return lines

  def exchanged(self) -> dict[tuple[str, str], tuple[int, float, float]]:
    """(number of calls, bytes of the arrays, bytes sent) by kind and dtype."""
    found: dict[tuple[str, str], tuple[int, float, float]] = {}
    for x in self.collectives:
      calls, payload, sent = found.get((x.kind, x.dtype), (0, 0.0, 0.0))
      found[x.kind, x.dtype] = (
        calls + x.times,
        payload + x.payload * x.times,
        sent + x.sent,
      )
    return found

  def _bounds(self) -> list[str]:
    where, chip = self.slice, self.slice.chip
    rates = {
      "compute": f"{chip.flops / 1e12:.0f} TFLOP/s",
      "memory": f"{chip.hbm_bandwidth / 1e9:.0f} GB/s",
      "network": f"{where.bandwidth / 1e9:.0f} GB/s, and"
      f" {where.latency * 1e6:.0f} us a collective",
    }
    return [
      "a step takes at least, ms",
      *(
        f"  {name:8} {seconds * 1e3:10.2f}  at {rates[name]}"
        for name, seconds in self.seconds.items()
      ),
      f"at most {self.images_per_second:,.0f} images/s,"
      f" {self.images_per_second / where.chips:,.0f} a chip: {self.bound} is"
      " the bound",
    ]

  def _hosts(self, per_core: float | None) -> str:
    where, cpus = self.slice, self.slice.chip.host_cpus
    each = self.images_per_second / where.hosts
    need = f"each of {where.hosts} hosts has to give {each:,.0f} images/s"
    if where.hosts == 1:
      need = f"the host has to give {each:,.0f} images/s"
    if per_core is None:
      return (
        f"{need}: {each / cpus:,.1f} for each of its {cpus} vCPUs."
        " `sslx.benchmark input` measures what a core gives; give it as"
        " --host_images_per_second"
      )
    cores = math.ceil(each / per_core)
    return (
      f"{need}: {cores} cores at {per_core:,.0f} images/s; it has"
      f" {cpus} vCPUs, two a core"
    )


def state_bytes(experiment: Experiment) -> dict[str, float]:
  """Bytes on one chip of each part of the state, and of the batch."""
  state = experiment.abstract_state
  rest = (state.model_state, state.aux, state.probe, state.step, state.rng)
  return {
    "parameters": work.tree_bytes(state.params),
    "optimiser": work.tree_bytes(state.opt_state),
    "other state": work.tree_bytes(rest),
    "batch": work.tree_bytes(experiment.abstract_batch),
  }
