"""The generated shapes, in batches of 256; no download."""


def get_config() -> dict:
  """Section `data`, but for views."""
  return {
    "data": {
      "source": "shapes",
      "batch_size": 256,
      "mean": (0.485, 0.456, 0.406),
      "std": (0.229, 0.224, 0.225),
    }
  }
