"""Chips, and the slices that are made of them.

Figures are Google's, from docs.cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}, read
in November 2026. What is said there of the interconnect is both directions of
all ports of a chip; that of v4 is from Jouppi et al., TPU v4: An Optically
Reconfigurable Supercomputer, 2023, table 4. vCPUs are those of the machine
types ct4p-hightpu-4t, ct5lp-hightpu-4t, ct5p-hightpu-4t and ct6e-standard-4t.
"""

from __future__ import annotations

import dataclasses
import math
import os
from typing import Any

from sslx.config import ConfigError


@dataclasses.dataclass(frozen=True)
class Chip:
  """One generation.

  Attributes:
    flops: per second, of bfloat16 products. A float32 product at JAX's default
      precision is one bfloat16 product, so it is as fast.
    hbm: bytes.
    hbm_bandwidth: bytes per second.
    link: bytes per second, one direction of one link to a neighbour.
    axes: of the torus; each chip has two links on each.
    wrap: sizes of an axis that close to a ring are the multiples of this.
    host_cpus: vCPUs of a host, which has CHIPS_PER_HOST.
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
# Slices of two axes that are offered, by chips. (Those of three axes have many
# shapes for a number of chips.)
FLAT = {
  1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16",
  256: "16x16",
}  # fmt: skip
# Seconds for a hop from chip to chip, whatever the size: the scaling book,
# jax-ml.github.io/scaling-book/sharding.
HOP = 1e-6


@dataclasses.dataclass(frozen=True)
class Slice:
  """A slice of a TPU pod.

  Attributes:
    name: such as v5e:4x4.
    chip: what it is made of.
    shape: chips along each axis.
  """

  name: str
  chip: Chip
  shape: tuple[int, ...]

  @classmethod
  def named(cls, name: str) -> Slice:
    """The slice of that name.

    Raises:
      ConfigError: there is none.
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
    """How many."""
    return math.prod(self.shape)

  @property
  def hosts(self) -> int:
    """How many."""
    return max(1, self.chips // CHIPS_PER_HOST)

  @property
  def bandwidth(self) -> float:
    """Bytes per second that each chip can send in a collective of all.

    A ring uses both links of a chip on its axis, a line only one.
    """
    links = sum(
      2 if n % self.chip.wrap == 0 else 1 for n in self.shape if n > 1
    )
    return links * self.chip.link

  @property
  def latency(self) -> float:
    """Seconds that a collective of all takes, however little it moves."""
    hops = (n // 2 if n % self.chip.wrap == 0 else n - 1 for n in self.shape)
    return HOP * sum(hops)

  def devices(self) -> list[Any]:
    """Descriptions of the chips, to compile for; one device each.

    Raises:
      ConfigError: libtpu is not installed, or knows no such slice.
    """
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # This is no TPU VM.
    # No chip is used, so other processes may have libtpu open.
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
    if self.name.startswith("v4"):  # Two cores as one device, as in JAX.
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
