"""SwAV: `--config=configs/swav.py[:cifar10|:imagenet|:quickstart]`."""

from sslx.config import entry

get_config = entry(
  cifar10="selfsup/swav_resnet18_1xb256-coslr-200e_cifar10.py",
  imagenet="selfsup/swav_resnet50_8xb32-mcrop-2-6-coslr-200e_in1k-224-96.py",
  quickstart="selfsup/swav_resnet18-w25_1xb64-coslr-24e_shapes.py",
)
