"""ResNet v1.5, equal to torchvision's layer by layer.

Paddings are explicit because "SAME" pads a strided convolution by (0, 1) where
torch pads by (1, 1). With "SAME", features would differ, and converted weights
would be off by a pixel. Parameters have torchvision's names, with `/` between
modules and `_` before a block number: `layer1.0.conv1.weight` is
`layer1_0/conv1/kernel`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from sslx.axis import Axis
from sslx.config import require
from sslx.models import linear, norm

# He et al., 2015, section 2.2: N(0, 2 / (kernel area * output channels)).
KAIMING = nn.initializers.variance_scaling(2.0, "fan_out", "normal")

# depth: (blocks of each stage, whether they are bottlenecks)
LAYOUTS = {
  18: ((2, 2, 2, 2), False),
  34: ((3, 4, 6, 3), False),
  50: ((3, 4, 6, 3), True),
  101: ((3, 4, 23, 3), True),
}


class ResNet(nn.Module):
  """A ResNet trunk: images to globally average-pooled features, or to maps.

  Attributes:
    depth: number of layers with weights, by the usual count.
    width: factor on the channels of every layer; the first stage has
      `round(64 * width)` channels, at least 1, and each next stage has twice as
      many.
    stem: "imagenet" is a 7x7 convolution of stride 2 and a 3x3 max pool of
      stride 2; "cifar" a 3x3 convolution of stride 1 and no pool.
    zero_init_residual: whether every block starts as the identity, with the
      scale of its last BatchNorm at zero (Goyal et al., 2017, section 5.1).
    norm_groups: groups of the global batch that share BatchNorm statistics;
      1 is SyncBN.
    dtype: compute dtype. Parameters and statistics are float32.

  References:
    He et al., 2015, table 1, "Deep Residual Learning"; v1.5 puts the stride of
    a bottleneck on its 3x3 convolution, not on its first 1x1.
  """

  depth: Literal[18, 34, 50, 101] = 50
  width: float = 1.0
  stem: Literal["imagenet", "cifar"] = "imagenet"
  zero_init_residual: bool = True
  norm_groups: int = 1
  dtype: Literal["float32", "bfloat16"] = "float32"

  def __post_init__(self):
    known = f"one of {list(LAYOUTS)}"
    require(self, "depth", self.depth in LAYOUTS, known)
    require(self, "width", self.width > 0, "above 0")
    require(self, "norm_groups", self.norm_groups >= 1, "at least 1")
    super().__post_init__()

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    *,
    train: bool,
    axis: Axis = Axis(),
    every: bool = False,
    maps: bool = False,
  ) -> jax.Array | dict[str, jax.Array]:
    """Computes features of images.

    Args:
      x: [b, h, w, 3], normalised.
      train: whether BatchNorm uses the statistics of the batch, and updates its
        running statistics.
      axis: the data axis that the batch is split over.
      every: whether to return the features of the other stages too.
      maps: whether to return feature maps, not their means over the pixels.

    Returns:
      f32[b, d]. d is 8 times the channels of the first stage, or 32 times with
      bottlenecks (50 layers and more): 512 or 2048 at width 1. With `every`, a
      dict with these features as "final", and those of the stages before as
      "stage1", "stage2" and "stage3" (feature2 to feature4 in MMSelfSup). With
      `maps`, [b, h', w', d] of the compute dtype instead of each f32[b, d].
    """
    conv = functools.partial(
      nn.Conv,
      use_bias=False,
      kernel_init=KAIMING,
      dtype=self.dtype,
      **linear.conv(axis),
    )
    bn = functools.partial(
      norm.BatchNorm, groups=self.norm_groups, dtype=self.dtype, axis=axis
    )
    channels = max(1, round(64 * self.width))

    x = x.astype(self.dtype)
    if self.stem == "imagenet":
      x = conv(channels, (7, 7), 2, padding=3, name="conv1")(x)
      x = nn.relu(bn(name="bn1")(x, train))
      # Padded with -inf, so that the padding is never the maximum.
      x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
    else:
      x = conv(channels, (3, 3), padding=1, name="conv1")(x)
      x = nn.relu(bn(name="bn1")(x, train))

    blocks, bottleneck = LAYOUTS[self.depth]
    features = {}
    for stage, count in enumerate(blocks):
      for i in range(count):
        x = Block(
          channels=channels * 2**stage,
          bottleneck=bottleneck,
          stride=2 if stage and not i else 1,
          zero_init=self.zero_init_residual,
          conv=conv,
          bn=bn,
          name=f"layer{stage + 1}_{i}",
        )(x, train)
      pooled = x if maps else x.mean((1, 2), dtype=jnp.float32)
      features[f"stage{stage + 1}"] = pooled
    final = features.pop("stage4")
    return {"final": final, **features} if every else final


class Block(nn.Module):
  """A residual block: two 3x3 convolutions, or a bottleneck 1x1, 3x3, 1x1.

  Attributes:
    channels: channels of the 3x3 convolutions; a bottleneck outputs four times
      as many.
    bottleneck: whether the block is a bottleneck.
    stride: stride of the first 3x3 convolution.
    zero_init: whether the last BatchNorm's scale starts at zero.
    conv: makes a convolution.
    bn: makes a BatchNorm.
  """

  channels: int
  bottleneck: bool
  stride: int
  zero_init: bool
  conv: Callable[..., nn.Conv]
  bn: Callable[..., norm.BatchNorm]

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps [b, h, w, c] to [b, ceil(h / stride), ceil(w / stride), c']."""
    c, stride = self.channels, self.stride
    if self.bottleneck:
      layers = (c, 1, 1), (c, 3, stride), (4 * c, 1, 1)
    else:
      layers = (c, 3, stride), (c, 3, 1)

    y = x
    for i, (features, size, step) in enumerate(layers, start=1):
      y = self.conv(
        features, (size, size), step, padding=size // 2, name=f"conv{i}"
      )(y)
      if i < len(layers):
        y = nn.relu(self.bn(name=f"bn{i}")(y, train))
      else:
        init = nn.initializers.zeros if self.zero_init else nn.initializers.ones
        y = self.bn(name=f"bn{i}", scale_init=init)(y, train)

    if stride > 1 or x.shape[-1] != y.shape[-1]:
      x = self.conv(
        y.shape[-1], (1, 1), stride, padding=0, name="downsample_conv"
      )(x)
      x = self.bn(name="downsample_bn")(x, train)
    return nn.relu(x + y)
