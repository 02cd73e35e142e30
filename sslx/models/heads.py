"""Projection and prediction heads."""

from __future__ import annotations

import functools
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from sslx import losses
from sslx.axis import Axis
from sslx.config import require
from sslx.models import linear, norm, transformer


class MLP(nn.Module):
  """Linear layers with BatchNorm and ReLU between them.

  Weights and biases are drawn as in torch's `nn.Linear`: uniform within
  1 / sqrt(inputs). So does the official code of every method below except
  SimCLR, which draws N(0, 0.01^2), and BYOL, which draws a normal truncated at
  two of its deviations, 1 / sqrt(inputs). There a BatchNorm or the loss removes
  the scale of each layer.

  The heads of the papers, by `dims` (hidden, ..., output):

  ```
  SimCLR               (2048, 128)        last_norm="affine"
  SimCLR, CIFAR        (512, 128)         last_norm="affine"
  MoCo v2              (2048, 128)        use_bias=True, norm=False
  MoCo v3 projector    (4096, 4096, 256)  last_norm="plain"; R50: (4096, 256)
  MoCo v3 predictor    (4096, 256)        last_norm="plain"; R50: "none"
  SwAV                 (2048, 128)        use_bias=True
  BYOL, both           (4096, 256)
  BYOL, CIFAR, both    (4096, 256)        use_bias=True
  SimSiam projector    (2048, 2048, 2048) last_norm="plain"
  SimSiam predictor    (512, 2048)        use_bias=True
  Barlow Twins         (8192, 8192, 8192) last_norm="plain"
  VICReg               (8192, 8192, 8192)
  SimSiam, CIFAR       (2048, 2048)       last_norm="affine"
  LeJEPA               (2048, 2048, 64)   use_bias=True
  ```

  Attributes:
    dims: number of outputs of each linear layer.
    use_bias: whether linear layers have biases. A layer followed by a BatchNorm
      never has one, since the BatchNorm would subtract it. (Official SwAV,
      SimSiam, BYOL, VICReg and LeJEPA each keep some of these useless biases.)
    norm: whether hidden layers have a BatchNorm before their ReLU.
    last_norm: BatchNorm of the output: "none", "affine" (with scale and bias)
      or "plain" (without).
    norm_groups: groups of the global batch that share BatchNorm statistics.
    dtype: compute dtype. Parameters, statistics and the output are float32.
  """

  dims: tuple[int, ...]
  use_bias: bool = False
  norm: bool = True
  last_norm: Literal["none", "affine", "plain"] = "none"
  norm_groups: int = 1
  dtype: Literal["float32", "bfloat16"] = "float32"

  def __post_init__(self):
    positive = bool(self.dims) and min(self.dims) >= 1
    require(self, "dims", positive, "one or more positive widths")
    require(self, "norm_groups", self.norm_groups >= 1, "at least 1")
    super().__post_init__()

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    *,
    train: bool,
    axis: Axis = Axis(),
  ) -> jax.Array:
    """Maps features x[b, d] to f32[b, dims[-1]]; see `norm.BatchNorm`."""
    x = x.astype(self.dtype)
    for i, features in enumerate(self.dims, start=1):
      last = i == len(self.dims)
      normed = self.last_norm != "none" if last else self.norm
      init = uniform(x.shape[-1] ** -0.5)
      x = nn.Dense(
        features,
        use_bias=self.use_bias and not normed,
        kernel_init=init,
        bias_init=init,
        dtype=self.dtype,
        name=f"fc{i}",
        **linear.dense(axis),
      )(x).astype(self.dtype)
      if normed:
        affine = not last or self.last_norm == "affine"
        x = norm.BatchNorm(
          groups=self.norm_groups,
          use_scale=affine,
          use_bias=affine,
          dtype="float32" if last else self.dtype,
          axis=axis,
          name=f"bn{i}",
        )(x, train)
      if not last:
        x = nn.relu(x)
    return x.astype(jnp.float32)


class PairHead(nn.Module):
  """Classifier of pairs of features, for relative location.

  A linear layer, BatchNorm, ReLU, dropout, and a second linear layer. Their
  weights are drawn from N(0, 0.01^2) and N(0, 0.005^2), as in MMSelfSup. The
  first layer has no bias, since the BatchNorm would subtract it. The bias of
  the second starts at 0.

  Attributes:
    hidden: width of the hidden layer.
    classes: number of logits.
    norm_groups: groups of the global batch that share BatchNorm statistics.
    dtype: compute dtype. Parameters, statistics and logits are float32.
  """

  hidden: int = 4096
  classes: int = 8
  norm_groups: int = 1
  dtype: Literal["float32", "bfloat16"] = "float32"

  def __post_init__(self):
    for key in ("hidden", "classes", "norm_groups"):
      require(self, key, getattr(self, key) >= 1, "at least 1")
    super().__post_init__()

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    *,
    train: bool,
    axis: Axis = Axis(),
    mask: jax.Array | None = None,
  ) -> jax.Array:
    """Computes the logits of pairs.

    Args:
      x: [n, 2 d], the features of both patches, concatenated.
      train: see `norm.BatchNorm`.
      axis: the data axis.
      mask: f32[n, hidden], dropout factors of the hidden units.

    Returns:
      f32[n, classes].
    """
    dense = functools.partial(nn.Dense, dtype=self.dtype, **linear.dense(axis))
    x = dense(
      self.hidden, use_bias=False, kernel_init=_normal(0.01), name="fc1"
    )(x)
    x = norm.BatchNorm(
      groups=self.norm_groups,
      momentum=0.997,  # torch's 0.003
      dtype=self.dtype,
      axis=axis,
      name="bn1",
    )(x, train)
    x = nn.relu(x)
    if mask is not None:
      x = x * mask.astype(x.dtype)
    x = dense(self.classes, kernel_init=_normal(0.005), name="fc2")(x)
    return x.astype(jnp.float32)


class PrototypeHead(nn.Module):
  """DINO's head: an MLP, and similarities of its unit output to prototypes.

  Linear layers with an exact GELU between them, the last of them narrow; L2
  normalisation; and a weight-normalised linear layer without bias, whose rows
  are the prototypes divided by their lengths, times a scale. As in the official
  code, weights are drawn from N(0, 0.02^2), biases start at 0, prototypes as in
  torch's `nn.Linear`, and scales at 1.

  DINO has 65536 prototypes and iBOT 8192, which it uses for the class token and
  the patches alike.

  Attributes:
    dims: number of outputs of each linear layer of the MLP.
    prototypes: K, the number of prototypes.
    norm: whether hidden layers have a BatchNorm before their GELU; they then
      have no bias.
    trained_scale: whether the scales, one for each prototype, are trained
      (`norm_last_layer=False` in the official code) or fixed to 1.
    norm_groups: groups of the global batch that share BatchNorm statistics.
    dtype: compute dtype of the MLP. Parameters, statistics, normalisation,
      similarities and the output are float32.

  References:
    Caron et al., Emerging Properties in Self-Supervised Vision Transformers,
    ICCV 2021, section 3.1 and appendix C.
    Salimans and Kingma, Weight Normalization, 2016, eq. 2.
  """

  dims: tuple[int, ...] = (2048, 2048, 256)
  prototypes: int = 65536
  norm: bool = False
  trained_scale: bool = False
  norm_groups: int = 1
  dtype: Literal["float32", "bfloat16"] = "float32"

  def __post_init__(self):
    positive = bool(self.dims) and min(self.dims) >= 1
    require(self, "dims", positive, "one or more positive widths")
    for key in ("prototypes", "norm_groups"):
      require(self, key, getattr(self, key) >= 1, "at least 1")
    super().__post_init__()

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    *,
    train: bool,
    axis: Axis = Axis(),
  ) -> jax.Array:
    """Maps features x[..., d] to f32[..., K]; see `norm.BatchNorm`."""
    x = x.astype(self.dtype)
    for i, features in enumerate(self.dims, start=1):
      hidden = i < len(self.dims)
      normed = self.norm and hidden
      x = nn.Dense(
        features,
        use_bias=not normed,
        kernel_init=transformer.initial("normal"),
        dtype=self.dtype,
        name=f"fc{i}",
        **linear.dense(axis),
      )(x).astype(self.dtype)
      if normed:
        x = norm.BatchNorm(
          groups=self.norm_groups, dtype=self.dtype, axis=axis, name=f"bn{i}"
        )(x, train)
      if hidden:
        x = transformer.gelu(x)
    shape = (self.prototypes, x.shape[-1])
    rows = self.param("prototypes", uniform(x.shape[-1] ** -0.5), shape)
    rows = losses.l2_normalize(rows)
    if self.trained_scale:
      ones = nn.initializers.ones
      rows *= self.param("scale", ones, (self.prototypes,))[:, None]
    return losses.l2_normalize(x) @ rows.T


def require_same_width(predictor: MLP, projector: MLP) -> None:
  """Raises a ValueError if one cannot predict what the other outputs."""
  predicted, target = predictor.dims[-1], projector.dims[-1]
  if predicted != target:
    raise ValueError(
      f"predictor.dims ends in {predicted}, and projector.dims in {target};"
      " predictions and what they predict must be of one width."
    )


_normal = nn.initializers.normal


def uniform(bound: float) -> nn.initializers.Initializer:
  """Returns an initialiser that draws from U(-bound, bound)."""

  def init(key, shape, dtype=jnp.float32):
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return init
