"""TPU chips and slices.

Figures are Google's, from docs.cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}, read
in November 2026. The interconnect bandwidth there is the sum over both
directions of all ports of a chip; v4's is from Jouppi et al., TPU v4: An
Optically Reconfigurable Supercomputer, 2023, table 4. vCPUs are those of the
machine types ct4p-hightpu-4t, ct5lp-hightpu-4t, ct5p-hightpu-4t and
ct6e-standard-4t.
"""

from __future__ import annotations

import dataclasses
import math
import os
from typing import Any

from sslx.config import ConfigError


@dataclasses.dataclass(frozen=True)
class Chip:
  """One generation of chips.

  Attributes:
    flops: FLOP/s of bfloat16 products. A float32 product at JAX's default
      precision is one bfloat16 product, so it is as fast.
    hbm: bytes of HBM.
    hbm_bandwidth: bytes per second.
    link: bytes per second in one direction of one link to a neighbour.
    axes: number of axes of the torus; each chip has two links per axis.
    wrap: an axis closes to a ring if its size is a multiple of this.
    host_cpus: vCPUs of a host with CHIPS_PER_HOST chips.
  """

  flops: float
  hbm: float
  hbm_bandwidth: float
  link: float
  axes: int
  wrap: int
  host_cpus: int


CHIPS = {
  "v4": Chip(275e12, 32 * 2**30, 1200e9, 50e9, 3, 4, 240),
  "v5e": Chip(197e12, 16 * 2**30, 819e9, 50e9, 2, 16, 112),
  "v5p": Chip(459e12, 95 * 2**30, 2765e9, 100e9, 3, 4, 208),
  "v6e": Chip(918e12, 32 * 2**30, 1638e9, 100e9, 2, 16, 180),
}
CHIPS_PER_HOST = 4
# Shapes of two-axis slices, by number of chips. (For three axes, a number of
# chips has many shapes.)
FLAT = {
  1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16",
  256: "16x16",
}  # fmt: skip
# Latency in seconds of a hop from chip to chip, from the scaling book:
# jax-ml.github.io/scaling-book/sharding.
HOP = 1e-6


@dataclasses.dataclass(frozen=True)
class Slice:
  """A slice of a TPU pod.

  Attributes:
    name: name, such as v5e:4x4.
    chip: generation of its chips.
    shape: chips along each axis.
  """

  name: str
  chip: Chip
  shape: tuple[int, ...]

  @classmethod
  def named(cls, name: str) -> Slice:
    """Parses the name of a slice.

    Raises:
      ConfigError: the generation is unknown, or has another number of axes.
    """
    kind, _, shape = name.partition(":")
    chip = CHIPS.get(kind)
    if chip is None:
      raise ConfigError(
        f"--topology={name}: {kind!r} is none of {', '.join(CHIPS)}."
      )
    sizes = shape.split("x")
    if len(sizes) != chip.axes or not all(
      n.isdigit() and int(n) for n in sizes
    ):
      example = "4x4" if chip.axes == 2 else "2x2x2"
      raise ConfigError(
        f"--topology={name}: a slice of {kind} has {chip.axes} sizes, such as"
        f" {kind}:{example}."
      )
    return cls(name, chip, tuple(map(int, sizes)))

  @property
  def chips(self) -> int:
    """Number of chips."""
    return math.prod(self.shape)

  @property
  def hosts(self) -> int:
    """Number of hosts."""
    return max(1, self.chips // CHIPS_PER_HOST)

  @property
  def bandwidth(self) -> float:
    """Bytes per second that each chip can send in a collective over all chips.

    On an axis that is a ring, a chip uses both links; on a line, only one.
    """
    links = sum(
      2 if n % self.chip.wrap == 0 else 1 for n in self.shape if n > 1
    )
    return links * self.chip.link

  @property
  def latency(self) -> float:
    """Minimum seconds of a collective over all chips, for any size."""
    hops = (n // 2 if n % self.chip.wrap == 0 else n - 1 for n in self.shape)
    return HOP * sum(hops)

  def devices(self) -> list[Any]:
    """Descriptions of the chips to compile for, one device per chip.

    Raises:
      ConfigError: libtpu is not installed, or does not know the slice.
    """
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # Not on a TPU VM.
    # No chip is used, so several processes may load libtpu.
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    import jax
    from jax.experimental import topologies

    try:
      import libtpu  # noqa: F401
    except ModuleNotFoundError as error:
      raise ConfigError(
        "sslx.aot compiles with libtpu, which is not installed: pip install"
        " -e '.[tpu]'"
      ) from error
    settings = {}
    if self.chips == 1:
      settings["chips_per_host_bounds"] = [1] * 3
    if self.name.startswith("v4"):  # JAX treats the two cores as one device.
      settings["chip_config_name"] = "megacore"
    try:
      found = topologies.get_topology_desc(
        platform="tpu", topology_name=self.name, **settings
      )
    except jax.errors.JaxRuntimeError as error:
      raise ConfigError(
        f"--topology={self.name}: libtpu refuses it: {error}"
      ) from error
    return found.devices
