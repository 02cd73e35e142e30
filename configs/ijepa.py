"""I-JEPA: `--config=configs/ijepa.py[:cifar10|:imagenet|:quickstart]`."""

from sslx.config import entry

get_config = entry(
  cifar10="selfsup/ijepa_vit-tiny-p4_1xb256-coslr-200e_cifar10.py",
  imagenet="selfsup/ijepa_vit-huge-p14_16xb128-bf16-coslr-300e_in1k.py",
  quickstart="selfsup/ijepa_vit-tiny-p4-w64-d4-h2_1xb64-coslr-12e_shapes.py",
)
