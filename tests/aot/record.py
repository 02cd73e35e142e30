"""Records the programs in recorded/: `python -m tests.aot.record`.

It takes libtpu. What the tests know of them is in `traffic_test.py`.
"""

import pathlib
import re

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from sslx.aot.chips import Slice

FOLDER = pathlib.Path(__file__).parent / "recorded"


def loss(w, x):
  y = x.astype(jnp.bfloat16) @ w.astype(jnp.bfloat16)
  return jnp.tanh(y).astype(jnp.float32).mean()


def train(w, x):
  """One step of data parallel training."""
  return w - 0.1 * jax.grad(loss)(w, x)


def enqueue(queue, rows, at):
  """A few rows of a large array are written in place."""
  return jax.lax.dynamic_update_slice(queue, rows * 2, (at, 0))


def loop(w, x):
  """Five products, one after another."""
  step = lambda x, _: (jnp.sin(x @ w), None)
  return jax.lax.scan(step, x, None, length=5)[0]


def main():
  mesh = jax.make_mesh(
    (16,), ("data",), (AxisType.Auto,), devices=Slice.named("v5e:4x4").devices()
  )
  whole, rows = (NamedSharding(mesh, spec) for spec in (P(), P("data")))
  struct = lambda shape, where: jax.ShapeDtypeStruct(
    shape, jnp.float32, sharding=where
  )
  square, batch = (1024, 1024), struct((4096, 1024), rows)
  programs = {
    "data": (train, [struct(square, whole), batch], whole),
    "fsdp": (train, [struct(square, rows), batch], rows),
    "queue": (
      enqueue,
      [
        struct((65536, 128), whole),
        struct((256, 128), whole),
        jax.ShapeDtypeStruct((), jnp.int32, sharding=whole),
      ],
      whole,
    ),
    "loop": (
      loop,
      [struct((4096, 4096), whole), struct((16384, 4096), whole)],
      whole,
    ),
  }
  for name, (function, arguments, out) in programs.items():
    donated = (0,) if name == "queue" else ()
    jitted = jax.jit(function, out_shardings=out, donate_argnums=donated)
    compiled = jitted.lower(*arguments).compile()
    print(name, compiled.memory_analysis().argument_size_in_bytes)
    (FOLDER / f"{name}.txt").write_text(short(compiled.as_text()))


def short(text):
  """Without what nobody reads."""
  text = re.sub(r'metadata=\{op_name="([^"]*)"[^}]*\}', r'op_name="\1"', text)
  text = re.sub(r", backend_config=.*", "", text)
  return re.sub(r"\n\n\w+Names\n.*?(?=\n\n%)", "\n", text, flags=re.DOTALL)


if __name__ == "__main__":
  main()
