"""The nine patches of relative location, as of MMSelfSup."""


def get_config(size: int = 64, resize: int = 292, crop: int = 255) -> dict:
  """Views of section `data`."""
  patches = {
    "kind": "patches",
    "size": size,
    "resize": resize,
    "crop": crop,
    "grey": 0.66,
    "interpolation": "bilinear",
  }
  return {"data": {"views": (patches,)}}
