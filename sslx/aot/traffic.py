"""Computes the traffic of a compiled step: through HBM, and between chips.

`cost_analysis()["bytes accessed"]` is not HBM traffic: it includes arrays in
VMEM, and counts the whole operand of an instruction that reads a slice of it.
This module counts what each instruction reads from HBM and writes to it.
"""

from __future__ import annotations

import dataclasses
import math
import re

from sslx.aot.hlo import Array, Instruction, Module

# Operations without HBM traffic of their own: they only name or pass on arrays,
# or run other instructions, which are counted themselves.
_FREE = {
  "parameter", "tuple", "get-tuple-element", "bitcast", "constant",
  "opt-barrier", "after-all", "partition-id", "replica-id", "domain", "while",
  "conditional", "call",
}  # fmt: skip
_FREE_CALLS = ("ConcatBitcast", "AllocateBuffer", "Sharding")
_READ_A_PART = {"slice", "dynamic-slice", "gather"}
KINDS = (
  "all-reduce", "reduce-scatter", "all-gather", "all-to-all",
  "collective-permute",
)  # fmt: skip


def hbm_bytes(module: Module) -> float:
  """Bytes that one chip reads from and writes to its HBM in a step."""
  seen = set()  # ids of collectives that are already counted
  return sum(
    times * _moved(module, instruction, body, seen)
    for instruction, body, times in module.run()
  )


def _moved(
  module: Module,
  instruction: Instruction,
  body: dict[str, Instruction],
  seen: set[str],
) -> float:
  """HBM bytes of one instruction."""
  op, results = instruction.op, instruction.results
  if op in _FREE or op.endswith("-done"):
    return 0
  if op == "custom-call" and any(
    f'"{name}"' in instruction.attributes for name in _FREE_CALLS
  ):
    return 0
  operands = [
    body[name].results if name in body else [] for name in instruction.operands
  ]
  if op == "copy-start":  # (destination, source, flag)
    return _hbm(results[:2])
  if op == "slice-start":  # ((whole operands), slices, flag)
    slices = results[len(operands) : 2 * len(operands)]
    read = [x.put(y.in_hbm) for x, y in zip(slices, results, strict=False)]
    return _hbm(slices) + _hbm(read)
  if op.removesuffix("-start") in KINDS:
    if op != "all-reduce-start" and op.endswith("-start"):
      results = results[len(operands) :]  # The operands come first.
    return _hbm(results) + sum(map(_hbm, operands))
  if op in _READ_A_PART:
    read = [x.put(operands[0][0].in_hbm) for x in results]
    return _hbm(results) + _hbm(read)
  if op == "dynamic-update-slice":  # In place.
    return _hbm(operands[1]) + _hbm([operands[1][0].put(results[0].in_hbm)])
  if op == "fusion":
    inner = module.computations[instruction.called["calls"][0]]
    return _fused(inner, module, operands, results, seen)
  different = dict(zip(instruction.operands, operands, strict=True))
  return _hbm(results) + sum(map(_hbm, different.values()))


def _hbm(found: list[Array]) -> float:
  return sum(x.size for x in found if x.in_hbm)


def _fused(
  inner: dict[str, Instruction],
  module: Module,
  operands: list[list[Array]],
  results: list[Array],
  seen: set[str],
) -> float:
  """HBM bytes of a fusion: the used parts of its operands, and its results."""
  repeated = {
    x.name for x in inner.values() if x.op in KINDS and x.chain in seen
  }
  seen |= {x.chain for x in inner.values() if x.op in KINDS}
  total = 0.0
  for x in inner.values():
    if x.op == "parameter" and (whole := _hbm(operands[int(x.inside)])):
      total += min(whole, _used(inner, x.name, module, repeated))
  (root,) = [x for x in inner.values() if x.root]
  names = root.operands if root.op == "tuple" else (root.name,)
  for name, result in zip(names, results, strict=False):
    if result.in_hbm:
      total += min(result.size, _written(inner, name, repeated))
  return total


def _used(
  inner: dict[str, Instruction],
  name: str,
  module: Module,
  repeated: set[str] = frozenset(),
  result: float = math.inf,
) -> float:
  """Bytes that a fusion reads of one of its values.

  Args:
    inner: instructions of the fusion.
    name: name of the value.
    module: the module, to look up nested fusions.
    repeated: collectives that were counted before.
    result: bytes of the result of `inner` that are used.

  Returns:
    Infinity if the whole value is read.
  """
  total = result if inner[name].root else 0.0
  for user in inner.values():
    if name not in user.operands or user.name in repeated:
      continue
    if user.op in _READ_A_PART and user.operands[0] == name:
      total += sum(x.size for x in user.results)
    elif user.op == "dynamic-update-slice" and user.operands[0] == name:
      continue  # Written in place.
    elif user.op == "bitcast":
      total += _used(inner, user.name, module, repeated, result)
    elif user.op == "fusion":
      nested = module.computations[user.called["calls"][0]]
      after = _used(inner, user.name, module, repeated, result)
      total += sum(
        _used(nested, x.name, module, result=after)
        for x in nested.values()
        if x.op == "parameter" and user.operands[int(x.inside)] == name
      )
    elif user.op != "tuple":  # A tuple of results only passes it on.
      return math.inf
  return total


def _written(
  inner: dict[str, Instruction], name: str, repeated: set[str]
) -> float:
  """Bytes that a fusion writes of a result; infinity for the whole result."""
  made = inner[name]
  while made.op == "bitcast":
    made = inner[made.operands[0]]
  if made.op == "parameter" or made.name in repeated:
    return 0
  if made.op == "dynamic-update-slice":
    return sum(x.size for x in inner[made.operands[1]].results)
  return math.inf


@dataclasses.dataclass(frozen=True)
class Collective:
  """One exchange between chips.

  Attributes:
    kind: one of KINDS.
    dtype: dtype of the moved array; for a sum, the dtype that it is summed in.
    payload: bytes of the array that is summed, gathered or sent, on one chip:
      the whole array of an all-reduce, the gathered array of an all-gather.
    group: number of chips in a group that exchanges data.
    times: number of times per step.
    backward: whether it is part of the backward pass.
  """

  kind: str
  dtype: str
  payload: float
  group: int
  times: int
  backward: bool

  @property
  def sent(self) -> float:
    """Bytes that one chip sends in a step, by the best ring algorithm."""
    share = (self.group - 1) / self.group
    if self.kind == "all-reduce":
      share *= 2  # A reduce-scatter, then an all-gather.
    elif self.kind == "collective-permute":
      share = 1
    return self.times * self.payload * share


def collectives(module: Module, chips: int) -> list[Collective]:
  """The collectives of a step.

  A collective of arrays of several dtypes has one entry for each dtype.
  """
  seen, found = set(), []
  for instruction, _, times in module.deep():
    kind = instruction.op.removesuffix("-start")
    if kind not in KINDS:
      continue
    # A collective that runs in parallel with several fusions appears in each of
    # them.
    if instruction.chain in seen:
      continue
    seen.add(instruction.chain)
    moved = [x for x in instruction.results if x.dims or kind == "all-reduce"]
    if instruction.op.endswith("-start") and kind != "all-reduce":
      moved = moved[len(moved) // 2 :]  # (operands, results, flags)
    group = _group(instruction.attributes, chips)
    if group == 1:
      continue
    scale = group if kind == "reduce-scatter" else 1
    sizes: dict[str, float] = {}
    for x in moved:
      sizes[x.dtype] = sizes.get(x.dtype, 0) + x.size * scale
    backward = "transpose(" in instruction.op_name
    found += [
      Collective(kind, dtype, size, group, times, backward)
      for dtype, size in sizes.items()
    ]
  return found


def _group(attributes: str, chips: int) -> int:
  """The number of chips in one group of a collective."""
  if "source_target_pairs" in attributes:
    return chips
  if found := re.search(r"replica_groups=\{\{([\d,]+)\}", attributes):
    return found[1].count(",") + 1
  if found := re.search(r"replica_groups=\[(\d+),(\d+)\]", attributes):
    return int(found[2])
  if found := re.search(
    r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", attributes
  ):
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", found[1]))
    count = 1
    for axis in re.findall(r"'(\w+)'", found[2]):
      count *= int(sizes[axis])
    return count
  return chips  # replica_groups={} means all chips.
