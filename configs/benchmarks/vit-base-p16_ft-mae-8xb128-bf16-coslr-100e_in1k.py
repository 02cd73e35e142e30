"""MAE's fine-tuning, ViT-B/16, ImageNet.

He et al., 2022, appendix A.1, table 9, and `main_finetune.py`: the mean of the
patches and then a LayerNorm, RandAugment, mixup and CutMix, random erasing,
layer-wise decay of the rate. MAE of 1600 epochs has 83.6 % there. RandAugment
moves images by bilinear interpolation, where timm draws bilinear or bicubic.
"""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """A protocol; see `sslx.evaluate.trained`."""
  return inherit(
    "../_base_/models/finetune_resnet50.py",
    "../_base_/datasets/imagenet.py",
    "../_base_/datasets/views/classify.py:224,bicubic,True",
    "../_base_/schedules/adamw_coslr-300e.py",
    "../_base_/benchmark_runtime.py",
    model={
      "backbone": {
        "_delete_": True,
        "name": "vit",
        "variant": "base",
        "patch_size": 16,
        "features": "pooled",
        "pool_norm": True,
        "drop_path": 0.1,
      },
      "classifier": {"std": 2e-5},
      "smoothing": 0.1,
      "mix": {"mixup": 0.8, "cutmix": 1.0},
      "erase": 0.25,
      "dtype": "bfloat16",
    },
    data={"batch_size": 1024},
    schedule={
      "epochs": 100,
      "optimizer": {
        "lr": 5e-4,
        "weight_decay": 0.05,
        "layer_decay": 0.65,
        "exclude_1d": True,
        "rules": (("_token$|pos_embed$|norm", {"exclude": True}),),
      },
      "lr": {"warmup": 5.0, "final": 1e-6 / 2e-3},
    },
  )
