"""The random colours of a view, sampled and computed on the device in jit.

Images are RGB [b, h, w, 3], uint8 or float in [0, 1]. `keys` are typed PRNG
keys [b], one per image.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sslx.config import require
from sslx.data import augment, operations, randaugment
from sslx.data.augment import between
from sslx.data.operations import HUE
from sslx.data.randaugment import RandAugment
from sslx.data.views.base import View, require_probability

Array = jax.Array
Operation = Callable[[Array], Array]

# Augmentations from outside sslx, added by modules in `runtime.custom_imports`.
# Maps a name to a pure function of images, f32[b, h, w, 3] in [0, 1], and keys
# [b], which is called inside jit.
OPERATIONS: dict[str, Callable[[Any, Any], Any]] = {}

# On a CPU, images of at least this side are coloured one by one. Smaller images
# are faster as a batch.
_ALONE = 64
_ORDERS = np.array(list(itertools.permutations(range(4))), np.int32)
_WORDS = ("brightness", "contrast", "saturation", "hue")


@dataclasses.dataclass(frozen=True)
class Coloured(View):
  """A view of one picture with random colours; a subclass says where it is.

  `jitter` holds the strengths s of brightness, contrast, saturation and hue.
  The first three are multiplied by U(max(0, 1-s), 1+s). Hue is shifted by
  U(-s, s) turns of the colour circle. All four are applied together, in random
  order, with probability `jitter_prob`. `grey`, `blur` and `solarize` are
  probabilities. `rand_augment`, if any, comes before them all.
  """

  free = (
    *View.free, "jitter", "jitter_prob", "grey", "blur", "blur_sigma",
    "blur_kernel", "solarize", "then", "rand_augment",
  )  # fmt: skip

  jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
  jitter_prob: float = 0.8
  grey: float = 0.0
  blur: float = 0.0
  blur_sigma: tuple[float, float] = (0.1, 2.0)  # pixels
  blur_kernel: int = 23  # taps, odd
  solarize: float = 0.0
  then: tuple[str, ...] = ()  # names of OPERATIONS to apply last
  rand_augment: RandAugment | None = None

  def __post_init__(self):
    super().__post_init__()
    require(self, "blur_kernel", self.blur_kernel >= 1, "1 or more")
    low, high = self.blur_sigma
    accepted = "(low, high) with 0 < low <= high"
    require(self, "blur_sigma", 0 < low <= high, accepted)
    for name in ("jitter_prob", "grey", "blur", "solarize"):
      require_probability(self, name)
    require(self, "jitter", min(self.jitter) >= 0, "four strengths from 0 up")
    require(
      self, "jitter", self.jitter[HUE] <= 0.5, "0.5 or less in hue, the last"
    )
    require(self, "blur_kernel", self.blur_kernel % 2 == 1, "odd")
    known = set(self.then) <= OPERATIONS.keys()
    accepted = f"names of views.OPERATIONS, which has {sorted(OPERATIONS)}"
    require(self, "then", known, accepted)
    fits = not self.blur or self.blur_kernel // 2 < self.size
    require(self, "blur_kernel", fits, f"below 2 * size = {2 * self.size}")

  @property
  def jitters(self) -> bool:
    """Whether the colours of some images are jittered."""
    return self.jitter_prob > 0 and any(self.jitter)

  @property
  def needs_rgb(self) -> bool:
    """See `View`."""
    return bool(self.grey or any(self.jitter[2:]) or self.rand_augment)

  def colour(self, cut: Array, keys: Array) -> Array:
    """See `View`, and `augment_colour`."""
    return augment_colour(self, cut, keys)

  def told(self, keys: Array) -> list[list[str]]:
    """See `View`."""
    drawn = jax.tree.map(np.asarray, draw_colour(self, keys))
    told = [[] for _ in keys]
    if self.rand_augment:
      told = randaugment.told(self.rand_augment, keys)
    for i, lines in enumerate(told):
      if drawn.jittered[i]:
        steps = [
          f"{_WORDS[op]} {drawn.factors[i, op]:{'+' if op == HUE else ''}.2f}"
          for op in drawn.order[i]
        ]
        lines += [", ".join(steps[:2]), ", ".join(steps[2:])]
      lines += ["grey"] * bool(drawn.greyed[i])
      lines += [f"blur {drawn.sigma[i]:.2f} px"] * bool(drawn.blurred[i])
      lines += ["solarized"] * bool(drawn.solarized[i])
    return told


class Colour(NamedTuple):
  """Parameters of the colour augmentation of each image.

  Attributes:
    jittered, greyed, blurred, solarized: bool[b], whether to apply the
      operation.
    factors: f32[b, 4], factors of brightness, contrast and saturation, and the
      shift of the hue.
    order: i32[b, 4], see `operations.color_jitter`.
    sigma: f32[b], standard deviation of the blur.
  """

  jittered: Array
  factors: Array
  order: Array
  greyed: Array
  blurred: Array
  sigma: Array
  solarized: Array


def draw_colour(view: Coloured, keys: Array) -> Colour:
  """Samples the parameters that `augment_colour` uses for these keys."""
  uniforms = augment.uniforms(keys, augment.COLOUR, 10)
  jitters, orders, greys, blurs, sigmas, solarizes = uniforms[:, 4:].T
  strength, middle = np.array(view.jitter), np.array([1, 1, 1, 0])
  low = np.maximum(middle - strength, [0, 0, 0, -1])
  return Colour(
    jittered=jitters < (view.jitter_prob if view.jitters else 0),
    factors=between(low, middle + strength, uniforms[:, :4]),
    order=jnp.asarray(_ORDERS)[(orders * len(_ORDERS)).astype(jnp.int32)],
    greyed=greys < view.grey,
    blurred=blurs < view.blur,
    sigma=between(*view.blur_sigma, sigmas),
    solarized=solarizes < view.solarize,
  )


def augment_colour(view: Coloured, images: Array, keys: Array) -> Array:
  """Applies RandAugment, jitter, grey, blur and solarize at random.

  An operation with probability or strength 0 is not computed. An image for
  which an operation is not drawn keeps its pixels bit for bit.
  """
  operated = (view.jitters, view.grey, view.blur, view.solarize, view.then)
  if not any(operated) and not view.rand_augment:
    return operations.to_float(images)
  together = functools.partial(_augment_colour, view, choose=_select)
  if min(images.shape[1:3]) < _ALONE:
    return together(images, keys)
  return jax.lax.platform_dependent(
    images, keys, cpu=functools.partial(_one_by_one, view), default=together
  )


def _one_by_one(view: Coloured, images: Array, keys: Array) -> Array:
  """`_augment_colour`, one image at a time: three times as fast on a CPU.

  An image stays in the cache from the first operation to the last, and
  operations that are not drawn for it are not computed.
  """

  def one(image_and_key: tuple[Array, Array]) -> Array:
    image, key = (x[None] for x in image_and_key)
    return _augment_colour(view, image, key, choose=_branch)[0]

  return jax.lax.map(one, (images, keys))


def _select(chosen: Array, operation: Operation, images: Array) -> Array:
  """Applies an operation to the chosen images; computes it for all."""
  return jnp.where(chosen[:, None, None, None], operation(images), images)


def _branch(chosen: Array, operation: Operation, image: Array) -> Array:
  """Applies an operation to one image if it is chosen; else skips it."""
  return jax.lax.cond(chosen[0], operation, lambda x: x, image)


def _augment_colour(
  view: Coloured,
  images: Array,
  keys: Array,
  choose: Callable[[Array, Operation, Array], Array],
) -> Array:
  images = operations.to_float(images)
  colour = draw_colour(view, keys)
  if view.rand_augment:
    ops = view.rand_augment
    images = randaugment.rand_augment(ops, images, keys, choose)
  if view.jitters:
    used = zip(colour.factors.T, view.jitter, strict=True)
    factors = [factor if strength else None for factor, strength in used]
    jitter = lambda x: operations.color_jitter(x, *factors, colour.order)
    images = choose(colour.jittered, jitter, images)
  if view.grey:
    images = choose(colour.greyed, operations.grayscale, images)
  if view.blur:
    taps = view.blur_kernel
    blur = lambda x: operations.gaussian_blur(x, colour.sigma, taps)
    images = choose(colour.blurred, blur, images)
  if view.solarize:
    images = choose(colour.solarized, operations.solarize, images)
  for n, name in enumerate(view.then):
    images = OPERATIONS[name](images, augment.fold(keys, augment.THEN + n))
  return images
