"""Random views of a batch of images, sampled and computed on the device in jit.

Images are RGB [b, h, w, 3], uint8 or float in [0, 1]. `keys` are typed PRNG
keys [b], one per image. A view depends only on the seed and on the position of
its example in the global batch, not on the devices or on the other images.

Small images are also cut here (`cut_views`). Large images are cut on the host
and arrive as uint8 views.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sslx.data import operations
from sslx.data import views as views_lib
from sslx.data.views import Patches, View, between

Array = jax.Array
Operation = Callable[[Array], Array]

# On a CPU, images of at least this side are coloured one by one. Smaller images
# are faster as a batch.
_ALONE = 64
# Streams derived from one key. Each operation uses fixed positions in its
# stream, so disabling one does not change the draws of the others.
_BOX, _FLIP, _COLOUR, _THEN = range(4)
_ORDERS = np.array(list(itertools.permutations(range(4))), np.int32)
fold = jax.vmap(jax.random.fold_in, (0, None))  # folds a number into every key


def example_keys(key: Array, positions: Array) -> Array:
  """Keys [b] from this step's key and i32[b] positions in the global batch."""
  return jax.vmap(jax.random.fold_in, (None, 0))(key, positions)


def cut_views(
  views: tuple[View | Patches, ...], images: Array, keys: Array
) -> tuple[Array, ...]:
  """Cuts all views of each image, f32[b, *view.shape]; no colour changes.

  The views come in the order of `views`, `count` of each kind. View n folds n
  into the keys.
  """
  return tuple(
    cut_view(view, images, fold(keys, n))
    for n, view in enumerate(views_lib.each(views))
  )


def cut_view(view: View | Patches, images: Array, keys: Array) -> Array:
  """Cuts one view of each image, f32[b, *view.shape]; no colour changes."""
  if isinstance(view, Patches):
    return cut_patches(view, images, keys)
  return random_resized_crop(view, images, keys)


def make_views(
  views: tuple[View | Patches, ...], images: Array, keys: Array
) -> tuple[Array, ...]:
  """Cuts and colours all views of small images: f32[b, *view.shape] each."""
  return colour_views(views, cut_views(views, images, keys), keys)


def colour_views(
  views: tuple[View | Patches, ...], cut: tuple[Array, ...], keys: Array
) -> tuple[Array, ...]:
  """Augments the colours of views that were cut here or on the host.

  Args:
    views: kinds of views.
    cut: u8 or float [b, *view.shape], in the order of `views`, `count` of each
      kind.
    keys: those given to `cut_views`, if it cut the views.

  Returns:
    f32[b, *view.shape] each, in [0, 1].
  """
  every = enumerate(zip(views_lib.each(views), cut, strict=True))
  return tuple(colour_view(view, x, fold(keys, n)) for n, (view, x) in every)


def colour_view(view: View | Patches, cut: Array, keys: Array) -> Array:
  """Augments the colours of one view of each image."""
  if isinstance(view, Patches):
    return _grey_patches(view, cut, keys)
  return augment_colour(view, cut, keys)


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


def draw_colour(view: View, keys: Array) -> Colour:
  """Samples the parameters that `augment_colour` uses for these keys."""
  uniforms = _uniforms(keys, _COLOUR, 10)
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


def augment_colour(view: View, images: Array, keys: Array) -> Array:
  """Applies jitter, grey, blur and solarize at random.

  An operation with probability or strength 0 is not computed. An image for
  which an operation is not drawn keeps its pixels bit for bit.
  """
  operated = (view.jitters, view.grey, view.blur, view.solarize, view.then)
  if not any(operated):
    return operations.to_float(images)
  together = functools.partial(_augment_colour, view, choose=_select)
  if min(images.shape[1:3]) < _ALONE:
    return together(images, keys)
  return jax.lax.platform_dependent(
    images, keys, cpu=functools.partial(_one_by_one, view), default=together
  )


def _one_by_one(view: View, images: Array, keys: Array) -> Array:
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
  view: View,
  images: Array,
  keys: Array,
  choose: Callable[[Array, Operation, Array], Array],
) -> Array:
  images = operations.to_float(images)
  colour = draw_colour(view, keys)
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
    images = views_lib.OPERATIONS[name](images, fold(keys, _THEN + n))
  return images


def random_resized_crop(view: View, images: Array, keys: Array) -> Array:
  """Crops, resizes and flips at random: f32[b, size, size, 3]."""
  boxes = sample_boxes(view, keys, *images.shape[1:3])
  flips = sample_flips(view, keys)
  return operations.crop_resize(
    images, boxes, flips, view.size, view.interpolation
  )


def sample_boxes(view: View, keys: Array, height: int, width: int) -> Array:
  """Samples i32[b, 4] boxes; see `views.random_boxes`."""
  uniforms = _uniforms(keys, _BOX, views_lib.BOX_UNIFORMS)
  return views_lib.random_boxes(view, uniforms, height, width, jnp)


def sample_flips(view: View, keys: Array) -> Array:
  """Samples bool[b]: which views are mirrored."""
  return _uniforms(keys, _FLIP, 1)[:, 0] < view.flip


def cut_patches(view: Patches, images: Array, keys: Array) -> Array:
  """Cuts nine patches of each image, f32[b, 9, size, size, 3]."""
  corners = sample_patches(view, keys)
  sizes = view.resize, view.size
  return operations.resize_crops(images, corners, *sizes, view.interpolation)


def sample_patches(view: Patches, keys: Array) -> Array:
  """Samples i32[b, 9, 2] positions; see `views.random_patches`."""
  uniforms = _uniforms(keys, _BOX, views_lib.PATCH_UNIFORMS)
  return views_lib.random_patches(view, uniforms, jnp)


def draw_grey(view: Patches, keys: Array) -> Array:
  """Samples bool[b]: which images are converted to grey."""
  return _uniforms(keys, _COLOUR, 1)[:, 0] < view.grey


def _grey_patches(view: Patches, patches: Array, keys: Array) -> Array:
  """Replaces colour by the mean of the channels, in all patches or in none."""
  patches = operations.to_float(patches)
  if not view.grey:
    return patches
  greyed = draw_grey(view, keys)
  grey = patches.mean(-1, keepdims=True)
  return jnp.where(greyed.reshape(-1, 1, 1, 1, 1), grey, patches)


def _uniforms(keys: Array, stream: int, count: int) -> Array:
  draw = lambda key: jax.random.uniform(key, (count,))
  return jax.vmap(draw)(fold(keys, stream))  # f32[b, count] in [0, 1)
