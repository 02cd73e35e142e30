"""Parses the HLO text of a compiled TPU program.

The text comes from `Compiled.as_text()`: the optimised program of one chip of
the slice. `S(1)` in a layout means VMEM, the on-chip memory. An array without
it is in HBM.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

BYTES = {
  "pred": 1, "s4": 0.5, "u4": 0.5, "s8": 1, "u8": 1, "s16": 2, "u16": 2,
  "s32": 4, "u32": 4, "s64": 8, "u64": 8, "f16": 2, "bf16": 2, "f32": 4,
  "f64": 8, "f8e4m3fn": 1, "f8e5m2": 1,
}  # fmt: skip

_ARRAY = re.compile(r"(\w+)\[([\d,]*)\](?:\{([^}]*)\})?")
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = (.*?) ([\w\-]+)\((.*)")
_TILE = re.compile(r"T\((\d+)(?:,(\d+))?\)")
_CALLED = re.compile(
  r"(calls|body|to_apply|branch_computations)=\{?(%[\w.\-]+(?:, ?%[\w.\-]+)*)"
)


@dataclasses.dataclass(frozen=True)
class Array:
  """One array of a shape.

  Attributes:
    dtype: HLO's name of the dtype, such as bf16.
    dims: sizes of the dimensions.
    size: bytes, with the padding of tiles.
    in_hbm: whether it is in HBM, the chip's main memory.
  """

  dtype: str
  dims: tuple[int, ...]
  size: float
  in_hbm: bool

  def put(self, in_hbm: bool) -> Array:
    """A copy that is in HBM if `in_hbm`, else in another memory."""
    return dataclasses.replace(self, in_hbm=in_hbm)


def arrays(shape: str) -> list[Array]:
  """The arrays of a shape in HLO's text; the shape may be a tuple."""
  found = []
  for dtype, dims, layout in _ARRAY.findall(shape):
    if dtype not in BYTES:
      continue  # token[], opaque[]
    sizes = tuple(int(n) for n in dims.split(",") if n)
    elements = math.prod(_padded(sizes, layout))
    in_hbm = not re.search(r"S\([1-9]", layout)
    found.append(Array(dtype, sizes, elements * BYTES[dtype], in_hbm))
  return found


def _padded(dims: tuple[int, ...], layout: str) -> list[int]:
  """Sizes with the two minor dimensions rounded up to whole tiles."""
  sizes = list(dims)
  order, _, rest = layout.partition(":")
  tile = _TILE.search(rest)
  if not tile or not sizes:
    return sizes
  minor = [int(d) for d in order.split(",") if d]
  edges = [int(n) for n in reversed(tile.groups()) if n]
  for d, edge in zip(minor, edges, strict=False):
    sizes[d] = -(-sizes[d] // edge) * edge
  return sizes


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One line of a computation.

  Attributes:
    name: name, unique in the module.
    shape: shape of the result, as text.
    op: operation, such as fusion or all-reduce.
    operands: names of the operands.
    attributes: the text after the operands.
    root: whether it is the result of its computation.
    inside: the operands as text. For a parameter this is its number, for a
      constant its value.
  """

  name: str
  shape: str
  op: str
  operands: tuple[str, ...]
  attributes: str
  root: bool
  inside: str

  @functools.cached_property
  def results(self) -> list[Array]:
    """The arrays of the result."""
    return arrays(self.shape)

  @functools.cached_property
  def called(self) -> dict[str, list[str]]:
    """Names of called computations, by kind of call."""
    return {
      kind: re.findall(r"%([\w.\-]+)", names)
      for kind, names in _CALLED.findall(self.attributes)
    }

  @property
  def op_name(self) -> str:
    """The place in the traced function that it comes from, or ""."""
    found = re.search(r'op_name="([^"]*)"', self.attributes)
    return found[1] if found else ""

  @property
  def chain(self) -> str:
    """An id that all instructions of one collective share.

    XLA may run a collective in parallel with several fusions. Then its
    instruction appears in each of them.
    """
    chain = re.search(r'chain_id="(\d+)"', self.attributes)
    channel = re.search(r"channel_id=(\d+)", self.attributes)
    return f"{channel and channel[1]} {chain[1]}" if chain else self.name


@dataclasses.dataclass(frozen=True)
class Module:
  """A parsed program.

  Attributes:
    computations: instructions by name, in their order, by computation.
    entry: name of the computation that the program runs.
  """

  computations: dict[str, dict[str, Instruction]]
  entry: str

  def run(
    self, name: str | None = None, times: int = 1
  ) -> Iterator[tuple[Instruction, dict[str, Instruction], int]]:
    """Yields every executed instruction.

    It follows loops, calls and all branches, but not fusions.

    Args:
      name: name of a computation; by default the entry.
      times: how often the computation is executed.

    Yields:
      The instruction, the instructions of its computation by name, and how
      often it is executed.
    """
    body = self.computations[name or self.entry]
    for instruction in body.values():
      yield instruction, body, times
      if instruction.op in ("while", "conditional", "call"):
        more = times * self._trips(instruction)
        for names in instruction.called.values():
          for inner in names:
            yield from self.run(inner, more)

  def deep(self) -> Iterator[tuple[Instruction, dict[str, Instruction], int]]:
    """Yields what `run` does, and what is inside fusions and async calls."""

    def inside(x: Instruction, body: dict[str, Instruction], times: int):
      yield x, body, times
      if x.op == "fusion" or x.op.endswith("-start"):
        for name in x.called.get("calls", []):
          inner = self.computations[name]
          for y in inner.values():
            yield from inside(y, inner, times)

    for found in self.run():
      yield from inside(*found)

  def _trips(self, loop: Instruction) -> int:
    """How often the body of a loop runs; 1 for calls and branches.

    A loop of known length counts from 0 to a constant, which is the only number
    in its condition. JAX counts by 1. XLA may unroll its own loops and count
    by 2.
    """
    found = re.search(r"condition=%([\w.\-]+)", loop.attributes)
    if not found:
      return 1
    names, counts, counter = [found[1]], [1], None
    for name in names:
      for x in self.computations[name].values():
        names += x.called.get("calls", [])
        if x.op == "constant" and x.inside.isdigit():
          counts.append(int(x.inside))
        if x.op == "get-tuple-element":
          counter = _index(x)
    return -(-max(counts) // self._increment(loop, counter))

  def _increment(self, loop: Instruction, counter: int | None) -> int:
    """What the body of a loop adds to its counter; 1 if it is not a sum."""
    body = self.computations[loop.called["body"][0]]
    (root,) = (x for x in body.values() if x.root)
    if counter is None or root.op != "tuple":
      return 1
    new = body[root.operands[counter]]
    if new.op != "add":
      return 1
    added = [body[x] for x in new.operands]
    return sum(int(x.inside) for x in added if x.op == "constant") or 1


def _index(x: Instruction) -> int:
  return int(re.search(r"index=(\d+)", x.attributes)[1])


def parse(text: str) -> Module:
  """Parses the text of a module.

  Raises:
    ValueError: the text has no entry computation.
  """
  computations, entry, body = {}, None, None
  for line in text.splitlines():
    if body is None:
      found = _COMPUTATION.match(line)
      if found:
        body = computations[found[2]] = {}
        entry = found[2] if found[1] else entry
    elif line.startswith("}"):
      body = None
    elif found := _INSTRUCTION.match(line):
      root, name, shape, op, rest = found.groups()
      inside, _, after = rest.partition(")")
      operands = tuple(re.findall(r"%([\w.\-]+)", inside))
      body[name] = Instruction(
        name, shape, op, operands, after, bool(root), inside
      )
  if entry is None:
    raise ValueError(
      "this is not the text of a compiled program: it has no ENTRY"
    )
  return Module(computations, entry)
