"""SimCLR: `--config=configs/simclr.py[:cifar10|:imagenet|:quickstart]`."""

from sslx.config import entry

get_config = entry(
  cifar10="selfsup/simclr_resnet18_1xb512-coslr-200e_cifar10.py",
  imagenet="selfsup/simclr_resnet50_8xb32-coslr-200e_in1k.py",
  quickstart="selfsup/simclr_resnet18-w25_1xb256-coslr-24e_shapes.py",
)
