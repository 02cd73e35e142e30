"""Random erasing: noise in a random box of an image, on the device in jit.

References:
  Zhong, Zheng, Kang, Li and Yang, Random Erasing Data Augmentation, AAAI 2020,
  algorithm 1; the constants and the noise are timm's.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from sslx.data import augment
from sslx.data.augment import between

Array = jax.Array

_TRIES = 10
_AREA = (0.02, 1 / 3)  # of the box / area of the image
_RATIO = (0.3, 1 / 0.3)  # height / width of the box


def erase(images: Array, keys: Array, probability: float = 0.25) -> Array:
  """Replaces the pixels of a random box by noise, in some of the images.

  Args:
    images: f32[b, h, w, c], normalised: the noise is N(0, 1) in each number.
    keys: typed PRNG keys [b]; what happens to an image depends on its key
      alone.
    probability: of an image to be erased. It is left alone as well if none of
      ten boxes is smaller than the image.

  Returns:
    f32[b, h, w, c].
  """
  boxes = random_boxes(keys, *images.shape[1:3], probability)
  corner, end = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
  inside = [
    (corner[:, i, None] <= np.arange(n)) & (np.arange(n) < end[:, i, None])
    for i, n in enumerate(images.shape[1:3])
  ]
  inside = inside[0][:, :, None] & inside[1][:, None]
  noise = augment.normals(keys, augment.ERASED, images.shape[1:])
  return jnp.where(inside[..., None], noise.astype(images.dtype), images)


def random_boxes(
  keys: Array, height: int, width: int, probability: float
) -> Array:
  """Draws what `erase` erases, i32[b, 4]: top, left, height and width.

  The first box that is lower and narrower than the image is taken. An image
  that is not erased gets an empty box.
  """
  uniforms = augment.uniforms(keys, augment.ERASE, 2 * _TRIES + 3)
  area, ratio, rest = jnp.split(uniforms, [_TRIES, 2 * _TRIES], axis=1)
  area = between(*_AREA, area) * height * width
  ratio = jnp.exp(between(*map(math.log, _RATIO), ratio))
  tries = jnp.sqrt(jnp.stack([area * ratio, area / ratio], axis=2))
  tries = jnp.round(tries)  # [b, tries, 2]
  image = np.float32([height, width])
  fits = jnp.all(tries < image, axis=2)
  first = jnp.argmax(fits, axis=1)[:, None, None]
  size = jnp.take_along_axis(tries, first, axis=1)[:, 0]
  place, chance = rest[:, :2], rest[:, 2]
  # place < 1, so the corner is at most image - size.
  corner = jnp.floor(place * (image - size + 1))
  erased = fits.any(axis=1) & (chance < probability)
  boxes = jnp.concatenate([corner, size], axis=1).astype(jnp.int32)
  return jnp.where(erased[:, None], boxes, 0)
