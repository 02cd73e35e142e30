"""Two views of one kind, as of SimCLR; MoCo v2 has weaker colours."""


def get_config(
  size: int = 224,
  smallest: float = 0.08,
  jitter: tuple[float, float, float, float] = (0.8, 0.8, 0.8, 0.2),
  blur: float = 0.5,
  interpolation: str = "bilinear",
  solarize: float = 0.0,
) -> dict:
  """Views of section `data`; `smallest` is the least area of a crop."""
  view = {
    "size": size,
    "count": 2,
    "crop_scale": (smallest, 1.0),
    "interpolation": interpolation,
    "flip": 0.5,
    "jitter": jitter,
    "jitter_prob": 0.8,
    "grey": 0.2,
    "blur": blur,
    "blur_sigma": (0.1, 2.0),
    "solarize": solarize,
  }
  return {"data": {"views": (view,)}}
