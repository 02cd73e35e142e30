"""Networks: the only folder that knows of Flax.

Methods build them here and use them through `init` and `apply` alone.
"""

from __future__ import annotations

from sslx.config import Choice
from sslx.models import resnet, vit

BACKBONES = {"resnet": resnet.ResNet, "vit": vit.ViT}


# The annotation of a backbone: a Linen module, called as
# `module(images, train=..., axis=...)`, with the name that a config gives it.
BACKBONE = Choice("name", BACKBONES)
