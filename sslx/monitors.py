"""Collapse monitors: they show when a representation loses dimensions."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from sslx import losses
from sslx.axis import DATA, Axis


def feature_std(features: jax.Array, axis: Axis) -> jax.Array:
  """Computes the spread of L2-normalised features over the global batch.

  Args:
    features: [b, d], any norm and float type; computed in float32.
    axis: the data axis.

  Returns:
    f32[], the mean over dimensions of the standard deviation, times sqrt(d):
    about 1 for isotropic noise, 0 if all images map to the same point.

  References:
    Chen & He, Exploring Simple Siamese Representation Learning, CVPR 2021,
    sec. 4.1 and figure 2.
  """
  x = losses.l2_normalize(features)
  mean = axis.pmean(jnp.mean(x, axis=0))
  var = axis.pmean(jnp.mean(jnp.square(x - mean), axis=0))
  return jnp.mean(jnp.sqrt(var)) * x.shape[-1] ** 0.5


def code_usage(codes: jax.Array, axis: Axis) -> dict[str, jax.Array]:
  """Measures how evenly codes f32[b, K] use the prototypes.

  Returns:
    `prototype_entropy`, the entropy of the mean code divided by log K: 1 if all
    are used equally; `sinkhorn_marginal`, K times the share of the batch that
    the most used prototype has.
  """
  used = axis.pmean(jnp.mean(codes, axis=0))
  k = codes.shape[-1]
  entropy = -jnp.sum(jax.scipy.special.xlogy(used, used))
  return {
    "prototype_entropy": entropy / jnp.log(k),
    "sinkhorn_marginal": k * jnp.max(used),
  }


def effective_rank(
  features: jax.Array, labels: jax.Array, *, mesh: Mesh
) -> float:
  """Computes the effective rank of the features: how many dimensions they use.

  Divides the singular values by their sum, and returns the exponential of the
  entropy: between 1 (all rows on one line) and min(rows, d). As in RankMe, rows
  are not centred. The singular values are the square roots of the eigenvalues
  of the d x d second moment, so the rows never leave their devices. Float32
  resolves singular values down to about 3e-4 of the largest; smaller ones count
  as 0.

  Args:
    features: f32[n, B, d], B sharded over the mesh axis "data".
    labels: i32[n, B], -1 for a padding row; other values do not matter.
    mesh: the mesh that the arrays are on.

  Raises:
    ValueError: all rows are padding.

  References:
    Roy & Vetterli, The Effective Rank, EUSIPCO 2007, definition 1.
    Garrido et al., RankMe, ICML 2023, equation 1.
  """
  rows, mean, covariance = (
    np.asarray(x, np.float64) for x in _moments(features, labels, mesh=mesh)
  )
  if not rows:
    raise ValueError(
      f"no features to rank: all {labels.size} rows are padding."
    )
  eigenvalues = np.linalg.eigvalsh(covariance + np.outer(mean, mean))
  # A square root magnifies rounding errors: an empty dimension with eigenvalue
  # 1e-8 would have a singular value of 1e-4, and thousands of these would add
  # to the rank.
  rounding = np.finfo(np.float32).eps * np.linalg.norm(covariance)
  values = np.sqrt(np.where(eigenvalues > rounding, eigenvalues, 0))
  share = values[values > 0] / values.sum()
  return float(np.exp(-np.sum(share * np.log(share))))


@functools.partial(jax.jit, static_argnames="mesh")
def _moments(features, labels, *, mesh):
  """Computes moments of the valid rows, replicated.

  The second moment is covariance + mean mean^T. The covariance is computed
  separately, because features after a ReLU have a large mean, next to which
  float32 would round the covariance away.

  Returns:
    Number of valid rows f32[], their mean f32[d], their covariance f32[d, d].
  """
  axis = Axis(DATA)

  def shard(features, labels):
    valid = (labels >= 0)[..., None]
    features = features.astype(jnp.float32)
    rows = axis.psum(jnp.sum(valid, dtype=jnp.float32))
    count = jnp.maximum(rows, 1)
    mean = axis.psum(jnp.sum(features, axis=(0, 1), where=valid)) / count

    def add(total, batch):
      x, valid = batch
      x = jnp.where(valid, x - mean, 0)
      return total + jnp.dot(x.T, x, precision=lax.Precision.HIGHEST), None

    d = features.shape[-1]
    zero = lax.pcast(jnp.zeros((d, d)), axis.name, to="varying")
    total, _ = lax.scan(add, zero, (features, valid))
    return rows, mean, axis.psum(total) / count

  return jax.shard_map(
    shard,
    mesh=mesh,
    in_specs=(P(None, DATA, None), P(None, DATA)),
    out_specs=P(),
  )(features, labels)
