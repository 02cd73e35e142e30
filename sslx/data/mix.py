"""Mixup and CutMix: images and labels of two examples in one, in jit.

References:
  Zhang, Cisse, Dauphin and Lopez-Paz, mixup, ICLR 2018, eq. 1.
  Yun, Han, Oh, Chun, Choe and Yoo, CutMix, ICCV 2019, eq. 1 and 2.
  timm's `Mixup` in mode "batch": one of the two for a whole batch.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from sslx.axis import Axis
from sslx.config import ConfigError, require

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Mix:
  """How a batch is mixed.

  In each step one of the two is drawn, with probability 1/2 each. Both have one
  image's share from Beta(alpha, alpha).

  Attributes:
    mixup: alpha of mixup; 0 is never.
    cutmix: alpha of CutMix; 0 is never.
  """

  mixup: float = 0.8
  cutmix: float = 1.0

  def __post_init__(self):
    for name in ("mixup", "cutmix"):
      require(self, name, getattr(self, name) >= 0, "0 or more")
    require(self, "cutmix", self.mixup + self.cutmix > 0, "above 0, or mixup")


def targets(labels: Array, classes: int, smoothing: float = 0.0) -> Array:
  """Returns the probabilities of the classes that a loss takes as the truth.

  Args:
    labels: i32[b]; -1 is no label.
    classes: number of classes, C.
    smoothing: what is taken from the label and spread over all classes.

  Returns:
    f32[b, C]. A row sums to 1; without a label it is 0, and has no part in a
    cross-entropy.
  """
  hot = jax.nn.one_hot(labels, classes)  # A row of 0 for -1.
  even = smoothing / classes * (labels >= 0)[:, None]
  return (1 - smoothing) * hot + even


def mix(
  settings: Mix, images: Array, truth: Array, key: Array, axis: Axis = Axis()
) -> tuple[Array, Array]:
  """Mixes each image, and its targets, with its neighbour's.

  Image i is mixed with image i xor 1, its neighbour in the global batch. timm
  takes B - 1 - i, which is on another device. A batch is in random order, so it
  makes no difference which; the neighbour is on the same device and in the same
  micro-batch, so nothing moves between devices, and neither their number nor
  that of the micro-batches changes the result.

  An unlabelled image is mixed like the others, and its share of a mixed image
  has no target: the row sums to the other's share. Divide the sum of a loss by
  the sum of the targets to get its mean.

  Args:
    settings: how.
    images: f32[b, h, w, c].
    truth: f32[b, C], the `targets` of the images.
    key: the key of the step, the same on all devices.
    axis: the data axis.

  Returns:
    Images f32[b, h, w, c]; targets f32[b, C].

  Raises:
    ConfigError: a device has an odd number of images.
  """
  _check_pairs(len(images), axis)
  own, share = draw(settings, key, *images.shape[1:3])
  other = 1 - own
  own, other = own[..., None], other[..., None]
  mixed = own * images + other * _neighbours(images)
  return mixed, share * truth + (1 - share) * _neighbours(truth)


def draw(
  settings: Mix, key: Array, height: int, width: int
) -> tuple[Array, Array]:
  """Draws how much of each pixel is an image's own.

  Returns:
    f32[h, w]: for mixup the same share everywhere; for CutMix 1, and 0 in a
    box. f32: the mean of that, which is the share of the image's own label.
  """
  which, beta, place = jax.random.split(key, 3)
  chance = settings.cutmix and (0.5 if settings.mixup else 1.0)
  cuts = jax.random.uniform(which) < chance
  alpha = jnp.where(cuts, settings.cutmix, settings.mixup)
  share = jax.random.beta(beta, alpha, alpha)
  image = np.array([height, width])
  size = jnp.floor(image * jnp.sqrt(1 - share)).astype(jnp.int32)
  centre = jax.random.randint(place, (2,), 0, image)
  start, stop = centre - size // 2, centre + (size + 1) // 2
  inside = [
    (start[i] <= np.arange(n)) & (np.arange(n) < stop[i])
    for i, n in enumerate((height, width))
  ]
  cut = 1.0 - (inside[0][:, None] & inside[1])
  own = jnp.where(cuts, cut, share)
  return own, jnp.where(cuts, jnp.mean(cut), share)


def _neighbours(x: Array) -> Array:
  """Swaps rows 0 and 1, rows 2 and 3, and so on, of x[b, ...]."""
  return x.reshape(-1, 2, *x.shape[1:])[:, ::-1].reshape(x.shape)


def _check_pairs(b: int, axis: Axis) -> None:
  devices, parts = axis.size * axis.shards, axis.part[1]
  rows, rest = divmod(b, axis.shards)
  if rest or rows % 2:
    micro = f" and {parts} micro-batches" if parts > 1 else ""
    raise ConfigError(
      f"config.data.batch_size is {b * axis.size * parts}, over {devices}"
      f" devices{micro}; mixup and CutMix mix pairs of images of one device, so"
      f" it must be a multiple of {2 * devices * parts}. Change it, or turn"
      " them off."
    )
