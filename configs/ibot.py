"""iBOT: `--config=configs/ibot.py[:cifar10|:imagenet|:quickstart]`."""

from sslx.config import entry

get_config = entry(
  cifar10="selfsup/ibot_vit-tiny-p4_1xb256-mcrop-2-6-coslr-200e_cifar10-32-16.py",
  imagenet="selfsup/ibot_vit-small-p16_16xb64-mcrop-2-10-bf16-coslr-800e_in1k-224-96.py",
  quickstart="selfsup/ibot_vit-tiny-p4-w64-d4-h2_1xb64-mcrop-2-2-coslr-12e_shapes-32-16.py",
)
