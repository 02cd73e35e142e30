"""Measures without labels: they show when a representation collapses."""

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


def token_std(tokens: jax.Array) -> jax.Array:
  """Measures how far the tokens of an image point in different directions.

  Args:
    tokens: [b, n, d], any norm; computed in float32.

  Returns:
    f32[], the mean over images of the standard deviation of tokens of unit
    length, in all dimensions together: 0 if all tokens of an image point the
    same way, about 1 if their directions have nothing in common.
  """
  centre = jnp.mean(losses.l2_normalize(tokens), axis=1)
  variance = 1 - jnp.sum(jnp.square(centre), axis=-1)
  return jnp.mean(jnp.sqrt(jnp.maximum(variance, 0)))


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


def distillation(
  cross_entropy: jax.Array, targets: jax.Array
) -> dict[str, jax.Array]:
  """Tells apart what a cross-entropy to a teacher's probabilities consists of.

  Args:
    cross_entropy: f32 scalar, the mean over all targets.
    targets: f32[..., K], probabilities.

  Returns:
    `teacher_entropy`, the mean entropy of a target divided by log K: 0 if each
    is one prototype, 1 if each is uniform, which is a collapse; `teacher_kl`,
    the divergence of the student from the teacher in nats.
  """
  entropy = jnp.mean(-jnp.sum(jax.scipy.special.xlogy(targets, targets), -1))
  return {
    "teacher_entropy": entropy / jnp.log(targets.shape[-1]),
    "teacher_kl": cross_entropy - entropy,
  }


def effective_rank(
  features: jax.Array, labels: jax.Array, *, mesh: Mesh
) -> float:
  """Computes the effective rank, RankMe: how many dimensions features use.

  Divides the singular values by their sum, and returns the exponential of the
  entropy: between 1 (all rows on one line) and min(rows, d). As in RankMe, rows
  are not centred; its epsilon of 1e-7, added to each share, is left out. The
  singular values are the square roots of the eigenvalues
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
  return _rank(np.sqrt(np.where(eigenvalues > rounding, eigenvalues, 0)))


def _rank(values: np.ndarray) -> float:
  """The exponential of the entropy of numbers that are divided by their sum."""
  share = values[values > 0] / values.sum()
  return float(np.exp(-np.sum(share * np.log(share))))


def lidar(views: jax.Array, *, mesh: Mesh, delta: float = 1e-4) -> float:
  """Computes LiDAR: how many dimensions tell images apart, not their views.

  The images are the classes of a linear discriminant analysis, and the views
  their samples. With the covariance B of the means of the images, and W = the
  mean covariance of the views of an image + delta I, it is the exponential of
  the entropy of the normalised eigenvalues of W^-1/2 B W^-1/2: between 1 and
  min(images - 1, d). As in `effective_rank`, no epsilon is added.

  Args:
    views: f32[..., q, d], q views of each image, 2 or more; sharded over one of
      the first axes.
    mesh: the mesh that the array is on.
    delta: keeps W invertible; it is not relative to the size of the features.

  References:
    Thilak et al., LiDAR: Sensing Linear Probing Performance in Joint Embedding
    SSL Architectures, ICLR 2024, equations 1 and 2.
  """
  means, within = (
    np.asarray(x, np.float64) for x in _replicated(_classes, views, mesh=mesh)
  )
  means -= means.mean(axis=0)
  between = means.T @ means / len(means)
  values, vectors = np.linalg.eigh(within + delta * np.eye(len(within)))
  whiten = vectors / np.sqrt(values)
  eigenvalues = np.linalg.eigvalsh(whiten.T @ between @ whiten)
  return _rank(np.maximum(eigenvalues, 0))


def _classes(views):
  """Means of the images, f32[n, d], and mean covariance within, f32[d, d]."""
  d = views.shape[-1]
  means = jnp.mean(views, axis=-2, keepdims=True)
  x = views - means
  within = jnp.einsum("...d,...e->de", x, x, precision=lax.Precision.HIGHEST)
  return means.reshape(-1, d), within / (x.size // d)


def alignment(views: jax.Array, *, mesh: Mesh) -> float:
  """Computes the mean squared distance of two views of an image.

  The features are normalised, and all pairs of different views count.

  Args:
    views: as of `lidar`.
    mesh: the mesh that the array is on.

  Returns:
    From 0, all views of an image are one point, to 4.

  References:
    Wang & Isola, Understanding Contrastive Representation Learning through
    Alignment and Uniformity on the Hypersphere, ICML 2020, section 4.1; alpha
    is 2.
  """

  def compute(views):
    x = losses.l2_normalize(views)
    q = x.shape[-2]
    # Of unit vectors, the sum of |x - y|^2 over ordered pairs.
    total = 2 * q * q - 2 * jnp.sum(jnp.square(jnp.sum(x, axis=-2)), axis=-1)
    return jnp.mean(total) / (q * (q - 1))

  return float(_replicated(compute, views, mesh=mesh))


def uniformity(rows: jax.Array, *, mesh: Mesh) -> float:
  """Computes the logarithm of the mean potential exp(-2 |x - y|^2) of pairs.

  The features are normalised. It compares all pairs of different rows, on every
  device: meant for thousands of rows, not for millions.

  Args:
    rows: f32[..., d], one view of each image.
    mesh: the mesh that the array is on.

  Returns:
    At most 0, all rows are one point; the more uniform, the lower.

  References:
    Wang & Isola, as of `alignment`, section 4.1; t is 2.
  """

  def compute(rows):
    x = losses.l2_normalize(rows).reshape(-1, rows.shape[-1])
    cosine = jnp.dot(x, x.T, precision=lax.Precision.HIGHEST)
    n = len(x)
    potential = jnp.where(jnp.eye(n, dtype=bool), 0, jnp.exp(4 * cosine - 4))
    return jnp.log(jnp.sum(potential) / (n * (n - 1)))

  return float(_replicated(compute, rows, mesh=mesh))


def _replicated(function, array, *, mesh):
  """Computes on the whole array; the result is the same on all devices."""
  whole = jax.shard_map(
    function, mesh=mesh, in_specs=P(), out_specs=P(), check_vma=False
  )
  return jax.device_get(jax.jit(whole)(array))


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
