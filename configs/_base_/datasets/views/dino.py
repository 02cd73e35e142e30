"""DINO's multi-crop: two large views of two kinds, and small views."""


def get_config(
  size: int = 224,
  small: int = 96,
  count: int = 8,
  between: float = 0.4,
  least: float = 0.05,
  blur: tuple[float, float, float] = (1.0, 0.1, 0.5),
) -> dict:
  """Views of section `data`.

  Args:
    size: of the large views.
    small: size of the small views.
    count: of the small views.
    between: area of a crop that divides those of large from those of small
      views.
    least: area of a crop of a small view.
    blur: how often each of the three kinds is blurred.
  """
  first = {
    "size": size,
    "crop_scale": (between, 1.0),
    "interpolation": "bicubic",
    "flip": 0.5,
    "jitter": (0.4, 0.4, 0.2, 0.1),
    "jitter_prob": 0.8,
    "grey": 0.2,
    "blur": blur[0],
    "blur_sigma": (0.1, 2.0),
  }
  second = first | {"blur": blur[1], "solarize": 0.2}
  others = first | {
    "size": small,
    "count": count,
    "crop_scale": (least, between),
    "blur": blur[2],
  }
  return {"data": {"views": (first, second, others)}}
