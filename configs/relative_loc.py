"""Relative location; `:cifar10` is the default, `:imagenet`, `:quickstart`."""

from sslx.config import entry

get_config = entry(
  cifar10="selfsup/relative-loc_resnet18_8xb64-steplr-70e_cifar10.py",
  imagenet="selfsup/relative-loc_resnet50_8xb64-steplr-70e_in1k.py",
  quickstart="selfsup/relative-loc_resnet18-w25_8xb32-coslr-8e_shapes.py",
)
