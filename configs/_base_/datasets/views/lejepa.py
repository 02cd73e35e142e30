"""LeJEPA's multi-crop: global views, and smaller ones of less of the image."""


def get_config(
  size: int = 224,
  count: int = 2,
  local_size: int = 98,
  local_count: int = 6,
  smallest: float = 0.3,
  blur: float = 0.5,
) -> dict:
  """Views of section `data`; `smallest` is the least area of a global one."""
  view = {
    "size": size,
    "count": count,
    "crop_scale": (smallest, 1.0),
    "interpolation": "bilinear",
    "flip": 0.5,
    "jitter": (0.4, 0.4, 0.2, 0.1),
    "jitter_prob": 0.8,
    "grey": 0.2,
    "blur": blur,
    "blur_sigma": (0.1, 2.0),
    "solarize": 0.2,
  }
  local = {
    "size": local_size,
    "count": local_count,
    "crop_scale": (0.05, smallest),
  }
  return {"data": {"views": (view, view | local) if local_count else (view,)}}
