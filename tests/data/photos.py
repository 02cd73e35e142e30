"""Pictures for the tests of the host's input: photo-like, in many encodings."""

import io

import numpy as np
import simplejpeg
from PIL import Image


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
  """Smooth noise, a few shapes with sharp edges, and a little grain."""
  rng = np.random.default_rng(seed)
  picture = np.zeros((height, width, 3))
  for cells, strength in ((3, 90.0), (9, 40.0), (30, 15.0)):
    noise = rng.normal(size=(cells, cells, 3)) * strength
    noise = np.stack(
      [
        Image.fromarray(noise[..., c].astype(np.float32)).resize(
          (width, height), Image.Resampling.BICUBIC
        )
        for c in range(3)
      ],
      axis=-1,
    )
    picture += noise
  picture += 128
  y, x = np.mgrid[:height, :width]
  for _ in range(6):
    cy, cx = rng.random(2) * (height, width)
    ry, rx = (0.05 + 0.2 * rng.random(2)) * (height, width)
    inside = ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1
    picture[inside] = 0.5 * picture[inside] + rng.random(3) * 128
  picture += rng.normal(size=picture.shape) * 2
  return picture.clip(0, 255).astype(np.uint8)


def jpeg(picture: np.ndarray, quality: int = 92, **settings) -> bytes:
  """By Pillow: `subsampling` 0, 1 or 2 is 4:4:4, 4:2:2 or 4:2:0."""
  return save(Image.fromarray(picture), "JPEG", quality=quality, **settings)


def save(image: Image.Image, kind: str, **settings) -> bytes:
  """The bytes of a file of that kind."""
  file = io.BytesIO()
  image.save(file, kind, **settings)
  return file.getvalue()


JPEGS = {
  "420": lambda x: jpeg(x, subsampling=2),
  "422": lambda x: jpeg(x, subsampling=1),
  "444": lambda x: jpeg(x, subsampling=0),
  "440": lambda x: simplejpeg.encode_jpeg(x, 92, "RGB", "440"),
  "411": lambda x: simplejpeg.encode_jpeg(x, 92, "RGB", "411"),
  "grey": lambda x: save(Image.fromarray(x).convert("L"), "JPEG", quality=92),
  "progressive": lambda x: jpeg(x, subsampling=2, progressive=True),
  "restarts": lambda x: jpeg(x, subsampling=2, restart_marker_blocks=5),
  "rgb": lambda x: jpeg(x, subsampling=0, keep_rgb=True),
}
