"""DINO, ViT-S/16, ImageNet, batch 1024, 800 epochs (official figures).

Of the released checkpoint: a kNN accuracy of 74.5 % and 77.0 %, linear. Not
verified: its `args.txt` could not be read; batch, crops, temperature, last rate
and the missing clip are from memory.
"""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """Smaller crops, ten small ones, no clipping, float32."""
  return inherit(
    "../_base_/models/dino_vit-small-p16.py",
    "../_base_/datasets/imagenet.py",
    "../_base_/datasets/views/dino.py:count=10,between=0.25",
    "../_base_/schedules/adamw_dino-100e.py",
    "../_base_/default_runtime.py",
    model={
      "head": {"trained_scale": True},
      # By epoch; the last of 30 epochs of warm-up has 0.07.
      "teacher_temperature": {
        "_delete_": True,
        "kind": "linear",
        "start": 0.04,
        "final": 0.07,
        "over": 29.0,
        "per": "epoch",
      },
    },
    data={"batch_size": 1024},
    schedule={
      "epochs": 800,
      "optimizer": {
        "rules": (
          ("head/(prototypes|scale)", {"freeze": 1.0}),
          # There a matrix of one column, which is decayed.
          ("head/scale", {"exclude": False}),
        ),
      },
      "lr": {"final": 5e-3},
    },
  )
