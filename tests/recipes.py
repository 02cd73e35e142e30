"""Contents of recipes, written out apart from configs/, to check names by."""

from tests import tiny

SHIPPED = sorted((tiny.ROOT / "configs" / "selfsup").glob("*.py"))


def view(size, **settings):
  return {"size": size, "count": 1, "crop_scale": (0.2, 1.0)} | settings


def recipe(method, backbone, views, batch, schedule, **model):
  name, lr, kind, epochs, *more = schedule
  return {
    "model": {
      "method": method,
      "backbone": backbone,
      "norm_groups": 1,
      "dtype": "float32",
    }
    | model,
    "data": {
      "source": "imagenet2012",
      "batch_size": batch,
      "views": views,
      "mean": (0.485, 0.456, 0.406),
      "std": (0.229, 0.224, 0.225),
    },
    "schedule": {
      "epochs": epochs,
      "optimizer": {"name": name, "lr": lr, "lr_batch": 256},
      "lr": {"kind": kind, "warmup": 0.0} | dict(*more),
    },
    "runtime": {"seed": 0, "log_every": 50},
  }


RESNET = {"name": "resnet", "depth": 50}
VIT = {"name": "vit", "variant": "base", "patch_size": 16}
CONTENTS = {
  "mocov2_resnet50_8xb32-coslr-200e_in1k": recipe(
    "mocov2",
    RESNET,
    (view(224, count=2),),
    256,
    ("sgd", 0.03, "cosine", 200),
    norm_groups=8,
    queue_size=65536,
    momentum=0.999,
    temperature=0.2,
  ),
  "swav_resnet50_8xb32-mcrop-2-6-coslr-200e_in1k-224-96": recipe(
    "swav",
    RESNET,
    (
      view(224, count=2, crop_scale=(0.14, 1.0)),
      view(96, count=6, crop_scale=(0.05, 0.14)),
    ),
    256,
    ("larc", 0.6, "cosine", 200, {"final": 0.001}),
    prototypes=3000,
    temperature=0.1,
  ),
  "relative-loc_resnet50_8xb64-steplr-70e_in1k": recipe(
    "relative_loc",
    RESNET,
    ({"kind": "patches", "size": 64, "crop": 255, "resize": 292},),
    512,
    ("sgd", 0.1, "step", 70, {"milestones": (30, 50), "gamma": 0.1}),
    norm_groups=8,
  ),
  "mocov3_vit-base-p16_16xb256-bf16-coslr-300e_in1k": recipe(
    "mocov3",
    VIT,
    (view(224, blur=1.0), view(224, blur=0.1, solarize=0.2)),
    4096,
    ("adamw", 1.5e-4, "cosine", 300),
    temperature=0.2,
    dtype="bfloat16",
  ),
  "mae_vit-base-p16_8xb512-bf16-coslr-300e_in1k": recipe(
    "mae",
    VIT,
    (view(224),),
    4096,
    ("adamw", 1.5e-4, "cosine", 300),
    mask_ratio=0.75,
    dtype="bfloat16",
  ),
  "mae_vit-base-p16_8xb512-bf16-coslr-800e_in1k": recipe(
    "mae",
    VIT,
    (view(224),),
    4096,
    ("adamw", 1.5e-4, "cosine", 800),
    mask_ratio=0.75,
    dtype="bfloat16",
  ),
}
