"""Makes the views of a config with other libraries, if they are installed.

Each library is used as its documentation shows, one image at a time on one
thread, from encoded bytes or uint8 pixels to normalised float views. The
libraries are imported only when they are measured.
"""

from __future__ import annotations

import functools
import importlib.util
import io
import os
import random
from collections.abc import Callable
from importlib import metadata
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageFilter

from sslx.data import views as views_lib
from sslx.data.pipeline import Data
from sslx.data.views import Crop

# Set before any peer is imported, because peers may import each other.
# Albumentations would contact a server to check for updates.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# Takes images and returns a function without arguments that makes all their
# views. Only calls of the returned function are measured.
Prepare = Callable[[list[Any]], Callable[[], Any]]


class Peer(NamedTuple):
  """Another library.

  Attributes:
    label: its name in the table.
    package: name of the package to install and of its module.
    make: returns a `Prepare` function for a config section.
  """

  label: str
  package: str
  make: Callable[[Data], Prepare]

  @property
  def version(self) -> str | None:
    """The installed version; None if it is not installed."""
    return version(self.package)


def version(module: str) -> str | None:
  """The version of an installed module; None if it is not installed.

  The name of the distribution may differ from the module's: `tensorflow-cpu`
  also provides `tensorflow`.
  """
  if importlib.util.find_spec(module) is None:
    return None
  for name in metadata.packages_distributions().get(module, ()):
    return metadata.version(name)
  return "of unknown version"  # For example, a folder on the path.


def peers(data: Data) -> list[Peer]:
  """The peers that can make the views of a config, installed or not."""
  found = [
    Peer("torchvision v2, tensors", "torchvision", _torchvision_tensors),
    Peer("torchvision v2, Pillow", "torchvision", _torchvision_pillow),
    Peer("lightly", "lightly", _lightly),
    Peer("albumentations, OpenCV", "albumentations", _albumentations),
  ]
  tf = functools.partial(_tf_data, blur=True)
  if any(view.blur for view in data.views):
    split = functools.partial(_tf_data, blur=False)
    found.append(Peer("tf.data, blur on the host", "tensorflow", tf))
    found.append(Peer("tf.data, blur on the device", "tensorflow", split))
  else:
    found.append(Peer("tf.data", "tensorflow", tf))
  return found


def _one_by_one(decode: Callable, transforms: list[Callable]) -> Prepare:
  """Decodes each image once and makes all its views."""

  def one(image):
    pixels = decode(image)
    return [transform(pixels) for transform in transforms]

  return lambda images: lambda: [one(image) for image in images]


def pillow(image: bytes | np.ndarray) -> Image.Image:
  """Decodes an image with Pillow."""
  if isinstance(image, np.ndarray):
    return Image.fromarray(image)
  return Image.open(io.BytesIO(image)).convert("RGB")


def _torchvision_tensors(data: Data) -> Prepare:
  """The documented pipeline: uint8 tensors and torchvision's blur."""
  import torch
  from torchvision import io as tv_io
  from torchvision.transforms import v2

  torch.set_num_threads(1)

  def decode(image):
    if isinstance(image, np.ndarray):
      return torch.from_numpy(image).permute(2, 0, 1)
    encoded = torch.frombuffer(bytearray(image), dtype=torch.uint8)
    return tv_io.decode_image(encoded, mode=tv_io.ImageReadMode.RGB)

  blur = lambda view: v2.GaussianBlur(view.blur_kernel, view.blur_sigma)
  return _one_by_one(decode, _torchvision(data, blur, []))


def _torchvision_pillow(data: Data) -> Prepare:
  """Transforms of Pillow images, with Pillow's blur, which is far faster."""
  from torchvision.transforms import v2

  def blur(view):
    return v2.Lambda(
      lambda image: image.filter(
        ImageFilter.GaussianBlur(random.uniform(*view.blur_sigma))
      )
    )

  return _one_by_one(pillow, _torchvision(data, blur, [v2.ToImage()]))


def _torchvision(data: Data, blur: Callable, convert: list) -> list[Callable]:
  import torch
  from torchvision.transforms import v2

  def transform(view):
    steps = [
      v2.RandomResizedCrop(
        view.size,
        view.crop_scale,
        view.crop_ratio,
        interpolation=v2.InterpolationMode(view.interpolation),
      ),
      v2.RandomHorizontalFlip(view.flip),
    ]
    if any(view.jitter):
      jitter = v2.ColorJitter(*view.jitter)
      steps.append(v2.RandomApply([jitter], view.jitter_prob))
    if view.grey:
      steps.append(v2.RandomGrayscale(view.grey))
    if view.blur:
      steps.append(v2.RandomApply([blur(view)], view.blur))
    if view.solarize:
      steps.append(v2.RandomSolarize(128, view.solarize))
    steps += [*convert, v2.ToDtype(torch.float32, scale=True)]
    return v2.Compose([*steps, v2.Normalize(data.mean, data.std)])

  return [transform(view) for view in views_lib.each(data.views)]


def _lightly(data: Data) -> Prepare:
  """Lightly's transform for the method that uses such views."""
  import torch
  from lightly import transforms

  torch.set_num_threads(1)
  first = data.views[0]
  bright, contrast, saturation, hue = first.jitter
  norm = {"mean": list(data.mean), "std": list(data.std)}
  colour = {
    "cj_prob": first.jitter_prob if any(first.jitter) else 0.0,
    "cj_bright": bright,
    "cj_contrast": contrast,
    "cj_sat": saturation,
    "cj_hue": hue,
    "random_gray_scale": first.grey,
    "gaussian_blur": first.blur,
    "sigmas": first.blur_sigma,
    "hf_prob": first.flip,
    "normalize": norm,
  }
  size, scale = first.size, first.crop_scale[0]
  if len(data.views) > 1:
    transform = transforms.SwaVTransform(
      crop_sizes=tuple(view.size for view in data.views),
      crop_counts=tuple(view.count for view in data.views),
      crop_min_scales=tuple(view.crop_scale[0] for view in data.views),
      crop_max_scales=tuple(view.crop_scale[1] for view in data.views),
      **colour,
    )
  elif _crop_only(first):
    mae = transforms.MAETransform(size, scale, normalize=norm)
    transform = lambda image: [mae(image) for _ in range(first.count)]
  elif first.count == 2:
    transform = transforms.SimCLRTransform(size, min_scale=scale, **colour)
  else:
    from lightly.transforms.simclr_transform import SimCLRViewTransform

    view = SimCLRViewTransform(size, min_scale=scale, **colour)
    transform = lambda image: [view(image) for _ in range(first.count)]
  return _one_by_one(pillow, [transform])


def _crop_only(view: Crop) -> bool:
  return not any((any(view.jitter), view.grey, view.blur, view.solarize))


def _albumentations(data: Data) -> Prepare:
  """Albumentations, which uses OpenCV."""
  import albumentations as A

  def decode(image):
    if isinstance(image, np.ndarray):
      return image
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    return cv2.imdecode(np.frombuffer(image, np.uint8), flags)

  def transform(view):
    cubic = view.interpolation == "bicubic"
    bright, contrast, saturation, hue = view.jitter
    steps = [
      A.RandomResizedCrop(
        (view.size, view.size),
        scale=view.crop_scale,
        ratio=view.crop_ratio,
        interpolation=cv2.INTER_CUBIC if cubic else cv2.INTER_LINEAR,
        area_for_downscale="image",  # Antialiased, like the other peers.
      ),
      A.HorizontalFlip(p=view.flip),
    ]
    if any(view.jitter):
      jitter = A.ColorJitter(
        *((max(0, 1 - s), 1 + s) for s in (bright, contrast, saturation)),
        (-hue, hue),
        p=view.jitter_prob,
      )
      steps.append(jitter)
    if view.grey:
      steps.append(A.ToGray(p=view.grey))
    if view.blur:
      taps = (view.blur_kernel, view.blur_kernel)
      steps.append(A.GaussianBlur(taps, view.blur_sigma, p=view.blur))
    if view.solarize:
      steps.append(A.Solarize(p=view.solarize))
    compose = A.Compose([*steps, A.Normalize(data.mean, data.std)])
    return lambda image: compose(image=image)["image"]

  views = views_lib.each(data.views)
  return _one_by_one(decode, [transform(view) for view in views])


def _tf_data(data: Data, *, blur: bool) -> Prepare:
  """SimCLR's preprocessing (appendix A of its paper) in tf.data.

  Args:
    data: config section.
    blur: whether to blur on the host; the official code blurs on the device.
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
      jitter = functools.partial(_tf_jitter, tf, view)
      image = _tf_maybe(tf, view.jitter_prob, jitter, image)
    if view.grey:
      grey = lambda x: tf.tile(tf.image.rgb_to_grayscale(x), (1, 1, 3))
      image = _tf_maybe(tf, view.grey, grey, image)
    if view.blur and blur:
      blurred = functools.partial(_tf_blur, tf, view)
      image = _tf_maybe(tf, view.blur, blurred, image)
    if view.solarize:
      solarize = lambda x: tf.where(x < 0.5, x, 1 - x)
      image = _tf_maybe(tf, view.solarize, solarize, image)
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


def _tf_maybe(tf: Any, probability: float, change: Callable, image: Any) -> Any:
  chosen = tf.random.uniform(()) < probability
  return tf.cond(chosen, lambda: change(image), lambda: image)


def _tf_jitter(tf: Any, view: Crop, image: Any) -> Any:
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


def _tf_blur(tf: Any, view: Crop, image: Any) -> Any:
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
