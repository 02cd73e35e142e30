"""MoCo v2: `--config=configs/mocov2.py[:cifar10|:imagenet|:quickstart]`."""

from sslx.config import entry

get_config = entry(
  cifar10="selfsup/mocov2_resnet18_8xb64-coslr-200e_cifar10.py",
  imagenet="selfsup/mocov2_resnet50_8xb32-coslr-200e_in1k.py",
  quickstart="selfsup/mocov2_resnet18-w25_2xb32-coslr-24e_shapes.py",
)
