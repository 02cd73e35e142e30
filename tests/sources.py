"""What the sources of the recipes say, typed from the sources.

They were read at the commits given with their names. Keys are dotted paths of
resolved configs. Four are not: `start`, `peak` and `end` are learning rates, of
the first step, after the warm-up, and when the last step is done; `sizes` are
width, depth and heads of a ViT.
"""

import math
from typing import Any, NamedTuple

from sslx.schedules import Schedule


class Differs(NamedTuple):
  """A figure that is not the source's on purpose."""

  theirs: Any
  ours: Any
  said: str  # in a docstring or comment of the recipe or what it inherits


class Row(NamedTuple):
  """What a source says of some recipes."""

  source: str  # The recipe's docstring has what is before the comma.
  recipes: str  # a pattern of their names
  figures: dict[str, Any]


MMSELFSUP = "MMSelfSup, open-mmlab/mmselfsup@db861f3, configs/selfsup"
LIGHTLY = "lightly, lightly-ai/lightly@e8d317f, cifar10_benchmark.py"
LIGHTLY_IMAGENET = (
  "lightly, lightly-ai/lightly@e8d317f, benchmarks/imagenet/vitb16/lejepa.py"
)
SOLO = "solo-learn, vturrisi/solo-learn@9187ea3, scripts/pretrain"
MOCO = "official, facebookresearch/moco@132aea9, main_moco.py"
NOTEBOOK = "official, facebookresearch/moco@colab-notebook"
MOCOV3 = "official, facebookresearch/moco-v3@c349e6e, CONFIG.md"
SWAV = "official, facebookresearch/swav@06b1b7c, scripts"
VICREG = "official, facebookresearch/vicreg@4e12602, README.md"
LEJEPA = "official, rbalestr-lab/lejepa@eddffdd, README.md and MINIMAL.md"
BARLOW = "official, facebookresearch/barlowtwins@8e8d284, main.py"
MAE = "official, facebookresearch/mae@efb2a80, PRETRAIN.md"
IJEPA = "official, facebookresearch/ijepa@52c1ae9, in1k_vith14_ep300.yaml"
DEEPMIND = "official, google-deepmind/deepmind-research@f5de0ed, byol"
SIMSIAM = "official, facebookresearch/simsiam@a7bc177, main_simsiam.py"
DINO = "official, facebookresearch/dino@7c446df, main_dino.py and README"
IBOT = "official, bytedance/ibot, README and main_ibot.py"
DINOV2 = "official, facebookresearch/dinov2@b8931f7, ssl_default_config.yaml"
OURS = "our figures"


def under(prefix, **figures):
  return {f"{prefix}.{key}": value for key, value in figures.items()}


def run(batch, epochs):
  return {"data.batch_size": batch, "schedule.epochs": epochs}


def steps(number):
  """A duration of a config."""
  return {"steps": number}


def normalised(mean, std):
  return {"data.mean": mean, "data.std": std}


def view(n, size, count, scale, interpolation, jitter=None, **figures):
  figures = {"flip": 0.5, "blur": 0, "solarize": 0} | figures
  if jitter:
    figures |= {"jitter": jitter, "jitter_prob": 0.8, "grey": 0.2}
  else:
    figures |= {"jitter": (0, 0, 0, 0), "grey": 0}
  if figures["blur"]:
    # Pillow's, as wide as it takes; 23 taps go 5.5 of the largest sigma far.
    figures |= {"blur_sigma": (0.1, 2.0), "blur_kernel": 23}
  figures |= {"size": size, "count": count, "crop_scale": scale}
  return under(f"data.views.{n}", interpolation=interpolation, **figures)


def crops(size, small, count, between, least, blur=(1, 0.1, 0.5)):
  """DINO's views: two large ones of two kinds, and small ones."""
  return (
    view(0, size, 1, (between, 1), "bicubic", BYOL, blur=blur[0])
    | view(
      1, size, 1, (between, 1), "bicubic", BYOL, blur=blur[1], solarize=0.2
    )
    | view(2, small, count, (least, between), "bicubic", BYOL, blur=blur[2])
  )


def optimizer(name, weight_decay, **figures):
  figures = {"rules": (), "exclude_1d": False} | figures
  if name == "adamw":
    figures = {"b1": 0.9, "b2": 0.999, "eps": 1e-8} | figures
  else:
    figures = {"momentum": 0.9, "nesterov": False} | figures
  figures |= {"name": name, "weight_decay": weight_decay}
  return under("schedule.optimizer", lr_scaling="linear", **figures)


def rate(kind, warmup, per="step", **ends):
  figures = {"kind": kind, "warmup": warmup, "per": per}
  return under("schedule.lr", **figures) | {"end": 0} | ends


def frozen_prototypes(steps):
  rules = (("prototypes", {"freeze": {"steps": steps}}),)
  return {"schedule.optimizer.rules": rules}


def resnet(depth, zero_init_residual=False, stem="imagenet"):
  figures = {"depth": depth, "zero_init_residual": zero_init_residual}
  return under("model.backbone", name="resnet", stem=stem, **figures)


def head(name, dims, norm=True, **figures):
  return under(f"model.{name}", dims=dims, norm=norm, **figures)


def schedule(kind, **figures):
  """All keys of a schedule, as a resolved config has them."""
  given = vars(Schedule(kind, **figures)).items()
  return {k: x for k, x in given if x is not None}


IMAGENET = normalised((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CIFAR10 = normalised((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
STRONG, WEAK = (0.8, 0.8, 0.8, 0.2), (0.4, 0.4, 0.4, 0.1)
MIDDLE, BYOL = (0.6, 0.6, 0.6, 0.2), (0.4, 0.4, 0.2, 0.1)
BFLOAT16 = {"model.dtype": Differs("float16", "bfloat16", "mixed float16")}
FLOAT32 = {"model.dtype": Differs("float16", "float32", "mixed float16")}
LONGER = Differs(1000, 200, "trains for 1000 epochs")
RISING = under("model.momentum", kind="cosine", start=0.99, final=1.0)
FIXED_PREDICTOR = (("predictor/", {"schedule": schedule("constant")}),)
RISING_DECAY = schedule("cosine", start=0.04, final=0.4)
WARMED = schedule("linear", start=0.04, final=0.07, over=29.0, per="epoch")
CLIP, FROZEN = ("", {"clip": 3.0}), {"freeze": 1.0}
# Prototypes that are never trained
NEVER = {"freeze": True}
SCALED = (
  ("head/(prototypes|scale)", FROZEN),
  ("head/scale", {"exclude": False}),
)
CODES = under("model", prototypes=3000, temperature=0.1, epsilon=0.05)
CODES |= {"model.sinkhorn_iterations": 3}
CODES |= head("projector", (2048, 128), use_bias=True, last_norm="none")
CODES |= FLOAT32
TARGETED = under("model", norm_groups=1) | resnet(50) | IMAGENET
TARGETED |= head("projector", (4096, 256), use_bias=False, last_norm="none")
TARGETED |= head("predictor", (4096, 256), use_bias=False, last_norm="none")
TARGETED |= view(0, 224, 1, (0.08, 1), "bicubic", BYOL, blur=1)
TARGETED |= view(1, 224, 1, (0.08, 1), "bicubic", BYOL, blur=0.1, solarize=0.2)
SOLARIZED = Differs(0.0, 0.2, "solarises only one of the views")
DECODER = under("model.decoder", width=512, depth=8, heads=16)
DECODER |= under("model", mask_ratio=0.75, norm_pix=True)
BLOCKS = under("model", targets=4, target_scale=(0.15, 0.2), norm_groups=1)
BLOCKS |= under("model", target_aspect=(0.75, 1.5), context_scale=(0.85, 1))
BLOCKS |= under("model.backbone", class_token=False)
BLOCKS |= under("data.views.0", flip=0)
STRETCHED = {"over": {"share": 1.25}}  # the paper's


def blocks_optimizer(**decay):
  figures = optimizer("adamw", RISING_DECAY | decay, exclude_1d=True)
  return figures | {"schedule.optimizer.lr_scaling": "none"}


TABLE = [
  # SimCLR
  Row(
    MMSELFSUP,
    "simclr_resnet50_*",
    under("model", temperature=0.1, norm_groups=1)
    | resnet(50, zero_init_residual=True)
    | head("projector", (2048, 128), use_bias=False, last_norm="affine")
    | optimizer("lars", 1e-6, exclude_1d=True, trust_coefficient=0.001)
    | rate("cosine", 10, "epoch")
    | IMAGENET
    | view(0, 224, 2, (0.08, 1), "bilinear", STRONG, blur=0.5),
  ),
  Row(
    LIGHTLY,
    "simclr_resnet18_1xb512-coslr-200e_cifar10",
    under("model", temperature=0.5, norm_groups=1)
    | resnet(18, stem="cifar")
    | head("projector", (512, 128), use_bias=False, last_norm="affine")
    | optimizer("sgd", 5e-4)
    | rate("cosine", 0, "epoch", start=0.24, peak=0.06 * 512 / 128)
    | run(512, 200)
    | IMAGENET
    | view(0, 32, 2, (0.08, 1), "bilinear", WEAK)
    | under("runtime.evaluate.knn", k=(200, 20), temperature=0.1),
  ),
  *(
    Row(
      MMSELFSUP,
      f"simclr_resnet50_{batch}-coslr-{epochs}e_in1k",
      run(size, epochs) | {"start": peak * 1e-4, "peak": peak},
    )
    for batch, size, epochs, peak in (
      ("8xb32", 256, 200, 0.3),
      ("16xb256", 4096, 200, 4.8),
      ("16xb256", 4096, 800, 4.8),
    )
  ),
  # MoCo v2
  Row(
    MOCO,
    "mocov2_resnet50_*",
    under("model", temperature=0.2, momentum=0.999, queue_size=65536)
    | under("model", symmetric=False, shuffle=True, norm_groups=8)
    | resnet(50)
    | head("projector", (2048, 128), False, use_bias=True, last_norm="none")
    | optimizer("sgd", 1e-4)
    | rate("cosine", 0, "epoch", start=0.03, peak=0.03)
    | IMAGENET
    | view(0, 224, 2, (0.2, 1), "bilinear", WEAK, blur=0.5),
  ),
  Row(MOCO, "mocov2_resnet50_8xb32-coslr-200e_in1k", run(256, 200)),
  Row(MOCO, "mocov2_resnet50_8xb32-coslr-800e_in1k", run(256, 800)),
  Row(
    NOTEBOOK,
    "mocov2_resnet18_8xb64-coslr-200e_cifar10",
    under("model", temperature=0.1, momentum=0.99, queue_size=4096)
    | under("model", symmetric=False, shuffle=True, norm_groups=8)
    | resnet(18, stem="cifar")
    | head("projector", (128,), False, use_bias=True, last_norm="none")
    | optimizer("sgd", 5e-4)
    | rate("cosine", 0, "epoch", start=0.06, peak=0.06)
    | run(512, 200)
    | normalised((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
    | view(0, 32, 2, (0.08, 1), "bilinear", WEAK)
    | under("runtime.evaluate.knn", k=(200, 20), temperature=0.1),
  ),
  # SwAV
  Row(
    SWAV,
    "swav_resnet50_*",
    CODES
    | resnet(50)
    | optimizer("larc", 1e-6, trust_coefficient=0.001, trust_clip=False)
    | normalised((0.485, 0.456, 0.406), (0.228, 0.224, 0.225))
    | view(0, 224, 2, (0.14, 1), "bilinear", STRONG, blur=0.5)
    | view(1, 96, 6, (0.05, 0.14), "bilinear", STRONG, blur=0.5),
  ),
  Row(
    SWAV,
    "swav_resnet50_8xb32-mcrop-2-6-coslr-200e_in1k-224-96",
    under("model", queue_size=3840, queue_start=15, norm_groups=1)
    | frozen_prototypes(5005)
    | rate("cosine", 0, start=0.6, peak=0.6, end=0.0006)
    | run(256, 200),
  ),
  Row(
    SWAV,
    "swav_resnet50_8xb512-mcrop-2-6-coslr-200e_in1k-224-96",
    # 64 GPUs of 64 images; BatchNorm over 8 GPUs each.
    under("model", queue_size=0, norm_groups=8)
    | frozen_prototypes(313)
    | rate("cosine", 10, start=0.3, peak=4.8, end=0.0048)
    | run(4096, 200),
  ),
  Row(
    SOLO,
    "swav_resnet18_*_cifar10*",
    CODES
    | under("model", queue_size=3840, queue_start=50, norm_groups=1)
    | resnet(18, stem="cifar")
    | optimizer("larc", 1e-6, trust_coefficient=0.02, trust_clip=True)
    # Frozen for two epochs.
    | frozen_prototypes(2 * (50_000 // 256))
    | under("schedule.optimizer", exclude_1d=True)
    | run(256, LONGER)
    | CIFAR10,
  ),
  Row(
    SOLO,
    "swav_resnet18_1xb256-coslr-200e_cifar10",
    rate("cosine", 10, start=3e-5, peak=0.6)
    | view(0, 32, 2, (0.08, 1), "bicubic", STRONG, blur=0.5),
  ),
  Row(
    SOLO,
    "swav_resnet18_1xb256-mcrop-2-6-coslr-200e_cifar10-32-18",
    rate("cosine", 10, start=3e-5, peak=0.6, end=0.0006)
    | view(0, 32, 1, (0.2, 1), "bicubic", MIDDLE)
    | view(1, 32, 1, (0.2, 1), "bicubic", MIDDLE, solarize=0.2)
    | view(2, 18, 6, (0.08, 0.5), "bicubic", STRONG, blur=0.1, solarize=0.1),
  ),
  # MoCo v3
  Row(
    MOCOV3,
    "mocov3_vit-*_in1k",
    under("model", temperature=0.2, norm_groups=1)
    | RISING
    | under("model.backbone", patch_size=16, drop_path=0)
    | under("model.backbone", weight_init="xavier_qkv", position_order="row")
    | under("model.backbone", frozen_patches=True)
    | head("projector", (4096, 4096, 256), use_bias=False, last_norm="plain")
    | head("predictor", (4096, 256), use_bias=False, last_norm="plain")
    | BFLOAT16
    | optimizer("adamw", 0.1)
    | rate("cosine", 40, start=0, peak=2.4e-3)
    | run(4096, 300)
    | IMAGENET
    | view(0, 224, 1, (0.08, 1), "bilinear", BYOL, blur=1)
    | view(1, 224, 1, (0.08, 1), "bilinear", BYOL, blur=0.1, solarize=0.2),
  ),
  Row(MOCOV3, "mocov3_vit-base-p16_*_in1k", {"sizes": (768, 12, 12)}),
  Row(MOCOV3, "mocov3_vit-small-p16-h12_*_in1k", {"sizes": (384, 12, 12)}),
  Row(
    MOCOV3,
    "mocov3_resnet50_*",
    under("model", temperature=1.0, norm_groups=1)
    | RISING
    | resnet(50, zero_init_residual=True)
    | head("projector", (4096, 256), use_bias=False, last_norm="plain")
    | head("predictor", (4096, 256), use_bias=False, last_norm="none")
    | BFLOAT16
    | optimizer("larc", 1e-6, exclude_1d=True, trust_coefficient=0.001)
    | rate("cosine", 10, start=0)
    | IMAGENET
    | view(0, 224, 1, (0.2, 1), "bilinear", BYOL, blur=1)
    | view(1, 224, 1, (0.2, 1), "bilinear", BYOL, blur=0.1, solarize=0.2),
  ),
  Row(MOCOV3, "mocov3_resnet50_*-100e_*", run(4096, 100) | {"peak": 9.6}),
  Row(MOCOV3, "mocov3_resnet50_*-300e_*", run(4096, 300) | {"peak": 4.8}),
  Row(
    OURS,  # Views are solo-learn's for its ResNet-18, heads a quarter as wide.
    "mocov3_vit-tiny-p4_1xb256-coslr-200e_cifar10",
    under("model", temperature=0.2, norm_groups=1)
    | RISING
    | {"sizes": (192, 12, 3)}
    | head("projector", (1024, 1024, 256), use_bias=False, last_norm="plain")
    | head("predictor", (1024, 256), use_bias=False, last_norm="plain")
    | optimizer("adamw", 0.1)
    | rate("cosine", 20, start=0, peak=5e-4)
    | run(256, 200)
    | CIFAR10
    | view(0, 32, 1, (0.08, 1), "bicubic", BYOL)
    | view(1, 32, 1, (0.08, 1), "bicubic", BYOL, solarize=0.2),
  ),
  # BYOL
  *(
    Row(
      DEEPMIND,
      f"byol_resnet50_16xb256-coslr-{epochs}e_in1k",
      TARGETED
      | under("model.momentum", kind="cosine", start=tau, final=1.0)
      | optimizer("larc", decay, exclude_1d=True, trust_coefficient=0.001)
      | rate("cosine", 10, start=0, peak=lr * 4096 / 256)
      | run(4096, epochs),
    )
    for epochs, lr, decay, tau in (
      (100, 0.45, 1e-6, 0.99),
      (300, 0.3, 1e-6, 0.99),
      (1000, 0.2, 1.5e-6, 0.996),
    )
  ),
  Row(
    MMSELFSUP,
    "byol_resnet50_16xb256-coslr-200e_in1k",
    TARGETED
    | RISING
    | optimizer("lars", 1e-6, exclude_1d=True, trust_coefficient=0.001)
    | rate("cosine", 10, "epoch", start=4.8e-4, peak=4.8)
    | run(4096, 200),
  ),
  Row(
    SOLO,
    "byol_resnet18_1xb256-coslr-200e_cifar10",
    under("model", norm_groups=1)
    | RISING
    | resnet(18, stem="cifar")
    | head("projector", (4096, 256), use_bias=True, last_norm="none")
    | head("predictor", (4096, 256), use_bias=True, last_norm="none")
    | FLOAT32
    | optimizer(
      "larc", 1e-5, exclude_1d=True, trust_coefficient=0.02, trust_clip=True
    )
    | rate("cosine", 10, start=3e-5, peak=1.0)
    | run(256, LONGER)
    | CIFAR10
    | view(0, 32, 1, (0.08, 1), "bicubic", BYOL)
    | view(1, 32, 1, (0.08, 1), "bicubic", BYOL, solarize=0.2),
  ),
  # SimSiam
  *(
    Row(
      source,
      f"simsiam_resnet50_{recipe}_in1k",
      under("model", norm_groups=1)
      | resnet(50, zero_init_residual=True)
      | head("projector", (2048,) * 3, use_bias=False, last_norm="plain")
      | head("predictor", (512, 2048), use_bias=True, last_norm="none")
      | optimizer("sgd", 1e-4, rules=FIXED_PREDICTOR)
      | rate("cosine", 0, "epoch", start=peak, peak=peak)
      | run(batch, epochs)
      | IMAGENET
      | view(0, 224, 2, (0.2, 1), "bilinear", WEAK, blur=0.5),
    )
    for source, recipe, batch, epochs, peak in (
      (SIMSIAM, "8xb64-coslr-100e", 512, 100, 0.1),
      (SIMSIAM, "8xb32-coslr-100e", 256, 100, 0.05),
      (MMSELFSUP, "8xb32-coslr-200e", 256, 200, 0.05),
    )
  ),
  Row(
    LIGHTLY,
    "simsiam_resnet18_1xb128-coslr-200e_cifar10",
    under("model", norm_groups=1)
    | resnet(18, stem="cifar")
    | head("projector", (2048, 2048), use_bias=False, last_norm="affine")
    | head("predictor", (512, 2048), use_bias=True, last_norm="none")
    | optimizer("sgd", 5e-4)
    | rate("cosine", 0, "epoch", start=0.06, peak=0.06)
    | run(128, 200)
    | IMAGENET
    | view(0, 32, 2, (0.2, 1), "bilinear", WEAK)
    | under("runtime.evaluate.knn", k=(200, 20), temperature=0.1),
  ),
  # MAE
  Row(
    MAE,
    "mae_vit-*_in1k",
    DECODER
    | BFLOAT16
    | optimizer("adamw", 0.05, b2=0.95, exclude_1d=True)
    | rate("cosine", 40, start=0, peak=2.4e-3)
    | IMAGENET
    | view(0, 224, 1, (0.2, 1), "bicubic"),
  ),
  Row(MMSELFSUP, "mae_vit-base-p16_*-300e_in1k", run(4096, 300)),
  Row(MMSELFSUP, "mae_vit-*_*-400e_in1k", run(4096, 400)),
  Row(MAE, "mae_vit-*_*-800e_in1k", run(4096, 800)),
  Row(MAE, "mae_vit-*_*-1600e_in1k", run(4096, 1600)),  # the paper's
  Row(MAE, "mae_vit-base-p16_*_in1k", {"sizes": (768, 12, 12)}),
  Row(MAE, "mae_vit-large-p16_*_in1k", {"sizes": (1024, 24, 16)}),
  Row(MAE, "mae_vit-huge-p14_*_in1k", {"sizes": (1280, 32, 16)}),
  Row(
    SOLO,
    "mae_vit-small-p4-h12_1xb256-coslr-200e_cifar10",
    DECODER
    | {"sizes": (384, 12, 12)}
    | FLOAT32
    | optimizer("adamw", 0.05, b2=0.95)
    | rate("cosine", 10, start=3e-5, peak=2e-4)
    | run(256, LONGER)
    | CIFAR10
    | view(0, 32, 1, (0.08, 1), "bicubic"),
  ),
  # I-JEPA
  Row(
    IJEPA,
    "ijepa_vit-*_in1k",
    BLOCKS
    | under("model.momentum", kind="linear", start=0.996, final=1.0)
    | under("model", context_least=10, dtype="bfloat16")
    | under("model.backbone", weight_init="normal_all")
    | under("model.predictor", width=384)
    | rate("cosine", 40, start=2e-4, peak=1e-3)
    | IMAGENET
    | view(0, 224, 1, (0.3, 1), "bilinear", flip=0),
  ),
  Row(
    IJEPA,
    "ijepa_vit-huge-p14_*_in1k",
    blocks_optimizer()
    | {"sizes": (1280, 32, 16), "end": 1e-6}
    | under("model.predictor", depth=12, heads=16)
    | run(2048, 300),
  ),
  Row(
    IJEPA,
    "ijepa_vit-*-600e_in1k",
    blocks_optimizer(**STRETCHED)
    | under("model.momentum", **STRETCHED)
    | {"end": 1e-6 + (1e-3 - 1e-6) * (1 + math.cos(math.pi * 560 / 710)) / 2}
    | run(2048, 600),
  ),
  Row(
    IJEPA,
    "ijepa_vit-large-p16_*_in1k",
    {"sizes": (1024, 24, 16)} | under("model.predictor", depth=12, heads=16),
  ),
  Row(
    IJEPA,
    "ijepa_vit-base-p16_*_in1k",
    {"sizes": (768, 12, 12)} | under("model.predictor", depth=6, heads=12),
  ),
  Row(
    OURS,
    "ijepa_vit-tiny-p4_1xb256-coslr-200e_cifar10",
    BLOCKS
    | {"sizes": (192, 12, 3)}
    | under("model.predictor", width=96, depth=6, heads=3)
    | blocks_optimizer()
    | rate("cosine", 20, start=1e-4, peak=5e-4, end=5e-7)
    | run(256, 200)
    | CIFAR10
    | view(0, 32, 1, (0.3, 1), "bilinear", flip=0),
  ),
  Row(
    OURS,
    "ijepa_vit-tiny-p4-w64-d4-h2_1xb64-coslr-12e_shapes",
    BLOCKS
    | {"sizes": (64, 4, 2), "model.backbone.weight_init": "xavier"}
    | {"data.views.0.size": 32, "data.views.0.grey": 1}
    | blocks_optimizer()
    | rate("cosine", 1, start=4e-4, peak=2e-3, end=2e-6)
    | run(64, 12),
  ),
  # Barlow Twins
  Row(
    BARLOW,
    "barlow-twins_resnet50_*",
    under("model", redundancy_weight=0.0051, norm_groups=1)
    | resnet(50, zero_init_residual=True)
    | head("projector", (8192,) * 3, use_bias=False, last_norm="plain")
    | optimizer("larc", 1e-6, exclude_1d=True, trust_coefficient=0.001)
    # A learning rate of 0.2 for weights, and of 0.0048 for biases and norms.
    | {"schedule.optimizer.rules": (("(bias|scale)$", {"lr": 0.024}),)}
    | rate("cosine", 10, start=0, peak=0.2 * 2048 / 256, end=0.0016)
    | run(2048, 1000)
    | BFLOAT16
    | IMAGENET
    | view(0, 224, 1, (0.08, 1), "bicubic", BYOL, blur=1)
    | view(1, 224, 1, (0.08, 1), "bicubic", BYOL, blur=0.1, solarize=0.2),
  ),
  Row(
    MMSELFSUP,
    "barlow-twins_resnet50_8xb256-coslr-300e_in1k",
    {"schedule.optimizer.name": "lars", "model.dtype": "float32"}
    | {"schedule.epochs": 300, "start": 1.6 * 1.6e-4},
  ),
  Row(
    LIGHTLY,
    "barlow-twins_resnet18_1xb128-coslr-200e_cifar10",
    under("model", redundancy_weight=0.005, norm_groups=1)
    | resnet(18, stem="cifar")
    | head("projector", (2048, 2048), use_bias=False, last_norm="plain")
    | optimizer("sgd", 5e-4)
    | rate("cosine", 0, "epoch", start=0.06, peak=0.06)
    | run(128, 200)
    | IMAGENET
    | view(0, 32, 1, (0.08, 1), "bilinear", BYOL)
    | view(1, 32, 1, (0.08, 1), "bilinear", BYOL, solarize=0.2)
    | under("runtime.evaluate.knn", k=(200, 20), temperature=0.1),
  ),
  # VICReg
  Row(
    VICREG,
    "vicreg_resnet50_*",
    under("model", invariance=25, variance=25, covariance=1, norm_groups=1)
    | resnet(50, zero_init_residual=True)
    | head("projector", (8192,) * 3, use_bias=False, last_norm="none")
    | optimizer("larc", 1e-6, exclude_1d=True, trust_coefficient=0.001)
    | rate("cosine", 10, start=0)
    | BFLOAT16
    | IMAGENET
    | view(0, 224, 1, (0.08, 1), "bicubic", BYOL, blur=1)
    | view(1, 224, 1, (0.08, 1), "bicubic", BYOL, blur=0.1, solarize=0.2),
  ),
  Row(
    VICREG,
    "vicreg_resnet50_8xb64-bf16-coslr-100e_in1k",
    run(512, 100) | {"peak": 0.6, "end": 0.0006},
  ),
  Row(
    VICREG,
    "vicreg_resnet50_32xb64-bf16-coslr-1000e_in1k",
    run(2048, 1000) | {"peak": 1.6, "end": 0.0016},
  ),
  Row(
    SOLO,
    "vicreg_resnet18_1xb256-coslr-200e_cifar10",
    under("model", invariance=25, covariance=1, norm_groups=1)
    | {"model.variance": Differs(25, 50, "does not halve the variance terms")}
    | resnet(18, stem="cifar")
    | head("projector", (2048,) * 3, use_bias=True, last_norm="none")
    | FLOAT32
    | optimizer("larc", 1e-4, trust_coefficient=0.02, trust_clip=True)
    | under("schedule.optimizer", exclude_1d=True)
    | rate("cosine", 10, start=3e-5, peak=0.3)
    | run(256, LONGER)
    | CIFAR10
    | view(0, 32, 2, (0.2, 1), "bicubic", BYOL, solarize=0.1),
  ),
  # LeJEPA
  *(
    Row(
      source,
      f"lejepa_{recipe}-bf16-coslr-100e_in1k*",
      under("model", norm_groups=1)
      | under("model", dtype="bfloat16", sigreg_weight=0.05, directions=1024)
      | head("projector", (2048, 2048, 64), use_bias=True, last_norm="none")
      | optimizer("adamw", decay)
      | under("schedule.optimizer", lr_scaling="none")
      | rate("cosine", 1, start=5e-6, peak=5e-4, end=5e-7)
      | run(512, 100)
      | IMAGENET
      | view(0, 224, views, (0.3, 1), "bilinear", BYOL, blur=0.5, solarize=0.2)
      | figures,
    )
    for source, recipe, decay, views, figures in (
      (
        LIGHTLY_IMAGENET,
        "vit-small-p16_8xb64-mcrop-2-6",
        0.05,
        2,
        under("model.backbone", patch_size=16, drop_path=0.1)
        | {"sizes": (384, 12, 6)}
        | view(1, 96, 6, (0.05, 0.3), "bilinear", BYOL, blur=0.5)
        | {"data.views.0.solarize": SOLARIZED}
        | {"data.views.1.solarize": SOLARIZED}
        | under("runtime.evaluate.knn", k=(200, 20), temperature=0.1),
      ),
      (
        LEJEPA,
        "vit-large-p14_8xb64-mcrop-2-6",
        0.05,
        2,
        under("model.backbone", patch_size=14, drop_path=0.1)
        | {"sizes": (1024, 24, 16)}
        | view(1, 98, 6, (0.05, 0.3), "bilinear", BYOL, blur=0.5, solarize=0.2),
      ),
      (LEJEPA, "resnet50_8xb64", 5e-4, 4, resnet(50, True)),
    )
  ),
  Row(
    OURS,  # Its head and SIGReg, its rate, batch and views: MINIMAL.md's.
    "lejepa_resnet18_1xb256-coslr-200e_cifar10",
    under("model", norm_groups=1, sigreg_weight=0.02, directions=256)
    | resnet(18, stem="cifar")
    | head("projector", (2048, 2048, 16), use_bias=True, last_norm="none")
    | optimizer("adamw", 5e-4)
    | under("schedule.optimizer", lr_scaling="none")
    | rate("cosine", 1, start=2e-5, peak=2e-3, end=2e-6)
    | run(256, 200)
    | CIFAR10
    | view(0, 32, 4, (0.2, 1), "bilinear", BYOL, solarize=0.2),
  ),
  # Relative location
  Row(
    MMSELFSUP,
    "relative-loc_resnet*lr-70e_*",
    {"model.dropout": 0.5, "model.norm_groups": 8, "model.head.classes": 8}
    | optimizer("sgd", 1e-4, rules=(("head/", {"weight_decay": 5.0}),))
    | rate("step", 5, "epoch", start=0.02, peak=0.2, end=0.002)
    | under("schedule.lr", milestones=(30, 50), gamma=0.1)
    | under("data.views.0", grey=0.66, interpolation="bilinear")
    | normalised(
      (124 / 255, 117 / 255, 104 / 255), (59 / 255, *[58 / 255] * 2)
    ),
  ),
  Row(
    MMSELFSUP,
    "relative-loc_resnet50_8xb64-steplr-70e_in1k",
    resnet(50)
    | {"model.head.hidden": 4096}
    | run(512, 70)
    | under("data.views.0", size=64, resize=292, crop=255),
  ),
  Row(
    OURS,  # A grid of 3 x 3 cells of 11 px, and MMSelfSup's schedule.
    "relative-loc_resnet18_8xb64-steplr-70e_cifar10",
    resnet(18, stem="cifar")
    | {"model.head.hidden": 1024}
    | run(512, 70)
    | under("data.views.0", size=9, resize=36, crop=33),
  ),
  # DINO
  Row(
    DINO,
    "dino_vit-small-p16_*",
    under("model", temperature=0.1, center_momentum=0.9, norm_groups=1)
    | under("model.momentum", kind="cosine", start=0.996, final=1.0)
    | under("model.backbone", patch_size=16, drop_path=0.1)
    | under("model.backbone", weight_init="normal", positions="learned")
    | {"sizes": (384, 12, 6)}
    | head("head", (2048, 2048, 256), norm=False, prototypes=65536)
    | optimizer("adamw", RISING_DECAY, exclude_1d=True)
    | rate("cosine", 10, start=0)
    | IMAGENET,
  ),
  Row(
    DINO,
    "dino_vit-small-p16_8xb64-*-100e_in1k-224-96",
    {"model.teacher_temperature": 0.04, "model.head.trained_scale": False}
    | BFLOAT16
    | {"schedule.optimizer.rules": (CLIP, ("head/prototypes", FROZEN))}
    | run(512, 100)
    | {"peak": 1e-3, "end": 1e-6}
    | crops(224, 96, 8, 0.4, 0.05),
  ),
  Row(
    DINO,
    "dino_vit-small-p16_16xb64-*-300e_in1k-224-96",
    {"model.teacher_temperature": WARMED, "model.head.trained_scale": True}
    | BFLOAT16
    | {"schedule.optimizer.rules": (CLIP, *SCALED)}
    | run(1024, 300)
    | {"peak": 2e-3, "end": 1e-6}
    | crops(224, 96, 8, 0.4, 0.05),
  ),
  Row(
    DINO,
    "dino_vit-small-p16_16xb64-*-800e_in1k-224-96",
    {"model.teacher_temperature": WARMED, "model.head.trained_scale": True}
    | {"model.dtype": "float32", "schedule.optimizer.rules": SCALED}
    | run(1024, 800)
    | {"peak": 2e-3, "end": 1e-5}
    | crops(224, 96, 10, 0.25, 0.05),
  ),
  Row(
    DINO,
    "dino_resnet50_*",
    under("model", temperature=0.1, center_momentum=0.9, norm_groups=1)
    | under("model.momentum", kind="cosine", start=0.996, final=1.0)
    | {"model.teacher_temperature": 0.04, "model.head.trained_scale": False}
    | resnet(50)
    | head("head", (2048, 2048, 256), norm=False, prototypes=65536)
    | BFLOAT16
    | optimizer("sgd", 1e-4, exclude_1d=True)
    | {"schedule.optimizer.rules": (CLIP, ("head/prototypes", FROZEN))}
    | rate("cosine", 10, start=0, peak=0.06, end=1e-6)
    | run(512, 100)
    | IMAGENET
    | crops(224, 96, 8, 0.14, 0.05),
  ),
  # iBOT
  Row(
    IBOT,
    "ibot_vit-small-p16_*",
    under("model", temperature=0.1, center_momentum=0.9, norm_groups=1)
    | {"model.teacher_temperature": WARMED}
    | under("model", mask_probability=0.5, mask_ratio=(0.1, 0.5))
    | under("model.momentum", kind="cosine", start=0.996, final=1.0)
    | under("model.backbone", patch_size=16, drop_path=0.1)
    | under("model.backbone", weight_init="normal", positions="learned")
    | {"sizes": (384, 12, 6)}
    | head("head", (2048, 2048, 256), norm=False, prototypes=8192)
    | {"model.head.trained_scale": True}
    | BFLOAT16
    | optimizer("adamw", RISING_DECAY, exclude_1d=True)
    | {"schedule.optimizer.rules": (CLIP, *SCALED)}
    | rate("cosine", 10, start=0, peak=2e-3, end=1e-6)
    | run(1024, 800)
    | IMAGENET
    | crops(224, 96, 10, 0.25, 0.05),
  ),
  # DINOv2
  Row(
    DINOV2,
    "dinov2_vit-large-p16_*",
    under("model", temperature=0.1, center_momentum=0.9, norm_groups=1)
    | under("model.teacher_temperature", start=0.07, warmup_from=0.04)
    | under("model.teacher_temperature", kind="constant", warmup=steps(37500))
    | under("model", centering="center", mask_ratio=(0.1, 0.5))
    | under("model", koleo_weight=0.1, koleo_groups=32)
    | {"model.patch_head": None}
    | under("model.momentum", kind="cosine", start=0.992, final=1.0)
    | under("model.backbone", patch_size=16, drop_path=0.3, layer_scale=1e-5)
    | under("model.backbone", drop_path_schedule="uniform", registers=0)
    | under("model.backbone", mlp="gelu", positions="learned")
    | {"sizes": (1024, 24, 16)}
    | head("head", (2048, 2048, 256), norm=False, prototypes=65536)
    | {"model.head.trained_scale": True}
    | BFLOAT16
    | optimizer("adamw", RISING_DECAY, exclude_1d=True)
    | under("schedule.optimizer", lr_scaling="sqrt", lr_batch=1024)
    | under("schedule.optimizer", layer_decay=0.9, clip_norm=3.0)
    | {
      "schedule.optimizer.rules": (
        ("backbone/patch_embed", {"lr": 0.2}),
        ("head/(prototypes|scale)", {"freeze": steps(1250)}),
        ("head/scale", {"exclude": False}),
      )
    }
    | rate("cosine", steps(12500), start=0, peak=4e-3 * 2**0.5, end=1e-6)
    | {"data.batch_size": 2048, "schedule.epochs": None}
    | {"schedule.steps": 100 * 1250}
    | IMAGENET
    | crops(224, 96, 8, 0.32, 0.05),
  ),
  *(
    Row(
      OURS,
      f"{name}_vit-tiny-p4_1xb256-mcrop-2-6-coslr-200e_cifar10-32-16",
      under("model", temperature=0.1, teacher_temperature=0.04, norm_groups=1)
      | under("model.momentum", kind="cosine", start=0.99, final=1.0)
      | {"sizes": (192, 12, 3), "model.backbone.drop_path": 0}
      | head("head", (512, 512, 128), norm=False, prototypes=prototypes)
      | optimizer("adamw", RISING_DECAY, exclude_1d=True)
      | {"schedule.optimizer.rules": (CLIP, ("head/prototypes", FROZEN))}
      | rate("cosine", 10, start=0, peak=5e-4, end=5e-7)
      | run(256, 200)
      | CIFAR10
      | crops(32, 16, 6, 0.4, 0.1, blur=(0, 0, 0)),
    )
    for name, prototypes in (("dino", 4096), ("ibot", 2048), ("dinov2", 2048))
  ),
  *(
    Row(
      OURS,
      f"{name}_vit-tiny-p4-w64-d4-h2_1xb64-mcrop-2-2-coslr-12e_shapes-32-16",
      under("model", temperature=0.1, teacher_temperature=0.04, norm_groups=1)
      | under("model.momentum", kind="cosine", start=0.97, final=1.0)
      | {"sizes": (64, 4, 2), "model.koleo_weight": 0.1}
      | {"model.backbone.weight_init": "xavier"}
      | head("head", (256, 256, 64), norm=False, prototypes=1024)
      | optimizer("adamw", 0.01, exclude_1d=True)
      | {"schedule.optimizer.rules": (CLIP, ("head/prototypes", NEVER))}
      | rate("cosine", 1, start=0, peak=1e-3)
      | run(64, 12)
      | crops(32, 16, 2, 0.5, 0.2, blur=(0, 0, 0)),
    )
    for name in ("dino", "ibot", "dinov2")
  ),
  # The generated shapes
  *(
    Row(
      OURS,
      f"{recipe}-coslr-*e_shapes",
      optimizer("adamw", 0.01, exclude_1d=True)
      | rate("cosine", warmup, start=0, peak=peak)
      | run(256, 24)
      | under("data.views.0", size=size)
      | figures,
    )
    for recipe, size, peak, warmup, figures in (
      ("simclr_resnet18-w25_1xb256", 32, 3e-3, 1, {"model.temperature": 0.2}),
      (
        "barlow-twins_resnet18-w25_1xb64",
        32,
        2e-3,
        1,
        {"model.redundancy_weight": 0.005} | run(64, 24),
      ),
      (
        "vicreg_resnet18-w25_1xb64",
        32,
        2e-3,
        1,
        {"model.variance": 25} | run(64, 24),
      ),
      (
        "lejepa_resnet18-w25_1xb64",
        32,
        2e-3,
        1,
        {"model.directions": 256} | run(64, 24),
      ),
      (
        "mocov2_resnet18-w25_2xb32",
        32,
        2e-3,
        1,
        {"model.queue_size": 2048, "model.momentum": 0.97} | run(64, 24),
      ),
      (
        "byol_resnet18-w25_1xb64",
        32,
        2e-3,
        1,
        {"model.momentum.start": 0.99} | run(64, 24),
      ),
      ("simsiam_resnet18-w25_1xb32", 32, 5e-4, 1, run(32, 24)),
      (
        "swav_resnet18-w25_1xb64",
        32,
        2e-3,
        1,
        {"model.prototypes": 256} | frozen_prototypes(16) | run(64, 24),
      ),
      (
        "relative-loc_resnet18-w25_8xb32",
        9,
        3e-3,
        1,
        {"data.views.0.crop": 33} | run(256, 8),
      ),
      ("mocov3_vit-tiny-p8-w96-d4_1xb256", 32, 1e-3, 2, {"sizes": (96, 4, 3)}),
      (
        "mae_vit-tiny-p4-w96-d4_1xb64",
        32,
        1e-3,
        2,
        {"sizes": (96, 4, 3)} | run(64, 24),
      ),
    )
  ),
]
