"""One view for a classifier: a crop and a flip; the centre in evaluations."""


def get_config(
  size: int = 224, interpolation: str = "bilinear", rand_augment: bool = False
) -> dict:
  """Views of section `data`, of 224 pixels as cut from 256."""
  view = {
    "size": size,
    "crop_scale": (0.08, 1.0),
    "interpolation": interpolation,
    "flip": 0.5,
    "rand_augment": {} if rand_augment else None,
  }
  centre = {
    "size": size,
    "resize": round(size * 256 / 224),
    "interpolation": interpolation,
  }
  return {"data": {"views": (view,), "centre": centre}}
