"""Makes the views of a config with tf.data."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from sslx.data import views as views_lib
from sslx.data.pipeline import Data
from sslx.data.views import Crop


def simclr(
  data: Data, *, blur: bool
) -> Callable[[list[Any]], Callable[[], Any]]:
  """SimCLR's preprocessing (appendix A of its paper) in tf.data.

  Args:
    data: config section.
    blur: whether to blur on the host; the official code blurs on the device.

  Returns:
    See `peers.Prepare`.
  """
  import tensorflow as tf

  tf.config.set_visible_devices([], "GPU")

  def decode(image):
    if image.dtype == tf.string:
      image = tf.io.decode_image(image, 3, expand_animations=False)
    return tf.image.convert_image_dtype(image, tf.float32)

  def make(view, pixels):
    box, size, _ = tf.image.sample_distorted_bounding_box(
      tf.shape(pixels),
      tf.zeros((1, 0, 4)),
      aspect_ratio_range=view.crop_ratio,
      area_range=view.crop_scale,
      max_attempts=100,
      use_image_if_no_bounding_boxes=True,
    )
    image = tf.slice(pixels, box, size)
    image = tf.image.resize(image, (view.size, view.size), "bicubic")
    if view.flip:
      image = tf.image.random_flip_left_right(image)
    if any(view.jitter):
      jitter = functools.partial(_jitter, tf, view)
      image = _maybe(tf, view.jitter_prob, jitter, image)
    if view.grey:
      grey = lambda x: tf.tile(tf.image.rgb_to_grayscale(x), (1, 1, 3))
      image = _maybe(tf, view.grey, grey, image)
    if view.blur and blur:
      blurred = functools.partial(_blur, tf, view)
      image = _maybe(tf, view.blur, blurred, image)
    if view.solarize:
      solarize = lambda x: tf.where(x < 0.5, x, 1 - x)
      image = _maybe(tf, view.solarize, solarize, image)
    return (tf.clip_by_value(image, 0, 1) - data.mean) / data.std

  def prepare(images):
    views = views_lib.each(data.views)
    if isinstance(images[0], np.ndarray):
      images = np.stack(images)
    dataset = tf.data.Dataset.from_tensor_slices(images)
    dataset = dataset.repeat().map(
      lambda image: tuple(
        make(v, pixels) for v in views for pixels in [decode(image)]
      )
    )
    options = tf.data.Options()
    options.autotune.enabled = False
    # Otherwise it would prefetch on other threads while others are measured.
    options.experimental_optimization.apply_default_optimizations = False
    options.threading.private_threadpool_size = 1
    options.threading.max_intra_op_parallelism = 1
    batches = iter(dataset.batch(len(images)).with_options(options))
    return lambda: next(batches)

  return prepare


def _maybe(tf: Any, probability: float, change: Callable, image: Any) -> Any:
  chosen = tf.random.uniform(()) < probability
  return tf.cond(chosen, lambda: change(image), lambda: image)


def _jitter(tf: Any, view: Crop, image: Any) -> Any:
  """Applies the four colour changes in random order."""
  bright, contrast, saturation, hue = view.jitter
  low = lambda strength: max(1 - strength, 0)
  changes = [
    lambda x: x * tf.random.uniform((), low(bright), 1 + bright),
    lambda x: tf.image.random_contrast(x, low(contrast), 1 + contrast),
    lambda x: tf.image.random_saturation(x, low(saturation), 1 + saturation),
    lambda x: tf.image.random_hue(x, hue),
  ]
  order = tf.random.shuffle(tf.range(4))
  for place in range(4):
    branches = [functools.partial(change, image) for change in changes]
    image = tf.switch_case(order[place], branches)
    image = tf.clip_by_value(image, 0, 1)
  return image


def _blur(tf: Any, view: Crop, image: Any) -> Any:
  """Separable Gaussian blur; the kernel is a tenth of the image's size."""
  radius = view.size // 20
  sigma = tf.random.uniform((), *view.blur_sigma)
  taps = tf.exp(-(tf.range(-radius, radius + 1.0) ** 2) / (2 * sigma**2))
  taps = tf.tile(
    (taps / tf.reduce_sum(taps))[:, None, None, None], (1, 1, 3, 1)
  )
  image = image[None]
  for kernel in (taps, tf.transpose(taps, (1, 0, 2, 3))):
    image = tf.nn.depthwise_conv2d(image, kernel, (1, 1, 1, 1), "SAME")
  return image[0]
