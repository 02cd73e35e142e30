"""Two views of two kinds, as of BYOL and MoCo v3."""


def get_config(
  size: int = 224,
  smallest: float = 0.08,
  blur: tuple[float, float] = (1.0, 0.1),
  interpolation: str = "bilinear",
) -> dict:
  """Views of section `data`; `smallest` is the least area of a crop."""
  first = {
    "size": size,
    "crop_scale": (smallest, 1.0),
    "interpolation": interpolation,
    "flip": 0.5,
    "jitter": (0.4, 0.4, 0.2, 0.1),
    "jitter_prob": 0.8,
    "grey": 0.2,
    "blur": blur[0],
    "blur_sigma": (0.1, 2.0),
  }
  second = first | {"blur": blur[1], "solarize": 0.2}
  return {"data": {"views": (first, second)}}
