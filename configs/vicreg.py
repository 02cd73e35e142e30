"""VICReg; `:cifar10` is the default, `:imagenet`, `:quickstart`."""

from sslx.config import entry

get_config = entry(
  cifar10="selfsup/vicreg_resnet18_1xb256-coslr-200e_cifar10.py",
  imagenet="selfsup/vicreg_resnet50_8xb64-bf16-coslr-100e_in1k.py",
  quickstart="selfsup/vicreg_resnet18-w25_1xb64-coslr-24e_shapes.py",
)
