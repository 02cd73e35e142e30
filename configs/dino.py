"""DINO: `--config=configs/dino.py[:cifar10|:imagenet|:quickstart]`."""

from sslx.config import entry

get_config = entry(
  cifar10="selfsup/dino_vit-tiny-p4_1xb256-mcrop-2-6-coslr-200e_cifar10-32-16.py",
  imagenet="selfsup/dino_vit-small-p16_8xb64-mcrop-2-8-bf16-coslr-100e_in1k-224-96.py",
  quickstart="selfsup/dino_vit-tiny-p4-w64-d4-h2_1xb64-mcrop-2-2-coslr-12e_shapes-32-16.py",
)
