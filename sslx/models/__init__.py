"""Networks: the only folder that imports Flax Linen.

Methods build networks here and use them only through `init` and `apply`.
"""

from __future__ import annotations

import flax.linen as nn

from sslx.config import Choice
from sslx.models import resnet, vit

Network = nn.Module

BACKBONES = {"resnet": resnet.ResNet, "vit": vit.ViT}
# The annotation of a backbone field: a Linen module, called as
# `module(images, train=..., axis=...)`, that a config selects by name.
BACKBONE = Choice("name", BACKBONES)
