"""MAE's one view: a crop and a flip, no colour."""


def get_config(size: int = 224, smallest: float = 0.2) -> dict:
  """Views of section `data`; `smallest` is the least area of a crop."""
  view = {
    "size": size,
    "crop_scale": (smallest, 1.0),
    "interpolation": "bicubic",
    "flip": 0.5,
  }
  return {"data": {"views": (view,)}}
