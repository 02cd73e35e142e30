"""What programs move, beside what they are known to.

recorded/ has programs for a v5e:4x4 as libtpu compiled them, see `record.py`:
`data` and `fsdp`, a layer of 1024 x 1024 under data parallelism, weights whole
or sharded; `queue` and `loop`. The other programs are compiled here, for CPUs.
"""

import pathlib

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from sslx.aot import flops, hlo, traffic

RECORDED = pathlib.Path(__file__).parent / "recorded"
W = 1024 * 1024  # elements of the weights
X = 256 * 1024  # elements of a chip's rows


def recorded(name):
  return hlo.parse((RECORDED / f"{name}.txt").read_text())


def test_a_layer_reads_weights_and_rows_twice_and_writes_the_weights():
  # Forward and update; forward and backward. All else stays in VMEM.
  assert traffic.hbm_bytes(recorded("data")) == 4 * (2 * W + 2 * X + W)


def test_rows_that_are_put_into_a_queue_move_and_the_queue_does_not():
  rows = 256 * 128 * 4
  assert traffic.hbm_bytes(recorded("queue")) == pytest.approx(
    2 * rows, abs=100
  )


def test_a_loop_moves_its_body_as_often_as_it_runs():
  x, w = 16384 * 4096 * 4, 4096 * 4096 * 4
  # A copy before the loop; in each of five turns a copy and a product.
  assert traffic.hbm_bytes(recorded("loop")) == pytest.approx(
    w + 2 * x + 5 * (2 * x + 2 * x), rel=1e-6
  )


def test_products_of_a_loop_count_as_often_as_it_runs():
  # XLA's own count has the first of five turns.
  one = 2 * 16384 * 4096 * 4096
  assert flops.repeated(recorded("loop")) == 4 * one
  assert flops.repeated(recorded("data")) == 0


def test_a_loop_that_counts_by_two_runs_half_as_often():
  # Written by hand in the shape of a product with gathered weights: XLA unrolls
  # its loop once, and puts two parts of the weights side by side in a window.
  assert (
    flops.repeated(recorded("unrolled")) == (8 / 2 - 1) * 2 * 8 * (2 * 3) * 4
  )


def test_gradients_of_a_bfloat16_layer_are_summed_in_bfloat16():
  (found,) = traffic.collectives(recorded("data"), 16)
  assert found == traffic.Collective(
    "all-reduce", "bf16", 2 * W, group=16, times=1, backward=True
  )
  assert found.sent == 2 * 15 / 16 * 2 * W


def test_sharded_weights_are_gathered():
  gather, total = traffic.collectives(recorded("fsdp"), 16)
  assert (gather.kind, gather.payload) == ("all-gather", 2 * W)
  assert gather.sent == 15 / 16 * 2 * W
  assert (total.kind, total.payload) == ("all-reduce", 2 * W)


def test_a_collective_beside_several_fusions_counts_once():
  part = """
%fused.{n} (p: bf16[64,8]) -> bf16[512,8] {{
  %p.{n} = bf16[64,8]{{1,0}} parameter(0)
  ROOT %all-gather.{n} = bf16[512,8]{{1,0}} all-gather(%p.{n}), channel_id=4, \
replica_groups=mesh['a'=8] {{'a'}}, dimensions={{0}}, \
frontend_attributes={{chain_id="0"}}
}}
"""
  entry = """
ENTRY %main (x: bf16[64,8]) -> bf16[512,8] {
  %x = bf16[64,8]{1,0} parameter(0)
  %start = bf16[512,8]{1,0} fusion(%x), kind=kCustom, calls=%fused.1
  ROOT %done = bf16[512,8]{1,0} fusion(%x), kind=kCustom, calls=%fused.2
}
"""
  module = hlo.parse(part.format(n=1) + part.format(n=2) + entry)
  (found,) = traffic.collectives(module, 8)
  assert (found.payload, found.times, found.group) == (512 * 8 * 2, 1, 8)
  assert traffic.hbm_bytes(module) == (64 + 512) * 8 * 2


def compiled(function, *shapes):
  text = jax.jit(function).lower(*shapes).compile().as_text()
  return hlo.parse(text)


def test_an_elementwise_program_reads_its_operands_and_writes_its_result():
  x = jax.ShapeDtypeStruct((300, 7), jnp.float32)
  module = compiled(lambda a, b: jnp.sin(a) * b, x, x)
  assert traffic.hbm_bytes(module) == 3 * 300 * 7 * 4


def test_a_slice_is_read_and_not_what_it_is_of():
  x = jax.ShapeDtypeStruct((1000, 64), jnp.float32)
  module = compiled(lambda x: 2 * x[10:30], x)
  assert traffic.hbm_bytes(module) == 2 * 20 * 64 * 4


@pytest.fixture(scope="module")
def mesh():
  kinds = (AxisType.Auto, AxisType.Auto)
  return jax.make_mesh((4, 2), ("data", "model"), kinds)


@pytest.mark.parametrize(
  ("kind", "axes", "group", "shape"),
  [
    ("all-reduce", "data", 4, (24, 8)),
    ("all-reduce", ("data", "model"), 8, (24, 8)),
    ("all-gather", "model", 2, (48, 8)),
    ("reduce-scatter", "data", 4, (24, 8)),
    ("all-to-all", "data", 4, (24, 8)),
    ("collective-permute", "data", 8, (24, 8)),
  ],
)
def test_kinds_of_collectives(mesh, kind, axes, group, shape):
  """The payload is the array that is summed, gathered or sent."""
  operations = {
    "all-reduce": lambda x: jax.lax.psum(x, axes),
    "all-gather": lambda x: jax.lax.all_gather(x, axes, tiled=True),
    "reduce-scatter": lambda x: jax.lax.psum_scatter(x, axes, tiled=True),
    "all-to-all": lambda x: jax.lax.all_to_all(x, axes, 0, 0, tiled=True),
    "collective-permute": lambda x: jax.lax.ppermute(
      x, axes, [(i, (i + 1) % 4) for i in range(4)]
    ),
  }
  function = jax.shard_map(
    operations[kind],
    mesh=mesh,
    in_specs=P(),
    out_specs=P(("data", "model")),
    check_vma=False,
  )
  x = jax.ShapeDtypeStruct(
    (24, 8), jnp.float32, sharding=NamedSharding(mesh, P())
  )
  (found,) = traffic.collectives(compiled(function, x), 8)
  assert (found.kind, found.group, found.dtype) == (kind, group, "f32")
  assert found.payload == shape[0] * shape[1] * 4
