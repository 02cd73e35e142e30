"""BYOL: `--config=configs/byol.py[:cifar10|:imagenet|:quickstart]`."""

from sslx.config import entry

get_config = entry(
  cifar10="selfsup/byol_resnet18_1xb256-coslr-200e_cifar10.py",
  imagenet="selfsup/byol_resnet50_16xb256-coslr-300e_in1k.py",
  quickstart="selfsup/byol_resnet18-w25_1xb64-coslr-24e_shapes.py",
)
