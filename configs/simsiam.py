"""SimSiam: `--config=configs/simsiam.py[:cifar10|:imagenet|:quickstart]`."""

from sslx.config import entry

get_config = entry(
  cifar10="selfsup/simsiam_resnet18_1xb128-coslr-200e_cifar10.py",
  imagenet="selfsup/simsiam_resnet50_8xb64-coslr-100e_in1k.py",
  quickstart="selfsup/simsiam_resnet18-w25_1xb32-coslr-24e_shapes.py",
)
