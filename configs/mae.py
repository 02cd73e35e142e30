"""MAE: `--config=configs/mae.py[:cifar10|:imagenet|:quickstart]`."""

from sslx.config import entry

get_config = entry(
  cifar10="selfsup/mae_vit-small-p4-h12_1xb256-coslr-200e_cifar10.py",
  imagenet="selfsup/mae_vit-base-p16_8xb512-bf16-coslr-300e_in1k.py",
  quickstart="selfsup/mae_vit-tiny-p4-w96-d4_1xb64-coslr-24e_shapes.py",
)
