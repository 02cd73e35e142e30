"""RandAugment: random operations of random strength, on the device in jit.

It is the one of timm's recipes, "rand-m9-mstd0.5-inc1". The operations are
Pillow's on bytes: each takes and gives whole numbers from 0 to 255.

References:
  Cubuk, Zoph, Shlens and Le, RandAugment, 2020, section 3.
  timm's `auto_augment`: the operations that grow stronger with the magnitude,
  their arguments, and the spread of the magnitude.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sslx.config import require
from sslx.data import augment, pillow
from sslx.data.pillow import Op

Array = jax.Array
# Applies an operation to chosen images: bool[b], operation, images.
Choose = Callable[[Array, Callable[[Array], Array], Array], Array]

_APPLIED = 0.5  # probability of each drawn operation
_STRONGEST = 10.0  # magnitude


@dataclasses.dataclass(frozen=True)
class RandAugment:
  """Settings of RandAugment.

  Attributes:
    n: operations drawn for each image; each is applied with probability 1/2.
    magnitude: mean strength, 0 to 10.
    std: standard deviation of the strength, which is clipped to 0 to 10.
    fill: colour in [0, 1] of what a moved image leaves empty. The default is
      the mean of ImageNet.
  """

  n: int = 2
  magnitude: float = 9.0
  std: float = 0.5
  fill: tuple[float, float, float] = (0.485, 0.456, 0.406)

  def __post_init__(self):
    require(self, "n", self.n >= 1, "1 or more")
    possible = 0 <= self.magnitude <= _STRONGEST
    require(self, "magnitude", possible, f"0 to {_STRONGEST:g}")
    require(self, "std", self.std >= 0, "0 or more")
    possible = 0 <= min(self.fill) and max(self.fill) <= 1
    require(self, "fill", possible, "three numbers from 0 to 1")


class Drawn(NamedTuple):
  """What is done to each image, in this order.

  Attributes:
    op: i32[b, n], of `Op`.
    argument: f32[b, n], see `arguments`.
    applied: bool[b, n].
  """

  op: Array
  argument: Array
  applied: Array


def draw(settings: RandAugment, keys: Array) -> Drawn:
  """Draws the operations that `rand_augment` applies for these keys."""
  # One key for each operation: [b, n].
  own = augment.fold(keys, augment.RAND_AUGMENT)
  own = jax.vmap(jax.random.split, (0, None))(own, settings.n)
  uniforms = jax.vmap(lambda k: augment.uniforms(k, 0, 3))(own)
  spread = jax.vmap(lambda k: augment.normals(k, 1, ()))(own)
  which, applies, signs = jnp.moveaxis(uniforms, -1, 0)
  magnitude = settings.magnitude + settings.std * spread
  magnitude = jnp.clip(magnitude, 0, _STRONGEST)
  op = (which * len(Op)).astype(jnp.int32)
  every = arguments(magnitude, jnp.where(signs < 0.5, -1.0, 1.0))
  argument = jnp.take_along_axis(every, op[..., None], axis=-1)[..., 0]
  return Drawn(op, argument, applies < _APPLIED)


def arguments(magnitude: Array, sign: Array) -> Array:
  """Returns the argument of each operation at a magnitude.

  Args:
    magnitude: f32[...], 0 to 10.
    sign: f32[...], -1 or 1, for the operations with two directions.

  Returns:
    f32[..., 15]: degrees counter-clockwise to rotate by; bits that posterizing
    keeps; the least value that is inverted; what is added to values below 128;
    the factor of a blend, 1 being the image itself; shear in pixels per pixel;
    translation as a share of the width or height; 0 if there is no argument.
  """
  part = magnitude / _STRONGEST
  blend = 1 + sign * 0.9 * part
  found = {
    Op.ROTATE: sign * 30 * part,
    Op.POSTERIZE: 4 - jnp.floor(4 * magnitude / _STRONGEST),
    Op.SOLARIZE: 256 - jnp.floor(256 * magnitude / _STRONGEST),
    Op.SOLARIZE_ADD: jnp.floor(110 * magnitude / _STRONGEST),
    **dict.fromkeys(pillow.BLENDS, blend),
    Op.SHEAR_X: sign * 0.3 * part,
    Op.SHEAR_Y: sign * 0.3 * part,
    Op.TRANSLATE_X: sign * 0.45 * part,
    Op.TRANSLATE_Y: sign * 0.45 * part,
  }
  none = jnp.zeros_like(part)
  return jnp.stack([found.get(op, none) for op in Op], axis=-1)


def told(settings: RandAugment, keys: Array) -> list[list[str]]:
  """Says in words, for each image, what `rand_augment` does."""
  drawn = jax.tree.map(np.asarray, draw(settings, keys))
  lines = []
  for ops, values, applied in zip(*drawn, strict=True):
    words = [
      Op(op).name.lower().replace("_", " ")
      + (f" {value:.2f}" if op not in pillow.PLAIN else "")
      for op, value in zip(ops, values, strict=True)
    ]
    lines.append([x for x, does in zip(words, applied, strict=True) if does])
  return lines


def rand_augment(
  settings: RandAugment, images: Array, keys: Array, choose: Choose
) -> Array:
  """Applies the drawn operations to each image.

  Operations of a kind are computed together: those that are tables of bytes,
  those that move the image, and those that blend it with another.

  Args:
    settings: how many operations, and how strong.
    images: f32[b, h, w, 3] in [0, 1].
    keys: typed PRNG keys [b]; an image's operations depend on its key alone.
    choose: applies an operation to some of the images; see `coloured`.

  Returns:
    f32[b, h, w, 3], whole numbers / 255. An image of which no operation is
    applied keeps its pixels bit for bit.
  """
  fill = np.round(255 * np.float32(settings.fill))
  kinds = (
    (pillow.TABLES, pillow.by_table),
    (pillow.MOVES, lambda *x: pillow.move(*x, fill)),
    (pillow.BLENDS, pillow.blend),
  )

  def layer(images: Array, drawn: Drawn) -> tuple[Array, None]:
    for ops, operation in kinds:

      def on_bytes(x: Array, operation: Callable = operation) -> Array:
        x = jnp.round(x * 255)
        return jnp.floor(operation(x, drawn.op, drawn.argument)) / 255

      chosen = drawn.applied & jnp.isin(drawn.op, np.array(ops))
      images = choose(chosen, on_bytes, images)
    return images, None

  # A loop, so that the operations are compiled once.
  steps = jax.tree.map(jnp.transpose, draw(settings, keys))
  return jax.lax.scan(layer, images, steps)[0]
