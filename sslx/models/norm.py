"""Grouped batch normalisation: the same result on any number of devices.

BatchNorm couples the examples that share its statistics. A method tuned with
"BN over the 32 images of one GPU" trains differently if the batch is split in
another way. Here the config decides which examples share statistics, not the
hardware: the *global* batch is cut into `groups` runs of consecutive examples.
One group is SyncBN; 8 groups of a batch of 256 equal 8 GPUs with 32 images.
"""

from __future__ import annotations

import math
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from sslx.axis import Axis


class BatchNorm(nn.Module):
  """BatchNorm over contiguous groups of the global batch.

  Statistics, running statistics and the normalisation are float32 for any
  `dtype`. The running statistics follow the mean of the groups' statistics; as
  in torch, their variance is unbiased. `init` sets them to (0, 1) and ignores
  the batch, which may then have any size.

  Variables: params `scale`, `bias`; batch_stats `mean`, `var`; all f32[c].

  Attributes:
    groups: number of groups that the global batch is cut into.
    momentum: share of the old running statistics kept (torch's 1 - momentum).
    eps: added to the variance.
    use_scale: whether to learn a factor per channel.
    use_bias: whether to learn an offset per channel.
    scale_init: initialiser of the factor.
    dtype: dtype of the output.
    axis: the data axis that the batch is split over. In the per-device view,
      the number of groups must be a multiple or a divisor of the number of
      devices: each device holds whole groups, or each group spans whole
      devices.

  References:
    Ioffe and Szegedy, 2015, algorithm 1.
  """

  groups: int = 1
  momentum: float = 0.9
  eps: float = 1e-5
  use_scale: bool = True
  use_bias: bool = True
  scale_init: nn.initializers.Initializer = nn.initializers.ones
  dtype: Literal["float32", "bfloat16"] = "float32"
  axis: Axis = Axis()

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Normalises x[b, ..., c] per channel, in `dtype`.

    Args:
      x: the batch, or this device's consecutive part of it.
      train: whether to use the statistics of the batch and update the running
        statistics (collection `batch_stats` must be mutable); otherwise uses
        the running statistics.

    Raises:
      ValueError: with `train`, while tracing: the global batch does not divide
        into `groups`, the numbers of devices and groups do not divide each
        other, or a group has only one value per channel.
    """
    c = x.shape[-1]
    running_mean = self.variable("batch_stats", "mean", jnp.zeros, c)
    running_var = self.variable("batch_stats", "var", jnp.ones, c)

    if train and not self.is_initializing():
      mean, var, n = group_statistics(
        x, self.groups, self.axis, running_mean.value
      )  # [g, c], [g, c]
      update = jnp.stack([mean, var * (n / (n - 1))]).mean(1)
      if self.groups > 1:  # every device already has those of a single group
        update = self.axis.pmean(update)
      keep = self.momentum
      running_mean.value = keep * running_mean.value + (1 - keep) * update[0]
      running_var.value = keep * running_var.value + (1 - keep) * update[1]
    else:
      mean, var = running_mean.value[None], running_var.value[None]

    factor = jax.lax.rsqrt(var + self.eps)
    if self.use_scale:
      factor *= self.param("scale", self.scale_init, (c,))
    # [b, ..., c] as [g, b/g, ..., c], and [g, c] as [g, 1, ..., c].
    grouped = _split(x, len(mean)).astype(jnp.float32)
    spread = (len(mean), *(1,) * (x.ndim - 1), c)
    y = (grouped - mean.reshape(spread)) * factor.reshape(spread)
    if self.use_bias:
      y += self.param("bias", nn.initializers.zeros, (c,))
    return y.astype(self.dtype).reshape(x.shape)


def group_statistics(
  x: jax.Array, groups: int, axis: Axis, near: jax.Array
) -> tuple[jax.Array, jax.Array, int]:
  """Computes statistics of the groups that this device holds, even in part.

  Args:
    x: [b, ..., c], the batch or this device's consecutive part of it.
    groups: number of groups of the global batch.
    axis: the data axis.
    near: f32[c], a value near the means. The closer it is, the less the
      variance suffers from rounding.

  Returns:
    Mean f32[g, c] and biased variance f32[g, c], where g is the number of
    groups in `x` (at least one); and the number of values per channel in each
    group.

  Raises:
    ValueError: see `BatchNorm`.
  """
  devices = axis.size
  batch = devices * x.shape[0]
  if batch % groups:
    raise ValueError(
      f"a global batch of {batch} does not divide into {groups} BatchNorm"
      " groups"
    )
  if groups % devices and devices % groups:
    raise ValueError(
      f"{groups} BatchNorm groups over {devices} devices: one number must"
      " divide the other"
    )
  n = batch // groups * math.prod(x.shape[1:-1])
  if n < 2:
    raise ValueError(
      f"a global batch of {batch} in {groups} BatchNorm groups leaves one"
      " value per channel: its variance is unknown"
    )

  # Moments, not deviations from the mean: the activations are read only once.
  # E[x^2] - E[x]^2 loses digits where the mean is large beside the deviation,
  # so a value near the mean is subtracted first.
  x = _split(x, max(1, groups // devices)).astype(jnp.float32) - near
  over = tuple(range(1, x.ndim - 1))
  moments = jnp.stack([x.mean(over), jnp.square(x).mean(over)])  # [2, g, c]
  if groups == 1:
    moments = axis.pmean(moments)
  elif groups < devices:  # here g = 1: average over the devices of the group
    everyones = axis.all_gather(moments[None])  # [devices, 2, 1, c]
    per_group = everyones.reshape(groups, devices // groups, *moments.shape)
    mine = axis.index() // (devices // groups)
    moments = per_group.mean(1)[mine]
  mean, square = moments
  # Rounding can take the variance of a constant channel below zero.
  return near + mean, jnp.maximum(square - jnp.square(mean), 0.0), n


def _split(x: jax.Array, groups: int) -> jax.Array:
  """Reshapes [b, ...] to [groups, b / groups, ...]."""
  return x.reshape(groups, x.shape[0] // groups, *x.shape[1:])
