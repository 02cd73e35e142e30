"""SwAV's multi-crop: two views of 224 px and six of 96."""


def get_config() -> dict:
  """Views of section `data`."""
  large = {
    "size": 224,
    "count": 2,
    "crop_scale": (0.14, 1.0),
    "interpolation": "bilinear",
    "flip": 0.5,
    "jitter": (0.8, 0.8, 0.8, 0.2),
    "jitter_prob": 0.8,
    "grey": 0.2,
    "blur": 0.5,
    "blur_sigma": (0.1, 2.0),
  }
  small = large | {"size": 96, "count": 6, "crop_scale": (0.05, 0.14)}
  return {"data": {"views": (large, small)}}
