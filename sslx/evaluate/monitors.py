"""Collapse monitors: numbers that show a representation losing dimensions."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from sslx import losses, parallel


def feature_std(features: jax.Array, axis: parallel.Axis) -> jax.Array:
  """Spread of the L2-normalised features over the global batch, times sqrt(d).

  Args:
    features: [b, d], any norm and float type; computed in float32.
    axis: the data axis.

  Returns:
    f32[], the standard deviation of each dimension, averaged and multiplied by
    sqrt(d): about 1 for isotropic noise, 0 when every image maps to one point.

  References:
    Chen & He, Exploring Simple Siamese Representation Learning, CVPR 2021,
    sec. 4.1 and figure 2.
  """
  x = losses.l2_normalize(features)
  mean = axis.pmean(jnp.mean(x, axis=0))
  var = axis.pmean(jnp.mean(jnp.square(x - mean), axis=0))
  return jnp.mean(jnp.sqrt(var)) * x.shape[-1] ** 0.5


def effective_rank(
  features: jax.Array, labels: jax.Array, *, mesh: Mesh
) -> float:
  """Effective rank of the feature matrix: how many dimensions are in use.

  The exponential of the entropy of the singular values divided by their sum,
  of the uncentred rows as RankMe takes them: between 1 (every row on one line)
  and min(rows, d). The singular values are the roots of the eigenvalues of the
  d x d second moment, so the rows never leave their devices; float32 resolves
  them down to about 3e-4 of the largest, and what is below counts as 0.

  Args:
    features: f32[n, B, d], B sharded over the mesh axis "data".
    labels: i32[n, B], -1 for a padding row; other values are not read.
    mesh: the mesh that the arrays live on.

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
  # Roots magnify rounding: an empty dimension with eigenvalue 1e-8 would count
  # as a singular value of 1e-4, and thousands of those as a rank.
  rounding = np.finfo(np.float32).eps * np.linalg.norm(covariance)
  values = np.sqrt(np.where(eigenvalues > rounding, eigenvalues, 0))
  share = values[values > 0] / values.sum()
  return float(np.exp(-np.sum(share * np.log(share))))


@functools.partial(jax.jit, static_argnames="mesh")
def _moments(features, labels, *, mesh):
  """Valid rows f32[], their mean f32[d] and covariance f32[d, d], replicated.

  The second moment is covariance + mean mean^T, but the mean of features after
  a ReLU is large, and float32 would round the rest away against it.
  """
  axis = parallel.Axis(parallel.DATA)

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
    in_specs=(P(None, parallel.DATA, None), P(None, parallel.DATA)),
    out_specs=P(),
  )(features, labels)
