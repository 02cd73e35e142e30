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

from sslx.benchmark import tf_data
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
  tf = functools.partial(tf_data.simclr, blur=True)
  if any(view.blur for view in data.views):
    split = functools.partial(tf_data.simclr, blur=False)
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
