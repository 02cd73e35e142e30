"""FLOPs of loops, which XLA's cost analysis counts once."""

from __future__ import annotations

import math
import re

from sslx.aot.hlo import Instruction, Module


def repeated(module: Module) -> float:
  """FLOPs of all runs of a loop's body after the first.

  XLA's cost analysis counts the body of a loop once. These are the products
  that it leaves out. On a TPU, all matrix products are convolutions. XLA makes
  loops also where the source has none: under `fsdp`, a product with gathered
  weights becomes a loop over the parts of the weights.
  """
  products = {"convolution": _convolution, "dot": _dot}
  return sum(
    (times - 1) * products[x.op](x, body)
    for x, body, times in module.deep()
    if times > 1 and x.op in products
  )


def _dot(x: Instruction, body: dict[str, Instruction]) -> float:
  (lhs,), (out,) = body[x.operands[0]].results, x.results
  summed = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", x.attributes)[1]
  width = math.prod(lhs.dims[int(i)] for i in summed.split(",") if i)
  return 2.0 * math.prod(out.dims) * width


def _convolution(x: Instruction, body: dict[str, Instruction]) -> float:
  """FLOPs of a convolution, without products of padding and dilation."""
  labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", x.attributes)
  lhs, rhs = (body[name].results[0].dims for name in x.operands[:2])
  (out,) = x.results
  sizes = lambda label, dims: dict(zip(label, dims, strict=True))
  lhs, rhs = sizes(labels[1], lhs), sizes(labels[2], rhs)
  out = sizes(labels[3], out.dims)
  count = 2.0 * out["b"] * out["f"] * rhs["i"]
  window = re.search(r"window=\{([^}]*)\}", x.attributes)
  spatial = sorted(key for key in rhs if key.isdigit())
  for i, key in enumerate(spatial):
    count *= _positions(window[1], i, lhs[key], rhs[key], out[key])
  return count


def _positions(window: str, i: int, size: int, kernel: int, out: int) -> int:
  """Pairs of an output and a kernel position that meet an element.

  Args:
    window: attributes of the window.
    i: number of the spatial dimension.
    size: size of the input.
    kernel: size of the kernel.
    out: size of the output.
  """

  def of(name: str, default: str) -> str:
    found = re.search(rf"\b{name}=([\dx_\-]+)", window)
    return found[1].split("x")[i] if found else default

  stride, dilation = int(of("stride", "1")), int(of("rhs_dilate", "1"))
  holes = int(of("lhs_dilate", "1"))
  low = int(of("pad", "0_0").split("_")[0])
  end = (size - 1) * holes + 1
  count = 0
  for k in range(kernel):
    at = (o * stride - low + k * dilation for o in range(out))
    count += sum(0 <= p < end and p % holes == 0 for p in at)
  return count
