"""MoCo v3: `--config=configs/mocov3.py[:cifar10|:imagenet|:quickstart]`."""

from sslx.config import entry

get_config = entry(
  cifar10="selfsup/mocov3_vit-tiny-p4_1xb256-coslr-200e_cifar10.py",
  imagenet="selfsup/mocov3_vit-base-p16_16xb256-bf16-coslr-300e_in1k.py",
  quickstart="selfsup/mocov3_vit-tiny-p8-w96-d4_1xb256-coslr-24e_shapes.py",
)
