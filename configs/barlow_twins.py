"""Barlow Twins; `:cifar10` is the default, `:imagenet`, `:quickstart`."""

from sslx.config import entry

get_config = entry(
  cifar10="selfsup/barlow-twins_resnet18_1xb128-coslr-200e_cifar10.py",
  imagenet="selfsup/barlow-twins_resnet50_16xb128-bf16-coslr-1000e_in1k.py",
  quickstart="selfsup/barlow-twins_resnet18-w25_1xb64-coslr-24e_shapes.py",
)
