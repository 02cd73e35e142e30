"""MAE's one view: a crop and a flip, no colour; I-JEPA's has no flip."""


def get_config(
  size: int = 224,
  smallest: float = 0.2,
  interpolation: str = "bicubic",
  flip: float = 0.5,
) -> dict:
  """Views of section `data`; `smallest` is the least area of a crop."""
  view = {
    "size": size,
    "crop_scale": (smallest, 1.0),
    "interpolation": interpolation,
    "flip": flip,
  }
  return {"data": {"views": (view,)}}
