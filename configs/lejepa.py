"""LeJEPA: `--config=configs/lejepa.py[:cifar10|:imagenet|:quickstart]`."""

from sslx.config import entry

get_config = entry(
  cifar10="selfsup/lejepa_resnet18_1xb256-coslr-200e_cifar10.py",
  imagenet="selfsup/lejepa_vit-small-p16_8xb64-mcrop-2-6-bf16-coslr-100e_in1k-224-96.py",
  quickstart="selfsup/lejepa_resnet18-w25_1xb64-coslr-24e_shapes.py",
)
