"""Linear classifiers of features, for the protocols that evaluate a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from sslx.axis import Axis
from sslx.config import require
from sslx.models import linear, norm


class Classifier(nn.Module):
  """Linear classifiers: one, or several side by side with weights of their own.

  Weights are drawn from N(0, std^2), biases start at 0. The parameters of
  classifier i of the features called "cls" are `cls_i/kernel` and
  `cls_i/bias`, so that a rule of the optimiser can give it a learning rate.

  Attributes:
    classes: number of classes.
    copies: classifiers of each kind of features.
    std: standard deviation of the weights at the start.
    norm: whether a BatchNorm without scale and bias comes first, with an
      epsilon of 1e-6 (He et al., Masked Autoencoders, 2022, appendix A.1).
    norm_groups: groups of the global batch that share BatchNorm statistics.
    dtype: compute dtype. Parameters, statistics and logits are float32.
  """

  classes: int
  copies: int = 1
  std: float = 0.01
  norm: bool = False
  norm_groups: int = 1
  dtype: Literal["float32", "bfloat16"] = "float32"

  def __post_init__(self):
    for key in ("classes", "copies", "norm_groups"):
      require(self, key, getattr(self, key) >= 1, "at least 1")
    require(self, "std", self.std >= 0, "at least 0")
    super().__post_init__()

  @nn.compact
  def __call__(
    self,
    features: Mapping[str, jax.Array],
    *,
    train: bool,
    axis: Axis = Axis(),
  ) -> dict[str, jax.Array]:
    """Computes logits.

    Args:
      features: [b, d] by name; d may differ.
      train: see `norm.BatchNorm`.
      axis: the data axis.

    Returns:
      f32[b, classes] by `<name>_<copy>`.
    """
    logits = {}
    for name, x in features.items():
      if self.norm:
        x = norm.BatchNorm(
          groups=self.norm_groups,
          eps=1e-6,
          use_scale=False,
          use_bias=False,
          dtype=self.dtype,
          axis=axis,
          name=f"{name}_bn",
        )(x, train)
      for i in range(self.copies):
        dense = nn.Dense(
          self.classes,
          kernel_init=nn.initializers.normal(self.std),
          dtype=self.dtype,
          name=f"{name}_{i}",
          **linear.dense(axis),
        )
        logits[f"{name}_{i}"] = dense(x).astype(jnp.float32)
    return logits
